//! What transports whose sockets are files share, so that they keep to the
//! same promises in the same folders.
//!
//! - [`socket_file`]: which socket file may be taken over, and which removed,
//!   under a `folder_lock` that nobody else can hold;
//! - [`connect`]: one attempt to connect to one;
//! - [`wait`]: waits for descriptors that end with a deadline or a closing;
//! - [`unread`]: how much of what was sent the other side has not read;
//! - [`lock`]: a lock that is waited for in the same way, for the host too;
//! - [`process`]: which process is at a connection's other end.
//!
//! What does not live here: bytes. What goes over a connection is its
//! transport's.

mod connect;
mod folder_lock;
pub mod lock;
pub mod process;
pub mod socket_file;
pub mod unread;
pub mod wait;

pub use connect::connect;
