//! Memory of an engine: what was long once is not kept. In a process of its own,
//! since its memory is measured.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use ekuiper_host::Host;
use ekuiper_interop::guard::Watchdog;
use ekuiper_interop::plugins::Ledger;
use futures::executor::block_on;
use serde_json::{Value, json};

/// Length of a message that is more than a buffer keeps, and that the system's
/// allocator gives back to the kernel.
const LONG: usize = 48 << 20;

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// Held by a test that measures this process.
static ALONE: Mutex<()> = Mutex::new(());

/// Number of times that this process has read a file or a socket.
fn reads() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap().parse().unwrap()
}

/// A status costs what the plugin's own processes cost, however many others run
/// on the machine.
#[test]
fn a_status_does_not_look_at_other_processes() {
    let _watchdog = Watchdog::start();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let ledger = Ledger::new();
    let host = Host::builder().plugin(ledger.folder()).build().unwrap();
    host.start("ledger").unwrap();
    let cost = || {
        let before = reads();
        for _ in 0..10 {
            assert!(host.status("ledger").unwrap().resident.is_some());
            assert_eq!(host.health().len(), 1);
        }
        reads() - before
    };
    let few = cost();
    let mut others: Vec<_> = (0..200).map(|_| Command::new("sleep").arg("1000").spawn().unwrap()).collect();
    let many = cost();
    for other in &mut others {
        other.kill().unwrap();
        other.wait().unwrap();
    }
    assert!(many < few + 200, "{few} reads, and {many} beside 200 processes more");
    host.shutdown();
}

#[test]
fn long_messages_leave_no_memory_behind() {
    let _watchdog = Watchdog::start();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let ledger = Ledger::new();
    let host = Host::builder().plugin(ledger.folder()).build().unwrap();
    let (length, text) = (host.function("length").unwrap(), host.function("text").unwrap());
    let long = || ("x".repeat(LONG),);
    assert_eq!(length.call::<usize>(("x",)).unwrap(), 1);
    let before = resident();
    let check = |what: &str| {
        let now = resident();
        assert!(now < before + LONG / 2, "{what} keeps {} MiB", (now - before) >> 20);
    };
    assert_eq!(length.call::<usize>(long()).unwrap(), LONG);
    check("a call");
    assert_eq!(text.call::<String>((LONG,)).unwrap().len(), LONG);
    check("a result");
    let call = length.call_async::<usize>(long()).unwrap();
    assert_eq!(block_on(call).unwrap(), LONG);
    check("an awaited call");
    let call = length.call_async::<usize>(long()).unwrap();
    assert_eq!(call.wait().unwrap(), LONG);
    check("a call that is waited for");
    assert_eq!(text.call_async::<String>((LONG,)).unwrap().wait().unwrap().len(), LONG);
    check("an awaited result");
    assert_eq!(length.call_many::<usize, _>([long()]).unwrap(), [Ok(LONG)]);
    check("a batch");

    let config = json!({ "letters": LONG, "count": 1 });
    let mut source = host.source("letters").config(config).open().unwrap();
    assert_eq!(source.next().unwrap().unwrap().message["text"].as_str().unwrap().len(), LONG);
    check("a source");
    let sink = host.sink("late").rule("a").require_ack(true).open().unwrap();
    let row = json!({ "n": 1, "text": "x".repeat(LONG) });
    sink.send(&row).unwrap();
    sink.send_async(&row).unwrap().wait().unwrap();
    let mut sink_of_tasks = block_on(host.sink("late").rule("b").require_ack(true).open_async()).unwrap();
    block_on(async { sink_of_tasks.post(&row).await.unwrap().await.unwrap() });
    block_on(futures::SinkExt::<&Value>::send(&mut sink_of_tasks, &row)).unwrap();
    drop(row);
    check("a sink");
    drop((sink, sink_of_tasks, source));
    host.shutdown();
}
