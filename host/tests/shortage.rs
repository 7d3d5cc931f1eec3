//! A host that reaches its limit of open files while sinks are opened, and
//! while they are restarted.
#![allow(clippy::unwrap_used)] // these are tests, helpers included

mod support;

use std::fs::File;
use std::thread::ScopedJoinHandle;

use ekuiper_conformance::raw::{PULL, PUSH, RawPeer};
use ekuiper_host::{Error, EventKind, Host, PluginState, Result, Sink};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use support::{PATIENCE, Puppet, Stage, kill, wait_until};

fn open(host: &Host, rule: &str) -> Result<Sink> {
    host.sink("k").rule(rule).operator("k").open()
}

/// Returns the rule of a command's sink.
fn rule_of(about: Value) -> String {
    about["meta"]["ruleId"].as_str().unwrap().to_owned()
}

/// Answers a start; returns the rule of the sink.
fn serve(stage: &Stage, control: &mut Puppet) -> (String, RawPeer) {
    let rule = rule_of(control.expect("start", "k"));
    let listener = stage.sink(&rule);
    control.say(b"ok");
    (rule, listener.accept_as(PULL, PUSH))
}

/// Waits for a command, or for the end of a thread; returns whether it is the
/// latter.
fn is_over<T>(control: &mut Puppet, thread: &ScopedJoinHandle<'_, T>) -> bool {
    let mut is_told = false;
    wait_until("a command comes, or none will", || {
        is_told = control.has_something();
        is_told || thread.is_finished()
    });
    !is_told
}

/// Opens as many files as possible.
fn take_all() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

// A single test: the limit applies to the whole process.
#[test]
fn what_was_not_opened_for_want_of_descriptors_is_stopped_and_has_no_address() {
    let stage = Stage::new();
    let host = stage.builder().plugin(stage.plugin("p", &[])).build().unwrap();
    let events = host.events();
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| open(&host, "first"));
        let mut control = stage.control("p");
        let data = serve(&stage, &mut control);
        let first = opened.join().unwrap().unwrap();
        drop((data, control));
        std::fs::remove_file(stage.sink_path("first")).unwrap();

        kill(&host);
        wait_until("the next process is started", || {
            let status = host.status("p").unwrap();
            status.generation == 2 && status.state == PluginState::Starting
        });
        // The sink waits for the process, and is one of those to be started in
        // it.
        let opened = scope.spawn(|| open(&host, "second"));
        wait_until("both sinks are live", || host.status("p").unwrap().symbols.len() == 2);
        let mut control = stage.control("p");
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..limit }).unwrap();
        let mut taken = Vec::new();
        while !is_over(&mut control, &opened) {
            let rule = rule_of(control.expect("start", "k"));
            let _listener = stage.sink(&rule);
            taken.extend(take_all());
            control.say(b"ok");
            // The sink runs, and cannot be connected to.
            assert_eq!(rule_of(control.expect("stop", "k")), rule);
            std::fs::remove_file(stage.sink_path(&rule)).unwrap();
            control.say(b"ok");
        }
        let error = opened.join().unwrap().err().unwrap();
        assert!(matches!(error, Error::Shortage { .. }), "{error}");
        while !matches!(events.recv_timeout(PATIENCE).unwrap().kind, EventKind::Restored { .. }) {}
        drop(taken);

        // The first sink is started again, for its handle; the second for its
        // new handle, and only so, at a free address.
        let opened = scope.spawn(|| open(&host, "second").map_err(|error| panic!("{error}")));
        let mut served = Vec::new();
        while served.len() < 2 {
            if is_over(&mut control, &opened) && !served.iter().any(|(rule, _)| rule == "second") {
                break;
            }
            served.push(serve(&stage, &mut control));
        }
        let second: Result<Sink> = opened.join().unwrap();
        served.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(served.iter().map(|(rule, _)| rule).collect::<Vec<_>>(), ["first", "second"]);
        for (sink, rule) in [(first, "first"), (second.unwrap(), "second")] {
            let closed = scope.spawn(|| sink.close());
            assert_eq!(rule_of(control.expect("stop", "k")), rule);
            std::fs::remove_file(stage.sink_path(rule)).unwrap();
            control.say(b"ok");
            closed.join().unwrap().unwrap();
        }
    });
}
