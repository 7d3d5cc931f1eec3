//! Cases that show on the wire: the peer is a bare socket.

pub mod files;
pub mod frames;
pub mod header;
pub mod listener;
pub mod pipeline;
pub mod reply;
pub mod request;
