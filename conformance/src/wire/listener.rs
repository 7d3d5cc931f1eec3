//! A listener's treatment of connections that wait for it.

use std::time::Duration;

use crate::Fixture;
use crate::contract::resources::descriptors;
use crate::pump::ReplyPump;
use crate::raw::{PULL, PUSH, REP, REQ, RawPeer, frame};
use crate::support::message;

/// Closing disconnects peers that were never received from, even while another
/// thread still holds the closed socket.
pub fn closing_hangs_up_on_who_waits(f: &Fixture) {
    let pull = f.pull(&f.listen("pull"));
    let push = f.push(&f.listen("push"));
    let reply = f.reply("reply");
    let mut waiting = [(f.at("pull"), PUSH), (f.at("push"), PULL), (f.at("reply"), REQ)].map(|(address, header)| {
        let mut peer = RawPeer::dial(&address);
        peer.write(&header);
        peer
    });
    pull.close();
    push.close();
    reply.close();
    waiting.iter_mut().for_each(RawPeer::expect_closed);
}

/// A thousand silent peers at once cost nothing: a peer that sends something is
/// received.
pub fn crowds_of_silent_visitors(f: &Fixture) {
    let reply = ReplyPump::of(f.reply("reply"));
    let silent: Vec<_> = (0..1000).map(|_| RawPeer::dial(&f.at("reply"))).collect();
    let mut good = RawPeer::dial_as(&f.at("reply"), REQ, REP);
    good.write(&frame(b"\x80\0\0\x01good"));
    reply.connected();
    assert_eq!(reply.request().1, b"good");
    drop(silent);
    good.write(&frame(b"\x80\0\0\x02still good"));
    assert_eq!(reply.request().1, b"still good");
}

/// Peers that connect and disconnect while no thread receives do not
/// accumulate, and do not obstruct later peers.
pub fn crowds_that_nobody_looks_at(f: &Fixture) {
    f.alone(|f| {
        let pull = f.pull(&f.listen("pull"));
        let before = descriptors();
        let mut visitors: Vec<_> = (0..2000)
            .map(|_| {
                let mut visitor = RawPeer::dial(&f.at("pull"));
                visitor.try_write(&PUSH);
                visitor
            })
            .collect();
        // Time for a faulty transport to accept them all.
        visitors[1999].is_closed_within(Duration::from_millis(500));
        drop(visitors);
        assert!(descriptors() < before + 500, "{} descriptors instead of {before}", descriptors());
        let mut good = RawPeer::dial(&f.at("pull"));
        good.write(&[&PUSH[..], &frame(b"good")].concat());
        assert_eq!(message(&*pull), b"good");
    });
}
