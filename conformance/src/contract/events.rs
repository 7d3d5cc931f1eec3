//! Connection events, as a receiver sees them.

use std::collections::HashSet;

use ekuiper_core::transport::{PullEvent, ReplyEvent};

use super::{asked, pair};
use crate::{Fixture, soon};

/// A peer that sends and disconnects at once is reported as `Connected`, all
/// its messages, then `Disconnected`.
pub fn events_frame_the_messages(f: &Fixture) {
    let pull = f.pull(&f.listen("data"));
    let mut buffer = Vec::new();
    let mut ids = HashSet::new();
    for round in 0..20u8 {
        let sender = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let push = f.push(&f.dial("data"));
                (0..100u8).for_each(|number| push.send(&[round, number], soon()).unwrap());
                push.close();
            });
            let PullEvent::Connected(id) = pull.receive(&mut buffer, soon()).unwrap() else { panic!("no connection") };
            assert!(ids.insert(id), "an id is never used again");
            for number in 0..100 {
                assert_eq!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Message(id));
                assert_eq!(buffer, [round, number]);
            }
            assert_eq!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Disconnected(id));
            sender.join()
        });
        sender.unwrap();
    }
}

/// A request whose peer has disconnected is still reported, between that peer's
/// connection events.
pub fn events_frame_the_requests(f: &Fixture) {
    let reply = f.reply("reply");
    let mut buffer = Vec::new();
    for round in 0..20u8 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let request = f.request("reply");
                let connection = request.connect(soon()).unwrap();
                request.send(connection, &[round], soon()).unwrap();
            });
            let ReplyEvent::Connected(id) = reply.receive(&mut buffer, soon()).unwrap() else { panic!("nobody") };
            let ReplyEvent::Request(ticket) = reply.receive(&mut buffer, soon()).unwrap() else { panic!("nothing") };
            assert_eq!((ticket.connection, &buffer[..]), (id, &[round][..]));
            assert_eq!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Disconnected(id));
        });
    }
}

/// An event may leave the buffer unchanged; a message replaces its content.
pub fn events_replace_what_the_buffer_holds(f: &Fixture) {
    let (push, pull) = pair(f, "data");
    let mut buffer = vec![9; 1000];
    for body in [&b"short"[..], b"", b"a little longer"] {
        push.send(body, soon()).unwrap();
        pull.receive(&mut buffer, soon()).unwrap();
        assert_eq!(buffer, body);
    }
}

/// Two peers at once are two connections, and each request names its own.
pub fn events_tell_peers_apart(f: &Fixture) {
    let reply = f.reply("reply");
    std::thread::scope(|scope| {
        for peer in 0..3u8 {
            scope.spawn(move || {
                let request = f.request("reply");
                let connection = request.connect(soon()).unwrap();
                let mut buffer = Vec::new();
                for round in 0..50 {
                    request.send(connection, &[peer, round], soon()).unwrap();
                    request.receive(&mut buffer, soon()).unwrap();
                    assert_eq!(buffer, [peer, round, b'!']);
                }
            });
        }
        let mut ids: [HashSet<_>; 3] = Default::default();
        for _ in 0..150 {
            let (ticket, mut body) = asked(&*reply);
            ids[usize::from(body[0])].insert(ticket.connection);
            body.push(b'!');
            reply.send(&ticket, &body, soon()).unwrap();
        }
        assert!(ids.iter().all(|ids| ids.len() == 1), "{ids:?}");
    });
}

/// A peer that connected and disconnected while no thread received is reported
/// as both, in this order.
pub fn events_tell_of_visits(f: &Fixture) {
    let (pull, reply) = (f.pull(&f.listen("pull")), f.reply("reply"));
    let mut buffer = Vec::new();
    for _ in 0..20 {
        let push = f.push(&f.dial("pull"));
        push.connect(soon()).unwrap();
        push.close();
        let request = f.request("reply");
        request.connect(soon()).unwrap();
        request.close();
        let came = pull.receive(&mut buffer, soon()).unwrap();
        let PullEvent::Connected(visitor) = came else { panic!("{came:?}") };
        assert_eq!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Disconnected(visitor));
        let came = reply.receive(&mut buffer, soon()).unwrap();
        let ReplyEvent::Connected(visitor) = came else { panic!("{came:?}") };
        assert_eq!(reply.receive(&mut buffer, soon()).unwrap(), ReplyEvent::Disconnected(visitor));
    }
}
