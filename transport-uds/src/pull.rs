//! PULL: receives what PUSH peers send.

use std::os::fd::BorrowedFd;

use ekuiper_core::sp::Protocol;
use ekuiper_core::transport::{Deadline, Endpoint, Options, Pull, PullEvent, Result};

use crate::inbox::{Content, Inbox, Incoming, Verdict};

#[derive(Debug)]
pub(crate) struct UdsPull(Inbox);

impl UdsPull {
    pub(crate) fn new(endpoint: &Endpoint, options: &Options) -> Result<Self> {
        let max = options.max_message as u64;
        Inbox::new(Protocol::Pull, endpoint, options, max, 0).map(Self)
    }
}

impl Pull for UdsPull {
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<PullEvent> {
        let incoming = self.0.receive(deadline, |_, content| match content {
            Content::Message(message) => {
                buffer.clear();
                buffer.extend_from_slice(message);
                Verdict::Deliver(())
            }
            Content::Oversized(..) => Verdict::Close,
        })?;
        Ok(match incoming {
            Incoming::Message(connection, ()) => PullEvent::Message(connection),
            Incoming::Connected(connection) => PullEvent::Connected(connection),
            Incoming::Disconnected(connection) => PullEvent::Disconnected(connection),
        })
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.readiness())
    }

    fn close(&self) {
        self.0.close();
    }
}
