//! Sources and sinks, for every behaviour of the plugin.
#![allow(clippy::unwrap_used)] // these are tests, helpers included

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ekuiper_conformance::raw::frame;
use ekuiper_host::{Error, HostBuilder, PluginState, RestartPolicy};
use serde_json::json;
use support::sinks::{
    A_MOMENT, close_sink, close_while, open_sink, open_sink_without_acks, open_source, started, started_with,
};
use support::{PATIENCE, Stage, kill, send_acked, wait_until};

#[test]
fn fault_11_tuples_errors_and_garbage_are_told_apart() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (mut source, mut peer) = open_source(&stage, &host, &mut control, 0);
    peer.write(&frame(br#"{"message":{"a":1},"meta":{"topic":"t"}}"#));
    peer.write(&frame(br#"{"error":"as Python says it"}"#));
    peer.write(&frame(br#""{\"error\":\"as Go says it\"}""#));
    peer.write(&frame(b"what?"));
    peer.write(&frame(br#"{"message":{"a":2},"meta":null}"#));
    let mut next = || source.next_within(PATIENCE);
    let first = next().unwrap().unwrap();
    assert_eq!((first.message, &first.meta["topic"]), (json!({ "a": 1 }), &json!("t")));
    for said in ["as Python says it", "as Go says it"] {
        assert_eq!(next().unwrap_err().to_string(), format!("source s: {said}"));
    }
    assert!(matches!(next(), Err(Error::Message { .. })));
    assert_eq!(next().unwrap().unwrap().message, json!({ "a": 2 }));
    // The source ends by itself, and stays ended.
    drop(peer);
    assert!(source.next_within(PATIENCE).unwrap().is_none());
    assert!(source.next().is_none());
    close_while(&mut control, "s", || source.close());
}

#[test]
fn fault_20_a_slow_reader_slows_the_source_and_nothing_is_dropped() {
    const TUPLES: usize = 100_000;
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (mut source, mut peer) = open_source(&stage, &host, &mut control, 0);
    let sent = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..TUPLES {
                peer.write(&frame(format!(r#"{{"message":{number},"meta":{{"filler":"{:100}"}}}}"#, "").as_bytes()));
                sent.fetch_add(1, Ordering::SeqCst);
            }
        });
        // Nobody reads: the source blocks, with a few buffers full.
        let mut seen = usize::MAX;
        while seen != sent.load(Ordering::SeqCst) {
            seen = sent.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(300));
        }
        assert!(seen > 0 && seen < TUPLES / 10, "{seen} went somewhere");
        for number in 0..TUPLES {
            assert_eq!(source.next_within(PATIENCE).unwrap().unwrap().message, number);
        }
    });
    drop(peer);
    close_while(&mut control, "s", || source.close());
}

#[test]
fn fault_14_instances_do_not_mix_and_collisions_are_refused() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (mut first, mut first_peer) = open_source(&stage, &host, &mut control, 0);
    let (mut second, mut second_peer) = open_source(&stage, &host, &mut control, 1);
    second_peer.write(&frame(br#"{"message":"second"}"#));
    first_peer.write(&frame(br#"{"message":"first"}"#));
    assert_eq!(first.next_within(PATIENCE).unwrap().unwrap().message, "first");
    assert_eq!(second.next_within(PATIENCE).unwrap().unwrap().message, "second");

    // Another symbol with the same socket: nothing is started.
    let error = host.source("s").rule("r").operator("s").instance(0).open().err().unwrap().to_string();
    assert!(error.contains("source s of r/s/0") && error.contains("is open already"), "{error}");
    drop((first_peer, second_peer));
    close_while(&mut control, "s", || first.close());
    close_while(&mut control, "s", || second.close());
}

#[test]
fn fault_10_a_message_is_sent_when_it_was_acknowledged() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, mut data, mut acks) = open_sink(&stage, &host, &mut control);
    send_acked(&sink, &json!([{ "a": 1 }]), &mut data, &mut acks, b"{}").unwrap();

    let error =
        send_acked(&sink, &json!({ "a": 2 }), &mut data, &mut acks, br#"{"error":"the disk is full"}"#).unwrap_err();
    assert_eq!(error.to_string(), "sink k: the disk is full");

    // An acknowledgement without a message answers nothing.
    acks.write(&frame(b"{}"));
    acks.write(&frame(br#"{"error":"of nothing"}"#));
    let error = send_acked(&sink, &json!({ "a": 3 }), &mut data, &mut acks, br#"{"error":"of this"}"#).unwrap_err();
    assert_eq!(error.to_string(), "sink k: of this");
    drop(data);
    close_sink(&stage, &mut control, sink);
}

#[test]
fn fault_10_after_a_missing_acknowledgement_none_is_trusted() {
    let stage = Stage::new();
    let (host, mut control) = started_with(&stage, |builder| builder.recv_timeout(Duration::from_secs(2)));
    let (sink, mut data, acks) = open_sink(&stage, &host, &mut control);
    let error = sink.send(&json!({ "a": 4 })).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let error = sink.send(&json!({ "a": 5 })).unwrap_err();
    assert!(matches!(error, Error::SinkBroken { .. }), "{error}");
    data.frame();
    drop((data, acks));
    close_sink(&stage, &mut control, sink);
}

#[test]
fn acknowledgements_from_before_a_message_do_not_count_for_it() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, mut data, mut acks) = open_sink(&stage, &host, &mut control);
    for round in 0..10 {
        // More than the idle reader reads at a time: it is still reading when
        // the message is sent. Not before the first message, whose answer shows
        // that the connection is read.
        acks.write(&frame(b"{}").repeat(if round == 0 { 0 } else { 3000 }));
        let error =
            send_acked(&sink, &json!({ "round": round }), &mut data, &mut acks, br#"{"error":"of this"}"#).unwrap_err();
        assert_eq!(error.to_string(), "sink k: of this", "in round {round}");
    }
    drop(data);
    close_sink(&stage, &mut control, sink);
}

#[test]
fn a_plugin_that_says_a_plain_handshake_gets_one_message_after_the_other() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, mut data, mut acks) = open_sink(&stage, &host, &mut control);
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| [1, 2].map(|number| sink.send_async(&json!({ "a": number })).unwrap()));
        assert_eq!(data.frame(), br#"{"a":1}"#);
        std::thread::sleep(A_MOMENT);
        assert!(!data.has_something(), "the first is not acknowledged yet");
        acks.write(&frame(b"{}"));
        assert_eq!(data.frame(), br#"{"a":2}"#);
        acks.write(&frame(br#"{"error":"full"}"#));
        let [first, second] = sent.join().unwrap();
        first.wait().unwrap();
        assert_eq!(second.wait().unwrap_err().to_string(), "sink k: full");
    });
    drop(data);
    close_sink(&stage, &mut control, sink);
}

#[test]
fn a_stopped_sink_ends_the_wait_for_an_ack_and_is_closed_in_order() {
    let stage = Stage::new();
    // The wait does not end by the deadline.
    let (host, mut control) = started_with(&stage, |builder| builder.recv_timeout(PATIENCE * 3));
    let (sink, mut data, _acks) = open_sink(&stage, &host, &mut control);
    let stopper = sink.stopper();
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| sink.send(&json!(1)));
        assert_eq!(data.frame(), b"1");
        stopper.stop();
        wait_until("the wait ends", || sent.is_finished());
        let error = sent.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Stopped), "{error}");
    });
    for _ in 0..2 {
        let error = sink.send(&json!(2)).unwrap_err();
        assert!(matches!(error, Error::Stopped), "{error}");
        stopper.stop();
    }
    close_sink(&stage, &mut control, sink);
    assert_eq!(data.try_frame(), None, "nothing but its end came after the first message");
}

#[test]
fn a_stopped_sink_ends_the_wait_for_a_plugin_that_takes_nothing() {
    let stage = Stage::new();
    let (host, mut control) = started_with(&stage, |builder| builder.send_timeout(PATIENCE * 3));
    let (sink, data) = open_sink_without_acks(&stage, &host, &mut control);
    let stopper = sink.stopper();
    let sent = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let rows = "x".repeat(10_000);
            loop {
                if let Err(error) = sink.send(&rows) {
                    return error;
                }
                sent.fetch_add(1, Ordering::SeqCst);
            }
        });
        // Nobody reads: the sink blocks.
        let mut seen = usize::MAX;
        while seen != sent.load(Ordering::SeqCst) {
            seen = sent.load(Ordering::SeqCst);
            std::thread::sleep(A_MOMENT);
        }
        stopper.stop();
        wait_until("the wait ends", || sender.is_finished());
        let error = sender.join().unwrap();
        assert!(matches!(error, Error::Stopped), "{error}");
    });
    drop(data);
    stage.remove_sink();
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        control.expect_stop("k");
        let error = closed.join().unwrap().unwrap_err();
        let all = sent.load(Ordering::SeqCst) as u64;
        assert!(matches!(error, Error::NotCollected { missing, sent, .. } if (missing, sent) == (all, all)), "{error}");
    });
}

#[test]
fn a_sink_that_was_stopped_between_messages_still_gets_all_that_was_sent() {
    let stage = Stage::new();
    let (host, mut control) = started_with(&stage, |builder| builder.send_timeout(PATIENCE * 3));
    let (sink, mut data) = open_sink_without_acks(&stage, &host, &mut control);
    sink.send(&json!(1)).unwrap();
    sink.stopper().stop();
    assert!(matches!(sink.send(&json!(2)), Err(Error::Stopped)));
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        std::thread::sleep(A_MOMENT);
        assert!(!closed.is_finished(), "it is drained first");
        assert_eq!(data.frame(), b"1");
        stage.remove_sink();
        control.expect_stop("k");
        closed.join().unwrap().unwrap();
    });
}

#[test]
fn a_stopped_sink_ends_the_wait_for_a_plugin_that_has_crashed() {
    let stage = Stage::new();
    let policy = {
        let mut policy = RestartPolicy::default();
        policy.first_pause = PATIENCE * 3;
        policy
    };
    let build = |builder: HostBuilder| builder.send_timeout(PATIENCE * 3).restart(policy);
    let (host, mut control) = started_with(&stage, build);
    let (sink, _data) = open_sink_without_acks(&stage, &host, &mut control);
    kill(&host);
    wait_until("the crash is noticed", || host.status("p").unwrap().state != PluginState::Running);
    let stopper = sink.stopper();
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| sink.send(&json!(1)));
        std::thread::sleep(A_MOMENT);
        assert!(!sent.is_finished());
        stopper.stop();
        wait_until("the wait ends", || sent.is_finished());
        let error = sent.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Stopped), "{error}");
    });
}

#[test]
fn a_plugin_that_stalls_in_the_middle_of_a_message_is_hung_up_on() {
    let stage = Stage::new();
    let (host, mut control) = started_with(&stage, |builder| builder.stall_timeout(Duration::from_millis(200)));
    let (mut source, mut peer) = open_source(&stage, &host, &mut control, 0);
    let tuple = frame(br#"{"message":1}"#);
    peer.write(&tuple);
    peer.write(&tuple[..tuple.len() - 1]);
    assert_eq!(source.next_within(PATIENCE).unwrap().unwrap().message, 1);
    // Sooner than by default, which is after 10 s.
    assert!(source.next_within(Duration::from_secs(8)).unwrap().is_none(), "half a message is none");
    peer.expect_closed();
    close_while(&mut control, "s", || source.close());
}

#[test]
fn a_second_connection_to_a_source_s_socket_neither_ends_it_nor_is_heard() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (mut source, mut peer) = open_source(&stage, &host, &mut control, 0);
    peer.write(&frame(br#"{"message":1}"#));
    assert_eq!(source.next_within(PATIENCE).unwrap().unwrap().message, 1);
    let mut expect_nothing = || {
        let error = source.next_within(A_MOMENT).unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
    };
    let mut second = stage.source("r", 0);
    expect_nothing();
    second.write(&frame(br#"{"message":"forged"}"#));
    expect_nothing();
    drop(second);
    expect_nothing();
    peer.write(&frame(br#"{"message":2}"#));
    assert_eq!(source.next_within(PATIENCE).unwrap().unwrap().message, 2);
    drop(peer);
    close_while(&mut control, "s", || source.close());
}

#[test]
fn a_second_connection_to_an_ack_socket_acknowledges_nothing() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, mut data, mut acks) = open_sink(&stage, &host, &mut control);
    std::thread::scope(|scope| {
        send_acked(&sink, &json!(1), &mut data, &mut acks, b"{}").unwrap();

        let sent = scope.spawn(|| sink.send(&json!(2)));
        data.frame();
        let mut second = stage.acks("r");
        second.write(&frame(b"{}"));
        std::thread::sleep(A_MOMENT);
        assert!(!sent.is_finished(), "a forged acknowledgement was taken");
        drop(second);
        std::thread::sleep(A_MOMENT);
        assert!(!sent.is_finished(), "its end was taken for the sink's");
        acks.write(&frame(br#"{"error":"of this"}"#));
        assert_eq!(sent.join().unwrap().unwrap_err().to_string(), "sink k: of this");
    });
    drop(data);
    close_sink(&stage, &mut control, sink);
}

#[test]
fn no_ack_is_waited_for_that_cannot_come() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, mut data, mut acks) = open_sink(&stage, &host, &mut control);
    send_acked(&sink, &json!(1), &mut data, &mut acks, b"{}").unwrap();
    drop(acks);
    let error = sink.send(&json!(2)).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    drop(data);
    close_sink(&stage, &mut control, sink);
}

#[test]
fn a_flooder_at_a_source_s_or_an_ack_socket_holds_nobody_up() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (mut source, mut peer) = open_source(&stage, &host, &mut control, 0);
    let (sink, mut data, mut acks) = open_sink(&stage, &host, &mut control);
    peer.write(&frame(br#"{"message":0}"#));
    assert_eq!(source.next_within(PATIENCE).unwrap().unwrap().message, 0);
    send_acked(&sink, &json!(0), &mut data, &mut acks, b"{}").unwrap();
    let flooders = [stage.source("r", 0), stage.acks("r")];
    let flooders = flooders.map(|flooder| std::thread::spawn(move || flooder.flood(&frame(b"{}").repeat(1000))));
    for number in 1..20 {
        peer.write(&frame(format!(r#"{{"message":{number}}}"#).as_bytes()));
        assert_eq!(source.next_within(PATIENCE).unwrap().unwrap().message, number);
        let error = send_acked(&sink, &json!(number), &mut data, &mut acks, br#"{"error":"of this"}"#).unwrap_err();
        assert_eq!(error.to_string(), "sink k: of this");
    }
    let error = source.next_within(A_MOMENT).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    drop((peer, data));
    stage.remove_sink();
    close_while(&mut control, "s", || source.close());
    close_while(&mut control, "k", || sink.close());
    flooders.into_iter().for_each(|flooder| flooder.join().unwrap());
}

#[test]
fn a_shutdown_is_told_apart_from_the_end_of_a_source() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (mut ended, peer) = open_source(&stage, &host, &mut control, 0);
    drop(peer);
    assert!(ended.next().is_none(), "it has ended by itself");
    let (mut source, peer) = open_source(&stage, &host, &mut control, 1);
    std::thread::scope(|scope| {
        let shutdown = scope.spawn(|| host.shutdown());
        let reader = scope.spawn(move || [source.next(), source.next()]);
        control.expect("stop", "s");
        // It ends while its process lives.
        drop(peer);
        wait_until("the reader knows", || reader.is_finished());
        let [last, end] = reader.join().unwrap();
        assert!(matches!(last, Some(Err(Error::Stopped))), "{last:?}");
        assert!(end.is_none(), "{end:?}");
        drop(control);
        shutdown.join().unwrap();
    });
}

#[test]
fn a_wait_for_a_place_has_an_end() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, _data) = open_sink_without_acks(&stage, &host, &mut control);
    let open = |patience| host.sink("k").rule("r").wait_for_place(patience).open().map(|_| ()).unwrap_err();
    assert!(matches!(open(A_MOMENT), Error::InUse { .. }));
    // Every wait ends with the host.
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| open(PATIENCE * 100));
        std::thread::sleep(A_MOMENT);
        assert!(!waits.is_finished());
        drop(control);
        host.shutdown();
        wait_until("the wait ends", || waits.is_finished());
        let error = waits.join().unwrap();
        assert!(matches!(error, Error::Stopped), "{error}");
    });
    drop(sink);
}
