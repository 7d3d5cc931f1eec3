//! Many rows to a sink in one `Sink::send_all`: each is a message of its own, as
//! if it was sent alone.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use ekuiper_conformance::wait_until;
use ekuiper_host::{Delivery, Error, Format, Host, Sink};
use ekuiper_interop::guard::{PATIENCE, Watchdog};
use ekuiper_interop::plugins::{Ledger, Mirror};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::{Value, json};

ekuiper_interop::over_each_transport_of_ours! {
    each_row_is_a_message,
    rows_before_one_that_cannot_be_sent_are_sent,
    a_refusal_is_that_of_the_first_row,
    a_stop_ends_it,
    rows_go_on_to_the_next_process,
    what_is_sent_is_not_taken_back_by_what_comes_then,
}

/// More than are encoded at a time, and more than a window of acknowledgements.
const ROWS: u64 = 3000;

fn rows(count: u64) -> Vec<Value> {
    (0..count).map(|number| json!({ "n": number })).collect()
}

/// The numbers of the rows in a file of the sink `file`.
fn numbers(path: &Path) -> Vec<u64> {
    let lines = std::fs::read_to_string(path).unwrap_or_default();
    let number = |line| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap();
    lines.lines().map(number).collect()
}

fn each_row_is_a_message(transport: &str) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let scratch = tempfile::tempdir().unwrap();
    for (format, sink, first_byte) in
        [(Format::MessagePack, "rows", "81"), (Format::MessagePack, "bytes", "7b"), (Format::Json, "rows", "7b")]
    {
        for require_ack in [false, true] {
            let host = Host::builder().transport(transport).format(format).plugin(ledger.folder()).build().unwrap();
            let path = scratch.path().join("lines");
            let sink = host.sink(sink).config(json!({ "path": path })).require_ack(require_ack).open().unwrap();
            let stopper = sink.stopper();
            sink.send_all::<Value>(&[]).unwrap();
            sink.send_all(&rows(ROWS)).unwrap();
            if require_ack {
                assert_eq!(sink.delivery().delivered, ROWS, "all are acknowledged");
            }
            sink.send(&json!({ "n": ROWS })).unwrap();
            sink.close().unwrap();
            let Delivery { sent, delivered, refused, .. } = stopper.delivery();
            assert_eq!((sent, delivered, refused), (ROWS + 1, ROWS + 1, 0));
            let expected: String = (0..=ROWS).map(|number| format!("{first_byte} [{{\"n\":{number}}}]\n")).collect();
            assert!(std::fs::read_to_string(&path).unwrap() == expected, "each row once, in its order");
            std::fs::remove_file(&path).unwrap();
            host.shutdown();
        }
    }
}

#[derive(Serialize)]
struct Reading {
    n: u64,
    value: f64,
    text: String,
}

fn rows_before_one_that_cannot_be_sent_are_sent(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let reading = |n| Reading { n, value: 0.5, text: String::new() };
    let whole = || (0..ROWS).map(reading).collect::<Vec<_>>();
    let mut not_a_number = whole();
    not_a_number[2000].value = f64::NAN;
    let mut too_long = whole();
    too_long[2000].text = "x".repeat(MAX_MESSAGE);
    for (name, rows, words) in [("nan", not_a_number, "NaN"), ("long", too_long, "longer than the limit")] {
        for require_ack in [false, true] {
            let path = mirror.scratch().join(format!("{name}{require_ack}"));
            let sink = open(&host, &path, require_ack);
            let error = sink.send_all(&rows).unwrap_err();
            let error = ekuiper_core::Chain(&error).to_string();
            assert!(error.contains(words), "{error}");
            // It can be used further.
            sink.send_all(&rows[2001..]).unwrap();
            sink.close().unwrap();
            assert_eq!(numbers(&path), (0..2000).chain(2001..ROWS).collect::<Vec<_>>(), "{name}");
        }
    }
}

fn a_refusal_is_that_of_the_first_row(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let mut rows = rows(100);
    (rows[30], rows[60]) = ("no row".into(), json!(7));
    let path = mirror.scratch().join("acks");
    let sink = open(&host, &path, true);
    let error = sink.send_all(&rows).unwrap_err();
    assert!(matches!(&error, Error::Sink { text, .. } if text.contains("neither")), "{error}");
    sink.send(&json!({ "n": 100 })).unwrap();
    sink.close().unwrap();
    let taken = numbers(&path);
    assert!(taken.starts_with(&(0..30).collect::<Vec<_>>()) && taken.ends_with(&[100]), "{taken:?}");
    // Nobody waits for acknowledgements: all are sent, and two are refused.
    let path = mirror.scratch().join("none");
    let sink = open(&host, &path, false);
    let stopper = sink.stopper();
    sink.send_all(&rows).unwrap();
    sink.close().unwrap();
    let Delivery { sent, delivered, refused, .. } = stopper.delivery();
    assert_eq!((sent, delivered, refused), (100, 98, 2));
}

fn a_stop_ends_it(transport: &str) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let host = Host::builder().transport(transport).plugin(ledger.folder()).send_timeout(PATIENCE).build().unwrap();
    for require_ack in [false, true] {
        let sink = host.sink("late").config(json!({ "pause": 2 })).require_ack(require_ack).open().unwrap();
        let stopper = sink.stopper();
        // More than fits into what is between the two.
        let rows = vec![json!({ "n": 1, "text": "x".repeat(1000) }); 30_000];
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| sink.send_all(&rows));
            wait_until("some are sent", || stopper.delivery().sent > 0);
            stopper.stop();
            assert!(matches!(sent.join().unwrap(), Err(Error::Stopped)));
        });
        stopper.abandon();
        drop(sink);
    }
}

/// Where a process ends, what it had not read is lost and counted, and nothing
/// is sent twice.
fn rows_go_on_to_the_next_process(transport: &str) {
    const ROUNDS: u64 = 200;
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let path = mirror.scratch().join("rows");
    let sink = open(&host, &path, false);
    let stopper = sink.stopper();
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| {
            for round in 0..ROUNDS {
                let rows: Vec<_> = (round * 500..(round + 1) * 500).map(|number| json!({ "n": number })).collect();
                sink.send_all(&rows).unwrap();
            }
        });
        for kill in 1..=3 {
            let before = stopper.delivery().sent;
            wait_until("it goes on", || stopper.delivery().sent > before + 500 || sent.is_finished());
            let process = Pid::from_raw(host.pid("mirror").unwrap() as i32).unwrap();
            kill_process(process, Signal::KILL).unwrap();
            wait_until("it is back", || host.status("mirror").unwrap().restarts >= kill || sent.is_finished());
        }
        sent.join().unwrap();
    });
    let closed = sink.close();
    let Delivery { sent, delivered, .. } = stopper.delivery();
    assert_eq!(sent, ROUNDS * 500);
    let numbers = numbers(&path);
    assert!(numbers.is_sorted_by(|one, next| one < next), "each at most once, in their order");
    assert_eq!(numbers.last(), Some(&(sent - 1)), "the last process has read all that it was sent");
    // What was written and not reported counts as lost, too.
    assert!(delivered <= numbers.len() as u64, "{delivered} of {}", numbers.len());
    match closed {
        Ok(()) => assert_eq!(delivered, sent),
        Err(Error::NotCollected { missing, .. }) => assert_eq!(missing, sent - delivered),
        Err(error) => panic!("{error}"),
    }
}

/// Maximum length of a message.
const MAX_MESSAGE: usize = 1 << 20;

fn host(mirror: &Mirror, transport: &str) -> Host {
    let builder = Host::builder().transport(transport).plugin(mirror.folder()).max_message(MAX_MESSAGE);
    builder.ipc_dir(mirror.scratch().join("s")).build().unwrap()
}

fn open(host: &Host, path: &Path, require_ack: bool) -> Sink {
    host.sink("file").rule("r").config(json!({ "path": path })).require_ack(require_ack).open().unwrap()
}

/// No row needs a process that has nothing left to take.
fn what_is_sent_is_not_taken_back_by_what_comes_then(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let path = mirror.scratch().join("rows");
    let sink = open(&host, &path, false);
    // Each is longer than what is encoded at a time.
    let long = |n| json!({ "n": n, "text": "x".repeat(20_000) });
    sink.send_all(&[long(0), long(1)]).unwrap();
    sink.stopper().stop();
    sink.send_all::<Value>(&[]).unwrap();
    let unsendable = [Reading { n: 1, value: f64::NAN, text: String::new() }];
    let error = ekuiper_core::Chain(&sink.send_all(&unsendable).unwrap_err()).to_string();
    assert!(error.contains("NaN"), "{error}");
    assert!(matches!(sink.send_all(&[long(2)]), Err(Error::Stopped)));
    sink.close().unwrap();
    assert_eq!(numbers(&path), [0, 1]);
}
