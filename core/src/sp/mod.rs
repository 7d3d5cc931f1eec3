//! Scalability Protocols over a byte stream, as libnng and mangos speak them
//! over IPC: state machines that are fed bytes and instants.
//!
//! The formats are nanomsg's (`rfc/sp-ipc-01.txt`, `sp-request-reply-01`);
//! where the text leaves room, they are what libnng 1.x and mangos 3 do.

mod backtrace;
mod connection;
mod header;
mod request;

pub use backtrace::{Backtrace, BacktraceFault, MAX_WORDS};
pub use connection::{Connection, Event, FRAME_HEADER, Limits, SpError, frame_header};
pub use header::{HEADER, Protocol};
pub use request::Requester;
