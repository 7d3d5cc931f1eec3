//! Starts that fail half-way: no symbol runs without a handle, and waiting
//! callers learn the fate of the process.
#![allow(clippy::unwrap_used)] // these are tests, helpers included

mod support;

use std::time::Duration;

use ekuiper_host::{Error, Host, HostBuilder, PluginState, Result, Sink};
use serde_json::json;
use support::sinks::close_sink;
use support::{Puppet, Stage, kill, wait_until};

/// Creates a host whose plugin has completed its handshake.
fn started(stage: &Stage, build: impl FnOnce(HostBuilder) -> HostBuilder) -> (Host, Puppet) {
    let host = build(stage.builder().plugin(stage.plugin("p", &[]))).build().unwrap();
    let control = stage.start(&host);
    (host, control)
}

fn open(host: &Host) -> Result<Sink> {
    host.sink("k").rule("r").operator("k").open()
}

/// Opens and closes the sink; the plugin receives no other command.
fn open_and_close(stage: &Stage, host: &Host, control: &mut Puppet) {
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| open(host));
        let data = stage.serve_sink(control);
        let sink = opened.join().unwrap().unwrap();
        drop(data);
        close_sink(stage, control, sink);
    });
}

#[test]
fn a_start_that_is_answered_too_late_is_followed_by_a_stop() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage, |builder| builder.init_timeout(Duration::from_secs(3)));
    std::thread::scope(|scope| {
        // Without another symbol its process would be replaced.
        let source = scope.spawn(|| host.source("s").rule("r").operator("s").open());
        control.expect("start", "s");
        control.say(b"ok");
        let _source = source.join().unwrap().unwrap();

        let opened = scope.spawn(|| open(&host));
        control.expect("start", "k");
        let error = opened.join().unwrap().err().unwrap();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        control.say(b"ok");
        control.expect_stop("k");

        open_and_close(&stage, &host, &mut control);
        let closed = scope.spawn(|| host.shutdown());
        control.expect_stop("s");
        closed.join().unwrap();
    });
}

#[test]
fn a_start_whose_answer_is_lost_is_followed_by_a_stop() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage, |builder| builder);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| open(&host));
        control.expect("start", "k");
        drop(control);
        let error = opened.join().unwrap().err().unwrap();
        assert!(matches!(error, Error::OutcomeUnknown { exit: None, .. }), "{error}");
    });
    let mut control = stage.control("p");
    control.expect_stop("k");
    open_and_close(&stage, &host, &mut control);
}

#[test]
fn a_sink_whose_process_ends_before_it_is_dialled_is_opened_in_the_next() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage, |builder| builder);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| open(&host));
        control.expect("start", "k");
        control.say(b"ok");
        // Nobody listens at the address to connect to.
        kill(&host);
        wait_until("the next process is started", || {
            let status = host.status("p").unwrap();
            status.generation == 2 && status.state == PluginState::Starting
        });
        let mut control = stage.control("p");
        wait_until("it is started or refused", || control.has_something() || opened.is_finished());
        if opened.is_finished() {
            panic!("{}", opened.join().unwrap().err().unwrap());
        }
        let data = stage.serve_sink(&mut control);
        let sink = opened.join().unwrap().unwrap();
        drop(data);
        close_sink(&stage, &mut control, sink);
    });
}

#[test]
fn whoever_sends_while_the_host_is_shut_down_is_told_so() {
    let stage = Stage::new();
    // The process takes its time to end, as one that collects what was sent.
    let plugin = stage.script("p", &[], "trap '' TERM; while true; do sleep 0.05; done");
    let host = stage.builder().plugin(plugin).build().unwrap();
    let mut control = stage.start(&host);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| open(&host));
        let mut data = stage.serve_sink(&mut control);
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
        control.expect_stop("k");
        closed.join().unwrap();
        assert_eq!(over.join().unwrap(), [Ok(()), Ok(())]);
    });
}
