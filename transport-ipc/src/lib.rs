//! Shared parts of the transports whose sockets are files, so that they keep
//! the same promises in the same folders.
//!
//! - [`socket_file`]: which socket file may be taken over or removed, under a
//!   `folder_lock` that no other user can hold;
//! - [`connect`]: one attempt to connect to a socket file;
//! - [`wait`]: waits for descriptors, ended by a deadline or by closing;
//! - [`platform`]: what differs between operating systems;
//! - [`lock`]: a mutex with the same kind of wait, also used by the host;
//! - [`receiving`]: one receiver at a time, and what it gets;
//! - [`request`]: the socket that sends requests, without its wire;
//! - [`open_request`]: which request can be answered;
//! - [`process`]: the process at the other end of a connection;
//! - [`retained`]: connections that outlive the process that receives on them;
//! - [`random`]: the jitter of restart pauses, for the host and the SDK.
//!
//! Not here: the bytes on a connection, which are each transport's own.

mod connect;
mod folder_lock;
pub mod lock;
pub mod open_request;
pub mod platform;
pub mod process;
pub mod random;
pub mod receiving;
pub mod request;
pub mod retained;
pub mod socket_file;
pub mod wait;

pub use connect::connect;
