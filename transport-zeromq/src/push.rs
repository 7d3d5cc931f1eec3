//! PUSH: sends each message to the next peer in turn that has room.

use ekuiper_core::transport::{Backlog, Deadline, Endpoint, Options, Push, Result};
use ekuiper_transport_ipc::receiving::check_length;

use crate::socket::Common;
use crate::words::{Role, data};

#[derive(Debug)]
pub(crate) struct ZeromqPush(Common);

impl ZeromqPush {
    pub(crate) fn new(endpoint: &Endpoint, options: &Options) -> Result<Self> {
        Common::new(Role::Push, endpoint, options).map(Self)
    }
}

impl Push for ZeromqPush {
    fn connect(&self, deadline: Deadline) -> Result<()> {
        self.0.hub.connect(deadline).map(|_| ())
    }

    fn send(&self, body: &[u8], deadline: Deadline) -> Result<()> {
        self.0.hub.closing.check()?;
        check_length(body, self.0.max_message)?;
        self.0.hub.send(data(b"", body), deadline, |state| Ok(state.next_with_room()))
    }

    fn flush(&self, deadline: Deadline) -> Result<()> {
        self.0.hub.flush(deadline)
    }

    fn backlog(&self) -> Backlog {
        self.0.hub.backlog()
    }

    fn close(&self) {
        self.0.close();
    }
}
