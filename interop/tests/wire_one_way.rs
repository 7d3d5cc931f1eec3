//! Push and pull against libnng and mangos: contents, order, sizes, limits.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ekuiper_core::transport::{Options, TransportError};
use ekuiper_interop::guard::soon;
use ekuiper_interop::peer::Library;
use ekuiper_interop::wire::{Case, MANGOS_LIMIT, SIZES, Side, assert_received, body, deliver};
use serde_json::json;

ekuiper_interop::on_every_wire! {
    push_that_dials,
    push_that_listens,
    pull_that_listens,
    pull_that_dials,
    two_peers_share_a_push,
    two_peers_feed_a_pull,
    a_push_beyond_the_peers_limit,
    a_peer_beyond_the_pulls_limit,
}

/// Enough to fill the buffers on the way, so that both sides have to wait.
const MANY: usize = 20_000;

fn push_that_dials(case: &Case) {
    push(case, Side::Dial);
}

fn push_that_listens(case: &Case) {
    push(case, Side::Listen);
}

fn push(case: &Case, side: Side) {
    let mut peer = case.peer();
    let push = match side {
        Side::Listen => {
            let push = case.push(side);
            peer.open("pull", "pull", side.of_peer(), &case.url());
            push
        }
        Side::Dial => {
            peer.open("pull", "pull", side.of_peer(), &case.url());
            case.push(side)
        }
    };
    peer.post("receive", json!({ "id": "pull", "count": MANY, "timeout_ms": 60_000 }));
    let sent: Vec<_> = (0..MANY).map(|number| format!("row {number}").into_bytes()).collect();
    sent.iter().for_each(|message| push.send(message, Some(soon())).unwrap());
    assert_received(&peer.answer().unwrap(), &sent);

    for size in SIZES {
        let message = body(*size);
        peer.post("receive", json!({ "id": "pull" }));
        push.send(&message, Some(soon())).unwrap();
        assert_received(&peer.answer().unwrap(), &[message]);
    }
    push.flush(Some(soon())).unwrap();
}

fn pull_that_listens(case: &Case) {
    pull(case, Side::Listen);
}

fn pull_that_dials(case: &Case) {
    pull(case, Side::Dial);
}

fn pull(case: &Case, side: Side) {
    let mut peer = case.peer();
    let pull = match side {
        Side::Listen => {
            let pull = case.pull(side);
            peer.open("push", "push", side.of_peer(), &case.url());
            pull
        }
        Side::Dial => {
            peer.open("push", "push", side.of_peer(), &case.url());
            case.pull(side)
        }
    };
    peer.post("send", json!({ "id": "push", "text": "row {n}", "count": MANY, "timeout_ms": 60_000 }));
    for number in 0..MANY {
        assert_eq!(pull.message(), format!("row {number}").as_bytes());
    }
    peer.answer().unwrap();

    for size in SIZES {
        peer.post("send", json!({ "id": "push", "size": size }));
        assert!(pull.message() == body(*size), "{size} bytes");
        peer.answer().unwrap();
    }
    peer.ask("close", json!({ "id": "push" }));
    pull.disconnected();
}

/// One that comes late gets its share, though the first takes everything.
fn two_peers_share_a_push(case: &Case) {
    let push = case.push(Side::Listen);
    let mut peers = [case.peer(), case.peer()];
    for peer in &mut peers {
        peer.open("pull", "pull", "dial", &case.url());
    }
    let [first, second] = &mut peers;
    deliver(&*push, first, "pull", "first");
    first.post("receive", json!({ "id": "pull", "count": 1_000_000, "timeout_ms": 60_000 }));
    second.post("receive", json!({ "id": "pull", "count": 50, "timeout_ms": 30_000 }));
    let mut sent = 0;
    let received = loop {
        push.send(sent.to_string().as_bytes(), Some(soon())).unwrap();
        sent += 1;
        // Time for the second to connect, and for the first to take it.
        if let Some(received) = second.answer_within(Duration::from_millis(1)) {
            break received.unwrap();
        }
    };
    let numbers = received["messages"].as_array().unwrap().iter().map(|message| message["text"].as_str().unwrap());
    // It may have been the only one there for a moment.
    let numbers: Vec<usize> = numbers.skip_while(|text| *text == "first").map(|text| text.parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "in order: {numbers:?}");
    let [first, second] = peers;
    first.kill();
    second.kill();
}

fn two_peers_feed_a_pull(case: &Case) {
    let pull = case.pull(Side::Listen);
    let (mut one, mut two) = (case.peer(), case.peer());
    for (peer, text) in [(&mut one, "one {n}"), (&mut two, "two {n}")] {
        peer.open("push", "push", "dial", &case.url());
        peer.post("send", json!({ "id": "push", "text": text, "count": 1000, "timeout_ms": 60_000 }));
    }
    // Whatever their turns: those of each are in order, and all are there.
    let mut next = [0, 0];
    for _ in 0..2000 {
        let message = String::from_utf8(pull.message()).unwrap();
        let (of, number) = message.split_once(' ').unwrap();
        let next = &mut next[usize::from(of == "two")];
        assert_eq!(number, next.to_string());
        *next += 1;
    }
    assert_eq!(next, [1000, 1000]);
    one.answer().unwrap();
    two.answer().unwrap();
}

/// The peer hangs up on a message that is longer than it takes; what was
/// before is delivered, and what comes later on a new connection.
fn a_push_beyond_the_peers_limit(case: &Case) {
    let mut peer = case.peer();
    // mangos has this limit by itself, libnng has none.
    let options = if case.library == Library::Mangos { json!({}) } else { json!({ "max_size": MANGOS_LIMIT }) };
    peer.ask("open", json!({ "id": "pull", "pattern": "pull", "listen": case.url(), "options": options }));
    let push = case.push(Side::Dial);
    let longest = body(MANGOS_LIMIT);
    peer.post("receive", json!({ "id": "pull" }));
    push.send(&longest, Some(soon())).unwrap();
    assert_received(&peer.answer().unwrap(), &[longest]);

    match push.send(&body(MANGOS_LIMIT + 1), Some(soon())) {
        // It was taken, or the peer hung up in the middle of it.
        Ok(()) | Err(TransportError::Disconnected) => {}
        Err(error) => panic!("{error}"),
    }
    deliver(&*push, &mut peer, "pull", "after");

    // A host sets no limit, as eKuiper does.
    peer.ask("close", json!({ "id": "pull" }));
    peer.ask("open", json!({ "id": "pull", "pattern": "pull", "listen": case.url(), "options": { "max_size": 0 } }));
    let long = body(3 * MANGOS_LIMIT);
    peer.post("receive", json!({ "id": "pull", "timeout_ms": 30_000 }));
    while let Err(error) = push.send(&long, Some(soon())) {
        only_a_disconnect(error).unwrap();
    }
    assert_received(&peer.answer().unwrap(), &[long]);
}

fn only_a_disconnect(error: TransportError) -> Result<(), TransportError> {
    match error {
        TransportError::Disconnected => Ok(()),
        error => Err(error),
    }
}

fn a_peer_beyond_the_pulls_limit(case: &Case) {
    let mut options = Options::default();
    options.max_message = 1000;
    let pull = case.pull_with(Side::Listen, &options);
    let mut peer = case.peer();
    peer.open("push", "push", "dial", &case.url());
    peer.post("send", json!({ "id": "push", "size": 1000 }));
    assert_eq!(pull.message(), body(1000));
    peer.answer().unwrap();
    let _ = peer.outlives("send", json!({ "id": "push", "size": 1001 }));
    pull.disconnected();
    // The peer connects again by itself, unless it has died: libnng 1.4.0 may
    // use a pipe that it has freed when its peer goes just as a write completes.
    // Then another one shows that the socket goes on.
    let message = || json!({ "id": "push", "size": 999 });
    let came = pull.first_if_alive(&mut peer, message()).unwrap_or_else(|| {
        assert_eq!(peer.library(), Library::Libnng, "only libnng dies of that");
        eprintln!("the libnng peer has died when it was hung up on");
        peer = case.peer();
        peer.open("push", "push", "dial", &case.url());
        pull.first_of(&mut peer, message())
    });
    assert_eq!(came, body(999));
}
