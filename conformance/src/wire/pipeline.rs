//! PUSH and PULL with several peers: cases 26 to 28.

use std::thread;

use ekuiper_core::transport::{PullEvent, TransportError};

use crate::raw::{PULL, PUSH, RawListener, RawPeer, frame};
use crate::{Fixture, assert_error, eventually, past, shortly, soon};

/// Case 26: without a peer a message waits; a late peer receives it, and
/// nothing else.
pub fn case_26_a_late_peer(f: &Fixture) {
    let push = f.push(&f.dial("push"));
    assert_error!(push.send(b"lost", shortly()), TransportError::Timeout);
    assert_error!(push.send(b"lost", past()), TransportError::Timeout);
    thread::scope(|scope| {
        scope.spawn(|| push.send(b"found", soon()).unwrap());
        let at = RawListener::bind(&f.at("push"));
        assert_eq!(at.accept_as(PULL, PUSH).frame(), b"found");
    });
}

/// Case 26 with peers that dial: a late dialler receives the waiting message.
pub fn case_26_a_late_dialler(f: &Fixture) {
    let push = f.push(&f.listen("push"));
    assert_error!(push.send(b"lost", shortly()), TransportError::Timeout);
    thread::scope(|scope| {
        scope.spawn(|| push.send(b"found", soon()).unwrap());
        assert_eq!(RawPeer::dial_as(&f.at("push"), PULL, PUSH).frame(), b"found");
    });
}

/// Case 27: two reading peers receive every second message each.
pub fn case_27_two_peers_get_five_each(f: &Fixture) {
    let push = f.push(&f.listen("push"));
    thread::scope(|scope| {
        let mut peers = [(); 2].map(|()| {
            let connecting = scope.spawn(|| push.connect(soon()).unwrap());
            let peer = RawPeer::dial_as(&f.at("push"), PULL, PUSH);
            connecting.join().unwrap();
            peer
        });
        // A peer that has our header may not be registered yet: both are when
        // both have received a message.
        let mut has_had = [false; 2];
        while has_had.contains(&false) {
            push.send(b"message", soon()).unwrap();
            assert!(eventually(|| peers.iter().any(RawPeer::has_something)));
            for (peer, has_had) in peers.iter_mut().zip(&mut has_had).filter(|(peer, _)| peer.has_something()) {
                peer.frame();
                *has_had = true;
            }
        }
        for number in 0..10u8 {
            push.send(&[number], soon()).unwrap();
        }
        let got = peers.each_mut().map(|peer| [(); 5].map(|()| peer.frame()[0]));
        for (peer, numbers) in got.iter().enumerate() {
            assert!(numbers.is_sorted(), "{got:?}");
            assert!(numbers.iter().all(|number| number % 2 == numbers[0] % 2), "peer {peer}: {got:?}");
        }
        assert_ne!(got[0][0], got[1][0]);
    });
}

/// Case 27 with a peer that connects while the first one takes everything at
/// once: it gets its share.
pub fn case_27_a_peer_that_comes_later_gets_its_share(f: &Fixture) {
    let push = f.push(&f.listen("push"));
    thread::scope(|scope| {
        let connecting = scope.spawn(|| push.connect(soon()).unwrap());
        let mut first = RawPeer::dial_as(&f.at("push"), PULL, PUSH);
        connecting.join().unwrap();
        let mut second = RawPeer::dial_as(&f.at("push"), PULL, PUSH);
        // Once it is registered, it receives every second message.
        assert!(eventually(|| {
            push.send(b"message", soon()).unwrap();
            assert!(eventually(|| first.has_something() || second.has_something()));
            let to_second = second.has_something();
            let reader = if to_second { &mut second } else { &mut first };
            assert_eq!(reader.frame(), b"message");
            to_second
        }));
    });
}

/// Case 28: a flooding peer delays a slow peer's messages by at most two turns.
pub fn case_28_a_flooder_and_a_trickle(f: &Fixture) {
    let pull = f.pull(&f.listen("pull"));
    let mut buffer = Vec::new();
    let (flood, trickle) = (frame(&[b'f'; 100]), frame(b"trickle"));
    let mut flooder = RawPeer::dial(&f.at("pull"));
    let mut trickler = RawPeer::dial(&f.at("pull"));
    thread::scope(|scope| {
        scope.spawn(move || {
            flooder.write(&PUSH);
            flooder.flood(&flood.repeat(1000));
        });
        trickler.write(&PUSH);
        // Messages of the first peer count only once both are connected.
        let mut peers = 0;
        while peers < 2 {
            peers += usize::from(matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Connected(_)));
        }
        for _ in 0..100 {
            trickler.write(&trickle);
            let mut before = 0;
            while pull.receive(&mut buffer, soon()).is_ok() && buffer != b"trickle" {
                before += 1;
                assert!(before < 4, "{before} messages of the flooder, and none of the trickle");
            }
        }
        pull.close();
        drop(pull);
    });
}

/// Case 28 with a flooding peer that was first: a later peer is accepted.
pub fn case_28_who_comes_during_a_flood_is_let_in(f: &Fixture) {
    let pull = f.pull(&f.listen("pull"));
    let mut buffer = Vec::new();
    let mut flooder = RawPeer::dial(&f.at("pull"));
    thread::scope(|scope| {
        scope.spawn(move || {
            flooder.write(&PUSH);
            flooder.flood(&frame(b"flood").repeat(10_000));
        });
        assert!(matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Connected(_)));
        pull.receive(&mut buffer, soon()).unwrap();
        let mut late = RawPeer::dial(&f.at("pull"));
        late.write(&[&PUSH[..], &frame(b"late")].concat());
        let mut before = 0;
        while pull.receive(&mut buffer, soon()).is_ok() && buffer != b"late" {
            before += 1;
            assert!(before < 200_000, "only the flooder is read");
        }
        pull.close();
        drop(pull);
    });
}
