//! The end of a source or a sink, for every behaviour of its plugin: what
//! closing it returns.
#![allow(clippy::unwrap_used)] // these are tests, helpers included

mod support;

use std::time::Duration;

use ekuiper_conformance::raw::{RawPeer, frame};
use ekuiper_host::{Chain, Error, Host, Sink};
use rustix::process::Signal;
use serde_json::json;
use support::logged::Logged;
use support::sinks::{
    A_MOMENT, close_sink, close_while, open_sink, open_sink_without_acks, open_source, started, started_as,
    started_reporting, started_with,
};
use support::{PATIENCE, Puppet, Stage, kill, signal, wait_until};

/// Sends messages to a sink of a plugin that reports nothing, and reads them
/// there.
fn all_are_read(sink: &Sink, data: &mut RawPeer, messages: u64) {
    std::thread::scope(|scope| {
        scope.spawn(|| (0..messages).for_each(|number| sink.send(&json!(number)).unwrap()));
        (0..messages).for_each(|number| assert_eq!(data.frame(), number.to_string().into_bytes()));
    });
    sink.flush(PATIENCE).unwrap();
    assert_eq!(sink.delivery().delivered, messages);
}

/// Closes a sink that has read five messages, with `end` happening instead of
/// the stop's answer: nothing was collected, for this reason.
fn nothing_is_known_to_be_collected(end: impl FnOnce(&Host, &mut Puppet), reason: &str) {
    let stage = Stage::new();
    let build = |builder: ekuiper_host::HostBuilder| builder.recv_timeout(A_MOMENT * 5).grace(A_MOMENT);
    let (host, mut control) = started_with(&stage, build);
    let (sink, mut data) = open_sink_without_acks(&stage, &host, &mut control);
    let stopper = sink.stopper();
    all_are_read(&sink, &mut data, 5);
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        end(&host, &mut control);
        let error = closed.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("5 of 5 messages to sink k are not known to have been collected: "), "{error}");
        assert!(error.contains(reason), "{error}");
    });
    assert_eq!((stopper.delivery().delivered, host.status("p").unwrap().traffic.lost), (0, 5));
}

#[test]
fn what_a_plugin_that_tells_nothing_is_not_known_to_have_read_is_not_counted_as_delivered() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, mut data) = open_sink_without_acks(&stage, &host, &mut control);
    let stopper = sink.stopper();
    (0..5).for_each(|number| sink.send(&json!(number)).unwrap());
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        assert_eq!(data.frame(), b"0");
        assert!(!closed.is_finished(), "a message that was not read was counted");
        // The connection ends with the other messages unread; the process is
        // alive.
        drop(data);
        stage.remove_sink();
        control.expect_stop("k");
        let error = closed.join().unwrap().unwrap_err();
        assert!(
            error.to_string().contains("5 of 5 messages to sink k are not known to have been collected"),
            "{error}"
        );
    });
    assert_eq!(stopper.delivery().delivered, 0);
}

#[test]
fn a_sink_of_a_plugin_that_tells_nothing_is_given_time_for_what_it_has_read() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, mut data) = open_sink_without_acks(&stage, &host, &mut control);
    let started = std::time::Instant::now();
    sink.send(&json!(1)).unwrap();
    assert_eq!(data.frame(), b"1");
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        // The official Go SDK answers a start before the sink is open.
        control.expect("stop", "k");
        assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
        stage.remove_sink();
        control.say(b"ok");
        closed.join().unwrap().unwrap();
    });
}

#[test]
fn what_a_plugin_that_tells_nothing_has_read_is_not_counted_when_it_ends_before_it_rests() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, mut data) = open_sink_without_acks(&stage, &host, &mut control);
    let stopper = sink.stopper();
    (0..5).for_each(|number| sink.send(&json!(number)).unwrap());
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        (0..5).for_each(|number| assert_eq!(data.frame(), number.to_string().into_bytes()));
        wait_until("all is known to be read", || stopper.delivery().delivered == 5);
        kill(&host);
        let error = closed.join().unwrap().unwrap_err().to_string();
        assert!(
            error.contains("5 of 5 messages to sink k are not known to have been collected: its process ended"),
            "{error}"
        );
    });
    assert_eq!(stopper.delivery().delivered, 0);
}

#[test]
fn a_sink_that_is_given_up_is_closed_at_once_and_stopped_in_the_background() {
    let stage = Stage::new();
    let (host, mut control) = started_with(&stage, |builder| builder.recv_timeout(PATIENCE * 2));
    let (sink, mut data) = open_sink_without_acks(&stage, &host, &mut control);
    let stopper = sink.stopper();
    sink.send(&json!(1)).unwrap();
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        stopper.abandon();
        // The plugin has not answered the stop.
        wait_until("the close returns", || closed.is_finished());
        let error = closed.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::NotCollected { missing: 1, sent: 1, .. }), "{error}");
        assert!(error.to_string().contains("are not known to have been collected: the wait for it"), "{error}");
        // The same sink is opened again once it is stopped.
        let open = scope.spawn(|| host.sink("k").rule("r").operator("k").open());
        control.expect("stop", "k");
        std::thread::sleep(A_MOMENT);
        assert!(!open.is_finished(), "{:?}", open.join().map(|opened| opened.map(|_| ())));
        assert_eq!(data.frame(), b"1");
        drop(data);
        stage.remove_sink();
        control.say(b"ok");
        control.expect("start", "k");
        let data = stage.answer_sink(&mut control);
        let again = open.join().unwrap().unwrap();
        drop(data);
        close_sink(&stage, &mut control, again);
    });
}

#[test]
fn a_sink_that_has_collected_everything_and_is_not_stopped_says_both() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, mut data) = open_sink_without_acks(&stage, &host, &mut control);
    sink.send(&json!(1)).unwrap();
    assert_eq!(data.frame(), b"1");
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        control.expect("stop", "k");
        control.say(b"not now");
        let error = closed.join().unwrap().unwrap_err();
        let text = Chain(&error).to_string();
        let Error::NotStopped { collected: 1, source, .. } = error else { panic!("{text}") };
        assert!(matches!(*source.0, Error::Refused { .. }), "{source}");
        assert!(text.contains("sink k has collected everything (1 message)") && text.contains("not now"), "{text}");
    });
}

#[test]
fn a_sink_that_is_open_is_not_opened_again() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, data) = open_sink_without_acks(&stage, &host, &mut control);
    let open =
        |rule: &str, operator: &str| host.sink("k").rule(rule).operator(operator).open().map(|_| ()).unwrap_err();
    let error = open("r", "k");
    assert!(matches!(&error, Error::InUse { wanted, owner, .. } if wanted == owner), "{error:?}");
    assert!(error.to_string().contains("is open already: close it first"), "{error}");
    let live = &host.status("p").unwrap().symbols[0];
    let meta: &ekuiper_host::Meta = &live.meta;
    assert_eq!(meta.rule_id, "r");
    drop(data);
    close_sink(&stage, &mut control, sink);
}

#[test]
fn what_was_only_read_when_its_process_ends_before_the_stop_s_answer_is_not_counted() {
    let end = |host: &Host, control: &mut Puppet| {
        control.expect("stop", "k");
        kill(host);
    };
    nothing_is_known_to_be_collected(end, "its process ended (signal 9)");
}

#[test]
fn what_a_stopped_process_has_only_read_is_not_counted() {
    // The process is idle, but not done.
    let end = |host: &Host, control: &mut Puppet| {
        signal(host, Signal::STOP);
        control.expect("stop", "k");
    };
    nothing_is_known_to_be_collected(end, "its process ended (signal 9)");
}

#[test]
fn what_was_only_read_when_the_host_is_shut_down_is_not_counted() {
    let end = |host: &Host, control: &mut Puppet| {
        std::thread::scope(|scope| {
            scope.spawn(|| host.shutdown());
            control.expect_stop("k");
        });
    };
    nothing_is_known_to_be_collected(end, "ended");
}

#[test]
fn what_was_only_read_when_the_wait_is_given_up_is_not_counted() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, mut data) = open_sink_without_acks(&stage, &host, &mut control);
    let stopper = sink.stopper();
    all_are_read(&sink, &mut data, 5);
    stopper.abandon();
    let error = sink.close().unwrap_err();
    assert!(matches!(error, Error::NotCollected { missing: 5, sent: 5, .. }), "{error}");
    assert!(error.to_string().ends_with("the wait for it was given up"), "{error}");
    assert_eq!(stopper.delivery().delivered, 0);
}

#[test]
fn the_time_for_what_was_read_is_not_longer_than_a_drain_may_take() {
    let stage = Stage::new();
    let (host, mut control) = started_with(&stage, |builder| builder.drain_timeout(A_MOMENT));
    let (sink, mut data) = open_sink_without_acks(&stage, &host, &mut control);
    all_are_read(&sink, &mut data, 5);
    let error = sink.close().unwrap_err();
    assert!(matches!(error, Error::NotCollected { missing: 5, sent: 5, .. }), "{error}");
    assert!(error.to_string().contains("raise drain_timeout to wait longer"), "{error}");
}

#[test]
fn what_a_plugin_may_hold_when_it_ends_is_not_counted_though_it_was_read_long_before() {
    const MESSAGES: u64 = 200;
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, mut data) = open_sink_without_acks(&stage, &host, &mut control);
    all_are_read(&sink, &mut data, MESSAGES);
    kill(&host);
    // The maximum in an official SDK's queue and in its hands.
    let error = sink.close().unwrap_err();
    assert!(matches!(error, Error::NotCollected { missing: 130, sent: MESSAGES, .. }), "{error}");
}

#[test]
fn what_is_reported_on_another_connection_is_counted() {
    let stage = Stage::new();
    let (host, mut control) = started_reporting(&stage, "exec sleep 1000");
    let (sink, mut data) = open_sink_without_acks(&stage, &host, &mut control);
    // As one that is stopped while it connects: it gives that up.
    drop(stage.acks("r"));
    (0..5).for_each(|number| sink.send(&json!(number)).unwrap());
    (0..5).for_each(|number| assert_eq!(data.frame(), number.to_string().into_bytes()));
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        std::thread::sleep(A_MOMENT);
        for collected in ["2", "5"] {
            stage.acks("r").write(&frame(format!("{{\"collected\":{collected}}}").as_bytes()));
        }
        stage.remove_sink();
        control.expect_stop("k");
        closed.join().unwrap().unwrap();
    });
    assert_eq!(host.status("p").unwrap().traffic.lost, 0);
}

#[test]
fn what_is_reported_while_the_process_ends_is_counted() {
    let stage = Stage::new();
    let (told, end) = (stage.path().join("told"), stage.path().join("end"));
    // Told to end, the process takes its time.
    let script = format!(
        "trap 'touch {}; until test -e {}; do sleep 0.01; done; exit 0' TERM\nwhile true; do sleep 0.01; done",
        told.display(),
        end.display()
    );
    let (host, mut control) = started_reporting(&stage, &script);
    let (sink, mut data) = open_sink_without_acks(&stage, &host, &mut control);
    let mut reports = stage.acks("r");
    let stopper = sink.stopper();
    (0..5).for_each(|number| sink.send(&json!(number)).unwrap());
    (0..5).for_each(|number| assert_eq!(data.frame(), number.to_string().into_bytes()));
    std::thread::scope(|scope| {
        scope.spawn(|| host.shutdown());
        let closed = scope.spawn(|| sink.close());
        control.expect_stop("k");
        wait_until("it is told to end", || told.exists());
        reports.write(&frame(br#"{"collected":5}"#));
        wait_until("the report is read", || stopper.delivery().delivered == 5);
        std::fs::write(&end, "").unwrap();
        closed.join().unwrap().unwrap();
    });
    assert_eq!(host.status("p").unwrap().traffic.lost, 0);
}

#[test]
fn what_is_reported_at_the_stop_is_counted_though_the_wait_was_given_up() {
    let stage = Stage::new();
    let (host, mut control) = started_reporting(&stage, "exec sleep 1000");
    let (sink, mut data) = open_sink_without_acks(&stage, &host, &mut control);
    let mut reports = stage.acks("r");
    let stopper = sink.stopper();
    (0..5).for_each(|number| sink.send(&json!(number)).unwrap());
    (0..5).for_each(|number| assert_eq!(data.frame(), number.to_string().into_bytes()));
    reports.write(&frame(br#"{"collected":1}"#));
    wait_until("the report is read", || sink.delivery().delivered == 1);
    stopper.abandon();
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        // The stop is not answered.
        control.expect("stop", "k");
        reports.write(&frame(br#"{"collected":3}"#));
        let error = closed.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::NotCollected { missing: 2, sent: 5, .. }), "{error}");
    });
}

#[test]
fn a_source_that_has_ended_by_itself_ends_for_its_reader_without_a_wait() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (mut source, mut peer) = open_source(&stage, &host, &mut control, 0);
    peer.write(&frame(br#"{"message":1,"meta":null}"#));
    assert_eq!(source.next_within(PATIENCE).unwrap().unwrap().message, 1);
    drop(peer);
    // A wait would get no time.
    wait_until("it is over", || matches!(source.next_within(Duration::ZERO), Ok(None)));
    close_while(&mut control, "s", || source.close());
}

#[test]
fn a_plugin_that_refuses_a_stop_is_not_waited_for() {
    // The end may be seen before the answer; then retry.
    let is_refused = (0..20).any(|_| {
        let stage = Stage::new();
        let (host, mut control) = started(&stage);
        let (source, _peer) = open_source(&stage, &host, &mut control, 0);
        std::thread::scope(|scope| {
            let closed = scope.spawn(|| source.close());
            control.expect("stop", "s");
            control.say(b"not now");
            // A wait for the end would see it.
            kill(&host);
            matches!(closed.join().unwrap(), Err(Error::Refused { .. }))
        })
    });
    assert!(is_refused);
}

#[test]
fn what_a_close_has_returned_is_not_logged_as_a_drop_s() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let mut warnings_of = |end: &dyn Fn(Sink)| {
        let (sink, data) = open_sink_without_acks(&stage, &host, &mut control);
        sink.send(&json!(1)).unwrap();
        sink.stopper().abandon();
        let warnings = Logged::at(tracing::Level::WARN);
        tracing::subscriber::with_default(warnings.clone(), || end(sink));
        drop(data);
        stage.remove_sink();
        control.expect_stop("k");
        warnings
    };
    let lost = "plugin p may have lost 1 message to sink k";
    assert_eq!(warnings_of(&|sink| assert!(sink.close().is_err())).messages(), [lost]);
    let dropped = warnings_of(&drop::<Sink>);
    // A thread of the host closes it; the shutdown waits for that.
    host.shutdown();
    assert_eq!(dropped.messages(), [lost, "a dropped sink was not closed gracefully"]);
}

/// Opens a sink of a plugin that works as long as `busy` exists and sends it a
/// message, which it does not read.
fn open_busy_sink(stage: &Stage, script: &str) -> (Host, Puppet, Sink, RawPeer) {
    let (host, mut control) =
        started_as(stage, script, |builder| builder.drain_stall(A_MOMENT * 5).drain_timeout(PATIENCE));
    let (sink, data) = open_sink_without_acks(stage, &host, &mut control);
    sink.send(&json!(1)).unwrap();
    (host, control, sink, data)
}

/// A plugin that reports nothing shows its progress by its work.
#[test]
fn a_sink_of_a_process_that_works_is_waited_for() {
    let stage = Stage::new();
    let busy = stage.path().join("busy");
    std::fs::write(&busy, "").unwrap();
    let script = format!("while test -e {}; do :; done\nexec sleep 1000", busy.display());
    let (_host, mut control, sink, mut data) = open_busy_sink(&stage, &script);
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        // Longer than it may make no progress.
        std::thread::sleep(A_MOMENT * 20);
        assert!(!closed.is_finished(), "{:?}", closed.join());
        assert_eq!(data.frame(), b"1");
        // Longer than a process is waited for that only wakes up now and then.
        std::thread::sleep(A_MOMENT * 35);
        assert!(!control.has_something(), "it was stopped while it worked");
        std::fs::remove_file(&busy).unwrap();
        control.expect("stop", "k");
        drop(data);
        stage.remove_sink();
        control.say(b"ok");
        closed.join().unwrap().unwrap();
    });
}

/// The official SDKs send keepalives, also while a symbol hangs.
#[test]
fn keepalives_are_no_work() {
    let stage = Stage::new();
    // Wakes up with each keepalive.
    let (host, mut control, sink, _data) = open_busy_sink(&stage, "while true; do sleep 0.05; done");
    let error = std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        while !closed.is_finished() {
            control.say(b"handshake");
            std::thread::sleep(A_MOMENT / 5);
        }
        closed.join().unwrap().unwrap_err().to_string()
    });
    assert!(error.contains("it made no progress for 500ms"), "{error}");
    drop(host);
}

/// A sink that fails closes its channel itself, with what it has read.
#[test]
fn what_a_sink_has_read_that_ends_by_itself_is_not_counted() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, mut data) = open_sink_without_acks(&stage, &host, &mut control);
    all_are_read(&sink, &mut data, 5);
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        drop(data);
        stage.remove_sink();
        control.expect_stop("k");
        let error = closed.join().unwrap().unwrap_err().to_string();
        let told = "5 of 5 messages to sink k are not known to have been collected: its connection ended";
        assert!(error.contains(told), "{error}");
    });
}

/// A stop that is not answered is no end of the process, though the host ends
/// it then.
#[test]
fn a_stop_that_is_not_answered_has_failed() {
    let stage = Stage::new();
    let (host, mut control) = started_with(&stage, |builder| builder.recv_timeout(A_MOMENT * 5).grace(A_MOMENT));
    let (sink, mut data, mut acks) = open_sink(&stage, &host, &mut control);
    std::thread::scope(|scope| {
        let sent = scope.spawn(move || {
            let first = sink.send(&json!(1));
            // The second message is not acknowledged.
            (first, sink.send(&json!(2)), sink)
        });
        assert_eq!(data.frame(), b"1");
        acks.write(&frame(b"{}"));
        let (first, second, sink) = sent.join().unwrap();
        assert!(first.is_ok() && matches!(second, Err(Error::Timeout { .. })), "{first:?} {second:?}");
        let error = sink.close().unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::NotStopped { collected: 1, sent: 2, .. }), "{text}");
        assert!(
            text.contains("sink k has collected 1 of 2 messages (1 of unknown outcome, as reported before)"),
            "{text}"
        );
    });
}

/// A plugin that is told to end refuses commands that it has not carried out.
#[test]
fn a_process_is_ended_once_its_sinks_are_stopped_whoever_stops_them() {
    let stage = Stage::new();
    let told = stage.path().join("told");
    let script = format!("trap 'touch {}; exit 0' TERM\nwhile true; do sleep 0.01; done", told.display());
    let (host, mut control) = started_as(&stage, &script, |builder| builder.recv_timeout(PATIENCE).grace(PATIENCE));
    let (sink, data) = open_sink_without_acks(&stage, &host, &mut control);
    sink.stopper().abandon();
    // The sink is stopped in the background.
    sink.close().unwrap();
    control.expect("stop", "k");
    std::thread::scope(|scope| {
        // As two callers do at the end of a command.
        let ended = [scope.spawn(|| host.shutdown()), scope.spawn(|| host.shutdown())];
        std::thread::sleep(A_MOMENT * 3);
        assert!(!told.exists(), "the process is told to end while it stops the sink");
        drop(data);
        stage.remove_sink();
        control.say(b"ok");
        wait_until("it is told to end", || told.exists());
        ended.into_iter().for_each(|ended| ended.join().unwrap());
    });
}

/// A stop that is not answered ends neither the shutdown nor the close.
#[test]
fn a_shutdown_ends_though_a_stop_is_not_answered() {
    for acks in [true, false] {
        let stage = Stage::new();
        let (host, mut control) = started_with(&stage, |builder| builder.recv_timeout(PATIENCE).grace(A_MOMENT));
        let sink = match acks {
            true => open_sink(&stage, &host, &mut control).0,
            false => open_sink_without_acks(&stage, &host, &mut control).0,
        };
        sink.stopper().abandon();
        // Not dropped, which would wait too.
        let host: &'static Host = Box::leak(Box::new(host));
        let ended = [
            std::thread::spawn(|| host.shutdown()),
            std::thread::spawn(|| host.shutdown()),
            std::thread::spawn(|| drop(sink.close())),
        ];
        wait_until("the shutdown ends", || ended.iter().all(|ended| ended.is_finished()));
    }
}
