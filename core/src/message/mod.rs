//! The messages that engine and plugin exchange (JSON), as types.
//!
//! Source of the forms: eKuiper's `internal/plugin/portable/runtime` and
//! `sdk/go`, the Python SDK's `runtime`, and what was seen on the wire.

mod ack;
mod control;
mod finite;
mod function;
mod rows;
mod source;

pub use ack::{decode_ack, encode_ack};
pub use control::{ANSWER_OK, Command, CommandKind, Control, HANDSHAKE, Meta, SymbolKind};
pub use function::{
    Call, CallKind, ErasedSerialize, FunctionMeta, Outcome, decode_reply, encode_call, encode_error, encode_result,
};
pub use rows::encode_rows;
pub use source::{SourceMessage, Tuple, encode_source_error, encode_tuple};
