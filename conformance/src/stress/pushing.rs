//! The sending sockets of a round, one after the other in one place.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::transport::{Push, TransportError};

use super::body::{MAX_MESSAGE, Stamp, length};
use super::message_stage::MessageStage;
use super::wait::Wait;
use super::{Rng, end};

/// Sends until the round's time is over, and asserts at the end that a receiver
/// is reached.
pub(super) fn send(stage: &MessageStage<'_>, mut rng: Rng) {
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

/// The end of a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Closed during the traffic.
    Close,
    /// Flushed and closed during the traffic.
    FlushAndClose,
    /// Dropped after its threads have ended and a flush.
    FlushAndDrop,
    /// Dropped like `FlushAndDrop`, after a message was certainly received.
    Last,
}

struct Sender<'a> {
    stage: &'a MessageStage<'a>,
    push: &'a dyn Push,
    socket: u32,
    /// The messages that the socket has accepted.
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

    /// Flushes; messages accepted before must arrive if the receivers stay.
    fn flush(&self) {
        let taken = self.taken.lock().unwrap().clone();
        Wait::Patient.make("to flush", |deadline| self.push.flush(deadline)).unwrap();
        if self.stage.is_lossless {
            self.stage.ledger.secure(&taken);
        }
    }

    /// Asserts that messages arrive again, whatever happened before.
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

    /// Sends one thread's messages until the socket is closed or the thread
    /// should end.
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

    /// Whether the error says that the socket was closed; the only other valid
    /// error is a receiver's end.
    fn is_end(&self, error: &TransportError) -> bool {
        match error {
            TransportError::Closed => assert!(self.is_closing.load(Ordering::SeqCst), "closed by nobody"),
            TransportError::Disconnected => assert!(!self.stage.is_lossless, "disconnected by nobody"),
            _ => panic!("sending failed: {error}"),
        }
        matches!(error, TransportError::Closed)
    }
}
