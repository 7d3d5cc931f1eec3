//! A plugin of two processes: a supervisor, which the engine starts and talks
//! to, and a worker, which runs the symbols.
//!
//! `supervisor` is the supervisor's main loop, `roster` its list of live
//! symbols, and `worker` its end of the worker, whose own end is `link`. The
//! worker records what it executes in memory that outlives it: `marks`, on a
//! `page`. `account` covers messages that a sink had not read, and `orphans`
//! reaps children that no other code waits for.

mod account;
mod link;
mod marks;
mod orphans;
mod page;
mod roster;
pub(super) mod supervisor;
mod worker;

use std::sync::Arc;

pub(super) use account::Account;
pub(super) use link::Link;
pub(super) use marks::{Begin, FunctionMark, Marks, UNKNOWN_CALL, UNKNOWN_MESSAGE};
pub(super) use page::{Inherited, inherited};

/// A worker's connection to its supervisor, as used by its symbols.
#[derive(Clone)]
pub(super) struct SupervisorLink {
    pub(super) link: Arc<Link>,
    pub(super) marks: Arc<Marks>,
}
