//! Scalability Protocols (SP) over a byte stream, as libnng and mangos speak
//! them over IPC: state machines whose input is bytes and instants.
//!
//! The formats are those of nanomsg's `rfc/sp-ipc-01.txt` and
//! `sp-request-reply-01`; where the text leaves a choice, those of libnng 1.x
//! and mangos 3.

mod backtrace;
mod connection;
mod header;
mod request;

pub use backtrace::{BacktraceFault, MAX_WORDS, split_backtrace};
pub use connection::{Connection, Event, FRAME_HEADER, Limits, SpError, frame_header};
pub use header::{HEADER, Protocol};
pub use request::Requester;
