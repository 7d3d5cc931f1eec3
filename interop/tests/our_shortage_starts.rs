//! A host that comes to the limit of its open files in the middle of a start:
//! whatever was begun is undone, and the same is opened a moment later.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::time::Duration;

use ekuiper_host::{Error, Host, Result};
use ekuiper_interop::guard::{PATIENCE, Watchdog};
use ekuiper_interop::plugins::Mirror;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::json;

/// More descriptors than any start takes.
const ENOUGH: usize = 24;

/// For how long what cannot come is waited for.
const SHORT: Duration = Duration::from_secs(1);

// One test: the limit is the whole process's.
#[test]
fn a_start_that_a_shortage_breaks_off_leaves_nothing_behind() {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = Host::builder().plugin(mirror.folder()).ipc_dir(mirror.scratch().join("s"));
    let host = host.send_timeout(SHORT).drain_stall(SHORT).build().unwrap();
    host.start("mirror").unwrap();
    let path = mirror.scratch().join("rows");
    let sink = |host: &Host, require_ack: bool| {
        let sink = host.sink("file").rule("r").require_ack(require_ack);
        sink.config(json!({ "path": path })).open()
    };
    let source = |host: &Host| host.source("random").rule("r").config(json!({ "interval": 1 })).open();
    type Open<'a> = &'a dyn Fn(&Host, Duration) -> Result<()>;
    let opens: [(&str, Open<'_>); 3] = [
        ("a sink", &|host, _| {
            let sink = sink(host, false)?;
            sink.send(&json!({ "a": 1 }))?;
            sink.close()
        }),
        ("a sink with acks", &|host, _| {
            let sink = sink(host, true)?;
            sink.send(&json!({ "a": 1 }))?;
            sink.close()
        }),
        ("a source", &|host, patience| {
            let mut source = source(host)?;
            source.next_within(patience)?.expect("it has no end");
            source.close()
        }),
    ];
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum: Some(4096) }).unwrap();
    for (what, open) in opens {
        let mut refused = 0;
        for spare in 0..ENOUGH {
            let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
            taken.truncate(taken.len() - spare);
            let opened = open(&host, SHORT);
            drop(taken);
            if let Err(error) = opened {
                refused += 1;
                // Without its connection, what it was sent is not known to have
                // been collected, and what it sends does not come.
                let is_told = matches!(
                    error,
                    Error::Shortage { .. }
                        | Error::Timeout { .. }
                        | Error::NotCollected { .. }
                        | Error::NotStopped { .. }
                );
                assert!(is_told, "{what} with {spare} descriptors: {error}");
            }
            if let Err(error) = open(&host, PATIENCE) {
                panic!("{what} after it had {spare} descriptors: {error}");
            }
        }
        assert!(refused > 0 && refused < ENOUGH, "{what} was refused {refused} times");
    }
}
