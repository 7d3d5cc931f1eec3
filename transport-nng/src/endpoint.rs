//! Creating libnng sockets, and giving them an address.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ekuiper_core::address::Address;
use ekuiper_core::transport::{ConnectionId, Endpoint, Options, Result, TransportError};
use ekuiper_transport_ipc::wait::{Closing, io_error};
use nng::options::{Options as _, ReconnectMaxTime, ReconnectMinTime, RecvMaxSize};
use nng::{Pipe, PipeEvent, Protocol, RawSocket, Socket};
use rustix::io::Errno;

use crate::census::Census;
use crate::dial::{self, Persistence};
use crate::gatekeeper::Gatekeeper;
use crate::listen::{Listening, Supply};

/// libnng's own redial interval: never, see `dial`.
const NEVER: Duration = Duration::from_secs(10 * 24 * 3600);

/// Maximum message length that libnng can be configured with; 0 means any
/// length.
const LARGEST: u64 = u32::MAX as u64;

/// Returns a connection id that is new in this process.
pub(crate) fn next_connection() -> ConnectionId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Creates a socket that takes messages of up to `max_message` bytes.
pub(crate) fn open(protocol: Protocol, max_message: u64, address: &Address) -> Result<Socket> {
    let make = || -> nng::Result<Socket> {
        let socket = match protocol {
            // Request ids and backtraces are inspected and chosen here.
            Protocol::Req0 | Protocol::Rep0 => RawSocket::new(protocol)?.socket,
            _ => Socket::new(protocol)?,
        };
        socket.set_opt::<RecvMaxSize>(max_message.clamp(1, LARGEST) as usize)?;
        socket.set_opt::<ReconnectMinTime>(Some(NEVER))?;
        socket.set_opt::<ReconnectMaxTime>(Some(NEVER))?;
        Ok(socket)
    };
    make().map_err(|error| nng_error("create a socket for", address, error))
}

/// A libnng socket that listens or dials, with the means to close it.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) socket: Socket,
    pub(crate) closing: Arc<Closing>,
    census: Arc<Census>,
    listening: Option<Arc<Listening>>,
}

impl Wire {
    /// Makes `socket` listen or dial; `notify` is called by libnng's threads
    /// with each connection event.
    pub(crate) fn new(
        socket: Socket,
        endpoint: &Endpoint,
        options: &Options,
        notify: impl Fn(Pipe, PipeEvent) + Send + Sync + 'static,
    ) -> Result<Self> {
        let address = endpoint.address();
        let closing = Arc::new(Closing::new(address)?);
        let census = Arc::new(Census::new(matches!(endpoint, Endpoint::Listen(_))));
        count(&socket, address, &census, options, notify)?;
        let mut listening = None;
        match endpoint {
            Endpoint::Listen(address) => {
                listening = Some(Listening::start(Supply::Socket(socket.clone()), address, &census, &closing)?);
            }
            Endpoint::Dial(address) => dial::start(&socket, address, &census, Persistence::Always)?,
        }
        Ok(Self { socket, closing, census, listening })
    }

    /// Stops listening, if the socket listens.
    pub(crate) fn stop_listening(&self) {
        self.listening.iter().for_each(|listening| listening.close());
    }

    /// Ends every wait, removes the file, and closes all connections.
    pub(crate) fn close(&self) {
        if self.closing.close() {
            self.census.close();
            self.stop_listening();
            self.socket.close();
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.close();
    }
}

/// Makes libnng report to `census` and `notify` the connections of `socket`
/// that `options` admit.
pub(crate) fn count(
    socket: &Socket,
    address: &Address,
    census: &Arc<Census>,
    options: &Options,
    notify: impl Fn(Pipe, PipeEvent) + Send + Sync + 'static,
) -> Result<()> {
    let counted = census.clone();
    let gatekeeper = Gatekeeper::new(options, census);
    let told = socket.pipe_notify(move |pipe, event| {
        if gatekeeper.lets_through(pipe, event) {
            notify(pipe, event);
            counted.notify(pipe, event);
        }
    });
    told.map_err(|error| nng_error("create a socket for", address, error))
}

/// Returns the path as a URL for libnng.
pub(crate) fn url(path: &Path) -> io::Result<String> {
    let text = path.to_str().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8, which the nng crate requires")
    })?;
    Ok(format!("ipc://{text}"))
}

pub(crate) fn nng_error(action: &'static str, address: &Address, error: nng::Error) -> TransportError {
    // An error of the operating system is worded as in every other transport.
    let kind = match error {
        nng::Error::PermissionDenied => return io_error(action, address, Errno::ACCESS.into()),
        nng::Error::EntryNotFound => return io_error(action, address, Errno::NOENT.into()),
        nng::Error::OutOfMemory => return io_error(action, address, Errno::NOMEM.into()),
        nng::Error::InvalidInput | nng::Error::AddressInvalid => io::ErrorKind::InvalidInput,
        nng::Error::AddressInUse => return TransportError::AddressInUse(address.clone()),
        nng::Error::Closed => return TransportError::Closed,
        nng::Error::SystemErr(code) => {
            let source = i32::try_from(code).map_or(io::ErrorKind::Other.into(), io::Error::from_raw_os_error);
            return io_error(action, address, source);
        }
        _ => io::ErrorKind::Other,
    };
    io_error(action, address, io::Error::new(kind, error))
}
