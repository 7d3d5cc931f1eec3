//! The health of symbols, with real plugins: exact after known traffic, told
//! apart by rule, and true while a plugin hangs, crashes and refuses.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ekuiper_conformance::wait_until;
use ekuiper_host::{
    CallOptions, Error, ErrorKind, Function, FunctionMeta, Host, HostBuilder, Latency, PluginState, Status,
    SymbolErrors, SymbolHealth, SymbolKind,
};
use ekuiper_interop::guard::{PATIENCE, Process, Watchdog, next};
use ekuiper_interop::plugins::{Ledger, Mirror, OfficialPython};
use rustix::process::Signal;
use serde_json::json;

ekuiper_interop::over_each_transport_of_ours! {
    counts_are_exact_and_rules_are_told_apart,
    what_waits_shows_while_a_plugin_hangs,
    a_snapshot_under_load_is_consistent,
}

mod of_calls {
    // The plugin is built with neither `zeromq` nor `shm`.
    ekuiper_interop::over_each_transport! {
        crashes_and_time_outs_are_counted_and_the_last_error_is_kept,
        dropped_calls_do_not_wait_for_ever,
    }
    use super::{crashes_and_time_outs_are_counted_and_the_last_error_is_kept, dropped_calls_do_not_wait_for_ever};
}

mod official {
    ekuiper_interop::over_each_transport! {
        an_official_plugin_s_refusals_and_errors_are_counted,
        a_source_s_queue_is_what_nobody_has_read,
    }
    use super::{a_source_s_queue_is_what_nobody_has_read, an_official_plugin_s_refusals_and_errors_are_counted};
}

fn with_mirror(transport: &str, test: impl Fn(&Host, &Mirror)) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let builder = Host::builder().transport(transport).plugin(mirror.folder());
    // What waits must not fail before all of it is seen.
    let host = builder.send_timeout(2 * PATIENCE).recv_timeout(2 * PATIENCE).build().unwrap();
    test(&host, &mirror);
    host.shutdown();
}

fn with_ledger(transport: &str, set: impl FnOnce(HostBuilder) -> HostBuilder, test: impl Fn(&Host)) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let host = set(Host::builder().transport(transport).plugin(ledger.folder())).build().unwrap();
    test(&host);
    host.shutdown();
}

fn of_rule(function: Function, rule: &str) -> Function {
    function.with_meta(FunctionMeta { rule_id: rule.into(), op_id: "op".into(), ..FunctionMeta::default() })
}

fn plugin(host: &Host) -> Status {
    let mut plugins = host.health();
    assert_eq!(plugins.len(), 1);
    plugins.remove(0)
}

/// The health of the only symbol of this name in this rule, if it is open.
fn find(host: &Host, name: &str, rule: &str) -> Option<SymbolHealth> {
    let of = |symbol: &SymbolHealth| symbol.name == name && symbol.meta.rule_id == rule;
    let mut found: Vec<_> = plugin(host).symbols.into_iter().filter(of).collect();
    assert!(found.len() < 2, "{found:?}");
    found.pop()
}

fn health(host: &Host, name: &str, rule: &str) -> SymbolHealth {
    find(host, name, rule).unwrap_or_else(|| panic!("{name} of {rule} in {:?}", host.health()))
}

/// Whether every thread of a process is stopped.
fn is_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

fn rows(health: &SymbolHealth) -> (u64, u64, Option<u64>) {
    (health.rows_out, health.rows_in, health.queue)
}

fn errors(of: &SymbolHealth) -> [u64; 4] {
    let SymbolErrors { symbol, timeouts, unknown_outcomes, others, .. } = of.errors;
    [symbol, timeouts, unknown_outcomes, others]
}

fn counts_are_exact_and_rules_are_told_apart(transport: &str) {
    with_mirror(transport, |host, mirror| {
        assert!(host.health().iter().all(|plugin| plugin.state == PluginState::Idle && plugin.symbols.is_empty()));
        let one = of_rule(host.function("revert").unwrap(), "a");
        let other = of_rule(host.function("revert").unwrap(), "b");
        for _ in 0..10 {
            assert_eq!(one.call::<String>(("ab",)).unwrap(), "ba");
        }
        for _ in 0..3 {
            assert_eq!(one.call::<String>((7,)).unwrap_err().kind(), ErrorKind::Function);
        }
        let calls: Vec<_> = (0..5).map(|_| other.call_async::<String>(("ab",)).unwrap()).collect();
        calls.into_iter().for_each(|call| assert_eq!(call.wait().unwrap(), "ba"));
        let bad = other.call_async::<String>((7,)).unwrap();
        assert_eq!(bad.wait().unwrap_err().kind(), ErrorKind::Function);
        let outcomes = other.call_many::<String, _>((0..100).map(|_| ("ab",))).unwrap();
        assert_eq!(outcomes.len(), 100);
        let outcomes = other.call_many::<String, _>((0..4).map(|_| (7,))).unwrap();
        assert!(outcomes.iter().all(Result::is_err));
        // A result that this caller cannot decode.
        assert_eq!(other.call::<u8>(("ab",)).unwrap_err().kind(), ErrorKind::Message);
        assert_eq!(other.call_async::<u8>(("ab",)).unwrap().wait().unwrap_err().kind(), ErrorKind::Message);

        let a = health(host, "revert", "a");
        assert_eq!((rows(&a), errors(&a), a.kind), ((13, 13, Some(0)), [3, 0, 0, 0], SymbolKind::Function));
        let b = health(host, "revert", "b");
        assert_eq!((rows(&b), errors(&b)), ((112, 112, Some(0)), [5, 0, 0, 2]));
        assert_eq!((a.lag, a.restarts, a.meta.op_id.as_str()), (Some(Duration::ZERO), 0, "op"));
        for (latency, count) in [(a.latency.unwrap(), 13), (b.latency.unwrap(), 112)] {
            let parts = [latency.quantile(0.0), latency.quantile(0.5), latency.quantile(0.99), latency.max()];
            assert!(latency.count() == count && parts.is_sorted() && parts[0] > Duration::ZERO, "{latency:?}");
        }

        let path = mirror.scratch().join("rows");
        let acked = host.sink("file").rule("a").operator("k").require_ack(true).config(json!({ "path": path }));
        let acked = acked.open().unwrap();
        (0..7).for_each(|number| acked.send(&json!({ "n": number })).unwrap());
        assert_eq!(acked.send_bytes(b"no row").unwrap_err().kind(), ErrorKind::Sink);
        let k = health(host, "file", "a");
        assert_eq!((rows(&k), errors(&k), k.lost), ((8, 8, Some(0)), [1, 0, 0, 0], 0));
        assert_eq!((k.latency.unwrap().count(), k.last_error.unwrap().kind), (8, ErrorKind::Sink));
        let told = host.sink("lines").rule("a").config(json!({ "path": path })).open().unwrap();
        (0..4).for_each(|number| told.send(&json!({ "n": number })).unwrap());
        told.send_bytes(b"no row").unwrap();
        told.flush(PATIENCE).unwrap();
        let l = health(host, "lines", "a");
        assert_eq!((rows(&l), errors(&l), l.latency), ((5, 5, Some(0)), [1, 0, 0, 0], None));
        assert_eq!(l.last_error.unwrap().kind, ErrorKind::Sink);

        let mut source = host.source("random").rule("a").config(json!({ "interval": 1, "count": 6 })).open().unwrap();
        (0..6).for_each(|_| drop(next(&mut source)));
        let s = health(host, "random", "a");
        assert_eq!((rows(&s), errors(&s), s.latency), ((0, 6, Some(0)), [0; 4], None));

        let status = plugin(host);
        let process = status.pid.unwrap();
        assert_eq!(
            (status.plugin.as_str(), status.state, process),
            ("mirror", PluginState::Running, host.pid("mirror").unwrap())
        );
        assert!(!status.version.is_empty() && status.uptime.unwrap() < PATIENCE);
        let resident = status.resident.unwrap();
        assert!((100 << 10..1 << 30).contains(&resident), "{resident}");
        assert_eq!(status.symbols[0].kind, SymbolKind::Function);
        let shown = serde_json::to_value(&status).unwrap();
        let first = shown["symbols"].as_array().unwrap().iter().find(|symbol| symbol["rule"] == "a").unwrap();
        assert_eq!(
            (&first["name"], &first["rows_in"], &first["kind"]),
            (&json!("revert"), &json!(13), &json!("function"))
        );
        assert_eq!((&first["latency"]["count"], &first["lag"]), (&json!(13), &json!(0.0)));
        assert!(first["last_error"]["at"].as_f64().unwrap() > 1.7e9, "{first}");
        assert_eq!((&first["last_error"]["kind"], &shown["state"]), (&json!("function"), &json!("running")));

        // What is closed disappears; its traffic does not.
        let stoppers = (acked.stopper(), source.stopper());
        drop(one);
        acked.close().unwrap();
        told.close().unwrap();
        source.close().unwrap();
        let left: Vec<_> = plugin(host).symbols.into_iter().map(|symbol| (symbol.name, symbol.meta.rule_id)).collect();
        assert_eq!(left, [("revert".to_owned(), "b".to_owned())]);
        drop(stoppers);
        let traffic = plugin(host).traffic;
        assert_eq!((traffic.calls, traffic.answers, traffic.messages_in), (125, 125, 6));
        assert_eq!((traffic.messages_out, traffic.acks, traffic.refused, traffic.lost), (13, 8, 1, 0));
    });
}

fn what_waits_shows_while_a_plugin_hangs(transport: &str) {
    with_mirror(transport, |host, mirror| {
        let echo = of_rule(host.function("echo").unwrap(), "r");
        assert_eq!(echo.call::<u64>((0,)).unwrap(), 0);
        let config = json!({ "path": mirror.scratch().join("rows") });
        let sink = host.sink("file").rule("r").operator("k").require_ack(true).config(config.clone()).open().unwrap();
        sink.send(&json!({})).unwrap();
        let told = host.sink("lines").rule("r").operator("l").config(config).open().unwrap();
        told.send(&json!({})).unwrap();
        told.flush(PATIENCE).unwrap();
        let process = Process::of(host.pid("mirror").unwrap());
        process.signal(Signal::STOP);
        // A thread may go on for a moment, and answer.
        wait_until("every thread is stopped", || is_stopped(process.pid()));
        let began = Instant::now();
        std::thread::scope(|scope| {
            let calls: Vec<_> = (1..=5u64).map(|number| echo.call_async::<u64>((number,)).unwrap()).collect();
            let acks: Vec<_> = (0..3).map(|_| sink.send_async(&json!({})).unwrap()).collect();
            (0..2).for_each(|_| told.send(&json!({})).unwrap());
            let blocking = scope.spawn(|| echo.call::<u64>((6,)));
            wait_until("all calls wait", || health(host, "echo", "r").queue == Some(6));
            let queues = ["echo", "file", "lines"].map(|name| health(host, name, "r").queue);
            assert_eq!(queues, [6, 3, 2].map(Some));
            for name in ["echo", "file", "lines"] {
                let lag = || health(host, name, "r").lag.unwrap();
                let first = lag();
                wait_until("the oldest grows older", || lag() > first + Duration::from_millis(20));
                let now = lag();
                assert!(now <= began.elapsed(), "{name}: {now:?}");
            }
            process.signal(Signal::CONT);
            for (number, call) in calls.into_iter().enumerate() {
                assert_eq!(call.wait().unwrap(), number as u64 + 1);
            }
            acks.into_iter().for_each(|ack| ack.wait().unwrap());
            assert_eq!(blocking.join().unwrap().unwrap(), 6);
        });
        told.flush(PATIENCE).unwrap();
        for (name, count) in [("echo", 7), ("file", 4), ("lines", 3)] {
            let health = health(host, name, "r");
            assert_eq!((rows(&health), health.lag), ((count, count, Some(0)), Some(Duration::ZERO)), "{name}");
            assert_eq!(health.errors.total(), 0, "{name}");
            // The hang is in the times of what waited for its end.
            if let Some(latency) = health.latency {
                assert!(latency.max() >= Duration::from_millis(20), "{name}: {latency:?}");
            }
        }
    });
}

fn crashes_and_time_outs_are_counted_and_the_last_error_is_kept(transport: &str) {
    let patience = Duration::from_millis(500);
    with_ledger(
        transport,
        |builder| builder.recv_timeout(patience),
        |host| {
            let note = of_rule(host.function("note").unwrap(), "r");
            assert_eq!(note.call::<u64>((1,)).unwrap(), 1);
            assert!(health(host, "note", "r").last_error.is_none());
            let crash = of_rule(host.function("crash").unwrap(), "r");
            let before = SystemTime::now();
            assert_eq!(crash.call::<u8>((0,)).unwrap_err().kind(), ErrorKind::OutcomeUnknown);
            let after = SystemTime::now();
            let c = health(host, "crash", "r");
            assert_eq!((rows(&c), errors(&c), c.latency.unwrap().count()), ((1, 0, Some(0)), [0, 0, 1, 0], 0));
            let error = c.last_error.unwrap();
            assert!(error.kind == ErrorKind::OutcomeUnknown && (before..=after).contains(&error.at), "{error:?}");
            assert!(error.text.contains("outcome unknown"), "{}", error.text);

            wait_until("the plugin is back", || {
                plugin(host).restarts == 1 && plugin(host).state == PluginState::Running
            });
            assert_eq!(note.call::<u64>((2,)).unwrap(), 2);
            let late = of_rule(host.function("note").unwrap(), "late");
            assert_eq!(["r", "late"].map(|rule| health(host, "note", rule).restarts), [1, 0]);
            assert_eq!(rows(&health(host, "note", "r")), (2, 2, Some(0)));
            drop(late);

            let slow = of_rule(host.function("slow").unwrap(), "r");
            assert_eq!(slow.call::<u64>((1, 3_000)).unwrap_err().kind(), ErrorKind::Timeout);
            let s = health(host, "slow", "r");
            assert_eq!((rows(&s), errors(&s)), ((1, 0, Some(0)), [0, 1, 0, 0]));
            assert_eq!(s.last_error.unwrap().kind, ErrorKind::Timeout);
            // It hangs in the first one: the next is not sent.
            let call = slow.call_async::<u64>((2, 0)).unwrap();
            let error = call.wait().map(|_| ());
            let s = health(host, "slow", "r");
            match error {
                Ok(()) => assert_eq!((rows(&s), errors(&s)), ((2, 1, Some(0)), [0, 1, 0, 0])),
                Err(error) => {
                    assert_eq!(
                        (error.kind(), rows(&s), errors(&s)),
                        (ErrorKind::Timeout, (2, 0, Some(0)), [0, 2, 0, 0])
                    );
                }
            }
            host.remove("ledger").unwrap();
            assert!(host.health().is_empty());
            assert!(matches!(note.call::<u64>((3,)), Err(Error::Stopped)));
        },
    );
}

fn dropped_calls_do_not_wait_for_ever(transport: &str) {
    with_ledger(
        transport,
        |builder| builder,
        |host| {
            let slow = of_rule(host.function("slow").unwrap(), "r");
            let first = slow.call_async::<u64>((1, 300)).unwrap();
            let mut calls: Vec<_> = (2..12u64).map(|number| slow.call_async::<u64>((number, 0)).unwrap()).collect();
            let kept = calls.pop().unwrap();
            drop(calls);
            assert_eq!((first.wait().unwrap(), kept.wait().unwrap()), (1, 11));
            // Those that were dropped in time were not executed.
            let s = health(host, "slow", "r");
            assert_eq!((s.rows_out, s.queue, s.errors.total()), (11, Some(0), 0));
            assert!((2..=11).contains(&s.rows_in), "{s:?}");
            // All of a message.
            let first = slow.call_async::<u64>((20, 300)).unwrap();
            drop((0..5u64).map(|number| slow.call_async::<u64>((number, 0)).unwrap()).collect::<Vec<_>>());
            assert_eq!(first.wait().unwrap(), 20);
            assert_eq!(slow.call::<u64>((21, 0)).unwrap(), 21);
            wait_until("nothing waits", || health(host, "slow", "r").queue == Some(0));
            assert_eq!(health(host, "slow", "r").rows_out, 18);
            // One that expires before it is sent has failed once.
            let hasty = slow.clone().with_options(CallOptions::new().deadline(Duration::from_millis(20)));
            let first = slow.call_async::<u64>((30, 500)).unwrap();
            assert_eq!(hasty.call_async::<u64>((31, 0)).unwrap().wait().unwrap_err().kind(), ErrorKind::Expired);
            let s = health(host, "slow", "r");
            assert_eq!((s.rows_out, errors(&s)), (20, [0, 1, 0, 0]));
            assert_eq!(first.wait().unwrap(), 30);
            assert_eq!(slow.call::<u64>((32, 0)).unwrap(), 32);
            wait_until("nothing waits", || health(host, "slow", "r").queue == Some(0));
            assert_eq!(errors(&health(host, "slow", "r")), [0, 1, 0, 0]);
        },
    );
}

fn a_snapshot_under_load_is_consistent(transport: &str) {
    const CALLS: u64 = 2_000;
    with_mirror(transport, |host, mirror| {
        let function = of_rule(host.function("revert").unwrap(), "r");
        let config = json!({ "path": mirror.scratch().join("rows") });
        let sink = host.sink("file").rule("r").operator("k").require_ack(true).config(config).open().unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last: Vec<(u64, u64, u64)> = Vec::new();
                let mut count = 0;
                while !is_over.load(Ordering::SeqCst) || count < 10 {
                    count += 1;
                    let symbols = plugin(host).symbols;
                    let now: Vec<_> = symbols.iter().map(|of| (of.errors.symbol, of.rows_in, of.rows_out)).collect();
                    for (symbol, now) in symbols.iter().zip(&now) {
                        assert!(now.0 <= now.1 && now.1 <= now.2, "{symbol:?}");
                        assert!(symbol.queue.unwrap() <= now.2 && symbol.lag.unwrap() < PATIENCE, "{symbol:?}");
                    }
                    for (last, now) in last.iter().zip(&now) {
                        assert!(last.0 <= now.0 && last.1 <= now.1 && last.2 <= now.2, "{last:?}, then {now:?}");
                    }
                    last = now;
                }
            });
            let callers = [
                scope.spawn(|| {
                    for _ in 0..CALLS {
                        assert!(function.call::<String>((7,)).is_err());
                    }
                }),
                scope.spawn(|| {
                    let calls = (0..CALLS).map(|_| function.call_async::<String>(("ab",)).unwrap());
                    calls.collect::<Vec<_>>().into_iter().for_each(|call| drop(call.wait().unwrap()));
                }),
                scope.spawn(|| {
                    let rows = function.call_many::<String, _>((0..CALLS).map(|_| ("ab",))).unwrap();
                    assert_eq!(rows.len() as u64, CALLS);
                }),
                scope.spawn(|| {
                    let acks: Vec<_> = (0..CALLS).map(|_| sink.send_async(&json!({})).unwrap()).collect();
                    acks.into_iter().for_each(|ack| ack.wait().unwrap());
                }),
            ];
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            is_over.store(true, Ordering::SeqCst);
            reader.join().unwrap();
        });
        let (f, k) = (health(host, "revert", "r"), health(host, "file", "r"));
        assert_eq!((rows(&f), errors(&f)), ((3 * CALLS, 3 * CALLS, Some(0)), [CALLS, 0, 0, 0]));
        assert_eq!((rows(&k), errors(&k)), ((CALLS, CALLS, Some(0)), [0; 4]));
        let count = |latency: Option<Latency>| latency.unwrap().count();
        assert_eq!((count(f.latency), count(k.latency)), (3 * CALLS, CALLS));
    });
}

fn an_official_plugin_s_refusals_and_errors_are_counted(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let rule = plugin.rule("1");
        let sink = host.sink(&plugin.symbol("picky")).rule(&rule).operator("k").require_ack(true).open().unwrap();
        sink.send(&json!({ "good": 1 })).unwrap();
        sink.send(&json!({ "bad": 1 })).unwrap_err();
        sink.send(&json!({ "good": 2 })).unwrap();
        let k = health(host, &plugin.symbol("picky"), &rule);
        assert_eq!((rows(&k), errors(&k)), ((3, 3, Some(0)), [1, 0, 0, 0]));
        assert!(k.last_error.unwrap().text.contains("I do not like that"));
        assert_eq!(k.latency.unwrap().count(), 3);

        let fail = of_rule(host.function(&plugin.symbol("fail")).unwrap(), &rule);
        fail.call::<u8>((1,)).unwrap_err();
        fail.call_async::<u8>((2,)).unwrap().wait().unwrap_err();
        fail.call_many::<u8, _>([(3,)]).unwrap()[0].as_ref().unwrap_err();
        // Nobody asks for its outcome.
        drop(fail.call_async::<u8>((4,)).unwrap());
        assert_eq!(fail.call::<u8>((5,)).unwrap_err().kind(), ErrorKind::Function);
        wait_until("nothing waits", || health(host, &plugin.symbol("fail"), &rule).queue == Some(0));
        let f = health(host, &plugin.symbol("fail"), &rule);
        // The dropped one was not executed, if it was dropped before it was sent.
        assert!(f.rows_in == f.errors.symbol && [4, 5].contains(&f.rows_in) && f.rows_out == 5, "{f:?}");

        let mut source = host.source(&plugin.symbol("faulty")).rule(&rule).operator("s").open().unwrap();
        let first = next(&mut source);
        assert_eq!(first.message["row"], 1);
        assert_eq!(source.next_within(PATIENCE).unwrap_err().kind(), ErrorKind::Source);
        let s = health(host, &plugin.symbol("faulty"), &rule);
        assert_eq!((s.rows_in, errors(&s)), (2, [1, 0, 0, 0]));
        assert!(s.last_error.unwrap().text.contains("the sensor is gone"));

        // Such a plugin does not tell what it has collected.
        let blind = host.sink(&plugin.symbol("print")).rule(&rule).operator("p").open().unwrap();
        blind.send(&json!({})).unwrap();
        let p = health(host, &plugin.symbol("print"), &rule);
        assert_eq!((p.rows_out, p.queue, p.lag), (1, None, None));
        blind.close().unwrap();
    });
}

fn a_source_s_queue_is_what_nobody_has_read(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let (symbol, rule) = (plugin.symbol("pyjson"), plugin.rule("1"));
        let source = host.source(&symbol).rule(&rule).operator("s").config(json!({ "interval": 0 }));
        let mut source = source.open().unwrap();
        assert_eq!(next(&mut source).message["value"], 1);
        // The host reads what the plugin cannot keep.
        wait_until("messages wait", || health(host, &symbol, &rule).queue > Some(10));
        let lag = health(host, &symbol, &rule).lag.unwrap();
        wait_until("the oldest grows older", || health(host, &symbol, &rule).lag.unwrap() > lag);
        let before = health(host, &symbol, &rule);
        for number in 2..=before.queue.unwrap() + 1 {
            assert_eq!(next(&mut source).message["value"], number);
        }
        let s = health(host, &symbol, &rule);
        assert_eq!((s.rows_in, s.errors.total()), (before.queue.unwrap() + 1, 0));
        source.close().unwrap();
        assert!(find(host, &symbol, &rule).is_none());
    });
}
