//! The watcher thread, one per process: learns that peers have gone, and wakes
//! the threads that wait for them in shared memory, where nothing else would.
//!
//! The first socket starts it. It blocks until a peer's end of a socket is
//! closed.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

use ekuiper_core::sync::lock;
use rustix::event::epoll;
use rustix::io::Errno;

use crate::lane::Lane;

/// Stack size of the thread: a logger's needs are unknown.
const STACK: usize = 512 << 10;

#[derive(Debug)]
struct Watcher {
    epoll: OwnedFd,
    state: Mutex<WatcherState>,
}

#[derive(Debug, Default)]
struct WatcherState {
    next: u64,
    lanes: HashMap<u64, Weak<Lane>>,
}

/// A watched connection. Must be [ended](Watch::end) before its socket is
/// closed.
#[derive(Debug)]
pub(crate) struct Watch {
    watcher: Arc<Watcher>,
    id: u64,
}

/// Starts the thread, so that connections need nothing but their own.
///
/// # Errors
/// This process lacks a resource.
pub(crate) fn start() -> io::Result<()> {
    Watcher::of_this_process().map(drop)
}

/// Watches a connection's socket.
///
/// # Errors
/// This process lacks a resource.
pub(crate) fn watch(socket: BorrowedFd<'_>, lane: &Arc<Lane>) -> io::Result<Watch> {
    let watcher = Watcher::of_this_process()?;
    let mut state = lock(&watcher.state);
    let id = state.next;
    state.next += 1;
    // Once: a closed end stays closed. Only the end of both directions, which is
    // always reported: a receiver that hands over ends one, and still reads.
    let flags = epoll::EventFlags::ONESHOT;
    epoll::add(&watcher.epoll, socket, epoll::EventData::new_u64(id), flags)?;
    state.lanes.insert(id, Arc::downgrade(lane));
    drop(state);
    Ok(Watch { watcher, id })
}

impl Watch {
    pub(crate) fn end(&self, socket: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.watcher.epoll, socket);
        lock(&self.watcher.state).lanes.remove(&self.id);
    }
}

impl Watcher {
    fn of_this_process() -> io::Result<Arc<Self>> {
        static ONLY: Mutex<Option<Arc<Watcher>>> = Mutex::new(None);
        let mut only = lock(&ONLY);
        if let Some(watcher) = &*only {
            return Ok(watcher.clone());
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watcher = Arc::new(Self { epoll, state: Mutex::default() });
        let own = watcher.clone();
        std::thread::Builder::new().name("ekuiper-watch".into()).stack_size(STACK).spawn(move || own.run())?;
        Ok(only.insert(watcher).clone())
    }

    fn run(&self) {
        loop {
            let mut space = [const { MaybeUninit::uninit() }; 16];
            let events = match epoll::wait(&self.epoll, &mut space, None) {
                Ok((events, _)) => &*events,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "cannot watch connections any more");
                    return;
                }
            };
            for event in events {
                let lane = lock(&self.state).lanes.remove(&event.data.u64());
                if let Some(lane) = lane.and_then(|lane| lane.upgrade()) {
                    lane.lose();
                }
            }
        }
    }
}
