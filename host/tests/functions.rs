//! Function calls and their answers, for every behaviour of the plugin.
#![allow(clippy::unwrap_used)] // these are tests, helpers included

mod support;

use std::time::{Duration, Instant};

use ekuiper_conformance::raw::{REP, REQ, RawPeer, frame};
use ekuiper_host::{Chain, Error, Function, Host};
use serde_json::{Value, json};
use support::{PATIENCE, Puppet, Stage, call_while};

/// Creates a host with the function `f`, and its puppets.
fn started(stage: &Stage, build: impl FnOnce(ekuiper_host::HostBuilder) -> ekuiper_host::HostBuilder) -> Started {
    let host = build(stage.builder().plugin(stage.plugin("p", &["f", "g"]))).build().unwrap();
    let (function, control, puppet) = std::thread::scope(|scope| {
        let function = scope.spawn(|| host.function("f").unwrap());
        let mut control = stage.control("p");
        let puppet = stage.start_function(&mut control, "f");
        (function.join().unwrap(), control, puppet)
    });
    Started { function, control, puppet, host }
}

struct Started {
    function: Function,
    control: Puppet,
    puppet: Puppet,
    host: Host,
}

#[test]
fn fault_01_idle_channel_stays_alive() {
    let stage = Stage::new();
    let mut started = started(&stage, |builder| builder);
    for _ in 0..17_280 {
        started.puppet.say(b"handshake");
    }
    let puppet = &mut started.puppet;
    let answer = call_while(&started.function, &json!("x"), || {
        // The reply is to the latest keepalive, and is the only one.
        let call = puppet.hear_json();
        assert_eq!((&call["func"], &call["arg"][0]), (&json!("Exec"), &json!("x")));
        puppet.answer(&json!(1));
    });
    assert_eq!(answer.unwrap(), 1);
    assert!(puppet.is_left_alone_for(Duration::from_millis(50)));
}

#[test]
fn a_keepalive_that_crosses_a_call_means_send_again() {
    let stage = Stage::new();
    let mut started = started(&stage, |builder| builder);
    let puppet = &mut started.puppet;
    let answer = call_while(&started.function, &json!("x"), || {
        puppet.hear();
        puppet.say(b"handshake");
        assert_eq!(puppet.hear_json()["arg"][0], "x");
        puppet.answer(&json!("once"));
    });
    assert_eq!(answer.unwrap(), "once");
}

#[test]
fn fault_03_an_answer_may_begin_like_a_handshake() {
    let stage = Stage::new();
    let mut started = started(&stage, |builder| builder);
    let puppet = &mut started.puppet;
    let error = call_while(&started.function, &json!("x"), || {
        puppet.hear();
        puppet.say(b"handshake failed, says the plugin");
    });
    let error = Chain(&error.unwrap_err()).to_string();
    assert!(error.contains("the function's reply is not valid"), "{error}");
    assert!(puppet.is_left_alone_for(Duration::from_millis(50)), "it was not sent again");
}

#[test]
fn fault_04_a_second_answer_answers_nothing() {
    let stage = Stage::new();
    let mut started = started(&stage, |builder| builder);
    let puppet = &mut started.puppet;
    for (argument, first) in [(1, "one"), (2, "two")] {
        let answer = call_while(&started.function, &json!(argument), || {
            assert_eq!(puppet.hear_json()["arg"][0], argument);
            puppet.answer(&json!(first));
            puppet.answer(&json!("a duplicate"));
        });
        assert_eq!(answer.unwrap(), first);
    }
    // The same on the control channel.
    let control = &mut started.control;
    control.say(b"ok");
    std::thread::scope(|scope| {
        let start = scope.spawn(|| started.host.function("g"));
        control.hear();
        control.say(b"there is no g");
        let error = Chain(&start.join().unwrap().unwrap_err()).to_string();
        assert_eq!(error, "plugin p did not start function g: there is no g");
    });
}

#[test]
fn a_connection_that_ends_in_a_call_leaves_its_outcome_unknown() {
    let stage = Stage::new();
    let mut started = started(&stage, |builder| builder);
    let mut puppet = started.puppet;
    let error = call_while(&started.function, &json!("x"), || {
        puppet.hear();
        drop(puppet);
    });
    let error = error.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { exit: None, .. }), "{error}");
    assert_eq!(error.to_string(), "plugin p: outcome unknown: the call of function f: its connection ended");
    // The successor's first message is not taken for the answer, and the next
    // call works.
    started.puppet = Puppet::greet(&stage.sockets().function("f").unwrap());
    let answer = call_while(&started.function, &json!("y"), || {
        assert_eq!(started.puppet.hear_json()["arg"][0], "y");
        started.puppet.answer(&json!("again"));
    });
    assert_eq!(answer.unwrap(), "again");
}

#[test]
fn a_function_whose_connection_ends_is_started_again_for_the_next_call() {
    let stage = Stage::new();
    let Started { function, mut control, mut puppet, host: _host } = started(&stage, |builder| builder);
    for round in 0..2 {
        drop(puppet);
        puppet = std::thread::scope(|scope| {
            // Whichever call comes first, the function is started once.
            let calls = [1, 2].map(|number| {
                let function = function.clone();
                scope.spawn(move || function.call::<Value>((number,)))
            });
            let mut puppet = stage.start_function(&mut control, "f");
            for _ in &calls {
                let argument = puppet.hear_json()["arg"][0].clone();
                puppet.answer(&argument);
            }
            for (number, call) in [1, 2].into_iter().zip(calls) {
                assert_eq!(call.join().unwrap().unwrap(), number, "{round}");
            }
            puppet
        });
    }
    // While the function cannot be started, the call returns why.
    drop(puppet);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| function.call::<Value>((1,)));
        control.hear();
        control.say(b"the model is gone");
        let error = Chain(&call.join().unwrap().unwrap_err()).to_string();
        assert_eq!(error, "plugin p did not start function f: the model is gone");
    });
}

#[test]
fn a_function_that_connects_again_by_itself_is_not_started_again() {
    let stage = Stage::new();
    let mut started = started(&stage, |builder| builder);
    let address = stage.sockets().function("f").unwrap();
    for round in 0..5 {
        drop(started.puppet);
        started.puppet = Puppet::greet(&address);
        let puppet = &mut started.puppet;
        let answer = call_while(&started.function, &json!(round), || {
            assert_eq!(puppet.hear_json()["arg"][0], round);
            puppet.answer(&json!(round));
        });
        assert_eq!(answer.unwrap(), round);
    }
    assert!(started.control.is_left_alone_for(Duration::from_millis(50)));
}

/// mangos, the official Go SDK's socket, repeats its latest request on a new
/// connection; on the control channel that is its latest answer, and it sends
/// nothing else until it receives something.
#[test]
fn a_control_connection_that_is_made_anew_with_the_last_answer_goes_on() {
    let stage = Stage::new();
    let mut started = started(&stage, |builder| builder);
    let address = stage.sockets().control("p").unwrap();
    for (said, answer) in [("ok", "there is no g"), ("there is no g", "not today"), ("not today", "no")] {
        let mut control = started.control.dial_again(&address);
        control.say(said.as_bytes());
        std::thread::scope(|scope| {
            let start = scope.spawn(|| started.host.function("g"));
            assert_eq!(control.hear_json()["cmd"], "start");
            assert!(!start.is_finished(), "what was repeated answers nothing");
            control.say(answer.as_bytes());
            let error = Chain(&start.join().unwrap().unwrap_err()).to_string();
            assert_eq!(error, format!("plugin p did not start function g: {answer}"));
        });
        started.control = control;
    }
    // A connection that sends such a thing without a handshake is not the peer.
    drop(started.control);
    let mut silent = Puppet::dial(&address);
    (0..100).for_each(|_| silent.say(b"ok"));
    std::thread::scope(|scope| {
        let start = scope.spawn(|| started.host.function("g"));
        assert!(silent.is_left_alone_for(Duration::from_millis(100)));
        started.host.shutdown();
        assert!(start.join().unwrap().is_err());
    });
}

#[test]
fn fault_05_a_late_answer_is_not_the_next_calls() {
    let stage = Stage::new();
    let mut started = started(&stage, |builder| builder.recv_timeout(Duration::from_millis(100)));
    let puppet = &mut started.puppet;
    let error = call_while(&started.function, &json!(1), || drop(puppet.hear())).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    puppet.answer(&json!("late"));
    let answer = call_while(&started.function, &json!(2), || {
        assert_eq!(puppet.hear_json()["arg"][0], 2);
        puppet.answer(&json!("in time"));
    });
    assert_eq!(answer.unwrap(), "in time");
}

#[test]
fn a_rival_cannot_take_a_functions_place() {
    let stage = Stage::new();
    let mut started = started(&stage, |builder| builder);
    let mut rival = Puppet::greet(&stage.sockets().function("f").unwrap());
    for _ in 0..100 {
        rival.say(b"{\"state\":true,\"result\":\"mine\"}");
    }
    let puppet = &mut started.puppet;
    let answer = call_while(&started.function, &json!("x"), || {
        puppet.hear();
        rival.say(b"{\"state\":true,\"result\":\"mine\"}");
        puppet.answer(&json!("ours"));
    });
    assert_eq!(answer.unwrap(), "ours");
    assert!(rival.is_left_alone_for(Duration::from_millis(50)));
}

#[test]
fn every_caller_gets_its_own_answer() {
    let stage = Stage::new();
    let mut started = started(&stage, |builder| builder);
    const CALLERS: usize = 8;
    const CALLS: usize = 50;
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let function = started.function.clone();
            scope.spawn(move || {
                for call in 0..CALLS {
                    let mine = format!("{caller}/{call}");
                    assert_eq!(function.call::<String>((&mine,)).unwrap(), mine);
                }
            });
        }
        for _ in 0..CALLERS * CALLS {
            let call = started.puppet.hear_json();
            started.puppet.answer(&call["arg"][0]);
        }
    });
}

#[test]
fn nobody_waits_longer_than_the_deadline() {
    let stage = Stage::new();
    let started = started(&stage, |builder| {
        builder.recv_timeout(Duration::from_millis(200)).send_timeout(Duration::from_millis(200))
    });
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let error = started.function.call::<Value>((1,)).unwrap_err();
                assert!(matches!(error, Error::Timeout { .. }), "{error}");
            });
        }
    });
    // Sequential calls would take far longer; a busy machine is never that
    // slow.
    assert!(begin.elapsed() < PATIENCE);
}

#[test]
fn an_answer_over_the_limit_is_an_error_and_the_channel_lives_on() {
    let stage = Stage::new();
    let mut started = started(&stage, |builder| builder.max_message(2000));
    let puppet = &mut started.puppet;
    let error = call_while(&started.function, &json!(1), || {
        puppet.hear();
        puppet.answer(&json!("x".repeat(5000)));
    });
    let error = Chain(&error.unwrap_err()).to_string();
    assert!(
        error.contains("the answer to the call of function f") && error.contains("longer than the limit of 2000"),
        "{error}"
    );
    let error = Chain(&started.function.call::<Value>(("x".repeat(5000),)).unwrap_err()).to_string();
    assert!(error.contains("longer than the limit of 2000"), "{error}");
    let answer = call_while(&started.function, &json!(2), || {
        assert_eq!(puppet.hear_json()["arg"][0], 2);
        puppet.answer(&json!("fine"));
    });
    assert_eq!(answer.unwrap(), "fine");
}

/// Repeats the handshake on the function's channel until the test is over.
fn flood(stage: &Stage) -> std::thread::JoinHandle<()> {
    let mut rival = Puppet::greet(&stage.sockets().function("f").unwrap());
    rival.say(b"handshake");
    std::thread::spawn(move || rival.flood())
}

#[test]
fn whoever_stops_in_the_middle_of_a_message_is_hung_up_on_though_nobody_calls() {
    let stage = Stage::new();
    let mut started = started(&stage, |builder| builder.stall_timeout(Duration::from_millis(200)));
    let piece = &frame(b"\x80\0\0\x01handshake")[..15];
    // The channel was in use a moment ago.
    let answer = call_while(&started.function, &json!(0), || {
        started.puppet.hear();
        started.puppet.answer(&json!(0));
    });
    assert_eq!(answer.unwrap(), 0);
    for address in [stage.sockets().function("f").unwrap(), stage.sockets().control("p").unwrap()] {
        // Together with its header, or alone.
        let mut hasty = RawPeer::dial(&address);
        hasty.write(&[&REQ[..], piece].concat());
        hasty.expect(&REP);
        let mut slow = RawPeer::dial_as(&address, REQ, REP);
        slow.write(&piece[..10]);
        std::thread::sleep(Duration::from_millis(20));
        slow.write(&piece[10..]);
        hasty.expect_closed();
        slow.expect_closed();
    }
    let answer = call_while(&started.function, &json!(1), || {
        started.puppet.hear();
        started.puppet.answer(&json!("still there"));
    });
    assert_eq!(answer.unwrap(), "still there");
}

#[test]
fn a_flooder_stops_no_call() {
    let stage = Stage::new();
    let mut started = started(&stage, |builder| builder);
    let flooder = flood(&stage);
    for round in 0..20 {
        let puppet = &mut started.puppet;
        let answer = call_while(&started.function, &json!(round), || {
            assert_eq!(puppet.hear_json()["arg"][0], round);
            puppet.answer(&json!(round));
        });
        assert_eq!(answer.unwrap(), round);
    }
    drop(started);
    flooder.join().unwrap();
}

#[test]
fn a_flooder_prolongs_no_wait() {
    let stage = Stage::new();
    let started = started(&stage, |builder| builder.recv_timeout(Duration::from_millis(300)));
    let flooder = flood(&stage);
    let error = started.function.call::<Value>((1,)).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let error = started.function.call::<Value>((1,)).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    drop(started);
    flooder.join().unwrap();
}
