//! One thread per host that reads what plugins send while no caller reads:
//! keepalives, acknowledgements that nothing waits for, and messages of sources
//! that cannot block. Tasks are woken here, too.
//!
//! A channel that threads use is read by them, without a thread in between. The
//! idle reader wakes for it at most once a second, and in an idle host only when
//! a plugin sends something. A peer that stops in the middle of a message is
//! checked again at its deadline, since nothing else checks it.
//!
//! For a task, the channel is [armed](Armer): it is read as soon as there is
//! something to read and no thread uses it, which wakes the tasks that wait for
//! it. A [timer](IdleReader::wake_at) wakes a task at its deadline.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Wake, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ekuiper_transport_ipc::platform::{Flag, Interest, MAX_READY, Poller};
use ekuiper_transport_ipc::wait::deadline_after;

use rustix::event::Timespec;
use rustix::io::Errno;

use crate::error::system_error;
use crate::sync::{lock, wake_tasks};
use crate::{Result, Subject, blocking};

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

    /// Returns whether the descriptor is to be writable instead.
    fn wants_room(&self) -> bool {
        false
    }

    /// Returns a counter that changes with every use by others.
    fn uses(&self) -> u64;

    /// Returns whether a task waits for the channel: it is read at once, even
    /// if it is in use.
    fn has_waiting_task(&self) -> bool {
        false
    }

    /// Reads all that is there without waiting, or wakes the task that does, and
    /// disconnects a peer that has exceeded its time for the rest of a message.
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
    poller: Poller,
    /// Ends a wait of the thread: it is to stop, or there is an earlier timer.
    kick: Flag,
    stops: AtomicBool,
    watched: Mutex<HashMap<u64, Arc<Entry>>>,
    timers: Mutex<Timers>,
    stall_timeout: Duration,
}

struct Entry {
    id: u64,
    watched: Arc<dyn Watched>,
    /// The next message wakes the thread.
    is_armed: AtomicBool,
}

/// Wakers by the time at which they are woken, with a number that makes the
/// time unique.
#[derive(Default)]
struct Timers {
    wakers: BTreeMap<(Instant, u64), Waker>,
    /// When the thread looks at the timers next; `None`: not before it is
    /// kicked.
    next_look: Option<Instant>,
}

const KICK: u64 = 0;

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(KICK + 1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl IdleReader {
    /// Starts the thread. Peers may pause for `stall_timeout` in the middle of
    /// a message.
    pub(crate) fn start(stall_timeout: Duration) -> std::io::Result<Self> {
        let (poller, kick) = (Poller::new()?, Flag::new()?);
        poller.add(&kick, KICK, Interest::Input)?;
        let (stops, watched, timers) = Default::default();
        let shared = Arc::new(Shared { poller, kick, stops, watched, timers, stall_timeout });
        let own = shared.clone();
        let thread =
            std::thread::Builder::new().name("ekuiper-idle".into()).spawn(move || blocking::forbidden(|| own.run()))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Reads `watched`, a channel of `what`, from now on, until the returned
    /// guard is dropped.
    ///
    /// # Errors
    /// The system refuses to watch one more channel.
    pub(crate) fn watch(&self, what: &Subject, watched: Arc<dyn Watched>) -> Result<Watch> {
        let entry = self.shared.watch(watched).map_err(system_error(what.clone(), "an entry of the event queue"))?;
        Ok(Watch { entry: Arc::downgrade(&entry), id: entry.id, shared: Arc::downgrade(&self.shared) })
    }

    /// Wakes `waker` at this time, unless the returned guard is dropped before.
    pub(crate) fn wake_at(&self, at: Instant, waker: Waker) -> Timer {
        let key = (at, next_id());
        let mut timers = lock(&self.shared.timers);
        timers.wakers.insert(key, waker);
        let is_early = timers.next_look.is_none_or(|look| at < look);
        if is_early {
            timers.next_look = Some(at);
        }
        drop(timers);
        if is_early {
            self.shared.kick();
        }
        Timer { key, shared: Arc::downgrade(&self.shared) }
    }
}

impl Drop for IdleReader {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::SeqCst);
        self.shared.kick();
        // The idle reader itself may drop the last handle of the host.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

/// Guard that keeps a channel watched.
pub(crate) struct Watch {
    id: u64,
    entry: Weak<Entry>,
    shared: Weak<Shared>,
}

impl Watch {
    /// Returns what arms the idle reader for the channel.
    pub(crate) fn armer(&self) -> Arc<Armer> {
        Arc::new(Armer { entry: self.entry.clone(), shared: self.shared.clone() })
    }
}

/// Arms the idle reader for a watched channel, for a task that waits for it.
pub(crate) struct Armer {
    entry: Weak<Entry>,
    shared: Weak<Shared>,
}

impl Armer {
    /// Has the next message read at once.
    pub(crate) fn arm(&self) {
        if let (Some(shared), Some(entry)) = (self.shared.upgrade(), self.entry.upgrade()) {
            shared.arm(&entry);
        }
    }
}

/// Waker for a channel that was in use when there was something to read: armed
/// again once it is free.
impl Wake for Armer {
    fn wake(self: Arc<Self>) {
        self.arm();
    }
}

/// Guard of a waker that is woken at a certain time.
pub(crate) struct Timer {
    key: (Instant, u64),
    shared: Weak<Shared>,
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            lock(&shared.timers).wakers.remove(&self.key);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.forget(self.id);
        }
    }
}

impl Shared {
    fn kick(&self) {
        self.kick.raise();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Entry>>> {
        lock(&self.watched)
    }

    fn watch(&self, watched: Arc<dyn Watched>) -> std::io::Result<Arc<Entry>> {
        let id = next_id();
        let mut all = self.lock();
        if let Some(readiness) = watched.readiness() {
            self.poller.add(readiness, id, once(&*watched))?;
        }
        let entry = Arc::new(Entry { id, watched, is_armed: AtomicBool::new(true) });
        all.insert(id, entry.clone());
        Ok(entry)
    }

    fn forget(&self, id: u64) {
        let entry = self.lock().remove(&id);
        if let Some(readiness) = entry.as_ref().and_then(|entry| entry.watched.readiness()) {
            // A closed channel has left the queue by itself.
            self.poller.remove(readiness);
        }
    }

    /// Has the next message wake the thread. No lock is taken, since tasks do
    /// this: the thread's turn may come late on a busy machine.
    fn arm(&self, entry: &Entry) {
        if !entry.is_armed.swap(true, Ordering::SeqCst)
            && let Some(readiness) = entry.watched.readiness()
        {
            // The entry keeps the descriptor open, so that its number means no
            // other one. A forgotten channel has left the queue, and nothing
            // else fails for one that was added.
            let armed = self.poller.arm(readiness, entry.id, once(&*entry.watched));
            debug_assert!(matches!(armed, Ok(()) | Err(Errno::NOENT)), "{armed:?}");
        }
    }

    fn run(&self) {
        let mut agenda = Agenda::default();
        // Reused, since the thread wakes often while messages flow.
        let mut ready: Vec<u64> = Vec::with_capacity(MAX_READY);
        loop {
            ready.clear();
            if let Err(error) = self.poller.wait(self.timeout(&agenda).as_ref(), |id| ready.push(id)) {
                tracing::error!(%error, "the idle reader cannot wait for events");
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
            if ready.contains(&KICK) {
                self.kick.lower();
            }
            if self.stops.load(Ordering::SeqCst) {
                return;
            }
            self.wake_due();
            for id in agenda.due(Instant::now()).into_iter().chain(ready.iter().copied()) {
                self.look_at(id, &mut agenda);
            }
        }
    }

    /// Returns how long to wait for an event: until the next check or timer.
    fn timeout(&self, agenda: &Agenda) -> Option<Timespec> {
        let mut timers = lock(&self.timers);
        let first = timers.wakers.first_key_value().map(|((at, _), _)| *at);
        let next = first.into_iter().chain(agenda.next()).min();
        timers.next_look = next;
        // A wait that is too long to express has no limit.
        next?.saturating_duration_since(Instant::now()).try_into().ok()
    }

    /// Wakes the wakers whose time has come.
    fn wake_due(&self) {
        let mut timers = lock(&self.timers);
        if timers.wakers.is_empty() {
            return;
        }
        let later = timers.wakers.split_off(&(Instant::now(), u64::MAX));
        let due = std::mem::replace(&mut timers.wakers, later);
        drop(timers);
        wake_tasks(due.into_values());
    }

    /// Checks a channel that is readable or due.
    fn look_at(&self, id: u64, agenda: &mut Agenda) {
        let now = Instant::now();
        let former = agenda.0.remove(&id);
        // Number of checks since the last event.
        let looks = former.as_ref().filter(|item| item.at <= now).map_or(0, |item| item.looks);
        let Some(entry) = self.lock().get(&id).cloned() else { return };
        entry.is_armed.store(false, Ordering::SeqCst);
        let watched = &entry.watched;
        let uses = watched.uses();
        let in_use = Item { at: now + USE_PAUSE, uses: Some(uses), looks: 0 };
        let is_used = former.and_then(|item| item.uses).is_some_and(|before| before != uses);
        if is_used && !watched.has_waiting_task() {
            return agenda.add(id, in_use);
        }
        match watched.tend() {
            Tended::Idle => self.arm(&entry),
            Tended::Piece => {
                if looks < LOOKS {
                    // A channel in use checks the deadlines of its peers
                    // itself.
                    let at = deadline_after(self.stall_timeout.saturating_add(MARGIN));
                    agenda.add(id, Item { at, uses: None, looks: looks + 1 });
                }
                self.arm(&entry);
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

    fn next(&self) -> Option<Instant> {
        self.0.values().map(|item| item.at).min()
    }

    fn due(&self, now: Instant) -> Vec<u64> {
        self.0.iter().filter(|(_, item)| item.at <= now).map(|(id, _)| *id).collect()
    }
}

fn once(watched: &dyn Watched) -> Interest {
    if watched.wants_room() { Interest::RoomOnce } else { Interest::InputOnce }
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

    struct Told(mpsc::Sender<Instant>);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            let _ = self.0.send(Instant::now());
        }
    }

    #[test]
    fn timers_wake_in_their_order_unless_they_are_dropped() {
        let idle_reader = IdleReader::start(Duration::from_secs(10)).unwrap();
        let (sender, told) = mpsc::channel();
        let waker = Waker::from(Arc::new(Told(sender)));
        let start = Instant::now();
        let at = [80, 20, 50].map(|after| start + Duration::from_millis(after));
        let timers = at.map(|at| idle_reader.wake_at(at, waker.clone()));
        let [last, _first, dropped] = timers;
        drop(dropped);
        let woken = || told.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(woken() >= at[1]);
        assert!(woken() >= at[0], "the one at 50 ms was dropped");
        drop(last);
        assert!(lock(&idle_reader.shared.timers).wakers.is_empty());
        // One in the past is woken, too.
        let _past = idle_reader.wake_at(start, waker.clone());
        woken();
    }

    #[test]
    fn what_arrives_is_read_until_the_watch_ends() {
        let idle_reader = IdleReader::start(Duration::from_secs(10)).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let (sender, seen) = mpsc::channel();
        let watch = idle_reader.watch(&"a test".into(), Arc::new(Pipe(reader, sender))).unwrap();
        for count in 1..4 {
            rustix::io::write(&writer, &vec![0; count]).unwrap();
            assert_eq!(seen.recv_timeout(Duration::from_secs(10)).unwrap(), count);
        }
        drop(watch);
        assert!(seen.recv_timeout(Duration::from_secs(10)).is_err(), "the pipe's reader is dropped");
    }

    /// A file, which no event queue takes.
    struct Unwatchable(std::fs::File);

    impl Watched for Unwatchable {
        fn readiness(&self) -> Option<BorrowedFd<'_>> {
            Some(self.0.as_fd())
        }

        fn uses(&self) -> u64 {
            0
        }

        fn tend(&self) -> Tended {
            unreachable!("it is not watched")
        }
    }

    #[test]
    fn what_cannot_be_watched_is_an_error() {
        let idle_reader = IdleReader::start(Duration::from_secs(10)).unwrap();
        let file = Unwatchable(std::fs::File::open("/proc/self/exe").unwrap());
        let Err(error) = idle_reader.watch(&"plugin p".into(), Arc::new(file)) else { panic!("it is watched") };
        assert!(matches!(error, crate::Error::System { .. }), "{error:?}");
        assert_eq!(error.to_string(), "plugin p cannot get an entry of the event queue");
    }
}
