//! The plugin's announcement of its features, and how the host uses it.
#![allow(clippy::unwrap_used)] // these are tests, helpers included

mod support;

use std::time::Duration;

use ekuiper_core::message::{Feature, Hello, SymbolKind};
use ekuiper_host::{Chain, Error, Format, Function, Host};
use serde_json::{Value, json};
use support::{Puppet, Stage};

/// Symbols of the plugin `p` in its manifest.
fn hello() -> Hello {
    let mut hello = Hello::new("puppet", "1");
    [(SymbolKind::Function, "f"), (SymbolKind::Function, "g"), (SymbolKind::Source, "s"), (SymbolKind::Sink, "k")]
        .into_iter()
        .for_each(|(kind, symbol)| hello.serves(kind, symbol));
    hello
}

fn host(stage: &Stage, format: Format) -> Host {
    stage.builder().plugin(stage.plugin("p", &["f", "g"])).format(format).build().unwrap()
}

/// Sends this hello and starts the function `f`; returns its start command, and
/// its channel's puppet.
fn start(stage: &Stage, host: &Host, words: &[u8]) -> (Function, Puppet, Value) {
    std::thread::scope(|scope| {
        let function = scope.spawn(|| host.function("f").unwrap());
        let mut control = Puppet::dial(&stage.sockets().control("p").unwrap());
        control.say(words);
        let command = control.hear_json();
        let about = serde_json::from_str(command["arg"].as_str().unwrap()).unwrap();
        let puppet = Puppet::greet(&stage.sockets().function("f").unwrap());
        control.say(b"ok");
        let function = function.join().unwrap();
        // The host sees the connection's end together with the process's.
        std::mem::forget(control);
        (function, puppet, about)
    })
}

#[test]
fn a_plugin_that_does_not_offer_a_codec_is_not_told_one() {
    for words in [b"handshake".to_vec(), hello().encode()] {
        let stage = Stage::new();
        let host = host(&stage, Format::MessagePack);
        let (_, _, about) = start(&stage, &host, &words);
        assert_eq!(about.get("codec"), None);
    }
}

/// Official SDKs and our first versions: they receive nothing newer.
#[test]
fn a_plugin_that_says_a_plain_handshake_gets_what_it_always_got() {
    let stage = Stage::new();
    let host = host(&stage, Format::MessagePack);
    let (function, mut puppet, about) = start(&stage, &host, b"handshake");
    assert_eq!(about.get("codec"), None);
    std::thread::scope(|scope| {
        // A batch, and a pending call, are plain calls.
        let called = scope.spawn(|| function.call_many::<u8, _>([(1,), (2,)]).unwrap());
        for number in 1..=2 {
            let call = puppet.hear_json();
            assert_eq!(call["func"], "Exec");
            assert_eq!(call["arg"][0], number);
            puppet.say(br#"{"state":true,"result":7}"#);
        }
        assert_eq!(called.join().unwrap(), [Ok(7), Ok(7)]);
    });
}

#[test]
fn a_codec_that_is_offered_is_used_unless_the_host_keeps_to_json() {
    for (format, codec) in [(Format::MessagePack, Some(json!("messagepack"))), (Format::Json, None)] {
        let stage = Stage::new();
        let host = host(&stage, format);
        let (function, mut puppet, about) = start(&stage, &host, &hello().with_everything().encode());
        assert_eq!(about.get("codec").cloned(), codec);
        let called = std::thread::scope(|scope| {
            let called = scope.spawn(|| function.call::<u8>((1,)));
            let call = puppet.hear();
            assert_eq!(call[0] == b'{', format == Format::Json);
            let mut reply = Vec::new();
            ekuiper_core::message::encode_result(format, &mut reply, &2).unwrap();
            puppet.say(&reply);
            called.join().unwrap()
        });
        assert_eq!(called.unwrap(), 2);
    }
}

#[test]
fn a_symbol_that_only_the_manifest_knows_is_an_error_at_the_start() {
    let stage = Stage::new();
    let host = host(&stage, Format::Json);
    let mut lacking = Hello::new("puppet", "1");
    lacking.serves(SymbolKind::Function, "f");
    let error = std::thread::scope(|scope| {
        let started = scope.spawn(|| host.start("p"));
        let mut control = Puppet::dial(&stage.sockets().control("p").unwrap());
        control.say(&lacking.encode());
        started.join().unwrap().unwrap_err()
    });
    assert!(matches!(&error, Error::NotServed { symbol, .. } if symbol == "s"), "{error}");
    assert!(error.to_string().contains("its manifest lists source s, which the plugin does not serve"), "{error}");
    assert_eq!(host.pid("p"), None, "it is not left running");
}

#[test]
fn a_manifest_that_is_wrong_about_a_kind_is_an_error_at_the_start() {
    let stage = Stage::new();
    let host = host(&stage, Format::Json);
    let mut other = Hello::new("puppet", "1");
    [(SymbolKind::Function, "f"), (SymbolKind::Function, "g"), (SymbolKind::Sink, "s"), (SymbolKind::Sink, "k")]
        .into_iter()
        .for_each(|(kind, symbol)| other.serves(kind, symbol));
    let error = std::thread::scope(|scope| {
        let started = scope.spawn(|| host.start("p"));
        let mut control = Puppet::dial(&stage.sockets().control("p").unwrap());
        control.say(&other.encode());
        started.join().unwrap().unwrap_err()
    });
    assert!(matches!(&error, Error::NotServed { instead: Some(SymbolKind::Sink), .. }), "{error}");
    assert!(error.to_string().contains("its manifest lists source s, which the plugin serves as a sink"), "{error}");
}

#[test]
fn a_plugins_description_of_itself_is_passed_on() {
    let described = |description: &str| {
        let stage = Stage::new();
        let host = host(&stage, Format::Json);
        let mut hello = hello().encode();
        hello.pop();
        hello.extend_from_slice(format!(r#","description":{description}}}"#).as_bytes());
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| host.description("p").unwrap());
            let mut control = Puppet::dial(&stage.sockets().control("p").unwrap());
            control.say(&hello);
            let description = asked.join().unwrap();
            std::mem::forget(control);
            description
        })
    };
    let description = described(
        r#"{"format":1,"name":"p","functions":[{"name":"f","arguments":[{"type":"list<float?>"}],"more":7}],"later":[]}"#,
    );
    let function = &description.unwrap().functions[0];
    assert_eq!((function.name.as_str(), function.arguments[0].data_type.to_string().as_str()), ("f", "list<float?>"));
    // Of a later version, and of something else: no reason to refuse a plugin.
    for other in [r#"{"format":2,"name":"p"}"#, r#""words""#, "null"] {
        assert_eq!(described(other), None, "{other}");
    }
}

/// The hello of a later version.
#[test]
fn what_a_host_does_not_know_it_ignores() {
    let stage = Stage::new();
    let host = host(&stage, Format::MessagePack);
    let words = r#"handshake {"sdk":"later","symbols":{"sources":["s"],"sinks":["k"],"functions":["f","g"],"windows":["w"]},
        "codecs":["telepathy"],"features":["batch-2"],"more":7}"#;
    let (_, _, about) = start(&stage, &host, words.as_bytes());
    assert_eq!(about.get("codec"), None);
}

/// A plugin that supports batches, in JSON for readability here.
fn batching(stage: &Stage) -> (Host, Function, Puppet) {
    let mut hello = hello();
    hello.features = vec![Feature::Batch.name().into()];
    let host = host(stage, Format::Json);
    let (function, puppet, _) = start(stage, &host, &hello.encode());
    (host, function, puppet)
}

/// The reply to a batch: the keys have a fixed order.
fn reply(id: u64, result: &str, errors: &str) -> String {
    format!(r#"{{"id":{id},"result":{result},"errors":{errors}}}"#)
}

#[test]
fn a_batch_is_one_command_and_its_reply_must_be_its_own() {
    let stage = Stage::new();
    let (_host, function, mut puppet) = batching(&stage);
    let mut call = |reply: &dyn Fn(u64) -> String| {
        std::thread::scope(|scope| {
            let called = scope.spawn(|| function.call_many::<Value, _>([(1,), (2,), (3,)]));
            let batch = puppet.hear_json();
            assert_eq!((&batch["func"], &batch["arg"]), (&json!("Batch"), &json!([[1], [2], [3]])));
            puppet.say(reply(batch["id"].as_u64().unwrap()).as_bytes());
            called.join().unwrap()
        })
    };
    let outcomes = call(&|id| reply(id, r#"["a","c"]"#, r#"[[1,"no"]]"#)).unwrap();
    assert_eq!(outcomes, [Ok(json!("a")), Err("no".into()), Ok(json!("c"))]);
    for (wrong, text) in [
        (reply(77, "[1,2,3]", "[]"), "belongs to batch 77"),
        (r#"{"state":true,"result":[1,2,3]}"#.into(), "one result for all rows"),
        (r#"{"state":false,"result":"cannot"}"#.into(), "cannot"),
    ] {
        let error = Chain(&call(&|_| wrong.clone()).unwrap_err()).to_string();
        assert!(error.contains(text), "{error}");
    }
    let error = Chain(&call(&|id| reply(id, "[1,2]", "[]")).unwrap_err()).to_string();
    assert!(error.contains("answers 2 of 3 rows"), "{error}");
    assert!(call(&|id| reply(id, "[1,2,3]", "[]")).is_ok(), "the channel lives");
}

#[test]
fn fault_06_a_batch_that_a_crash_met_is_not_sent_again() {
    let stage = Stage::new();
    let (host, function, mut puppet) = batching(&stage);
    let failed = std::thread::scope(|scope| {
        let called = scope.spawn(|| function.call_many::<Value, _>([(1,), (2,)]));
        puppet.hear();
        drop(puppet);
        called.join().unwrap()
    });
    let failed = failed.map_err(Error::from);
    assert!(matches!(failed, Err(Error::OutcomeUnknown { .. })), "{failed:?}");
    let mut again = Puppet::greet(&stage.sockets().function("f").unwrap());
    assert!(again.is_left_alone_for(Duration::from_millis(100)));
    drop(host);
}

#[test]
fn a_call_that_nobody_waits_for_holds_up_nobody() {
    let stage = Stage::new();
    let (_host, function, mut puppet) = batching(&stage);
    let pending = function.call_async::<Value>((1,)).unwrap();
    let batch = puppet.hear_json();
    assert_eq!(batch["arg"], json!([[1]]));
    std::thread::scope(|scope| {
        let called = scope.spawn(|| function.call::<Value>((2,)));
        puppet.say(reply(batch["id"].as_u64().unwrap(), r#"["one"]"#, "[]").as_bytes());
        assert_eq!(puppet.hear_json()["arg"][0], 2);
        puppet.answer(&json!("two"));
        assert_eq!(called.join().unwrap().unwrap(), "two");
    });
    assert_eq!(pending.wait().unwrap(), "one");
}
