//! A plugin whose process does nothing, with a source and a sink that the test
//! plays.
#![allow(clippy::unwrap_used)] // these are tests, helpers included

use std::time::Duration;

use ekuiper_conformance::raw::{PULL, PUSH, RawPeer};
use ekuiper_core::message::{Hello, SymbolKind};
use ekuiper_host::{Host, HostBuilder, Sink, Source};
use serde_json::{Value, json};

use super::{Puppet, Stage};

/// Time in which nothing may happen.
pub(crate) const A_MOMENT: Duration = Duration::from_millis(100);

/// Creates a host whose plugin has completed its handshake.
pub(crate) fn started(stage: &Stage) -> (Host, Puppet) {
    started_with(stage, |builder| builder.recv_timeout(Duration::from_millis(500)))
}

pub(crate) fn started_with(stage: &Stage, build: impl FnOnce(HostBuilder) -> HostBuilder) -> (Host, Puppet) {
    let host = build(stage.builder().plugin(stage.plugin("p", &[]))).build().unwrap();
    let control = std::thread::scope(|scope| {
        let start = scope.spawn(|| host.start("p"));
        let control = stage.control("p");
        start.join().unwrap().unwrap();
        control
    });
    (host, control)
}

/// Returns the next command, and its control message.
pub(crate) fn command(control: &mut Puppet) -> (String, Value) {
    let command = control.hear_json();
    let about = serde_json::from_str(command["arg"].as_str().unwrap()).unwrap();
    (command["cmd"].as_str().unwrap().to_owned(), about)
}

/// Answers the next command, which must be a `stop`.
pub(crate) fn expect_stop(control: &mut Puppet, symbol: &str) {
    let (kind, about) = command(control);
    assert_eq!((kind.as_str(), &about["symbolName"]), ("stop", &json!(symbol)));
    control.say(b"ok");
}

/// Opens an instance of the source `s`; returns its handle and its puppet.
pub(crate) fn open_source(stage: &Stage, host: &Host, control: &mut Puppet, instance: i64) -> (Source, RawPeer) {
    std::thread::scope(|scope| {
        let open =
            scope.spawn(|| host.source("s").rule("r").operator("s").instance(instance).datasource("topic").open());
        let (kind, about) = command(control);
        assert_eq!((kind.as_str(), &about["pluginType"]), ("start", &json!("source")));
        assert_eq!(about["meta"], json!({ "ruleId": "r", "opId": "s", "instanceId": instance }));
        // The handshake was plain: the plugin receives nothing newer.
        assert_eq!(about.get("codec"), None);
        // Where the protocol has it, and where the official SDKs look.
        assert_eq!((&about["dataSource"], &about["config"]["datasource"]), (&json!("topic"), &json!("topic")));
        let peer = stage.source("r", instance);
        control.say(b"ok");
        (open.join().unwrap().unwrap(), peer)
    })
}

pub(crate) fn open_sink_without_acks(stage: &Stage, host: &Host, control: &mut Puppet) -> (Sink, RawPeer) {
    std::thread::scope(|scope| {
        let open = scope.spawn(|| host.sink("k").rule("r").operator("k").open());
        assert_eq!(command(control).0, "start");
        let listener = stage.sink("r");
        control.say(b"ok");
        let data = listener.accept_as(PULL, PUSH);
        (open.join().unwrap().unwrap(), data)
    })
}

/// Closes a handle while the puppet answers the stop.
pub(crate) fn close_while(control: &mut Puppet, symbol: &str, close: impl FnOnce() -> ekuiper_host::Result<()> + Send) {
    std::thread::scope(|scope| {
        let closed = scope.spawn(close);
        expect_stop(control, symbol);
        closed.join().unwrap().unwrap();
    });
}

/// Creates a host whose plugin, on our SDK, reports what its sink collects,
/// with another script as its process.
pub(crate) fn started_reporting(stage: &Stage, script: &str) -> (Host, Puppet) {
    let host = stage.builder().plugin(stage.script("p", &[], script)).build().unwrap();
    let control = std::thread::scope(|scope| {
        let start = scope.spawn(|| host.start("p"));
        let mut control = Puppet::dial(&stage.sockets().control("p").unwrap());
        let mut hello = Hello::new("puppet", "1");
        hello.serves(SymbolKind::Source, "s");
        hello.serves(SymbolKind::Sink, "k");
        control.say(&hello.with_everything().encode());
        start.join().unwrap().unwrap();
        control
    });
    (host, control)
}
