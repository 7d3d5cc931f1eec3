//! Threads of the host that do what may block, for callers that must not: tasks,
//! and the drop of a handle. They start when there is work, and end when there
//! is no more.
//!
//! Work begins in the order in which it was added. So it may wait for earlier
//! work, but not for later, for which no thread may be left.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::blocking;
use crate::sync::{lock, wait, wait_while, wake_tasks};

/// Maximum number of threads: further work waits until one is free. So many
/// that handles of one plugin, each of which may wait for minutes, do not hold
/// up those of another.
const MAX_THREADS: usize = 1024;

/// Time for which a thread without work is kept.
const IDLE: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce() + Send>;

/// The threads of a host, which are started when there is work for them.
#[derive(Clone, Default)]
pub(crate) struct Background(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Held for a few instructions only: tasks wait for it.
    state: Mutex<State>,
    /// Notified once for each job, for one of the threads.
    has_job: Condvar,
    /// Notified when a closing or a release has ended.
    has_ended: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// Number of [closings](Background::close_later) that have not ended.
    closings: usize,
    /// Number of [releases](Background::release_later) that have not ended.
    releases: usize,
}

impl Background {
    /// Has a thread do the work. If there is none, and none can be started, this
    /// one does it.
    pub(crate) fn run(&self, work: impl FnOnce() + Send + 'static) {
        // What it logs goes where the caller's logs go.
        let subscriber = tracing::dispatcher::get_default(Clone::clone);
        let job = move || tracing::dispatcher::with_default(&subscriber, work);
        let mut state = lock(&self.0.state);
        state.jobs.push_back(Box::new(job));
        // Each job that has not begun has an idle thread.
        if state.idle >= state.jobs.len() {
            drop(state);
            return self.0.has_job.notify_one();
        }
        if state.threads >= MAX_THREADS {
            return;
        }
        state.threads += 1;
        let others = state.threads - 1;
        drop(state);
        let shared = self.0.clone();
        let started = std::thread::Builder::new().name("ekuiper-work".into()).spawn(move || shared.work());
        if let Err(error) = started {
            lock(&self.0.state).threads -= 1;
            if others == 0 {
                tracing::warn!(%error, "cannot start a thread, so this one does its work");
                while let Some(job) = { lock(&self.0.state).jobs.pop_front() } {
                    blocking::allowed(job);
                }
            }
        }
    }

    /// Has a thread do work for which the host's shutdown
    /// [waits](Background::await_closings); returns the future of its result.
    pub(crate) fn close_later<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
        lock(&self.0.state).closings += 1;
        let closing = Closing(self.0.clone());
        self.start(move || {
            let _closing = closing;
            work()
        })
    }

    /// Waits until all [closings](Background::close_later) have ended.
    pub(crate) fn await_closings(&self) {
        let mut state = lock(&self.0.state);
        while state.closings > 0 {
            state = wait(&self.0.has_ended, state, None);
        }
    }

    /// Has a thread do work that releases the sockets of a closed handle, and that
    /// ends soon once the plugins have ended.
    pub(crate) fn release_later(&self, work: impl FnOnce() + Send + 'static) {
        lock(&self.0.state).releases += 1;
        let releasing = Releasing(self.0.clone());
        self.run(move || {
            let _releasing = releasing;
            work();
        });
    }

    /// Waits until all [releases](Background::release_later) have ended, at most
    /// for this time.
    pub(crate) fn await_releases(&self, patience: Duration) {
        drop(wait_while(&self.0.has_ended, lock(&self.0.state), patience, |state| state.releases > 0));
    }

    /// Has a thread do the work; returns the future of its result.
    pub(crate) fn start<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
        let slot = Arc::new(Slot::new(None));
        let own = slot.clone();
        self.run(move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            let mut state = lock(&own.state);
            state.result = Some(result);
            let waker = state.waker.take();
            drop(state);
            own.done.notify_all();
            wake_tasks(waker);
        });
        Task { slot, on_drop: None }
    }
}

/// Guard of work for which the host's shutdown waits.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        lock(&self.0.state).closings -= 1;
        self.0.has_ended.notify_all();
    }
}

/// Guard of work that releases sockets.
struct Releasing(Arc<Shared>);

impl Drop for Releasing {
    fn drop(&mut self) {
        lock(&self.0.state).releases -= 1;
        self.0.has_ended.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // The thread goes on with the next; a task passes the panic on.
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = lock(&self.state);
                continue;
            }
            state.idle += 1;
            state = wait_while(&self.has_job, state, IDLE, |state| state.jobs.is_empty());
            state.idle -= 1;
            if state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

/// Future of work that a thread of the host does. The work is done whether or
/// not the future is awaited; dropping the future drops the result, and gives up
/// an open that is in progress.
#[must_use = "its result may be an error"]
pub struct Task<T> {
    slot: Arc<Slot<T>>,
    /// Run if the future is dropped before its result is taken.
    on_drop: Option<Box<dyn FnOnce() + Send>>,
}

struct Slot<T> {
    state: Mutex<SlotState<T>>,
    done: Condvar,
}

struct SlotState<T> {
    result: Option<std::thread::Result<T>>,
    waker: Option<Waker>,
}

impl<T> Slot<T> {
    fn new(result: Option<std::thread::Result<T>>) -> Self {
        Self { state: Mutex::new(SlotState { result, waker: None }), done: Condvar::new() }
    }
}

impl<T> Task<T> {
    /// Blocks until the work is done.
    pub(crate) fn wait(mut self) -> T {
        self.on_drop = None;
        let mut state = lock(&self.slot.state);
        loop {
            match state.result.take() {
                Some(Ok(result)) => return result,
                Some(Err(panic)) => {
                    drop(state);
                    resume_unwind(panic)
                }
                None => state = wait(&self.slot.done, state, None),
            }
        }
    }

    /// Returns the future of a result that is there.
    pub(crate) fn done(result: T) -> Self {
        Self { slot: Arc::new(Slot::new(Some(Ok(result)))), on_drop: None }
    }

    /// Has `give_up` run if the future is dropped before its result is taken.
    pub(crate) fn or_when_dropped(mut self, give_up: impl FnOnce() + Send + 'static) -> Self {
        self.on_drop = Some(Box::new(give_up));
        self
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if let Some(give_up) = self.on_drop.take() {
            give_up();
        }
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    /// # Panics
    /// The work has panicked, or the future has completed before.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let slot = self.slot.clone();
        let mut state = lock(&slot.state);
        match state.result.take() {
            Some(result) => {
                drop(state);
                self.on_drop = None;
                Poll::Ready(result.unwrap_or_else(|panic| resume_unwind(panic)))
            }
            None => {
                let former = state.waker.replace(context.waker().clone());
                drop(state);
                // Its drop may run anything.
                drop(former);
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, mpsc};

    #[test]
    fn work_is_done_side_by_side_and_closings_are_waited_for() {
        let background = Background::default();
        let (barrier, done) = (Arc::new(Barrier::new(9)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..8 {
            let (barrier, done) = (barrier.clone(), done.clone());
            drop(background.close_later(move || {
                barrier.wait();
                done.fetch_add(1, Ordering::SeqCst);
            }));
        }
        barrier.wait();
        background.await_closings();
        assert_eq!(done.load(Ordering::SeqCst), 8);
        // More than there are threads, one of which panics.
        let (sender, ended) = mpsc::channel();
        for number in 0..100 {
            let sender = sender.clone();
            background.run(move || {
                sender.send(number).unwrap();
                assert_ne!(number, 50, "this one is to panic");
            });
        }
        let mut numbers: Vec<_> = (0..100).map(|_| ended.recv_timeout(Duration::from_secs(60)).unwrap()).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..100));
        assert!(lock(&background.0.state).threads <= MAX_THREADS);
    }

    #[test]
    fn a_task_is_a_future_of_its_result() {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let background = Background::default();
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        let (go, may_go) = mpsc::channel::<()>();
        let mut task = background.start(move || {
            may_go.recv().unwrap();
            7
        });
        assert!(Pin::new(&mut task).poll(&mut context).is_pending());
        go.send(()).unwrap();
        let result = loop {
            match Pin::new(&mut task).poll(&mut context) {
                Poll::Ready(result) => break result,
                Poll::Pending => std::thread::park_timeout(Duration::from_secs(60)),
            }
        };
        assert_eq!(result, 7);
    }
}
