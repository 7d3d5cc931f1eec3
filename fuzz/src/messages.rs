//! The messages: what is read is written again as the same, and what is
//! no object is never taken for one.

use ekuiper_core::codec::Format;
use ekuiper_core::message::{
    AckCount, Arg, BatchReply, Call, CallKind, Cancel, Command, EncodedMeta, FunctionMeta, Hello, Rows, SourceMessage,
    decode_ack, decode_batch_reply, decode_reply, encode_ack, encode_call, encode_error, encode_result,
    encode_source_error, encode_tuple,
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

/// Panics when `data` are not the value, or the error at the place, that they are
/// to `serde_json`.
fn must_be_read_as_by_serde_json(data: &[u8]) {
    fn shown<T>(read: Result<T, serde_json::Error>) -> Result<T, String> {
        read.map_err(|error| error.to_string())
    }
    let Ok(json) = std::str::from_utf8(data) else {
        return assert!(Format::Json.decode::<Value>(data).is_err() && Format::Json.decode::<&RawValue>(data).is_err());
    };
    assert_eq!(shown(Format::Json.decode::<Value>(data)), shown(serde_json::from_str(json)));
    let raw = |read: Result<&RawValue, serde_json::Error>| shown(read).map(|raw| raw.get().to_owned());
    assert_eq!(raw(Format::Json.decode(data)), raw(serde_json::from_str(json)));
}

/// A sink's acknowledgement keeps its outcome, or its number.
pub fn ack(data: &[u8]) {
    if let Some(AckCount(count)) = AckCount::decode(data) {
        assert!(decode_ack(data).is_err() && AckCount(count).encode() == data);
        let mut sum = AckCount(1).encode();
        assert_eq!(AckCount::merge(&mut sum, data), count < u32::MAX);
    }
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
    if let Some(Ok(cancels)) = Cancel::decode(data) {
        must_be_object(data);
        assert_eq!(Cancel::decode(&Cancel::encode(&cancels)).unwrap().unwrap(), cancels);
    }
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
    let Ok(call) = Call::decode(Format::Json, data) else { return };
    must_be_object(data);
    // An Exec is read to its end with its arguments.
    let Ok(args) = call.args.all() else {
        return assert!(call.kind == CallKind::Exec && call.meta().is_err(), "what was accepted is JSON");
    };
    let is_within = |arg: &[u8]| arg.is_empty() || data.windows(arg.len()).any(|window| window == arg);
    assert!(args.iter().all(|arg| is_within(arg.bytes())));
    if let Some(Value::Array(values)) = value(data).as_ref().and_then(|value| value.get("arg")) {
        let context = usize::from(call.kind == CallKind::Exec && !values.is_empty());
        assert_eq!(args.len() + context, values.len());
        for (raw, value) in args.iter().zip(values) {
            assert!(raw.read::<Value>().is_ok_and(|read| read == *value), "in this order");
        }
    }
    let Ok(meta) = call.meta() else { return };
    // A number may be JSON and yet none that a value holds.
    if is_of_one_row(call.kind) && args.iter().all(|arg| arg.read::<Value>().is_ok()) {
        must_survive(&call, &args, &meta);
    }
}

/// The same in MessagePack; and what is a batch has rows that can be passed.
pub fn call_messagepack(data: &[u8]) {
    let Ok(call) = Call::decode(Format::MessagePack, data) else { return };
    let all = call.args.all();
    let mut rows = Rows::new(&call.args).unwrap();
    let mut count = 0;
    while let Ok(Some(row)) = rows.next_row() {
        count += 1;
        let _ = row.all();
        if rows.go_on(row).is_err() {
            break;
        }
    }
    let (Ok(args), Ok(meta)) = (all, call.meta()) else { return };
    assert!(count <= args.len());
    if is_of_one_row(call.kind) && args.iter().all(|arg| arg.read::<Value>().is_ok()) {
        must_survive(&call, &args, &meta);
    }
}

/// Whether the request is written with its arguments.
fn is_of_one_row(kind: CallKind) -> bool {
    !matches!(kind, CallKind::Batch | CallKind::Columns)
}

/// Written again, in either codec, it is the same call.
fn must_survive(call: &Call<'_>, args: &[Arg<'_>], meta: &FunctionMeta) {
    let values: Vec<Value> = args.iter().filter_map(|arg| arg.read().ok()).collect();
    assert_eq!(values.len(), args.len(), "they were read before");
    let context = (call.kind == CallKind::Exec).then(|| EncodedMeta::from(meta));
    for format in [Format::Json, Format::MessagePack] {
        let mut written = Vec::new();
        encode_call(format, &mut written, call.kind, &values, context.as_ref()).unwrap();
        let again = Call::decode(format, &written).unwrap();
        assert_eq!(again.kind, call.kind);
        if context.is_some() {
            assert_eq!(again.meta().unwrap(), *meta);
        }
        if call.kind != CallKind::IsAggregate {
            let read: Vec<Value> = again.args.all().unwrap().iter().map(|arg| arg.read().unwrap()).collect();
            assert_eq!(read, values);
        }
    }
}

/// A value in MessagePack is the same in JSON.
pub fn messagepack(data: &[u8]) {
    let length = Format::MessagePack.length(data);
    if let Ok(length) = length {
        assert!(length <= data.len());
    }
    let Ok(value) = Format::MessagePack.decode::<Value>(data) else { return };
    assert_eq!(length.unwrap(), data.len());
    for format in [Format::Json, Format::MessagePack] {
        let mut written = Vec::new();
        format.encode(&mut written, &value).unwrap();
        assert_eq!(format.decode::<Value>(&written).unwrap(), value);
    }
}

/// The reply to a batch has an outcome for each row, or is refused; the first
/// byte is the number of rows.
pub fn batch_reply(data: &[u8]) {
    let Some((rows, data)) = data.split_first() else { return };
    for format in [Format::Json, Format::MessagePack] {
        let Ok(Ok(outcomes)) = decode_batch_reply::<Value>(format, data, 7, (*rows).into()) else { continue };
        assert_eq!(outcomes.len(), usize::from(*rows));
        let mut written = Vec::new();
        let mut reply = BatchReply::new(format, &mut written, 7);
        for outcome in &outcomes {
            match outcome {
                Ok(result) => reply.result(result).unwrap(),
                Err(text) => reply.error(text.clone()),
            }
        }
        reply.finish();
        assert_eq!(decode_batch_reply::<Value>(format, &written, 7, (*rows).into()).unwrap(), Ok(outcomes));
    }
}

/// What a plugin says of itself stays that.
pub fn hello(data: &[u8]) {
    let Some(hello) = Hello::decode(data) else { return };
    assert!(data.starts_with(b"handshake "));
    assert_eq!(Hello::decode(&hello.encode()), Some(hello));
}

/// A function's reply: a result stays that result, an error's text that text,
/// and a typed result is the same value.
pub fn reply(data: &[u8]) {
    let Ok(outcome) = decode_reply::<Value>(Format::Json, data) else { return };
    must_be_object(data);
    for format in [Format::Json, Format::MessagePack] {
        let mut written = Vec::new();
        match &outcome {
            Ok(result) => encode_result(format, &mut written, result).unwrap(),
            Err(text) => encode_error(format, &mut written, text),
        }
        assert_eq!(decode_reply::<Value>(format, &written).unwrap(), outcome);
    }
    if let Ok(text) = decode_reply::<String>(Format::Json, data) {
        assert_eq!(text.map(Value::from), outcome);
    }
    if let Ok(number) = decode_reply::<i64>(Format::Json, data) {
        assert_eq!(number.map(Value::from), outcome);
    }
    if let Ok(numbers) = decode_reply::<Vec<f64>>(Format::Json, data) {
        let untyped = |value: &Value| value.as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect();
        assert_eq!(numbers, outcome.as_ref().map(untyped).map_err(String::clone));
    }
    if let Ok(raw) = decode_reply::<Box<RawValue>>(Format::Json, data) {
        assert_eq!(raw.map(|raw| serde_json::from_str::<Value>(raw.get()).unwrap()), outcome);
    }
}

/// A source's message: it is JSON to this project's reader if it is to
/// `serde_json`, a tuple stays that tuple, and an error that error, in both
/// spellings.
pub fn source(data: &[u8]) {
    must_be_read_as_by_serde_json(data);
    let Ok(message) = SourceMessage::<Value>::decode(Format::Json, data) else { return };
    match value(data) {
        Some(Value::String(inner)) => must_be_object(inner.as_bytes()),
        _ => must_be_object(data),
    }
    match &message {
        SourceMessage::Tuple(tuple) => {
            for format in [Format::Json, Format::MessagePack] {
                let mut written = Vec::new();
                encode_tuple(format, &mut written, &tuple.message, Some(&tuple.meta)).unwrap();
                assert_eq!(SourceMessage::decode(format, &written).unwrap(), message);
            }
        }
        SourceMessage::Error(text) => {
            let python = encode_source_error(Format::Json, text);
            assert_eq!(SourceMessage::decode(Format::Json, &python).unwrap(), message);
            let go = serde_json::to_vec(&String::from_utf8(python).unwrap()).unwrap();
            assert_eq!(SourceMessage::decode(Format::Json, &go).unwrap(), message);
        }
    }
}
