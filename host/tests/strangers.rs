//! Processes that are not the plugin's, at its channels and in its place.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ekuiper_conformance::raw::{PULL, PUSH, REQ, frame};
use ekuiper_core::message::Meta;
use ekuiper_host::{Error, Host};
use serde_json::{Value, json};
use support::logged::Logged;
use support::other::{self, Other, dialling, listening};
use support::{PATIENCE, Puppet, Stage, wait_until};

#[test]
fn other_process() {
    other::act();
}

/// First bytes of a plugin on its control or function channel.
fn handshake() -> Vec<u8> {
    [&REQ[..], &frame(b"\x80\0\0\x01handshake")].concat()
}

/// First bytes of a source, or of a sink that acknowledges.
fn rows(row: &[u8]) -> Vec<u8> {
    let mut says = PUSH.to_vec();
    (0..100).for_each(|_| says.extend(frame(row)));
    says
}

fn host(stage: &Stage) -> Host {
    stage.builder().plugin(stage.plugin("p", &["f"])).init_timeout(PATIENCE).build().unwrap()
}

fn meta(operator: &str) -> Meta {
    Meta { rule_id: "r".into(), op_id: operator.into(), instance_id: 0 }
}

#[test]
fn who_speaks_first_is_not_the_plugin_for_that() {
    let stage = Stage::new();
    let host = host(&stage);
    let control = Other::start(&dialling(stage.sockets().control("p").unwrap().path(), &handshake()));
    let function = Other::start(&dialling(stage.sockets().function("f").unwrap().path(), &handshake()));
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| host.function("f").unwrap());
        control.expect("hung up");
        let mut control = stage.control("p");
        control.expect("start", "f");
        function.expect("hung up");
        let mut puppet = Puppet::greet(&stage.sockets().function("f").unwrap());
        control.say(b"ok");
        let f = opened.join().unwrap();
        let call = |word: &str, puppet: &mut Puppet| {
            let call = scope.spawn({
                let (f, word) = (f.clone(), word.to_owned());
                move || f.call::<Value>((word,)).unwrap()
            });
            assert_eq!(puppet.hear_json()["arg"][0], word);
            puppet.answer(&json!(word));
            assert_eq!(call.join().unwrap(), word);
        };
        call("one", &mut puppet);
        // The plugin's connection ends once, and it connects again: nobody
        // takes its place meanwhile.
        drop(puppet);
        function.has_said();
        function.expect("hung up");
        let mut puppet = Puppet::greet(&stage.sockets().function("f").unwrap());
        call("two", &mut puppet);
        assert!(!function.has_said().contains(&"heard something".to_owned()));
    });
    assert!(!control.has_said().contains(&"heard something".to_owned()));
}

#[test]
fn a_stranger_brings_no_rows_and_no_acknowledgements() {
    let stage = Stage::new();
    let host = host(&stage);
    let data = stage.sockets().data(&meta("s")).unwrap();
    let acks = stage.sockets().ack(&meta("k")).unwrap();
    let forger = Other::start(&dialling(data.path(), &rows(br#"{"message":"forged","meta":{}}"#)));
    let acker = Other::start(&dialling(acks.path(), &rows(b"{}")));
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| host.source("s").rule("r").operator("s").open().unwrap());
        let mut control = stage.control("p");
        control.expect("start", "s");
        forger.expect("hung up");
        let mut source = stage.source("r", 0);
        control.say(b"ok");
        let mut opened = opened.join().unwrap();
        forger.has_said();
        forger.expect("hung up");
        source.write(&frame(br#"{"message":"real","meta":{}}"#));
        assert_eq!(opened.next_within(PATIENCE).unwrap().unwrap().message, "real");

        let sink = scope.spawn(|| host.sink("k").rule("r").operator("k").require_ack(true).open().unwrap());
        control.expect("start", "k");
        acker.expect("hung up");
        let mut acks = stage.acks("r");
        let mut data = stage.answer_sink(&mut control);
        let sink = sink.join().unwrap();
        let sent = scope.spawn(move || sink.send(&json!(1)));
        data.frame();
        acker.has_said();
        acker.expect("hung up");
        acks.write(&frame(br#"{"error":"of this"}"#));
        assert_eq!(sent.join().unwrap().unwrap_err().to_string(), "sink k: of this");
        // Their remains end with the host.
        drop((control, data, acks));
        host.shutdown();
    });
}

#[test]
fn a_sink_s_rows_go_to_no_stranger() {
    let stage = Stage::new();
    let host = stage
        .builder()
        .plugin(stage.plugin("p", &[]))
        .init_timeout(PATIENCE)
        .send_timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    let stranger = Other::start(&listening(&stage.sink_path("r"), &PULL));
    stranger.expect("listening");
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| host.sink("k").rule("r").operator("k").open());
        let mut control = stage.control("p");
        control.expect("start", "k");
        control.say(b"ok");
        stranger.expect("hung up");
        // The sink was not opened, and is stopped.
        stage.remove_sink();
        control.expect_stop("k");
        let error = opened.join().unwrap().err().unwrap();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
    });
    assert!(!stranger.has_said().contains(&"heard something".to_owned()));
}

/// A plugin whose process is this script, after its start.
fn starts(name: &str, script: impl FnOnce(&Stage) -> String) {
    let stage = Stage::new();
    let script = script(&stage);
    let host = stage.builder().plugin(stage.script("p", &[], &script)).init_timeout(PATIENCE).build().unwrap();
    host.start("p").unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[test]
fn a_plugin_s_own_processes_are_let_in_whoever_runs_them() {
    let order = |stage: &Stage| dialling(stage.sockets().control("p").unwrap().path(), &handshake());
    starts("itself", |stage| format!("exec {}", other::command(order(stage))));
    starts("a wrapper's child", |stage| format!("{}\nexit 1", other::command(order(stage))));
    starts("a child's child", |stage| {
        format!("sh -c \"sh -c \\\"{}; :\\\"; :\"", quoted(&other::command(order(stage))))
    });
    starts("a child in a session of its own", |stage| {
        let mut order = order(stage);
        order["setsid"] = true.into();
        format!("{}\nexit 1", other::command(order))
    });
}

/// Escapes a text inside two pairs of quotes.
fn quoted(text: &str) -> String {
    text.replace('"', r#"\\\""#)
}

#[test]
fn a_process_that_another_plugin_started_is_a_stranger() {
    let stage = Stage::new();
    let order = dialling(stage.sockets().control("p").unwrap().path(), &handshake());
    let evil = stage.named("q", &format!("exec {}", other::command(order)));
    let host = stage
        .builder()
        .plugin(stage.plugin("p", &[]))
        .plugin(evil)
        .init_timeout(Duration::from_millis(1500))
        .build()
        .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| host.start("q").unwrap_err());
        let error = host.start("p").unwrap_err();
        assert!(matches!(error, Error::NoHandshake { .. }), "{error}");
    });
}

/// Returns the number of descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// In a separate process, since the test counts this process's descriptors.
#[test]
fn a_crowd_of_strangers_costs_no_descriptors_and_one_line_a_second() {
    if std::env::var_os("ALONE").is_none() {
        let name = "a_crowd_of_strangers_costs_no_descriptors_and_one_line_a_second";
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let output = alone.args(["--exact", name, "--nocapture"]).env("ALONE", "").output().unwrap();
        return assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let logged = Logged::at(tracing::Level::INFO);
    tracing::subscriber::set_global_default(logged.clone()).unwrap();
    let told = || logged.messages().iter().filter(|message| message.contains("not one of the plugin's")).count();
    let stage = Stage::new();
    let host = host(&stage);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| host.function("f").unwrap());
        let mut control = stage.control("p");
        let mut puppet = stage.start_function(&mut control, "f");
        let f = opened.join().unwrap();
        let (before, since) = (descriptors(), Instant::now());
        let mut order = dialling(stage.sockets().function("f").unwrap().path(), &handshake());
        order["crowd"] = 300.into();
        let crowd = Other::start(&order);
        let most = AtomicUsize::new(0);
        for round in 0..5 {
            crowd.expect("hung up");
            most.fetch_max(descriptors(), Ordering::SeqCst);
            let call = scope.spawn({
                let f = f.clone();
                move || f.call::<Value>((round,)).unwrap()
            });
            assert_eq!(puppet.hear_json()["arg"][0], round);
            puppet.answer(&json!(round));
            assert_eq!(call.join().unwrap(), round);
        }
        let most = most.into_inner();
        // The connections of the other process, and one that is being checked.
        assert!(most < before + 16, "{most} descriptors instead of {before}");
        wait_until("somebody is told of the strangers", || told() > 0);
        let lines = told();
        assert!(lines as u64 <= since.elapsed().as_secs() + 2, "{lines} lines in {:?}", since.elapsed());
    });
}
