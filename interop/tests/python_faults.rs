//! The faults of today's engine and SDKs (protocol, section 4) that concern a
//! plugin, on our module `ekuiper`: each test is named for one. The host is a
//! raw one, as in the tests of the SDK that it is built on.

// The support reads features of the SDK's that this crate has not.
#![allow(clippy::unwrap_used, unexpected_cfgs, reason = "only tests are here")]

#[path = "../../sdk/tests/support/mod.rs"]
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use ekuiper_core::message::CallKind;
use ekuiper_core::transport::{PullEvent, TransportError};
use ekuiper_interop::tools;
use rustix::process::Signal;
use serde_json::json;

use support::channels::{Channel, encoded};
use support::plugin::meta;
use support::{Asked, Plugin, drain, journal, soon, wait_until, watchdog};

fn start() -> Plugin {
    Plugin::start_as(&[("PYTHONDONTWRITEBYTECODE", "1")], |launch| {
        let mut command = Command::new(tools::our_python());
        command.arg("-u").arg(tools::root().join("interop/plugins/faulty/main.py")).arg(launch);
        command
    })
}

#[test]
fn fault_01_an_idle_plugin_says_nothing() {
    let _watchdog = watchdog();
    let mut plugin = start();
    let mut echo = plugin.start_function("echo");
    // The official package sends a keepalive after 5 s, on both channels.
    assert!(echo.is_silent_for(Duration::from_millis(5500)));
    assert!(plugin.control.is_silent_for(Duration::from_millis(100)));
    assert_eq!((echo.handshakes, plugin.control.handshakes), (1, 1));
    assert_eq!(echo.call(CallKind::Exec, &json!(["x"])), Ok(json!("x")));
}

#[test]
fn fault_02_a_handshake_is_sent_once_per_connection() {
    let _watchdog = watchdog();
    let mut plugin = start();
    let address = plugin.sockets().function("echo").unwrap();
    let mut echo = plugin.start_function("echo");
    for round in 0..3 {
        assert_eq!(echo.call(CallKind::Exec, &json!([round])), Ok(json!(round)));
        assert_eq!(echo.handshakes, 1);
        drop(echo);
        echo = Channel::listen(&address).greeted();
    }
    assert_eq!(echo.call(CallKind::Exec, &json!(["after"])), Ok(json!("after")));
}

#[test]
fn fault_04_and_05_an_answer_goes_to_the_connection_that_asked_or_nowhere() {
    let _watchdog = watchdog();
    let mut plugin = start();
    let address = plugin.sockets().function("echo").unwrap();
    let mut echo = plugin.start_function("echo");
    let go = plugin.file("go");
    echo.send(&encoded(CallKind::Exec, &json!(["stale", go])));
    drop(echo);
    let mut echo = Channel::listen(&address);
    std::fs::write(&go, "").unwrap();
    // Not the answer to the call of the former connection.
    assert_eq!(echo.next(), Asked::Request(b"handshake".to_vec()));
    for number in 0..20 {
        assert_eq!(echo.call(CallKind::Exec, &json!([number])), Ok(json!(number)));
    }
}

#[test]
fn fault_10_acks_are_sent_only_when_asked_for_and_an_exception_is_one() {
    let _watchdog = watchdog();
    let mut plugin = start();
    let (push, acks, answer) = plugin.start_sink("journal", &meta("r1", "quiet"), json!({}));
    assert_eq!(answer, "ok");
    for _ in 0..500 {
        push.send(b"{}", soon()).unwrap();
    }
    assert_eq!(plugin.stop_sink("journal", &meta("r1", "quiet")), "ok");
    let mut buffer = Vec::new();
    loop {
        match acks.receive(&mut buffer, Some(Instant::now())) {
            Ok(PullEvent::Message(_)) => panic!("an ack that nobody asked for: {buffer:?}"),
            Ok(_) => {}
            Err(TransportError::Timeout) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let config = json!({ "requireAck": true, "raise": true });
    let (push, acks, answer) = plugin.start_sink("journal", &meta("r1", "full"), config);
    assert_eq!(answer, "ok");
    for _ in 0..3 {
        push.send(b"{}", soon()).unwrap();
        assert_eq!(drain(&*acks), Some(json!({ "error": "OSError: disk full" })));
    }
    let config = json!({ "requireAck": true });
    let (push, acks, _) = plugin.start_sink("journal", &meta("r1", "good"), config);
    push.send(b"{}", soon()).unwrap();
    assert_eq!(drain(&*acks), Some(json!({})));
}

#[test]
fn fault_11_a_sources_errors_are_errors_with_their_text() {
    let _watchdog = watchdog();
    let mut plugin = start();
    let rule = meta("r1", "s");
    let (pull, answer) = plugin.start_source("counter", &rule, json!({ "report": true, "raise": true }));
    assert_eq!(answer, "ok");
    assert_eq!(drain(&*pull), Some(json!({ "error": "no reading" })));
    assert_eq!(drain(&*pull), Some(json!({ "error": "OSError: the sensor is gone" })));
    assert_eq!(drain(&*pull), None, "and it is over");
    plugin.log.wait_for(&["Traceback"]);
    plugin.log.wait_for(&["ERROR", "counter", "source counter failed"]);
    drop(pull);
    let (pull, answer) = plugin.start_source("counter", &rule, json!({}));
    assert_eq!(answer, "ok", "it may be started again");
    assert_eq!(drain(&*pull).unwrap()["message"]["number"], 1);
}

#[test]
fn fault_12_the_datasource_arrives() {
    let _watchdog = watchdog();
    let mut plugin = start();
    let (pull, _) = plugin.start_source("counter", &meta("r1", "s"), json!({}));
    assert_eq!(drain(&*pull).unwrap()["message"]["datasource"], "topic");
}

#[test]
fn fault_13_a_stop_right_after_the_start_stops() {
    let _watchdog = watchdog();
    let mut plugin = start();
    let file = plugin.file("journal");
    let rule = meta("r1", "s");
    for round in 1..=20 {
        let (pull, answer) = plugin.start_source("counter", &rule, json!({ "journal": file }));
        assert_eq!((answer.as_str(), plugin.stop_source("counter", &rule).as_str()), ("ok", "ok"));
        drop(pull);
        let (_push, _acks, answer) = plugin.start_sink("journal", &rule, json!({}));
        assert_eq!((answer.as_str(), plugin.stop_sink("journal", &rule).as_str()), ("ok", "ok"));
        wait_until("each open has its close", || {
            let lines = journal(&file);
            let count = |what: &str| lines.iter().filter(|line| *line == what).count();
            (count("open"), count("close")) == (round, round)
        });
    }
}

#[test]
fn fault_15_it_ends_with_its_parent_and_closes_its_symbols() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start_as(&[], |launch| {
        let mut command = Command::new("sh");
        command.args(["-c", r#""$0" -u "$1" "$2" & echo "child $!" >&2; wait"#]);
        command.arg(tools::our_python()).arg(tools::root().join("interop/plugins/faulty/main.py")).arg(launch);
        command
    });
    let file = plugin.file("journal");
    let (pull, _) = plugin.start_source("counter", &meta("r1", "s"), json!({ "journal": file }));
    drain(&*pull);
    let line = plugin.log.wait_for(&["child "]);
    let pid: i32 = line.rsplit(' ').next().unwrap().parse().unwrap();
    plugin.child.kill().unwrap();
    wait_until("the plugin ends", || {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
    assert_eq!(journal(&file), ["open", "close"]);
    plugin.log.wait_for(&["after the start"]);
}

#[test]
fn signals_close_all_symbols_in_order_and_start_returns() {
    let _watchdog = watchdog();
    for signal in [Signal::TERM, Signal::INT] {
        let mut plugin = start();
        let file = plugin.file("journal");
        let (_pull, _) = plugin.start_source("counter", &meta("r1", "s"), json!({ "journal": file }));
        let (_push, _acks, _) = plugin.start_sink("journal", &meta("r1", "k"), json!({ "journal": file }));
        let _echo = plugin.start_function("echo");
        wait_until("both are open", || journal(&file).len() == 2);
        plugin.signal(signal);
        plugin.assert_exit_0();
        assert_eq!(journal(&file)[2..], ["close", "close"]);
        plugin.log.wait_for(&["after the start"]);
        assert!(!plugin.log.text().contains("KeyboardInterrupt"));
    }
}

#[test]
fn fault_17_nan_and_what_is_too_long_are_errors() {
    let _watchdog = watchdog();
    let mut plugin = start();
    let mut echo = plugin.start_function("echo");
    let error = echo.call(CallKind::Exec, &json!(["nan"])).unwrap_err();
    assert!(error.contains("NaN is not a number that a message can hold"), "{error}");
    let long = "x".repeat(3_000_000);
    assert!(echo.call(CallKind::Exec, &json!([long])) == Ok(json!(long)), "3 MB pass");
    let (pull, answer) = plugin.start_source("counter", &meta("r1", "s"), json!({ "long": 65 << 20 }));
    assert_eq!(answer, "ok");
    let refused = drain(&*pull).unwrap()["error"].as_str().unwrap().to_owned();
    assert!(refused.starts_with("a row cannot be sent: ") && refused.contains("67108864"), "{refused}");
    assert_eq!(drain(&*pull).unwrap()["message"]["number"], 1, "it costs that row");
}

#[test]
fn fault_18_a_flooded_sink_stops_and_a_hung_symbol_holds_up_nobody() {
    let _watchdog = watchdog();
    let mut plugin = start();
    let rule = meta("r1", "flood");
    let (push, _acks, answer) = plugin.start_sink("journal", &rule, json!({ "slow": true }));
    assert_eq!(answer, "ok");
    let flood = std::thread::spawn(move || {
        let moment = || Some(Instant::now() + Duration::from_secs(1));
        while push.send(b"{}", moment()).is_ok() {}
    });
    assert_eq!(plugin.stop_sink("journal", &rule), "ok");
    drop(_acks);
    // A sink that never comes back from `collect`, and a source that hangs.
    let (stuck, never) = (meta("r1", "stuck"), plugin.file("never"));
    let (push, _held, answer) = plugin.start_sink("journal", &stuck, json!({ "hang": never }));
    assert_eq!(answer, "ok");
    push.send(b"{}", soon()).unwrap();
    let other = meta("r1", "other");
    let (_tuples, answer) = plugin.start_source("counter", &other, json!({ "hang_in_close": never }));
    assert_eq!(answer, "ok");
    let refusal = plugin.stop_sink("journal", &stuck);
    assert!(refusal.contains("did not stop within"), "{refusal}");
    let refusal = plugin.stop_source("counter", &other);
    assert!(refusal.contains("did not stop within"), "{refusal}");
    // All others go on.
    plugin.assert_alive();
    let mut echo = plugin.start_function("echo");
    assert_eq!(echo.call(CallKind::Exec, &json!([1])), Ok(json!(1)));
    // And it ends in spite of them.
    plugin.signal(Signal::TERM);
    plugin.assert_exit_0();
    drop(push);
    let _ = flood.join();
}
