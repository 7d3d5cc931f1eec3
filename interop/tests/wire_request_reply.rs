//! Request and reply against libnng and mangos: contents, sizes, limits, two
//! peers at once.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use ekuiper_core::transport::{Options, TransportError};
use ekuiper_interop::peer::{Library, Peer};
use ekuiper_interop::wire::{Case, MANGOS_LIMIT, SIZES, ask, assert_received, body};
use serde_json::json;

ekuiper_interop::on_every_wire! {
    requests_to_a_peer,
    requests_of_a_peer,
    two_peers_ask_at_once,
    a_peers_request_beyond_the_limit,
    a_reply_beyond_the_peers_limit,
    a_peer_that_asks_anew_gets_the_new_answer,
}

const REQUEST_HEADER: usize = 4;

fn requests_to_a_peer(case: &Case) {
    let mut peer = case.peer();
    peer.open("rep", "rep", "listen", &case.url());
    let request = case.request();
    let mut exchange = |body: &[u8]| {
        let reply = ask(&*request, body, || answer(&mut peer, body));
        assert!(reply.unwrap() == body, "{} bytes", body.len());
    };
    (0..200).for_each(|number| exchange(format!("call {number}").as_bytes()));
    SIZES.iter().for_each(|size| exchange(&pattern(*size)));
}

/// The peer takes a request and sends the same back.
fn answer(peer: &mut Peer, body: &[u8]) {
    let received = peer.ask("receive", json!({ "id": "rep" }));
    assert_received(&received, &[body.to_vec()]);
    match std::str::from_utf8(body) {
        Ok(text) if text.starts_with("call") => peer.ask("send", json!({ "id": "rep", "text": text })),
        _ => peer.ask("send", json!({ "id": "rep", "size": body.len() })),
    };
}

/// With a request's header, the longest is still what mangos takes.
fn pattern(size: usize) -> Vec<u8> {
    body(size.min(MANGOS_LIMIT - REQUEST_HEADER))
}

fn requests_of_a_peer(case: &Case) {
    let reply = case.reply();
    let mut peer = case.peer();
    peer.open("req", "req", "dial", &case.url());
    for number in 0..200 {
        peer.post("send", json!({ "id": "req", "text": format!("result {number}") }));
        let (ticket, request) = reply.request();
        assert_eq!(request, format!("result {number}").as_bytes());
        peer.answer().unwrap();
        peer.post("receive", json!({ "id": "req" }));
        reply.answer(&ticket, format!("command {number}").as_bytes());
        assert_received(&peer.answer().unwrap(), &[format!("command {number}").into_bytes()]);
        let again = reply.try_answer(&ticket, b"again");
        assert!(matches!(again, Err(TransportError::Misuse(_))), "{again:?}");
    }
    for size in SIZES {
        peer.post("send", json!({ "id": "req", "size": size }));
        let (ticket, request) = reply.request();
        assert!(request == body(*size), "{size} bytes");
        peer.answer().unwrap();
        peer.post("receive", json!({ "id": "req" }));
        let answer = pattern(*size);
        reply.answer(&ticket, &answer);
        assert_received(&peer.answer().unwrap(), &[answer]);
    }
}

fn two_peers_ask_at_once(case: &Case) {
    let reply = case.reply();
    let mut peers = [case.peer(), case.peer()];
    let requests = [0, 1].map(|index| {
        peers[index].open("req", "req", "dial", &case.url());
        peers[index].post("send", json!({ "id": "req", "text": format!("from {index}") }));
        let request = reply.request();
        peers[index].answer().unwrap();
        request
    });
    assert_ne!(requests[0].0.connection, requests[1].0.connection);
    assert!(requests[0].0.serial < requests[1].0.serial);
    // Answered in the other order: each gets its own.
    for (ticket, request) in requests.iter().rev() {
        reply.answer(ticket, &[b"answer to ", request.as_slice()].concat());
    }
    for (index, peer) in peers.iter_mut().enumerate() {
        let received = peer.ask("receive", json!({ "id": "req" }));
        assert_received(&received, &[format!("answer to from {index}").into_bytes()]);
    }
}

/// It is skipped and can be answered: the connection lives.
fn a_peers_request_beyond_the_limit(case: &Case) {
    let mut options = Options::default();
    options.max_message = 1000;
    let reply = case.reply_with(&options);
    let mut peer = case.peer();
    peer.open("req", "req", "dial", &case.url());
    peer.post("send", json!({ "id": "req", "size": 1000 }));
    let (ticket, request) = reply.request();
    assert_eq!(request, body(1000));
    peer.answer().unwrap();
    let connection = ticket.connection;
    reply.answer(&ticket, b"fits");
    peer.ask("receive", json!({ "id": "req" }));

    // libnng must take it whole to get past it, and does so up to 1 MiB more.
    let long = if case.transport.name() == "nng" { 1_000_000 } else { 2_000_000 };
    for size in [1001, long] {
        peer.post("send", json!({ "id": "req", "size": size }));
        let (ticket, length) = reply.oversized();
        assert_eq!((ticket.connection, length), (connection, size));
        peer.answer().unwrap();
        reply.answer(&ticket, b"too long");
        assert_received(&peer.ask("receive", json!({ "id": "req" })), &[b"too long".to_vec()]);
    }
}

/// The peer hangs up, as the Go SDK does on a command above 1 MiB: it is told
/// as the connection's end, and not as an answer.
fn a_reply_beyond_the_peers_limit(case: &Case) {
    let reply = case.reply();
    let mut peer = case.peer();
    // mangos has this limit by itself, libnng has none.
    let options = if case.library == Library::Mangos { json!({}) } else { json!({ "max_size": MANGOS_LIMIT }) };
    peer.ask("open", json!({ "id": "req", "pattern": "req", "dial": case.url(), "options": options }));
    peer.post("send", json!({ "id": "req", "text": "result" }));
    let (ticket, _) = reply.request();
    peer.answer().unwrap();
    let longest = body(MANGOS_LIMIT - REQUEST_HEADER);
    peer.post("receive", json!({ "id": "req" }));
    reply.answer(&ticket, &longest);
    assert_received(&peer.answer().unwrap(), &[longest]);

    peer.ask("send", json!({ "id": "req", "text": "result" }));
    let (ticket, _) = reply.request();
    match reply.try_answer(&ticket, &body(MANGOS_LIMIT + 1 - REQUEST_HEADER)) {
        Ok(()) | Err(TransportError::Disconnected) => {}
        Err(error) => panic!("{error}"),
    }
    // It connects again and, being a REQ socket that waits, asks again.
    let (again, request) = reply.request_after(ticket.connection);
    assert_eq!(request, b"result");
    peer.post("receive", json!({ "id": "req" }));
    reply.answer(&again, b"short");
    assert_received(&peer.answer().unwrap(), &[b"short".to_vec()]);
}

/// What the official SDKs' keepalive does: the first request is cancelled, and
/// an answer to it would be dropped.
fn a_peer_that_asks_anew_gets_the_new_answer(case: &Case) {
    let reply = case.reply();
    let mut peer = case.peer();
    peer.open("req", "req", "dial", &case.url());
    peer.post("send", json!({ "id": "req", "text": "first" }));
    let (first, _) = reply.request();
    peer.answer().unwrap();
    peer.ask("send", json!({ "id": "req", "text": "second" }));
    let (second, request) = reply.request();
    assert_eq!(request, b"second");
    assert_eq!(first.connection, second.connection);
    assert_ne!(first.request, second.request);
    let late = reply.try_answer(&first, b"to the first");
    assert!(matches!(late, Err(TransportError::Misuse(_))), "{late:?}");
    reply.answer(&second, b"to the second");
    assert_received(&peer.ask("receive", json!({ "id": "req" })), &[b"to the second".to_vec()]);
}
