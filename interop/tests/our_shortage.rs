//! A host that comes to the limit of its open files while its plugin crashes:
//! that is not the plugin's fault, and is over with the shortage.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::time::Duration;

use ekuiper_host::{Error, EventKind, Host, PluginState, RestartPolicy, Source};
use ekuiper_interop::guard::{PATIENCE, Watchdog};
use ekuiper_interop::plugins::Mirror;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};
use serde_json::json;

/// More attempts than crashes that open the breaker.
const ATTEMPTS: usize = 12;

// One test: the limit is the whole process's.
#[test]
fn a_shortage_of_descriptors_is_no_crash() {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let mut policy = RestartPolicy::default();
    policy.max_pause = Duration::from_millis(100);
    let host = Host::builder().plugin(mirror.folder()).ipc_dir(mirror.scratch().join("s")).restart(policy);
    let host = host.send_timeout(Duration::from_millis(300)).build().unwrap();
    let events = host.events();
    let revert = host.function("revert").unwrap();
    assert_eq!(revert.call::<String>(("ab",)).unwrap(), "ba");
    let mut sources: Vec<_> = (0..6)
        .map(|instance| {
            let source = host.source("random").rule("r").instance(instance);
            source.config(json!({ "interval": 1 })).open().unwrap()
        })
        .collect();
    let count = |source: &mut Source| {
        let row = source.next_within(PATIENCE).unwrap().expect("the source goes on").message;
        row["count"].as_u64().unwrap()
    };
    let mut counts: Vec<_> = sources.iter_mut().map(count).collect();
    let all = host.status("mirror").unwrap().symbols.len();

    setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum: Some(4096) }).unwrap();
    let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let pid = host.pid("mirror").unwrap();
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();

    // Whatever the dead process's end frees is taken as well: nothing can be
    // started. Some of it may be used by an attempt first.
    let (mut shortages, mut asked) = (0, false);
    while shortages < ATTEMPTS {
        taken.extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
        match events.recv_timeout(PATIENCE).expect("no further attempt").kind {
            EventKind::Shortage { error, .. } => {
                shortages += 1;
                assert!(error.contains("file descriptors") && error.contains("ulimit -n"), "{error}");
            }
            EventKind::Broken { .. } => panic!("the breaker is open"),
            EventKind::SymbolLost { symbol, error, .. } => panic!("{symbol} is lost: {error}"),
            _ => {}
        }
        // Whoever wants something is told what is wrong, and what to do.
        let state = host.status("mirror").unwrap().state;
        if !asked
            && shortages > 2
            && state != PluginState::Running
            && let Err(error) = revert.call::<String>(("ab",))
        {
            assert!(matches!(error, Error::Shortage { .. }), "{error}");
            assert!(error.to_string().contains("ulimit -n"), "{error}");
            asked = true;
        }
    }
    drop(taken);

    // All is as before: no symbol is lost.
    assert_eq!(revert.call::<String>(("ab",)).unwrap(), "ba");
    for (source, before) in sources.iter_mut().zip(&mut counts) {
        // Those that were sent before the crash come first; the next process
        // counts anew.
        loop {
            let next = count(source);
            if next <= *before {
                break;
            }
            *before = next;
        }
    }
    let status = host.status("mirror").unwrap();
    assert_eq!((status.state, status.restarts, status.symbols.len()), (PluginState::Running, 1, all));
    assert!(asked, "the plugin was never away");
}
