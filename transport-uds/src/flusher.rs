//! The flusher thread, one per process: flushes posted messages whose batching
//! delay has expired.
//!
//! The first batched message starts the thread; it blocks while no message is
//! posted anywhere. Otherwise it checks each socket's clock once per
//! [`BATCHING_DELAY`], without a lock: posting does not wake the thread for
//! each message. Waking up so often costs more than some senders do: the socket
//! of one that writes its batches itself is checked less often, up to
//! [`MAX_GAP`], until the thread finds a batch whose delay has expired.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

use ekuiper_core::instant::later;
use ekuiper_core::sync::{lock, wait};
use ekuiper_core::transport::Deadline;
use ekuiper_transport_ipc::platform;
use ekuiper_transport_ipc::wait::earlier;

use crate::acceptor::STACK;

/// Maximum batching delay of a posted message, as `Push::post` promises it.
const BATCHING_DELAY: Duration = Duration::from_micros(100);

/// Interval between two checks: a little less, since waking takes time.
const WAIT: Duration = Duration::from_micros(BATCHING_DELAY.as_micros() as u64 * 4 / 5);

/// Maximum interval between two checks of a socket whose sender has written all
/// batches in time.
const MAX_GAP: Duration = Duration::from_micros(400);

/// Maximum pause before a retry of a connection that had no room; the first
/// pause is [`WAIT`], and it doubles. A caller that posts more than fits waits
/// for the connection itself.
const MAX_PAUSE: Duration = Duration::from_millis(10);

/// Number of checks in a row without a message after which a socket is no
/// longer watched.
const IDLE_LOOKS: u32 = 8;

/// A socket with posted messages.
pub(crate) trait Poster: Send + Sync {
    fn posted(&self) -> &Posted;

    /// Writes posted messages as far as that does not block; returns whether
    /// nothing is left.
    fn write_posted(&self) -> bool;
}

/// The state of a socket's batch that the flusher reads without the socket's
/// locks.
#[derive(Debug, Default)]
pub(crate) struct Posted {
    /// The instant at which the oldest message was posted, in nanoseconds since
    /// [`epoch`]; 0: there is none.
    since: AtomicU64,
    /// Whether the flusher watches the socket.
    watched: AtomicBool,
}

impl Posted {
    /// Records the first posted message.
    pub(crate) fn begin(&self, now: Instant) {
        let nanos = now.saturating_duration_since(epoch()).as_nanos() as u64;
        self.since.store(nanos.max(1), Ordering::SeqCst);
    }

    /// Records that no posted message is left.
    pub(crate) fn end(&self) {
        self.since.store(0, Ordering::SeqCst);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.since.load(Ordering::SeqCst) == 0
    }

    /// Whether there are posted messages and the flusher does not watch the
    /// socket. Returns true once; the caller must then call [`watch`].
    pub(crate) fn wants_watch(&self) -> bool {
        !self.watched.load(Ordering::SeqCst) && !self.is_empty() && !self.watched.swap(true, Ordering::SeqCst)
    }

    /// Records that the flusher could not be started.
    pub(crate) fn refused(&self) {
        self.watched.store(false, Ordering::SeqCst);
    }

    fn since(&self) -> Option<Instant> {
        match self.since.load(Ordering::SeqCst) {
            0 => None,
            nanos => Some(epoch() + Duration::from_nanos(nanos)),
        }
    }

    /// Ends the watch, unless a message was posted meanwhile: either its sender
    /// sees that the socket is not watched, or the message is seen here.
    fn leave(&self) -> bool {
        self.watched.store(false, Ordering::SeqCst);
        self.is_empty() || self.watched.swap(true, Ordering::SeqCst)
    }
}

/// An instant before all messages.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

struct Flusher {
    state: Mutex<FlusherState>,
    bell: Condvar,
}

struct FlusherState {
    is_running: bool,
    /// Whether the thread blocks for longer than the batching delay: then a
    /// newly watched socket must wake it.
    is_asleep: bool,
    newcomers: Vec<Weak<dyn Poster>>,
}

static FLUSHER: Flusher = Flusher {
    state: Mutex::new(FlusherState { is_running: false, is_asleep: false, newcomers: Vec::new() }),
    bell: Condvar::new(),
};

/// Watches a socket until no message has been posted on it for a while.
///
/// # Errors
/// The thread cannot be started.
pub(crate) fn watch(poster: Weak<dyn Poster>) -> io::Result<()> {
    let mut state = FLUSHER.lock();
    if !state.is_running {
        let thread = std::thread::Builder::new().name("ekuiper-flush".into()).stack_size(STACK);
        thread.spawn(|| FLUSHER.run())?;
        state.is_running = true;
    }
    state.newcomers.push(poster);
    if std::mem::take(&mut state.is_asleep) {
        drop(state);
        FLUSHER.bell.notify_one();
    }
    Ok(())
}

impl Flusher {
    fn lock(&self) -> MutexGuard<'_, FlusherState> {
        lock(&self.state)
    }

    fn run(&self) {
        platform::no_timer_slack();
        let mut watches: Vec<WatchedSocket> = Vec::new();
        loop {
            let mut until = None;
            watches.retain_mut(|watch| {
                let next = watch.look(Instant::now());
                until = earlier(until, next);
                next.is_some()
            });
            let mut state = self.lock();
            if state.newcomers.is_empty() {
                state = self.sleep(state, until);
            }
            watches.extend(state.newcomers.drain(..).map(WatchedSocket::new));
        }
    }

    fn sleep<'a>(&self, mut state: MutexGuard<'a, FlusherState>, until: Deadline) -> MutexGuard<'a, FlusherState> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        state.is_asleep = left.is_none_or(|left| left > WAIT);
        state = match left {
            None => wait(&self.bell, state, None),
            Some(left) => wait(&self.bell, state, Some(left)),
        };
        state.is_asleep = false;
        state
    }
}

/// A watched socket.
struct WatchedSocket {
    poster: Weak<dyn Poster>,
    idle: u32,
    /// The minimum interval until the next check.
    gap: Duration,
    /// The pause after the socket had no room.
    pause: Duration,
    /// The instant until which the socket is paused, and the instant of its
    /// oldest message then.
    again: Option<(Instant, Instant)>,
}

impl WatchedSocket {
    fn new(poster: Weak<dyn Poster>) -> Self {
        Self { poster, idle: 0, gap: Duration::ZERO, pause: WAIT, again: None }
    }

    /// Checks the socket; returns the instant of the next check, if any.
    fn look(&mut self, now: Instant) -> Option<Instant> {
        let poster = self.poster.upgrade()?;
        let Some(since) = poster.posted().since() else {
            (self.pause, self.again) = (WAIT, None);
            self.idle += 1;
            let is_over = self.idle >= IDLE_LOOKS && poster.posted().leave();
            return (!is_over).then(|| later(now, self.longer_gap().max(WAIT)));
        };
        self.idle = 0;
        // If another message is the oldest now, the connection had room again.
        let again = self.again.filter(|(_, waited)| *waited == since);
        let due = again.map_or(since + WAIT, |(again, _)| again);
        if now < due {
            return Some(if again.is_none() { due.max(later(now, self.longer_gap())) } else { due });
        }
        self.gap = Duration::ZERO;
        if poster.write_posted() {
            (self.pause, self.again) = (WAIT, None);
            return Some(now + WAIT);
        }
        self.pause = again.map_or(WAIT, |_| (self.pause * 2).min(MAX_PAUSE));
        let at = later(now, self.pause);
        self.again = Some((at, since));
        Some(at)
    }

    /// Returns the interval until the next check, when no delay has expired.
    fn longer_gap(&mut self) -> Duration {
        let gap = self.gap;
        self.gap = (gap * 2).clamp(WAIT, MAX_GAP);
        gap
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    struct Telling {
        posted: Posted,
        /// Number of attempts that find no room.
        full: Mutex<u32>,
        tell: Mutex<Sender<Instant>>,
    }

    impl Poster for Telling {
        fn posted(&self) -> &Posted {
            &self.posted
        }

        fn write_posted(&self) -> bool {
            let mut full = self.full.lock().unwrap();
            *full = full.saturating_sub(1);
            let all = *full == 0;
            if all {
                self.posted.end();
            }
            // The receiver of this may post again.
            self.tell.lock().unwrap().send(Instant::now()).unwrap();
            all
        }
    }

    fn post(poster: &Arc<Telling>, now: Instant) {
        poster.posted.begin(now);
        if poster.posted.wants_watch() {
            let poster: Arc<dyn Poster> = poster.clone();
            watch(Arc::downgrade(&poster)).unwrap();
        }
    }

    #[test]
    fn posted_messages_are_flushed_again_and_again() {
        let (tell, told) = channel();
        let poster = Arc::new(Telling { posted: Posted::default(), full: Mutex::new(0), tell: Mutex::new(tell) });
        let patience = Duration::from_secs(30);
        for round in 0..200 {
            let now = Instant::now();
            post(&poster, now);
            assert!(told.recv_timeout(patience).unwrap() >= now + WAIT, "too early");
            if round % 20 == 0 {
                // The watch may end meanwhile, and begin again.
                std::thread::sleep(WAIT * 2 * IDLE_LOOKS);
            }
        }
        *poster.full.lock().unwrap() = 5;
        post(&poster, Instant::now());
        for _ in 0..5 {
            told.recv_timeout(patience).unwrap();
        }
        // The thread stops watching eventually.
        let give_up = Instant::now() + patience;
        while poster.posted.watched.load(Ordering::SeqCst) {
            assert!(Instant::now() < give_up);
            std::thread::yield_now();
        }
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn a_sender_that_writes_in_time_is_checked_less_often_until_it_does_not() {
        let poster =
            Arc::new(Telling { posted: Posted::default(), full: Mutex::new(0), tell: Mutex::new(channel().0) });
        let (tell, told) = channel();
        *poster.tell.lock().unwrap() = tell;
        let watched: Arc<dyn Poster> = poster.clone();
        let mut watch = WatchedSocket::new(Arc::downgrade(&watched));
        let micro = Duration::from_micros(1);
        let mut now = epoch() + Duration::from_millis(1);
        for round in 0..3 {
            // The first batch's delay is not exceeded.
            poster.posted.begin(now);
            assert_eq!(watch.look(now + micro), Some(now + WAIT), "round {round}");
            // Its sender writes it, and those that follow.
            let mut gaps = Vec::new();
            for _ in 0..5 {
                now += WAIT;
                poster.posted.begin(now - micro);
                gaps.push(watch.look(now).unwrap() - now);
            }
            assert_eq!(gaps, [WAIT, WAIT * 2, WAIT * 4, MAX_GAP, MAX_GAP]);
            assert!(told.try_recv().is_err());
            // The last one is left to the thread.
            now += MAX_GAP;
            watch.look(now).unwrap();
            assert!(told.try_recv().is_ok());
            now += MAX_GAP;
        }
    }

    #[test]
    fn a_socket_that_is_gone_is_forgotten() {
        let (tell, told) = channel();
        let poster =
            Arc::new(Telling { posted: Posted::default(), full: Mutex::new(u32::MAX), tell: Mutex::new(tell) });
        post(&poster, Instant::now());
        told.recv_timeout(Duration::from_secs(30)).unwrap();
        drop(poster);
        // Ends when the last sender is dropped.
        while told.recv_timeout(Duration::from_secs(30)).is_ok() {}
    }
}
