//! What a listener does with who has connected and waits for it.

use std::time::Duration;

use crate::Fixture;
use crate::contract::message;
use crate::contract::resources::descriptors;
use crate::pump::ReplyPump;
use crate::raw::{PULL, PUSH, REP, REQ, RawPeer, frame};

/// Who connected and was never looked at is hung up on by the closing, even
/// while somebody still holds the closed socket.
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

/// A thousand visitors who say nothing, all at once, cost nothing: whoever has
/// something to say is heard.
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

/// Visitors who come and go while nobody receives do not pile up, and are not
/// in the way of who comes after them.
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
        // Time to take them all in, for whoever would.
        visitors[1999].is_closed_within(Duration::from_millis(500));
        drop(visitors);
        assert!(descriptors() < before + 500, "{} descriptors instead of {before}", descriptors());
        let mut good = RawPeer::dial(&f.at("pull"));
        good.write(&[&PUSH[..], &frame(b"good")].concat());
        assert_eq!(message(&*pull), b"good");
    });
}
