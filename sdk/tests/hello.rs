//! A plugin's hello to a host that asks for one, and the extensions it enables.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod support;

use std::process::Command;

use ekuiper_core::codec::Format;
use ekuiper_core::message::{
    BatchWriter, CallKind, CommandKind, Control, EncodedMeta, Feature, FunctionMeta, Hello, SourceMessage, SymbolKind,
    decode_batch_reply, decode_reply, encode_call,
};
use ekuiper_core::transport::{Endpoint, Options, PullEvent, Transport};
use ekuiper_transport_uds::UdsTransport;
use serde_json::{Value, json};

use support::channels::Channel;
use support::{Plugin, soon, watchdog};

/// Starts a plugin whose host asks for a hello.
fn asked(more: Value) -> (Plugin, Hello) {
    let mut asking = json!({ "hello": 1 });
    asking.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let plugin = Plugin::start_told(&[], asking, b"handshake {", |launch| {
        let mut command = Command::new(support::build::unruly());
        command.arg(launch);
        command
    });
    let hello = Hello::decode(&plugin.greeting).unwrap();
    (plugin, hello)
}

/// Starts a function with this codec.
fn start(plugin: &mut Plugin, symbol: &str, format: Format) -> Channel {
    let channel = Channel::listen(&plugin.sockets().function(symbol).unwrap());
    assert_eq!(plugin.command(CommandKind::Start, Control::function(symbol).with_format(format)), "ok");
    // Exactly a handshake, whatever was said on the control channel.
    channel.greeted()
}

fn context() -> EncodedMeta {
    EncodedMeta::from(&FunctionMeta { rule_id: "r1".into(), op_id: "o1".into(), instance_id: 2, func_id: 3 })
}

#[test]
fn a_host_that_asks_is_told_what_the_plugin_serves_and_can_do() {
    let _watchdog = watchdog();
    let (_plugin, hello) = asked(json!({}));
    assert_eq!((hello.sdk.as_str(), hello.version.as_str()), ("ekuiper-sdk", env!("CARGO_PKG_VERSION")));
    assert!(hello.symbols(SymbolKind::Function).contains(&"repeat".to_owned()));
    assert!(hello.symbols(SymbolKind::Source).contains(&"counter".to_owned()));
    assert!(hello.speaks(Format::MessagePack));
    assert!(Feature::ALL.iter().all(|feature| hello.has(*feature)));
}

#[test]
fn calls_and_their_errors_in_messagepack() {
    let _watchdog = watchdog();
    let (mut plugin, _) = asked(json!({}));
    let format = Format::MessagePack;
    let mut repeat = start(&mut plugin, "repeat", format);
    let call = |channel: &mut Channel, kind, args: &[Value]| {
        let mut call = Vec::new();
        encode_call(format, &mut call, kind, args, (kind == CallKind::Exec).then(context).as_ref()).unwrap();
        decode_reply::<Value>(format, &channel.ask(&call)).unwrap()
    };
    assert_eq!(call(&mut repeat, CallKind::Exec, &[json!("ab"), json!(2)]), Ok(json!("abab")));
    assert_eq!(call(&mut repeat, CallKind::Validate, &[json!({}), json!(7)]), Ok(json!("")));
    assert_eq!(call(&mut repeat, CallKind::Validate, &[]), Err("takes 2 arguments, got 0".into()));
    assert_eq!(call(&mut repeat, CallKind::IsAggregate, &[]), Ok(json!(false)));
    assert_eq!(call(&mut repeat, CallKind::Exec, &[json!("ab")]), Err("takes 2 arguments, got 1".into()));
    let error = call(&mut repeat, CallKind::Exec, &[json!("ab"), json!("x")]).unwrap_err();
    assert_eq!(error, "invalid argument 2: invalid type: string \"x\", expected usize");
    for garbage in [&b""[..], b"{}", b"\x81\xa4func", b"\xc1", b"\x81\xa4func\xa4Exec\xff"] {
        let error = decode_reply::<Value>(format, &repeat.ask(garbage)).unwrap().unwrap_err();
        assert!(error.contains("the function's request is not valid"), "{error}");
    }
    let mut cross = start(&mut plugin, "cross", format);
    assert_eq!(call(&mut cross, CallKind::Exec, &[]), Ok(json!(["r1", "o1", 2, 3])));
    let mut boom = start(&mut plugin, "boom", format);
    assert_eq!(call(&mut boom, CallKind::Exec, &[json!("ouch")]), Err("panicked: ouch".into()));
}

#[test]
fn a_batch_runs_each_row_and_a_panic_is_one_rows_error() {
    let _watchdog = watchdog();
    let (mut plugin, _) = asked(json!({}));
    for format in [Format::Json, Format::MessagePack] {
        let symbol = if format == Format::Json { "boom" } else { "repeat" };
        let mut channel = start(&mut plugin, symbol, format);
        let mut batch = BatchWriter::new(format, Vec::new(), 5, &context());
        match format {
            Format::Json => (0..3).for_each(|row| batch.row(&(format!("row {row}"),)).unwrap()),
            _ => {
                batch.row(&("ab", 2)).unwrap();
                batch.row(&("ab", -1)).unwrap();
                batch.row(&("ab", 2, 3)).unwrap();
                batch.row(&("cd", 1)).unwrap();
            }
        }
        let rows = batch.rows();
        let reply = channel.ask(&batch.finish());
        let outcomes = decode_batch_reply::<String>(format, &reply, 5, rows).unwrap().unwrap();
        if format == Format::Json {
            assert_eq!(outcomes, [0, 1, 2].map(|row| Err(format!("panicked: row {row}"))));
        } else {
            assert_eq!((&outcomes[0], &outcomes[3]), (&Ok("abab".into()), &Ok("cd".into())));
            assert_eq!(outcomes[2], Err("takes 2 arguments, got 3".into()));
            assert!(outcomes[1].as_ref().unwrap_err().starts_with("invalid argument 2: invalid value"), "{outcomes:?}");
        }
    }
}

#[test]
fn a_source_speaks_what_its_start_says() {
    let _watchdog = watchdog();
    let (mut plugin, _) = asked(json!({}));
    let meta = support::plugin::meta("r1", "s1");
    let control = |format| Control::source("counter", meta.clone(), "", Default::default()).with_format(format);
    for format in [Format::Json, Format::MessagePack] {
        let data = Endpoint::Listen(plugin.sockets().data(&meta).unwrap());
        let pull = UdsTransport::new().pull(&data, &Options::default()).unwrap();
        assert_eq!(plugin.command(CommandKind::Start, control(format)), "ok");
        let mut buffer = Vec::new();
        while !matches!(pull.receive(&mut buffer, soon()).unwrap(), PullEvent::Message(_)) {}
        assert!(matches!(SourceMessage::<Value>::decode(format, &buffer).unwrap(), SourceMessage::Tuple(_)));
        assert_eq!(buffer[0] == b'{', format == Format::Json);
        assert_eq!(plugin.stop_source("counter", &meta), "ok");
    }
    let mut odd = control(Format::Json);
    odd.codec = Some("telepathy".into());
    let answer = plugin.command(CommandKind::Start, odd);
    assert!(answer.contains("does not support the codec telepathy"), "{answer}");
}
