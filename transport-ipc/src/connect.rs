//! Connecting to a socket file.

use std::io;
use std::os::fd::OwnedFd;

use ekuiper_core::address::Address;
use interprocess::ConnectWaitMode;
use interprocess::local_socket::{ConnectOptions, GenericFilePath, Stream, ToFsName};

/// One attempt, which does not wait; the connection does not block either.
///
/// # Errors
/// The operating system's: nobody listens there, or it is no socket. A
/// listener whose queue is full gives a socket that is not connected yet.
pub fn connect(address: &Address) -> io::Result<OwnedFd> {
    let name = address.path().to_fs_name::<GenericFilePath>()?;
    let options = ConnectOptions::new().name(name).nonblocking_stream(true).wait_mode(ConnectWaitMode::Deferred);
    match options.connect_sync()? {
        Stream::UdSocket(stream) => Ok(stream.into()),
    }
}
