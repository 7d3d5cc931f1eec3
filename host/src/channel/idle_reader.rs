//! One thread per host that reads what plugins send while no caller reads:
//! keepalives, acknowledgements that nothing waits for, and messages of sources
//! that cannot block.
//!
//! A channel in use is read by its users, without a thread in between. The idle
//! reader wakes for it at most once a second, and in an idle host only when a
//! plugin sends something. A peer that stops in the middle of a message is
//! checked again at its deadline, since nothing else checks it.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;

use crate::sync::lock;

/// Time without a use after which the idle reader reads a channel again.
const USE_PAUSE: Duration = Duration::from_secs(1);

/// Margin of a check after a peer's deadline.
const MARGIN: Duration = Duration::from_millis(10);

/// Number of checks for a partial message: more of it may arrive with the first
/// check, without another event.
const LOOKS: u32 = 2;

/// Maximum number of messages read from one channel at a time, so that a flood
/// does not delay the others.
pub(crate) const LOOK_LIMIT: usize = 1024;

/// A channel that the idle reader reads while it is idle.
pub(crate) trait Watched: Send + Sync {
    /// Returns the descriptor that is readable when there is something to read.
    fn readiness(&self) -> Option<BorrowedFd<'_>>;

    /// Returns a counter that changes with every use by others.
    fn uses(&self) -> u64;

    /// Reads all that is there without waiting, and disconnects a peer that has
    /// exceeded its time for the rest of a message.
    fn tend(&self) -> Tended;
}

/// Outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tended {
    /// The channel was read; keep watching.
    Idle,
    /// The channel was read, and holds only a partial message: the rest must
    /// follow in time.
    Piece,
    /// The channel is in use; check again later.
    InUse,
    /// Check again at this time, and not before.
    Later(Instant),
    /// The channel is closed.
    Over,
}

pub(crate) struct IdleReader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    epoll: OwnedFd,
    stop: OwnedFd,
    watched: Mutex<HashMap<u64, Arc<dyn Watched>>>,
    stall_timeout: Duration,
}

const STOP: u64 = 0;

impl IdleReader {
    /// Starts the thread. Peers may pause for `stall_timeout` in the middle of
    /// a message.
    pub(crate) fn start(stall_timeout: Duration) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        let shared = Arc::new(Shared { epoll, stop, watched: Mutex::default(), stall_timeout });
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("ekuiper-idle".into()).spawn(move || own.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Reads `watched` from now on, until the returned guard is dropped.
    pub(crate) fn watch(&self, watched: Arc<dyn Watched>) -> Watch {
        let id = self.shared.watch(watched);
        Watch { id, shared: Arc::downgrade(&self.shared) }
    }
}

impl Drop for IdleReader {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        // The idle reader itself may drop the last handle of the host.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

/// Guard that keeps a channel watched.
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
        lock(&self.watched)
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
        // Under the lock, so that a forgotten channel is not added again.
        let all = self.lock();
        if let (true, Some(readiness)) = (all.contains_key(&id), watched.readiness()) {
            let _ = epoll::modify(&self.epoll, readiness, epoll::EventData::new_u64(id), once());
        }
    }

    fn run(&self) {
        let mut agenda = Agenda::default();
        // Reused, since the thread wakes often while messages flow.
        let mut ready: Vec<u64> = Vec::with_capacity(16);
        loop {
            ready.clear();
            let mut space = [const { MaybeUninit::uninit() }; 16];
            match epoll::wait(&self.epoll, &mut space, agenda.timeout().as_ref()) {
                Ok((events, _)) => ready.extend(events.iter().map(|event| event.data.u64())),
                Err(Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "the idle reader cannot wait for events");
                    std::thread::sleep(Duration::from_secs(1));
                    continue;
                }
            }
            if ready.contains(&STOP) {
                return;
            }
            for id in agenda.due(Instant::now()).into_iter().chain(ready.iter().copied()) {
                self.look_at(id, &mut agenda);
            }
        }
    }

    /// Checks a channel that is readable or due.
    fn look_at(&self, id: u64, agenda: &mut Agenda) {
        let now = Instant::now();
        let former = agenda.0.remove(&id);
        // Number of checks since the last event.
        let looks = former.as_ref().filter(|item| item.at <= now).map_or(0, |item| item.looks);
        let Some(watched) = self.lock().get(&id).cloned() else { return };
        let uses = watched.uses();
        let in_use = Item { at: now + USE_PAUSE, uses: Some(uses), looks: 0 };
        if former.and_then(|item| item.uses).is_some_and(|before| before != uses) {
            return agenda.add(id, in_use);
        }
        match watched.tend() {
            Tended::Idle => self.rearm(id, &*watched),
            Tended::Piece => {
                if looks < LOOKS {
                    // A channel in use checks the deadlines of its peers
                    // itself.
                    let at = Instant::now() + self.stall_timeout + MARGIN;
                    agenda.add(id, Item { at, uses: None, looks: looks + 1 });
                }
                self.rearm(id, &*watched);
            }
            Tended::InUse => agenda.add(id, in_use),
            Tended::Later(at) => agenda.add(id, Item { at, uses: None, looks: 0 }),
            Tended::Over => {}
        }
    }
}

/// Channels to be checked without an event.
#[derive(Default)]
struct Agenda(HashMap<u64, Item>);

struct Item {
    at: Instant,
    /// Use counter at the last check, if the channel was in use then. If it has
    /// not changed by the next check, the channel is idle.
    uses: Option<u64>,
    /// Number of checks for a partial message, including this one.
    looks: u32,
}

impl Agenda {
    fn add(&mut self, id: u64, item: Item) {
        self.0.insert(id, item);
    }

    fn timeout(&self) -> Option<Timespec> {
        let next = self.0.values().map(|item| item.at).min()?;
        // A wait that is too long to express has no limit.
        next.saturating_duration_since(Instant::now()).try_into().ok()
    }

    fn due(&self, now: Instant) -> Vec<u64> {
        self.0.iter().filter(|(_, item)| item.at <= now).map(|(id, _)| *id).collect()
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
        let idle_reader = IdleReader::start(Duration::from_secs(10)).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let (sender, seen) = mpsc::channel();
        let watch = idle_reader.watch(Arc::new(Pipe(reader, sender)));
        for count in 1..4 {
            rustix::io::write(&writer, &vec![0; count]).unwrap();
            assert_eq!(seen.recv_timeout(Duration::from_secs(10)).unwrap(), count);
        }
        drop(watch);
        assert!(seen.recv_timeout(Duration::from_secs(10)).is_err(), "the pipe's reader is dropped");
    }
}
