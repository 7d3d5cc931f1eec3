//! The symbols of a plugin in use, and their start in its next process.

use std::sync::Arc;
use std::time::Duration;

use ekuiper_core::Chain;
use ekuiper_core::message::SymbolKind;

use super::Plugin;
use super::lifecycle::shortage_pause;
use super::restorable::Restorable;
use super::running::Running;
use crate::status::EventKind;
use crate::sync::lock;
use crate::{Error, Result};

/// A symbol in use.
#[derive(Clone)]
pub(crate) enum Symbol {
    /// A function that has been called or opened.
    Function(String),
    /// A source or a sink with a handle.
    Handle(Arc<dyn Restorable>),
}

impl Symbol {
    pub(super) fn kind(&self) -> SymbolKind {
        match self {
            Self::Function(_) => SymbolKind::Function,
            Self::Handle(handle) => handle.control().plugin_type,
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Function(name) => name,
            Self::Handle(handle) => &handle.control().symbol_name,
        }
    }
}

impl PartialEq for Symbol {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Function(one), Self::Function(other)) => one == other,
            (Self::Handle(one), Self::Handle(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// Outcome of restoring symbols.
#[derive(Default)]
pub(super) struct Restored {
    /// Number of symbols restored.
    pub(super) count: usize,
    /// Symbols not restored because of a shortage of this host.
    pub(super) postponed: Vec<Symbol>,
}

impl Plugin {
    /// Restores symbols in a process: functions, then sinks, then sources, so
    /// that consumers of rows start before producers. A symbol that fails to
    /// start is lost, unless the process has ended, when the next process gets
    /// it. A function that fails for a shortage of the host is started when it
    /// is called.
    ///
    /// # Errors
    /// A strict restore fails with the first symbol that does not start.
    pub(super) fn restore(
        &self,
        running: &Arc<Running>,
        mut symbols: Vec<Symbol>,
        is_strict: bool,
    ) -> Result<Restored> {
        symbols.sort_by_key(|symbol| match symbol.kind() {
            SymbolKind::Function => 0,
            SymbolKind::Sink => 1,
            SymbolKind::Source => 2,
        });
        let mut restored = Restored::default();
        for symbol in symbols {
            let started = match &symbol {
                Symbol::Function(name) => running.function(name).map(|_| ()),
                Symbol::Handle(handle) => handle.restore(running),
            };
            match (started, symbol) {
                (Ok(()), _) => restored.count += 1,
                (Err(error), _) if is_strict => return Err(error),
                (Err(error), Symbol::Function(_)) if error.is_shortage() => self.tell_shortage(&error, Duration::ZERO),
                (Err(error), symbol) if error.is_shortage() => {
                    self.report_shortage(&error, 0);
                    restored.postponed.push(symbol);
                }
                (Err(error), _) if running.has_ended_with(&error) => return Ok(restored),
                (Err(error), symbol) => {
                    if let Symbol::Handle(handle) = &symbol {
                        handle.mark_lost(&error);
                    }
                    let (kind, symbol) = (symbol.kind(), symbol.name().to_owned());
                    let event = EventKind::SymbolLost { kind, symbol, error: error.reason() };
                    self.site.events.tell(self.name(), event);
                }
            }
        }
        Ok(restored)
    }

    /// Reports a start that failed for a shortage; returns the pause after this
    /// many attempts.
    pub(crate) fn report_shortage(&self, error: &Error, attempts: u32) -> Duration {
        let pause = shortage_pause(&self.site.options.restart, attempts);
        self.tell_shortage(error, pause);
        pause
    }

    fn tell_shortage(&self, error: &Error, pause: Duration) {
        self.site.events.tell(self.name(), EventKind::Shortage { error: Chain(error).to_string(), pause });
    }

    /// Returns the sources and sinks with a handle.
    pub(super) fn handles(&self) -> Vec<Arc<dyn Restorable>> {
        let symbols = lock(&self.inner).lifecycle.symbols().to_vec();
        let handle = |symbol| match symbol {
            Symbol::Handle(handle) => Some(handle),
            Symbol::Function(_) => None,
        };
        symbols.into_iter().filter_map(handle).collect()
    }
}
