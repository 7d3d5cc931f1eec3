//! The extension of the transport contract for connections that outlive the
//! process that receives on them: a plugin's supervisor keeps them while it
//! replaces a worker that died.

use std::os::fd::OwnedFd;

use ekuiper_core::transport::{ConnectionId, Endpoint, Options, Pull, Result, Transport};

/// A transport whose receiving sockets can be retained. One whose connections
/// are threads or a library's own does not implement it.
pub trait RetainedTransport: Transport {
    /// Creates a socket as [`Transport::pull`] does.
    ///
    /// # Errors
    /// As [`Transport::pull`].
    fn retained_pull(&self, endpoint: &Endpoint, options: &Options) -> Result<Box<dyn RetainedPull>>;
}

/// A receiving socket whose connections another process can keep open.
pub trait RetainedPull: Pull {
    /// Returns a duplicate of a connection's descriptor, or `None` if the
    /// connection has ended. Its holder can still read the unread data after
    /// this process has died. The duplicate does not keep open a connection
    /// that is closed in order.
    fn retain(&self, connection: ConnectionId) -> Option<OwnedFd>;
}
