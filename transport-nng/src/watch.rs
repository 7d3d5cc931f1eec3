//! The watcher thread, one per process: checks all listeners, for the reason
//! given in `listen`. It ends with the last listener.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ekuiper_core::throttle::Throttle;

use crate::arrivals;
use crate::listen::Listening;

/// Interval between two checks of each listener without new peers.
const INTERVAL: Duration = Duration::from_millis(500);

static WATCH: Mutex<Watcher> = Mutex::new(Watcher { listeners: Vec::new(), running: false });

struct Watcher {
    listeners: Vec<Weak<Listening>>,
    running: bool,
}

fn watch() -> MutexGuard<'static, Watcher> {
    WATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches `listening` until it is closed.
pub(crate) fn over(listening: &Arc<Listening>) -> std::io::Result<()> {
    let mut watch = watch();
    watch.listeners.push(Arc::downgrade(listening));
    if !watch.running {
        std::thread::Builder::new().name("nng watch".into()).spawn(run)?;
        watch.running = true;
    }
    Ok(())
}

fn run() {
    let mut next = Instant::now() + INTERVAL;
    loop {
        arrivals::wait(next.saturating_duration_since(Instant::now()));
        let live: Vec<Arc<Listening>> = {
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
            next = Instant::now() + INTERVAL;
        }
    }
}
