//! A plugin of two processes: a guard that the engine starts and talks to, and
//! a worker that runs the symbols.
//!
//! `guard` is the first's main loop, `roster` its list of what is live, and
//! `worker` its end of the second, which `link` is the other end of. The
//! worker marks what it executes in memory that outlives it: `marks`, on a
//! `page`; `account` sees to what a sink had not even read, and `orphans` to
//! children that nobody waits for.

mod account;
mod guard;
mod link;
mod marks;
mod orphans;
mod page;
mod roster;
mod worker;

use std::sync::Arc;

pub(super) use account::Account;
pub(super) use guard::guard;
pub(super) use link::Link;
pub(super) use marks::{Begin, FunctionMark, Marks, UNKNOWN_CALL, UNKNOWN_MESSAGE};
pub(super) use page::{Inherited, inherited};

/// A worker's guard, as its symbols have it.
#[derive(Clone)]
pub(super) struct Guarded {
    pub(super) link: Arc<Link>,
    pub(super) marks: Arc<Marks>,
}
