//! The engine thread, one per process, which runs all sockets of this
//! transport.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ekuiper_core::sync::lock;
use tokio::runtime::{Builder, Handle};

/// The handle of the thread's runtime, once it runs.
static HANDLE: Mutex<Option<Handle>> = Mutex::new(None);

/// Returns the handle of the engine thread's runtime. The thread starts with
/// the first socket and never ends.
///
/// There is a single thread, so no other task sees the steps of a task between
/// two waits. `listen` relies on that when it disconnects a peer.
pub(crate) fn handle() -> io::Result<Handle> {
    let mut handle = lock(&HANDLE);
    if let Some(handle) = &*handle {
        return Ok(handle.clone());
    }
    // A second thread exists at times, which removes files for the crate.
    let mut builder = Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(1).thread_keep_alive(Duration::from_millis(100));
    let runtime = builder.thread_name("zeromq files").build()?;
    let made = runtime.handle().clone();
    std::thread::Builder::new().name("zeromq".into()).spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle.insert(made).clone())
}

/// Polls `future` once; returns its result, or drops it and returns `None`.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}
