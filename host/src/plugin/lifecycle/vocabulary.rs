//! What a lifecycle is told, and what it orders.

use std::time::Instant;

use crate::process::Exit;
use crate::status::EventKind;
use crate::{Error, Result};

/// The number of a caller that waits for the plugin, or of an update.
pub(crate) type Caller = u64;

/// An event in a plugin's life.
#[derive(Debug)]
pub(crate) enum Input<S> {
    /// A caller needs the plugin, and waits at most until the deadline.
    Wanted { caller: Caller, deadline: Instant },
    /// A symbol is in use from now on, and is restored in every later process.
    Attached(S),
    /// A symbol is no longer in use.
    Detached(S),
    /// A [`Work::Spawn`] has succeeded: the process has shaken hands.
    Started { generation: u64, pid: u32 },
    /// A [`Work::Spawn`] has failed: nothing is left of the process.
    StartFailed { generation: u64, error: Error },
    /// A process has ended. Arrives at any time after its `Spawn`, even before
    /// its `Started`, and also when the end was ordered.
    Exited { generation: u64, exit: Exit },
    /// A [`Work::Restore`] is done. The postponed symbols lack a resource that
    /// the host has exhausted.
    Restored { generation: u64, symbols: usize, postponed: Vec<S> },
    /// A strict [`Work::Restore`] has failed.
    RestoreFailed { generation: u64, error: Error },
    /// A [`Work::Drain`] is done: the process has ended.
    Drained { generation: u64 },
    /// A [`Work::Retire`] is done.
    Retired { generation: u64 },
    /// An update of the plugin waits for its turn, at most until the deadline.
    UpdateWanted { update: Caller, deadline: Instant },
    /// An update that has its turn begins its trial.
    UpdateBegun { update: Caller },
    /// A [`Work::Try`] is done.
    Tried { update: Caller, outcome: Result<()> },
    /// An update gives its turn back.
    UpdateDone { update: Caller },
    /// The first start, or what an update starts, is given up.
    GivenUp,
    /// The process is to end until the plugin is needed again.
    StopWanted { stop: Caller },
    /// All crashes are forgotten, and a pause ends.
    Reset,
    /// The plugin is removed from its host.
    Removed,
    /// The host is shut down.
    Shutdown,
    /// Time has passed: [`Lifecycle::poll_timeout`] was reached.
    TimePassed,
}

/// An order to the caller.
#[derive(Debug)]
pub(crate) enum Action<S> {
    /// Takes time: one thread carries out all work in this order.
    Work(Work<S>),
    /// Abort the start of a process, or end the process: at once, concurrently
    /// with any work.
    Kill { generation: u64 },
    /// Abort the start of a process: at once, concurrently with any work.
    EndStart,
    /// Abort a [`Work::Try`]: at once, concurrently with any work.
    EndTrial,
    /// The answer to [`Input::Wanted`]: the generation that serves.
    Answer { caller: Caller, outcome: Result<u64> },
    /// The answer to [`Input::UpdateWanted`].
    Turn { update: Caller, outcome: Result<()> },
    /// The package of an update becomes that of the plugin.
    Adopt { update: Caller },
    /// The answer to [`Input::UpdateBegun`].
    Updated { update: Caller, outcome: Result<()> },
    /// The answer to [`Input::StopWanted`].
    HasStopped { stop: Caller, outcome: Result<()> },
    /// An event for the host's subscribers.
    Tell(EventKind),
    /// Wake the sources and sinks that wait for the plugin.
    Wake,
}

/// An action that takes time.
#[derive(Debug, Clone)]
pub(crate) enum Work<S> {
    /// Start a process. Answered by `Started` or `StartFailed`.
    Spawn { generation: u64, version: Version },
    /// Start these symbols in a process; a strict restore fails with the first
    /// symbol. Answered by `Restored` or `RestoreFailed`.
    Restore { generation: u64, symbols: Vec<S>, is_strict: bool },
    /// End a process; a graceful end waits for the work in flight. Answered by
    /// `Drained`.
    Drain { generation: u64, is_orderly: bool },
    /// End a process gracefully, if there is one, and then these symbols, for
    /// good. Answered by `Drained`.
    Stop { generation: u64, is_alive: bool, symbols: Vec<S> },
    /// Start a process of an update beside the serving one, and end it.
    /// Answered by `Tried`.
    Try { update: Caller },
    /// Release what a process held that has ended. Answered by `Retired`.
    Retire { generation: u64 },
}

/// The package that a process is started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// The plugin's package.
    Current,
    /// The package of an update.
    Update(Caller),
}
