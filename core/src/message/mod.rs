//! The messages that engine and plugin exchange, as types.
//!
//! The forms are those of eKuiper's `internal/plugin/portable/runtime` and
//! `sdk/go`, of the Python SDK's `runtime`, and of what was observed on the
//! wire.

mod ack;
mod args;
mod batch;
mod cancel;
mod collected;
mod columns;
mod control;
mod envelope;
mod function;
mod hello;
mod raw_tuple;
mod rows;
mod source;

pub use ack::{AckCount, decode_ack, encode_ack};
pub use args::{Arg, ArgWriter, Args, Arguments, EncodedArgs, encode_row};
pub use batch::{BatchReply, BatchWriter, Mark, Rows, decode_batch_reply, split_batch_reply};
pub use cancel::Cancel;
pub use collected::Collected;
pub use columns::{COLUMNS_MARK, ColumnsCall, end_columns_call, is_columns, renumber_columns_call, split_columns_call};
pub use control::{ANSWER_OK, Command, CommandKind, Control, HANDSHAKE, Meta, SymbolKind};
pub use function::{
    Call, CallKind, EncodedMeta, FunctionMeta, Outcome, decode_reply, encode_call, encode_error, encode_result,
};
pub use hello::{Feature, Hello, Symbols};
pub use raw_tuple::RawTuple;
pub use rows::{RowCount, encode_rows, format_of_rows};
pub use source::{SourceMessage, Tuple, encode_source_error, encode_tuple};
