//! The types of the public signatures, each named as an engine would name it.
#![allow(clippy::unwrap_used)] // these are tests

use ekuiper_host::{
    Address, ArgWriter, Arguments, CodecError, Error, ErrorKind, Function, MessageError, TransportError,
};

/// A row whose columns are a call's arguments.
struct Row<'a>(&'a [(&'a str, f64)]);

impl Arguments for Row<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn write(&self, to: &mut ArgWriter<'_>) -> Result<(), CodecError> {
        self.0.iter().try_for_each(|(_, value)| to.arg(value))
    }
}

/// Calls a function with arguments that are no tuple.
fn call(function: &Function, row: &[(&str, f64)]) -> Result<f64, ErrorKind> {
    function.call(Row(row)).map_err(|error| error.kind())
}

fn message(error: &Error) -> Option<&MessageError> {
    if let Error::Message { source, .. } = error { Some(source) } else { None }
}

fn transport(error: &Error) -> Option<&TransportError> {
    if let Error::Transport { source, .. } = error { Some(source) } else { None }
}

fn address(error: &TransportError) -> Option<&Address> {
    match error {
        TransportError::AddressInUse(address)
        | TransportError::NotASocket(address)
        | TransportError::Io { address, .. } => Some(address),
        _ => None,
    }
}

#[test]
fn the_parts_of_errors_and_the_arguments_of_calls() {
    let at = Address::new("/tmp/x.ipc").unwrap();
    let error = Error::Transport { what: "x".into(), source: TransportError::AddressInUse(at.clone()).into() };
    assert_eq!(transport(&error).and_then(address), Some(&at));
    let unknown = || MessageError::UnknownCodec { name: "x".into() };
    let error = Error::Message { what: "x".into(), source: unknown().into() };
    assert_eq!(message(&error).unwrap().to_string(), unknown().to_string());
    let _ = call;
}
