//! Framing of messages: cases 5, 6 and 9 to 15.

use std::thread;
use std::time::Duration;

use ekuiper_core::transport::TransportError;

use crate::pump::{PullPump, Pulled, ReplyPump};
use crate::raw::{PULL, PUSH, REP, REQ, RawListener, RawPeer, claim, frame};
use crate::{Fixture, assert_error, eventually, options, pattern, shortly, soon};

/// Case 5: header and frame arrive in one write.
pub fn case_05_header_and_frame_in_one_write(f: &Fixture) {
    let pull = PullPump::of(f.pull(&f.listen("pull")));
    let mut peer = RawPeer::dial(&f.at("pull"));
    peer.write(&[&PUSH[..], &frame(b"one"), &frame(b"two")].concat());
    pull.connected();
    assert_eq!((pull.message(), pull.message()), (b"one".to_vec(), b"two".to_vec()));
    let reply = ReplyPump::of(f.reply("reply"));
    let mut peer = RawPeer::dial(&f.at("reply"));
    peer.write(&[&REQ[..], &frame(b"\x80\0\0\x01one")].concat());
    assert_eq!(reply.request().1, b"one");
}

/// Case 6: every byte arrives in a write of its own.
pub fn case_06_one_byte_writes(f: &Fixture) {
    let pull = PullPump::of(f.pull(&f.listen("pull")));
    let mut peer = RawPeer::dial(&f.at("pull"));
    let body = pattern(300, 6);
    for byte in [&PUSH[..], &frame(&body), &frame(b""), &frame(b"end")].concat() {
        peer.write(&[byte]);
    }
    assert_eq!((pull.message(), pull.message(), pull.message()), (body, vec![], b"end".to_vec()));
}

/// Frames of a PUSH and a REQ have the bytes that libnng writes.
pub fn frames_are_the_documented_bytes(f: &Fixture) {
    let push_at = RawListener::bind(&f.at("push"));
    let request_at = RawListener::bind(&f.at("request"));
    let push = f.push(&f.dial("push"));
    let request = f.request("request");
    thread::scope(|scope| {
        scope.spawn(|| {
            push.send(b"abc", soon()).unwrap();
            push.send(b"", soon()).unwrap();
            let connection = request.connect(soon()).unwrap();
            request.send(connection, b"hello", soon()).unwrap();
        });
        let mut pull = push_at.accept_as(PULL, PUSH);
        pull.expect(b"\x01\0\0\0\0\0\0\0\x03abc");
        pull.expect(b"\x01\0\0\0\0\0\0\0\0");
        let mut reply = request_at.accept_as(REP, REQ);
        let content = reply.frame();
        assert_eq!(content.len(), 9);
        assert_eq!((content[0] & 0x80, &content[4..]), (0x80, &b"hello"[..]));
    });
}

/// Each of `breaches` ends the connection on which it follows a good header and
/// a good message; the message before it is delivered, and another peer is not
/// affected.
fn breaches_end_only_their_connection(f: &Fixture, breaches: &[&[u8]]) {
    let pull = PullPump::of(f.pull(&f.listen("pull")));
    let mut other = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
    let other_id = pull.connected();
    for breach in breaches {
        let mut peer = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
        peer.write(&[&frame(b"before")[..], breach].concat());
        peer.expect_closed();
        let id = pull.connected();
        assert_eq!(pull.next(), Pulled::Message(id, b"before".to_vec()), "before {breach:?}");
        assert_eq!(pull.next(), Pulled::Disconnected(id), "after {breach:?}");
        other.write(&frame(b"other"));
        assert_eq!(pull.next(), Pulled::Message(other_id, b"other".to_vec()));
    }
}

/// Case 9: a frame type other than 1 ends the connection.
pub fn case_09_frame_types(f: &Fixture) {
    breaches_end_only_their_connection(f, &[&[0; 9], b"\x02\0\0\0\0\0\0\0\x03abc", &[0xff; 9]]);
}

/// Case 10: a length that no memory can hold ends the connection.
pub fn case_10_absurd_lengths(f: &Fixture) {
    let claims = [1u64 << 63, u64::MAX, 1 << 50].map(claim);
    breaches_end_only_their_connection(f, &claims.each_ref().map(|claim| &claim[..]));
}

/// Case 10 without a limit on lengths: such a message never arrives.
pub fn case_10_absurd_lengths_without_a_limit(f: &Fixture) {
    let unlimited = options(|options| options.max_message = usize::MAX);
    let pull = PullPump::of(f.transport().pull(&f.listen("pull"), &unlimited).unwrap().into());
    let reply = ReplyPump::of(f.transport().reply(&f.at("reply"), &unlimited).unwrap().into());
    let before = Memory::now();
    let mut claimants = Vec::new();
    for length in [1 << 63, u64::MAX, u64::MAX - 8, u64::MAX - 40, 1 << 50] {
        for (address, own, other) in [(f.at("pull"), PUSH, PULL), (f.at("reply"), REQ, REP)] {
            let mut peer = RawPeer::dial_as(&address, own, other);
            peer.write(&claim(length));
            peer.try_write(b"\x80\0\0\x01abc");
            // A petabyte is a possible length; the others are not.
            if length > 1 << 50 {
                peer.expect_closed();
            }
            claimants.push(peer);
        }
    }
    RawPeer::dial_as(&f.at("pull"), PUSH, PULL).write(&frame(b"good"));
    assert_eq!(pull.message(), b"good");
    RawPeer::dial_as(&f.at("reply"), REQ, REP).write(&frame(b"\x80\0\0\x01good"));
    assert_eq!(reply.request().1, b"good");
    before.assert_flat();
}

/// Case 11: a claim of 4 GiB costs no memory before its bytes arrive.
pub fn case_11_a_claim_costs_no_memory(f: &Fixture) {
    // More than any machine here has to spare, and less than half its addresses.
    let claimed: usize = 1 << (usize::BITS.min(34) - 2);
    let large = options(|options| options.max_message = claimed);
    let pull = PullPump::of(f.transport().pull(&f.listen("pull"), &large).unwrap().into());
    let before = Memory::now();
    // Several, so that the memory of other cases does not matter.
    let mut claimants: Vec<_> = (0..8).map(|_| RawPeer::dial_as(&f.at("pull"), PUSH, PULL)).collect();
    claimants.iter_mut().for_each(|peer| peer.write(&claim(claimed as u64)));
    let mut good = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
    for _ in 0..3 {
        // A few bytes of the claimed message, and a turn for every peer.
        claimants.iter_mut().for_each(|peer| peer.write(&[7; 100]));
        good.write(&frame(b"good"));
        assert_eq!(pull.message(), b"good");
    }
    before.assert_flat();
    assert!(claimants.iter_mut().all(|peer| !peer.is_closed_within(Duration::from_millis(1))));
}

/// Peers that begin long messages and have never sent a whole one share a
/// memory budget; a peer that has sent one is received to the end.
pub fn beginnings_share_a_budget(f: &Fixture) {
    const LONG: usize = 4 << 20;
    let small = options(|options| {
        options.max_message = LONG;
        options.max_connections = 8;
    });
    let pull = PullPump::of(f.transport().pull(&f.listen("pull"), &small).unwrap().into());
    let mut good = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
    pull.connected();
    good.write(&frame(b"good"));
    assert_eq!(pull.message(), b"good");
    let body = pattern(LONG, 3);
    let (first, rest) = body.split_at(LONG - 1000);
    good.write(&[&claim(LONG as u64), first].concat());
    let mut beginners: Vec<_> = (0..6).map(|_| RawPeer::dial_as(&f.at("pull"), PUSH, PULL)).collect();
    for beginner in &mut beginners {
        beginner.try_write(&[&claim(LONG as u64), first].concat());
    }
    let few_are_left = || {
        beginners.retain_mut(|beginner| !beginner.is_closed_within(Duration::from_millis(10)));
        beginners.len() <= 2
    };
    assert!(eventually(few_are_left), "each may have as much as it likes");
    good.write(rest);
    let mut heard = Vec::new();
    while heard.len() != LONG {
        // Skips connection events.
        if let Pulled::Message(_, message) = pull.next() {
            heard = message;
        }
    }
    assert!(heard == body, "the message is not what was sent");
}

/// The memory of this process in KiB: mapped and resident.
struct Memory([u64; 2]);

impl Memory {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        Self(["VmSize:", "VmRSS:"].map(|name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_end_matches("kB").trim().parse().unwrap()
        }))
    }

    /// Other cases run in this process too, and threads reserve address space:
    /// only gigabytes are an error.
    fn assert_flat(&self) {
        let now = Self::now();
        let [total, resident] = [0, 1].map(|which| now.0[which].saturating_sub(self.0[which]) / 1024);
        assert!(total < 8 * 1024 && resident < 1024, "{total} MiB more are mapped, {resident} MiB are resident");
    }
}

/// Case 12: a message of the maximum length arrives; one more byte ends the
/// connection, and earlier messages arrive.
pub fn case_12_maximum_and_one_more(f: &Fixture) {
    let limit = options(|options| options.max_message = 100_000);
    let pull = PullPump::of(f.transport().pull(&f.listen("pull"), &limit).unwrap().into());
    let mut peer = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
    let longest = pattern(100_000, 12);
    peer.write(&frame(&longest));
    peer.try_write(&frame(&pattern(100_001, 12)));
    peer.expect_closed();
    let id = pull.connected();
    assert_eq!(pull.next(), Pulled::Message(id, longest));
    assert_eq!(pull.next(), Pulled::Disconnected(id));
}

/// Case 13: a message that ends in the middle of a frame is not delivered.
pub fn case_13_truncated_frames(f: &Fixture) {
    let pull = PullPump::of(f.pull(&f.listen("pull")));
    let whole = frame(b"whole");
    for length in 1..whole.len() {
        for half_closed in [false, true] {
            let mut peer = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
            peer.write(&[&whole, &whole[..length]].concat());
            if half_closed {
                peer.end_of_stream();
                peer.expect_closed();
            }
            drop(peer);
            let id = pull.connected();
            assert_eq!(pull.next(), Pulled::Message(id, b"whole".to_vec()));
            assert_eq!(pull.next(), Pulled::Disconnected(id), "after {length} bytes");
        }
    }
}

/// Case 14: a peer that stops in the middle of a message is disconnected after
/// the configured time; one that is silent between messages is not.
pub fn case_14_a_stall_within_a_message(f: &Fixture) {
    let impatient = options(|options| options.stall_timeout = Duration::from_millis(200));
    let pull = PullPump::of(f.transport().pull(&f.listen("pull"), &impatient).unwrap().into());
    let mut silent = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
    for begun in [&b"\x01"[..], b"\x01\0\0\0\0\0\0\0\x03", b"\x01\0\0\0\0\0\0\0\x03ab"] {
        let mut peer = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
        peer.write(begun);
        peer.expect_closed();
    }
    // Slow is not stalled: it takes longer in total than the configured time,
    // which is longer than any pause of a busy machine.
    let patient = options(|options| options.stall_timeout = Duration::from_secs(2));
    let slowly = PullPump::of(f.transport().pull(&f.listen("slow"), &patient).unwrap().into());
    let mut slow = RawPeer::dial_as(&f.at("slow"), PUSH, PULL);
    for byte in frame(b"0123456789") {
        slow.write(&[byte]);
        thread::sleep(Duration::from_millis(120));
    }
    assert_eq!(slowly.message(), b"0123456789");
    silent.write(&frame(b"at last"));
    assert_eq!(pull.message(), b"at last");
}

/// Case 14 in the other direction: a peer that stops reading in the middle of a
/// message is disconnected, and the next peer receives the next message.
pub fn case_14_a_stalled_reader(f: &Fixture) {
    let impatient = options(|options| options.stall_timeout = Duration::from_millis(200));
    let at = RawListener::bind(&f.at("push"));
    let push = f.transport().push(&f.dial("push"), &impatient).unwrap();
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            assert_error!(push.send(&pattern(8 << 20, 14), soon()), TransportError::Disconnected);
            push.send(b"next", soon()).unwrap();
        });
        let mut stalled = at.accept_as(PULL, PUSH);
        stalled.expect(&claim(8 << 20));
        assert_eq!(at.accept_as(PULL, PUSH).frame(), b"next");
        stalled.expect_closed();
        sender.join().unwrap();
    });
}

/// Case 14: a stalled reader is disconnected even if the sender had no time to
/// wait for it.
pub fn case_14_a_stalled_reader_and_a_short_deadline(f: &Fixture) {
    let impatient = options(|options| options.stall_timeout = Duration::from_millis(200));
    let at = RawListener::bind(&f.at("push"));
    let push = f.transport().push(&f.dial("push"), &impatient).unwrap();
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            push.connect(soon()).unwrap();
            push.send(&pattern(8 << 20, 14), shortly()).unwrap();
            push.send(b"next", soon()).unwrap();
        });
        let mut stalled = at.accept_as(PULL, PUSH);
        stalled.expect(&claim(8 << 20));
        assert_eq!(at.accept_as(PULL, PUSH).frame(), b"next");
        stalled.expect_closed();
        sender.join().unwrap();
    });
}

/// Case 15: an empty message is delivered.
pub fn case_15_empty_messages(f: &Fixture) {
    let pull = PullPump::of(f.pull(&f.listen("pull")));
    let mut peer = RawPeer::dial_as(&f.at("pull"), PUSH, PULL);
    peer.write(b"\x01\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0");
    let id = pull.connected();
    assert_eq!(pull.next(), Pulled::Message(id, vec![]));
    assert_eq!(pull.next(), Pulled::Message(id, vec![]));
    let reply = ReplyPump::of(f.reply("reply"));
    let mut peer = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    peer.write(&frame(b"\x80\0\0\x05"));
    let (ticket, body) = reply.request();
    assert_eq!(body, b"");
    reply.socket.send(&ticket, b"", soon()).unwrap();
    peer.expect(b"\x01\0\0\0\0\0\0\0\x04\x80\0\0\x05");
}
