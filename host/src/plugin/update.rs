//! The update of a plugin to another version: trial, replacement, and rollback.

use ekuiper_core::instant::later;
use ekuiper_transport_ipc::wait::deadline_after;
use std::sync::Arc;
use std::time::Instant;

use super::lifecycle::{Caller, Input};
use super::{Origin, Plugin};
use crate::Result;
use crate::catalog::Package;
use crate::sync::lock;

/// The turn of an update: no other update begins while it exists.
pub(crate) struct Turn {
    plugin: Arc<Plugin>,
    update: Caller,
}

impl Plugin {
    /// Waits for earlier updates to end.
    pub(crate) fn begin_update(self: &Arc<Self>) -> Result<Turn> {
        let deadline = deadline_after(self.site.options.init_timeout);
        let mut inner = lock(&self.inner);
        let update = inner.next_caller();
        self.handle_locked(inner, Input::UpdateWanted { update, deadline });
        self.await_answer(deadline, |inner| inner.updates.remove(&update))?;
        Ok(Turn { plugin: self.clone(), update })
    }

    /// Returns the version of the next process.
    pub(crate) fn version(&self) -> String {
        lock(&self.inner).package.manifest.version.clone()
    }
}

impl Turn {
    /// Replaces the plugin's package, and its process if there is one; on
    /// failure, changes nothing.
    pub(crate) fn update(&self, package: Package) -> Result<()> {
        let Self { plugin, update } = self;
        plugin.check_symbols(&package)?;
        let mut inner = lock(&plugin.inner);
        if plugin.origin == Origin::Attached {
            // Its files are what they are; the process is a person's.
            inner.package = Arc::new(package);
            return Ok(());
        }
        inner.candidate = Some((*update, Arc::new(package)));
        plugin.handle_locked(inner, Input::UpdateBegun { update: *update });
        let now = Instant::now();
        plugin.await_answer(later(now, plugin.site.options.init_timeout), |inner| inner.updates.remove(update))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut inner = lock(&self.plugin.inner);
        inner.candidate.take_if(|(update, _)| *update == self.update);
        self.plugin.handle_locked(inner, Input::UpdateDone { update: self.update });
    }
}
