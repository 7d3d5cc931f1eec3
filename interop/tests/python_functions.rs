//! The example `examples/pyfunctions`, a plugin in Python by decorators, under
//! our host: with its codec, and with batches.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use ekuiper_host::{Bytes, Error, Format, Host};
use ekuiper_interop::guard::{PATIENCE, Watchdog};
use ekuiper_interop::tools;
use serde_json::{Value, json};

struct Site {
    host: Host,
    _folder: tempfile::TempDir,
    _watchdog: Watchdog,
}

fn site() -> Site {
    let (folder, watchdog) = (tempfile::tempdir().unwrap(), Watchdog::start());
    let host = Host::builder()
        .plugin(tools::root().join("examples/pyfunctions"))
        .ipc_dir(folder.path())
        .python_bin(tools::our_python().display().to_string());
    Site { host: host.build().unwrap(), _folder: folder, _watchdog: watchdog }
}

fn refusal(result: Result<Value, Error>) -> String {
    match result {
        Err(Error::Function { text, .. }) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn functions_take_what_their_annotations_say() {
    let site = site();
    let double = site.host.function("double").unwrap();
    assert_eq!(double.call::<f64>((21,)).unwrap(), 42.0);
    assert_eq!(refusal(double.call(("x",))), "argument 1 (x): expected float, got str 'x'");
    let repeat = site.host.function("repeat").unwrap();
    assert_eq!(repeat.call::<String>(("ab", 3)).unwrap(), "ababab");
    assert_eq!(repeat.call::<String>(("ab",)).unwrap(), "abab");
    match repeat.validate((1, 2, 3)) {
        Err(Error::Function { text, .. }) => assert_eq!(text, "repeat takes 1 to 2 arguments (text, times), got 3"),
        other => panic!("{other:?}"),
    }
    let mean = site.host.function("mean").unwrap();
    assert!(mean.is_aggregate().unwrap());
    assert_eq!(mean.call::<f64>(([1, 2, 6],)).unwrap(), 3.0);
    site.host.shutdown();
}

#[test]
fn a_batch_has_a_result_or_an_error_for_each_row() {
    let site = site();
    let double = site.host.function("double").unwrap();
    let rows: Vec<_> = (0..100_000).map(|number| (number,)).collect();
    let began = Instant::now();
    let results = double.call_many::<f64, _>(&rows).unwrap();
    println!("{:.0} rows/s in one batch", rows.len() as f64 / began.elapsed().as_secs_f64());
    for (number, result) in results.into_iter().enumerate() {
        assert_eq!(result, Ok(number as f64 * 2.0));
    }
    let rows = [(json!(1),), (json!("x"),), (json!(2.5),), (json!(null),)];
    let wrong = |got: &str| Err(format!("argument 1 (x): expected float, got {got}"));
    let results = double.call_many::<Value, _>(&rows).unwrap();
    assert_eq!(results, [Ok(json!(2.0)), wrong("str 'x'"), Ok(json!(5.0)), wrong("None")]);
    site.host.shutdown();
}

#[test]
fn a_generator_feeds_an_asynchronous_sink() {
    let site = site();
    let source = site.host.source("ticks").rule("1").config(json!({ "interval": 0, "start": 5 }));
    let mut source = source.open().unwrap();
    let sink = site.host.sink("print_row").rule("1").operator("out").config(json!({ "refuse": "bad" }));
    let sink = sink.require_ack(true).open().unwrap();
    let began = Instant::now();
    for number in 5..1005 {
        let tuple = source.next_within(PATIENCE).unwrap().unwrap();
        assert_eq!(tuple.message, json!({ "number": number }));
        sink.send(&tuple.message).unwrap();
    }
    println!("{:.0} rows/s through source and sink", 1000.0 / began.elapsed().as_secs_f64());
    match sink.send(&json!({ "bad": true })) {
        Err(Error::Sink { text, .. }) => assert_eq!(text, "ValueError: a row with bad"),
        other => panic!("{other:?}"),
    }
    source.close().unwrap();
    sink.close().unwrap();
    site.host.shutdown();
}

/// A plugin that says what it is given, and gives bytes.
const BYTES: &str = r#"
from ekuiper import Plugin
app = Plugin("bytes")
@app.function
def kind(value): return [type(value).__name__, value]
@app.function
def back(data: bytes) -> bytes: return data[::-1]
@app.source
def frames(): yield {"jpeg": b"\xff\xd8", "list": [b"\x00"]}
if __name__ == "__main__": app.run()
"#;

#[test]
fn bytes_are_what_annotations_and_readers_ask_for_under_either_codec() {
    let (folder, _watchdog) = (tempfile::tempdir().unwrap(), Watchdog::start());
    let plugin = folder.path().join("bytes");
    std::fs::create_dir(&plugin).unwrap();
    std::fs::write(plugin.join("bytes.py"), BYTES).unwrap();
    let manifest = r#"{"language":"python","executable":"bytes.py","functions":["kind","back"],"sources":["frames"]}"#;
    std::fs::write(plugin.join("bytes.json"), manifest).unwrap();
    for format in [Format::Json, Format::MessagePack] {
        let host = Host::builder().plugin(&plugin).ipc_dir(folder.path()).format(format);
        let host = host.python_bin(tools::our_python().display().to_string()).build().unwrap();
        let bytes = || Bytes(vec![1, 200]);
        let kind = host.function("kind").unwrap();
        assert_eq!(kind.call::<Value>((bytes(),)).unwrap(), json!(["str", "Acg="]));
        assert_eq!(kind.call::<Value>(([bytes()],)).unwrap(), json!(["list", ["Acg="]]));
        let back = host.function("back").unwrap();
        assert_eq!(back.call::<Bytes>((bytes(),)).unwrap(), Bytes(vec![200, 1]));
        assert_eq!(back.call::<Vec<u8>>(("Acg=",)).unwrap(), [200, 1]);
        assert_eq!(back.call::<String>((bytes(),)).unwrap(), "yAE=");
        assert_eq!(back.call::<Value>((bytes(),)).unwrap(), json!("yAE="));
        let outcomes = back.call_many::<Value, _>([(bytes(),), (Bytes(vec![]),)]).unwrap();
        assert_eq!(outcomes, [Ok(json!("yAE=")), Ok(json!(""))]);
        let mut source = host.source("frames").open().unwrap();
        let row = source.next_within(PATIENCE).unwrap().unwrap().message;
        assert_eq!(row, json!({ "jpeg": "/9g=", "list": ["AA=="] }));
        drop(source);
        host.shutdown();
    }
}
