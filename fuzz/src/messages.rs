//! The JSON messages: what is read is written again as the same, and what is
//! no object is never taken for one.

use ekuiper_core::message::{
    Call, CallKind, Command, ErasedSerialize, SourceMessage, decode_ack, decode_reply, encode_ack, encode_call,
    encode_error, encode_result, encode_source_error, encode_tuple,
};
use serde_json::Value;
use serde_json::value::RawValue;

/// The message as any JSON, if it is JSON.
fn value(data: &[u8]) -> Option<Value> {
    serde_json::from_slice(data).ok()
}

/// Panics when `data`, which was accepted, is JSON of another kind.
pub(crate) fn must_be_object(data: &[u8]) {
    assert!(value(data).is_none_or(|value| value.is_object()), "not an object, and it was accepted");
}

/// A sink's acknowledgement keeps its outcome.
pub fn ack(data: &[u8]) {
    let Ok(outcome) = decode_ack(data) else { return };
    must_be_object(data);
    let written = encode_ack(outcome.as_ref().copied().map_err(String::as_str));
    assert_eq!(decode_ack(&written).unwrap(), outcome);
    if let Some(error) = value(data).as_ref().and_then(|value| value.get("error")).and_then(Value::as_str) {
        assert_eq!(outcome.err().unwrap_or_default(), error, "the text is the sink's own");
    }
}

/// A control command stays what it is.
pub fn command(data: &[u8]) {
    let Ok(command) = Command::decode(data) else { return };
    must_be_object(data);
    let arg = value(data).and_then(|value| Some(value.get("arg")?.as_str()?.to_owned()));
    arg.iter().for_each(|arg| must_be_object(arg.as_bytes()));
    let written = command.encode().unwrap();
    assert_eq!(Command::decode(&written).unwrap(), command);
    // What is derived from it does not panic, and says what stands there.
    let topic = command.control.datasource();
    assert!(
        topic.is_empty() || arg.is_none_or(|arg| value(arg.as_bytes()).is_none_or(|value| mentions(&value, topic)))
    );
    let _ = command.control.requires_ack();
}

fn mentions(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found == text,
        Value::Object(fields) => fields.values().any(|value| mentions(value, text)),
        Value::Array(items) => items.iter().any(|value| mentions(value, text)),
        _ => false,
    }
}

/// A function's request: every argument is the engine's text, to the letter.
pub fn call(data: &[u8]) {
    let Ok(call) = Call::decode(data) else { return };
    must_be_object(data);
    let is_within = |arg: &str| arg.is_empty() || data.windows(arg.len()).any(|window| window == arg.as_bytes());
    assert!(call.args.iter().all(|arg| is_within(arg.get())));
    if let Some(Value::Array(args)) = value(data).as_ref().and_then(|value| value.get("arg")) {
        let context = usize::from(call.kind == CallKind::Exec);
        assert_eq!(call.args.len() + context, args.len());
        for (raw, value) in call.args.iter().zip(args) {
            assert_eq!(serde_json::from_str::<Value>(raw.get()).unwrap(), *value, "in this order");
        }
    }
    let args: Vec<&dyn ErasedSerialize> = call.args.iter().map(|arg| arg as &dyn ErasedSerialize).collect();
    let mut written = Vec::new();
    let meta = (call.kind == CallKind::Exec).then_some(&call.meta);
    encode_call(&mut written, call.kind, &args, meta).unwrap();
    let again = Call::decode(&written).unwrap();
    assert_eq!((again.kind, &again.meta), (call.kind, &call.meta));
    if call.kind != CallKind::IsAggregate {
        let texts = |call: &Call<'_>| call.args.iter().map(|arg| arg.get().to_owned()).collect::<Vec<_>>();
        assert_eq!(texts(&again), texts(&call));
    }
}

/// A function's reply: a result stays that result, an error's text that text,
/// and a typed result is the same value.
pub fn reply(data: &[u8]) {
    let Ok(outcome) = decode_reply::<Value>(data) else { return };
    must_be_object(data);
    let mut written = Vec::new();
    match &outcome {
        Ok(result) => encode_result(&mut written, result).unwrap(),
        Err(text) => encode_error(&mut written, text),
    }
    assert_eq!(decode_reply::<Value>(&written).unwrap(), outcome);
    if let Ok(text) = decode_reply::<String>(data) {
        assert_eq!(text.map(Value::from), outcome);
    }
    if let Ok(number) = decode_reply::<i64>(data) {
        assert_eq!(number.map(Value::from), outcome);
    }
    if let Ok(numbers) = decode_reply::<Vec<f64>>(data) {
        let untyped = |value: &Value| value.as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect();
        assert_eq!(numbers, outcome.as_ref().map(untyped).map_err(String::clone));
    }
    if let Ok(raw) = decode_reply::<Box<RawValue>>(data) {
        assert_eq!(raw.map(|raw| serde_json::from_str::<Value>(raw.get()).unwrap()), outcome);
    }
}

/// A source's message: a tuple stays that tuple, and an error that error, in
/// both spellings.
pub fn source(data: &[u8]) {
    let Ok(message) = SourceMessage::<Value>::decode(data) else { return };
    match value(data) {
        Some(Value::String(inner)) => must_be_object(inner.as_bytes()),
        _ => must_be_object(data),
    }
    match &message {
        SourceMessage::Tuple(tuple) => {
            let mut written = Vec::new();
            encode_tuple(&mut written, &tuple.message, Some(&tuple.meta)).unwrap();
            assert_eq!(SourceMessage::decode(&written).unwrap(), message);
        }
        SourceMessage::Error(text) => {
            let python = encode_source_error(text);
            assert_eq!(SourceMessage::decode(&python).unwrap(), message);
            let go = serde_json::to_vec(&String::from_utf8(python).unwrap()).unwrap();
            assert_eq!(SourceMessage::decode(&go).unwrap(), message);
        }
    }
}
