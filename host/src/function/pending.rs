//! A call in flight: a future, or a value that can be waited for.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::de::DeserializeOwned;

use super::command::Command;
use super::pipeline::Pipeline;
use crate::{Result, blocking};

/// A call in flight: a future of its result.
///
/// It is made at once, whether anything waits for it or not, after all calls
/// that were made before. The future needs no particular runtime: the host
/// wakes it. Dropping it discards the result, and never blocks: a call that was
/// not sent by then is not executed, and one that was is cancelled at a plugin
/// that supports it (on our SDK).
#[must_use = "its result may be an error"]
pub struct PendingCall<R> {
    pipeline: Arc<Pipeline>,
    command: Arc<Command>,
    row: usize,
    /// The task has yielded once, before it busy-polls: other tasks could make
    /// calls, which are sent together.
    has_yielded: bool,
    result: PhantomData<fn() -> R>,
}

impl<R> fmt::Debug for PendingCall<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_over = self.command.is_over(self.row);
        f.debug_struct("PendingCall").field("is_over", &is_over).finish_non_exhaustive()
    }
}

impl<R> PendingCall<R> {
    pub(super) fn new(pipeline: Arc<Pipeline>, command: Arc<Command>, row: usize) -> Self {
        Self { pipeline, command, row, has_yielded: false, result: PhantomData }
    }
}

/// For the pool that has made the call.
impl<R> PendingCall<R> {
    pub(super) fn is_over(&self) -> bool {
        self.command.is_over(self.row)
    }

    /// Returns a wait for the outcome, which does not hold the call.
    pub(super) fn waiter(&self) -> impl FnOnce() + use<R> {
        let (pipeline, command, row) = (self.pipeline.clone(), self.command.clone(), self.row);
        move || pipeline.wait(&command, row)
    }

    /// Returns the columns that are the outcome, if it is there.
    pub(super) fn columns(&self) -> Option<Result<Vec<u8>>> {
        Some(self.command.columns(&self.pipeline.route)?.map(<[u8]>::to_vec))
    }

    /// Returns the outcome, if it is there.
    pub(super) fn outcome_as<T: DeserializeOwned>(&self) -> Option<Result<T>> {
        self.command.outcome(&self.pipeline.route, self.row)
    }
}

impl<R: DeserializeOwned> PendingCall<R> {
    /// Blocks until the result is there, and returns it.
    ///
    /// # Errors
    /// As [`Function::call`](super::Function::call). A call that was not sent
    /// before its process ended is made in the next one.
    pub fn wait(self) -> Result<R> {
        self.pipeline.wait(&self.command, self.row);
        self.outcome().expect("a settled command has an outcome for each call")
    }

    fn outcome(&self) -> Option<Result<R>> {
        self.outcome_as()
    }
}

impl<R: DeserializeOwned> Future for PendingCall<R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.poll_over(context).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(self.outcome().expect("a settled command has an outcome for each call"))
    }
}

impl<R> PendingCall<R> {
    /// Polls for the outcome's being there.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.command.is_over(self.row) {
            if !std::mem::replace(&mut self.has_yielded, true) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            blocking::forbidden(|| self.pipeline.spin(&self.command));
        }
        if !self.command.is_over(self.row) && self.command.wake_when_settled(self.row, context.waker()) {
            self.pipeline.arm_idle_reader(&self.command);
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

/// A call with columns in flight: a future of its result, an Arrow IPC stream of
/// one column. Otherwise as [`PendingCall`].
#[must_use = "its result may be an error"]
#[derive(Debug)]
pub struct PendingColumns(PendingCall<()>);

impl PendingColumns {
    pub(super) fn new(pipeline: Arc<Pipeline>, command: Arc<Command>) -> Self {
        Self(PendingCall::new(pipeline, command, 0))
    }

    /// Blocks until the result is there, and returns it.
    ///
    /// # Errors
    /// As [`PendingCall::wait`].
    pub fn wait(self) -> Result<Vec<u8>> {
        self.0.pipeline.wait(&self.0.command, 0);
        self.read(<[u8]>::to_vec)
    }

    /// Reads the result, which is there.
    fn read<T>(&self, read: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let columns = self.0.command.columns(&self.0.pipeline.route);
        columns.expect("a settled command has an outcome").map(read)
    }
}

/// For columns that are read where the answer lies.
#[cfg(any(feature = "arrow59", feature = "c-data"))]
impl PendingColumns {
    /// Blocks until the result is there, and reads it.
    pub(super) fn wait_with<T>(self, read: impl FnOnce(&[u8]) -> T) -> Result<T> {
        self.0.pipeline.wait(&self.0.command, 0);
        self.read(read)
    }

    /// Polls for the result, and reads it.
    pub(super) fn poll_with<T>(&mut self, context: &mut Context<'_>, read: impl FnOnce(&[u8]) -> T) -> Poll<Result<T>> {
        self.0.poll_over(context).map(|()| self.read(read))
    }
}

impl Future for PendingColumns {
    type Output = Result<Vec<u8>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_over(context).map(|()| self.read(<[u8]>::to_vec))
    }
}

impl<R> Drop for PendingCall<R> {
    fn drop(&mut self) {
        self.command.drop_call(self.row);
    }
}
