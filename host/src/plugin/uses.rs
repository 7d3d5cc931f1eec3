//! Who uses a plugin's functions. One that was called once is started in each
//! later process; an update may drop it as soon as nobody has a handle of it.

use std::sync::Arc;

use super::lifecycle::Input;
use super::restore::Symbol;
use super::{Inner, Plugin};
use crate::catalog::Package;
use crate::sync::lock;
use crate::{Error, Result};

/// Use of a function, which ends with the last handle or call of it.
pub(crate) struct FunctionUse {
    plugin: Arc<Plugin>,
    function: Arc<str>,
}

impl FunctionUse {
    pub(crate) fn new(plugin: Arc<Plugin>, function: Arc<str>) -> Self {
        *lock(&plugin.inner).uses.entry(function.clone()).or_default() += 1;
        Self { plugin, function }
    }
}

impl Clone for FunctionUse {
    fn clone(&self) -> Self {
        Self::new(self.plugin.clone(), self.function.clone())
    }
}

impl Drop for FunctionUse {
    fn drop(&mut self) {
        let mut inner = lock(&self.plugin.inner);
        if let Some(uses) = inner.uses.get_mut(&self.function) {
            *uses -= 1;
            if *uses == 0 {
                inner.uses.remove(&self.function);
            }
        }
    }
}

impl Inner {
    /// Returns the symbols that were started and that a package lacks: those in
    /// use, or the functions that nobody uses.
    fn lacking(&self, package: &Package, are_used: bool) -> Vec<Symbol> {
        let is_lacking = |symbol: &&Symbol| {
            let served = package.manifest.symbols(symbol.kind());
            let is_used = !matches!(symbol, Symbol::Function(name) if !self.uses.contains_key(name.as_str()));
            is_used == are_used && served.iter().all(|name| name != symbol.name())
        };
        self.lifecycle.symbols().iter().filter(is_lacking).cloned().collect()
    }
}

impl Plugin {
    /// Checks that a package has all symbols in use, and forgets the functions
    /// that it lacks and nobody uses.
    ///
    /// # Errors
    /// [`Error::MissingSymbols`].
    pub(super) fn check_symbols(self: &Arc<Self>, package: &Package) -> Result<()> {
        let inner = lock(&self.inner);
        let lacking = inner.lacking(package, true);
        let mut lacking: Vec<_> = lacking.iter().map(|symbol| format!("{} {}", symbol.kind(), symbol.name())).collect();
        drop(inner);
        if lacking.is_empty() {
            self.forget_unused(package);
            return Ok(());
        }
        // Several rules may use the same symbol.
        lacking.sort();
        lacking.dedup();
        Err(Error::MissingSymbols { plugin: self.name().to_owned(), symbols: lacking.join(", ") })
    }

    /// Forgets the functions that a package lacks and nobody uses: they are not
    /// started again.
    pub(super) fn forget_unused(self: &Arc<Self>, package: &Package) {
        let unused = lock(&self.inner).lacking(package, false);
        unused.into_iter().for_each(|symbol| self.handle(Input::Detached(symbol)));
    }
}
