//! The replying sockets of a round, one after the other.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use ekuiper_core::transport::{ConnectionId, Reply, ReplyEvent, Ticket, TransportError};

use super::body::{Stamp, length};
use super::request_stage::{ANSWER_IS_OPTIONAL, PLACE, RequestStage};
use super::wait::Wait;
use super::{Rng, end};

/// Answers until no requester is left.
pub(super) fn answer(stage: &RequestStage<'_>, mut rng: Rng) {
    // Whichever socket receives a request, it is received once.
    let asked = Mutex::default();
    loop {
        let reply = stage.fixture.transport().reply(&stage.fixture.at(PLACE), &stage.options).unwrap();
        let is_last = stage.answerer_stays || Instant::now() >= stage.until;
        let answerer = Answerer { reply: &*reply, asked: &asked, is_closing: AtomicBool::new(false) };
        std::thread::scope(|scope| {
            let answerer = &answerer;
            let (hand_over, requests) = mpsc::channel();
            let of_receiver = rng.fork();
            let mut threads = vec![scope.spawn(move || answerer.receive(of_receiver, &hand_over))];
            let requests = std::sync::Arc::new(Mutex::new(requests));
            threads.extend(
                (0..rng.between(1, 3))
                    .map(|_| (rng.fork(), requests.clone()))
                    .map(|(rng, requests)| scope.spawn(move || answerer.answer(rng, &requests))),
            );
            if is_last {
                while !stage.all_asked.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            } else {
                std::thread::sleep(rng.millis(40));
            }
            answerer.is_closing.store(true, Ordering::SeqCst);
            end("answering", &mut rng, || answerer.reply.close(), &threads);
        });
        if is_last {
            return;
        }
        drop(reply);
        if rng.chance(50) {
            std::thread::sleep(rng.millis(20));
        }
    }
}

struct Answerer<'a> {
    reply: &'a dyn Reply,
    asked: &'a Mutex<HashSet<Stamp>>,
    is_closing: AtomicBool,
}

impl Answerer<'_> {
    /// Receives until the socket is closed.
    fn receive(&self, mut rng: Rng, requests: &mpsc::Sender<(Ticket, Stamp)>) {
        let mut buffer = Vec::new();
        let mut open: HashSet<ConnectionId> = HashSet::new();
        let mut over = HashSet::new();
        loop {
            let wait = if rng.chance(30) { Wait::Endless } else { Wait::draw_brief(&mut rng) };
            match wait.make("to receive a request", |deadline| self.reply.receive(&mut buffer, deadline)) {
                Ok(ReplyEvent::Connected(id)) => {
                    assert!(!over.contains(&id) && open.insert(id), "{id:?} came twice");
                }
                Ok(ReplyEvent::Disconnected(id)) => {
                    assert!(open.remove(&id) && over.insert(id), "{id:?} went, and was not there");
                }
                Ok(ReplyEvent::Request(ticket)) => {
                    let stamp = Stamp::read(&buffer);
                    assert!(open.contains(&ticket.connection), "{stamp:?} of {ticket:?}, which is not there");
                    assert!(self.asked.lock().unwrap().insert(stamp), "{stamp:?} came twice");
                    let _ = requests.send((ticket, stamp));
                }
                Ok(ReplyEvent::Oversized(ticket, length)) => panic!("a request of {length} bytes: {ticket:?}"),
                Err(TransportError::Timeout) => {}
                Err(TransportError::Closed) => return,
                Err(error) => panic!("receiving failed: {error}"),
            }
        }
    }

    /// Answers received requests until the socket is closed.
    fn answer(&self, mut rng: Rng, requests: &Mutex<mpsc::Receiver<(Ticket, Stamp)>>) {
        let mut body = Vec::new();
        loop {
            let next = requests.lock().unwrap().recv();
            let Ok((ticket, stamp)) = next else { return };
            if stamp.thread & ANSWER_IS_OPTIONAL != 0 && rng.chance(10) {
                continue;
            }
            if rng.chance(10) {
                std::thread::sleep(rng.millis(5));
            }
            stamp.write(length(&mut rng), &mut body);
            let mut wait = Wait::draw(&mut rng);
            loop {
                match wait.make("to answer", |deadline| self.reply.send(&ticket, &body, deadline)) {
                    // The request can still be answered.
                    Err(TransportError::Timeout) => wait = Wait::Patient,
                    Err(TransportError::Closed) => {
                        return assert!(self.is_closing.load(Ordering::SeqCst), "closed by nobody");
                    }
                    // The requester has disconnected, or has sent another
                    // request by now.
                    Ok(()) | Err(TransportError::Disconnected | TransportError::Misuse(_)) => break,
                    Err(error) => panic!("answering failed: {error}"),
                }
            }
            if rng.chance(5) {
                let again = self.reply.send(&ticket, &body, Some(Instant::now()));
                assert!(again.is_err(), "{stamp:?} was answered twice");
            }
        }
    }
}
