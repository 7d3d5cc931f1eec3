//! The example `examples/pyfunctions`, a plugin in Python by decorators, under
//! our host: with its codec, and with batches.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use ekuiper_host::{Error, Host};
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
