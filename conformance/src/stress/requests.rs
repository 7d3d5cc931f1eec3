//! Requests and replies: several sockets send requests from one or more
//! threads, one answers from several threads, and any of them may be closed and
//! recreated meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::{Duration, Instant};

use super::body::MAX_MESSAGE;
use super::request_stage::{PLACE, RequestStage};
use super::{Rng, Strictness, repeat, replying, requesting};
use crate::{Fixture, options};

/// Several requesting sockets use one replying socket.
pub fn stress_of_requests_and_replies(f: &Fixture) {
    repeat(f, Strictness::Strict, round);
}

pub(super) fn round(fixture: &Fixture, strictness: Strictness, rng: &mut Rng) {
    let answerer_stays = rng.chance(50);
    let stage = RequestStage {
        fixture,
        options: options(|options| options.max_message = MAX_MESSAGE),
        answerer_stays,
        may_disconnect: strictness == Strictness::Lenient || !answerer_stays,
        until: Instant::now() + Duration::from_millis(50) + rng.millis(300),
        all_asked: AtomicBool::new(false),
        sockets: AtomicU32::new(0),
    };
    std::thread::scope(|scope| {
        let stage = &stage;
        let of_answerer = rng.fork();
        scope.spawn(move || replying::answer(stage, of_answerer));
        let asking: Vec<_> = (0..rng.between(1, 4))
            .map(|_| rng.fork())
            .map(|rng| scope.spawn(move || requesting::ask(stage, rng)))
            .collect();
        asking.into_iter().for_each(|asking| asking.join().unwrap());
        stage.all_asked.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    assert!(!fixture.at(PLACE).path().exists(), "the socket file was left behind");
}
