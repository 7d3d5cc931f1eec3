//! Two proofs on real processes, runnable by anyone: `cargo xtask chaos`
//! injects faults under load and checks that no promise is broken; `cargo xtask
//! soak` checks that memory, descriptors and threads stay flat.
//!
//! Code map. Without processes: `plan`, the faults and their times; `ledger`,
//! `batches`, `sequence` and `record`, what was asked, returned and executed;
//! `timing`. With processes: `stage`, the plugins' folders; `target`, the state
//! of a plugin; `post` and `load`, the users of plugins; `faults` and
//! `strangers`, the disturbances; `survey`, processes and sockets as the system
//! sees them; `machine` and `priority`, delays of the machine itself; `chaos` and
//! `soak`, the proofs.

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
mod priority;
mod shortage;
mod stage;
mod survey;
mod target;

use std::path::PathBuf;

/// Programs that the proofs need.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The plugin on our SDK, built.
    pub plugin: PathBuf,
    /// A Python with the official SDK.
    pub python: PathBuf,
    /// A Python with our module; only the soak needs it.
    pub module: PathBuf,
    /// The transport of everything; `None`: what the host chooses for each
    /// plugin.
    pub transport: Option<String>,
}
