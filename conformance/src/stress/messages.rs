//! One-way channels: several sockets send from several threads, others receive,
//! and any of them may be closed and recreated meanwhile.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::body::MAX_MESSAGE;
use super::ledger::Ledger;
use super::message_stage::MessageStage;
use super::{Rng, Strictness, pulling, pushing, repeat};
use crate::{Fixture, eventually, options};

/// Several sending sockets dial one receiving socket.
pub fn stress_of_pushes_that_dial(f: &Fixture) {
    repeat(f, Strictness::Strict, round_of_pushes_that_dial);
}

/// Several receiving sockets dial one sending socket.
pub fn stress_of_pushes_that_listen(f: &Fixture) {
    repeat(f, Strictness::Strict, round_of_pushes_that_listen);
}

pub(super) fn round_of_pushes_that_dial(fixture: &Fixture, strictness: Strictness, rng: &mut Rng) {
    round(fixture, strictness, rng, false);
}

pub(super) fn round_of_pushes_that_listen(fixture: &Fixture, strictness: Strictness, rng: &mut Rng) {
    round(fixture, strictness, rng, true);
}

fn round(fixture: &Fixture, strictness: Strictness, rng: &mut Rng, pushes_listen: bool) {
    let many = rng.between(1, 3);
    let stage = MessageStage {
        fixture,
        options: options(|options| options.max_message = MAX_MESSAGE),
        pushes_listen,
        is_lossless: strictness == Strictness::Strict && rng.chance(50),
        until: Instant::now() + Duration::from_millis(50) + rng.millis(300),
        ledger: Ledger::default(),
    };
    let (pushes, pulls) = if pushes_listen { (1, many) } else { (many, 1) };
    std::thread::scope(|scope| {
        let (stage, ledger) = (&stage, &stage.ledger);
        for _ in 0..pulls {
            let rng = rng.fork();
            scope.spawn(move || pulling::receive(stage, rng));
        }
        let senders: Vec<_> =
            (0..pushes).map(|_| rng.fork()).map(|rng| scope.spawn(move || pushing::send(stage, rng))).collect();
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert!(eventually(|| ledger.missing().is_empty()), "lost, with a receiver that stays: {:?}", ledger.missing());
        assert!(eventually(|| ledger.open.load(Ordering::SeqCst) == 0), "the end of a connection was not told");
        ledger.all_sent.store(true, Ordering::SeqCst);
    });
    let unwanted = stage.ledger.unwanted();
    assert!(unwanted.is_empty(), "refused, and received nevertheless: {unwanted:?}");
    assert!(!fixture.at("data").path().exists(), "the socket file was left behind");
}
