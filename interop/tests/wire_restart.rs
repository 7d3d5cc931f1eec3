//! Either side goes and comes back, in order and by kill -9: the other finds
//! it again.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use ekuiper_core::transport::{Endpoint, Options, Request, TransportError};
use ekuiper_interop::peer::Peer;
use ekuiper_interop::wire::{Case, Inlet, Side, ask, assert_received, deliver};
use serde_json::json;

ekuiper_interop::on_every_wire! {
    push_finds_a_listener_again,
    pull_finds_a_listener_again,
    request_finds_a_listener_again,
    push_is_found_again,
    pull_is_found_again,
    reply_is_found_again,
    a_dead_listener_of_ours_is_replaced,
}

/// How the peer goes.
const WAYS: [fn(Peer); 2] = [Peer::kill, Peer::end];

fn push_finds_a_listener_again(case: &Case) {
    let push = case.push(Side::Dial);
    for end in WAYS {
        let mut peer = case.peer();
        peer.open("pull", "pull", "listen", &case.url());
        deliver(&*push, &mut peer, "pull", "here");
        end(peer);
    }
    let mut peer = case.peer();
    peer.open("pull", "pull", "listen", &case.url());
    deliver(&*push, &mut peer, "pull", "here");
}

fn pull_finds_a_listener_again(case: &Case) {
    let pull = case.pull(Side::Dial);
    for end in WAYS {
        let mut peer = case.peer();
        peer.open("push", "push", "listen", &case.url());
        fetch(&pull, &mut peer, "first");
        fetch(&pull, &mut peer, "second");
        end(peer);
        pull.disconnected();
    }
    let mut peer = case.peer();
    peer.open("push", "push", "listen", &case.url());
    fetch(&pull, &mut peer, "last");
}

fn fetch(pull: &Inlet, peer: &mut Peer, text: &str) {
    peer.post("send", json!({ "id": "push", "text": text, "timeout_ms": 30_000 }));
    assert_eq!(pull.message(), text.as_bytes());
    peer.answer().unwrap();
}

/// A request that is out when its listener goes is never sent to the next.
fn request_finds_a_listener_again(case: &Case) {
    let request = case.request();
    for end in WAYS {
        let mut peer = case.peer();
        peer.open("rep", "rep", "listen", &case.url());
        exchange(&mut peer, &*request);
        let cut = ask(&*request, b"unanswered", || {
            peer.ask("receive", json!({ "id": "rep" }));
            end(peer);
        });
        assert!(matches!(cut, Err(TransportError::Disconnected)), "{cut:?}");
    }
    let mut peer = case.peer();
    peer.open("rep", "rep", "listen", &case.url());
    exchange(&mut peer, &*request);
}

fn exchange(peer: &mut Peer, request: &dyn Request) {
    let reply = ask(request, b"question", || {
        assert_received(&peer.ask("receive", json!({ "id": "rep" })), &[b"question".to_vec()]);
        peer.ask("send", json!({ "id": "rep", "text": "answer" }));
    });
    assert_eq!(reply.unwrap(), b"answer");
}

fn push_is_found_again(case: &Case) {
    let mut peer = case.peer();
    peer.open("pull", "pull", "dial", &case.url());
    for _ in 0..3 {
        let push = case.push(Side::Listen);
        deliver(&*push, &mut peer, "pull", "here");
        push.close();
        assert!(!case.address().path().exists(), "a closed socket leaves no file");
    }
}

fn pull_is_found_again(case: &Case) {
    let mut peer = case.peer();
    peer.open("push", "push", "dial", &case.url());
    for text in ["first", "second", "third"] {
        let pull = case.pull(Side::Listen);
        assert_eq!(pull.first_of(&mut peer, json!({ "id": "push", "text": text })), text.as_bytes());
        pull.close();
        assert!(!case.address().path().exists(), "a closed socket leaves no file");
    }
}

fn reply_is_found_again(case: &Case) {
    let mut peer = case.peer();
    peer.open("req", "req", "dial", &case.url());
    for text in ["first", "second", "third"] {
        let reply = case.reply();
        peer.post("send", json!({ "id": "req", "text": text, "timeout_ms": 30_000 }));
        let (ticket, request) = reply.request();
        assert_eq!(request, text.as_bytes());
        peer.answer().unwrap();
        reply.answer(&ticket, b"yes");
        assert_received(&peer.ask("receive", json!({ "id": "req" })), &[b"yes".to_vec()]);
        reply.close();
        assert!(!case.address().path().exists(), "a closed socket leaves no file");
    }
}

/// What a crashed process of either library leaves behind is taken over by us;
/// what lives is not.
fn a_dead_listener_of_ours_is_replaced(case: &Case) {
    let mut peer = case.peer();
    peer.open("pull", "pull", "listen", &case.url());
    let refused = case.transport.pull(&Endpoint::Listen(case.address()), &Options::default()).err();
    assert!(matches!(refused, Some(TransportError::AddressInUse(_))), "{refused:?}");
    peer.kill();
    assert!(case.address().path().exists(), "a killed peer leaves its file");
    let pull = case.pull(Side::Listen);
    let mut peer = case.peer();
    peer.open("push", "push", "dial", &case.url());
    fetch(&pull, &mut peer, "here");
}
