//! PULL: receives what PUSH peers send.

use std::os::fd::{BorrowedFd, OwnedFd};

use ekuiper_core::sp::Protocol;
use ekuiper_core::transport::{ConnectionId, Deadline, Endpoint, Options, Pull, PullEvent, Result};
use ekuiper_transport_ipc::retained::RetainedPull;

use crate::inbox::{Content, Inbox, Verdict};
use crate::stream::Medium;

#[derive(Debug)]
pub(crate) struct UdsPull(Inbox);

impl UdsPull {
    pub(crate) fn new(endpoint: &Endpoint, options: &Options, medium: &'static dyn Medium) -> Result<Self> {
        let max = options.max_message as u64;
        Inbox::new(Protocol::Pull, endpoint, options, max, 0, medium).map(Self)
    }
}

impl Pull for UdsPull {
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<PullEvent> {
        let incoming = self.0.receive(buffer, deadline, |_, content| match content {
            Content::Message(..) => Verdict::Deliver((), 0),
            Content::Oversized(..) => Verdict::Close,
        })?;
        Ok(incoming.into())
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.readiness())
    }

    fn stop_listening(&self) {
        self.0.stop_listening();
    }

    fn hand_over(&self, deadline: Deadline) {
        self.0.hand_over(deadline);
    }

    fn finish(&self) {
        self.0.finish();
    }

    fn close(&self) {
        self.0.close();
    }
}

impl RetainedPull for UdsPull {
    fn retain(&self, connection: ConnectionId) -> Option<OwnedFd> {
        self.0.duplicate(connection)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use ekuiper_core::address::Address;
    use ekuiper_core::sp::frame_header;
    use ekuiper_core::transport::Push;

    use super::*;
    use crate::push::UdsPush;
    use crate::stream::Sockets;

    /// A peer like mangos's does not resend a message that it could not write:
    /// it must learn that it should close before that can happen.
    #[test]
    fn what_is_sent_while_a_socket_hands_over_is_received() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::new(folder.path().join("data.ipc")).unwrap();
        let options = Options::default();
        let soon = Some(Instant::now() + Duration::from_secs(20));
        let pull = UdsPull::new(&Endpoint::Listen(address.clone()), &options, &Sockets).unwrap();
        let connect = || {
            let mut peer = UnixStream::connect(address.path()).unwrap();
            peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            peer.write_all(&Protocol::Push.header()).unwrap();
            peer
        };
        let mut buffer = Vec::new();
        let accepted = connect();
        assert!(matches!(pull.receive(&mut buffer, soon), Ok(PullEvent::Connected(_))));
        let late = connect();
        pull.hand_over(Some(Instant::now()));
        for mut peer in [accepted, late] {
            peer.write_all(&[&frame_header(3)[..], b"abc"].concat()).expect("it is still read");
            while !matches!(pull.receive(&mut buffer, soon).unwrap(), PullEvent::Message(_)) {}
            assert_eq!(buffer, b"abc");
            peer.read_to_end(&mut Vec::new()).expect("it is told to close");
        }
        // They have closed, and the next messages arrive at the next socket.
        let next = UdsPull::new(&Endpoint::Listen(address.clone()), &options, &Sockets).unwrap();
        let _peer = connect();
        assert!(matches!(next.receive(&mut buffer, soon), Ok(PullEvent::Connected(_))));
        pull.hand_over(soon);
        assert!(soon > Some(Instant::now()), "it waits for peers that have gone");
    }

    #[test]
    fn what_is_retained_sees_what_is_unread_and_keeps_nothing_open() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::new(folder.path().join("data.ipc")).unwrap();
        let (options, soon) = (Options::default(), Some(Instant::now() + Duration::from_secs(10)));
        let pull = UdsPull::new(&Endpoint::Listen(address.clone()), &options, &Sockets).unwrap();
        let push = UdsPush::new(&Endpoint::Dial(address), &options, &Sockets).unwrap();
        push.connect(soon).unwrap();
        let PullEvent::Connected(connection) = pull.receive(&mut Vec::new(), soon).unwrap() else { panic!("no peer") };
        let held = pull.retain(connection).unwrap();
        assert!(pull.retain(ConnectionId(u64::MAX)).is_none());
        push.send(b"abc", soon).unwrap();
        let mut unread = [0; 100];
        assert_eq!(rustix::io::read(&held, &mut unread), Ok(9 + 3));
        pull.close();
        assert!(pull.retain(connection).is_none());
        assert_eq!(rustix::io::read(&held, &mut unread), Ok(0));
        assert!(push.send(b"abc", Some(Instant::now())).is_err(), "the peer sees the end");
    }
}
