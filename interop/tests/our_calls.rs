//! Many calls at a time, and both codecs, between our host and our plugin; and
//! the same calls of a plugin that knows nothing of them.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};

use ekuiper_host::{Bytes, Chain, Error, Format, Function, Host, Package};
use ekuiper_interop::guard::{Process, Watchdog};
use ekuiper_interop::plugins::{Mirror, OfficialPython};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

ekuiper_interop::over_each_transport! {
    rows_get_their_outcomes_in_order,
    a_bad_row_harms_no_other,
    rows_of_any_number_and_size,
    calls_in_flight_get_their_own_results,
    calls_of_several_threads_in_flight,
    a_result_that_nobody_wants_is_dropped,
    both_codecs_carry_the_same_values,
    typed_records_come_through_a_source,
    a_crash_ends_what_is_in_flight_and_the_next_call_is_carried_out,
    an_update_costs_none_of_many_calls,
    an_official_plugin_gets_one_call_after_the_other,
    messages_under_way_are_acknowledged_each_for_itself,
    a_crash_makes_unknown_what_is_under_way_to_a_sink,
    an_official_sink_gets_one_message_after_the_other,
}

fn host(mirror: &Mirror, transport: &str, format: Format) -> Host {
    Host::builder().transport(transport).plugin(mirror.folder()).format(format).build().unwrap()
}

/// The same in either codec.
fn with_each_format(transport: &str, test: impl Fn(&Host)) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    for format in [Format::Json, Format::MessagePack] {
        let host = host(&mirror, transport, format);
        test(&host);
        host.shutdown();
    }
}

fn reversed(text: &str) -> String {
    text.chars().rev().collect()
}

fn rows_get_their_outcomes_in_order(transport: &str) {
    with_each_format(transport, |host| {
        let revert = host.function("revert").unwrap();
        // More than one message's worth.
        let texts: Vec<_> = (0..20_000).map(|number| format!("row {number}")).collect();
        let outcomes = revert.call_many::<String, _>(texts.iter().map(|text| (text,))).unwrap();
        let expected: Vec<_> = texts.iter().map(|text| Ok(reversed(text))).collect();
        assert!(outcomes == expected);
        let average = host.function("average").unwrap();
        let outcomes = average.call_many::<Option<f64>, _>([(vec![1, 2, 6],), (vec![],), (vec![5],)]).unwrap();
        assert_eq!(outcomes, [Ok(Some(3.0)), Ok(None), Ok(Some(5.0))]);
    });
}

fn a_bad_row_harms_no_other(transport: &str) {
    with_each_format(transport, |host| {
        let revert = host.function("revert").unwrap();
        let rows = [json!(["ab"]), json!([7]), json!([]), json!(["cd"]), json!(["a", "b"])];
        let outcomes = revert.call_many::<String, _>(rows.iter().map(|row| row.as_array().unwrap())).unwrap();
        assert_eq!(outcomes[0], Ok("ba".into()));
        assert_eq!(outcomes[3], Ok("dc".into()));
        let text = |row: usize| outcomes[row].clone().unwrap_err();
        assert!(text(1).contains("argument 1: invalid type: integer `7`, expected a string"), "{}", text(1));
        assert_eq!(text(2), "takes 1 argument, got 0");
        assert_eq!(text(4), "takes 1 argument, got 2");
        // One that cannot be sent: nothing is.
        let error = Chain(&revert.call_many::<String, _>([(1.0,), (f64::NAN,)]).unwrap_err()).to_string();
        assert!(error.contains("NaN"), "{error}");
        assert_eq!(revert.call::<String>(("ab",)).unwrap(), "ba");
    });
}

fn rows_of_any_number_and_size(transport: &str) {
    with_each_format(transport, |host| {
        let echo = host.function("echo").unwrap();
        assert!(echo.call_many::<Value, (u8,)>([]).unwrap().is_empty());
        for (count, length) in [(1, 1), (3, 200_000), (40, 3000)] {
            let texts: Vec<_> = (0..count).map(|number| format!("{number}{}", "x".repeat(length))).collect();
            let outcomes = echo.call_many::<String, _>(texts.iter().map(|text| (text,))).unwrap();
            assert!(outcomes.into_iter().map(Result::unwrap).eq(texts));
        }
        let outcomes = echo.call_many::<Value, _>([("x".repeat(65 << 20),)]).unwrap();
        let [Err(error)] = &outcomes[..] else { panic!("{outcomes:?}") };
        assert!(error.contains("longer than the limit"), "{error}");
        assert_eq!(echo.call::<u8>((1,)).unwrap(), 1);
    });
}

fn calls_in_flight_get_their_own_results(transport: &str) {
    with_each_format(transport, |host| {
        let revert = host.function("revert").unwrap();
        for count in [1, 2, 3000] {
            let texts: Vec<_> = (0..count).map(|number| format!("call {number}")).collect();
            let mut pending: Vec<_> =
                texts.iter().map(|text| revert.call_async::<String>((text,)).unwrap()).enumerate().collect();
            // In another order than they were made.
            pending.reverse();
            for (number, call) in pending {
                assert_eq!(call.wait().unwrap(), reversed(&texts[number]));
            }
        }
        let failing = revert.call_async::<String>((7,)).unwrap();
        let good = revert.call_async::<String>(("ab",)).unwrap();
        // A call with nothing to do with them, in between.
        assert_eq!(revert.call::<String>(("xy",)).unwrap(), "yx");
        assert_eq!(good.wait().unwrap(), "ba");
        assert!(matches!(failing.wait(), Err(Error::Function { text, .. }) if text.contains("argument 1")));
        assert!(revert.call_async::<String>((f64::NAN,)).is_err());
    });
}

fn calls_of_several_threads_in_flight(transport: &str) {
    with_each_format(transport, |host| {
        let echo = host.function("echo").unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let echo = echo.clone();
                scope.spawn(move || {
                    for round in 0..50 {
                        let calls: Vec<_> = (0..20)
                            .map(|call| {
                                let value = json!([thread, round, call]);
                                (echo.call_async::<Value>((&value,)).unwrap(), value)
                            })
                            .collect();
                        for (call, value) in calls {
                            assert_eq!(call.wait().unwrap(), value);
                        }
                        assert_eq!(echo.call::<u8>((thread,)).unwrap(), thread);
                    }
                });
            }
        });
    });
}

fn a_result_that_nobody_wants_is_dropped(transport: &str) {
    with_each_format(transport, |host| {
        let echo = host.function("echo").unwrap();
        for number in 0..100 {
            let unwanted = echo.call_async::<u32>((number,)).unwrap();
            let wanted = echo.call_async::<u32>((number + 1000,)).unwrap();
            if number % 2 == 0 {
                drop(unwanted);
                assert_eq!(wanted.wait().unwrap(), number + 1000);
            } else {
                assert_eq!(wanted.wait().unwrap(), number + 1000);
                drop(unwanted);
            }
        }
    });
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reading {
    sensor: String,
    values: Vec<f64>,
    ok: Option<bool>,
}

fn both_codecs_carry_the_same_values(transport: &str) {
    with_each_format(transport, |host| {
        let echo = host.function("echo").unwrap();
        let reading = Reading { sensor: "ü\n".into(), values: vec![0.1, -2.5e300, 3.0], ok: None };
        assert_eq!(echo.call::<Reading>((&reading,)).unwrap(), reading);
        for value in [json!(null), json!(1.0), json!(u64::MAX), json!({ "a": [1, 2.5, "ü", { "": [] }] })] {
            assert_eq!(echo.call::<Value>((&value,)).unwrap(), value);
        }
        // Bytes come as they are asked for.
        let bytes = || Bytes(vec![0, 200, 255]);
        assert_eq!(echo.call::<Value>((bytes(),)).unwrap(), json!("AMj/"));
        assert_eq!(echo.call::<String>((bytes(),)).unwrap(), "AMj/");
        assert_eq!(echo.call::<Bytes>((bytes(),)).unwrap(), bytes());
        assert_eq!(echo.call::<Vec<u8>>((bytes(),)).unwrap(), bytes().0);
        assert_eq!(echo.call::<Value>((json!({"a": ["AMj/"]}),)).unwrap(), json!({"a": ["AMj/"]}));
        let outcomes = echo.call_many::<Vec<Bytes>, _>([([bytes(), bytes()],), ([bytes(), bytes()],)]).unwrap();
        assert_eq!(outcomes, [Ok(vec![bytes(), bytes()]), Ok(vec![bytes(), bytes()])]);
        assert_eq!(echo.call_async::<Value>(([bytes()],)).unwrap().wait().unwrap(), json!(["AMj/"]));
        assert!(echo.validate((1,)).is_ok() && echo.validate((1, 2)).is_err() && !echo.is_aggregate().unwrap());
    });
}

fn typed_records_come_through_a_source(transport: &str) {
    #[derive(Deserialize)]
    struct Row {
        count: u64,
        name: String,
    }
    with_each_format(transport, |host| {
        let config = json!({ "interval": 0, "count": 5000, "seed": 7 });
        let source = host.source("random").rule("r1").config(config).open_as::<Row>().unwrap();
        let mut expected = 1;
        for tuple in source {
            let Row { count, name } = tuple.unwrap().message;
            assert_eq!((count, name.len()), (expected, 6));
            expected += 1;
        }
        assert_eq!(expected, 5001);
    });
}

fn a_crash_ends_what_is_in_flight_and_the_next_call_is_carried_out(transport: &str) {
    with_each_format(transport, |host| {
        let echo = host.function("echo").unwrap();
        for _ in 0..3 {
            let process = Process::of(host.pid("mirror").unwrap());
            process.signal(Signal::STOP);
            let calls: Vec<_> = (0..10).map(|number| echo.call_async::<u32>((number,)).unwrap()).collect();
            process.signal(Signal::KILL);
            process.ended();
            for (number, call) in calls.into_iter().enumerate() {
                match call.wait() {
                    // The first was sent, perhaps together with others.
                    Err(Error::OutcomeUnknown { .. }) => {}
                    Err(Error::Exited { .. }) if number > 0 => {}
                    // It was answered before the stop came.
                    Ok(answer) => assert_eq!(answer as usize, number),
                    other => panic!("{number}: {other:?}"),
                }
            }
            assert_eq!(echo.call::<u32>((5,)).unwrap(), 5);
            assert_eq!(echo.call_async::<u32>((6,)).unwrap().wait().unwrap(), 6);
        }
    });
}

fn an_update_costs_none_of_many_calls(transport: &str) {
    const UPDATES: usize = 6;
    let _watchdog = Watchdog::start();
    let versions = [Mirror::new(), Mirror::new()];
    let host = host(&versions[0], transport, Format::MessagePack);
    let echo = host.function("echo").unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let many = scope.spawn(|| {
            let mut batches = 0;
            while !is_over.load(Ordering::SeqCst) {
                let text = "x".repeat(1000);
                let outcomes = echo.call_many::<String, _>((0..200).map(|_| (&text,))).unwrap();
                assert!(outcomes.iter().all(|outcome| outcome.as_ref() == Ok(&text)));
                batches += 1;
            }
            batches
        });
        let pending = scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let calls: Vec<_> = (0..20).map(|number| echo.call_async::<u32>((number,)).unwrap()).collect();
                for (number, call) in (0..).zip(calls) {
                    assert_eq!(call.wait().unwrap(), number);
                }
            }
        });
        for turn in 1..=UPDATES {
            host.update(Package::read(versions[turn % 2].folder()).unwrap()).unwrap();
        }
        is_over.store(true, Ordering::SeqCst);
        pending.join().unwrap();
        assert!(many.join().unwrap() > UPDATES);
    });
    host.shutdown();
}

fn an_official_plugin_gets_one_call_after_the_other(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let revert: Function = host.function(&plugin.symbol("revert")).unwrap();
        let outcomes = revert.call_many::<String, _>([("ab",), ("cd",)]).unwrap();
        assert_eq!(outcomes, [Ok("ba".into()), Ok("dc".into())]);
        let calls: Vec<_> = ["ab", "cd"].map(|text| revert.call_async::<String>((text,)).unwrap()).into();
        assert_eq!(calls.into_iter().map(|call| call.wait().unwrap()).collect::<Vec<_>>(), ["ba", "dc"]);
        let fail = host.function(&plugin.symbol("fail")).unwrap();
        assert!(fail.call_many::<Value, _>([(1,)]).unwrap()[0].is_err());
    });
}

fn messages_under_way_are_acknowledged_each_for_itself(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = Host::builder().transport(transport).plugin(mirror.folder()).ack_window(16).build().unwrap();
    let file = mirror.scratch().join("rows");
    let sink = host.sink("file").rule("r1").config(json!({ "path": file })).require_ack(true).open().unwrap();
    let mut expected = String::new();
    let mut pending = Vec::new();
    for number in 0..2000 {
        let row = if number % 7 == 3 { json!(number) } else { json!({ "n": number }) };
        pending.push((number, sink.send_async(&row).unwrap()));
        if number % 7 != 3 {
            expected += &format!("{{\"n\":{number}}}\n");
        }
        if number % 500 == 0 {
            // One that waits, in between.
            sink.send(&json!({ "sync": number })).unwrap();
            expected += &format!("{{\"sync\":{number}}}\n");
            assert!(std::fs::read_to_string(&file).unwrap() == expected, "all before it are written too");
        }
    }
    // In another order than they were sent; some are not asked for.
    for (number, ack) in pending.into_iter().rev().filter(|(number, _)| number % 11 != 0) {
        match ack.wait() {
            Ok(()) => assert_ne!(number % 7, 3),
            Err(Error::Sink { text, .. }) => {
                assert!(number % 7 == 3 && text.contains("neither a JSON object"), "{text}")
            }
            other => panic!("{other:?}"),
        }
    }
    sink.close().unwrap();
    assert!(std::fs::read_to_string(&file).unwrap() == expected);
    let traffic = host.status("mirror").unwrap().traffic;
    assert_eq!(traffic.messages_out, 2004);
}

fn a_crash_makes_unknown_what_is_under_way_to_a_sink(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = Host::builder().transport(transport).plugin(mirror.folder()).build().unwrap();
    let file = mirror.scratch().join("rows");
    let sink = host.sink("file").rule("r1").config(json!({ "path": file })).require_ack(true).open().unwrap();
    let mut acknowledged = 0;
    for round in 0..3 {
        let process = Process::of(host.pid("mirror").unwrap());
        process.signal(Signal::STOP);
        let pending: Vec<_> = (0..10).map(|number| sink.send_async(&json!({ "n": number })).unwrap()).collect();
        process.signal(Signal::KILL);
        process.ended();
        for ack in pending {
            match ack.wait() {
                Err(Error::OutcomeUnknown { .. }) => {}
                // It came before the stop did.
                Ok(()) => acknowledged += 1,
                other => panic!("{other:?}"),
            }
        }
        sink.send(&json!({ "round": round })).unwrap();
        assert!(sink.send_async(&json!({ "again": round })).unwrap().wait().is_ok());
    }
    // What was under way may have been written before it stopped.
    let text = std::fs::read_to_string(&file).unwrap();
    let known: Vec<_> = text.lines().filter(|line| !line.starts_with("{\"n\"")).collect();
    let expected: Vec<_> =
        (0..3).flat_map(|round| [format!("{{\"round\":{round}}}"), format!("{{\"again\":{round}}}")]).collect();
    assert_eq!(known, expected);
    assert!(text.lines().count() - known.len() >= acknowledged, "what was acknowledged is written");
}

fn an_official_sink_gets_one_message_after_the_other(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let sink = host.sink(&plugin.symbol("picky")).rule(plugin.rule("1")).require_ack(true).open().unwrap();
        let pending: Vec<_> = (0..5).map(|number| sink.send_async(&json!({ "n": number })).unwrap()).collect();
        for (number, ack) in pending.into_iter().enumerate() {
            let outcome = ack.wait();
            assert!(matches!(outcome, Ok(()) | Err(Error::Sink { .. })), "{number}: {outcome:?}");
        }
    });
}
