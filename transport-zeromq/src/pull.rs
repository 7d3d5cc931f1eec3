//! PULL: receives what PUSH peers send.

use std::os::fd::BorrowedFd;

use ekuiper_core::transport::{Deadline, Endpoint, Options, Pull, PullEvent, Result};

use crate::hub::Event;
use crate::socket::{Common, Turnstile};
use crate::words::Role;

#[derive(Debug)]
pub(crate) struct ZeromqPull {
    common: Common,
    receiving: Turnstile,
}

impl ZeromqPull {
    pub(crate) fn new(endpoint: &Endpoint, options: &Options) -> Result<Self> {
        Ok(Self { common: Common::new(Role::Pull, endpoint, options)?, receiving: Turnstile::default() })
    }
}

impl Pull for ZeromqPull {
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<PullEvent> {
        let _receiving = self.receiving.pass(&self.common.hub)?;
        let event = self.common.hub.receive(deadline, |_, message| {
            buffer.clear();
            buffer.extend_from_slice(message);
        })?;
        Ok(match event {
            Event::Message(connection, ()) => PullEvent::Message(connection),
            Event::Connected(connection) => PullEvent::Connected(connection),
            Event::Disconnected(connection) => PullEvent::Disconnected(connection),
        })
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.common.hub.readiness())
    }

    fn stop_listening(&self) {
        self.common.stop_listening();
    }

    fn finish(&self) {
        self.common.hub.finish();
    }

    fn close(&self) {
        self.common.close();
    }
}
