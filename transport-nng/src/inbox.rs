//! Receiving messages and connection events in order.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Deadline, Endpoint, Options, Result, TransportError};
use ekuiper_transport_ipc::receiving::{Incoming, ReceiverLock};
use ekuiper_transport_ipc::wait::{earlier, has_passed, io_error, timeout};
use nng::options::{Options as _, RecvBufferSize};
use nng::{Message, Pipe, Protocol};
use rustix::event::epoll;
use rustix::io::Errno;

use crate::endpoint::Wire;
use crate::ffi;
use crate::roster::{Arrival, Roster, Sender};
use crate::socket::{nng_error, open};

/// The receiving side of a socket.
#[derive(Debug)]
pub(crate) struct Inbox {
    address: Address,
    pub(crate) wire: Wire,
    roster: Arc<Roster>,
    /// The epoll set of the closing signal, the roster and libnng's descriptor.
    epoll: OwnedFd,
    /// Kept open for `epoll`.
    _incoming: OwnedFd,
    /// Locked by the thread that receives. A message whose connection must be
    /// reported first.
    held: ReceiverLock<Option<(Sender, Message)>>,
}

impl Inbox {
    pub(crate) fn new(protocol: Protocol, endpoint: &Endpoint, max_message: u64, options: &Options) -> Result<Self> {
        let address = endpoint.address();
        let fail = |source| io_error("create a socket for", address, source);
        let socket = open(protocol, max_message, address)?;
        if protocol == Protocol::Rep0 {
            // No receive queue in the socket: the roster relies on that.
            socket.set_opt::<RecvBufferSize>(0).map_err(|error| nng_error("create a socket for", address, error))?;
        }
        let incoming = ffi::incoming(&socket).map_err(fail)?;
        let roster = Arc::new(Roster::new().map_err(fail)?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|errno| fail(errno.into()))?;
        let told = roster.clone();
        let wire = Wire::new(socket, endpoint, options, move |pipe, event| told.notify(pipe, event))?;
        for source in [wire.closing.as_fd(), roster.as_fd(), incoming.as_fd()] {
            epoll::add(&epoll, source, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
                .map_err(|errno| fail(errno.into()))?;
        }
        Ok(Self { address: address.clone(), wire, roster, epoll, _incoming: incoming, held: ReceiverLock::default() })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn readiness(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(crate) fn is_present(&self, pipe: Pipe) -> bool {
        self.roster.is_present(pipe)
    }

    /// Receives the next message that `judge` delivers, or the next connection
    /// event.
    pub(crate) fn receive<T>(
        &self,
        deadline: Deadline,
        mut judge: impl FnMut(Sender, Message) -> Option<T>,
    ) -> Result<Incoming<T>> {
        let mut held = self.held.enter(&self.wire.closing)?;
        loop {
            self.wire.closing.check()?;
            while let Some(arrival) = self.next(&mut held)? {
                match arrival {
                    Arrival::Connected(id) => return Ok(Incoming::Connected(id)),
                    Arrival::Disconnected(id) => return Ok(Incoming::Disconnected(id)),
                    Arrival::First(sender, message) => {
                        *held = Some((sender, message));
                        return Ok(Incoming::Connected(sender.id));
                    }
                    Arrival::Message(sender, message) => {
                        if let Some(value) = judge(sender, message) {
                            return Ok(Incoming::Message(sender.id, value));
                        }
                    }
                }
            }
            if has_passed(deadline) && !self.wire.closing.is_finishing() {
                return Err(TransportError::Timeout);
            }
            if self.wire.closing.is_finishing() {
                // Data in flight on a connection is received before its end.
                if self.roster.is_empty() || has_passed(self.wire.closing.finish_by()) {
                    return Err(TransportError::Closed);
                }
                if has_passed(deadline) {
                    return Err(TransportError::Timeout);
                }
                self.wire.closing.rearm();
            }
            self.watch(earlier(deadline, self.wire.closing.finish_by()))?;
        }
    }

    fn next(&self, held: &mut Option<(Sender, Message)>) -> Result<Option<Arrival>> {
        if let Some((sender, message)) = held.take() {
            return Ok(Some(Arrival::Message(sender, message)));
        }
        self.roster.next(&self.wire.socket).map_err(|error| nng_error("receive at", &self.address, error))
    }

    /// Waits until there may be something to receive, or `deadline`.
    fn watch(&self, deadline: Deadline) -> Result<()> {
        let mut space = [const { std::mem::MaybeUninit::uninit() }; 3];
        match epoll::wait(&self.epoll, &mut space, timeout(deadline).as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(io_error("wait for", &self.address, errno.into())),
        }
    }

    /// Ends every wait once everything that has arrived is received.
    pub(crate) fn finish(&self) {
        self.wire.closing.finish();
    }

    pub(crate) fn close(&self) {
        self.wire.close();
    }
}
