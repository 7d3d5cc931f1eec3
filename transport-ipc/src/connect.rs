//! Connecting to a socket file.

use std::io;
use std::os::fd::OwnedFd;

use ekuiper_core::address::Address;
use interprocess::ConnectWaitMode;
use interprocess::local_socket::{ConnectOptions, GenericFilePath, Stream, ToFsName};

/// Makes one non-blocking attempt to connect; the returned socket is
/// non-blocking too.
///
/// # Errors
/// The operating system's error: no process listens there, or the file is not a
/// socket. A listener with a full backlog yields a socket that is not connected
/// yet.
pub fn connect(address: &Address) -> io::Result<OwnedFd> {
    let name = address.path().to_fs_name::<GenericFilePath>()?;
    let options = ConnectOptions::new().name(name).nonblocking_stream(true).wait_mode(ConnectWaitMode::Deferred);
    match options.connect_sync()? {
        Stream::UdSocket(stream) => Ok(stream.into()),
    }
}
