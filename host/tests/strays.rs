//! Starts that fail half-way: no symbol runs without a handle, and waiting
//! callers learn the fate of the process.
#![allow(clippy::unwrap_used)] // these are tests, helpers included

mod support;

use std::time::Duration;

use ekuiper_conformance::raw::{PULL, PUSH, RawPeer};
use ekuiper_core::message::{Command, CommandKind};
use ekuiper_host::{Error, Host, HostBuilder, PluginState, Result, Sink};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use support::{Puppet, Stage, wait_until};

/// Creates a host whose plugin has completed its handshake.
fn started(stage: &Stage, build: impl FnOnce(HostBuilder) -> HostBuilder) -> (Host, Puppet) {
    let host = build(stage.builder().plugin(stage.plugin("p", &[]))).build().unwrap();
    let control = start(stage, &host);
    (host, control)
}

fn start(stage: &Stage, host: &Host) -> Puppet {
    std::thread::scope(|scope| {
        let start = scope.spawn(|| host.start("p"));
        let control = stage.control("p");
        start.join().unwrap().unwrap();
        control
    })
}

fn open(host: &Host) -> Result<Sink> {
    host.sink("k").rule("r").operator("k").open()
}

/// Receives the next command, which must be this one.
fn expect(control: &mut Puppet, kind: CommandKind, symbol: &str) {
    let command = Command::decode(&control.hear()).unwrap();
    assert_eq!((command.kind, command.control.symbol_name.as_str()), (kind, symbol));
}

/// Opens and closes the sink; the plugin receives no other command.
fn open_and_close(stage: &Stage, host: &Host, control: &mut Puppet) {
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| open(host));
        let data = serve(stage, control);
        let sink = opened.join().unwrap().unwrap();
        close(stage, control, data, sink);
    });
}

fn close(stage: &Stage, control: &mut Puppet, data: RawPeer, sink: Sink) {
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        expect(control, CommandKind::Stop, "k");
        drop(data);
        std::fs::remove_file(stage.sink_path("r")).unwrap();
        control.say(b"ok");
        closed.join().unwrap().unwrap();
    });
}

/// Answers the start of the sink.
fn serve(stage: &Stage, control: &mut Puppet) -> RawPeer {
    expect(control, CommandKind::Start, "k");
    let listener = stage.sink("r");
    control.say(b"ok");
    listener.accept_as(PULL, PUSH)
}

#[test]
fn a_start_that_is_answered_too_late_is_followed_by_a_stop() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage, |builder| builder.init_timeout(Duration::from_secs(3)));
    std::thread::scope(|scope| {
        // Without another symbol its process would be replaced.
        let source = scope.spawn(|| host.source("s").rule("r").operator("s").open());
        expect(&mut control, CommandKind::Start, "s");
        control.say(b"ok");
        let _source = source.join().unwrap().unwrap();

        let opened = scope.spawn(|| open(&host));
        expect(&mut control, CommandKind::Start, "k");
        let error = opened.join().unwrap().err().unwrap();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        control.say(b"ok");
        expect(&mut control, CommandKind::Stop, "k");
        control.say(b"ok");

        open_and_close(&stage, &host, &mut control);
        let closed = scope.spawn(|| host.shutdown());
        expect(&mut control, CommandKind::Stop, "s");
        control.say(b"ok");
        closed.join().unwrap();
    });
}

#[test]
fn a_start_whose_answer_is_lost_is_followed_by_a_stop() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage, |builder| builder);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| open(&host));
        expect(&mut control, CommandKind::Start, "k");
        drop(control);
        let error = opened.join().unwrap().err().unwrap();
        assert!(matches!(error, Error::OutcomeUnknown { exit: None, .. }), "{error}");
    });
    let mut control = stage.control("p");
    expect(&mut control, CommandKind::Stop, "k");
    control.say(b"ok");
    open_and_close(&stage, &host, &mut control);
}

#[test]
fn a_sink_whose_process_ends_before_it_is_dialled_is_opened_in_the_next() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage, |builder| builder);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| open(&host));
        expect(&mut control, CommandKind::Start, "k");
        control.say(b"ok");
        // Nobody listens at the address to connect to.
        let pid = host.pid("p").unwrap();
        kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
        wait_until("the next process is started", || {
            let status = host.status("p").unwrap();
            status.generation == 2 && status.state == PluginState::Starting
        });
        let mut control = stage.control("p");
        wait_until("it is started or refused", || control.has_something() || opened.is_finished());
        if opened.is_finished() {
            panic!("{}", opened.join().unwrap().err().unwrap());
        }
        let data = serve(&stage, &mut control);
        let sink = opened.join().unwrap().unwrap();
        close(&stage, &mut control, data, sink);
    });
}

#[test]
fn whoever_sends_while_the_host_is_shut_down_is_told_so() {
    let stage = Stage::new();
    // The process takes its time to end, as one that collects what was sent.
    let plugin = stage.script("p", &[], "trap '' TERM; while true; do sleep 0.05; done");
    let host = stage.builder().plugin(plugin).build().unwrap();
    let mut control = start(&stage, &host);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| open(&host));
        let mut data = serve(&stage, &mut control);
        let sink = opened.join().unwrap().unwrap();
        scope.spawn(move || while data.try_frame().is_some() {});
        let over = scope.spawn(move || {
            // Not only the message being sent, the next as well.
            let errors = std::iter::from_fn(|| Some(sink.send(&json!({ "a": 1 })))).filter_map(Result::err).take(2);
            errors
                .map(|error| matches!(error, Error::Stopped).then_some(()).ok_or(error.to_string()))
                .collect::<Vec<_>>()
        });
        let closed = scope.spawn(|| host.shutdown());
        expect(&mut control, CommandKind::Stop, "k");
        control.say(b"ok");
        closed.join().unwrap();
        assert_eq!(over.join().unwrap(), [Ok(()), Ok(())]);
    });
}
