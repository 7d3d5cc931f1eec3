//! One thread per host that reads what plugins send while nobody asks them:
//! keepalives, and acknowledgements that nobody waits for.
//!
//! A channel in use is read by whoever uses it, with no thread between; the
//! keeper wakes up for it once a second at most, and for an idle host only
//! when a plugin sends something.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;

/// After how long without a use a channel is the keeper's again.
const USE_PAUSE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Something that the keeper reads while it is idle.
pub(crate) trait Watched: Send + Sync {
    /// What polls readable when there is something to read.
    fn readiness(&self) -> Option<BorrowedFd<'_>>;

    /// A number that changes with every use by others.
    fn uses(&self) -> u64;

    /// Reads all that is there, without waiting.
    fn tend(&self) -> Tended;
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tended {
    /// It was read; watch on.
    Idle,
    /// Somebody uses it; look again later.
    InUse,
    /// It is closed.
    Over,
}

pub(crate) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    epoll: OwnedFd,
    stop: OwnedFd,
    watched: Mutex<HashMap<u64, Arc<dyn Watched>>>,
}

const STOP: u64 = 0;

impl Keeper {
    pub(crate) fn start() -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        let shared = Arc::new(Shared { epoll, stop, watched: Mutex::default() });
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("ekuiper-keeper".into()).spawn(move || own.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Reads `watched` from now on, until the guard is dropped.
    pub(crate) fn watch(&self, watched: Arc<dyn Watched>) -> Watch {
        let id = self.shared.watch(watched);
        Watch { id, shared: Arc::downgrade(&self.shared) }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        // The last host handle may be dropped by the keeper's own work.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

/// While it lives, the keeper watches.
pub(crate) struct Watch {
    id: u64,
    shared: Weak<Shared>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.forget(self.id);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<dyn Watched>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, watched: Arc<dyn Watched>) -> u64 {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(STOP + 1);
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut all = self.lock();
        if let Some(readiness) = watched.readiness() {
            let _ = epoll::add(&self.epoll, readiness, epoll::EventData::new_u64(id), once());
        }
        all.insert(id, watched);
        id
    }

    fn forget(&self, id: u64) {
        let watched = self.lock().remove(&id);
        if let Some(readiness) = watched.as_ref().and_then(|watched| watched.readiness()) {
            let _ = epoll::delete(&self.epoll, readiness);
        }
    }

    fn rearm(&self, id: u64, watched: &dyn Watched) {
        // Under the lock: not after it was forgotten.
        let all = self.lock();
        if let (true, Some(readiness)) = (all.contains_key(&id), watched.readiness()) {
            let _ = epoll::modify(&self.epoll, readiness, epoll::EventData::new_u64(id), once());
        }
    }

    fn run(&self) {
        // Those that somebody used when they were last looked at, and how
        // often they had been used by then.
        let mut in_use: HashMap<u64, u64> = HashMap::new();
        loop {
            let mut space = [const { MaybeUninit::uninit() }; 16];
            let timeout = (!in_use.is_empty()).then_some(&USE_PAUSE);
            let ready: Vec<u64> = match epoll::wait(&self.epoll, &mut space, timeout) {
                Ok((events, _)) => events.iter().map(|event| event.data.u64()).collect(),
                Err(Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "the keeper cannot wait");
                    std::thread::sleep(Duration::from_secs(1));
                    continue;
                }
            };
            if ready.contains(&STOP) {
                return;
            }
            // A second without an event: those not used meanwhile are idle.
            let looked_at = if ready.is_empty() { in_use.keys().copied().collect() } else { ready };
            for id in looked_at {
                let Some(watched) = self.lock().get(&id).cloned() else {
                    in_use.remove(&id);
                    continue;
                };
                let uses = watched.uses();
                if in_use.get(&id).is_some_and(|before| *before != uses) {
                    in_use.insert(id, uses);
                    continue;
                }
                match watched.tend() {
                    Tended::Idle => {
                        in_use.remove(&id);
                        self.rearm(id, &*watched);
                    }
                    Tended::InUse => {
                        in_use.insert(id, uses);
                    }
                    Tended::Over => {
                        in_use.remove(&id);
                    }
                }
            }
        }
    }
}

fn once() -> epoll::EventFlags {
    epoll::EventFlags::IN | epoll::EventFlags::ONESHOT
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::sync::mpsc;

    struct Pipe(std::io::PipeReader, mpsc::Sender<usize>);

    impl Watched for Pipe {
        fn readiness(&self) -> Option<BorrowedFd<'_>> {
            Some(self.0.as_fd())
        }

        fn uses(&self) -> u64 {
            0
        }

        fn tend(&self) -> Tended {
            let mut buffer = [0; 100];
            let count = rustix::io::read(&self.0, &mut buffer).unwrap();
            self.1.send(count).unwrap();
            Tended::Idle
        }
    }

    #[test]
    fn what_arrives_is_read_until_the_watch_ends() {
        let keeper = Keeper::start().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let (sender, seen) = mpsc::channel();
        let watch = keeper.watch(Arc::new(Pipe(reader, sender)));
        for count in 1..4 {
            rustix::io::write(&writer, &vec![0; count]).unwrap();
            assert_eq!(seen.recv_timeout(Duration::from_secs(10)).unwrap(), count);
        }
        drop(watch);
        assert!(seen.recv_timeout(Duration::from_secs(10)).is_err(), "the pipe's reader is dropped");
    }
}
