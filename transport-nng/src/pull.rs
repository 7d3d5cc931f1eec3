//! PULL: receives what PUSH peers send.

use std::os::fd::BorrowedFd;

use ekuiper_core::transport::{Deadline, Endpoint, Options, Pull, PullEvent, Result};
use nng::Protocol;

use crate::inbox::Inbox;

#[derive(Debug)]
pub(crate) struct NngPull {
    inbox: Inbox,
    max_message: usize,
}

impl NngPull {
    pub(crate) fn new(endpoint: &Endpoint, options: &Options) -> Result<Self> {
        let inbox = Inbox::new(Protocol::Pull0, endpoint, options.max_message as u64, options)?;
        Ok(Self { inbox, max_message: options.max_message })
    }
}

impl Pull for NngPull {
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<PullEvent> {
        let incoming = self.inbox.receive(deadline, |_, message| {
            if message.len() > self.max_message {
                // Only with a limit of 0 bytes, which libnng does not support.
                return None;
            }
            buffer.clear();
            buffer.extend_from_slice(&message);
            Some(())
        })?;
        Ok(incoming.into())
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.inbox.readiness())
    }

    fn stop_listening(&self) {
        self.inbox.wire.stop_listening();
    }

    fn finish(&self) {
        self.inbox.finish();
    }

    fn close(&self) {
        self.inbox.close();
    }
}
