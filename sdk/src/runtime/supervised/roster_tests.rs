//! Tests of the roster: the symbols restored, and the answers to the engine.

use ekuiper_core::message::Control;
use serde_json::Map;

use super::*;

fn meta(op: &str) -> Meta {
    Meta { rule_id: "r".into(), op_id: op.into(), instance_id: 0 }
}

fn command(kind: CommandKind, control: Control) -> Vec<u8> {
    Command { kind, control }.encode().unwrap()
}

fn source(kind: CommandKind, op: &str) -> Vec<u8> {
    command(kind, Control::source("s", meta(op), "", Map::new()))
}

fn sink(kind: CommandKind, op: &str) -> Vec<u8> {
    command(kind, Control::sink("s", meta(op), Map::new()))
}

fn function() -> Vec<u8> {
    command(CommandKind::Start, Control::function("f"))
}

use CommandKind::{Start, Stop};

/// Executes a command of the engine in a worker.
fn carry_out(roster: &mut Roster, bytes: &[u8], launch: u64, answer: &str) -> String {
    let now = Instant::now();
    assert_eq!(roster.command(bytes.to_vec()), None);
    assert_eq!(roster.next(now).unwrap(), Order { command: bytes.to_vec(), again: false });
    assert_eq!(roster.next(now), None, "one at a time");
    String::from_utf8(roster.answered(launch, answer.into(), now).unwrap()).unwrap()
}

/// The commands for a new worker, which executes all of them.
fn replayed(roster: &mut Roster, launch: &mut u64) -> Vec<Vec<u8>> {
    let now = Instant::now();
    std::iter::from_fn(|| {
        let order = roster.next(now)?;
        assert!(order.again);
        *launch += 1;
        assert_eq!(roster.answered(*launch, b"ok".to_vec(), now), None);
        Some(order.command)
    })
    .collect()
}

#[test]
fn exactly_what_is_live_is_started_again() {
    let mut roster = Roster::default();
    for (launch, start) in [source(Start, "a"), sink(Start, "b"), function(), source(Start, "c")].iter().enumerate() {
        assert_eq!(carry_out(&mut roster, start, launch as u64 + 1, "ok"), "ok");
    }
    // Refused, stopped, started twice.
    assert_eq!(carry_out(&mut roster, &sink(Start, "x"), 5, "no"), "no");
    assert_eq!(carry_out(&mut roster, &source(Stop, "c"), 0, "ok"), "ok");
    assert_eq!(carry_out(&mut roster, &function(), 0, "ok"), "ok");
    assert_eq!(carry_out(&mut roster, &source(Start, "a"), 0, "it runs already"), "it runs already");
    for _ in 0..2 {
        assert_eq!(roster.worker_died("killed", Instant::now()), (None, None));
        let all = [function(), sink(Start, "b"), source(Start, "a")];
        assert_eq!(replayed(&mut roster, &mut 0), all);
    }
}

#[test]
fn what_ended_by_itself_is_not_started_again() {
    let mut roster = Roster::default();
    carry_out(&mut roster, &source(Start, "a"), 1, "ok");
    roster.over(1);
    // One symbol ends before its answer has arrived; of another the
    // predecessor ends meanwhile.
    roster.command(source(Start, "b"));
    roster.next(Instant::now());
    roster.over(2);
    roster.answered(2, b"ok".to_vec(), Instant::now());
    roster.command(source(Start, "a"));
    roster.next(Instant::now());
    roster.over(1);
    roster.answered(3, b"ok".to_vec(), Instant::now());
    roster.worker_died("killed", Instant::now());
    let mut launch = 0;
    assert_eq!(replayed(&mut roster, &mut launch), [source(Start, "a")]);
    roster.over(launch);
    assert_eq!(roster.len(), 0);
}

#[test]
fn a_command_under_way_is_answered_with_an_error() {
    let mut roster = Roster::default();
    let died = |roster: &mut Roster, bytes: Vec<u8>| {
        roster.command(bytes);
        roster.next(Instant::now()).unwrap();
        let (answer, sink) = roster.worker_died("signal: 9", Instant::now());
        (String::from_utf8(answer.unwrap()).unwrap(), sink)
    };
    let (answer, gone) = died(&mut roster, sink(Start, "a"));
    assert_eq!(answer, "the plugin's worker ended (signal: 9) during the start of sink s (r/a/0)");
    assert_eq!(gone, Some(meta("a")));
    assert_eq!(died(&mut roster, b"garbage".to_vec()).1, None);
    carry_out(&mut roster, &sink(Start, "b"), 1, "ok");
    let (answer, gone) = died(&mut roster, sink(Stop, "b"));
    assert!(answer.contains("during the stop of sink s (r/b/0)"), "{answer}");
    assert_eq!(gone, Some(meta("b")), "what was being stopped is not started again");
    assert_eq!(roster.next(Instant::now()), None);
}

#[test]
fn a_stop_needs_no_worker_and_a_start_waits_for_one() {
    let mut roster = Roster::default();
    carry_out(&mut roster, &source(Start, "a"), 1, "ok");
    carry_out(&mut roster, &sink(Start, "b"), 2, "ok");
    carry_out(&mut roster, &function(), 3, "ok");
    // A stop that was not sent yet when the worker dies.
    roster.command(sink(Stop, "b"));
    assert_eq!(roster.worker_died("killed", Instant::now()), (Some(b"ok".to_vec()), Some(meta("b"))));
    assert_eq!(roster.command(source(Stop, "a")), Some(b"ok".to_vec()));
    assert_eq!(roster.command(source(Start, "c")), None);
    let now = Instant::now();
    assert_eq!(roster.next(now), Some(Order { command: function(), again: true }));
    assert_eq!(roster.answered(1, b"ok".to_vec(), now), None);
    assert_eq!(roster.next(now), Some(Order { command: source(Start, "c"), again: false }));
    assert_eq!(roster.answered(2, b"ok".to_vec(), now), Some(b"ok".to_vec()));
    assert_eq!(roster.next(now), None);
}

#[test]
fn what_a_dead_worker_could_not_be_told_the_next_is() {
    let mut roster = Roster::default();
    carry_out(&mut roster, &source(Start, "a"), 1, "ok");
    let now = Instant::now();
    roster.command(source(Start, "b"));
    let order = roster.next(now);
    roster.not_told();
    assert_eq!(roster.worker_died("killed", now), (None, None));
    assert!(roster.next(now).unwrap().again);
    roster.not_told();
    assert_eq!(roster.next(now), Some(Order { command: source(Start, "a"), again: true }));
    roster.answered(1, b"ok".to_vec(), now);
    assert_eq!(roster.next(now), order);
}

#[test]
fn a_start_of_what_is_missing_is_the_second() {
    let mut roster = Roster::default();
    carry_out(&mut roster, &source(Start, "a"), 1, "ok");
    roster.worker_died("killed", Instant::now());
    roster.command(source(Start, "a"));
    let now = Instant::now();
    assert!(roster.next(now).unwrap().again);
    assert_eq!(roster.answered(1, b"ok".to_vec(), now), None);
    assert!(!roster.next(now).unwrap().again);
    assert_eq!(roster.answered(0, b"it runs already".to_vec(), now).unwrap(), b"it runs already");
}

#[test]
fn a_stop_of_what_is_being_started_again_waits_for_that() {
    let mut roster = Roster::default();
    carry_out(&mut roster, &source(Start, "a"), 1, "ok");
    roster.worker_died("killed", Instant::now());
    let now = Instant::now();
    assert!(roster.next(now).unwrap().again);
    assert_eq!(roster.command(source(Stop, "a")), None);
    roster.answered(1, b"ok".to_vec(), now);
    assert_eq!(roster.next(now), Some(Order { command: source(Stop, "a"), again: false }));
    assert_eq!(roster.answered(0, b"ok".to_vec(), now), Some(b"ok".to_vec()));
    assert_eq!(roster.len(), 0);
}

#[test]
fn one_that_is_refused_is_tried_again_later() {
    let mut roster = Roster::default();
    carry_out(&mut roster, &sink(Start, "a"), 1, "ok");
    let mut now = Instant::now();
    roster.worker_died("killed", now);
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        assert!(roster.next(now).unwrap().again);
        assert_eq!(roster.answered(0, b"no".to_vec(), now), None);
        assert_eq!(roster.next(now), None);
        assert_eq!(roster.next_at(), Some(now + Duration::from_secs(seconds)));
        now += Duration::from_secs(seconds);
    }
    assert_eq!(roster.sinks().collect::<Vec<_>>(), [&meta("a")]);
    assert!(roster.next(now).unwrap().again);
    roster.answered(1, b"ok".to_vec(), now);
    assert_eq!(roster.next_at(), None);
}
