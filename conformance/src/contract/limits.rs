//! Promise 4, the maximum message length, at both ends.

use ekuiper_core::transport::{PullEvent, ReplyEvent, TransportError};

use super::{asked, introduce, join};
use crate::support::message;
use crate::{Fixture, assert_error, options, pattern, soon};

/// The longest message passes; a longer one is an error at its sender, has no
/// other effect, and the connection lives.
pub fn limits_hold_at_the_sender(f: &Fixture) {
    let limit = options(|options| options.max_message = 1000);
    let t = f.transport();
    let (pull, push) = (t.pull(&f.listen("data"), &limit).unwrap(), t.push(&f.dial("data"), &limit).unwrap());
    join(&*push, &*pull);
    assert_error!(push.send(&[1; 1001], soon()), TransportError::TooLong { length: 1001, max: 1000 });
    push.send(&[2; 1000], soon()).unwrap();
    assert_eq!(message(&*pull), [2; 1000]);

    let (reply, request) = (t.reply(&f.at("reply"), &limit).unwrap(), t.request(&f.at("reply"), &limit).unwrap());
    let connection = introduce(&*request, &*reply);
    assert_error!(request.send(connection, &[1; 1001], soon()), TransportError::TooLong { length: 1001, max: 1000 });
    request.send(connection, &[2; 1000], soon()).unwrap();
    let (ticket, body) = asked(&*reply);
    assert_eq!(body, [2; 1000]);
    assert_error!(reply.send(&ticket, &[3; 1001], soon()), TransportError::TooLong { length: 1001, max: 1000 });
    // The request can still be answered.
    reply.send(&ticket, &[4; 1000], soon()).unwrap();
    let mut buffer = Vec::new();
    request.receive(&mut buffer, soon()).unwrap();
    assert_eq!(buffer, [4; 1000]);
}

/// A peer that sends a longer message loses its connection; other peers do not.
pub fn limits_hold_at_the_receiver(f: &Fixture) {
    let limit = options(|options| options.max_message = 1000);
    let pull = f.transport().pull(&f.listen("data"), &limit).unwrap();
    let good = f.push(&f.dial("data"));
    let good_id = join(&*good, &*pull);
    // Created when the other peer is connected: some transports dial before the
    // socket is used.
    let bad = f.push(&f.dial("data"));
    let bad_id = join(&*bad, &*pull);
    let mut buffer = Vec::new();
    bad.send(b"before", soon()).unwrap();
    // Whether the sender sees the end depends on the size of the kernel's
    // buffers.
    let _ = bad.send(&pattern(300_000, 0), soon());
    assert_eq!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Message(bad_id));
    assert_eq!(buffer, b"before");
    assert_eq!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Disconnected(bad_id));
    good.send(b"good", soon()).unwrap();
    assert_eq!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Message(good_id));
    assert_eq!(buffer, b"good");
}

/// A reply socket reports a request that is too long, and can answer it.
pub fn limits_of_requests(f: &Fixture) {
    let limit = options(|options| options.max_message = 1000);
    let reply = f.transport().reply(&f.at("reply"), &limit).unwrap();
    let request = f.request("reply");
    let connection = introduce(&*request, &*reply);
    let mut buffer = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = Vec::new();
            for length in [1001, 100_000, 5_000_000] {
                request.send(connection, &pattern(length, 0), soon()).unwrap();
                request.receive(&mut buffer, soon()).unwrap();
                assert_eq!(buffer, b"too long");
            }
        });
        for length in [1001, 100_000, 5_000_000] {
            match reply.receive(&mut buffer, soon()).unwrap() {
                ReplyEvent::Oversized(ticket, found) => {
                    assert_eq!(found, length);
                    reply.send(&ticket, b"too long", soon()).unwrap();
                }
                other => panic!("expected one that is too long, got {other:?}"),
            }
        }
    });
}

/// A reply longer than the requester's limit ends the connection.
pub fn limits_of_replies(f: &Fixture) {
    let limit = options(|options| options.max_message = 1000);
    let reply = f.reply("reply");
    let request = f.transport().request(&f.at("reply"), &limit).unwrap();
    let connection = introduce(&*request, &*reply);
    let mut buffer = Vec::new();
    request.send(connection, b"question", soon()).unwrap();
    let _ = reply.send(&asked(&*reply).0, &pattern(1001, 0), soon());
    assert_error!(request.receive(&mut buffer, soon()), TransportError::Disconnected);
    let connection = introduce_again(&*request, &*reply);
    request.send(connection, b"question", soon()).unwrap();
    reply.send(&asked(&*reply).0, &[1; 1000], soon()).unwrap();
    request.receive(&mut buffer, soon()).unwrap();
    assert_eq!(buffer, [1; 1000]);
}

fn introduce_again(
    request: &dyn ekuiper_core::transport::Request,
    reply: &dyn ekuiper_core::transport::Reply,
) -> ekuiper_core::transport::ConnectionId {
    assert!(matches!(reply.receive(&mut Vec::new(), soon()).unwrap(), ReplyEvent::Disconnected(_)));
    introduce(request, reply)
}

/// A socket works without a limit.
pub fn limits_may_be_absent(f: &Fixture) {
    let unlimited = options(|options| options.max_message = usize::MAX);
    let t = f.transport();
    let (pull, push) = (t.pull(&f.listen("data"), &unlimited).unwrap(), t.push(&f.dial("data"), &unlimited).unwrap());
    join(&*push, &*pull);
    push.send(b"message", soon()).unwrap();
    assert_eq!(message(&*pull), b"message");
    let (reply, request) =
        (t.reply(&f.at("reply"), &unlimited).unwrap(), t.request(&f.at("reply"), &unlimited).unwrap());
    let connection = introduce(&*request, &*reply);
    request.send(connection, b"question", soon()).unwrap();
    let (ticket, body) = asked(&*reply);
    assert_eq!(body, b"question");
    reply.send(&ticket, b"answer", soon()).unwrap();
    let mut buffer = Vec::new();
    request.receive(&mut buffer, soon()).unwrap();
    assert_eq!(buffer, b"answer");
}
