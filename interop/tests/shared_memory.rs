//! Shared memory, which our host and our SDK use by themselves where both have
//! it.

#![cfg(feature = "shm")]
// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex, PoisonError};

use ekuiper_conformance::wait_until;
use ekuiper_host::arrow59::arrow_array::cast::AsArray;
use ekuiper_host::arrow59::arrow_array::types::Float64Type;
use ekuiper_host::arrow59::arrow_array::{ArrayRef, Float64Array};
use ekuiper_host::arrow59::call_columns;
use ekuiper_host::{Host, HostBuilder};
use ekuiper_interop::columns::batch;
use ekuiper_interop::guard::{PATIENCE, Process, Watchdog};
use ekuiper_interop::plugins::{Counting, Mirror};
use ekuiper_interop::tools;
use rustix::process::Signal;
use serde_json::json;

/// One test at a time: each counts the memory of this process.
static ALONE: Mutex<()> = Mutex::new(());

/// How many connections of a process are in shared memory.
fn memories(pid: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.lines().filter(|line| line.contains("memfd:ekuiper")).count()
}

fn host(mirror: &Mirror) -> HostBuilder {
    Host::builder().plugin(mirror.folder())
}

/// Uses a function, a source and a sink with acknowledgements; returns how many
/// of the plugin's connections are in shared memory meanwhile.
fn use_everything(host: &Host, mirror: &Mirror) -> usize {
    let revert = host.function("revert").unwrap();
    assert_eq!(revert.call::<String>(("abc",)).unwrap(), "cba");
    let mut source = host.source("random").rule("r1").config(json!({ "interval": 0 })).open().unwrap();
    let file = mirror.scratch().join("rows");
    let sink = host.sink("file").rule("r2").config(json!({ "path": file })).require_ack(true).open().unwrap();
    for _ in 0..100 {
        let row = source.next_within(PATIENCE).unwrap().unwrap().message;
        sink.send(&row).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 100);
    std::fs::remove_file(&file).unwrap();
    let memories = memories(host.pid("mirror").unwrap());
    sink.close().unwrap();
    source.close().unwrap();
    memories
}

#[test]
fn symbols_use_it_where_both_have_it() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror).build().unwrap();
    // The function's, the source's, and the sink's two.
    assert_eq!(use_everything(&host, &mirror), 4);
    assert_eq!(memories(std::process::id()), memories(host.pid("mirror").unwrap()), "each is seen by both");
    let killed = host.pid("mirror").unwrap();
    Process::of(killed).signal(Signal::KILL);
    // A call waits for the next process; what is opened while the end is not
    // noticed yet ends with this one.
    wait_until("there is another process", || {
        let _ = host.function("revert").unwrap().call::<String>(("abc",));
        host.pid("mirror").is_some_and(|pid| pid != killed)
    });
    assert_eq!(use_everything(&host, &mirror), 4, "the next process has it too");
    assert_ne!(host.pid("mirror").unwrap(), killed);
    host.shutdown();
    // The last handle of a connection may be another thread's.
    wait_until("nothing is left", || memories(std::process::id()) == 0);
}

#[test]
fn plugins_in_python_use_it_too() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _watchdog = Watchdog::start();
    let folder = tempfile::tempdir().unwrap();
    let python = tools::our_python().display().to_string();
    let host = |transport: Option<&str>| {
        let builder = Host::builder().plugin(tools::root().join("interop/plugins/pycolumns"));
        let builder = builder.ipc_dir(folder.path()).python_bin(&python);
        let builder = match transport {
            None => builder,
            Some(transport) => builder.transport(transport),
        };
        builder.build().unwrap()
    };
    // Of the function, and of the control channel where all is in memory.
    for (transport, expected) in [(None, 1), (Some("shm"), 2), (Some("uds"), 0)] {
        let host = host(transport);
        let double = host.function("double").unwrap();
        assert_eq!(double.call::<f64>((21,)).unwrap(), 42.0);
        let column: ArrayRef = Arc::new(Float64Array::from_iter_values((0..100_000).map(f64::from)));
        let doubled = call_columns(&double, &batch([column])).unwrap();
        assert_eq!(doubled.as_primitive::<Float64Type>().value(99_999), 199_998.0);
        assert_eq!(memories(host.pid("pycolumns").unwrap()), expected, "{transport:?}");
        host.shutdown();
    }
}

#[test]
fn naming_a_transport_turns_it_off() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror).transport("uds").build().unwrap();
    assert_eq!(use_everything(&host, &mirror), 0);
}

/// Of the two plugins one is built without it: each has what it can.
#[test]
fn a_plugin_without_it_uses_sockets() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let counting = Counting::new();
    let host = host(&mirror).plugin(counting.folder()).build().unwrap();
    assert_eq!(use_everything(&host, &mirror), 4);
    assert_eq!(host.function("double").unwrap().call::<f64>((4,)).unwrap(), 8.0);
    assert_eq!(memories(host.pid("counting").unwrap()), 0);
}
