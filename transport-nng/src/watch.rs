//! The watcher thread, one per process: checks all listeners, for the reason
//! given in `listen`. It ends with the last listener.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use ekuiper_core::sync::lock;
use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::Result;
use ekuiper_transport_ipc::wait::deadline_after;

use crate::arrivals;

/// Interval between two checks of each listener without new peers.
const INTERVAL: Duration = Duration::from_millis(500);

/// A listener as the watcher sees it.
pub(crate) trait WatchedListener: Send + Sync {
    /// Whether the listener needs no more checks.
    fn is_closed(&self) -> bool;

    /// Prepares the listener for its next peer if one has connected since the
    /// previous call.
    ///
    /// # Errors
    /// As listening.
    fn renew(&self) -> Result<()>;

    /// Repairs the listener if it is stuck; called every [`INTERVAL`].
    ///
    /// # Errors
    /// As listening.
    fn inspect(&self) -> Result<()>;
}

static WATCH: Mutex<Watcher> = Mutex::new(Watcher { listeners: Vec::new(), running: false });

struct Watcher {
    listeners: Vec<Weak<dyn WatchedListener>>,
    running: bool,
}

fn watch() -> MutexGuard<'static, Watcher> {
    lock(&WATCH)
}

/// Watches `listening` until it is closed.
pub(crate) fn over(listening: &Arc<impl WatchedListener + 'static>) -> std::io::Result<()> {
    let mut watch = watch();
    let listener = Arc::downgrade(listening);
    watch.listeners.push(listener);
    if !watch.running {
        std::thread::Builder::new().name("nng watch".into()).spawn(run)?;
        watch.running = true;
    }
    Ok(())
}

fn run() {
    let mut next = deadline_after(INTERVAL);
    loop {
        arrivals::wait(next.saturating_duration_since(Instant::now()));
        let live: Vec<Arc<dyn WatchedListener>> = {
            let mut watch = watch();
            watch.listeners.retain(|listener| listener.upgrade().is_some_and(|listener| !listener.is_closed()));
            if watch.listeners.is_empty() {
                watch.running = false;
                return;
            }
            watch.listeners.iter().filter_map(Weak::upgrade).collect()
        };
        let due = Instant::now() >= next;
        for listener in live {
            let looked = listener.renew().and_then(|()| if due { listener.inspect() } else { Ok(()) });
            if let Err(error) = looked {
                // One throttle for all listeners: they lack the same resources.
                static LINES: Throttle = Throttle::new();
                if let Some(others) = LINES.pass(Instant::now()) {
                    tracing::warn!(%error, others, "a listener cannot be renewed");
                }
            }
        }
        if due {
            next = deadline_after(INTERVAL);
        }
    }
}
