//! Our host and plugins of the official Python SDK, unchanged.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use ekuiper_host::{Chain, Error, EventKind, Function, Host, Sink, Source};
use ekuiper_interop::guard::{PATIENCE, Process, Watchdog, lines_of, next, sockets_in_tmp};
use ekuiper_interop::plugins::OfficialPython;
use rustix::process::Signal;
use serde_json::{Value, json};

ekuiper_interop::over_each_transport! {
    official_python_source,
    official_python_sink,
    official_python_sink_closed_while_it_is_behind,
    official_python_sink_with_ack,
    official_python_function,
    official_python_aggregate,
    a_source_is_told_its_datasource_and_place,
    a_reader_that_pauses_loses_nothing,
    a_source_that_nobody_reads_is_started_again,
    a_sources_error_has_its_text,
    a_refused_message_has_the_sinks_text,
    a_functions_error_has_its_text,
    validates_text_reaches_the_caller,
    a_symbol_that_the_plugin_lacks_is_refused,
    rules_and_instances_run_side_by_side,
    a_symbol_is_stopped_and_started_again,
    a_stop_that_the_sdk_ignores_is_sent_again,
    a_function_answers_after_idle_keepalives,
    a_function_that_has_lost_its_connection_is_started_again,
    a_function_that_ends_before_its_handshake_is_started_again,
    a_death_in_mid_call_is_said_at_once,
    fault_08_a_killed_plugin_is_back,
    an_update_is_tried_beside_the_running_plugin,
    an_update_gives_a_sink_time_for_what_it_has_read,
    what_a_sink_has_only_read_is_not_counted_when_the_wait_for_it_is_given_up,
    a_crash_is_noticed_though_the_output_goes_on,
    fault_14_a_second_host_is_refused_and_disturbs_nobody,
    shutdown_leaves_nothing,
}

fn open_pyjson(plugin: &OfficialPython, host: &Host, interval: u32) -> Source {
    let source = host.source(&plugin.symbol("pyjson")).rule(plugin.rule("1"));
    source.config(json!({ "interval": interval })).open().unwrap()
}

/// A sink with acks.
fn open_print(plugin: &OfficialPython, host: &Host) -> Sink {
    // Another operator than the source's, whose rule it shares.
    host.sink(&plugin.symbol("print")).rule(plugin.rule("1")).operator("out").require_ack(true).open().unwrap()
}

/// A sink without acks that writes each row to the file, and pauses after it
/// for so many milliseconds.
fn open_keep(plugin: &OfficialPython, host: &Host, pause: u32) -> (Sink, PathBuf) {
    let file = plugin.folder().join("kept");
    let config = json!({ "path": file, "pause": pause });
    (host.sink(&plugin.symbol("keep")).rule(plugin.rule("1")).config(config).open().unwrap(), file)
}

fn open_revert(plugin: &OfficialPython, host: &Host) -> Function {
    host.function(&plugin.symbol("revert")).unwrap()
}

fn assert_reverts(revert: &Function) {
    assert_eq!(revert.call::<String>(("ab",)).unwrap(), "ba");
}

fn official_python_source(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let mut source = open_pyjson(plugin, host, 1);
        for number in 1..=50 {
            let tuple = next(&mut source);
            assert_eq!(tuple.message, json!({ "name": "pyjson", "value": number }));
            assert_eq!(tuple.meta, Value::Null);
        }
        source.close().unwrap();
    });
}

fn official_python_sink(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let (sink, file) = open_keep(plugin, host, 0);
        for number in 0..500 {
            sink.send(&json!({ "number": number })).unwrap();
        }
        let kept = lines_of(&file, 500);
        let sent: Vec<_> = (0..500).map(|number| json!({ "number": number }).to_string()).collect();
        assert_eq!(kept, sent);
        sink.close().unwrap();
    });
}

fn official_python_sink_closed_while_it_is_behind(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let (sink, file) = open_keep(plugin, host, 10);
        let stopper = sink.stopper();
        let rows: Vec<_> = (0..200).map(|number| json!({ "number": number }).to_string()).collect();
        rows.iter().for_each(|row| sink.send_bytes(row.as_bytes()).unwrap());
        sink.close().unwrap();
        assert_eq!(stopper.delivery().delivered, 200);
        // Its process had come to rest before the stop.
        let kept = std::fs::read_to_string(&file).unwrap();
        assert_eq!(kept.lines().collect::<Vec<_>>(), rows);
    });
}

fn official_python_sink_with_ack(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let sink = open_print(plugin, host);
        for number in 0..100 {
            sink.send(&json!([{ "number": number }])).unwrap();
        }
        // As long as any message: one write does not hold it.
        sink.send(&json!({ "text": "x".repeat(2_000_000) })).unwrap();
        sink.close().unwrap();
    });
}

fn official_python_function(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let revert = open_revert(plugin, host);
        assert!(!revert.is_aggregate().unwrap());
        revert.validate(("x",)).unwrap();
        for number in 0..200 {
            let text = format!("olleh {number}");
            let expected: String = text.chars().rev().collect();
            assert_eq!(revert.call::<String>((text,)).unwrap(), expected);
        }
        assert_eq!(revert.call::<String>(("",)).unwrap(), "");
        assert_eq!(revert.call::<String>(("größer 🦀",)).unwrap(), "🦀 reßörg");
        let long = "ab".repeat(1_000_000);
        assert!(revert.call::<String>((&long,)).unwrap() == "ba".repeat(1_000_000));
    });
}

fn official_python_aggregate(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let mean = host.function(&plugin.symbol("mean")).unwrap();
        assert!(mean.is_aggregate().unwrap());
        assert_eq!(mean.call::<f64>(([1, 2, 6],)).unwrap(), 3.0);
    });
}

/// Both are where the SDK looks for them (fault 12).
fn a_source_is_told_its_datasource_and_place(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let source = host.source(&plugin.symbol("told")).datasource("topic/a").config(json!({ "depth": [1, null] }));
        let mut source = source.rule(plugin.rule("1")).operator("here").instance(7).open().unwrap();
        let told = next(&mut source);
        assert_eq!(told.message["datasource"], "topic/a");
        assert_eq!(told.message["config"]["depth"], json!([1, null]));
        assert_eq!(told.meta, json!({ "rule": plugin.rule("1"), "op": "here", "instance": 7 }));
    });
}

/// The SDK gives up a source after a second without progress: the host has to
/// read on while nobody else does.
fn a_reader_that_pauses_loses_nothing(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let mut source = open_pyjson(plugin, host, 0);
        assert_eq!(next(&mut source).message["value"], 1);
        // Not to let things settle: the pause is what is tested.
        std::thread::sleep(Duration::from_secs(3));
        for number in 2..=20_000 {
            assert_eq!(next(&mut source).message["value"], number);
        }
        let traffic = host.status(plugin.name()).unwrap().traffic;
        assert_eq!((traffic.messages_in, traffic.overruns), (20_000, 0));
        source.close().unwrap();
    });
}

fn a_source_that_nobody_reads_is_started_again(transport: &str) {
    OfficialPython::run_with(
        transport,
        |builder| builder.source_queue(100, 1 << 20),
        |plugin, host| {
            let events = host.events();
            let mut source = open_pyjson(plugin, host, 0);
            for round in 1..=2 {
                while !matches!(events.recv_timeout(PATIENCE).unwrap().kind, EventKind::Overrun { .. }) {}
                for number in 1..=100 {
                    assert_eq!(next(&mut source).message["value"], number);
                }
                match source.next_within(PATIENCE) {
                    Err(Error::Overrun { symbol, messages, .. }) => {
                        assert_eq!((symbol, messages), (plugin.symbol("pyjson"), 100));
                    }
                    other => panic!("{other:?}"),
                }
                assert_eq!(host.status(plugin.name()).unwrap().traffic.overruns, round);
            }
            // It counts anew, in the same process.
            assert_eq!(next(&mut source).message["value"], 1);
            let status = host.status(plugin.name()).unwrap();
            assert_eq!((status.generation, status.restarts), (1, 0));
            source.close().unwrap();
        },
    );
}

fn a_sources_error_has_its_text(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let mut source = host.source(&plugin.symbol("faulty")).rule(plugin.rule("1")).open().unwrap();
        assert_eq!(next(&mut source).message, json!({ "row": 1 }));
        match source.next_within(PATIENCE) {
            Err(Error::Source { symbol, text, .. }) => {
                assert_eq!((symbol, text.as_str()), (plugin.symbol("faulty"), "the sensor is gone"));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(next(&mut source).message, json!({ "row": 2 }), "it goes on after it");
    });
}

fn a_refused_message_has_the_sinks_text(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let sink = host.sink(&plugin.symbol("picky")).rule(plugin.rule("1")).require_ack(true).open().unwrap();
        sink.send(&json!({ "mood": "good" })).unwrap();
        match sink.send(&json!({ "mood": "bad" })) {
            Err(Error::Sink { text, .. }) => assert_eq!(text, "I do not like that"),
            other => panic!("{other:?}"),
        }
        sink.send(&json!({ "mood": "good" })).unwrap();
        sink.close().unwrap();
    });
}

fn a_functions_error_has_its_text(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let fail = host.function(&plugin.symbol("fail")).unwrap();
        for word in ["seven", "eight"] {
            match fail.call::<Value>((word,)) {
                Err(Error::Function { text, .. }) => {
                    assert!(text.ends_with(&format!("ValueError: no luck with {word}")), "{text}");
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

fn validates_text_reaches_the_caller(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let revert = open_revert(plugin, host);
        match revert.validate(("a", "b")) {
            Err(Error::Function { text, .. }) => assert_eq!(text, "revert takes 1 argument, got 2"),
            other => panic!("{other:?}"),
        }
        // It was only asked: calls go on.
        assert_reverts(&revert);
    });
}

fn a_symbol_that_the_plugin_lacks_is_refused(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        // In the manifest, not in the plugin.
        let ghost = plugin.symbol("ghost");
        let refusals = [
            host.source(&ghost).rule(plugin.rule("1")).open().err().unwrap(),
            host.sink(&ghost).rule(plugin.rule("1")).open().err().unwrap(),
            host.function(&ghost).err().unwrap(),
        ];
        for refusal in refusals {
            assert!(matches!(&refusal, Error::Refused { text, .. } if text.contains("KeyError")), "{refusal:?}");
            assert!(refusal.to_string().contains(&ghost), "{refusal}");
        }
        // In neither.
        let error = host.function("no_such_function").unwrap_err();
        assert!(error.to_string().starts_with("there is no function no_such_function"), "{error}");
        // The plugin is none the worse for it.
        assert_reverts(&open_revert(plugin, host));
    });
}

fn rules_and_instances_run_side_by_side(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let config = json!({ "interval": 1 });
        let open = |rule: &str, instance: i64| {
            let source = host.source(&plugin.symbol("pyjson")).rule(plugin.rule(rule)).instance(instance);
            source.config(config.clone()).open().unwrap()
        };
        let mut sources = [open("1", 0), open("1", 1), open("2", 0)];
        let sinks = ["1", "2"].map(|rule| {
            let sink = host.sink(&plugin.symbol("print")).rule(plugin.rule(rule)).operator("out");
            sink.require_ack(true).open().unwrap()
        });
        let revert = open_revert(plugin, host);
        for number in 1..=20 {
            for source in &mut sources {
                let tuple = next(source);
                assert_eq!(tuple.message["value"], number, "each counts for itself");
                sinks.iter().for_each(|sink| sink.send(&tuple.message).unwrap());
                assert_eq!(revert.call::<String>(("pyjson",)).unwrap(), "nosjyp");
            }
        }
        // One ends, the others go on.
        let [first, _second, mut third] = sources;
        first.close().unwrap();
        let [one, two] = sinks;
        one.close().unwrap();
        assert_eq!(next(&mut third).message["value"], 21);
        two.send(&json!({})).unwrap();
    });
}

fn a_symbol_is_stopped_and_started_again(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let pid = {
            host.start(plugin.name()).unwrap();
            host.pid(plugin.name())
        };
        for _ in 0..5 {
            let mut source = open_pyjson(plugin, host, 1);
            assert_eq!(next(&mut source).message["value"], 1, "a new source counts anew");
            source.close().unwrap();
            let sink = open_print(plugin, host);
            sink.send(&json!({})).unwrap();
            sink.close().unwrap();
            assert_eq!(host.pid(plugin.name()), pid, "in the same process");
        }
    });
}

/// The SDK answers `ok` to a stop that comes before the symbol's thread is
/// registered, and does nothing (fault 13): its rows would be the next one's,
/// and its address in use.
fn a_stop_that_the_sdk_ignores_is_sent_again(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        std::fs::write(plugin.folder().join("hesitate"), "").unwrap();
        for _ in 0..2 {
            open_pyjson(plugin, host, 1).close().unwrap();
            host.sink(&plugin.symbol("print")).rule(plugin.rule("1")).open().unwrap().close().unwrap();
            assert_eq!(sockets_in_tmp(&plugin.rule("1")), [] as [PathBuf; 0]);
        }
        let mut source = open_pyjson(plugin, host, 1);
        for number in 1..=50 {
            assert_eq!(next(&mut source).message["value"], number, "no row of an earlier source");
        }
    });
}

/// The SDK sends a keepalive after 5 s without a call: none may be taken for
/// an answer, and the next call is sent once (faults 1, 2 and 3).
fn a_function_answers_after_idle_keepalives(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let revert = open_revert(plugin, host);
        assert_reverts(&revert);
        // Not to let things settle: the keepalives are what is tested.
        std::thread::sleep(Duration::from_millis(10_500));
        for text in ["handshake", "ekahsdnah", "h"] {
            let expected: String = text.chars().rev().collect();
            assert_eq!(revert.call::<String>((text,)).unwrap(), expected);
        }
        let sink = open_print(plugin, host);
        sink.send(&json!({})).unwrap();
    });
}

/// The SDK ends a function whose connection ends, and its process goes on.
fn a_function_that_has_lost_its_connection_is_started_again(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let brittle = host.function(&plugin.symbol("brittle")).unwrap();
        let pid = host.pid(plugin.name());
        let mut starts = 1;
        for _ in 0..2 {
            match brittle.call::<u32>((true,)) {
                // Its end has overtaken the answer.
                Err(Error::OutcomeUnknown { .. }) => {}
                answered => assert_eq!(answered.unwrap(), starts),
            }
            // Before that a call could keep the function alive.
            lines_of(&plugin.folder().join(format!("lost{starts}")), 0);
            let again = match brittle.call::<u32>((false,)) {
                // Its end has met this very call.
                Err(Error::OutcomeUnknown { .. }) => brittle.call((false,)),
                called => called,
            };
            let again = again.unwrap();
            // libnng's listener may be stuck, and its successor be found again.
            assert!(again == starts + 1 || transport == "nng" && again > starts, "{starts}, then {again}");
            starts = again;
        }
        assert_eq!(host.pid(plugin.name()), pid, "in the same process");
    });
}

/// Its plugin has said that it was started.
fn a_function_that_ends_before_its_handshake_is_started_again(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let vanishing = host.function(&plugin.symbol("vanishing")).unwrap();
        assert_eq!(vanishing.call::<u32>(()).unwrap(), 2);
    });
}

fn a_death_in_mid_call_is_said_at_once(transport: &str) {
    // Not the deadline ends the call.
    OfficialPython::run_with(
        transport,
        |builder| builder.recv_timeout(Duration::from_secs(120)),
        |plugin, host| {
            let exit = host.function(&plugin.symbol("exit")).unwrap();
            match exit.call::<Value>((7,)) {
                // A busy machine may tell the process's end after the connection's.
                Err(Error::OutcomeUnknown { exit, .. }) => assert!(exit.is_none_or(|exit| exit.code == Some(7))),
                other => panic!("{other:?}"),
            }
            // It is started again, and not with the call.
            let revert = open_revert(plugin, host);
            assert_reverts(&revert);
        },
    );
}

/// Under the same handles, and nothing of the dead process is left.
fn fault_08_a_killed_plugin_is_back(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let mut source = open_pyjson(plugin, host, 1);
        let sink = open_print(plugin, host);
        let revert = open_revert(plugin, host);
        for _ in 0..2 {
            let former = host.pid(plugin.name()).unwrap();
            while next(&mut source).message["value"] != 5 {}
            Process::of(former).signal(Signal::KILL);
            // It counts anew, after what the dead process had still sent.
            while next(&mut source).message["value"] != 1 {}
            assert_ne!(host.pid(plugin.name()), Some(former));
            sink.send(&json!({})).unwrap();
            assert_reverts(&revert);
        }
    });
}

fn an_update_gives_a_sink_time_for_what_it_has_read(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let (sink, file) = open_keep(plugin, host, 10);
        let stopper = sink.stopper();
        (0..100).for_each(|number| sink.send(&json!(number)).unwrap());
        host.update(plugin.version("v2")).unwrap();
        sink.send(&json!(100)).unwrap();
        sink.close().unwrap();
        assert_eq!((stopper.delivery().delivered, host.status(plugin.name()).unwrap().traffic.lost), (101, 0));
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 101);
    });
}

fn what_a_sink_has_only_read_is_not_counted_when_the_wait_for_it_is_given_up(transport: &str) {
    const ROWS: u64 = 5;
    OfficialPython::run(transport, |plugin, host| {
        let (sink, _) = open_keep(plugin, host, 300_000);
        let stopper = sink.stopper();
        // It reads a row, and is long busy with it.
        (0..ROWS).for_each(|number| sink.send(&json!(number)).unwrap());
        std::thread::scope(|scope| {
            let closed = scope.spawn(|| sink.close());
            stopper.abandon();
            let error = closed.join().unwrap().unwrap_err();
            let Error::NotCollected { missing, sent, .. } = error else { panic!("{error}") };
            assert_eq!((missing, sent), (ROWS, ROWS));
        });
        assert_eq!(stopper.delivery().delivered, 0);
    });
}

fn an_update_is_tried_beside_the_running_plugin(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let mut source = open_pyjson(plugin, host, 1);
        let sink = open_print(plugin, host);
        let revert = open_revert(plugin, host);
        let former = host.pid(plugin.name()).unwrap();
        let package = plugin.version("v2");

        let script = package.folder.join("main.py");
        let good = std::fs::read_to_string(&script).unwrap();
        std::fs::write(&script, "raise SystemExit('not today')").unwrap();
        let error = Chain(&host.update(package.clone()).unwrap_err()).to_string();
        assert!(error.contains("stays at version \"v1.0.0\"") && error.ends_with("not today"), "{error}");
        assert_eq!(host.pid(plugin.name()), Some(former));
        assert_reverts(&revert);
        next(&mut source);

        // It shakes hands, and then lacks the function: seen when it takes over.
        std::fs::write(&script, good.replace("revert=Revert", "reverse=Revert")).unwrap();
        let error = Chain(&host.update(package.clone()).unwrap_err()).to_string();
        assert!(error.contains("did not start function"), "{error}");
        assert_reverts(&revert);
        sink.send(&json!({})).unwrap();
        next(&mut source);

        std::fs::write(&script, good).unwrap();
        let before = host.status(plugin.name()).unwrap().generation;
        host.update(package).unwrap();
        let status = host.status(plugin.name()).unwrap();
        assert_eq!((status.generation, status.restarts), (before + 1, 0));
        sink.send(&json!({})).unwrap();
        assert_reverts(&revert);
        // It counts anew, after what the former process had still sent.
        while next(&mut source).message["value"] != 1 {}
    });
}

/// Something that the plugin has started holds its output open: the end of the
/// connection is no less that of the process, and not the source's own.
fn a_crash_is_noticed_though_the_output_goes_on(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        std::fs::write(plugin.folder().join("orphan"), "").unwrap();
        let mut source = host.source(&plugin.symbol("told")).rule(plugin.rule("1")).open().unwrap();
        next(&mut source);
        Process::of(host.pid(plugin.name()).unwrap()).signal(Signal::KILL);
        next(&mut source);
    });
}

/// The official SDKs know no folder but /tmp: two hosts cannot both have it.
fn fault_14_a_second_host_is_refused_and_disturbs_nobody(transport: &str) {
    OfficialPython::run(transport, |plugin, first| {
        let second = plugin.host(transport);
        let revert = first.function(&plugin.symbol("revert")).unwrap();
        let refused = second.function(&plugin.symbol("revert")).unwrap_err();
        let refused = Chain(&refused).to_string();
        assert!(refused.contains("is in use by a live process"), "{refused}");
        assert_reverts(&revert);
        second.shutdown();
        assert_reverts(&revert);
    });
}

fn shutdown_leaves_nothing(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let mut source = open_pyjson(plugin, host, 1);
        let sink = open_print(plugin, host);
        let revert = open_revert(plugin, host);
        next(&mut source);
        sink.send(&json!({})).unwrap();
        let process = Process::of(host.pid(plugin.name()).unwrap());
        // With all handles still there.
        host.shutdown();
        process.ended();
        assert!(!matches!(source.next_within(PATIENCE), Ok(Some(_)) | Err(Error::Timeout { .. })));
        assert!(sink.send(&json!({})).is_err());
        assert!(revert.call::<String>(("ab",)).is_err());
    });
}

#[test]
fn two_plugins_start_side_by_side() {
    let _watchdog = Watchdog::start();
    let plugins = [OfficialPython::new(), OfficialPython::new()];
    let host = plugins.iter().fold(plugins[0].host_builder("uds"), |builder, plugin| {
        if plugin.name() == plugins[0].name() { builder } else { builder.plugin(plugin.folder()) }
    });
    let host: Host = host.build().unwrap();
    host.start_all().unwrap();
    for plugin in &plugins {
        assert_reverts(&open_revert(plugin, &host));
    }
    host.shutdown();
    plugins.iter().for_each(OfficialPython::assert_clean);
}
