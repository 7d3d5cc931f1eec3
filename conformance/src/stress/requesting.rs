//! The requesting sockets of a round, one after the other in one place.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use ekuiper_core::transport::{ConnectionId, Request, Result, TransportError};

use super::body::{Stamp, length};
use super::request_stage::{ANSWER_IS_OPTIONAL, PLACE, RequestStage};
use super::wait::Wait;
use super::{Rng, end};

/// Sends requests until the round's time is over, and asserts at the end that
/// they are answered.
pub(super) fn ask(stage: &RequestStage<'_>, mut rng: Rng) {
    loop {
        let request = stage.fixture.transport().request(&stage.fixture.at(PLACE), &stage.options).unwrap();
        let asker = Asker {
            stage,
            request: &*request,
            socket: stage.sockets.fetch_add(1, Ordering::SeqCst),
            threads: if rng.chance(60) { 1 } else { rng.between(2, 3) as u32 },
            numbers: AtomicU64::new(0),
            answered: Mutex::default(),
            is_closing: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        };
        if Instant::now() >= stage.until {
            asker.work(&mut rng, false);
            return asker.see_that_somebody_answers();
        }
        let is_closed = rng.chance(60);
        asker.work(&mut rng, is_closed);
    }
}

struct Asker<'a> {
    stage: &'a RequestStage<'a>,
    request: &'a dyn Request,
    socket: u32,
    threads: u32,
    numbers: AtomicU64,
    answered: Mutex<HashSet<u64>>,
    is_closing: AtomicBool,
    is_over: AtomicBool,
}

impl Asker<'_> {
    /// Sends requests from all threads for a while; then closes the socket
    /// during that, or lets the threads end.
    fn work(&self, rng: &mut Rng, is_closed: bool) {
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..self.threads).map(|_| rng.fork()).map(|rng| scope.spawn(move || self.run(rng))).collect();
            std::thread::sleep(rng.millis(40));
            if is_closed {
                self.is_closing.store(true, Ordering::SeqCst);
                end("asking", rng, || self.request.close(), &threads);
            }
            self.is_over.store(true, Ordering::SeqCst);
        });
    }

    /// Makes one thread's exchanges.
    fn run(&self, mut rng: Rng) {
        while !self.is_over.load(Ordering::SeqCst) {
            let exchanged = if self.threads == 1 { self.exchange_alone(&mut rng) } else { self.exchange(&mut rng) };
            match exchanged {
                Ok(()) | Err(TransportError::Timeout) => {}
                Err(TransportError::Closed) => {
                    assert!(self.is_closing.load(Ordering::SeqCst), "closed by nobody");
                    return;
                }
                Err(TransportError::Disconnected) => assert!(self.stage.may_disconnect, "disconnected by nobody"),
                // Another thread receives, has received the answer, or has
                // cancelled the request.
                Err(TransportError::Misuse(_)) if self.threads > 1 => {}
                Err(error) => panic!("asking failed: {error}"),
            }
        }
    }

    /// Asserts that requests are answered again, whatever happened before.
    fn see_that_somebody_answers(&self) {
        let give_up = Instant::now() + crate::PATIENCE;
        loop {
            let exchanged = Wait::Patient
                .make("to connect at last", |deadline| self.request.connect(deadline))
                .and_then(|connection| {
                    let number = self.send(connection, Wait::Patient, false, 0)?;
                    self.receive(Wait::Patient, Some(number))
                });
            match exchanged {
                Ok(()) => return,
                Err(TransportError::Disconnected) if self.stage.may_disconnect => {}
                Err(error) => panic!("the last request failed: {error}"),
            }
            assert!(Instant::now() < give_up, "nobody answers any more");
        }
    }

    /// Sends a request and receives its own answer, without other requesting
    /// threads.
    fn exchange_alone(&self, rng: &mut Rng) -> Result<()> {
        let connection = Wait::draw(rng).make("to connect", |deadline| self.request.connect(deadline))?;
        let wait = Wait::draw(rng);
        let is_brief = matches!(wait, Wait::Brief(_));
        let number = self.send(connection, Wait::draw(rng), is_brief, length(rng))?;
        if rng.chance(5) {
            // The next request will cancel it.
            return Ok(());
        }
        self.receive(wait, Some(number))
    }

    /// Sends a request among other threads, which may cancel it and receive its
    /// answer: only the socket knows the latest request.
    fn exchange(&self, rng: &mut Rng) -> Result<()> {
        let connection = Wait::draw(rng).make("to connect", |deadline| self.request.connect(deadline))?;
        self.send(connection, Wait::draw_brief(rng), true, length(rng))?;
        self.receive(Wait::draw_brief(rng), None)
    }

    fn send(&self, connection: ConnectionId, wait: Wait, is_optional: bool, length: usize) -> Result<u64> {
        let number = self.numbers.fetch_add(1, Ordering::SeqCst);
        let thread = if is_optional { ANSWER_IS_OPTIONAL } else { 0 };
        let mut body = Vec::new();
        Stamp { socket: self.socket, thread, number }.write(length, &mut body);
        wait.make("to ask", |deadline| self.request.send(connection, &body, deadline))?;
        Ok(number)
    }

    /// Receives an answer to this request, or to one of the socket's; never
    /// twice to the same.
    fn receive(&self, wait: Wait, own: Option<u64>) -> Result<()> {
        let mut buffer = Vec::new();
        wait.make("to receive an answer", |deadline| self.request.receive(&mut buffer, deadline))?;
        let Stamp { socket, number, .. } = Stamp::read(&buffer);
        assert!(
            socket == self.socket && own.is_none_or(|own| own == number),
            "{own:?} of socket {} was asked, {number} of socket {socket} is answered",
            self.socket
        );
        assert!(self.answered.lock().unwrap().insert(number), "{number} was answered twice");
        Ok(())
    }
}
