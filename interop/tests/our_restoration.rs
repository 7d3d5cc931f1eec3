//! A plugin of ours that is killed again and again while its symbols are
//! started again: each time it is back with all of them, long before anything
//! that was waited for would have timed out.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use ekuiper_host::{Error, Event, EventKind, Host, RestartPolicy, Source};
use ekuiper_interop::guard::{PATIENCE, Watchdog, soon};
use ekuiper_interop::plugins::Mirror;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

ekuiper_interop::over_each_transport_of_ours! {
    kills_during_the_restoration_of_twenty_symbols,
    a_source_goes_on_though_its_process_ends_slowly,
}

/// Far longer than the test may take: what ends does so for another reason.
const FOREVER: Duration = Duration::from_secs(3600);
const SOURCES: i64 = 9;
const SINKS: i64 = 8;
const ROUNDS: u32 = 12;

/// Pseudo-random numbers (xorshift), the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn host(mirror: &Mirror, transport: &str) -> Host {
    let mut policy = RestartPolicy::default();
    policy.break_after = 0;
    policy.first_pause = Duration::from_millis(1);
    policy.max_pause = Duration::from_millis(1);
    Host::builder()
        .transport(transport)
        .plugin(mirror.folder())
        .ipc_dir(mirror.scratch().join("s"))
        .restart(policy)
        .init_timeout(FOREVER)
        .send_timeout(FOREVER)
        .recv_timeout(FOREVER)
        .build()
        .unwrap()
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}

/// The next process that serves, and how many symbols it was given.
fn await_restored(events: &Receiver<Event>) -> usize {
    loop {
        match events.recv_timeout(PATIENCE).expect("the plugin is not back").kind {
            EventKind::Restored { symbols, .. } => return symbols,
            EventKind::SymbolLost { symbol, error, .. } => panic!("{symbol} is lost: {error}"),
            _ => {}
        }
    }
}

fn next(source: &mut Source) -> bool {
    matches!(source.next_within(PATIENCE), Ok(Some(_)))
}

fn kills_during_the_restoration_of_twenty_symbols(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let events = host.events();
    let functions = ["echo", "revert", "average"].map(|name| host.function(name).unwrap());
    let mut sources: Vec<_> = (0..SOURCES)
        .map(|instance| {
            let source = host.source("random").rule("r").instance(instance);
            source.config(json!({ "interval": 1 })).open().unwrap()
        })
        .collect();
    let sinks: Vec<_> = (0..SINKS)
        .map(|instance| {
            let path = mirror.scratch().join(format!("rows{instance}"));
            let sink = host.sink("file").rule("r").instance(instance).require_ack(instance % 2 == 0);
            sink.config(json!({ "path": path })).open().unwrap()
        })
        .collect();
    let all = host.status("mirror").unwrap().symbols.len();
    assert_eq!(all, 20);

    let mut chance = Chance(20);
    for round in 0..ROUNDS {
        // Before the kill: the next process may be there at once.
        let mut former = host.status("mirror").unwrap().generation;
        kill(host.pid("mirror").unwrap());
        // The next process, and perhaps the one after it, in the middle of it.
        for _ in 0..1 + chance.below(3) {
            let give_up = soon();
            while host.status("mirror").is_ok_and(|status| status.generation <= former || status.pid.is_none()) {
                assert!(Instant::now() < give_up, "no process is started in round {round}");
                std::thread::sleep(Duration::from_micros(200));
            }
            std::thread::sleep(Duration::from_micros(chance.below(12_000)));
            former = host.status("mirror").unwrap().generation;
            if let Some(pid) = host.pid("mirror") {
                kill(pid);
            }
        }
        // Whatever the kills met: the last process has all.
        loop {
            let symbols = await_restored(&events);
            if symbols == all && functions[1].call::<String>(("ab",)).is_ok_and(|answer| answer == "ba") {
                break;
            }
        }
    }
    for function in &functions[..2] {
        assert_eq!(function.call::<String>(("a",)).unwrap(), "a");
    }
    for (number, sink) in sinks.iter().enumerate() {
        match sink.send(&json!({ "number": number })) {
            Ok(()) => {}
            // Sent to a process that was just killed.
            Err(Error::OutcomeUnknown { .. }) => sink.send(&json!({ "number": number })).unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sources.iter_mut().all(next), "a source is silent");
    host.shutdown();
}

/// The kernel closes a killed process's connections one after the other; on a
/// busy machine the first may be seen long before the last, and the process's
/// end later still.
fn a_source_goes_on_though_its_process_ends_slowly(transport: &str) {
    const KILLS: u32 = 8;
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let mut source = host.source("random").rule("r").config(json!({ "interval": 1 })).open().unwrap();
    for kill_number in 0..KILLS {
        assert!(next(&mut source), "before kill {kill_number}");
        let former = host.status("mirror").unwrap().generation;
        // What was read may be the former process's, before this one serves.
        let give_up = soon();
        let pid = loop {
            assert!(Instant::now() < give_up, "no process serves before kill {kill_number}");
            match host.pid("mirror") {
                Some(pid) => break pid,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        // A thread that ends meanwhile makes the command fail.
        let idle = || Command::new("chrt").args(["--all-tasks", "--idle", "--pid", "0", &pid.to_string()]).status();
        while !idle().unwrap().success() {
            assert!(Instant::now() < give_up, "the process does not leave the processors to others");
        }
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let processors = std::thread::available_parallelism().unwrap().get();
            for _ in 0..processors {
                scope.spawn(|| {
                    let until = Instant::now() + Duration::from_millis(600);
                    while Instant::now() < until && !is_over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            kill(pid);
            // What the process has sent, and then the next one's.
            while host.status("mirror").unwrap().generation == former {
                let tuple = source.next_within(Duration::from_millis(10));
                assert!(!matches!(tuple, Ok(None)), "the source has ended at kill {kill_number}");
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
    host.shutdown();
}
