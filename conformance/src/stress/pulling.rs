//! The receiving sockets of a round, one after the other in one place.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ekuiper_core::transport::{ConnectionId, Pull, PullEvent, TransportError};

use super::body::Stamp;
use super::ledger::Ledger;
use super::message_stage::MessageStage;
use super::wait::Wait;
use super::{Rng, end};

/// Receives until everything was sent and has arrived.
pub(super) fn receive(stage: &MessageStage<'_>, mut rng: Rng) {
    loop {
        let endpoint = stage.endpoint(!stage.pushes_listen);
        let pull = stage.fixture.transport().pull(&endpoint, &stage.options).unwrap();
        let is_last = stage.is_lossless || Instant::now() >= stage.until;
        std::thread::scope(|scope| {
            let (pull, of_thread) = (&*pull, rng.fork());
            let receiver = scope.spawn(move || Receiver { pull, ledger: &stage.ledger, is_last }.run(of_thread));
            if is_last {
                while !stage.ledger.all_sent.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            } else {
                std::thread::sleep(rng.millis(40));
            }
            end("receiving", &mut rng, || pull.close(), &[receiver]);
        });
        if is_last {
            return;
        }
        drop(pull);
        if rng.chance(50) {
            std::thread::sleep(rng.millis(20));
        }
    }
}

struct Receiver<'a> {
    pull: &'a dyn Pull,
    ledger: &'a Ledger,
    is_last: bool,
}

impl Receiver<'_> {
    /// Receives until the socket is closed.
    fn run(&self, mut rng: Rng) {
        let mut buffer = Vec::new();
        // Per connection, the last number of each thread.
        let mut open: HashMap<ConnectionId, HashMap<(u32, u32), u64>> = HashMap::new();
        let mut over = Vec::new();
        loop {
            // There may be silence, so only the other kinds of deadline are
            // certain to end.
            let wait = if rng.chance(30) { Wait::Endless } else { Wait::draw_brief(&mut rng) };
            match wait.make("to receive", |deadline| self.pull.receive(&mut buffer, deadline)) {
                Ok(PullEvent::Connected(id)) => {
                    assert!(!over.contains(&id) && open.insert(id, HashMap::new()).is_none(), "{id:?} came twice");
                    self.ledger.open.fetch_add(usize::from(self.is_last), Ordering::SeqCst);
                }
                Ok(PullEvent::Disconnected(id)) => {
                    assert!(open.remove(&id).is_some(), "{id:?} went, and was not there");
                    over.push(id);
                    self.ledger.open.fetch_sub(usize::from(self.is_last), Ordering::SeqCst);
                }
                Ok(PullEvent::Message(id)) => {
                    let stamp = Stamp::read(&buffer);
                    let Some(numbers) = open.get_mut(&id) else { panic!("{stamp:?} of {id:?}, which is not there") };
                    let last = numbers.insert((stamp.socket, stamp.thread), stamp.number);
                    assert!(last.is_none_or(|last| last < stamp.number), "{stamp:?} after {last:?} on {id:?}");
                    self.ledger.receive(stamp);
                }
                Err(TransportError::Timeout) => {}
                Err(TransportError::Closed) => return,
                Err(error) => panic!("receiving failed: {error}"),
            }
            // A reader that pauses sometimes lets the buffers fill up.
            if rng.chance(1) {
                std::thread::sleep(rng.millis(15));
            }
        }
    }
}
