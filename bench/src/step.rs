//! The steps of the hot path, each alone on one thread: Criterion measures
//! their times, and `cargo xtask bench --instructions` counts their
//! instructions.

use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::codec::Format;
use ekuiper_core::exchange::{Arrival, HostEnd, PluginEnd, Step as Turn};
use ekuiper_core::message::{
    BatchReply, BatchWriter, Call, CallKind, EncodedMeta, FunctionMeta, HANDSHAKE, RawTuple, Rows, SourceMessage,
    decode_batch_reply, decode_reply, encode_call, encode_result, encode_tuple,
};
use ekuiper_core::sp::{Connection, Event, Limits, Protocol, frame_header};
use ekuiper_core::transport::{
    ConnectionId, Deadline, Endpoint, Options, Pull, PullEvent, Push, Reply, ReplyEvent, Request, RequestId, Ticket,
    Transport,
};
use ekuiper_transport_uds::UdsTransport;
use serde_json::Value;

use crate::reading::{Reading, text};
use crate::subject::SIZE;

/// Size of one read of a socket.
const CHUNK: usize = 64 << 10;

/// A step of the hot path.
pub struct Step {
    /// Name: a group, a slash, the step.
    pub name: &'static str,
    /// Runs the step once.
    pub take: Box<dyn FnMut()>,
}

fn step(name: &'static str, take: impl FnMut() + 'static) -> Step {
    Step { name, take: Box::new(take) }
}

/// Returns the names of all steps, in order.
pub fn names() -> Vec<&'static str> {
    // Sockets are created only where they are used.
    codecs().iter().chain(&texts()).map(|step| step.name).chain(OTHERS).collect()
}

const OTHERS: [&str; 5] = ["sp/chunk", "exchange/call", "uds/one-way", "uds/post-64", "uds/there-and-back"];

/// Returns the step of this name, if it exists.
pub fn by_name(name: &str) -> Option<Step> {
    match name {
        "sp/chunk" => Some(chunk()),
        "exchange/call" => Some(exchange()),
        "uds/one-way" => Some(one_way()),
        "uds/post-64" => Some(posted()),
        "uds/there-and-back" => Some(there_and_back()),
        name => codecs().into_iter().chain(texts()).find(|step| step.name == name),
    }
}

/// Encoding or decoding a message: a record of 128 B, a call with a text of 128
/// B, a batch of numbers.
fn codecs() -> Vec<Step> {
    let json = [
        "json/write-tuple",
        "json/read-tuple",
        "json/read-tuple-as-value",
        "json/find-raw-tuple",
        "json/write-call",
        "json/read-call",
        "json/write-result",
        "json/read-result",
        "json/batch-of-256",
    ];
    let messagepack = [
        "messagepack/write-tuple",
        "messagepack/read-tuple",
        "messagepack/read-tuple-as-value",
        "messagepack/find-raw-tuple",
        "messagepack/write-call",
        "messagepack/read-call",
        "messagepack/write-result",
        "messagepack/read-result",
        "messagepack/batch-of-256",
    ];
    [(Format::Json, json), (Format::MessagePack, messagepack)]
        .into_iter()
        .flat_map(|(format, names)| codec(format, names))
        .collect()
}

fn codec(format: Format, names: [&'static str; 9]) -> Vec<Step> {
    let written = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut buffer = Vec::new();
        write(&mut buffer);
        buffer
    };
    let tuple = written(&|buffer| write_tuple(format, buffer, &Reading::of_size(SIZE)));
    let (untyped, call) = (tuple.clone(), written(&|buffer| write_call(format, buffer, &text(SIZE), &meta())));
    let reply = written(&|buffer| write_result(format, buffer, &text(SIZE)));
    let (reading, argument, result, meta) = (Reading::of_size(SIZE), text(SIZE), text(SIZE), meta());
    let [mut tuples, mut calls, mut results] = [const { Vec::new() }; 3];
    let mut raw = RawTuple::new();
    raw.buffer().clone_from(&tuple);
    let [tuple_out, tuple_in, value_in, raw_in, call_out, call_in, result_out, result_in, batch] = names;
    vec![
        step(tuple_out, move || write_tuple(format, &mut tuples, &reading)),
        step(tuple_in, move || {
            let read = SourceMessage::<Reading>::decode(format, &tuple);
            assert!(matches!(read, Ok(SourceMessage::Tuple(_))), "a tuple is read");
        }),
        step(value_in, move || {
            let read = SourceMessage::<Value>::decode(format, &untyped);
            assert!(matches!(read, Ok(SourceMessage::Tuple(_))), "a tuple is read");
        }),
        step(raw_in, move || {
            raw.buffer();
            assert!(matches!(raw.find(format), Ok(None)), "a tuple is found");
        }),
        step(call_out, move || write_call(format, &mut calls, &argument, &meta)),
        step(call_in, move || {
            let read = Call::decode(format, &call).ok();
            let text = read.and_then(|mut call| call.args.read::<String>().ok().flatten());
            assert_eq!(text.map(|text| text.len()), Some(SIZE), "a call is read");
        }),
        step(result_out, move || write_result(format, &mut results, &result)),
        step(result_in, move || {
            let read = decode_reply::<String>(format, &reply);
            assert!(matches!(read, Ok(Ok(_))), "a result is read");
        }),
        step(batch, whole_batch(format)),
    ]
}

/// Length of a long text, in bytes.
const LONG: usize = 64 << 10;

/// Encoding or decoding a long text, as a result and as a field of a record.
fn texts() -> Vec<Step> {
    let json = [
        ["json/write-64k", "json/read-64k", "json/read-64k-field"],
        ["json/write-64k-utf8", "json/read-64k-utf8", "json/read-64k-utf8-field"],
        ["json/write-64k-escaped", "json/read-64k-escaped", "json/read-64k-escaped-field"],
    ];
    let messagepack = [
        ["messagepack/write-64k", "messagepack/read-64k", "messagepack/read-64k-field"],
        ["messagepack/write-64k-utf8", "messagepack/read-64k-utf8", "messagepack/read-64k-utf8-field"],
        ["messagepack/write-64k-escaped", "messagepack/read-64k-escaped", "messagepack/read-64k-escaped-field"],
    ];
    let utf8 = "Größe 21,6 °C, влажность 48 %, 東京; ".repeat(LONG / 50);
    // A line of a log or of a program.
    let escaped = "\t\"the quick brown fox\": jumps over the lazy dog;\n".repeat(LONG / 49);
    [(Format::Json, json), (Format::MessagePack, messagepack)]
        .into_iter()
        .flat_map(|(format, names)| {
            names.into_iter().zip([text(LONG), utf8.clone(), escaped.clone()]).map(move |named| (format, named))
        })
        .flat_map(|(format, (names, text))| long_text(format, names, text))
        .collect()
}

fn long_text(format: Format, names: [&'static str; 3], text: String) -> [Step; 3] {
    let [mut buffer, mut reply, mut tuple] = [const { Vec::new() }; 3];
    let length = text.len();
    write_result(format, &mut reply, &text);
    write_tuple(format, &mut tuple, &Reading::with_note(text.clone()));
    let [out, result, field] = names;
    [
        step(out, move || write_result(format, &mut buffer, &text)),
        step(result, move || {
            let read = decode_reply::<String>(format, &reply).ok().and_then(Result::ok);
            assert_eq!(read.map(|text| text.len()), Some(length), "a result is read");
        }),
        step(field, move || {
            let read = SourceMessage::<Reading>::decode(format, &tuple);
            assert!(matches!(read, Ok(SourceMessage::Tuple(_))), "a tuple is read");
        }),
    ]
}

fn meta() -> EncodedMeta {
    EncodedMeta::from(&FunctionMeta { rule_id: "rule1".into(), op_id: "echo".into(), ..FunctionMeta::default() })
}

fn write_tuple(format: Format, buffer: &mut Vec<u8>, reading: &Reading) {
    buffer.clear();
    assert!(encode_tuple(format, buffer, reading, None::<&()>).is_ok(), "a tuple is written");
}

fn write_call(format: Format, buffer: &mut Vec<u8>, argument: &str, meta: &EncodedMeta) {
    buffer.clear();
    assert!(encode_call(format, buffer, CallKind::Exec, &(argument,), Some(meta)).is_ok(), "a call is written");
}

fn write_result(format: Format, buffer: &mut Vec<u8>, result: &str) {
    buffer.clear();
    assert!(encode_result(format, buffer, result).is_ok(), "a result is written");
}

/// Encoding a batch of 256 numbers, decoding and answering it, and decoding the
/// answer.
fn whole_batch(format: Format) -> impl FnMut() {
    const ROWS: u32 = 256;
    let (meta, mut request, mut reply) = (meta(), Vec::new(), Vec::new());
    move || {
        let done = (|| {
            let mut writer = BatchWriter::new(format, std::mem::take(&mut request), 1, &meta);
            (0..ROWS).try_for_each(|row| writer.row(&(f64::from(row),)))?;
            request = writer.finish();
            let call = Call::decode(format, &request)?;
            let mut rows = Rows::new(&call.args)?;
            reply.clear();
            let mut results = BatchReply::new(format, &mut reply, call.id);
            while let Some(mut row) = rows.next_row()? {
                let number = row.read::<f64>().ok().flatten().unwrap_or(f64::NAN);
                let is_over = row.is_over();
                debug_assert!(is_over, "a row has one argument");
                results.result(&(number * 2.0))?;
                rows.go_on(row)?;
            }
            results.finish();
            decode_batch_reply::<f64>(format, &reply, 1, ROWS)
        })();
        let last = done.ok().and_then(Result::ok).and_then(|outcomes| outcomes.last().cloned());
        assert_eq!(last, Some(Ok(f64::from(ROWS - 1) * 2.0)), "each row has its result");
    }
}

/// Splitting a chunk full of frames of 128 B.
fn chunk() -> Step {
    let limits = Limits {
        max_message: 64 << 20,
        skip_up_to: 0,
        header_timeout: Duration::from_secs(10),
        stall_timeout: Duration::from_secs(10),
    };
    let now = Instant::now();
    let mut connection = Connection::new(Protocol::Pull, limits, now);
    let frame = [&frame_header(SIZE)[..], text(SIZE).as_bytes()].concat();
    let count = CHUNK / frame.len();
    let chunk = frame.repeat(count);
    feed(&mut connection, &Protocol::Push.header(), now);
    assert!(matches!(connection.next(), Ok(Some(Event::Ready))), "the header is one");
    step("sp/chunk", move || {
        let mut rest = &chunk[..];
        let mut messages = 0;
        while !rest.is_empty() {
            let taken = feed(&mut connection, rest, now);
            rest = &rest[taken..];
            while let Ok(Some(Event::Message(message))) = connection.next() {
                messages += usize::from(message.len() == SIZE);
            }
        }
        assert_eq!(messages, count, "each frame is a message");
    })
}

fn feed(connection: &mut Connection, bytes: &[u8], now: Instant) -> usize {
    let space = connection.space();
    let count = bytes.len().min(space.len());
    space[..count].copy_from_slice(&bytes[..count]);
    connection.filled(count, now);
    count
}

/// A command and its answer through the state machines of both ends.
fn exchange() -> Step {
    let (mut host, mut plugin) = (HostEnd::new(), PluginEnd::new());
    let connection = ConnectionId(1);
    plugin.connected(connection);
    plugin.sent();
    let mut serial = 0;
    let mut request = move || {
        serial += 1;
        let request = RequestId::new(&(0x8000_0000 | serial as u32).to_be_bytes()).unwrap_or_default();
        Ticket { connection, serial, request }
    };
    assert_eq!(host.arrived(request(), HANDSHAKE), Arrival::Handshake, "the host has a plugin");
    step("exchange/call", move || {
        assert!(host.begin().is_ok(), "the host can send a command");
        plugin.received(connection);
        assert_eq!(plugin.step(), Turn::Answer(connection), "the plugin carries it out");
        plugin.sent();
        assert_eq!(host.arrived(request(), b"answer"), Arrival::Answer, "the host has the answer");
    })
}

/// Sending and receiving a message of 128 B.
fn one_way() -> Step {
    let ends = OneWay::open();
    let (message, mut buffer) = (text(SIZE), Vec::new());
    step("uds/one-way", move || {
        assert!(ends.push.send(message.as_bytes(), soon()).is_ok(), "a message is sent");
        assert!(matches!(ends.pull.receive(&mut buffer, soon()), Ok(PullEvent::Message(_))), "it is received");
    })
}

/// Posting, flushing and receiving 64 messages of 128 B.
fn posted() -> Step {
    let ends = OneWay::open();
    let (message, mut buffer) = (text(SIZE), Vec::new());
    step("uds/post-64", move || {
        for _ in 0..64 {
            assert!(ends.push.post(message.as_bytes(), soon()).is_ok(), "a message is posted");
        }
        assert!(ends.push.dispatch(soon()).is_ok(), "they are let go");
        for _ in 0..64 {
            assert!(matches!(ends.pull.receive(&mut buffer, soon()), Ok(PullEvent::Message(_))), "each is received");
        }
    })
}

/// Sending, receiving and answering a request of 128 B, and receiving the
/// answer.
fn there_and_back() -> Step {
    let ends = ThereAndBack::open();
    let (message, mut buffer) = (text(SIZE), Vec::new());
    step("uds/there-and-back", move || {
        assert!(ends.request.send(ends.connection, message.as_bytes(), soon()).is_ok(), "a request is sent");
        let Ok(ReplyEvent::Request(ticket)) = ends.reply.receive(&mut buffer, soon()) else {
            panic!("no request was received")
        };
        assert!(ends.reply.send(&ticket, message.as_bytes(), soon()).is_ok(), "it is answered");
        assert!(ends.request.receive(&mut buffer, soon()).is_ok(), "the answer is received");
    })
}

struct OneWay {
    push: Box<dyn Push>,
    pull: Box<dyn Pull>,
    _folder: tempfile::TempDir,
}

struct ThereAndBack {
    request: Box<dyn Request>,
    reply: Box<dyn Reply>,
    connection: ConnectionId,
    _folder: tempfile::TempDir,
}

// A failure to open sockets for a measurement can only panic.
#[allow(clippy::unwrap_used)]
impl OneWay {
    fn open() -> Self {
        let (folder, address) = address();
        let (transport, options) = (UdsTransport::new(), Options::default());
        let pull = transport.pull(&Endpoint::Listen(address.clone()), &options).unwrap();
        let push = transport.push(&Endpoint::Dial(address), &options).unwrap();
        push.connect(soon()).unwrap();
        assert!(matches!(pull.receive(&mut Vec::new(), soon()), Ok(PullEvent::Connected(_))), "a peer has come");
        Self { push, pull, _folder: folder }
    }
}

#[allow(clippy::unwrap_used)]
impl ThereAndBack {
    fn open() -> Self {
        let (folder, address) = address();
        let (transport, options) = (UdsTransport::new(), Options::default());
        let reply = transport.reply(&address, &options).unwrap();
        let request = transport.request(&address, &options).unwrap();
        let connection = request.connect(soon()).unwrap();
        assert!(matches!(reply.receive(&mut Vec::new(), soon()), Ok(ReplyEvent::Connected(_))), "a peer has come");
        Self { request, reply, connection, _folder: folder }
    }
}

#[allow(clippy::unwrap_used)]
fn address() -> (tempfile::TempDir, Address) {
    let folder = tempfile::tempdir().unwrap();
    let address = Address::new(folder.path().join("step.ipc")).unwrap();
    (folder, address)
}

fn soon() -> Deadline {
    Some(Instant::now() + Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_can_be_taken_again_and_again() {
        for name in names() {
            let mut step = by_name(name).unwrap();
            assert_eq!(step.name, name);
            (0..1000).for_each(|_| (step.take)());
        }
        assert!(by_name("codec/none").is_none());
    }
}
