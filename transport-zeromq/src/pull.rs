//! PULL: receives what PUSH peers send.

use std::os::fd::BorrowedFd;

use ekuiper_core::transport::{Deadline, Endpoint, Options, Pull, PullEvent, Result};
use ekuiper_transport_ipc::receiving::ReceiverLock;

use crate::socket::Common;
use crate::words::Role;

#[derive(Debug)]
pub(crate) struct ZeromqPull {
    common: Common,
    receiving: ReceiverLock,
}

impl ZeromqPull {
    pub(crate) fn new(endpoint: &Endpoint, options: &Options) -> Result<Self> {
        Ok(Self { common: Common::new(Role::Pull, endpoint, options)?, receiving: ReceiverLock::default() })
    }
}

impl Pull for ZeromqPull {
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<PullEvent> {
        let _receiving = self.receiving.enter(&self.common.hub.closing)?;
        let incoming = self.common.hub.receive(deadline, |_, message| {
            buffer.clear();
            buffer.extend_from_slice(message);
        })?;
        Ok(incoming.into())
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
