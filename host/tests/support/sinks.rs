//! A plugin whose process does nothing, with a source and a sink that the test
//! plays.
#![allow(clippy::unwrap_used)] // these are tests, helpers included

use std::time::Duration;

use ekuiper_conformance::raw::RawPeer;
use ekuiper_core::message::{Hello, SymbolKind};
use ekuiper_host::{Host, HostBuilder, Sink, Source};
use serde_json::json;

use super::{PATIENCE, Puppet, Stage};

/// Time in which nothing may happen.
pub(crate) const A_MOMENT: Duration = Duration::from_millis(100);

/// Creates a host whose plugin has completed its handshake.
pub(crate) fn started(stage: &Stage) -> (Host, Puppet) {
    started_with(stage, |builder| builder.recv_timeout(PATIENCE))
}

pub(crate) fn started_with(stage: &Stage, build: impl FnOnce(HostBuilder) -> HostBuilder) -> (Host, Puppet) {
    started_as(stage, "exec sleep 1000", build)
}

/// Creates a host whose plugin has completed its handshake, with this script as
/// its process.
pub(crate) fn started_as(
    stage: &Stage,
    script: &str,
    build: impl FnOnce(HostBuilder) -> HostBuilder,
) -> (Host, Puppet) {
    let host = build(stage.builder().plugin(stage.script("p", &[], script))).build().unwrap();
    let control = stage.start(&host);
    (host, control)
}

/// Opens an instance of the source `s`; returns its handle and its puppet.
pub(crate) fn open_source(stage: &Stage, host: &Host, control: &mut Puppet, instance: i64) -> (Source, RawPeer) {
    std::thread::scope(|scope| {
        let open =
            scope.spawn(|| host.source("s").rule("r").operator("s").instance(instance).datasource("topic").open());
        let about = control.expect("start", "s");
        assert_eq!(about["pluginType"], "source");
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
        let data = stage.serve_sink(control);
        (open.join().unwrap().unwrap(), data)
    })
}

/// Opens the sink `k` with acks; returns its handle, its data and its
/// acknowledgements.
pub(crate) fn open_sink(stage: &Stage, host: &Host, control: &mut Puppet) -> (Sink, RawPeer, RawPeer) {
    std::thread::scope(|scope| {
        let open = scope.spawn(|| host.sink("k").rule("r").operator("k").require_ack(true).open());
        let about = control.expect("start", "k");
        assert_eq!((&about["config"]["requireAck"], about.get("codec")), (&json!(true), None));
        // As the official SDKs do: both channels before the answer.
        let acks = stage.acks("r");
        let data = stage.answer_sink(control);
        (open.join().unwrap().unwrap(), data, acks)
    })
}

/// Closes the sink `k`, whose connection has ended.
pub(crate) fn close_sink(stage: &Stage, control: &mut Puppet, sink: Sink) {
    stage.remove_sink();
    close_while(control, "k", || sink.close());
}

/// Closes a handle while the puppet answers the stop.
pub(crate) fn close_while(control: &mut Puppet, symbol: &str, close: impl FnOnce() -> ekuiper_host::Result<()> + Send) {
    std::thread::scope(|scope| {
        let closed = scope.spawn(close);
        control.expect_stop(symbol);
        closed.join().unwrap().unwrap();
    });
}

/// The handshake of a plugin on our SDK, with everything that it offers.
pub(crate) fn reporting_hello() -> Vec<u8> {
    let mut hello = Hello::new("puppet", "1");
    hello.serves(SymbolKind::Source, "s");
    hello.serves(SymbolKind::Sink, "k");
    hello.with_everything().encode()
}

/// Creates a host whose plugin, on our SDK, reports what its sink collects,
/// with another script as its process.
pub(crate) fn started_reporting(stage: &Stage, script: &str) -> (Host, Puppet) {
    let host = stage.builder().plugin(stage.script("p", &[], script)).build().unwrap();
    let control = std::thread::scope(|scope| {
        let start = scope.spawn(|| host.start("p"));
        let mut control = Puppet::dial(&stage.sockets().control("p").unwrap());
        control.say(&reporting_hello());
        start.join().unwrap().unwrap();
        control
    });
    (host, control)
}
