//! A caller waits no longer than its own deadline, whatever other callers wait
//! for. The tests do not measure time: one of the callers waits forever.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use ekuiper_conformance::raw::{PULL, PUSH, frame};
use ekuiper_conformance::{eventually, raw};
use ekuiper_core::message::{Hello, SymbolKind};
use ekuiper_host::{Error, Function, Host};
use serde_json::{Value, json};
use support::{Puppet, Stage, wait_until};

const FOREVER: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(100);

/// Completes the handshake of a plugin that supports batches.
fn batching() -> Vec<u8> {
    let mut hello = Hello::new("puppet", "1");
    hello.serves(SymbolKind::Function, "f");
    hello.serves(SymbolKind::Source, "s");
    hello.serves(SymbolKind::Sink, "k");
    hello.with_everything().encode()
}

fn function(stage: &Stage, host: &Host, words: &[u8]) -> (Function, Puppet, Puppet) {
    std::thread::scope(|scope| {
        let function = scope.spawn(|| host.function("f").unwrap());
        let mut control = Puppet::dial(&stage.sockets().control("p").unwrap());
        control.say(words);
        let puppet = stage.start_function(&mut control, "f");
        (function.join().unwrap(), control, puppet)
    })
}

/// Runs `first`, which waits forever once `begun`, and meanwhile `others`,
/// which must end. Then the host is shut down.
fn while_one_waits<T: Send, R: Send>(
    host: &Host,
    first: impl FnOnce() -> T + Send,
    begun: impl FnOnce(),
    others: impl FnOnce() -> R + Send,
) -> R {
    std::thread::scope(|scope| {
        let first = scope.spawn(first);
        begun();
        let others = scope.spawn(others);
        let ended = eventually(|| others.is_finished());
        let still_waits = !first.is_finished();
        host.shutdown();
        assert!(ended, "others wait as long as the first");
        assert!(still_waits, "the first did not wait");
        first.join().unwrap();
        others.join().unwrap()
    })
}

fn is_late<T: std::fmt::Debug>(outcome: Result<T, Error>) {
    let error = outcome.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}

#[test]
fn a_call_beside_one_that_is_not_answered() {
    let stage = Stage::new();
    let builder = stage.builder().plugin(stage.plugin("p", &["f"]));
    let host = builder.send_timeout(SHORT).recv_timeout(FOREVER).build().unwrap();
    let (f, _control, mut puppet) = function(&stage, &host, b"handshake");
    let outcomes = while_one_waits(
        &host,
        || f.call::<Value>((1,)),
        || drop(puppet.hear()),
        || [0, 1, 2].map(|number| f.call::<Value>((number,))),
    );
    outcomes.into_iter().for_each(is_late);
}

#[test]
fn calls_that_are_made_while_another_is_waited_for() {
    let stage = Stage::new();
    let builder = stage.builder().plugin(stage.plugin("p", &["f"]));
    let host = builder.send_timeout(SHORT).recv_timeout(FOREVER).build().unwrap();
    let (f, _control, mut puppet) = function(&stage, &host, &batching());
    let pending = while_one_waits(
        &host,
        || f.call_async::<Value>((1,)).unwrap().wait(),
        || {
            puppet.hear();
        },
        || (0..100).map(|number| f.call_async::<Value>((number,))).collect::<Vec<_>>(),
    );
    // These wait for the call in flight, and are not executed.
    for call in pending {
        assert!(call.unwrap().wait().is_err());
    }
}

#[test]
fn a_result_that_is_there_is_had_while_another_is_waited_for() {
    let stage = Stage::new();
    let builder = stage.builder().plugin(stage.plugin("p", &["f"])).format(ekuiper_host::Format::Json);
    let host = builder.send_timeout(FOREVER).recv_timeout(FOREVER).build().unwrap();
    let (f, _control, mut puppet) = function(&stage, &host, &batching());
    // The first is sent at once; the second by the thread that waits for it.
    let first = f.call_async::<Value>((1,)).unwrap();
    let second = f.call_async::<Value>((2,)).unwrap();
    let batch = puppet.hear_json();
    let outcome = while_one_waits(
        &host,
        || second.wait(),
        || {
            puppet.say(reply(&batch).as_bytes());
            puppet.hear();
        },
        || first.wait(),
    );
    assert_eq!(outcome.unwrap(), 7);
}

/// Returns the answer to a batch of one call: 7.
fn reply(batch: &Value) -> String {
    format!(r#"{{"id":{},"result":[7],"errors":[]}}"#, batch["id"])
}

#[test]
fn a_message_to_a_sink_beside_one_that_is_not_acknowledged() {
    let stage = Stage::new();
    let builder = stage.builder().plugin(stage.plugin("p", &[]));
    let host = builder.send_timeout(SHORT).recv_timeout(FOREVER).build().unwrap();
    let (sink, _control, mut data, _acks) = std::thread::scope(|scope| {
        let opened = scope.spawn(|| host.sink("k").rule("r").operator("k").require_ack(true).open().unwrap());
        let mut control = stage.control("p");
        control.hear();
        let (listener, acks) = (stage.sink("r"), stage.acks("r"));
        control.say(b"ok");
        let data = listener.accept_as(PULL, PUSH);
        (opened.join().unwrap(), control, data, acks)
    });
    let outcomes = while_one_waits(
        &host,
        || sink.send(&json!(1)),
        || drop(data.frame()),
        || {
            let sent = [2, 3].map(|number| sink.send(&json!(number)));
            (sent, sink.send_bytes(b"4"), sink.send_async(&json!(5)).map(drop), sink.flush(SHORT))
        },
    );
    outcomes.0.into_iter().for_each(is_late);
    [outcomes.1, outcomes.2, outcomes.3].into_iter().for_each(is_late);
}

#[test]
fn an_acknowledgement_that_is_there_is_had_or_dropped_while_another_is_waited_for() {
    let stage = Stage::new();
    let builder = stage.builder().plugin(stage.plugin("p", &["f"]));
    let host = builder.send_timeout(FOREVER).recv_timeout(FOREVER).build().unwrap();
    let (sink, _control, _data, mut acks) = std::thread::scope(|scope| {
        let opened = scope.spawn(|| host.sink("k").rule("r").operator("k").require_ack(true).open().unwrap());
        let mut control = Puppet::dial(&stage.sockets().control("p").unwrap());
        control.say(&batching());
        control.hear();
        let (listener, acks) = (stage.sink("r"), stage.acks("r"));
        control.say(b"ok");
        let data = listener.accept_as(PULL, PUSH);
        (opened.join().unwrap(), control, data, acks)
    });
    let mut pending: Vec<_> = (1..=4).map(|number| sink.send_async(&json!(number)).unwrap()).collect();
    let (last, third) = (pending.pop().unwrap(), pending.pop().unwrap());
    let outcomes = while_one_waits(
        &host,
        || last.wait(),
        || {
            // So that the first one reads, for all.
            std::thread::sleep(SHORT);
            acks.write(&frame(b"{}"));
            acks.write(&frame(br#"{"error":"no"}"#));
        },
        || {
            let outcomes: Vec<_> =
                pending.into_iter().map(|ack| ack.wait().map_err(|error| error.to_string())).collect();
            drop(third);
            outcomes
        },
    );
    assert_eq!(outcomes, [Ok(()), Err("sink k: no".to_owned())]);
}

#[test]
fn a_stop_beside_a_start_that_is_not_answered() {
    let stage = Stage::new();
    let builder = stage.builder().plugin(stage.plugin("p", &["f"]));
    let host = builder.init_timeout(FOREVER).send_timeout(SHORT).recv_timeout(SHORT).build().unwrap();
    let (source, mut control) = std::thread::scope(|scope| {
        let opened = scope.spawn(|| host.source("s").rule("r").operator("s").open().unwrap());
        let mut control = stage.control("p");
        control.hear();
        control.say(b"ok");
        (opened.join().unwrap(), control)
    });
    let outcome = while_one_waits(&host, || host.function("f").map(drop), || drop(control.hear()), || source.close());
    is_late(outcome);
}

#[test]
fn callers_of_a_first_start_share_what_becomes_of_it() {
    const CALLERS: usize = 8;
    let stage = Stage::new();
    let plugin = stage.script("p", &["f"], "echo >>starts; read nothing <go; echo 'no ink' >&2; exit 3");
    let go = plugin.join("go");
    assert!(std::process::Command::new("mkfifo").arg(&go).status().unwrap().success());
    let host = stage.builder().plugin(&plugin).build().unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| host.start("p"));
        wait_until("it is started", || plugin.join("starts").exists());
        let others: Vec<_> = (1..CALLERS).map(|_| scope.spawn(|| host.function("f").map(drop))).collect();
        // So that most of them wait for the first.
        std::thread::sleep(Duration::from_millis(300));
        // For late callers, which nothing keeps from another start.
        let opened = std::fs::OpenOptions::new().read(true).write(true).open(&go).unwrap();
        std::io::Write::write_all(&mut &opened, &[b'\n'; CALLERS]).unwrap();
        for start in std::iter::once(first).chain(others) {
            let error = start.join().unwrap().unwrap_err();
            assert!(matches!(&error, Error::EarlyExit { exit, .. } if exit.code == Some(3)), "{error}");
            assert!(error.to_string().ends_with("no ink"), "{error}");
        }
    });
    let starts = std::fs::read_to_string(plugin.join("starts")).unwrap().lines().count();
    assert!(starts < CALLERS, "{starts} starts for {CALLERS} callers");
}

/// An open that was given up waits neither for its plugin's start, nor for its
/// place.
#[test]
fn an_open_that_was_given_up_does_not_wait_for_its_plugin() {
    let stage = Stage::new();
    let plugin = stage.plugin("p", &[]);
    let host = stage.builder().plugin(&plugin).init_timeout(FOREVER).build().unwrap();
    let mut sources: Vec<_> = (0..200).map(|n| host.source("s").instance(n).open_async::<Value>()).collect();
    let mut sinks: Vec<_> = (0..200).map(|n| host.sink("k").instance(n).open_async()).collect();
    let mut context = Context::from_waker(Waker::noop());
    assert!(sources.iter_mut().all(|open| Pin::new(open).poll(&mut context).is_pending()));
    assert!(sinks.iter_mut().all(|open| Pin::new(open).poll(&mut context).is_pending()));
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.trim_end() == "ekuiper-work").count()
    };
    wait_until("each waits in a thread", || threads() >= 400);
    drop((sources, sinks));
    // Other tests have some, too.
    wait_until("none waits any more", || threads() < 100);
    assert_eq!(host.status("p").unwrap().symbols.len(), 0);
    host.shutdown();
}

#[test]
fn callers_of_a_functions_start_share_what_becomes_of_it() {
    const CALLERS: usize = 8;
    let stage = Stage::new();
    let host = stage.builder().plugin(stage.plugin("p", &["f"])).build().unwrap();
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(|| host.function("f").map(drop))).collect();
        let mut control = stage.control("p");
        let mut starts = 0;
        while callers.iter().any(|caller| !caller.is_finished()) {
            if raw::is_listening(&stage.sockets().function("f").unwrap()) && control.has_something() {
                control.hear();
                // So that most of them wait for the first.
                std::thread::sleep(Duration::from_millis(300));
                control.say(b"the model is gone");
                starts += 1;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        for caller in callers {
            let error = caller.join().unwrap().unwrap_err().to_string();
            assert_eq!(error, "plugin p did not start function f: the model is gone");
        }
        assert!(starts < CALLERS, "{starts} starts for {CALLERS} callers");
    });
}
