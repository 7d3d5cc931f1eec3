//! A call of a pool, from its caller to a process, perhaps to a second one, and
//! to its outcome.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ekuiper_core::message::EncodedArgs;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::dispatch::Pool;
use crate::function::options::{Due, Terms};
use crate::function::pending::PendingCall;
use crate::sync::{lock, wait};
use crate::{Error, Result};

/// A call of a [`FunctionPool`](super::FunctionPool) in flight: a future of its
/// result.
///
/// It is made in its turn, whether anything waits for it or not. The future
/// needs no particular runtime: the host wakes it. Dropping it discards the
/// result, and never blocks: a call that was not sent by then is not executed,
/// and one that was is cancelled at the plugin.
#[must_use = "its result may be an error"]
pub struct PooledCall<R> {
    pub(super) pool: Arc<Pool>,
    pub(super) entry: Arc<Entry>,
    pub(super) result: PhantomData<fn() -> R>,
}

/// A call, for its caller and for the pool.
pub(super) struct Entry {
    /// Number of the call, in the order in which they are made.
    pub(super) number: u64,
    pub(super) load: Load,
    pub(super) terms: Terms,
    pub(super) due: Option<Due>,
    /// When the call was made.
    pub(super) since: Instant,
    state: Mutex<State>,
    /// Notified when the stage changes.
    changed: Condvar,
}

/// What a call is made with.
pub(super) enum Load {
    Row(EncodedArgs),
    /// An Arrow IPC stream, and the number of its first row.
    Columns(Vec<u8>, usize),
}

impl Load {
    /// Returns its length, in bytes.
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Row(args) => args.length(),
            Self::Columns(stream, _) => stream.len(),
        }
    }
}

struct State {
    stage: Stage,
    waker: Option<Waker>,
    /// Bytes counted as [waiting](crate::site::Site::waiting_calls).
    waiting: usize,
    /// Why it is made a second time.
    first_failure: Option<Error>,
    /// Since when processes could not be sent it.
    unsent_since: Option<Instant>,
    /// Its outcome is counted.
    is_counted: bool,
}

enum Stage {
    /// It waits in the pool.
    Waiting,
    /// A process has it.
    Given(PendingCall<IgnoredAny>),
    /// It has an outcome: its own, or that of a process.
    Done(Result<PendingCall<IgnoredAny>>),
    /// Its caller has taken the outcome, or has dropped it.
    Over,
}

impl Entry {
    pub(super) fn new(number: u64, load: Load, terms: Terms, due: Option<Due>, since: Instant, waiting: usize) -> Self {
        let state = State {
            stage: Stage::Waiting,
            waker: None,
            waiting,
            first_failure: None,
            unsent_since: None,
            is_counted: false,
        };
        Self { number, load, terms, due, since, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Returns whether its caller still wants it.
    pub(super) fn is_wanted(&self) -> bool {
        !matches!(lock(&self.state).stage, Stage::Over)
    }

    /// Records that its outcome is counted; returns false if it was before.
    pub(super) fn mark_counted(&self) -> bool {
        !std::mem::replace(&mut lock(&self.state).is_counted, true)
    }

    /// Returns the number of its bytes that were counted as waiting, once.
    pub(super) fn end_waiting(&self) -> usize {
        std::mem::take(&mut lock(&self.state).waiting)
    }

    /// Records that a process has it. If its caller has dropped it meanwhile, it
    /// is dropped there, too.
    pub(super) fn give(&self, call: PendingCall<IgnoredAny>) {
        let mut state = lock(&self.state);
        if let Stage::Over = state.stage {
            drop(state);
            return drop(call);
        }
        state.stage = Stage::Given(call);
        self.changed.notify_all();
    }

    /// Has it wait again after a failure: once if it was sent, and otherwise for
    /// at most `patience`. One that was taken back from a slow process may always
    /// wait again.
    ///
    /// # Errors
    /// The failure, or that of the first time.
    pub(super) fn take_back(&self, failure: Error, was_sent: bool, patience: Duration) -> Result<()> {
        let mut state = lock(&self.state);
        let is_spent = match failure {
            _ if was_sent => state.first_failure.is_some(),
            Error::Stopped => false,
            _ => state.unsent_since.get_or_insert_with(Instant::now).elapsed() >= patience,
        };
        if is_spent || matches!(state.stage, Stage::Over) {
            return Err(state.first_failure.take().unwrap_or(failure));
        }
        if was_sent {
            tracing::debug!(error = %failure, "an idempotent call is made again");
            state.first_failure = Some(failure);
        }
        let former = std::mem::replace(&mut state.stage, Stage::Waiting);
        drop(state);
        drop(former);
        Ok(())
    }

    /// Gives it the outcome that its process has, or this error. Returns the
    /// waker of its caller.
    pub(super) fn finish(&self, error: Option<Error>) -> Option<Waker> {
        let mut state = lock(&self.state);
        let mut unwanted = None;
        state.stage = match (std::mem::replace(&mut state.stage, Stage::Over), error) {
            (Stage::Over, _) => Stage::Over,
            (Stage::Given(call), None) => Stage::Done(Ok(call)),
            (Stage::Done(outcome), _) => Stage::Done(outcome),
            (former, error) => {
                unwanted = Some(former);
                let first = state.first_failure.take();
                Stage::Done(Err(first.or(error).unwrap_or(Error::Stopped)))
            }
        };
        self.changed.notify_all();
        let waker = state.waker.take();
        drop(state);
        // Not under the lock: it is given up at its pipeline.
        drop(unwanted);
        waker
    }
}

impl<R> PooledCall<R> {
    /// Returns the length of its arguments, in bytes.
    pub(super) fn length(&self) -> usize {
        self.entry.load.length()
    }
}

impl<R: DeserializeOwned> PooledCall<R> {
    /// Blocks until the result is there, and returns it.
    ///
    /// # Errors
    /// As [`Function::call`](crate::Function::call).
    pub fn wait(self) -> Result<R> {
        self.wait_done();
        self.take(PendingCall::outcome_as).unwrap_or_else(|| unreachable!("a call that is done has an outcome"))
    }
}

impl<R> PooledCall<R> {
    /// Blocks until the outcome is there.
    fn wait_done(&self) {
        let mut state = lock(&self.entry.state);
        loop {
            match &state.stage {
                Stage::Waiting => {}
                // This thread reads the answer, which saves waking another.
                Stage::Given(call) if !call.is_over() => {
                    let wait = call.waiter();
                    drop(state);
                    wait();
                    state = lock(&self.entry.state);
                    continue;
                }
                // The pool is about to take the outcome.
                Stage::Given(_) => {}
                Stage::Done(_) | Stage::Over => break,
            }
            state = wait(&self.entry.changed, state, None);
        }
    }

    /// Takes the outcome, if it is there.
    fn take<T>(&self, read: impl FnOnce(&PendingCall<IgnoredAny>) -> Option<Result<T>>) -> Option<Result<T>> {
        let mut state = lock(&self.entry.state);
        if !matches!(state.stage, Stage::Done(_)) {
            return None;
        }
        let stage = std::mem::replace(&mut state.stage, Stage::Over);
        drop(state);
        let Stage::Done(outcome) = stage else { return None };
        Some(outcome.and_then(|call| {
            let outcome = read(&call).unwrap_or_else(|| unreachable!("a call that is done has an outcome"));
            // The function's own errors were counted when the answer came.
            outcome.inspect_err(|error| {
                if let Error::Message { .. } = error {
                    self.pool.counted.failed(1, error);
                }
            })
        }))
    }
}

impl<R: DeserializeOwned> Future for PooledCall<R> {
    type Output = Result<R>;

    /// # Panics
    /// The future has completed before.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let is_done = self.poll_done(context);
        is_done.map(|()| self.take(PendingCall::outcome_as).expect("a future is not polled after its end"))
    }
}

/// A call with columns of a [`FunctionPool`](super::FunctionPool) in flight: a
/// future of its result, an Arrow IPC stream of one column. Otherwise as
/// [`PooledCall`].
#[must_use = "its result may be an error"]
#[derive(Debug)]
pub struct PooledColumns(pub(super) PooledCall<()>);

impl PooledColumns {
    /// Blocks until the result is there, and returns it.
    ///
    /// # Errors
    /// As [`Function::call`](crate::Function::call).
    pub fn wait(self) -> Result<Vec<u8>> {
        self.0.wait_done();
        self.0.take(PendingCall::columns).unwrap_or_else(|| unreachable!("a call that is done has an outcome"))
    }
}

impl Future for PooledColumns {
    type Output = Result<Vec<u8>>;

    /// # Panics
    /// The future has completed before.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let is_done = self.0.poll_done(context);
        is_done.map(|()| self.0.take(PendingCall::columns).expect("a future is not polled after its end"))
    }
}

impl<R> PooledCall<R> {
    /// Polls for the outcome's being there.
    fn poll_done(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.entry.state);
        match &state.stage {
            Stage::Waiting | Stage::Given(_) => {
                let is_known = state.waker.as_ref().is_some_and(|known| known.will_wake(context.waker()));
                let former = if is_known { None } else { state.waker.replace(context.waker().clone()) };
                drop(state);
                // Its drop may run anything.
                drop(former);
                Poll::Pending
            }
            Stage::Done(_) | Stage::Over => Poll::Ready(()),
        }
    }
}

impl<R> fmt::Debug for PooledCall<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_over = matches!(lock(&self.entry.state).stage, Stage::Done(_) | Stage::Over);
        f.debug_struct("PooledCall").field("is_over", &is_over).finish_non_exhaustive()
    }
}

impl<R> Drop for PooledCall<R> {
    fn drop(&mut self) {
        let mut state = lock(&self.entry.state);
        let stage = std::mem::replace(&mut state.stage, Stage::Over);
        let (waker, waiting) = (state.waker.take(), std::mem::take(&mut state.waiting));
        drop(state);
        self.pool.site().waiting_calls.fetch_sub(waiting, Ordering::Relaxed);
        if let Stage::Waiting = stage
            && self.entry.mark_counted()
        {
            self.pool.counted.given_up(1);
        }
        // The process that has it learns of it. What they drop may run anything.
        drop((stage, waker));
    }
}
