//! Cases about the wire format: the peer is a raw socket.

pub mod files;
pub mod frames;
pub mod header;
pub mod listener;
pub mod pipeline;
pub mod reply;
pub mod request;
