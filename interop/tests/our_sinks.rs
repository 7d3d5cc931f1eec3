//! The end of a sink of ours: everything that was sent was collected, or it is
//! told how much was not.
//!
//! The sink `file` of the plugin `mirror` writes to a pipe here: it collects no
//! faster than the test reads.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use ekuiper_conformance::wait_until;
use ekuiper_host::{
    Delivery, Error, Event, EventKind, Format, Host, HostBuilder, Package, PluginState, RawTuple, Sink,
};
use ekuiper_interop::guard::{PATIENCE, Watchdog};
use ekuiper_interop::plugins::{Ledger, Mirror};
use futures::executor::block_on;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

ekuiper_interop::over_each_transport_of_ours! {
    a_closing_waits_until_everything_is_collected,
    what_is_not_collected_is_told_with_its_number,
    a_dropped_sink_tells_what_it_has_cost,
    a_crash_while_a_sink_is_drained_is_told_with_the_number,
    sinks_that_are_drained_hold_nobody_up,
    an_update_waits_for_what_was_sent,
    a_shutdown_ends_the_wait_at_once,
    what_is_collected_while_the_host_shuts_down_is_counted,
    what_a_sink_refuses_without_acknowledgements_is_counted,
    outstanding_acknowledgements_are_waited_for,
    rows_come_in_a_codec_that_the_sink_reads,
    records_pass_from_a_source_to_a_sink_undecoded,
}

/// Longer than a page, which is all that the pipe holds: each row is written
/// when the test reads.
const ROW: usize = 5000;

/// What the sink writes to.
struct Pipe {
    path: PathBuf,
    end: BufReader<File>,
}

impl Pipe {
    fn new(mirror: &Mirror, name: &str) -> Self {
        let path = mirror.scratch().join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        // Both ends, so that neither side waits for the other to open it.
        let end = File::options().read(true).write(true).open(&path).unwrap();
        fcntl_setpipe_size(&end, 4096).unwrap();
        Self { path, end: BufReader::with_capacity(ROW, end) }
    }

    fn open(&self, host: &Host, rule: &str, acks: bool) -> Sink {
        let config = json!({ "path": self.path });
        host.sink("file").rule(rule).config(config).require_ack(acks).open().unwrap()
    }

    /// The number of the next row.
    fn next(&mut self) -> u64 {
        let mut line = String::new();
        self.end.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()["n"].as_u64().unwrap()
    }
}

fn row(number: u64) -> Value {
    json!({ "n": number, "filler": "x".repeat(ROW) })
}

fn send(sink: &Sink, rows: u64) {
    (0..rows).for_each(|number| sink.send(&row(number)).unwrap());
}

fn host(mirror: &Mirror, transport: &str, set: impl FnOnce(HostBuilder) -> HostBuilder) -> Host {
    let builder = Host::builder().transport(transport).plugin(mirror.folder());
    set(builder.ipc_dir(mirror.scratch().join("s")).drain_stall(PATIENCE)).build().unwrap()
}

/// How many messages were told to be lost.
fn lost(events: &std::sync::mpsc::Receiver<Event>) -> u64 {
    let lost = |event: Event| match event.kind {
        EventKind::Lost { messages, .. } => messages,
        _ => 0,
    };
    events.try_iter().map(lost).sum()
}

fn a_closing_waits_until_everything_is_collected(transport: &str) {
    const ROWS: u64 = 25;
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let mut pipe = Pipe::new(&mirror, "pipe");
    let host = host(&mirror, transport, |builder| builder);
    let sink = pipe.open(&host, "r", false);
    let stopper = sink.stopper();
    send(&sink, ROWS);
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        // Longer than whatever gives up after a second.
        std::thread::sleep(Duration::from_millis(2500));
        assert!(!closed.is_finished(), "{:?}", stopper.delivery());
        assert!(stopper.delivery().delivered < ROWS);
        (0..ROWS).for_each(|number| assert_eq!(pipe.next(), number));
        closed.join().unwrap().unwrap();
    });
    let Delivery { sent, delivered, refused, .. } = stopper.delivery();
    assert_eq!((sent, delivered, refused), (ROWS, ROWS, 0));
    assert_eq!(host.status("mirror").unwrap().traffic.lost, 0);
}

/// Checks that this error names as many messages as the host has told to be
/// lost, and that all others were collected. Returns its reason.
fn not_collected(host: &Host, error: Error, told: u64, delivery: Delivery) -> String {
    let Error::NotCollected { missing, sent, reason, symbol, .. } = error else { panic!("{error}") };
    assert_eq!((symbol.as_str(), sent), ("file", delivery.sent));
    assert!(missing > 0 && missing == sent - delivery.delivered, "{missing} of {delivery:?}");
    assert_eq!((told, host.status("mirror").unwrap().traffic.lost), (missing, missing));
    reason
}

fn what_is_not_collected_is_told_with_its_number(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let mut pipe = Pipe::new(&mirror, "pipe");
    let host = host(&mirror, transport, |builder| builder.drain_stall(Duration::from_millis(500)));
    let events = host.events();
    let sink = pipe.open(&host, "r", false);
    let stopper = sink.stopper();
    send(&sink, 10);
    assert_eq!([pipe.next(), pipe.next()], [0, 1]);
    let error = sink.close().unwrap_err();
    let reason = not_collected(&host, error, lost(&events), stopper.delivery());
    assert!(reason.contains("no progress for 500ms"), "{reason}");
    assert!(stopper.delivery().delivered >= 2, "{:?}", stopper.delivery());
}

fn a_dropped_sink_tells_what_it_has_cost(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let pipe = Pipe::new(&mirror, "pipe");
    // Not by `drain_stall`: a process in which libnng's threads wake up may be at
    // work.
    let host = host(&mirror, transport, |builder| builder.drain_timeout(Duration::from_secs(2)));
    let events = host.events();
    let sink = pipe.open(&host, "r", false);
    send(&sink, 5);
    // The host drains it meanwhile.
    drop(sink);
    let lost = loop {
        if let EventKind::Lost { messages, .. } = events.recv_timeout(PATIENCE).unwrap().kind {
            break messages;
        }
    };
    assert_eq!((lost, host.status("mirror").unwrap().traffic.lost), (5, 5));
}

fn a_crash_while_a_sink_is_drained_is_told_with_the_number(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let mut pipe = Pipe::new(&mirror, "pipe");
    let host = host(&mirror, transport, |builder| builder);
    let events = host.events();
    let sink = pipe.open(&host, "r", false);
    let stopper = sink.stopper();
    send(&sink, 10);
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        assert_eq!(pipe.next(), 0);
        wait_until("a row is told to be collected", || stopper.delivery().delivered > 0);
        let pid = host.pid("mirror").unwrap();
        kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
        let error = closed.join().unwrap().unwrap_err();
        let reason = not_collected(&host, error, lost(&events), stopper.delivery());
        assert!(reason.contains("its process ended (signal 9"), "{reason}");
    });
}

fn sinks_that_are_drained_hold_nobody_up(transport: &str) {
    const SINKS: usize = 6;
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let mut pipes: Vec<Pipe> = (0..SINKS).map(|index| Pipe::new(&mirror, &format!("pipe{index}"))).collect();
    let host = host(&mirror, transport, |builder| builder);
    let sinks: Vec<Sink> =
        pipes.iter().enumerate().map(|(index, pipe)| pipe.open(&host, &format!("r{index}"), false)).collect();
    let stoppers: Vec<_> = sinks.iter().map(Sink::stopper).collect();
    sinks.iter().for_each(|sink| send(sink, 5));
    std::thread::scope(|scope| {
        let closed: Vec<_> = sinks.into_iter().map(|sink| scope.spawn(move || sink.close())).collect();
        // Other symbols start, work and stop meanwhile.
        for round in 0..3 {
            let path = mirror.scratch().join("rows");
            let other = host.sink("file").rule(format!("other{round}")).config(json!({ "path": path }));
            let other = other.open().unwrap();
            other.send(&json!({ "round": round })).unwrap();
            other.close().unwrap();
            assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), round + 1);
            assert_eq!(host.function("revert").unwrap().call::<String>(("ab",)).unwrap(), "ba");
        }
        assert!(closed.iter().all(|closed| !closed.is_finished()));
        for pipe in &mut pipes {
            (0..5).for_each(|number| assert_eq!(pipe.next(), number));
        }
        closed.into_iter().for_each(|closed| closed.join().unwrap().unwrap());
    });
    assert!(stoppers.iter().all(|stopper| stopper.delivery().delivered == 5));
}

fn an_update_waits_for_what_was_sent(transport: &str) {
    let _watchdog = Watchdog::start();
    let (mirror, next) = (Mirror::new(), Mirror::new());
    let mut pipe = Pipe::new(&mirror, "pipe");
    let host = host(&mirror, transport, |builder| builder.recv_timeout(Duration::from_millis(500)));
    let events = host.events();
    let sink = pipe.open(&host, "r", false);
    send(&sink, 8);
    let former = host.pid("mirror").unwrap();
    std::thread::scope(|scope| {
        let updated = scope.spawn(|| host.update(Package::read(next.folder()).unwrap()));
        // Longer than the time of a call.
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!updated.is_finished());
        (0..8).for_each(|number| assert_eq!(pipe.next(), number));
        updated.join().unwrap().unwrap();
    });
    assert_ne!(host.pid("mirror").unwrap(), former);
    sink.send(&row(8)).unwrap();
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        assert_eq!(pipe.next(), 8);
        closed.join().unwrap().unwrap();
    });
    assert_eq!(lost(&events), 0);
}

fn a_shutdown_ends_the_wait_at_once(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let pipe = Pipe::new(&mirror, "pipe");
    // Nothing else may end the wait in this test's time.
    let forever = Duration::from_secs(3600);
    let host = host(&mirror, transport, |builder| builder.drain_stall(forever).drain_timeout(forever));
    let events = host.events();
    let sink = pipe.open(&host, "r", false);
    let stopper = sink.stopper();
    send(&sink, 5);
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        std::thread::sleep(Duration::from_millis(100));
        assert!(!closed.is_finished());
        scope.spawn(|| host.shutdown());
        let error = closed.join().unwrap().unwrap_err();
        let reason = not_collected(&host, error, lost(&events), stopper.delivery());
        assert!(reason.contains("given up") || reason.contains("its process ended"), "{reason}");
    });
}

fn what_is_collected_while_the_host_shuts_down_is_counted(transport: &str) {
    const ROWS: u64 = 12;
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let mut pipe = Pipe::new(&mirror, "pipe");
    let host = host(&mirror, transport, |builder| builder.grace(PATIENCE));
    let events = host.events();
    let sink = pipe.open(&host, "r", false);
    let stopper = sink.stopper();
    send(&sink, ROWS);
    std::thread::scope(|scope| {
        let shut_down = scope.spawn(|| host.shutdown());
        wait_until("the host is being shut down", || host.status("mirror").unwrap().state == PluginState::Stopped);
        (0..ROWS).for_each(|number| assert_eq!(pipe.next(), number));
        shut_down.join().unwrap();
    });
    let closed = sink.close();
    assert!(closed.is_ok(), "{closed:?} {:?}", stopper.delivery());
    assert_eq!((lost(&events), stopper.delivery().delivered), (0, ROWS));
}

fn what_a_sink_refuses_without_acknowledgements_is_counted(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let path = mirror.scratch().join("rows");
    let host = host(&mirror, transport, |builder| builder);
    let sink = host.sink("file").rule("r").config(json!({ "path": path })).open().unwrap();
    let stopper = sink.stopper();
    for message in [&b"{\"n\":1}"[..], b"no row", b"{\"n\":2}", b"7"] {
        sink.send_bytes(message).unwrap();
    }
    sink.close().unwrap();
    let Delivery { sent, delivered, refused, .. } = stopper.delivery();
    assert_eq!((sent, delivered, refused), (4, 2, 2));
    assert_eq!(host.status("mirror").unwrap().traffic.refused, 2);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"n\":1}\n{\"n\":2}\n");
}

fn outstanding_acknowledgements_are_waited_for(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let mut pipe = Pipe::new(&mirror, "pipe");
    // An acknowledgement takes longer than this here; the stop must not, on a
    // busy machine either.
    let patience = Duration::from_secs(5);
    let host = host(&mirror, transport, |builder| builder.recv_timeout(patience));
    let sink = pipe.open(&host, "r", true);
    let stopper = sink.stopper();
    // Nobody asks what became of them.
    (0..10).for_each(|number| drop(sink.send_async(&row(number)).unwrap()));
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| sink.close());
        std::thread::sleep(patience + Duration::from_millis(500));
        assert!(!closed.is_finished());
        (0..10).for_each(|number| assert_eq!(pipe.next(), number));
        closed.join().unwrap().unwrap();
    });
    assert_eq!(stopper.delivery().delivered, 10);
}

/// The same rows reach every sink, in MessagePack one that says that it reads
/// rows, and in JSON all others.
fn rows_come_in_a_codec_that_the_sink_reads(transport: &str) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let scratch = tempfile::tempdir().unwrap();
    let row = json!({ "text": "ä\n\"", "float": -0.5, "list": [null, true, 18_446_744_073_709_551_615_u64] });
    for (format, sink, first_bytes) in [
        (Format::MessagePack, "rows", ["83", "92"]),
        (Format::MessagePack, "bytes", ["7b", "5b"]),
        (Format::Json, "rows", ["7b", "5b"]),
    ] {
        for require_ack in [false, true] {
            let host = Host::builder().transport(transport).format(format).plugin(ledger.folder()).build().unwrap();
            let path = scratch.path().join("lines");
            let open = |rule| {
                let open = host.sink(sink).rule(rule).config(json!({ "path": path }));
                open.require_ack(require_ack).open().unwrap()
            };
            let blocking = open("r");
            blocking.send(&row).unwrap();
            blocking.send(&[&row, &row]).unwrap();
            // What an engine has encoded is not touched.
            blocking.send_bytes(row.to_string().as_bytes()).unwrap();
            blocking.close().unwrap();
            let mut tasks = open("t").into_async();
            block_on(async {
                tasks.post(&row).await.unwrap().await.unwrap();
                tasks.close().await.unwrap();
            });
            let lines = std::fs::read_to_string(&path).unwrap();
            let (one, two) = (json!([row]), json!([row, row]));
            let [first, many] = first_bytes;
            assert_eq!(lines, format!("{first} {one}\n{many} {two}\n7b {one}\n{first} {one}\n"), "{sink} {format:?}");
            std::fs::remove_file(&path).unwrap();
            host.shutdown();
        }
    }
}

fn records_pass_from_a_source_to_a_sink_undecoded(transport: &str) {
    let _watchdog = Watchdog::start();
    let (mirror, ledger) = (Mirror::new(), Ledger::new());
    let scratch = tempfile::tempdir().unwrap();
    for (format, sink, first_byte) in
        [(Format::MessagePack, "rows", "83"), (Format::MessagePack, "bytes", "7b"), (Format::Json, "rows", "7b")]
    {
        for require_ack in [false, true] {
            let plugins = Host::builder().plugin(mirror.folder()).plugin(ledger.folder());
            let host = plugins.transport(transport).format(format).build().unwrap();
            let path = scratch.path().join("lines");
            let config = json!({ "interval": 0, "seed": 1, "count": 3 });
            let mut source = host.source("random").config(config).open().unwrap();
            let sink = host.sink(sink).config(json!({ "path": path })).require_ack(require_ack).open().unwrap();
            let (mut tuple, mut expected) = (RawTuple::new(), String::new());
            for _ in 0..3 {
                assert!(source.next_raw(&mut tuple, Some(PATIENCE)).unwrap());
                let record: Value = tuple.format().decode(tuple.message()).unwrap();
                expected += &format!("{first_byte} [{record}]\n");
                sink.send_raw(&tuple).unwrap();
            }
            sink.close().unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), expected, "{format:?}");
            std::fs::remove_file(&path).unwrap();
            host.shutdown();
        }
    }
}
