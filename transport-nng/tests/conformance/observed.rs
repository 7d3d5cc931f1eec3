//! libnng's actual behaviour on the wire and with its peers.

use std::thread;
use std::time::{Duration, Instant};

use ekuiper_conformance::raw::{PULL, PUSH, REP, REQ, RawListener, RawPeer, claim, frame};
use ekuiper_conformance::{Fixture, eventually, options, pattern, soon};
use ekuiper_core::transport::{ConnectionId, Pull, PullEvent, Push, Reply, ReplyEvent, Request, TransportError};

/// Returns the next message of a pull socket, and skips connection events.
pub(crate) fn message(pull: &dyn Pull) -> Vec<u8> {
    let mut buffer = Vec::new();
    while !matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Message(_)) {}
    buffer
}

/// A peer may take 10 s for each piece of its header; then it is disconnected.
pub(crate) fn each_piece_of_a_header_has_10_s(f: &Fixture) {
    const PIECE: Duration = Duration::from_secs(10);
    let _pull = f.pull(&f.listen("pull"));
    let mut peer = RawPeer::dial(&f.at("pull"));
    let mut since = Instant::now();
    for byte in &PUSH[..2] {
        since = Instant::now();
        assert!(peer.try_write(&[*byte]), "hung up on");
        assert!(!peer.is_closed_within(Duration::from_secs(6)) || since.elapsed() >= PIECE, "too early");
    }
    // The peer has been connected for 12 s by now.
    assert!(peer.is_closed_within(2 * PIECE), "a piece may take for ever");
    assert!(since.elapsed() >= PIECE - Duration::from_secs(1), "too early");
}

/// A claimed length within the limit is reserved, but not touched, before its
/// bytes arrive; libnng supports no limit of 4 GiB or more.
pub(crate) fn a_claim_costs_address_space(f: &Fixture) {
    f.alone(|f| {
        const CLAIM: u64 = 256 << 20;
        let large = options(|options| options.max_message = 8 << 30);
        let pull = f.transport().pull(&f.listen("pull"), &large).unwrap();
        let mut claimants: Vec<_> = (0..4).map(|_| RawPeer::dial_as(&f.at("pull"), PUSH, PULL)).collect();
        claimants.iter_mut().for_each(|peer| peer.write(&claim(CLAIM)));
        assert!(eventually(|| reserved(CLAIM) >= 4 * CLAIM), "nothing was reserved");
        assert!(resident() < CLAIM, "the memory is in use");
        RawPeer::dial_as(&f.at("pull"), PUSH, PULL).write(&frame(b"good"));
        assert_eq!(message(&*pull), b"good");
        drop(claimants);
        assert!(eventually(|| reserved(CLAIM) == 0), "it is not given back");
        let mut peer = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
        peer.write(&claim(4 << 30));
        peer.expect_closed();
    });
}

/// Returns how much this process has mapped for writing, in pieces of at least
/// `piece` bytes.
fn reserved(piece: u64) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let sizes = maps.lines().filter(|line| line.contains(" rw-p ")).map(|line| {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        u64::from_str_radix(to, 16).unwrap() - u64::from_str_radix(from, 16).unwrap()
    });
    sizes.filter(|size| *size >= piece).sum()
}

/// Returns how much of this process's memory is resident.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

/// A peer that stops in the middle of a message stays connected, whatever the
/// option, and does not block others; the message is delivered when its rest
/// arrives.
pub(crate) fn the_rest_of_a_message_is_waited_for(f: &Fixture) {
    let impatient = options(|options| options.stall_timeout = Duration::from_millis(100));
    let pull = f.transport().pull(&f.listen("pull"), &impatient).unwrap();
    let whole = frame(b"abc");
    for begun in [1, 9, 11] {
        let mut peer = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
        peer.write(&whole[..begun]);
        assert!(!peer.is_closed_within(Duration::from_secs(1)), "after {begun} bytes");
        RawPeer::dial_as(&f.at("pull"), PUSH, PULL).write(&frame(b"other"));
        assert_eq!(message(&*pull), b"other");
        peer.write(&whole[begun..]);
        assert_eq!(message(&*pull), b"abc");
    }
}

/// Replies to another request, and repeated ones, are dropped; a reply that is
/// too short for an id, or has none, ends the connection, and a new connection
/// works.
pub(crate) fn replies_without_an_id_end_the_connection(f: &Fixture) {
    let at = RawListener::bind(&f.at("request"));
    let request = f.request("request");
    let mut buffer = Vec::new();
    let reply = |id: [u8; 4], body: &[u8]| frame(&[&id, body].concat());
    for malformed in [&b""[..], b"\x80\0\0", b"\0\0\0\x01\0\0\0\x02bod"] {
        let (connection, mut peer) = connected(&*request, &at);
        let mut last = None;
        for _ in 0..3 {
            request.send(connection, b"question", soon()).unwrap();
            let content = peer.frame();
            let id = *content.first_chunk::<4>().unwrap();
            if let Some(last) = last.replace(id) {
                peer.write(&reply(last, b"late"));
            }
            let unknown = [id[0], id[1] ^ 1, id[2], id[3]];
            peer.write(&[reply(unknown, b"unknown"), reply(id, b"right"), reply(id, b"duplicate")].concat());
            request.receive(&mut buffer, soon()).unwrap();
            assert_eq!(buffer, b"right");
        }
        request.send(connection, b"question", soon()).unwrap();
        peer.frame();
        peer.write(&frame(malformed));
        match request.receive(&mut buffer, soon()) {
            Err(TransportError::Disconnected) => {}
            other => panic!("{other:?} after {malformed:?}"),
        }
        peer.expect_closed();
    }
}

/// Connects a request socket to a raw peer.
fn connected(request: &dyn Request, at: &RawListener) -> (ConnectionId, RawPeer) {
    thread::scope(|scope| {
        let connecting = scope.spawn(|| request.connect(soon()).unwrap());
        let peer = at.accept_as(REP, REQ);
        (connecting.join().unwrap(), peer)
    })
}

/// A malformed request ends its connection only. A peer that has disconnected
/// before its connection was reported is not reported at all; of any other peer
/// both events are.
pub(crate) fn malformed_requests_may_leave_without_a_word(f: &Fixture) {
    let reply = f.reply("reply");
    let mut buffer = Vec::new();
    let mut other = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    let ReplyEvent::Connected(other_id) = reply.receive(&mut buffer, soon()).unwrap() else { panic!("nobody") };
    for content in [&b""[..], b"\x80\0\0", b"\0\0\0\x01", b"\0\0\0\x01body", b"\0\0\0\x01\0\0\0\x02\x80\0"] {
        let mut peer = RawPeer::dial_as(&f.at("reply"), REQ, REP);
        peer.write(&frame(content));
        peer.expect_closed();
        other.write(&frame(b"\x80\0\0\x01other"));
        let mut present = None;
        let mut ticket = None;
        // Until the other peer was received, and every new connection has
        // ended.
        while ticket.is_none() || present.is_some() {
            match reply.receive(&mut buffer, soon()).unwrap() {
                ReplyEvent::Connected(id) => assert_eq!(present.replace(id), None, "after {content:?}"),
                ReplyEvent::Disconnected(id) => assert_eq!(present.take(), Some(id), "after {content:?}"),
                ReplyEvent::Request(request) => assert!(ticket.replace(request).is_none(), "after {content:?}"),
                ReplyEvent::Oversized(..) => panic!("after {content:?}"),
            }
        }
        let ticket = ticket.unwrap();
        assert_eq!(ticket.connection, other_id);
        reply.send(&ticket, b"answer", soon()).unwrap();
        assert_eq!(other.frame(), b"\x80\0\0\x01answer");
    }
}

/// Two peers that redial when they are disconnected, as every library's do,
/// share the messages: each message is delivered once, each peer's in order,
/// and both peers receive more. Also if the second one connects while the first
/// one takes everything.
pub(crate) fn peers_that_dial_again_share(f: &Fixture) {
    let push = f.push(&f.listen("push"));
    let mut peers = Vec::new();
    for _ in 0..2 {
        let newcomer = let_in(f, &*push, &mut peers);
        peers.push(newcomer);
    }
    let mut got: [Vec<u32>; 2] = Default::default();
    let mut sent = 0;
    assert!(eventually(|| {
        push.send(&u32::to_be_bytes(sent), soon()).unwrap();
        sent += 1;
        for (peer, got) in peers.iter_mut().zip(&mut got).filter(|(peer, _)| peer.has_something()) {
            got.push(number(peer));
        }
        sent >= 10 && got.iter().all(|got| !got.is_empty())
    }));
    while got[0].len() + got[1].len() < sent as usize {
        for (peer, got) in peers.iter_mut().zip(&mut got).filter(|(peer, _)| peer.has_something()) {
            got.push(number(peer));
        }
    }
    assert!(got.iter().all(|numbers| numbers.is_sorted()), "{got:?}");
    let mut all = got.concat();
    all.sort();
    assert!(all.iter().copied().eq(0..sent), "{got:?}");
}

/// Returns the next message, which is a number.
fn number(peer: &mut RawPeer) -> u32 {
    u32::from_be_bytes(peer.frame().try_into().unwrap())
}

/// Returns a peer that has received a message, in addition to `others`.
fn let_in(f: &Fixture, push: &dyn Push, others: &mut [RawPeer]) -> RawPeer {
    let dial = || RawPeer::dial_as(&f.at("push"), PULL, PUSH);
    let mut newcomer = dial();
    loop {
        push.send(b"message", soon()).unwrap();
        let mut read = false;
        assert!(eventually(|| {
            for other in others.iter_mut().filter(|other| other.has_something()) {
                assert_eq!(other.frame(), b"message");
                read = true;
            }
            read || newcomer.has_something()
        }));
        if newcomer.has_something() {
            match newcomer.try_frame() {
                Some(body) => {
                    assert_eq!(body, b"message");
                    return newcomer;
                }
                None => newcomer = dial(),
            }
        }
    }
}

/// Next to a flooding peer, every message of a slow peer is received: not in
/// its very next turn, but far before all that the flooding peer would send.
pub(crate) fn a_trickle_is_heard_beside_a_flood(f: &Fixture) {
    let pull = f.pull(&f.listen("pull"));
    let mut buffer = Vec::new();
    let (mut flooder, mut trickler) = (RawPeer::dial(&f.at("pull")), RawPeer::dial(&f.at("pull")));
    thread::scope(|scope| {
        // Dropped here on a failure, so that the flooding peer ends.
        let pull = pull;
        scope.spawn(move || {
            flooder.write(&PUSH);
            flooder.flood(&frame(&[b'f'; 100]).repeat(1000));
        });
        trickler.write(&PUSH);
        let mut peers = 0;
        while peers < 2 {
            peers += usize::from(matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Connected(_)));
        }
        for _ in 0..100 {
            trickler.write(&frame(b"trickle"));
            let mut before = 0;
            while pull.receive(&mut buffer, soon()).is_ok() && buffer != b"trickle" {
                before += 1;
                assert!(before < 50_000, "only the flood is heard");
            }
        }
    });
}

/// Peers are accepted while no thread receives, up to the limit, and free their
/// descriptors when they disconnect: a later peer is received.
pub(crate) fn crowds_are_let_in_and_leave_nothing(f: &Fixture) {
    f.alone(|f| {
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let pull = f.pull(&f.listen("pull"));
        let before = descriptors();
        // Both ends of each connection are in this process.
        let crowd: Vec<_> = (0..100).map(|_| RawPeer::dial_as(&f.at("pull"), PUSH, PULL)).collect();
        assert!(eventually(|| descriptors() >= before + 200), "they are not let in");
        drop(crowd);
        assert!(eventually(|| descriptors() < before + 100), "{} descriptors after {before}", descriptors());
        let mut good = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
        good.write(&frame(b"good"));
        assert_eq!(message(&*pull), b"good");
    });
}

/// A peer that connects above the limit is disconnected, until an earlier one
/// has left.
pub(crate) fn who_comes_beyond_the_limit_has_to_go(f: &Fixture) {
    let limit = options(|options| options.max_connections = 2);
    let pull = f.transport().pull(&f.listen("pull"), &limit).unwrap();
    let mut buffer = Vec::new();
    let mut there: Vec<_> = (0..2)
        .map(|_| {
            let peer = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
            assert!(matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Connected(_)));
            peer
        })
        .collect();
    let mut late = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
    late.expect_closed();
    there[1].write(&frame(b"there"));
    assert_eq!(message(&*pull), b"there");
    there.pop();
    while !matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Disconnected(_)) {}
    let mut next = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
    next.write(&frame(b"next"));
    assert_eq!(message(&*pull), b"next");
}

/// A request of up to 1 MiB more than the limit is reported as oversized; a
/// longer one ends its connection, and the next connection works.
pub(crate) fn requests_that_are_far_too_long_end_the_connection(f: &Fixture) {
    let limit = options(|options| options.max_message = 1000);
    let reply = f.transport().reply(&f.at("reply"), &limit).unwrap();
    let request = f.request("reply");
    let mut buffer = Vec::new();
    for _ in 0..2 {
        let connection = request.connect(soon()).unwrap();
        for length in [1001, 100_000, 1_000_000] {
            request.send(connection, &pattern(length, 0), soon()).unwrap();
            match next(&*reply) {
                ReplyEvent::Oversized(ticket, found) => {
                    assert_eq!(found, length as u64);
                    reply.send(&ticket, b"too long", soon()).unwrap();
                }
                other => panic!("expected one that is too long, got {other:?}"),
            }
            request.receive(&mut buffer, soon()).unwrap();
            assert_eq!(buffer, b"too long");
        }
        request.send(connection, &pattern(5_000_000, 0), soon()).unwrap();
        assert!(matches!(request.receive(&mut buffer, soon()), Err(TransportError::Disconnected)));
        assert!(matches!(next(&*reply), ReplyEvent::Disconnected(_)));
    }
}

/// Returns the next event that is not a new connection.
fn next(reply: &dyn Reply) -> ReplyEvent {
    loop {
        match reply.receive(&mut Vec::new(), soon()).unwrap() {
            ReplyEvent::Connected(_) => {}
            event => return event,
        }
    }
}
