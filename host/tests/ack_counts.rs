//! Acknowledgements of several messages at once, from plugins that offer them
//! and from plugins that do not.
#![allow(clippy::unwrap_used)] // these are tests, helpers included

mod support;

use ekuiper_conformance::raw::{RawPeer, frame};
use ekuiper_core::message::AckCount;
use ekuiper_host::{Error, Host, PendingAck, Sink};
use serde_json::json;
use support::sinks::{close_sink, close_while, started, started_reporting};
use support::{Puppet, Stage, kill, send_acked, wait_until};

const REFUSAL: &[u8] = br#"{"error":"of this"}"#;

fn count(messages: u32) -> Vec<u8> {
    frame(&AckCount(messages).encode())
}

/// The sink `k`, with the plugin's ends of its channels.
struct Counting {
    sink: Sink,
    data: RawPeer,
    acks: RawPeer,
}

impl Counting {
    fn open(stage: &Stage, host: &Host, control: &mut Puppet) -> Self {
        std::thread::scope(|scope| {
            let open = scope.spawn(|| host.sink("k").rule("r").operator("k").require_ack(true).open());
            assert_eq!(control.expect("start", "k").get("ackCounts"), Some(&json!(true)));
            let acks = stage.acks("r");
            let data = stage.answer_sink(control);
            Self { sink: open.join().unwrap().unwrap(), data, acks }
        })
    }

    /// Sends so many messages, which arrive.
    fn send(&mut self, messages: usize) -> Vec<PendingAck> {
        let sent = (0..messages).map(|number| self.sink.send_async(&json!(number)).unwrap()).collect();
        std::thread::scope(|scope| {
            // What is batched is written when a caller waits, or soon.
            let flush = scope.spawn(|| self.sink.flush(std::time::Duration::ZERO));
            (0..messages).for_each(|number| assert_eq!(self.data.frame(), number.to_string().into_bytes()));
            let _ = flush.join().unwrap();
        });
        sent
    }

    fn refuses_the_next(&mut self) {
        let error =
            send_acked(&self.sink, &json!("next"), &mut self.data, &mut self.acks, REFUSAL).unwrap_err().to_string();
        assert_eq!(error, "sink k: of this");
    }

    fn close(self, stage: &Stage, control: &mut Puppet) {
        drop(self.data);
        close_sink(stage, control, self.sink);
    }
}

fn counting(test: impl FnOnce(&Stage, &Host, &mut Puppet, Counting)) {
    let stage = Stage::new();
    let (host, mut control) = started_reporting(&stage, "exec sleep 1000");
    let counting = Counting::open(&stage, &host, &mut control);
    test(&stage, &host, &mut control, counting);
}

/// Closes a sink whose messages are not all known to be collected.
fn close_unsettled(stage: &Stage, control: &mut Puppet, data: RawPeer, sink: Sink) {
    drop(data);
    stage.remove_sink();
    close_while(control, "k", || {
        let _ = sink.close();
        Ok(())
    });
}

/// Nobody knows what became of these messages.
fn are_unknown(sent: Vec<PendingAck>) {
    for ack in sent {
        let error = ack.wait().unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    }
}

fn outcomes(sent: Vec<PendingAck>) -> Vec<Result<(), String>> {
    sent.into_iter().map(|ack| ack.wait().map_err(|error| error.to_string())).collect()
}

fn refused() -> Result<(), String> {
    Err("sink k: of this".into())
}

#[test]
fn a_count_acknowledges_the_messages_in_their_order_and_refusals_keep_their_place() {
    counting(|stage, host, control, mut counting| {
        let sent = counting.send(7);
        // The order of the waits does not matter.
        for words in [count(2), frame(REFUSAL), count(1), frame(b"{}"), frame(REFUSAL), count(1)] {
            counting.acks.write(&words);
        }
        let mut reversed = outcomes(sent.into_iter().rev().collect());
        reversed.reverse();
        assert_eq!(reversed, [Ok(()), Ok(()), refused(), Ok(()), Ok(()), refused(), Ok(())]);
        let delivery = counting.sink.delivery();
        assert_eq!((delivery.sent, delivery.delivered, delivery.refused), (7, 5, 2));
        let health = host.status("p").unwrap().symbols.remove(0);
        assert_eq!((health.rows_in, health.queue, health.latency.unwrap().count()), (7, Some(0), 7));
        counting.close(stage, control);
    });
}

#[test]
fn a_count_of_more_than_was_sent_is_worth_nothing_for_later_messages() {
    counting(|stage, _, control, mut counting| {
        for too_many in [4, u32::MAX] {
            let sent = counting.send(3);
            counting.acks.write(&count(too_many));
            assert_eq!(outcomes(sent), [Ok(()), Ok(()), Ok(())]);
            let delivery = counting.sink.delivery();
            assert_eq!(delivery.sent, delivery.delivered + delivery.refused);
            counting.refuses_the_next();
        }
        // Before anything was sent.
        for early in [1, u32::MAX] {
            counting.acks.write(&count(early).repeat(3));
            counting.refuses_the_next();
        }
        let sent = counting.send(2);
        counting.acks.write(&frame(REFUSAL).repeat(2));
        assert_eq!(outcomes(sent), [refused(), refused()]);
        counting.close(stage, control);
    });
}

#[test]
fn a_count_of_zero_acknowledges_nothing() {
    counting(|stage, _, control, mut counting| {
        let sent = counting.send(2);
        counting.acks.write(&count(0).repeat(1000));
        counting.acks.write(&frame(REFUSAL));
        counting.acks.write(&count(0));
        counting.acks.write(&count(1));
        assert_eq!(outcomes(sent), [refused(), Ok(())]);
        counting.refuses_the_next();
        counting.close(stage, control);
    });
}

#[test]
fn a_count_that_is_cut_off_or_too_long_is_an_answer_to_one_message_that_nobody_can_read() {
    counting(|stage, _, control, mut counting| {
        for wrong in [&b"\x06"[..], b"\x06\x02\0\0", b"\x06\x02\0\0\0\0", b""] {
            let sent = counting.send(2);
            counting.acks.write(&frame(wrong));
            counting.acks.write(&count(1));
            let mut outcomes = sent.into_iter().map(PendingAck::wait);
            let error = outcomes.next().unwrap().unwrap_err();
            assert!(matches!(error, Error::Message { .. }), "{wrong:?}: {error}");
            outcomes.next().unwrap().unwrap();
        }
        counting.close(stage, control);
    });
}

#[test]
fn a_count_covers_messages_whose_outcome_nobody_wants() {
    counting(|stage, _, control, mut counting| {
        let mut sent = counting.send(5);
        // The first, and the one that is refused.
        drop((sent.remove(3), sent.remove(0)));
        counting.acks.write(&count(3));
        counting.acks.write(&frame(REFUSAL));
        counting.acks.write(&count(1));
        assert_eq!(outcomes(sent), [Ok(()), Ok(()), Ok(())]);
        counting.refuses_the_next();
        counting.close(stage, control);
    });
}

#[test]
fn a_count_on_another_connection_acknowledges_nothing() {
    counting(|stage, _, control, mut counting| {
        send_acked(&counting.sink, &json!(0), &mut counting.data, &mut counting.acks, b"{}").unwrap();
        // A second connection of the plugin, beside the first.
        let mut second = stage.acks("r");
        let sent = counting.send(2);
        second.write(&count(2));
        counting.acks.write(&frame(REFUSAL).repeat(2));
        assert_eq!(outcomes(sent), [refused(), refused()]);
        // The first one ends, and the plugin connects again: what it counts
        // there may be of what it has counted before.
        let sent = counting.send(2);
        let mut third = stage.acks("r");
        drop(counting.acks);
        third.write(&count(2));
        are_unknown(sent);
        close_unsettled(stage, control, counting.data, counting.sink);
    });
}

#[test]
fn a_count_of_an_earlier_process_acknowledges_nothing_in_the_next() {
    let stage = Stage::new();
    let (host, mut control) = started_reporting(&stage, "exec sleep 1000");
    let mut former = Counting::open(&stage, &host, &mut control);
    let sent = former.send(2);
    kill(&host);
    are_unknown(sent);
    wait_until("the next process has begun", || host.status("p").unwrap().generation == 2);
    let mut control = Puppet::dial(&stage.sockets().control("p").unwrap());
    control.say(&support::sinks::reporting_hello());
    control.expect("start", "k");
    // Written to the next sink's channel before that has begun: as a process of
    // the former group may, that is about to end.
    let mut acks = stage.acks("r");
    acks.write(&count(100));
    let data = stage.answer_sink(&mut control);
    acks.write(&count(1));
    former.acks.try_write(&count(100));
    let mut next = Counting { sink: former.sink, data, acks };
    next.refuses_the_next();
    let sent = next.send(3);
    next.acks.write(&count(2));
    next.acks.write(&frame(REFUSAL));
    assert_eq!(outcomes(sent), [Ok(()), Ok(()), refused()]);
    // The two of the former process are not known to be collected.
    close_unsettled(&stage, &mut control, next.data, next.sink);
}

#[test]
fn a_plugin_that_does_not_offer_counts_is_not_asked_for_them_and_none_counts() {
    let stage = Stage::new();
    let (host, mut control) = started(&stage);
    let (sink, mut data, mut acks) = std::thread::scope(|scope| {
        let open = scope.spawn(|| host.sink("k").rule("r").operator("k").require_ack(true).open());
        assert_eq!(control.expect("start", "k").get("ackCounts"), None);
        let acks = stage.acks("r");
        let data = stage.answer_sink(&mut control);
        (open.join().unwrap().unwrap(), data, acks)
    });
    let error = send_acked(&sink, &json!(1), &mut data, &mut acks, &AckCount(1).encode()).unwrap_err();
    assert!(matches!(error, Error::Message { .. }), "{error}");
    send_acked(&sink, &json!(2), &mut data, &mut acks, b"{}").unwrap();
    drop(data);
    close_sink(&stage, &mut control, sink);
    // Nor is a plugin whose sink has no acks.
    let stage = Stage::new();
    let (host, mut control) = started_reporting(&stage, "exec sleep 1000");
    std::thread::scope(|scope| {
        let open = scope.spawn(|| host.sink("k").rule("r").operator("k").open());
        let about = control.expect("start", "k");
        assert_eq!((about.get("ackCounts"), about.get("reports")), (None, Some(&json!(true))));
        let data = stage.answer_sink(&mut control);
        let sink = open.join().unwrap().unwrap();
        drop(data);
        close_sink(&stage, &mut control, sink);
    });
}
