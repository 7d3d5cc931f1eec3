//! A plugin that crashes is restored, with exactly the symbols in use, under
//! the same handles.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::sync::mpsc::Receiver;
use std::time::Duration;

use ekuiper_conformance::eventually;
use ekuiper_conformance::raw::frame;
use ekuiper_host::{Error, Event, EventKind, Host, PluginState, RestartPolicy};
use serde_json::{Value, json};
use support::{PATIENCE, Puppet, Stage, await_event, kill, send_acked, wait_until};

fn await_restored(events: &Receiver<Event>) -> usize {
    await_event(events, |kind| match kind {
        EventKind::Restored { symbols, .. } => Some(symbols),
        _ => None,
    })
}

/// Returns the puppet of the control channel of the next process.
fn next_control(stage: &Stage, host: &Host, generation: u64) -> Puppet {
    wait_until("the next process is started", || {
        let status = host.status("p").unwrap();
        status.generation == generation && status.state == PluginState::Starting
    });
    stage.control("p")
}

#[test]
fn fault_07_every_live_symbol_is_back_under_its_handle() {
    let stage = Stage::new();
    let host = stage.builder().plugin(stage.plugin("p", &["f", "g"])).build().unwrap();
    let events = host.events();
    let mut control = stage.start(&host);
    let (f, g, source, sink) = std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            let (f, g) = (host.function("f").unwrap(), host.function("g").unwrap());
            let source = host.source("s").rule("r").operator("s").open().unwrap();
            let sink = host.sink("k").rule("r").operator("k").require_ack(true).open().unwrap();
            (f, g, source, sink)
        });
        let _f = stage.start_function(&mut control, "f");
        let _g = stage.start_function(&mut control, "g");
        let mut peer = stage.serve_source(&mut control);
        // Sent before the crash, read after it.
        peer.write(&frame(br#"{"message":"before","meta":{}}"#));
        stage.serve_sink_with_acks(&mut control);
        opened.join().unwrap()
    });
    assert_eq!(host.status("p").unwrap().symbols.len(), 4);
    kill(&host);

    let mut control = next_control(&stage, &host, 2);
    // Functions first, then consumers of rows, then producers.
    let mut puppets = [stage.start_function(&mut control, "f"), stage.start_function(&mut control, "g")];
    let (mut data, mut acks) = stage.serve_sink_with_acks(&mut control);
    let mut peer = stage.serve_source(&mut control);
    assert_eq!(await_restored(&events), 4);

    std::thread::scope(|scope| {
        for (function, puppet) in [&f, &g].into_iter().zip(&mut puppets) {
            let call = scope.spawn(|| function.call::<Value>((7,)));
            assert_eq!(puppet.hear_json()["arg"][0], 7);
            puppet.answer(&json!("back"));
            assert_eq!(call.join().unwrap().unwrap(), "back");
        }
        send_acked(&sink, &json!([1]), &mut data, &mut acks, b"{}").unwrap();
    });
    peer.write(&frame(br#"{"message":"after","meta":{}}"#));
    let mut source = source;
    for message in ["before", "after"] {
        assert_eq!(source.next_within(PATIENCE).unwrap().unwrap().message, message);
    }
    let status = host.status("p").unwrap();
    assert_eq!((status.state, status.generation, status.restarts), (PluginState::Running, 2, 1));
    assert_eq!(status.last_exit.unwrap().signal, Some(9));
    assert_eq!((status.traffic.calls, status.traffic.acks, status.traffic.messages_in), (2, 1, 2));
}

#[test]
fn fault_19_what_is_closed_meanwhile_is_not_restored() {
    let stage = Stage::new();
    let policy = {
        let mut policy = RestartPolicy::default();
        policy.first_pause = Duration::from_millis(300);
        policy
    };
    let host = stage.builder().plugin(stage.plugin("p", &["f"])).restart(policy).build().unwrap();
    let events = host.events();
    let mut control = stage.start(&host);
    let source = std::thread::scope(|scope| {
        let opened = scope.spawn(|| host.source("s").rule("r").operator("s").open().unwrap());
        let _peer = stage.serve_source(&mut control);
        opened.join().unwrap()
    });
    kill(&host);
    wait_until("the next process is waited for", || host.status("p").unwrap().generation == 2);
    source.close().unwrap();
    let mut control = next_control(&stage, &host, 2);
    assert_eq!(await_restored(&events), 0);
    assert!(control.is_left_alone_for(Duration::from_millis(50)));
    assert_eq!(host.status("p").unwrap().symbols, []);
}

#[test]
fn fault_06_a_call_that_a_crash_meets_is_unknown_at_once_and_not_made_again() {
    let stage = Stage::new();
    let host = stage.builder().plugin(stage.plugin("p", &["f"])).build().unwrap();
    let mut control = stage.start(&host);
    std::thread::scope(|scope| {
        let function = scope.spawn(|| host.function("f").unwrap());
        let mut puppet = stage.start_function(&mut control, "f");
        let function = function.join().unwrap();
        let call = scope.spawn({
            let function = function.clone();
            move || function.call::<Value>((1,))
        });
        puppet.hear();
        kill(&host);
        drop((puppet, control));
        let error = call.join().unwrap().unwrap_err();
        assert!(matches!(&error, Error::OutcomeUnknown { .. }), "{error}");

        let call = scope.spawn(move || function.call::<Value>((2,)));
        let mut control = next_control(&stage, &host, 2);
        let mut puppet = stage.start_function(&mut control, "f");
        assert_eq!(puppet.hear_json()["arg"][0], 2, "the first is not executed again");
        puppet.answer(&json!("back"));
        assert_eq!(call.join().unwrap().unwrap(), "back");
    });
}

#[test]
fn a_crash_loop_opens_the_breaker_and_a_reset_closes_it() {
    let stage = Stage::new();
    let mut policy = RestartPolicy::default();
    policy.first_pause = Duration::from_millis(1);
    policy.break_after = 3;
    policy.break_pause = Duration::from_secs(3600);
    // The process lives as long as the file exists.
    let alive = stage.path().join("alive");
    std::fs::write(&alive, "").unwrap();
    let script = format!("while [ -e '{}' ]; do sleep 0.01; done; echo 'no ink' >&2; exit 3", alive.display());
    let plugin = stage.script("p", &["f"], &script);
    let host = stage.builder().plugin(plugin).restart(policy).recv_timeout(Duration::from_millis(300)).build().unwrap();
    let events = host.events();
    let mut control = stage.start(&host);
    let (function, mut source) = std::thread::scope(|scope| {
        let opened =
            scope.spawn(|| (host.function("f").unwrap(), host.source("s").rule("r").operator("s").open().unwrap()));
        let _f = stage.start_function(&mut control, "f");
        let _peer = stage.serve_source(&mut control);
        opened.join().unwrap()
    });
    std::fs::remove_file(&alive).unwrap();
    drop(control);
    await_event(&events, |kind| matches!(kind, EventKind::Broken { .. }).then_some(()));
    let status = host.status("p").unwrap();
    assert_eq!(status.state, PluginState::Broken);
    assert_eq!(status.last_exit.as_ref().unwrap().code, Some(3));
    // Callers get the error at once.
    for error in [function.call::<Value>((1,)).unwrap_err(), source.next().unwrap().unwrap_err()] {
        assert!(matches!(error, Error::Broken { .. }), "{error}");
        assert!(error.to_string().ends_with("and wrote:\nno ink"), "{error}");
    }

    std::fs::write(&alive, "").unwrap();
    let generation = status.generation + 1;
    host.reset("p").unwrap();
    let mut control = next_control(&stage, &host, generation);
    let mut puppet = stage.start_function(&mut control, "f");
    let mut peer = stage.serve_source(&mut control);
    await_restored(&events);
    peer.write(&frame(br#"{"message":"back","meta":{}}"#));
    assert_eq!(source.next_within(PATIENCE).unwrap().unwrap().message, "back");
    std::thread::scope(|scope| {
        let call = scope.spawn(|| function.call::<Value>((1,)));
        puppet.hear();
        puppet.answer(&json!(1));
        assert_eq!(call.join().unwrap().unwrap(), 1);
    });
}

#[test]
fn a_message_whose_ack_a_crash_has_cost_is_unknown_and_the_sink_goes_on() {
    let stage = Stage::new();
    let host = stage.builder().plugin(stage.plugin("p", &[])).build().unwrap();
    let mut control = stage.start(&host);
    let (sink, (mut data, acks)) = std::thread::scope(|scope| {
        let opened = scope.spawn(|| host.sink("k").rule("r").operator("k").require_ack(true).open().unwrap());
        let served = stage.serve_sink_with_acks(&mut control);
        (opened.join().unwrap(), served)
    });
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| sink.send(&json!(1)));
        data.frame();
        kill(&host);
        drop((data, acks, control));
        let error = sent.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");

        let sent = scope.spawn(|| sink.send(&json!(2)));
        let mut control = next_control(&stage, &host, 2);
        let (mut data, mut acks) = stage.serve_sink_with_acks(&mut control);
        assert_eq!(data.frame(), b"2");
        acks.write(&frame(b"{}"));
        sent.join().unwrap().unwrap();
        host.shutdown();
    });
}

#[test]
fn fault_18_a_plugin_that_hangs_in_a_stop_is_replaced_when_that_holds_up_another() {
    let stage = Stage::new();
    let builder = stage.builder().plugin(stage.plugin("p", &["f"]));
    let host = builder.recv_timeout(Duration::from_millis(200)).build().unwrap();
    let mut control = stage.start(&host);
    let pid = host.pid("p").unwrap();
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            let function = host.function("f").unwrap();
            (function, host.source("s").rule("r").operator("s").open().unwrap())
        });
        let _f = stage.start_function(&mut control, "f");
        let _peer = stage.serve_source(&mut control);
        let (_function, source) = opened.join().unwrap();
        let closed = scope.spawn(move || source.close());
        control.hear();
        let error = closed.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        // The function is in use: the process stays for now.
        assert_eq!(host.pid("p"), Some(pid));

        let opened = scope.spawn(|| host.source("s").rule("r").operator("s").open().map(drop));
        let mut control = next_control(&stage, &host, 2);
        let _f = stage.start_function(&mut control, "f");
        let peer = stage.serve_source(&mut control);
        control.hear();
        drop(peer);
        control.say(b"ok");
        opened.join().unwrap().unwrap();
        assert_ne!(host.pid("p"), Some(pid));
    });
}

#[test]
fn a_source_that_its_plugin_closes_as_it_ends_goes_on_with_the_next_process() {
    let stage = Stage::new();
    let host = stage.builder().plugin(stage.plugin("p", &[])).build().unwrap();
    let mut control = stage.start(&host);
    let (mut source, peer) = std::thread::scope(|scope| {
        let opened = scope.spawn(|| host.source("s").rule("r").operator("s").open().unwrap());
        let peer = stage.serve_source(&mut control);
        (opened.join().unwrap(), peer)
    });
    // A slow graceful end: first no more commands, then the symbols.
    drop((control, peer));
    let error = source.next_within(Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    kill(&host);
    let mut control = next_control(&stage, &host, 2);
    let mut peer = stage.serve_source(&mut control);
    peer.write(&frame(br#"{"message":"back","meta":{}}"#));
    assert_eq!(source.next_within(PATIENCE).unwrap().unwrap().message, "back");
}

#[test]
fn a_second_connection_that_stays_does_not_keep_a_source_from_its_next_process() {
    let stage = Stage::new();
    let host = stage.builder().plugin(stage.plugin("p", &[])).build().unwrap();
    let mut control = stage.start(&host);
    let (mut source, peer) = std::thread::scope(|scope| {
        let opened = scope.spawn(|| host.source("s").rule("r").operator("s").open().unwrap());
        let peer = stage.serve_source(&mut control);
        (opened.join().unwrap(), peer)
    });
    let _second = stage.source("r", 0);
    let moment = Duration::from_millis(100);
    assert!(source.next_within(moment).is_err());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| source.next().unwrap().unwrap().message);
        // So that the call waits.
        std::thread::sleep(moment);
        kill(&host);
        drop((control, peer));
        let mut control = next_control(&stage, &host, 2);
        let mut peer = stage.serve_source(&mut control);
        peer.write(&frame(br#"{"message":"back","meta":{}}"#));
        assert_eq!(reader.join().unwrap(), "back");
        host.shutdown();
    });
}

#[test]
fn what_a_crash_may_have_cost_a_sink_without_acks_is_counted() {
    let stage = Stage::new();
    let host = stage.builder().plugin(stage.plugin("p", &[])).build().unwrap();
    let events = host.events();
    let mut control = stage.start(&host);
    let (sink, (mut data, _acks)) = std::thread::scope(|scope| {
        let opened = scope.spawn(|| host.sink("k").rule("r").operator("k").open().unwrap());
        let served = stage.serve_sink_with_acks(&mut control);
        (opened.join().unwrap(), served)
    });
    for number in 0..200 {
        sink.send(&json!(number)).unwrap();
        assert_eq!(data.frame(), number.to_string().as_bytes());
    }
    // All of it was read, and that was checked: only what an official SDK can
    // hold may be lost.
    sink.flush(PATIENCE).unwrap();
    for number in 0..10 {
        sink.send(&json!(number)).unwrap();
    }
    kill(&host);
    data.hang_up();
    drop(control);
    // A message sent before the crash is noticed may be sent together with an
    // earlier one, and is lost with it.
    await_event(&events, |kind| matches!(kind, EventKind::Crashed { .. }).then_some(()));
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| sink.send(&json!("after")));
        let mut control = next_control(&stage, &host, 2);
        let (mut data, _acks) = stage.serve_sink_with_acks(&mut control);
        assert_eq!(data.frame(), b"\"after\"");
        sent.join().unwrap().unwrap();
    });
    let lost = await_event(&events, |kind| match kind {
        EventKind::Lost { messages, .. } => Some(messages),
        _ => None,
    });
    assert_eq!((lost, host.status("p").unwrap().traffic.lost), (140, 140));
}

#[test]
fn a_subscriber_that_does_not_read_misses_what_its_queue_cannot_hold() {
    let stage = Stage::new();
    let host = stage.builder().plugin(stage.plugin("p", &[])).event_queue(2).build().unwrap();
    let (idle, busy) = (host.events(), host.events());
    let _control = stage.start(&host);
    kill(&host);
    // The third event; the others are read as they arrive.
    await_event(&busy, |kind| matches!(kind, EventKind::BackingOff { .. }).then_some(()));
    host.shutdown();
    let kept: Vec<_> = idle.try_iter().map(|event| event.kind).collect();
    assert!(matches!(kept[..], [EventKind::Started { .. }, EventKind::Crashed { .. }]), "{kept:?}");
}

/// Receives the event that a process has crashed; returns the time that it
/// takes.
fn await_crash(events: &Receiver<Event>) {
    await_event(events, |kind| matches!(kind, EventKind::Crashed { .. }).then_some(()));
}

/// Every connection of the process stays open, as when a child of it survives:
/// only the process's end shows that there will be no answer.
#[test]
fn a_process_that_ends_while_its_symbols_are_restored_holds_up_none_of_them() {
    let stage = Stage::new();
    // Far longer than the test.
    let forever = Duration::from_secs(3600);
    let mut policy = RestartPolicy::default();
    policy.break_after = 0;
    policy.first_pause = Duration::from_millis(1);
    policy.max_pause = Duration::from_millis(1);
    let builder = stage.builder().plugin(stage.plugin("p", &["f", "g"])).restart(policy);
    let builder = builder.init_timeout(forever).send_timeout(forever).recv_timeout(forever);
    let host = builder.build().unwrap();
    let events = host.events();
    let mut control = stage.start(&host);
    let (f, _g, _source, _sink) = std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            let (f, g) = (host.function("f").unwrap(), host.function("g").unwrap());
            let source = host.source("s").rule("r").operator("s").open().unwrap();
            (f, g, source, host.sink("k").rule("r").operator("k").open().unwrap())
        });
        let _functions = [stage.start_function(&mut control, "f"), stage.start_function(&mut control, "g")];
        let _source = stage.serve_source(&mut control);
        let _sink = stage.serve_sink_with_acks(&mut control);
        opened.join().unwrap()
    });
    let mut kept = Vec::new();
    // Progress of a restoration when the process ends: no start is answered,
    // the first function's handshake is missing, ..., the sink cannot be
    // connected to.
    for (round, starts) in (2..).zip(0..5) {
        kill(&host);
        await_crash(&events);
        kept.push(control);
        control = next_control(&stage, &host, round);
        for (number, symbol) in ["f", "g", "k"].into_iter().enumerate().take(starts.min(3)) {
            control.expect("start", symbol);
            if number + 1 < starts {
                if symbol != "k" {
                    kept.push(Puppet::greet(&stage.sockets().function(symbol).unwrap()));
                }
                control.say(b"ok");
            }
        }
        if starts == 4 {
            // So that the sink is connected to.
            assert!(control.is_left_alone_for(Duration::from_millis(50)));
        }
    }
    kill(&host);
    await_crash(&events);
    kept.push(control);
    let mut control = next_control(&stage, &host, 7);
    let mut puppets = [stage.start_function(&mut control, "f"), stage.start_function(&mut control, "g")];
    let _sink = stage.serve_sink_with_acks(&mut control);
    let _source = stage.serve_source(&mut control);
    assert_eq!(await_restored(&events), 4);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| f.call::<Value>((7,)));
        puppets[0].hear();
        puppets[0].answer(&json!("back"));
        assert_eq!(call.join().unwrap().unwrap(), "back");
    });
    host.shutdown();
}

#[test]
fn a_first_start_of_a_symbol_ends_with_its_process() {
    let forever = Duration::from_secs(3600);
    type Open = fn(&Host) -> Result<(), Error>;
    let opens: [(&str, Open); 3] = [
        ("f", |host| host.function("f").map(drop)),
        ("s", |host| host.source("s").rule("r").operator("s").open().map(drop)),
        ("k", |host| host.sink("k").rule("r").operator("k").open().map(drop)),
    ];
    // Answers of the process before it ends: none, and that the symbol has
    // started.
    for (answer, (symbol, open)) in [false, true].into_iter().flat_map(|answer| opens.map(|open| (answer, open))) {
        if answer && symbol == "s" {
            continue;
        }
        let stage = Stage::new();
        let mut policy = RestartPolicy::default();
        policy.first_pause = forever;
        policy.break_after = 1;
        policy.break_pause = forever;
        let builder = stage.builder().plugin(stage.plugin("p", &["f"])).restart(policy);
        let builder = builder.init_timeout(forever).send_timeout(forever).recv_timeout(forever);
        let host = builder.build().unwrap();
        let mut control = stage.start(&host);
        std::thread::scope(|scope| {
            let opened = scope.spawn(|| open(&host));
            control.expect("start", symbol);
            if answer {
                control.say(b"ok");
                // So that the host waits for the handshake, or connects.
                assert!(control.is_left_alone_for(Duration::from_millis(50)));
            }
            kill(&host);
            let went_on = eventually(|| opened.is_finished());
            host.shutdown();
            assert!(went_on, "the start of {symbol} outlives its process");
            let error = opened.join().unwrap().unwrap_err();
            // The call waits for the next process, which never comes, or the
            // shutdown was first.
            assert!(matches!(error, Error::Broken { .. } | Error::Stopped), "{symbol}: {error}");
        });
    }
}
