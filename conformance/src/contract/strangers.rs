//! Promises 9 and 10: which processes may connect, and how many connections
//! there may be. Strangers are separate processes, since one process has a
//! single id.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ekuiper_core::transport::{Admission, Endpoint, Options, PeerProcess, PullEvent, Push, ReplyEvent, TransportError};

use super::{asked, introduce, join};
use crate::support::message;
use crate::{Fixture, assert_error, eventually, options, past, shortly, soon};

/// Admits this process only, and records every process that it was asked about.
#[derive(Debug, Default)]
struct OwnProcess(Mutex<Vec<PeerProcess>>);

impl OwnProcess {
    fn asked_about(&self, process: u32) -> usize {
        self.0.lock().unwrap().iter().filter(|asked| **asked == PeerProcess::Pid(process)).count()
    }
}

impl Admission for OwnProcess {
    fn admits(&self, process: PeerProcess) -> bool {
        self.0.lock().unwrap().push(process);
        process == PeerProcess::Pid(std::process::id())
    }
}

fn admitting_own() -> (Arc<OwnProcess>, Options) {
    let admission = Arc::new(OwnProcess::default());
    let asked = admission.clone();
    (admission, options(|options| options.admission = Some(asked)))
}

/// A stranger that sends first, and repeatedly, is not received, and no event
/// reports it; a later peer is received.
pub fn strangers_are_not_heard(f: &Fixture) {
    if f.role().is_some() {
        let (push, request) = (f.push(&f.dial("pull")), f.request("reply"));
        loop {
            if push.connect(shortly()).is_ok() {
                let _ = push.send(b"forged", shortly());
            }
            if let Ok(connection) = request.connect(shortly()) {
                let _ = request.send(connection, b"forged", shortly());
            }
        }
    }
    let ((at_pull, pull_options), (at_reply, reply_options)) = (admitting_own(), admitting_own());
    let pull = f.transport().pull(&f.listen("pull"), &pull_options).unwrap();
    let reply = f.transport().reply(&f.at("reply"), &reply_options).unwrap();
    let stranger = f.spawn("stranger");
    let tried = || at_pull.asked_about(stranger.id()) >= 5 && at_reply.asked_about(stranger.id()) >= 5;
    assert!(eventually(tried), "the stranger gave up");
    let mut buffer = Vec::new();
    assert_error!(pull.receive(&mut buffer, shortly()), TransportError::Timeout);
    assert_error!(reply.receive(&mut buffer, shortly()), TransportError::Timeout);
    let push = f.push(&f.dial("pull"));
    join(&*push, &*pull);
    push.send(b"real", soon()).unwrap();
    assert_eq!(message(&*pull), b"real");
    let request = f.request("reply");
    let connection = introduce(&*request, &*reply);
    request.send(connection, b"real", soon()).unwrap();
    assert_eq!(asked(&*reply).1, b"real");
}

/// A listening push socket sends nothing to a stranger.
pub fn strangers_get_no_messages(f: &Fixture) {
    if f.role().is_some() {
        let pull = f.pull(&f.dial("push"));
        let mut buffer = Vec::new();
        loop {
            if let Ok(PullEvent::Message(_)) = pull.receive(&mut buffer, shortly()) {
                std::fs::write(f.folder().join("stolen"), &buffer).unwrap();
            }
        }
    }
    let (admission, own_only) = admitting_own();
    let push = f.transport().push(&f.listen("push"), &own_only).unwrap();
    let stranger = f.spawn("stranger");
    assert!(eventually(|| admission.asked_about(stranger.id()) >= 5), "the stranger gave up");
    assert_error!(push.send(b"secret", shortly()), TransportError::Timeout);
    let pull = f.pull(&f.dial("push"));
    join(&*push, &*pull);
    for _ in 0..20 {
        push.send(b"secret", soon()).unwrap();
        assert_eq!(message(&*pull), b"secret");
    }
    assert!(!f.folder().join("stolen").exists(), "a stranger was sent something");
}

/// A stranger that listens at a dialled address does not become a peer; its
/// admitted successor does.
pub fn strangers_are_not_dialled(f: &Fixture) {
    if f.role().is_some() {
        let _listening = (f.pull(&f.listen("pull")), f.push(&f.listen("push")), f.reply("reply"));
        return f.until_parent_is_gone();
    }
    let (admission, own_only) = admitting_own();
    let stranger = f.spawn("stranger");
    assert!(eventually(|| ["pull", "push", "reply"].iter().all(|name| crate::raw::is_listening(&f.at(name)))));
    let t = f.transport();
    let push = t.push(&f.dial("pull"), &own_only).unwrap();
    let pull = t.pull(&f.dial("push"), &own_only).unwrap();
    let request = t.request(&f.at("reply"), &own_only).unwrap();
    let mut buffer = Vec::new();
    let mut before = 0;
    for _ in 0..3 {
        assert_error!(push.send(b"secret", shortly()), TransportError::Timeout);
        assert_error!(pull.receive(&mut buffer, shortly()), TransportError::Timeout);
        assert_error!(request.connect(shortly()), TransportError::Timeout);
    }
    let tries_again = || {
        let _ = (push.connect(past()), pull.receive(&mut Vec::new(), past()), request.connect(past()));
        before = admission.asked_about(stranger.id());
        before >= 6
    };
    assert!(eventually(tries_again), "they do not dial again");
    stranger.kill();
    let (own_pull, own_push, reply) = (f.pull(&f.listen("pull")), f.push(&f.listen("push")), f.reply("reply"));
    join(&*push, &*own_pull);
    join(&*own_push, &*pull);
    introduce(&*request, &*reply);
}

/// Without a rule every process may connect; and a rule may be asked about a
/// process that has ended since.
pub fn admission_is_optional_and_asked_at_once(f: &Fixture) {
    if f.role().is_some() {
        let push = f.push(&f.dial("pull"));
        push.connect(soon()).unwrap();
        push.send(b"hello", soon()).unwrap();
        push.flush(soon()).unwrap();
        return f.until_parent_is_gone();
    }
    let pull = f.pull(&f.listen("pull"));
    let other = f.spawn("other");
    assert_eq!(message(&*pull), b"hello");
    drop((other, pull));
    // An admitted peer is not asked about again.
    let open = Arc::new(WhileOpen(AtomicBool::new(true)));
    let asked = open.clone();
    let while_open = options(|options| options.admission = Some(asked));
    let pull = f.transport().pull(&f.listen("once"), &while_open).unwrap();
    let push = f.push(&f.dial("once"));
    join(&*push, &*pull);
    open.0.store(false, Ordering::SeqCst);
    for _ in 0..100 {
        push.send(b"again", soon()).unwrap();
        assert_eq!(message(&*pull), b"again");
    }
}

/// The process of a connection that has sent a request is known while the
/// connection lives.
pub fn askers_are_known(f: &Fixture) {
    if f.role().is_some() {
        let request = f.request("reply");
        let connection = request.connect(soon()).unwrap();
        request.send(connection, b"hello", soon()).unwrap();
        return f.until_parent_is_gone();
    }
    let reply = f.reply("reply");
    let other = f.spawn("other");
    let (ticket, _) = asked(&*reply);
    assert_eq!(reply.peer(ticket.connection), Some(PeerProcess::Pid(other.id())));
    let request = f.request("reply");
    let connection = introduce(&*request, &*reply);
    request.send(connection, b"hello", soon()).unwrap();
    let own = asked(&*reply).0.connection;
    assert_eq!(reply.peer(own), Some(PeerProcess::Pid(std::process::id())));
    other.kill();
    let mut buffer = Vec::new();
    while reply.receive(&mut buffer, soon()).unwrap() != ReplyEvent::Disconnected(ticket.connection) {}
    assert_eq!(reply.peer(ticket.connection), None);
    assert!(reply.peer(own).is_some());
}

/// Admits every process until it is closed.
#[derive(Debug)]
struct WhileOpen(AtomicBool);

impl Admission for WhileOpen {
    fn admits(&self, _: PeerProcess) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

fn connected(f: &Fixture, name: &str) -> Arc<dyn Push> {
    let push = f.push(&Endpoint::Dial(f.at(name)));
    push.connect(soon()).unwrap();
    push
}

/// A new connection replaces the oldest one that has sent nothing; if all have
/// sent something, the new one is closed.
pub fn connections_have_a_limit(f: &Fixture) {
    let limit = options(|options| options.max_connections = 4);
    let pull = f.transport().pull(&f.listen("pull"), &limit).unwrap();
    let mut buffer = Vec::new();
    let mut next = || pull.receive(&mut buffer, soon()).unwrap();
    let mut silent = Vec::new();
    for _ in 0..4 {
        let push = connected(f, "pull");
        let PullEvent::Connected(id) = next() else { panic!("nobody came") };
        silent.push((push, id));
    }
    let speaker = connected(f, "pull");
    let (mut came, mut went) = (None, None);
    while came.is_none() || went.is_none() {
        match next() {
            PullEvent::Connected(id) => came = Some(id),
            PullEvent::Disconnected(id) => went = went.or(Some(id)),
            PullEvent::Message(_) => panic!("nobody has spoken"),
        }
    }
    assert_eq!(went, Some(silent[0].1), "not the oldest had to go");
    speaker.send(b"heard", soon()).unwrap();
    assert_eq!(message(&*pull), b"heard");
}

/// However many peers connect, there are never more than the limit, and those
/// that have sent something stay.
pub fn connections_that_speak_stay(f: &Fixture) {
    let limit = options(|options| options.max_connections = 3);
    let pull = f.transport().pull(&f.listen("pull"), &limit).unwrap();
    let reply = f.transport().reply(&f.at("reply"), &limit).unwrap();
    let speakers: Vec<_> = (0..3)
        .map(|_| {
            let push = f.push(&f.dial("pull"));
            join(&*push, &*pull);
            push.send(b"here", soon()).unwrap();
            assert_eq!(message(&*pull), b"here");
            push
        })
        .collect();
    let late = f.push(&f.dial("pull"));
    let mut buffer = Vec::new();
    for _ in 0..5 {
        let _ = late.send(b"late", shortly());
        // Its connection may be reported, but not its messages.
        while let Ok(event) = pull.receive(&mut buffer, Some(std::time::Instant::now() + Duration::from_millis(20))) {
            assert!(!matches!(event, PullEvent::Message(_)), "one too many is heard");
        }
    }
    for push in &speakers {
        push.send(b"still here", soon()).unwrap();
        assert_eq!(message(&*pull), b"still here");
    }
    drop(speakers);
    let give_up = soon();
    let mut heard = false;
    while !heard {
        assert!(std::time::Instant::now() < give_up.unwrap(), "nobody is let in after others have gone");
        let _ = late.send(b"late", shortly());
        let event = pull.receive(&mut buffer, shortly());
        heard = matches!(event, Ok(PullEvent::Message(_))) && buffer == b"late";
    }
    let requests: Vec<_> = (0..3)
        .map(|_| {
            let request = f.request("reply");
            let connection = introduce(&*request, &*reply);
            request.send(connection, b"here", soon()).unwrap();
            (asked(&*reply).0, request)
        })
        .collect();
    let late = f.request("reply");
    if let Ok(connection) = late.connect(shortly()) {
        let _ = late.send(connection, b"late", shortly());
    }
    while let Ok(event) = reply.receive(&mut buffer, shortly()) {
        assert!(!matches!(event, ReplyEvent::Request(_)), "one too many is heard");
    }
    for (ticket, request) in &requests {
        reply.send(ticket, b"answer", soon()).unwrap();
        request.receive(&mut buffer, soon()).unwrap();
        assert_eq!(buffer, b"answer");
    }
}
