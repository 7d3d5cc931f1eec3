//! The one thread of a process that lets go of what was posted and got no
//! company in time.
//!
//! It is started by the first message that waits, and sleeps while nothing is
//! posted anywhere. While something is, it looks at a socket's clock once per
//! [`LINGER`], without a lock: whoever posts does not wake it for each message,
//! and whoever fills buffers faster than that never meets it.

use std::io;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use ekuiper_core::transport::{Deadline, LINGER};
use ekuiper_transport_ipc::wait::earlier;

use crate::acceptor::STACK;

/// How long a message waits for company: a little less than was promised,
/// since being woken takes a moment.
const WAIT: Duration = Duration::from_micros(LINGER.as_micros() as u64 * 4 / 5);

/// The longest pause before a connection that took nothing is tried again; the
/// first is [`WAIT`], and it doubles. Whoever posts more than fits waits for
/// the connection itself.
const MAX_PAUSE: Duration = Duration::from_millis(10);

/// How many looks in a row find nothing before a socket is looked at no more.
const IDLE_LOOKS: u32 = 8;

/// A socket that messages are posted on.
pub(crate) trait Poster: Send + Sync {
    fn posted(&self) -> &Posted;

    /// Lets go of what waits, as far as that does not take waiting; whether
    /// nothing is left.
    fn let_go(&self) -> bool;
}

/// What the flusher needs to know of a socket, without its locks.
#[derive(Debug, Default)]
pub(crate) struct Posted {
    /// Since when the oldest message waits, in nanoseconds since [`epoch`];
    /// 0: none does.
    since: AtomicU64,
    /// The flusher looks at it.
    watched: AtomicBool,
}

impl Posted {
    /// A message waits, the first one.
    pub(crate) fn begin(&self, now: Instant) {
        let nanos = now.saturating_duration_since(epoch()).as_nanos() as u64;
        self.since.store(nanos.max(1), Ordering::SeqCst);
    }

    /// None waits any more.
    pub(crate) fn end(&self) {
        self.since.store(0, Ordering::SeqCst);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.since.load(Ordering::SeqCst) == 0
    }

    /// Whether something waits that nobody looks after. The caller is to
    /// [`watch`] it: this says so once.
    pub(crate) fn wants_watch(&self) -> bool {
        !self.watched.load(Ordering::SeqCst) && !self.is_empty() && !self.watched.swap(true, Ordering::SeqCst)
    }

    /// There is nobody to watch it.
    pub(crate) fn refused(&self) {
        self.watched.store(false, Ordering::SeqCst);
    }

    fn since(&self) -> Option<Instant> {
        match self.since.load(Ordering::SeqCst) {
            0 => None,
            nanos => Some(epoch() + Duration::from_nanos(nanos)),
        }
    }

    /// Ends the watch, unless something has come meanwhile: whoever posts it
    /// sees that nobody watches, or is seen here.
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
    state: Mutex<State>,
    bell: Condvar,
}

struct State {
    is_running: bool,
    /// It sleeps for longer than a message may wait: newcomers ring.
    is_asleep: bool,
    newcomers: Vec<Weak<dyn Poster>>,
}

static FLUSHER: Flusher = Flusher {
    state: Mutex::new(State { is_running: false, is_asleep: false, newcomers: Vec::new() }),
    bell: Condvar::new(),
};

/// Looks after what is posted on a socket, until nothing has been for a while.
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
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        // Timers are late by 50 µs otherwise.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let mut watches: Vec<Watch> = Vec::new();
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
            watches.extend(state.newcomers.drain(..).map(Watch::new));
        }
    }

    fn sleep<'a>(&self, mut state: MutexGuard<'a, State>, until: Deadline) -> MutexGuard<'a, State> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        state.is_asleep = left.is_none_or(|left| left > WAIT);
        state = match left {
            None => self.bell.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(left) => self.bell.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
        };
        state.is_asleep = false;
        state
    }
}

/// A socket that is looked at.
struct Watch {
    poster: Weak<dyn Poster>,
    idle: u32,
    /// How long it is left alone after it took nothing.
    pause: Duration,
    /// Until when it is, and which message waited then.
    again: Option<(Instant, Instant)>,
}

impl Watch {
    fn new(poster: Weak<dyn Poster>) -> Self {
        Self { poster, idle: 0, pause: WAIT, again: None }
    }

    /// Looks at it; when to look again, if at all.
    fn look(&mut self, now: Instant) -> Option<Instant> {
        let poster = self.poster.upgrade()?;
        let Some(since) = poster.posted().since() else {
            (self.pause, self.again) = (WAIT, None);
            self.idle += 1;
            return if self.idle >= IDLE_LOOKS && poster.posted().leave() { None } else { Some(now + WAIT) };
        };
        self.idle = 0;
        // Where another waits now, the connection has taken something.
        let again = self.again.filter(|(_, waited)| *waited == since);
        let due = again.map_or(since + WAIT, |(again, _)| again);
        if now < due {
            return Some(due);
        }
        if poster.let_go() {
            (self.pause, self.again) = (WAIT, None);
            return Some(now + WAIT);
        }
        self.pause = again.map_or(WAIT, |_| (self.pause * 2).min(MAX_PAUSE));
        self.again = Some((now + self.pause, since));
        Some(now + self.pause)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    struct Telling {
        posted: Posted,
        /// How often it is to take nothing.
        full: Mutex<u32>,
        tell: Mutex<Sender<Instant>>,
    }

    impl Poster for Telling {
        fn posted(&self) -> &Posted {
            &self.posted
        }

        fn let_go(&self) -> bool {
            let mut full = self.full.lock().unwrap();
            *full = full.saturating_sub(1);
            let all = *full == 0;
            if all {
                self.posted.end();
            }
            // Whoever hears it may post again.
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
    fn what_waits_is_let_go_again_and_again() {
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
        // Nobody looks any more, in the end.
        let give_up = Instant::now() + patience;
        while poster.posted.watched.load(Ordering::SeqCst) {
            assert!(Instant::now() < give_up);
            std::thread::yield_now();
        }
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn a_socket_that_is_gone_is_forgotten() {
        let (tell, told) = channel();
        let poster =
            Arc::new(Telling { posted: Posted::default(), full: Mutex::new(u32::MAX), tell: Mutex::new(tell) });
        post(&poster, Instant::now());
        told.recv_timeout(Duration::from_secs(30)).unwrap();
        drop(poster);
        // Ends when the sender's last owner has.
        while told.recv_timeout(Duration::from_secs(30)).is_ok() {}
    }
}
