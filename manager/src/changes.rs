//! The changes that are under way, and their end with the manager.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use ekuiper_core::sync::lock;

use crate::error::{Error, Result};

/// The changes that are under way.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    state: Mutex<State>,
    /// Notified when one is over.
    over: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Number of changes.
    count: usize,
    /// Plugins that are being changed.
    busy: BTreeSet<String>,
    is_ending: bool,
}

/// A change that is under way.
pub(crate) struct Change<'a>(&'a Changes);

/// A plugin that no other caller changes.
pub(crate) struct Changing<'a> {
    changes: &'a Changes,
    plugin: String,
}

impl Changes {
    /// Begins a change.
    pub(crate) fn begin(&self) -> Change<'_> {
        lock(&self.state).count += 1;
        Change(self)
    }

    /// Keeps other callers from changing a plugin.
    ///
    /// # Errors
    /// [`Error::Busy`].
    pub(crate) fn claim(&self, plugin: &str) -> Result<Changing<'_>> {
        match lock(&self.state).busy.insert(plugin.to_owned()) {
            true => Ok(Changing { changes: self, plugin: plugin.to_owned() }),
            false => Err(Error::Busy { plugin: plugin.to_owned() }),
        }
    }

    /// Has installations and updates stop, those that are under way too.
    pub(crate) fn end(&self) {
        lock(&self.state).is_ending = true;
    }

    pub(crate) fn is_ending(&self) -> bool {
        lock(&self.state).is_ending
    }

    /// Waits until no change is under way, for at most `patience`.
    pub(crate) fn await_none(&self, patience: Duration) {
        let state = lock(&self.state);
        let _ = self.over.wait_timeout_while(state, patience, |state| state.count > 0);
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).count -= 1;
        self.0.over.notify_all();
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        lock(&self.changes.state).busy.remove(&self.plugin);
    }
}
