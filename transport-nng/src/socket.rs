//! Creating libnng sockets: their settings, their URLs and their errors.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ekuiper_core::address::Address;
use ekuiper_core::transport::{ConnectionId, Result, TransportError};
use ekuiper_transport_ipc::wait::io_error;
use nng::options::{Options as _, ReconnectMaxTime, ReconnectMinTime, RecvMaxSize, SendBufferSize};
use nng::{Protocol, RawSocket, Socket};
use rustix::io::Errno;

/// libnng's own redial interval: never, see `dial`.
const NEVER: Duration = Duration::from_secs(10 * 24 * 3600);

/// Maximum message length that libnng can be configured with; 0 means any
/// length.
const LARGEST: u64 = u32::MAX as u64;

/// Number of answers that libnng's threads need not have taken yet, so that one
/// is accepted at once while another is passed on. They wait for no peer here:
/// libnng moves each to its connection's own queue.
const ANSWERS: i32 = 64;

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
        if protocol == Protocol::Rep0 {
            socket.set_opt::<SendBufferSize>(ANSWERS)?;
        }
        socket.set_opt::<RecvMaxSize>(max_message.clamp(1, LARGEST) as usize)?;
        socket.set_opt::<ReconnectMinTime>(Some(NEVER))?;
        socket.set_opt::<ReconnectMaxTime>(Some(NEVER))?;
        Ok(socket)
    };
    make().map_err(|error| nng_error("create a socket for", address, error))
}

/// Returns the path as a URL for libnng.
pub(crate) fn url(path: &Path) -> io::Result<String> {
    let text = path.to_str().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8, which the nng crate requires")
    })?;
    Ok(format!("ipc://{text}"))
}

/// Converts an error of libnng.
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
