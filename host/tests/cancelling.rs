//! What a plugin is told of calls that were sent, and whose results are not
//! wanted any more.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::time::Duration;

use ekuiper_core::message::{Hello, SymbolKind};
use ekuiper_host::{CallOptions, Error, Format, Function, Host, PendingCall};
use serde_json::{Value, json};
use support::{Puppet, Stage, wait_until};

const FOREVER: Duration = Duration::from_secs(3600);

/// A function `f`, and its plugin's channels.
struct Scene {
    stage: Stage,
    host: Host,
    f: Function,
    control: Puppet,
    puppet: Puppet,
}

impl Scene {
    /// Starts a plugin that offers everything but what is in `lacking`.
    fn new(lacking: &str) -> Self {
        let stage = Stage::new();
        let builder = stage.builder().plugin(stage.plugin("p", &["f"])).format(Format::Json);
        let host = builder.send_timeout(FOREVER).recv_timeout(FOREVER).build().unwrap();
        let mut hello = Hello::new("puppet", "1").with_everything();
        hello.serves(SymbolKind::Function, "f");
        hello.serves(SymbolKind::Source, "s");
        hello.serves(SymbolKind::Sink, "k");
        hello.features.retain(|feature| feature != lacking);
        let (f, control, puppet) = std::thread::scope(|scope| {
            let function = scope.spawn(|| host.function("f").unwrap());
            let mut control = Puppet::dial(&stage.sockets().control("p").unwrap());
            control.say(&hello.encode());
            let puppet = stage.start_function(&mut control, "f");
            (function.join().unwrap(), control, puppet)
        });
        Self { stage, host, f, control, puppet }
    }

    /// Makes this many calls, which are sent as one batch, and receives it.
    fn batch(&mut self, f: &Function, calls: u64) -> (Value, Vec<Option<PendingCall<u64>>>) {
        let first = f.call_async::<u64>((100,)).unwrap();
        let alone = self.puppet.hear_json();
        let calls = (0..calls).map(|number| Some(f.call_async((number,)).unwrap())).collect();
        self.answer(&alone);
        assert_eq!(first.wait().unwrap(), 100);
        (self.puppet.hear_json(), calls)
    }

    /// Answers a batch with the arguments that it has.
    fn answer(&mut self, batch: &Value) {
        let results: Vec<_> = batch["arg"].as_array().unwrap().iter().map(|row| row[0].clone()).collect();
        let answer = format!(r#"{{"id":{},"result":{},"errors":[]}}"#, batch["id"], json!(results));
        self.puppet.say(answer.as_bytes());
    }

    /// Receives a cancel, and returns its batch and rows.
    fn cancel(&mut self) -> (Value, Value) {
        let command = self.control.hear_json();
        assert_eq!(command["cmd"], "cancel", "{command}");
        assert_eq!(command["arg"].as_array().unwrap().len(), 1, "{command}");
        let cancel = &command["arg"][0];
        assert_eq!(cancel["symbolName"], "f", "{command}");
        (cancel["id"].clone(), cancel["rows"].clone())
    }

    /// Checks that the next command is none that cancels calls.
    fn assert_told_no_more(&mut self) {
        std::thread::scope(|scope| {
            let source = scope.spawn(|| self.host.source("s").rule("r").open().map(drop));
            self.control.expect("start", "s");
            self.control.say(b"no");
            source.join().unwrap().unwrap_err();
        });
    }
}

fn numbers(batch: &Value) -> Vec<u64> {
    batch["arg"].as_array().unwrap().iter().map(|row| row[0].as_u64().unwrap()).collect()
}

#[test]
fn drops_are_told_one_command_at_a_time() {
    let mut scene = Scene::new("");
    let f = scene.f.clone();
    let (batch, mut calls) = scene.batch(&f, 10);
    assert_eq!(numbers(&batch), (0..10).collect::<Vec<_>>());
    calls[3] = None;
    assert_eq!(scene.cancel(), (batch["id"].clone(), json!([3])));
    for row in [9, 1, 4] {
        calls[row] = None;
    }
    assert!(!scene.control.has_something(), "one command is in flight");
    scene.control.say(b"ok");
    assert_eq!(scene.cancel(), (batch["id"].clone(), json!([9, 1, 4])));
    scene.control.say(b"ok");
    scene.answer(&batch);
    for (row, call) in calls.iter_mut().enumerate() {
        if let Some(call) = call.take() {
            assert_eq!(call.wait().unwrap(), row as u64);
        }
    }
    // Those that were answered, and one that is sent to nobody.
    let (batch, calls) = scene.batch(&f, 2);
    scene.answer(&batch);
    wait_until("it was answered", || scene.host.health()[0].symbols[0].queue == Some(0));
    drop(calls);
    scene.assert_told_no_more();
    scene.host.shutdown();
}

#[test]
fn rows_are_those_of_the_message() {
    let mut scene = Scene::new("");
    let f = scene.f.clone();
    let first = f.call_async::<u64>((100,)).unwrap();
    let alone = scene.puppet.hear_json();
    let mut calls: Vec<_> = (0..6u64).map(|number| Some(f.call_async::<u64>((number,)).unwrap())).collect();
    (calls[0], calls[2]) = (None, None);
    scene.answer(&alone);
    assert_eq!(first.wait().unwrap(), 100);
    let batch = scene.puppet.hear_json();
    assert_eq!(numbers(&batch), [1, 3, 4, 5]);
    calls[4] = None;
    assert_eq!(scene.cancel(), (batch["id"].clone(), json!([2])));
    scene.host.shutdown();
}

#[test]
fn deadlines_and_stoppers_are_told() {
    let mut scene = Scene::new("");
    let hurried = scene.f.clone().with_options(CallOptions::new().answer_within(Duration::from_millis(50)));
    let late = hurried.call_async::<u64>((1,)).unwrap();
    let batch = scene.puppet.hear_json();
    assert!(matches!(late.wait(), Err(Error::Timeout { .. })));
    assert_eq!(scene.cancel(), (batch["id"].clone(), Value::Null));
    scene.control.say(b"ok");
    scene.answer(&batch);
    let stopped = scene.f.clone().with_meta(Default::default());
    let stopper = stopped.stopper();
    let call = stopped.call_async::<u64>((2,)).unwrap();
    let batch = scene.puppet.hear_json();
    stopper.stop();
    assert!(matches!(call.wait(), Err(Error::Stopped)));
    assert_eq!(scene.cancel(), (batch["id"].clone(), Value::Null));
    scene.control.say(b"ok");
    scene.answer(&batch);
    scene.assert_told_no_more();
    scene.host.shutdown();
}

#[test]
fn a_row_whose_deadline_has_passed_is_told() {
    let mut scene = Scene::new("");
    let hurried = scene.f.clone().with_options(CallOptions::new().deadline(Duration::from_secs(3)));
    let late = hurried.call_async::<u64>((1,)).unwrap();
    let batch = scene.puppet.hear_json();
    assert!(matches!(late.wait(), Err(Error::Timeout { .. })));
    assert_eq!(scene.cancel(), (batch["id"].clone(), json!([0])));
    scene.host.shutdown();
}

#[test]
fn a_plugin_that_does_not_offer_it_is_told_nothing() {
    let mut scene = Scene::new("cancel");
    let f = scene.f.clone();
    let (batch, mut calls) = scene.batch(&f, 3);
    calls[1] = None;
    scene.assert_told_no_more();
    scene.answer(&batch);
    assert_eq!(calls.pop().unwrap().unwrap().wait().unwrap(), 2);
    scene.host.shutdown();
}

#[test]
fn a_start_waits_for_no_more_than_the_cancel_before_it() {
    let mut scene = Scene::new("");
    let f = scene.f.clone();
    let (batch, mut calls) = scene.batch(&f, 3);
    calls[0] = None;
    assert_eq!(scene.cancel(), (batch["id"].clone(), json!([0])));
    std::thread::scope(|scope| {
        let source = scope.spawn(|| scene.host.source("s").rule("r").open().map(drop));
        // While the start uses the channel, a drop does not wait.
        scene.control.say(b"ok");
        scene.control.expect("start", "s");
        calls[1] = None;
        assert!(!scene.control.has_something());
        scene.control.say(b"no");
        source.join().unwrap().unwrap_err();
    });
    assert_eq!(scene.cancel(), (batch["id"].clone(), json!([1])));
    scene.host.shutdown();
}

#[test]
fn a_batch_that_is_sent_again_has_another_number() {
    let mut scene = Scene::new("");
    let twice = scene.f.clone().with_options(CallOptions::new().idempotent(true));
    let (batch, mut calls) = scene.batch(&twice, 4);
    calls[0] = None;
    assert_eq!(scene.cancel(), (batch["id"].clone(), json!([0])));
    // The connection ends, the process lives, and another takes its place.
    let address = scene.stage.sockets().function("f").unwrap();
    scene.puppet = Puppet::greet(&address);
    let again = scene.puppet.hear_json();
    assert_eq!(numbers(&again), [1, 2, 3]);
    assert_ne!(again["id"], batch["id"]);
    calls[2] = None;
    scene.control.say(b"ok");
    assert_eq!(scene.cancel(), (again["id"].clone(), json!([1])));
    scene.answer(&again);
    assert_eq!(calls[3].take().unwrap().wait().unwrap(), 3);
    scene.host.shutdown();
}
