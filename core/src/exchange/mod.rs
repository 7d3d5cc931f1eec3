//! The inverted request/reply: the plugin's *request* is first a handshake and
//! then the *result* of the last command; the host's *reply* is the next
//! command.
//!
//! Both ends are state machines over the [transport contract](crate::transport):
//! they are told what arrived and from which connection, and tell what to do.

mod host;
mod plugin;

pub use host::{Arrival, Departure, HostEnd, NotReady};
pub use plugin::{PluginEnd, Step};
