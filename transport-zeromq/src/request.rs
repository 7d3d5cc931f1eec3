//! REQ: dials, sends one request at a time, receives its reply.

use std::time::Instant;

use ekuiper_core::address::Address;
use ekuiper_core::sp::Requester;
use ekuiper_core::transport::{ConnectionId, Deadline, Endpoint, Options, Request, Result, TransportError};
use ekuiper_transport_ipc::lock::DeadlineLock;
use ekuiper_transport_ipc::receiving::{ReceiverLock, check_length};
use ekuiper_transport_ipc::wait::{earlier, has_passed, io_error};

use crate::socket::Common;
use crate::words::{Role, data};

#[derive(Debug)]
pub(crate) struct ZeromqRequest {
    common: Common,
    /// Whether an unanswered request is sent again.
    repeats: bool,
    receiving: ReceiverLock,
    asked: DeadlineLock<Asked>,
}

/// The latest request.
#[derive(Debug)]
struct Asked {
    requester: Requester,
    /// The connection that the request was sent on.
    connection: ConnectionId,
    /// The request's body, kept if it may have to be sent again.
    body: Vec<u8>,
}

impl ZeromqRequest {
    pub(crate) fn new(address: &Address, options: &Options) -> Result<Self> {
        let mut seed = [0; 4];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| io_error("create a socket for", address, errno.into()))?;
        let requester = Requester::new(u32::from_ne_bytes(seed), options.retry);
        Ok(Self {
            common: Common::new(Role::Request, &Endpoint::Dial(address.clone()), options)?,
            repeats: options.retry.is_some(),
            receiving: ReceiverLock::default(),
            asked: DeadlineLock::new(Asked { requester, connection: ConnectionId(0), body: Vec::new() }),
        })
    }

    fn transmit(&self, connection: ConnectionId, id: [u8; 4], body: &[u8], deadline: Deadline) -> Result<()> {
        let hub = &self.common.hub;
        hub.send(data(&id, body), deadline, |state| {
            let at = state.peers.iter().position(|peer| peer.id == connection && !peer.is_gone);
            let at = at.ok_or(TransportError::Disconnected)?;
            Ok(state.peers[at].has_room().then_some(at))
        })
    }

    /// Sends the latest request again, with the same id, on a new connection if
    /// needed.
    fn repeat(&self, asked: &mut Asked, deadline: Deadline) -> Result<()> {
        loop {
            let connection = self.common.hub.connect(deadline)?;
            let Some(id) = asked.requester.resend(Instant::now()) else { return Ok(()) };
            asked.connection = connection;
            match self.transmit(connection, id, &asked.body, deadline) {
                Err(TransportError::Disconnected) => {}
                sent => return sent,
            }
        }
    }

    fn await_reply(&self, asked: &mut Asked, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<()> {
        let hub = &self.common.hub;
        let mut state = hub.lock();
        loop {
            hub.closing.check()?;
            let requester = &mut asked.requester;
            let found = hub.take_from(&mut state, asked.connection, |message| {
                let body = requester.accept(message)?;
                buffer.clear();
                buffer.extend_from_slice(body);
                Some(())
            });
            if found.is_some() {
                return Ok(());
            }
            let is_over = state.peer(asked.connection).is_none_or(|peer| peer.is_gone);
            if is_over && !self.repeats {
                return Err(TransportError::Disconnected);
            }
            if has_passed(deadline) {
                return Err(TransportError::Timeout);
            }
            let resend_at = asked.requester.resend_at();
            if is_over || has_passed(resend_at) {
                drop(state);
                self.repeat(asked, deadline)?;
                state = hub.lock();
            } else {
                state = match hub.wait(state, earlier(deadline, resend_at)) {
                    Ok(state) => state,
                    Err(_) => hub.lock(),
                };
            }
        }
    }
}

impl Request for ZeromqRequest {
    fn connect(&self, deadline: Deadline) -> Result<ConnectionId> {
        self.common.hub.connect(deadline)
    }

    fn send(&self, connection: ConnectionId, body: &[u8], deadline: Deadline) -> Result<()> {
        self.common.hub.closing.check()?;
        check_length(body, self.common.max_message)?;
        let hub = &self.common.hub;
        let mut asked = self.asked.lock_open(&hub.closing, deadline)?;
        let mut state = hub.lock();
        if state.peer(connection).is_none_or(|peer| peer.is_gone) {
            return Err(TransportError::Disconnected);
        }
        // Messages that have arrived by now are replies to no request.
        hub.take_from::<()>(&mut state, connection, |_| None);
        state.forget_the_gone();
        drop(state);
        let id = asked.requester.begin(Instant::now());
        asked.connection = connection;
        if self.repeats {
            asked.body.clear();
            asked.body.extend_from_slice(body);
        }
        let sent = self.transmit(connection, id, body, deadline);
        if sent.is_err() {
            asked.requester.cancel();
        }
        sent
    }

    fn receive(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<()> {
        let _receiving = self.receiving.enter(&self.common.hub.closing)?;
        let mut asked = self.asked.lock_open(&self.common.hub.closing, deadline)?;
        if !asked.requester.is_waiting() {
            return Err(TransportError::Misuse("no request is in flight"));
        }
        let received = self.await_reply(&mut asked, buffer, deadline);
        if received.is_err() {
            asked.requester.cancel();
        }
        received
    }

    fn close(&self) {
        self.common.close_and(|| self.asked.look_again());
    }
}

impl Drop for ZeromqRequest {
    fn drop(&mut self) {
        self.close();
    }
}
