//! REQ: dials, sends one request at a time, receives its reply. The wire of
//! `ekuiper_transport_ipc`'s request socket.

use ekuiper_core::address::Address;
use ekuiper_core::sp::Requester;
use ekuiper_core::transport::{ConnectionId, Deadline, Endpoint, Options, Result, TransportError};
use ekuiper_transport_ipc::request::{RequestSocket, RequestWire};
use ekuiper_transport_ipc::wait::Closing;

use crate::socket::Common;
use crate::words::{Role, data};

#[derive(Debug)]
pub(crate) struct ZeromqRequest(Common);

/// The connection that the latest request was sent on.
#[derive(Debug)]
pub(crate) struct AskedOn(ConnectionId);

impl ZeromqRequest {
    pub(crate) fn socket(address: &Address, options: &Options) -> Result<RequestSocket<Self>> {
        let common = Common::new(Role::Request, &Endpoint::Dial(address.clone()), options)?;
        RequestSocket::new(address, options, Self(common), AskedOn(ConnectionId(0)))
    }
}

impl RequestWire for ZeromqRequest {
    type Link = AskedOn;

    fn closing(&self) -> &Closing {
        &self.0.hub.closing
    }

    fn connected(&self, _: &mut AskedOn, deadline: Deadline) -> Result<ConnectionId> {
        self.0.hub.connect(deadline)
    }

    fn prepare(&self, _: &mut AskedOn, connection: ConnectionId) -> Result<()> {
        let hub = &self.0.hub;
        let mut state = hub.lock();
        if state.peer(connection).is_none_or(|peer| peer.is_gone) {
            return Err(TransportError::Disconnected);
        }
        // Messages that have arrived by now are replies to no request.
        hub.take_from::<()>(&mut state, connection, |_| None);
        state.forget_the_gone();
        Ok(())
    }

    fn transmit(
        &self,
        on: &mut AskedOn,
        connection: ConnectionId,
        id: [u8; 4],
        body: &[u8],
        deadline: Deadline,
    ) -> Result<()> {
        on.0 = connection;
        self.0.hub.send(data(&id, body), deadline, |state| {
            let at = state.peers.iter().position(|peer| peer.id == connection && !peer.is_gone);
            let at = at.ok_or(TransportError::Disconnected)?;
            Ok(state.peers[at].has_room().then_some(at))
        })
    }

    fn take_reply(&self, on: &mut AskedOn, requester: &mut Requester, buffer: &mut Vec<u8>, _: bool) -> Result<bool> {
        let hub = &self.0.hub;
        let mut state = hub.lock();
        let found = hub.take_from(&mut state, on.0, |message| {
            let body = requester.accept(message)?;
            buffer.clear();
            buffer.extend_from_slice(body);
            Some(())
        });
        let is_over = state.peer(on.0).is_none_or(|peer| peer.is_gone);
        match found {
            None if is_over => Err(TransportError::Disconnected),
            found => Ok(found.is_some()),
        }
    }

    fn await_reply(&self, on: &mut AskedOn, until: Deadline) -> bool {
        let hub = &self.0.hub;
        let state = hub.lock();
        // Under the lock, so that nothing arrives between the check and the
        // wait.
        let has_nothing = state.peer(on.0).is_some_and(|peer| !peer.has_mail() && !peer.is_gone);
        if has_nothing && hub.closing.check().is_ok() {
            drop(hub.wait(state, until));
        }
        true
    }

    fn hang_up(&self, _: &mut AskedOn) {
        // Only ended connections are hung up, and the hub knows of them.
    }

    fn close(&self) {
        self.0.close();
    }
}
