//! The control channel's commands: the symbol's instance that one addresses, its
//! name in messages, and the refusal of a command.

use ekuiper_core::message::{ANSWER_OK, Control, Meta, SymbolKind};

use crate::error::shortened;

/// The identity of a symbol's instance.
pub(super) type Key = (SymbolKind, String, Meta);

/// The identity of the instance that a control message addresses.
pub(super) fn key(control: &Control) -> Key {
    // A function's channel belongs to no rule, whatever an engine says.
    let meta = match control.plugin_type {
        SymbolKind::Function => Meta::default(),
        _ => control.meta.clone(),
    };
    (control.plugin_type, control.symbol_name.clone(), meta)
}

/// The span that names a symbol in the log.
pub(super) fn span((kind, symbol, meta): &Key) -> tracing::Span {
    match kind {
        SymbolKind::Function => tracing::error_span!("function", name = symbol),
        // At the highest level, so that every line names its symbol.
        _ => {
            let (rule, op, instance) = (&meta.rule_id, &meta.op_id, meta.instance_id);
            tracing::error_span!("symbol", %kind, name = symbol, rule, op, instance)
        }
    }
}

/// A symbol's name in messages.
pub(super) fn title((kind, symbol, meta): &Key) -> String {
    match kind {
        SymbolKind::Function => format!("{kind} {symbol}"),
        _ => format!("{kind} {symbol} ({meta})"),
    }
}

/// Appends an error as the answer to a command, prefixed where necessary: an
/// engine takes an error `ok` for success, and a stock engine repeats the
/// command for ever when an error begins like a handshake (fault 3).
pub(super) fn refuse(text: &str, reply: &mut Vec<u8>) {
    if text.as_bytes() == ANSWER_OK || text.starts_with('h') {
        reply.extend_from_slice(b"error: ");
    }
    reply.extend_from_slice(shortened(text.to_owned()).as_bytes());
}
