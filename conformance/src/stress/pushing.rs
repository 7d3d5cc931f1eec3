//! Sending sockets of a round, one after the other at one place.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::transport::{Push, TransportError};

use super::body::{MAX_MESSAGE, Stamp, length};
use super::messages::Stage;
use super::wait::Wait;
use super::{Rng, end};

/// Sends until the round's time is over, and sees at the end that somebody
/// receives.
pub(super) fn send(stage: &Stage<'_>, mut rng: Rng) {
    loop {
        let endpoint = stage.endpoint(stage.pushes_listen);
        let push = stage.fixture.transport().push(&endpoint, &stage.options).unwrap();
        let sender = Sender {
            stage,
            push: &*push,
            socket: stage.ledger.new_socket(),
            taken: Mutex::default(),
            is_over: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
        };
        if Instant::now() >= stage.until {
            sender.work(&mut rng, Ending::Last);
            return;
        }
        let ending = match rng.between(0, 2) {
            0 => Ending::Close,
            1 => Ending::FlushAndClose,
            _ => Ending::FlushAndDrop,
        };
        sender.work(&mut rng, ending);
    }
}

/// How a socket ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Closed amid the traffic.
    Close,
    /// Flushed and closed amid the traffic.
    FlushAndClose,
    /// Dropped after its threads have ended and all was flushed.
    FlushAndDrop,
    /// The same, after a message has certainly been received.
    Last,
}

struct Sender<'a> {
    stage: &'a Stage<'a>,
    push: &'a dyn Push,
    socket: u32,
    /// What the socket has taken.
    taken: Mutex<Vec<Stamp>>,
    is_over: AtomicBool,
    is_closing: AtomicBool,
}

impl Sender<'_> {
    fn work(&self, rng: &mut Rng, ending: Ending) {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..rng.between(1, 4) as u32)
                .map(|thread| (thread, rng.fork()))
                .map(|(thread, rng)| scope.spawn(move || self.run(thread, rng)))
                .collect();
            std::thread::sleep(rng.millis(40));
            match ending {
                Ending::Close => {}
                Ending::FlushAndClose => self.flush(),
                Ending::FlushAndDrop | Ending::Last => {
                    self.is_over.store(true, Ordering::SeqCst);
                    return;
                }
            }
            self.is_closing.store(true, Ordering::SeqCst);
            end("sending", rng, || self.push.close(), &threads);
        });
        if ending == Ending::Last {
            self.see_that_somebody_receives();
        }
        if matches!(ending, Ending::FlushAndDrop | Ending::Last) {
            self.flush();
        }
    }

    /// What was taken before a flush must arrive, if the receivers stay.
    fn flush(&self) {
        let taken = self.taken.lock().unwrap().clone();
        Wait::Patient.make("to flush", |deadline| self.push.flush(deadline)).unwrap();
        if self.stage.is_lossless {
            self.stage.ledger.secure(&taken);
        }
    }

    /// Whatever happened before, messages arrive again.
    fn see_that_somebody_receives(&self) {
        let give_up = Instant::now() + crate::PATIENCE;
        let mut body = Vec::new();
        for number in 0.. {
            let stamp = Stamp { socket: self.socket, thread: u32::MAX, number };
            stamp.write(0, &mut body);
            match Wait::Patient.make("to send the last messages", |deadline| self.push.send(&body, deadline)) {
                Ok(()) => self.taken.lock().unwrap().push(stamp),
                Err(TransportError::Disconnected) if !self.stage.is_lossless => {}
                Err(error) => panic!("a last message failed: {error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
            if self.stage.ledger.has_received(stamp) {
                return;
            }
            assert!(Instant::now() < give_up, "nothing arrives any more");
        }
    }

    /// One thread's messages, until the socket is closed or the thread is to
    /// end.
    fn run(&self, thread: u32, mut rng: Rng) {
        let mut body = Vec::new();
        for number in 0.. {
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            let stamp = Stamp { socket: self.socket, thread, number };
            let is_too_long = rng.chance(1);
            stamp.write(if is_too_long { MAX_MESSAGE + 1 } else { length(&mut rng) }, &mut body);
            let wait = Wait::draw(&mut rng);
            let sent = if rng.chance(60) {
                wait.make("to send", |deadline| self.push.send(&body, deadline))
            } else {
                wait.make("to post", |deadline| self.push.post(&body, deadline))
            };
            match sent {
                Ok(()) => self.taken.lock().unwrap().push(stamp),
                Err(TransportError::Timeout) => self.stage.ledger.refuse(stamp),
                Err(TransportError::TooLong { .. }) if is_too_long => self.stage.ledger.refuse(stamp),
                Err(error) if self.is_end(&error) => return,
                Err(_) => {}
            }
            if rng.chance(2) {
                std::thread::sleep(rng.millis(3));
            }
            let other = match rng.between(0, 49) {
                0 => wait.make("to dispatch", |deadline| self.push.dispatch(deadline)),
                1 => wait.make("to flush", |deadline| self.push.flush(deadline)),
                2 => wait.make("to connect", |deadline| self.push.connect(deadline)),
                _ => Ok(()),
            };
            match other {
                Ok(()) | Err(TransportError::Timeout) => {}
                Err(error) if self.is_end(&error) => return,
                Err(_) => {}
            }
        }
    }

    /// Whether it says that the socket was closed; the only other error that
    /// may be is a receiver's end.
    fn is_end(&self, error: &TransportError) -> bool {
        match error {
            TransportError::Closed => assert!(self.is_closing.load(Ordering::SeqCst), "closed by nobody"),
            TransportError::Disconnected => assert!(!self.stage.is_lossless, "disconnected by nobody"),
            _ => panic!("sending failed: {error}"),
        }
        matches!(error, TransportError::Closed)
    }
}
