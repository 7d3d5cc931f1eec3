//! Misbehaving symbols, whose plugin continues to serve the others.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::message::{AckCount, CallKind, Collected, Command, CommandKind, Control, Meta, decode_ack};
use ekuiper_core::transport::{Endpoint, Options, Pull, PullEvent, Push, Transport};
use ekuiper_transport_uds::UdsTransport;
use serde_json::{Map, Value, json};

use support::plugin::{meta, release};
use support::{Asked, Plugin, drain, journal, soon, wait_until, watchdog};

#[test]
fn close_has_run_when_a_stop_is_answered() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let (file, meta) = (plugin.file("journal"), meta("r1", "s"));
    for _ in 0..3 {
        let (pull, answer) = plugin.start_source("counter", &meta, json!({ "journal": file }));
        assert_eq!(answer, "ok");
        let tuple = drain(&*pull).unwrap();
        assert_eq!(tuple, json!({ "message": { "n": 0, "topic": "topic" }, "meta": ["r1", "s", 0] }));
        assert_eq!(plugin.stop_source("counter", &meta), "ok");
        assert_eq!(journal(&file)[..2], ["configure", "open"]);
        assert_eq!(journal(&file).last().unwrap(), "close");
        std::fs::remove_file(&file).unwrap();
    }
    assert_eq!(plugin.stop_source("counter", &meta), "ok", "what does not run is stopped");
}

#[test]
fn fault_12_a_topic_is_found_wherever_an_engine_says_it() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    // The stock engine says it in the configuration only.
    for (place, topic) in [
        (json!({ "dataSource": "a", "datasource": "b", "config": { "datasource": "c" } }), "a"),
        (json!({ "dataSource": "", "datasource": "b", "config": { "datasource": "c" } }), "b"),
        (json!({ "config": { "datasource": "c" } }), "c"),
        (json!({ "config": null }), ""),
    ] {
        let rule = meta("r1", "s");
        let data = Endpoint::Listen(plugin.sockets().data(&rule).unwrap());
        let pull = UdsTransport::new().pull(&data, &Options::default()).unwrap();
        let mut control = json!({ "symbolName": "counter", "meta": rule, "pluginType": "source" });
        control.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
        let command = json!({ "cmd": "start", "arg": control.to_string() });
        assert_eq!(plugin.control.ask_text(command.to_string().as_bytes()), "ok");
        assert_eq!(drain(&*pull).unwrap()["message"]["topic"], topic);
        assert_eq!(plugin.stop_source("counter", &rule), "ok");
    }
}

#[test]
fn a_source_that_waits_or_floods_is_stopped() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let file = plugin.file("journal");
    // Nobody reads on: `emit` blocks.
    let (_flooded, answer) =
        plugin.start_source("flood", &meta("r1", "flood"), json!({ "journal": file, "name": "flood" }));
    assert_eq!(answer, "ok");
    for hook in ["", "hook"] {
        let config = json!({ "journal": file, "name": "waiting", "panic_in": hook });
        let (pull, answer) = plugin.start_source("waiting", &meta("r1", "waiting"), config);
        assert_eq!(answer, "ok");
        assert!(drain(&*pull).is_some());
        assert_eq!(plugin.stop_source("waiting", &meta("r1", "waiting")), "ok");
    }
    assert_eq!(plugin.stop_source("flood", &meta("r1", "flood")), "ok");
    let lines = journal(&file);
    assert_eq!(lines, ["waiting on_stop", "waiting close", "waiting on_stop", "waiting close", "flood close"]);
}

#[test]
fn errors_of_a_source_reach_the_host() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let (pull, answer) = plugin.start_source("reporter", &meta("r1", "s"), json!({}));
    assert_eq!(answer, "ok");
    assert_eq!(drain(&*pull).unwrap(), json!({ "error": "a \"bad\" record" }));
    let nan = drain(&*pull).unwrap()["error"].as_str().unwrap().to_owned();
    assert!(nan.contains("NaN is not a number"), "{nan}");
    assert_eq!(drain(&*pull).unwrap(), json!({ "message": { "still": "here" }, "meta": null }));
    assert_eq!(drain(&*pull).unwrap(), json!({ "error": "the sensor is gone" }));
    assert_eq!(drain(&*pull), None, "its channel ends with it");
}

#[test]
fn a_source_that_ends_without_a_tuple_ends_for_its_reader() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let (pull, answer) = plugin.start_source("silent", &meta("r1", "s"), json!({}));
    assert_eq!(answer, "ok");
    assert_eq!(drain(&*pull), None, "its channel ends with it");
    let (pull, answer) = plugin.start_source("silent", &meta("r2", "s"), json!({ "fail_in": "open" }));
    assert_eq!(answer, "ok");
    assert_eq!(drain(&*pull).unwrap(), json!({ "error": "open failed" }));
    assert_eq!(drain(&*pull), None, "its channel ends with it");
}

#[test]
fn a_source_whose_data_channel_nobody_accepts_is_refused() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let control = Control::source("silent", meta("r1", "s"), "", Map::new());
    let answer = plugin.command(CommandKind::Start, control);
    assert!(answer.starts_with("data channel ") && answer.ends_with("r1_s_0.ipc failed: timed out"), "{answer}");
}

#[test]
fn sources_that_end_by_themselves_leave_nothing_behind() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let open = |plugin: &Plugin| std::fs::read_dir(format!("/proc/{}/fd", plugin.child.id())).unwrap().count();
    let before = open(&plugin);
    for (position, fails) in ["", "open"].repeat(4).into_iter().enumerate() {
        let rule = meta(&format!("r{position}"), "s");
        let (pull, answer) = plugin.start_source("silent", &rule, json!({ "fail_in": fails }));
        assert_eq!(answer, "ok");
        while drain(&*pull).is_some() {}
    }
    // No other start is needed for that.
    wait_until("its descriptors are closed", || open(&plugin) == before);
}

#[test]
fn one_that_has_ended_by_itself_can_be_started_again_at_once() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[("UNRULY_STOP", "30000")]);
    let (go, rule) = (plugin.file("go"), meta("r1", "s"));
    let config = json!({ "fail_in": "open", "hang_in": "close", "release": go });
    let (pull, answer) = plugin.start_source("counter", &rule, config);
    assert_eq!(answer, "ok");
    assert_eq!(drain(&*pull).unwrap(), json!({ "error": "open failed" }));
    // Its `close` still runs: the start waits for it.
    let control = Control::source("counter", meta("r1", "s"), "again", Map::new());
    plugin.control.send(&Command { kind: CommandKind::Start, control }.encode().unwrap());
    plugin.log.wait_for(&["command kind=start", "datasource=\"again\""]);
    release(&go);
    assert_eq!(plugin.control.next(), Asked::Request(b"ok".to_vec()));
    while drain(&*pull).is_some() {}
    assert_eq!(drain(&*pull).unwrap()["message"]["topic"], "again");
}

#[test]
fn a_panic_anywhere_is_an_error_and_the_plugin_lives() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let meta = meta("r1", "s");
    // Where the start can tell.
    assert_eq!(plugin.start_source("unmakable", &meta, json!({})).1, "panicked: boom in make");
    assert_eq!(plugin.start_sink("unmakable", &meta, json!({})).2, "panicked: boom in make");
    assert_eq!(
        plugin.start_source("counter", &meta, json!({ "panic_in": "configure" })).1,
        "panicked: boom in configure"
    );
    for method in ["configure", "open"] {
        let answer = plugin.start_sink("journal", &meta, json!({ "panic_in": method })).2;
        assert_eq!(answer, format!("panicked: boom in {method}"));
    }
    // Where the data channel can.
    let (pull, answer) = plugin.start_source("counter", &meta, json!({ "panic_in": "open" }));
    assert_eq!(answer, "ok");
    assert_eq!(drain(&*pull).unwrap(), json!({ "error": "panicked: boom in open" }));
    drop(pull);
    // And where only the log can.
    for method in ["close", "drop"] {
        let (pull, answer) = plugin.start_source("counter", &meta, json!({ "panic_in": method }));
        assert_eq!(answer, "ok");
        assert!(drain(&*pull).is_some());
        assert_eq!(plugin.stop_source("counter", &meta), "ok");
        plugin.log.wait_for(&["ERROR", "counter", &format!("panicked: boom in {method}")]);
    }
    let (_push, _acks, answer) = plugin.start_sink("journal", &meta, json!({ "panic_in": "close" }));
    assert_eq!(answer, "ok");
    assert_eq!(plugin.stop_sink("journal", &meta), "ok");
    plugin.log.wait_for(&["ERROR", "journal", "panicked: boom in close"]);
    plugin.assert_alive();
}

#[test]
fn a_refused_start_says_why_and_leaves_nothing_behind() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let meta = meta("r1", "s");
    let (_, _, answer) = plugin.start_sink("journal", &meta, json!({ "journal": 7 }));
    assert!(answer.starts_with("invalid config field journal: invalid type"), "{answer}");
    let (_, _, answer) = plugin.start_sink("journal", &meta, json!({ "fail_in": "open" }));
    assert_eq!(answer, "open failed");
    assert!(!plugin.sockets().data(&meta).unwrap().path().exists());
    let (_push, _acks, answer) = plugin.start_sink("journal", &meta, json!({}));
    assert_eq!(answer, "ok");
    assert_eq!(plugin.stop_sink("journal", &meta), "ok");
    assert!(!plugin.sockets().data(&meta).unwrap().path().exists());
}

#[test]
fn an_error_is_never_taken_for_success_or_a_handshake() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    // A stock engine takes whatever begins with an h for a handshake, and
    // sends the command again, for ever.
    for (text, answer) in [
        ("ok", "error: ok"),
        ("handshake", "error: handshake"),
        ("host unreachable", "error: host unreachable"),
        ("", "an error without a text"),
    ] {
        let config = json!({ "fail_in": "configure", "fail_text": text });
        assert_eq!(plugin.start_source("counter", &meta("r1", "s"), config).1, answer);
    }
}

#[test]
fn fault_13_a_stop_right_after_the_start_stops() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let (file, rule) = (plugin.file("journal"), meta("r1", "s"));
    for _ in 0..50 {
        let (_pull, answer) = plugin.start_source("counter", &rule, json!({ "journal": file }));
        assert_eq!((answer.as_str(), plugin.stop_source("counter", &rule).as_str()), ("ok", "ok"));
        assert_eq!(journal(&file).last().unwrap(), "close");
    }
    assert_eq!(journal(&file).iter().filter(|line| *line == "close").count(), 50);
}

#[test]
fn one_that_does_not_stop_is_refused_and_holds_up_nobody() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[("UNRULY_STOP", "1000")]);
    let (file, go) = (plugin.file("journal"), plugin.file("go"));
    let (rule, other) = (meta("r1", "s"), meta("r2", "s"));
    let config = json!({ "hang_in": "open", "release": go, "journal": file });
    let (_pull, answer) = plugin.start_source("counter", &rule, config);
    assert_eq!(answer, "ok");
    let answer = plugin.stop_source("counter", &rule);
    assert!(answer.starts_with("source counter (r1/s/0) did not stop within 1s: its open or close"), "{answer}");
    assert!(answer.contains("ctx.sleep") && answer.contains("ctx.on_stop"), "{answer}");
    let refused = "source counter (r1/s/0) has been hanging since an earlier start or stop";
    assert_eq!(plugin.stop_source("counter", &rule), refused);
    let control = Control::source("counter", rule.clone(), "", Map::new());
    assert_eq!(plugin.command(CommandKind::Start, control.clone()), refused);
    // Others go on, of the same symbol too.
    let (pull, answer) = plugin.start_source("counter", &other, json!({}));
    assert_eq!(answer, "ok");
    assert!(drain(&*pull).is_some());
    assert_eq!(plugin.stop_source("counter", &other), "ok");
    plugin.assert_alive();
    // Until it has ended after all.
    release(&go);
    wait_until("it closes", || journal(&file).contains(&"close".into()));
    wait_until("it can be started", || plugin.command(CommandKind::Start, control.clone()) == "ok");
    assert_eq!(plugin.stop_source("counter", &rule), "ok");
}

#[test]
fn one_that_does_not_start_is_refused_and_ends_when_it_can() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[("UNRULY_START", "1000")]);
    let (file, go) = (plugin.file("journal"), plugin.file("go"));
    let rule = meta("r1", "s");
    let config = json!({ "hang_in": "open", "release": go, "journal": file });
    let (_push, acks, answer) = plugin.start_sink("journal", &rule, config);
    assert_eq!(answer, "sink journal (r1/s/0) did not start within 1s");
    assert_eq!(
        plugin.stop_sink("journal", &rule),
        "sink journal (r1/s/0) has been hanging since an earlier start or stop"
    );
    plugin.assert_alive();
    release(&go);
    // It is told to end, and closes what it has opened.
    wait_until("it closes", || journal(&file).contains(&"close".into()));
    drop(acks);
    wait_until("it can be started", || {
        let (_push, _acks, answer) = plugin.start_sink("journal", &rule, json!({}));
        answer == "ok"
    });
    assert_eq!(plugin.stop_sink("journal", &rule), "ok");
}

#[test]
fn a_sink_acknowledges_when_asked_and_only_then() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let (push, acks, answer) = plugin.start_sink("journal", &meta("r1", "acked"), json!({ "requireAck": true }));
    assert_eq!(answer, "ok");
    let say = |row: serde_json::Value| {
        push.send(row.to_string().as_bytes(), soon()).unwrap();
        drain(&*acks).unwrap()
    };
    assert_eq!(say(json!([{ "n": 1 }, { "n": 2 }])), json!({}));
    assert_eq!(say(json!({ "n": 3, "fail": "disk \"full\"" })), json!({ "error": "disk \"full\"" }));
    assert_eq!(say(json!({ "n": 4, "panic": "boom" })), json!({ "error": "panicked: boom" }));
    let garbage = say(json!("no rows"));
    assert!(garbage["error"].as_str().unwrap().contains("neither a JSON object nor an array"), "{garbage}");
    // One by hand counts instead, and a surplus one is dropped: the next
    // message's acknowledgement is the next to come.
    assert_eq!(say(json!({ "n": 5, "ack": ["alone"] })), json!({ "error": "alone" }));
    assert_eq!(say(json!({ "n": 5 })), json!({}));
    assert!(!plugin.log.text().contains("surplus"));
    assert_eq!(say(json!({ "n": 5, "ack": ["by hand", "again", ""] })), json!({ "error": "by hand" }));
    assert_eq!(say(json!({ "n": 6 })), json!({}));
    plugin.log.wait_for(&["WARN", "surplus acknowledgement"]);

    // A manual sink acknowledges when it likes.
    let (push, acks, answer) = plugin.start_sink("manual", &meta("r1", "manual"), json!({ "requireAck": true }));
    assert_eq!(answer, "ok");
    for row in [json!({ "n": 1 }), json!({ "n": 2, "fail": "no" }), json!({ "n": 3, "ack": ["one", "", "three"] })] {
        push.send(row.to_string().as_bytes(), soon()).unwrap();
    }
    let got: Vec<_> = (0..3).map(|_| drain(&*acks).unwrap()).collect();
    assert_eq!(got, [json!({ "error": "one" }), json!({}), json!({ "error": "three" })]);

    // Without `requireAck` nothing is sent, not even by hand.
    let file = plugin.file("journal");
    let rule = meta("r1", "silent");
    let (push, acks, answer) = plugin.start_sink("journal", &rule, json!({ "journal": file, "requireAck": "true" }));
    assert_eq!(answer, "ok");
    for row in [json!({ "n": 1 }), json!({ "n": 2, "fail": "no" }), json!({ "n": 3, "ack": ["", ""] })] {
        push.send(row.to_string().as_bytes(), soon()).unwrap();
    }
    wait_until("it has taken all", || journal(&file).contains(&"row 3".into()));
    assert_eq!(plugin.stop_sink("journal", &rule), "ok");
    assert_eq!(drain(&*acks), None, "it came and went without a word");
}

/// Starts a sink with acks for an engine that takes counts of them.
fn start_counting(plugin: &mut Plugin, rule: &Meta, config: Value) -> (Box<dyn Push>, Box<dyn Pull>) {
    let sockets = plugin.sockets();
    let ack = Endpoint::Listen(sockets.ack(rule).unwrap());
    let acks = UdsTransport::new().pull(&ack, &Options::default()).unwrap();
    let mut config = config.as_object().unwrap().clone();
    config.insert("requireAck".into(), true.into());
    let start = Control::sink("journal", rule.clone(), config).with_ack_counts(true);
    assert_eq!(plugin.command(CommandKind::Start, start), "ok");
    let data = Endpoint::Dial(sockets.data(rule).unwrap());
    (UdsTransport::new().push(&data, &Options::default()).unwrap(), acks)
}

/// The next acknowledgement: of so many messages, or a refusal.
fn next_acks(acks: &dyn Pull) -> Result<u32, String> {
    let mut buffer = Vec::new();
    while !matches!(acks.receive(&mut buffer, soon()).unwrap(), PullEvent::Message(_)) {}
    match AckCount::decode(&buffer) {
        Some(AckCount(count)) => Ok(count),
        None => Err(decode_ack(&buffer).unwrap().unwrap_err()),
    }
}

#[test]
fn a_sink_counts_what_it_acknowledges_for_a_host_that_asks() {
    const ROWS: u32 = 20_000;
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let (push, acks) = start_counting(&mut plugin, &meta("r1", "counted"), json!({}));
    for n in 0..3 {
        push.send(format!("{{\"n\":{n}}}").as_bytes(), soon()).unwrap();
        assert_eq!(next_acks(&*acks), Ok(1));
    }
    let is_refused = |n: u32| n % 701 == 3;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..ROWS {
                let row = if is_refused(n) { json!({ "n": n, "fail": "no" }) } else { json!({ "n": n }) };
                push.post(row.to_string().as_bytes(), soon()).unwrap();
            }
            push.dispatch(soon()).unwrap();
        });
        let (mut n, mut most) = (0, 0);
        while n < ROWS {
            match next_acks(&*acks) {
                Ok(count) => {
                    assert!((n..n + count).all(|n| !is_refused(n)), "{count} from {n} on");
                    n += count;
                    most = most.max(count);
                }
                Err(text) => {
                    assert!(is_refused(n) && text == "no", "{n}: {text}");
                    n += 1;
                }
            }
        }
        assert_eq!(n, ROWS);
        assert!(most > 1, "each has a message of its own");
    });
    assert_eq!(plugin.stop_sink("journal", &meta("r1", "counted")), "ok");
}

#[test]
fn what_a_sink_has_acknowledged_does_not_wait_for_the_row_that_it_collects() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let (go, rule) = (plugin.file("go"), meta("r1", "s"));
    let (push, acks) = start_counting(&mut plugin, &rule, json!({ "hang_in": "row 20", "release": go }));
    push.connect(soon()).unwrap();
    // Rows that are read in one go, and the last of them hangs.
    for n in 0..=20 {
        push.post(format!("{{\"n\":{n}}}").as_bytes(), soon()).unwrap();
    }
    push.dispatch(soon()).unwrap();
    let mut acknowledged = 0;
    while acknowledged < 20 {
        acknowledged += next_acks(&*acks).unwrap();
    }
    assert_eq!(acknowledged, 20);
    std::fs::write(&go, "").unwrap();
    assert_eq!(next_acks(&*acks), Ok(1));
    assert_eq!(plugin.stop_sink("journal", &rule), "ok");
}

#[test]
fn a_stopped_sink_has_read_what_was_sent() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let (file, go, rule) = (plugin.file("journal"), plugin.file("go"), meta("r1", "s"));
    let config = json!({ "journal": file, "hang_in": "row 0", "release": go });
    let (push, _acks, answer) = plugin.start_sink("journal", &rule, config);
    assert_eq!(answer, "ok");
    for n in 0..100 {
        push.send(format!("{{\"n\":{n}}}").as_bytes(), soon()).unwrap();
    }
    // The stop comes while the sink is busy with the first.
    let control = Control::sink("journal", rule, Map::new());
    plugin.control.send(&Command { kind: CommandKind::Stop, control }.encode().unwrap());
    plugin.log.wait_for(&["command kind=stop"]);
    release(&go);
    assert_eq!(plugin.control.next(), Asked::Request(b"ok".to_vec()));
    let lines = journal(&file);
    assert_eq!(lines.len(), 103, "{lines:?}");
    assert_eq!((lines[101].as_str(), lines[102].as_str()), ("row 99", "close"));
}

#[test]
fn a_stopped_sink_collects_what_was_sent_however_long_that_takes() {
    const ROWS: usize = 60;
    let _watchdog = watchdog();
    // What the engine gets its answer in.
    let mut plugin = Plugin::start(&[("UNRULY_STOP", "1000"), ("UNRULY_START", "20000")]);
    let (file, rule) = (plugin.file("journal"), meta("r1", "s"));
    let config = json!({ "journal": file });
    let (push, acks, answer) = plugin.start_sink("journal", &rule, config.clone());
    assert_eq!(answer, "ok");
    for n in 0..ROWS {
        push.send(format!("{{\"n\":{n},\"pause\":50}}").as_bytes(), soon()).unwrap();
    }
    // As eKuiper ends a sink: its channels first.
    push.close();
    acks.close();
    assert_eq!(plugin.stop_sink("journal", &rule), "ok");
    // The answer did not wait for all rows, and meanwhile others are served.
    plugin.log.wait_for(&["stopped: messages sent before the stop are still being collected"]);
    plugin.assert_alive();
    // The same instance begins after the end of the former.
    let (_push, _acks, answer) = plugin.start_sink("journal", &rule, config);
    assert_eq!(answer, "ok");
    let expected = ["configure", "open"].map(String::from).into_iter();
    let expected =
        expected.chain((0..ROWS).map(|n| format!("row {n}"))).chain(["close", "configure", "open"].map(String::from));
    assert_eq!(journal(&file), expected.collect::<Vec<_>>());
}

#[test]
fn a_sink_that_is_still_collecting_is_not_started_twice() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[("UNRULY_STOP", "300"), ("UNRULY_START", "300")]);
    let rule = meta("r1", "s");
    let (push, _acks, answer) = plugin.start_sink("journal", &rule, json!({}));
    assert_eq!(answer, "ok");
    for n in 0..100 {
        push.send(format!("{{\"n\":{n},\"pause\":20}}").as_bytes(), soon()).unwrap();
    }
    push.close();
    assert_eq!(plugin.stop_sink("journal", &rule), "ok");
    let answer = plugin.command(CommandKind::Start, Control::sink("journal", rule.clone(), Map::new()));
    assert_eq!(answer, "sink journal (r1/s/0) is still collecting messages sent before its stop: start it later");
    wait_until("it is over", || {
        plugin.command(CommandKind::Start, Control::sink("journal", rule.clone(), Map::new())) == "ok"
    });
}

#[test]
fn a_sink_tells_a_host_that_asks_how_much_it_has_collected() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let rule = meta("r1", "s");
    let sockets = plugin.sockets();
    let ack = Endpoint::Listen(sockets.ack(&rule).unwrap());
    let acks = UdsTransport::new().pull(&ack, &Options::default()).unwrap();
    let start = Control::sink("journal", rule.clone(), Map::new()).with_reports(true);
    assert_eq!(plugin.command(CommandKind::Start, start), "ok");
    let data = Endpoint::Dial(sockets.data(&rule).unwrap());
    let push = UdsTransport::new().push(&data, &Options::default()).unwrap();
    let mut reports = 0;
    let mut collected_all = |all: u64, refused: u64| {
        loop {
            let report: Collected = serde_json::from_value(drain(&*acks).unwrap()).unwrap();
            reports += 1;
            if report.collected == all {
                assert_eq!(report.refused, refused);
                return;
            }
        }
    };
    push.send(b"{\"n\":0}", soon()).unwrap();
    collected_all(1, 0);
    push.send(b"{\"n\":1,\"fail\":\"no\"}", soon()).unwrap();
    push.send(b"{\"n\":2}", soon()).unwrap();
    collected_all(3, 1);
    let start = Instant::now();
    for n in 3..10_003 {
        push.post(format!("{{\"n\":{n}}}").as_bytes(), soon()).unwrap();
    }
    push.dispatch(soon()).unwrap();
    collected_all(10_003, 1);
    // Not one for each message.
    let most = 4 + start.elapsed().as_millis() / 5;
    assert!(reports <= most, "{reports} reports in {:?}", start.elapsed());
    assert_eq!(plugin.stop_sink("journal", &rule), "ok");
    // Told once more at its stop, for a host that waits for this number, and
    // nothing else.
    while let Some(report) = drain(&*acks) {
        assert_eq!(report, json!({ "collected": 10_003, "refused": 1 }));
    }
}

#[test]
fn a_sink_is_stopped_under_a_flood_and_with_acks_that_nobody_reads() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let (flooded, unread) = (meta("r1", "flooded"), meta("r1", "unread"));
    let (push, _acks, answer) = plugin.start_sink("journal", &flooded, json!({}));
    assert_eq!(answer, "ok");
    let (acked, _full, answer) = plugin.start_sink("journal", &unread, json!({ "requireAck": true }));
    assert_eq!(answer, "ok");
    // Until the engine's side is full, since the sink waits for its acks.
    while acked.send(b"{\"n\":1}", Some(Instant::now() + Duration::from_millis(300))).is_ok() {}
    // Long, so that few make more than can have been in flight before the stop:
    // a pause of a busy machine would look like the flood's end.
    let message = json!({ "n": 1, "text": "x".repeat(10_000) }).to_string();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = push.send(message.as_bytes(), Some(Instant::now()));
            }
        });
        let stopped = (plugin.stop_sink("journal", &flooded), plugin.stop_sink("journal", &unread));
        // It ends while the engine is still sending.
        plugin.log.wait_for(&["WARN", "op=\"flooded\"", "the engine keeps sending after its stop"]);
        over.store(true, Ordering::Relaxed);
        assert_eq!(stopped, ("ok".into(), "ok".into()));
    });
    plugin.assert_alive();
}

#[test]
fn commands_that_make_no_sense_are_refused_and_the_channel_lives() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    for garbage in [
        &b""[..],
        b"handshake",
        b"{}",
        b"\xff\xfe{",
        br#"{"cmd":"restart","arg":"{}"}"#,
        br#"{"cmd":"start","arg":{}}"#,
        br#"{"cmd":"start","arg":"{\"symbolName\":\"counter\"}"}"#,
    ] {
        let answer = plugin.control.ask_text(garbage);
        assert!(answer.starts_with("the control command is not valid"), "{answer}");
    }
    let rule = meta("r1", "s");
    let unknown = Control::source("nobody", rule.clone(), "", Map::new());
    let text = "this plugin has no source nobody: it has counter, flood, reporter, silent, strict, \
        undescribable, unmakable, waiting";
    assert_eq!(plugin.command(CommandKind::Start, unknown.clone()), text);
    assert_eq!(plugin.command(CommandKind::Stop, unknown), text);
    let answer = plugin.command(CommandKind::Start, Control::function("counter"));
    assert!(answer.starts_with("this plugin has no function counter: it has boom, "), "{answer}");
    for (rule, op) in [("", "s"), ("r1", ""), ("../r1", "s")] {
        let answer = plugin.command(CommandKind::Start, Control::source("counter", meta(rule, op), "", Map::new()));
        assert!(answer.contains("cannot be part of a socket's path"), "{answer}");
    }
    plugin.assert_alive();
    assert_eq!(plugin.control.handshakes, 1);
}

#[test]
fn a_second_start_and_a_shared_path_are_refused() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let (_pull, answer) = plugin.start_source("counter", &meta("a_b", "c"), json!({}));
    assert_eq!(answer, "ok");
    let start = |rule, op| Control::source("counter", meta(rule, op), "", Map::new());
    assert_eq!(plugin.command(CommandKind::Start, start("a_b", "c")), "source counter (a_b/c/0) is already running");
    let answer = plugin.command(CommandKind::Start, start("a", "b_c"));
    assert!(answer.starts_with("source counter (a/b_c/0) and source counter (a_b/c/0) would both use"), "{answer}");
    assert_eq!(plugin.stop_source("counter", &meta("a_b", "c")), "ok");
    assert_eq!(plugin.command(CommandKind::Start, start("a", "b_c")), "ok");
    // A function is started once per rule that uses it.
    let mut echo = plugin.start_function("echo");
    let mut again = Control::function("echo");
    again.meta = meta("r2", "p");
    assert_eq!(plugin.command(CommandKind::Start, again), "ok");
    assert_eq!(plugin.command(CommandKind::Stop, Control::function("echo")), "ok");
    assert_eq!(echo.call(CallKind::Exec, &json!(["still"])), Ok(json!("still")));
    assert_eq!(echo.handshakes, 1);
}
