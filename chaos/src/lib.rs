//! Two proofs on real processes, runnable by anyone: `cargo xtask chaos`
//! injects faults under load and checks that no promise is broken; `cargo
//! xtask soak` checks that memory, descriptors and threads stay flat.
//!
//! What lives where. Without processes: `plan`, what is done when; `ledger`,
//! `batches`, `sequence` and `record`, what was asked, said and done; `timing`. With
//! them: `stage`, the plugins' folders; `target`, what is known of a plugin;
//! `post` and `load`, those who use it; `faults` and `strangers`, those who
//! trouble it; `survey`, what the system knows of processes and sockets;
//! `machine`, whether that is late by itself; `chaos` and `soak`, the proofs.

pub mod batches;
pub mod chaos;
pub mod ledger;
pub mod plan;
pub mod record;
pub mod rng;
pub mod sequence;
pub mod soak;
pub mod strangers;
pub mod timing;

mod faults;
mod findings;
mod load;
mod machine;
mod post;
mod shortage;
mod stage;
mod survey;
mod target;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the proofs need from outside.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The plugin on our SDK, built.
    pub plugin: PathBuf,
    /// A Python that has the official SDK.
    pub python: PathBuf,
    /// One that has our module; only the soak needs it.
    pub module: PathBuf,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
