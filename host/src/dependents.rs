//! What waits for a plugin's process, and is told when that ends.

use std::sync::{Arc, Weak};

/// Something that waits for a running plugin, and must not outlive it.
pub(crate) trait Dependent: Send + Sync {
    /// The process has ended: nothing new will come.
    fn process_ended(&self);
    /// End every wait now.
    fn close(&self);
}

/// Everything that waits for one process.
#[derive(Default)]
pub(crate) struct Dependents {
    process_ended: bool,
    all: Vec<Weak<dyn Dependent>>,
}

impl Dependents {
    /// Tells `dependent` when the process ends; at once, if it has.
    pub(crate) fn add(&mut self, dependent: &Arc<dyn Dependent>) {
        self.all.retain(|other| other.strong_count() > 0);
        self.all.push(Arc::downgrade(dependent));
        if self.process_ended {
            dependent.process_ended();
        }
    }

    /// The process has ended.
    pub(crate) fn process_has_ended(&mut self) {
        self.process_ended = true;
        self.all.iter().filter_map(Weak::upgrade).for_each(|dependent| dependent.process_ended());
    }

    /// Ends every wait.
    pub(crate) fn close(&mut self) {
        self.all.drain(..).filter_map(|dependent| dependent.upgrade()).for_each(|dependent| dependent.close());
    }
}
