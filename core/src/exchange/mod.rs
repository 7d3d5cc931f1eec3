//! The inverted request/reply: the plugin's *request* is first a handshake and
//! then the *result* of the last command; the host's *reply* is the next
//! command.
//!
//! Both ends are state machines over the [transport
//! contract](crate::transport): their caller reports what arrived on which
//! connection, and asks what to do next.

mod host;
mod plugin;

pub use host::{Arrival, Departure, HostEnd, NotReady};
pub use plugin::{PluginEnd, Step};
