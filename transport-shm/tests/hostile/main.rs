//! Peers that break every rule, or die at every step: each costs its own
//! connection at most, and no other connection's messages.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

mod raw;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ekuiper_conformance::raw::{PULL, PUSH, REP, REQ, claim, frame};
use ekuiper_conformance::{Fixture, PATIENCE, Suite, eventually, options, past, shortly, soon, wait_until};
use ekuiper_core::address::Address;
use ekuiper_core::transport::{ConnectionId, Pull, PullEvent, Push, Reply, ReplyEvent, Request, TransportError};
use ekuiper_transport_shm::ShmTransport;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FallocateFlags, SealFlags, fallocate, ftruncate};
use rustix::process::{Resource, getrlimit, setrlimit};

use raw::{
    CAPACITY, FROM_DIALLER, FROM_LISTENER, GREETING, HEAD, LENGTH, Memory, RECEIVER, RawPeer, SEALS, SENDER, TAIL,
    WITHOUT_MEMORY, accept_as, accept_with,
};

macro_rules! cases {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let suite = Suite::new(Arc::new(ShmTransport::new()), module_path!(), Vec::new());
                suite.run(stringify!($name), case::$name);
            }
        )*
    };
}

cases! {
    the_documented_bytes_are_understood
    indices_that_jump_end_their_connection
    indices_that_jump_end_a_senders_connection
    indices_that_jump_end_a_diallers_connection
    memory_that_changes_is_copied_before_it_is_parsed
    memory_that_changes_at_random_costs_nothing_else
    memory_keeps_its_length
    memory_of_the_wrong_kind_is_refused
    a_peer_that_never_wakes_is_not_waited_for
    a_peer_that_wakes_all_the_time_ends_no_wait_late
    a_peer_of_another_protocol_is_disconnected
    a_message_longer_than_the_limit
    a_dialler_that_is_killed_at_any_step
    a_listener_that_is_killed_ends_every_wait
    a_dialler_without_descriptors_uses_the_socket
    descriptors_that_are_stripped_leave_the_socket
    memory_that_cannot_be_made_leaves_the_socket
    a_refusal_comes_first_or_ends_the_connection
    an_idle_connection_costs_no_processor
    one_processor_is_enough
}

fn push(f: &Fixture, name: &str) -> Arc<dyn Push> {
    let push = f.push(&f.dial(name));
    push.connect(soon()).unwrap();
    push
}

/// The next message, and its connection.
fn message(pull: &dyn Pull) -> (ConnectionId, Vec<u8>) {
    let mut buffer = Vec::new();
    loop {
        if let PullEvent::Message(connection) = pull.receive(&mut buffer, soon()).unwrap() {
            return (connection, buffer);
        }
    }
}

fn disconnected(pull: &dyn Pull) -> ConnectionId {
    let mut buffer = Vec::new();
    loop {
        match pull.receive(&mut buffer, soon()).unwrap() {
            PullEvent::Disconnected(connection) => return connection,
            PullEvent::Connected(_) => {}
            PullEvent::Message(_) => panic!("a message of {} bytes", buffer.len()),
        }
    }
}

/// Whether all messages of an honest peer arrive, whatever else does.
fn honest_peer_is_heard(push: &dyn Push, pull: &dyn Pull, round: u32) {
    for number in 0..50u32 {
        let body = [&b"honest"[..], &round.to_be_bytes(), &number.to_be_bytes()].concat();
        push.send(&body, soon()).unwrap();
        while message(pull).1 != body {}
    }
}

mod case {
    use super::*;

    /// Both directions, byte by byte: the layout and the wire are these.
    pub(super) fn the_documented_bytes_are_understood(f: &Fixture) {
        let pull = f.pull(&f.listen("pull"));
        let peer = RawPeer::dial_as(&f.at("pull"), PUSH);
        peer.send(&frame(b"abc"));
        assert_eq!(message(&*pull).1, b"abc");
        let mut header = [0; 8];
        std::os::unix::fs::FileExt::read_exact_at(&peer.memory.0, &mut header, 4096).unwrap();
        assert_eq!((header, peer.memory.word(FROM_LISTENER, TAIL)), (PULL, 8));
        assert_eq!(peer.memory.word(FROM_DIALLER, HEAD), 8 + 9 + 3);
        // An orderly end is told in the memory, too.
        pull.close();
        assert!(peer.is_closed());
        let mut ended = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&peer.memory.0, &mut ended, 1024).unwrap();
        assert_eq!(u32::from_ne_bytes(ended), 1);
    }

    pub(super) fn indices_that_jump_end_their_connection(f: &Fixture) {
        let pull = f.pull(&f.listen("pull"));
        let honest = push(f, "pull");
        for (round, jump) in [CAPACITY + 1, 1 << 31, u32::MAX, u32::MAX - 8].into_iter().enumerate() {
            let before = ShmTransport::bad_indices();
            let peer = RawPeer::dial_as(&f.at("pull"), PUSH);
            peer.send(&frame(b"abc"));
            assert_eq!(message(&*pull).1, b"abc");
            let tail = peer.memory.word(FROM_DIALLER, TAIL);
            peer.memory.set(FROM_DIALLER, TAIL, tail.wrapping_add(jump));
            peer.ring();
            disconnected(&*pull);
            assert!(peer.is_closed());
            assert!(ShmTransport::bad_indices() > before, "it is not counted");
            honest_peer_is_heard(&*honest, &*pull, round as u32);
        }
    }

    /// The index of what was read, of a peer that answers go to.
    pub(super) fn indices_that_jump_end_a_senders_connection(f: &Fixture) {
        let reply = f.reply("reply");
        let honest = f.request("reply");
        let connection = honest.connect(soon()).unwrap();
        let mut buffer = Vec::new();
        let asked = |buffer: &mut Vec<u8>| loop {
            if let ReplyEvent::Request(ticket) = reply.receive(buffer, soon()).unwrap() {
                return ticket;
            }
        };
        for jump in [9, CAPACITY, u32::MAX] {
            let before = ShmTransport::bad_indices();
            let peer = RawPeer::dial_as(&f.at("reply"), REQ);
            peer.send(&frame(b"\x80\0\0\x01question"));
            let ticket = asked(&mut buffer);
            assert_eq!(buffer, b"question");
            peer.memory.set(FROM_LISTENER, HEAD, jump);
            // The index matters where what was read before leaves no room.
            let long = vec![0; CAPACITY as usize];
            assert!(matches!(reply.send(&ticket, &long, soon()), Err(TransportError::Disconnected)));
            assert!(ShmTransport::bad_indices() > before && peer.is_closed());
            honest.send(connection, b"honest", soon()).unwrap();
            let ticket = asked(&mut buffer);
            reply.send(&ticket, b"answer", soon()).unwrap();
            honest.receive(&mut buffer, soon()).unwrap();
            assert_eq!(buffer, b"answer");
        }
    }

    pub(super) fn indices_that_jump_end_a_diallers_connection(f: &Fixture) {
        let listener = UnixListener::bind(f.at("reply").path()).unwrap();
        let request = f.request("reply");
        let connect = |request: &dyn Request| {
            thread::scope(|scope| {
                let connecting = scope.spawn(|| request.connect(soon()).unwrap());
                let peer = accept_as(&listener, REP);
                (connecting.join().unwrap(), peer)
            })
        };
        for _ in 0..3 {
            let before = ShmTransport::bad_indices();
            let (connection, peer) = connect(&*request);
            request.send(connection, b"question", soon()).unwrap();
            let waiting = thread::scope(|scope| {
                // The thread waits in the word, and is woken by no bell.
                let waiting = scope.spawn(|| request.receive(&mut Vec::new(), None));
                wait_until("it waits", || peer.memory.word(FROM_LISTENER, RECEIVER) & 1 != 0);
                peer.memory.set(FROM_LISTENER, TAIL, 3 * CAPACITY);
                // The end of the socket wakes it.
                peer.socket.shutdown(std::net::Shutdown::Both).unwrap();
                waiting.join().unwrap()
            });
            assert!(matches!(waiting, Err(TransportError::Disconnected)), "{waiting:?}");
            assert!(ShmTransport::bad_indices() > before);
        }
        let (connection, _peer) = connect(&*request);
        request.send(connection, b"question", soon()).unwrap();
    }

    /// While a message is read, its bytes and its length change all the time:
    /// what is delivered is one of the messages that were there, or nothing.
    pub(super) fn memory_that_changes_is_copied_before_it_is_parsed(f: &Fixture) {
        let limit = options(|options| options.max_message = 1000);
        let pull = f.transport().pull(&f.listen("pull"), &limit).unwrap();
        let honest = push(f, "pull");
        let until = Instant::now() + Duration::from_secs(3);
        let mut round = 0;
        while Instant::now() < until {
            let peer = RawPeer::dial_as(&f.at("pull"), PUSH);
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                let (memory, stop) = (&peer.memory, &stop);
                scope.spawn(move || {
                    // Two frames of the same length in all, one of them of two.
                    let (one, two) = (frame(&[1; 900]), [frame(&[2; 300]), frame(&[2; 591])].concat());
                    let mut flips = 0;
                    while !stop.load(Ordering::Relaxed) {
                        memory.bytes(FROM_DIALLER, 8, if flips % 2 == 0 { &one } else { &two });
                        memory.bytes(FROM_DIALLER, 8 + 909, if flips % 3 == 0 { &[0xff; 64] } else { &one[..64] });
                        flips += 1;
                    }
                });
                let tail = peer.memory.word(FROM_DIALLER, TAIL);
                peer.memory.set(FROM_DIALLER, TAIL, tail + 909);
                peer.ring();
                honest.send(&u32::to_be_bytes(round), soon()).unwrap();
                loop {
                    let (_, body) = message(&*pull);
                    if body.len() == 4 {
                        assert_eq!(body, round.to_be_bytes());
                        break;
                    }
                    assert!(body.len() <= 1000, "a message above the limit");
                }
                stop.store(true, Ordering::Relaxed);
            });
            drop(peer);
            honest_peer_is_heard(&*honest, &*pull, round);
            round += 1;
        }
    }

    /// Every byte of the memory takes random values, its words too, while an
    /// honest peer goes on.
    pub(super) fn memory_that_changes_at_random_costs_nothing_else(f: &Fixture) {
        let (pull, reply) = (f.pull(&f.listen("pull")), f.reply("reply"));
        let honest = push(f, "pull");
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (at_pull, at_reply, stop) = (f.at("pull"), f.at("reply"), &stop);
            let hostile = [(7u64, at_pull, PUSH), (11, at_reply, REQ)].map(|(seed, address, header)| {
                scope.spawn(move || {
                    let mut state = seed;
                    let mut random = move || {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        (state >> 33) as u32
                    };
                    while !stop.load(Ordering::Relaxed) {
                        let peer = RawPeer::dial_as(&address, header);
                        for _ in 0..random() % 200 {
                            match random() % 6 {
                                // Not across the end of the ring.
                                0 if peer.memory.word(FROM_DIALLER, TAIL) % CAPACITY < CAPACITY / 2 => {
                                    peer.memory.append(FROM_DIALLER, &frame(&[7; 50]));
                                }
                                1 => peer.memory.set(FROM_DIALLER, TAIL, random() % (2 * CAPACITY)),
                                2 => peer.memory.set(FROM_LISTENER, HEAD, random() % 64),
                                3 => peer.memory.set(u64::from(random() % 2), SENDER, random()),
                                4 => peer.memory.set(u64::from(random() % 2), RECEIVER, random()),
                                _ => peer.memory.bytes(FROM_DIALLER, random() % CAPACITY / 2, &random().to_ne_bytes()),
                            }
                            if random() % 4 == 0 {
                                peer.ring();
                            }
                        }
                    }
                })
            });
            let answering = scope.spawn(|| {
                let mut buffer = Vec::new();
                while !matches!(reply.receive(&mut buffer, soon()), Err(TransportError::Closed)) {}
            });
            let until = Instant::now() + Duration::from_secs(4);
            let mut round = 0;
            while Instant::now() < until {
                honest_peer_is_heard(&*honest, &*pull, round);
                round += 1;
            }
            stop.store(true, Ordering::Relaxed);
            // A peer that is about to connect would be reset.
            hostile.into_iter().for_each(|peer| peer.join().unwrap());
            reply.close();
            answering.join().unwrap();
        });
    }

    /// A peer cannot make the memory shorter under a reader, which would be a
    /// fatal signal; a hole in it reads as zeros.
    pub(super) fn memory_keeps_its_length(f: &Fixture) {
        let pull = f.pull(&f.listen("pull"));
        let honest = push(f, "pull");
        let peer = RawPeer::dial_as(&f.at("pull"), PUSH);
        peer.send(&frame(b"abc"));
        assert_eq!(message(&*pull).1, b"abc");
        for length in [0, 4096, LENGTH + 1] {
            assert!(ftruncate(&peer.memory.0, length).is_err(), "{length}");
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&peer.memory.0, hole, 0, LENGTH).unwrap();
        peer.ring();
        disconnected(&*pull);
        honest_peer_is_heard(&*honest, &*pull, 0);
    }

    pub(super) fn memory_of_the_wrong_kind_is_refused(f: &Fixture) {
        let listener = UnixListener::bind(f.at("pull").path()).unwrap();
        let push = f.push(&f.dial("pull"));
        let good = || Memory::create(SEALS, LENGTH, PULL);
        let refused = |what: &str, bytes: &[u8], memory: &[&dyn AsFd]| {
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                let trying = scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        assert!(push.connect(shortly()).is_err(), "{what}");
                    }
                });
                let memory: Vec<_> = memory.iter().map(|memory| memory.as_fd()).collect();
                let mut socket = accept_with(&listener, bytes, &memory);
                // Closed, and nothing was said.
                let read = socket.read(&mut [0; 8]);
                stop.store(true, Ordering::Relaxed);
                let is_closed = matches!(&read, Ok(0)) || read.as_ref().is_err_and(is_reset);
                assert!(is_closed, "{what}: {read:?}");
                trying.join().unwrap();
            });
        };
        refused("memory that there is none of", &WITHOUT_MEMORY, &[&good().0]);
        refused("a file", &GREETING, &[&raw::file()]);
        refused("two descriptors", &GREETING, &[&good().0, &good().0]);
        refused("half a greeting", &GREETING[..4], &[&good().0]);
        refused("another version", b"\0ShM\0\x02\0\0", &[&good().0]);
        refused("SP", &PULL, &[]);
        for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
            refused("a missing seal", &GREETING, &[&Memory::create(SEALS.difference(missing), LENGTH, PULL).0]);
        }
        refused("sealed against writing", &GREETING, &[&Memory::create(SEALS | SealFlags::WRITE, LENGTH, PULL).0]);
        for length in [0, 1, LENGTH - 1, LENGTH + 1, 2 << 20] {
            refused("another length", &GREETING, &[&Memory::create(SEALS, length, PULL).0]);
        }
        // Its successor is another matter.
        drop(listener);
        let pull = f.pull(&f.listen("pull"));
        push.send(b"abc", soon()).unwrap();
        assert_eq!(message(&*pull).1, b"abc");
    }

    /// Neither for what it has written, nor for what it should have read.
    pub(super) fn a_peer_that_never_wakes_is_not_waited_for(f: &Fixture) {
        let pull = f.pull(&f.listen("pull"));
        let honest = push(f, "pull");
        let peer = RawPeer::dial_as(&f.at("pull"), PUSH);
        peer.send(&frame(b"abc"));
        assert_eq!(message(&*pull).1, b"abc");
        peer.memory.append(FROM_DIALLER, &frame(b"def"));
        let late = pull.receive(&mut Vec::new(), shortly());
        assert!(matches!(late, Err(TransportError::Timeout) | Ok(_)), "{late:?}");
        honest_peer_is_heard(&*honest, &*pull, 0);
        // What it reads without a word makes no room that is seen while waiting,
        // and closing ends that wait.
        let listening = f.push(&f.listen("push"));
        let peer = RawPeer::dial_as(&f.at("push"), PULL);
        listening.connect(soon()).unwrap();
        while listening.send(&[1; 1000], past()).is_ok() {}
        thread::scope(|scope| {
            let waiting = scope.spawn(|| listening.send(&[1; 1000], None));
            wait_until("it waits", || peer.memory.word(FROM_LISTENER, SENDER) != 0);
            listening.close();
            assert!(matches!(waiting.join().unwrap(), Err(TransportError::Closed)));
        });
    }

    pub(super) fn a_peer_that_wakes_all_the_time_ends_no_wait_late(f: &Fixture) {
        let listener = UnixListener::bind(f.at("pull").path()).unwrap();
        let (dialling, pull) = (f.push(&f.dial("pull")), f.pull(&f.listen("other")));
        let stop = AtomicBool::new(false);
        let flood = |mut socket: UnixStream| {
            while !stop.load(Ordering::Relaxed) && socket.write(&[0xeb; 64]).is_ok() {
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            let silent = scope.spawn(|| {
                let memory = Memory::create(SEALS, LENGTH, [0; 8]);
                flood(accept_with(&listener, &GREETING, &[memory.0.as_fd()]));
            });
            let peer = RawPeer::dial_as(&f.at("other"), PUSH);
            let flood = &flood;
            let noisy = scope.spawn(move || flood(peer.socket));
            for _ in 0..5 {
                let started = Instant::now();
                let connected = dialling.connect(Some(started + Duration::from_millis(100)));
                assert!(matches!(connected, Err(TransportError::Timeout)), "{connected:?}");
                let until = Some(Instant::now() + Duration::from_millis(100));
                while pull.receive(&mut Vec::new(), until).is_ok() {}
                assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
            }
            stop.store(true, Ordering::Relaxed);
            dialling.close();
            pull.close();
            silent.join().unwrap();
            noisy.join().unwrap();
        });
    }

    pub(super) fn a_peer_of_another_protocol_is_disconnected(f: &Fixture) {
        let pull = f.pull(&f.listen("pull"));
        let honest = push(f, "pull");
        for bytes in [&PUSH[..], b"GET / HTTP/1.1\r\n\r\n", &[0], &GREETING] {
            let peer = RawPeer::dial(&f.at("pull"));
            (&peer.socket).write_all(bytes).unwrap();
            assert!(peer.is_closed(), "{bytes:?}");
        }
        for header in [REQ, PULL, [0xff; 8]] {
            assert!(RawPeer::dial_as(&f.at("pull"), header).is_closed(), "{header:?}");
        }
        // In the middle of a connection, too.
        let peer = RawPeer::dial_as(&f.at("pull"), PUSH);
        peer.send(&frame(b"abc"));
        assert_eq!(message(&*pull).1, b"abc");
        (&peer.socket).write_all(b"nonsense").unwrap();
        disconnected(&*pull);
        honest_peer_is_heard(&*honest, &*pull, 0);
    }

    /// Its connection ends; a request's body is skipped, and costs no memory.
    pub(super) fn a_message_longer_than_the_limit(f: &Fixture) {
        let limit = options(|options| options.max_message = 1000);
        let pull = f.transport().pull(&f.listen("pull"), &limit).unwrap();
        let peer = RawPeer::dial_as(&f.at("pull"), PUSH);
        peer.send(&claim(1001));
        disconnected(&*pull);
        let peer = RawPeer::dial_as(&f.at("pull"), PUSH);
        peer.send(&claim(u64::MAX));
        disconnected(&*pull);
        let reply = f.transport().reply(&f.at("reply"), &limit).unwrap();
        let request = f.request("reply");
        let connection = request.connect(soon()).unwrap();
        // Many times the ring.
        request.send(connection, &vec![7; 3 << 20], past()).unwrap();
        let mut buffer = Vec::new();
        let ticket = loop {
            match reply.receive(&mut buffer, soon()).unwrap() {
                ReplyEvent::Oversized(ticket, length) => {
                    assert_eq!(length, 3 << 20);
                    break ticket;
                }
                ReplyEvent::Connected(_) => {}
                other => panic!("{other:?}"),
            }
        };
        reply.send(&ticket, b"too long", soon()).unwrap();
        request.receive(&mut buffer, soon()).unwrap();
        assert_eq!(buffer, b"too long");
    }

    pub(super) fn a_dialler_that_is_killed_at_any_step(f: &Fixture) {
        const STEPS: usize = 7;
        if let Some(step) = f.role() {
            let at = f.at("pull");
            let peer = match step {
                "0" => Err(UnixStream::connect(at.path()).unwrap()),
                "1" => Ok(RawPeer::dial(&at)),
                _ => Ok(RawPeer::dial_as(&at, PUSH)),
            };
            if let Ok(peer) = &peer {
                match step {
                    // Bytes without their index, and without a bell.
                    "3" => peer.memory.bytes(FROM_DIALLER, 8, &frame(b"lost")),
                    "4" => peer.memory.append(FROM_DIALLER, &frame(b"kept")),
                    // The beginning of a message.
                    "5" => peer.send(&frame(b"never whole")[..12]),
                    "6" => peer.send(&frame(b"kept")),
                    _ => {}
                }
            }
            std::fs::write(f.folder().join(format!("step{step}")), "").unwrap();
            return f.until_parent_is_gone();
        }
        let pull = f.pull(&f.listen("pull"));
        let honest = push(f, "pull");
        honest_peer_is_heard(&*honest, &*pull, 0);
        for step in 0..STEPS {
            let other = f.spawn(&step.to_string());
            wait_until("the step", || f.folder().join(format!("step{step}")).exists());
            other.kill();
            if step >= 2 {
                let mut kept = Vec::new();
                let mut buffer = Vec::new();
                loop {
                    match pull.receive(&mut buffer, soon()).unwrap() {
                        PullEvent::Message(_) => kept.push(buffer.clone()),
                        PullEvent::Disconnected(_) => break,
                        PullEvent::Connected(_) => {}
                    }
                }
                let expected: &[&[u8]] = if step == 4 || step == 6 { &[b"kept"] } else { &[] };
                assert_eq!(kept, expected, "step {step}");
            }
            honest_peer_is_heard(&*honest, &*pull, step as u32);
        }
    }

    /// Waits in memory and for the socket: for an answer, for room in the
    /// middle of a message, and for the next message.
    pub(super) fn a_listener_that_is_killed_ends_every_wait(f: &Fixture) {
        if f.role().is_some() {
            let _pull = f.pull(&f.listen("pull"));
            let _push = f.push(&f.listen("push"));
            let reply = f.reply("reply");
            // Requests are read, and never answered.
            loop {
                let _ = reply.receive(&mut Vec::new(), soon());
            }
        }
        for _ in 0..5 {
            let other = f.spawn("listener");
            let request = f.request("reply");
            let connection = request.connect(soon()).unwrap();
            let (dialling, pull) = (push(f, "pull"), f.pull(&f.dial("push")));
            assert!(matches!(pull.receive(&mut Vec::new(), soon()), Ok(PullEvent::Connected(_))));
            request.send(connection, b"question", soon()).unwrap();
            thread::scope(|scope| {
                let answered = scope.spawn(|| request.receive(&mut Vec::new(), None));
                let sent = scope.spawn(|| dialling.send(&vec![1; 4 << 20], None));
                let received = scope.spawn(|| pull.receive(&mut Vec::new(), None));
                // The message has begun.
                wait_until("the message", || dialling.backlog().unread.unwrap() > u64::from(CAPACITY / 2));
                other.kill();
                assert!(matches!(answered.join().unwrap(), Err(TransportError::Disconnected)));
                assert!(matches!(sent.join().unwrap(), Err(TransportError::Disconnected)));
                assert!(matches!(received.join().unwrap(), Ok(PullEvent::Disconnected(_))));
            });
        }
    }

    /// The socket can be opened, but not the memory that comes through it.
    pub(super) fn a_dialler_without_descriptors_uses_the_socket(f: &Fixture) {
        if f.role() == Some("listener") {
            let reply = f.reply("reply");
            loop {
                let mut buffer = Vec::new();
                if let Ok(ReplyEvent::Request(ticket)) = reply.receive(&mut buffer, soon()) {
                    reply.send(&ticket, &buffer, soon()).unwrap();
                }
            }
        }
        f.alone(|f| {
            let _listener = f.spawn("listener");
            let request = f.request("reply");
            assert!(eventually(|| ekuiper_conformance::raw::is_listening(&f.at("reply"))));
            let former = getrlimit(Resource::Nofile);
            setrlimit(Resource::Nofile, rustix::process::Rlimit { current: Some(256), ..former }).unwrap();
            let mut full: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
            full.pop();
            let ask = |connection: ConnectionId| {
                request.send(connection, b"question", soon()).unwrap();
                let mut buffer = Vec::new();
                request.receive(&mut buffer, soon()).unwrap();
                assert_eq!(buffer, b"question");
            };
            // The one that is left is for the socket, and none for the memory.
            ask(request.connect(soon()).unwrap());
            drop(full);
            setrlimit(Resource::Nofile, former).unwrap();
            assert_eq!(memories(), 0);
            ask(request.connect(soon()).unwrap());
        });
    }

    /// The system may take descriptors out of messages, as SELinux does.
    pub(super) fn descriptors_that_are_stripped_leave_the_socket(f: &Fixture) {
        let (pull, reply) = (f.pull(&f.listen("pull")), f.reply("reply"));
        for name in ["pull", "reply"] {
            strip_descriptors(&f.at(&format!("proxy-{name}")), f.at(name));
        }
        all_patterns_work(&*f.push(&f.dial("proxy-pull")), &*pull, &*f.request("proxy-reply"), &*reply);
        // Of these connections alone: the others are in memory.
        let before = memories();
        let honest = push(f, "pull");
        honest_peer_is_heard(&*honest, &*pull, 0);
        assert!(memories() > before, "memory is not used at all");
        // A dialler that sees the end of its listener.
        let mut buffer = Vec::new();
        let request = f.request("proxy-reply");
        let connection = request.connect(soon()).unwrap();
        request.send(connection, b"question", soon()).unwrap();
        reply.close();
        assert!(matches!(request.receive(&mut buffer, soon()), Err(TransportError::Disconnected)));
    }

    /// A sandbox may forbid the calls that make memory.
    pub(super) fn memory_that_cannot_be_made_leaves_the_socket(f: &Fixture) {
        f.alone(|f| {
            assert!(ShmTransport::is_available());
            raw::forbid_memory();
            assert!(!ShmTransport::is_available());
            let (pull, reply) = (f.pull(&f.listen("pull")), f.reply("reply"));
            all_patterns_work(&*f.push(&f.dial("pull")), &*pull, &*f.request("reply"), &*reply);
            assert_eq!(memories(), 0);
        });
    }

    pub(super) fn a_refusal_comes_first_or_ends_the_connection(f: &Fixture) {
        let pull = f.pull(&f.listen("pull"));
        // The refusal, and then SP.
        let peer = RawPeer::dial(&f.at("pull"));
        (&peer.socket).write_all(&[&[0xec], &PUSH[..], &frame(b"abc")].concat()).unwrap();
        assert_eq!(message(&*pull).1, b"abc");
        let mut header = [0; 8];
        (&peer.socket).read_exact(&mut header).unwrap();
        assert_eq!(header, PULL);
        // What is in memory is not read any more.
        peer.memory.append(FROM_DIALLER, &PUSH);
        (&peer.socket).write_all(&frame(b"def")).unwrap();
        assert_eq!(message(&*pull).1, b"def");
        drop(peer);
        disconnected(&*pull);
        // After a use of the memory it is none.
        let peer = RawPeer::dial_as(&f.at("pull"), PUSH);
        peer.send(&frame(b"abc"));
        assert_eq!(message(&*pull).1, b"abc");
        (&peer.socket).write_all(&[0xec]).unwrap();
        disconnected(&*pull);
        assert!(peer.is_closed());
    }

    pub(super) fn an_idle_connection_costs_no_processor(f: &Fixture) {
        f.alone(|f| {
            let (pull, reply) = (f.pull(&f.listen("pull")), f.reply("reply"));
            let honest = push(f, "pull");
            honest_peer_is_heard(&*honest, &*pull, 0);
            let request = f.request("reply");
            let connection = request.connect(soon()).unwrap();
            request.send(connection, b"question", soon()).unwrap();
            thread::scope(|scope| {
                let until = Some(Instant::now() + Duration::from_secs(2));
                let before = usage();
                scope.spawn(move || while pull.receive(&mut Vec::new(), until).is_ok() {});
                scope.spawn(move || while reply.receive(&mut Vec::new(), until).is_ok() {});
                scope.spawn(move || request.receive(&mut Vec::new(), until).unwrap_err());
                while Some(Instant::now()) < until {
                    thread::sleep(Duration::from_millis(100));
                }
                let used = usage() - before;
                assert!(used < Duration::from_millis(100), "{used:?} of processor time in two seconds");
            });
        });
    }

    /// Two busy processes on one processor: nobody spins while the other one
    /// should run.
    pub(super) fn one_processor_is_enough(f: &Fixture) {
        const CALLS: u32 = 2000;
        if f.role() == Some("listener") {
            let reply = f.reply("reply");
            let mut buffer = Vec::new();
            loop {
                if let Ok(ReplyEvent::Request(ticket)) = reply.receive(&mut buffer, soon()) {
                    reply.send(&ticket, &buffer, soon()).unwrap();
                }
            }
        }
        f.alone(|f| {
            // Inherited by the threads and the process that are made from now
            // on.
            let mut one = rustix::thread::CpuSet::new();
            let allowed = rustix::thread::sched_getaffinity(None).unwrap();
            one.set((0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap());
            rustix::thread::sched_setaffinity(None, &one).unwrap();
            let _listener = f.spawn("listener");
            let request = f.request("reply");
            let connection = request.connect(soon()).unwrap();
            let mut buffer = Vec::new();
            for number in 0..CALLS {
                request.send(connection, &number.to_be_bytes(), soon()).unwrap();
                request.receive(&mut buffer, soon()).unwrap();
                assert_eq!(buffer, number.to_be_bytes());
            }
        });
    }
}

/// Sends, asks, answers and waits, in messages of all lengths.
fn all_patterns_work(push: &dyn Push, pull: &dyn Pull, request: &dyn Request, reply: &dyn Reply) {
    push.connect(soon()).unwrap();
    let connection = request.connect(soon()).unwrap();
    let mut buffer = Vec::new();
    for length in [0, 1, 100, 5000, 1 << 20] {
        let body = vec![7; length];
        thread::scope(|scope| {
            scope.spawn(|| push.send(&body, soon()).unwrap());
            assert_eq!(message(pull).1, body);
        });
        thread::scope(|scope| {
            scope.spawn(|| {
                request.send(connection, &body, soon()).unwrap();
                let mut answer = Vec::new();
                request.receive(&mut answer, soon()).unwrap();
                assert_eq!(answer, body);
            });
            loop {
                if let ReplyEvent::Request(ticket) = reply.receive(&mut buffer, soon()).unwrap() {
                    assert_eq!(buffer, body);
                    // The dialler blocks by now, or will.
                    thread::yield_now();
                    reply.send(&ticket, &buffer, soon()).unwrap();
                    break;
                }
            }
        });
        // Nothing is there, and nothing is reported.
        while pull.receive(&mut buffer, past()).is_ok() {}
        let mut readable = [PollFd::from_borrowed_fd(pull.readiness().unwrap(), PollFlags::IN)];
        assert_eq!(poll(&mut readable, Some(&Timespec::default())), Ok(0));
        push.send(b"next", soon()).unwrap();
        assert_eq!(poll(&mut readable, Some(&PATIENCE.try_into().unwrap())), Ok(1));
        assert_eq!(message(pull).1, b"next");
    }
    push.flush(soon()).unwrap();
}

/// How many memories of connections this process has mapped.
fn memories() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("memfd:ekuiper")).count()
}

/// Passes on the bytes, and no descriptors, between a listener and the diallers
/// of another address.
fn strip_descriptors(at: &Address, to: Address) {
    let listener = UnixListener::bind(at.path()).unwrap();
    thread::spawn(move || {
        for dialler in listener.incoming() {
            let (dialler, listener) = (dialler.unwrap(), UnixStream::connect(to.path()).unwrap());
            let pass = |mut from: UnixStream, mut to: UnixStream| {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            };
            pass(dialler.try_clone().unwrap(), listener.try_clone().unwrap());
            pass(listener, dialler);
        }
    });
}

fn is_reset(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::ConnectionReset
}

/// The processor time of this process.
fn usage() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
