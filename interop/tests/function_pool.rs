//! Functions in several processes: what calls in a pool give, and what becomes
//! of them when processes end, come and go.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use ekuiper_host::{
    CallOptions, Error, ErrorKind, EventKind, FunctionPool, Host, HostBuilder, Package, PluginState, PooledCall,
    RestartPolicy,
};
use ekuiper_interop::guard::{Process, Watchdog};
use ekuiper_interop::plugins::{Ledger, Mirror, OfficialPython};
use ekuiper_interop::random::Random;
use ekuiper_interop::runtimes::on_each_runtime;
use ekuiper_interop::tools;
use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use rustix::process::Signal;
use serde_json::json;

ekuiper_interop::over_each_transport_of_ours! {
    sources_and_sinks_run_in_the_first_process_alone,
}

/// The plugins of these tests know neither `zeromq` nor `shm`.
mod of_other_plugins {
    use super::*;

    ekuiper_interop::over_each_transport! {
        calls_run_in_several_processes_at_the_same_time,
        results_are_in_order_or_not_as_declared,
        futures_complete_on_any_runtime,
        wakers_that_panic_or_make_calls_disturb_no_other,
        processes_are_started_when_calls_wait_for_them,
        pools_share_their_processes_and_the_last_one_ends_them,
        no_call_is_misattributed_or_executed_twice_while_processes_are_killed,
        an_idempotent_call_is_made_again_in_another_process_at_once,
        calls_that_were_not_sent_go_to_the_processes_that_are_left,
        a_process_that_cannot_be_started_is_told_and_the_others_go_on,
        without_any_process_calls_fail,
        a_plugin_that_is_repaired_is_called_at_once,
        a_process_that_hangs_gets_no_calls_until_it_has_answered,
        a_long_call_holds_up_no_other,
        calls_begin_in_their_order_and_dropped_ones_are_not_executed,
        a_call_whose_deadline_passes_in_the_queue_is_not_executed,
        a_full_queue_refuses_calls,
        a_stopper_ends_the_waits_on_its_pool_alone,
        a_shutdown_ends_every_call_and_every_process,
        an_update_under_load_costs_no_call_and_leaves_no_old_process,
        a_stopped_plugin_is_started_by_the_next_calls,
        a_removed_plugin_ends_with_all_its_processes,
        health_counts_the_calls_of_all_processes,
        a_plugin_in_python_and_one_with_a_supervisor_have_pools,
        sockets_are_in_the_folder_that_was_configured,
        an_official_plugin_has_no_pool,
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test with a host that has the plugin `ledger`.
fn with_ledger(transport: &str, set: impl FnOnce(HostBuilder) -> HostBuilder, test: impl FnOnce(&Host, &Path)) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let scratch = tempfile::tempdir().unwrap();
    let builder = Host::builder().transport(transport).plugin(ledger.folder());
    let host = set(builder.recv_timeout(PATIENCE).send_timeout(PATIENCE)).build().unwrap();
    test(&host, scratch.path());
    host.shutdown();
}

fn as_it_is(builder: HostBuilder) -> HostBuilder {
    builder
}

/// Restarts a process at once, however often it is killed.
fn at_once(builder: HostBuilder) -> HostBuilder {
    let (mut policy, pause) = (RestartPolicy::default(), Duration::from_millis(1));
    (policy.first_pause, policy.max_pause, policy.break_after) = (pause, pause, u32::MAX);
    builder.restart(policy)
}

/// Restarts no process while a test runs.
fn never(builder: HostBuilder) -> HostBuilder {
    let mut policy = RestartPolicy::default();
    let pause = Duration::from_secs(3600);
    // The first crash, too, is one too many.
    (policy.first_pause, policy.max_pause, policy.break_after, policy.break_pause) = (pause, pause, 1, pause);
    builder.restart(policy)
}

/// Sets the flag at the end of a scope, however that ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < give_up, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The living processes of the plugin, by their members' numbers.
fn pids(host: &Host) -> Vec<u32> {
    let status = host.status("ledger").unwrap();
    status.pid.into_iter().chain(status.members.iter().filter_map(|member| member.pid)).collect()
}

/// Calls of `kept` that occupy all processes of a pool.
struct Occupied {
    calls: Vec<PooledCall<u64>>,
    pool: FunctionPool,
    file: PathBuf,
}

impl Occupied {
    /// Begins so many calls.
    fn begin(host: &Host, calls: usize, scratch: &Path) -> Self {
        let file = scratch.join("kept");
        let pool = host.function_pool("kept").size(calls).open().unwrap();
        let calls = (0..calls as u64).map(|number| pool.call_async((number, text(&file))).unwrap()).collect();
        Self { calls, pool, file }
    }

    fn await_begun(&self, calls: usize) {
        let begun = self.file.with_extension("begun");
        until("the calls have begun", || fs::read_to_string(&begun).unwrap_or_default().lines().count() == calls);
    }

    /// Ends the calls; the pool keeps the processes.
    fn end(self) -> FunctionPool {
        fs::write(&self.file, "").unwrap();
        for call in self.calls {
            call.wait().unwrap();
        }
        fs::remove_file(&self.file).unwrap();
        fs::remove_file(self.file.with_extension("begun")).unwrap();
        self.pool
    }
}

/// Has each process of a pool execute a call.
fn occupy(host: &Host, processes: usize, scratch: &Path) -> Occupied {
    let occupied = Occupied::begin(host, processes, scratch);
    occupied.await_begun(processes);
    assert_eq!(pids(host).len(), processes);
    occupied
}

/// How often each number was executed, as the plugin's processes have filed it.
fn filed(file: &Path) -> HashMap<u64, usize> {
    let mut counts = HashMap::new();
    for line in fs::read_to_string(file).unwrap_or_default().lines() {
        *counts.entry(line.split(' ').next().unwrap().parse().unwrap()).or_default() += 1;
    }
    counts
}

fn calls_run_in_several_processes_at_the_same_time(transport: &str) {
    with_ledger(transport, as_it_is, |host, scratch| {
        let pool = host.function_pool("meet").size(3).open().unwrap();
        let calls: Vec<_> = (0..3).map(|_| pool.call_async::<u32>((text(scratch), 3)).unwrap()).collect();
        let processes: HashSet<_> = calls.into_iter().map(|call| call.wait().unwrap()).collect();
        assert_eq!(processes, pids(host).into_iter().collect());
    });
}

fn results_are_in_order_or_not_as_declared(transport: &str) {
    with_ledger(transport, as_it_is, |host, scratch| {
        let file = scratch.join("file");
        let rows = || (0..10_000).map(|number: u64| (number, text(&file), number % 20));
        let pool = host.function_pool("filed").size(2).open().unwrap();
        let outcomes = pool.call_many::<u64, _>(rows()).unwrap();
        assert!(outcomes.into_iter().map(Result::unwrap).eq(0..10_000));
        let mut seen = Vec::new();
        let each = |row, outcome: Result<&u64, &str>| {
            assert_eq!(*outcome.unwrap(), row as u64);
            seen.push(row);
        };
        pool.call_many_into::<u64, _>(rows(), each).unwrap();
        assert!(seen.into_iter().eq(0..10_000));
        assert_eq!(filed(&file), (0..10_000).map(|number| (number, 2)).collect());
        // The first row is executed until the last one has been.
        let folder = scratch.join("meet");
        fs::create_dir(&folder).unwrap();
        let pool = host.function_pool("held").size(2).ordered(false).open().unwrap();
        let (slow, fast) = (scratch.join("slow"), scratch.join("fast"));
        fs::write(&fast, "").unwrap();
        let rows = (0..100).map(|number: u64| (number, text(if number == 0 { &slow } else { &fast })));
        let mut seen = Vec::new();
        let each = |row, outcome: Result<&u64, &str>| {
            assert_eq!(*outcome.unwrap(), row as u64);
            seen.push(row);
            if seen.len() == 99 {
                fs::write(&slow, "").unwrap();
            }
        };
        pool.call_many_into::<u64, _>(rows, each).unwrap();
        assert_eq!(seen.pop(), Some(0));
        seen.sort_unstable();
        assert!(seen.into_iter().eq(1..100));
        // A function's own errors are those of their rows.
        let pool = host.function_pool("word").size(2).open().unwrap();
        let words = pool.call_many::<String, _>((0..20).map(|number: u64| (number,))).unwrap();
        for (number, word) in words.into_iter().enumerate() {
            assert_eq!(word.err(), (number % 10 == 3).then(|| format!("{number} is unlucky")));
        }
    });
}

fn futures_complete_on_any_runtime(transport: &str) {
    let transport = transport.to_owned();
    on_each_runtime(move |_| {
        let transport = transport.clone();
        async move {
            let _watchdog = Watchdog::start();
            let ledger = Ledger::new();
            let host = Host::builder().transport(&transport).plugin(ledger.folder()).build().unwrap();
            let pool = host.function_pool("word").size(2).open_async().await.unwrap();
            let calls = (0..200u64).map(|number| pool.call_async::<String>((number,)).unwrap());
            for (number, word) in join_all(calls).await.into_iter().enumerate() {
                match word {
                    Ok(word) => assert_eq!(word, format!("{number:04} \"ü\"")),
                    Err(error) => assert_eq!((error.kind(), number % 10), (ErrorKind::Function, 3)),
                }
            }
            let one = pool.call_async::<String>((7,)).unwrap().await.unwrap();
            assert_eq!(one, "0007 \"ü\"");
            host.shutdown_async().await;
        }
    });
}

/// A waker that panics, or that makes a call.
struct Odd(Option<FunctionPool>);

impl Wake for Odd {
    fn wake(self: Arc<Self>) {
        match &self.0 {
            Some(pool) => drop(pool.call_async::<u64>((7,)).unwrap()),
            None => panic!("this waker is to panic"),
        }
    }
}

fn wakers_that_panic_or_make_calls_disturb_no_other(transport: &str) {
    with_ledger(transport, as_it_is, |host, _| {
        let pool = host.function_pool("note").size(2).open().unwrap();
        let wakers = [Some(pool.clone()), None].map(|pool| Waker::from(Arc::new(Odd(pool))));
        let mut calls: Vec<_> = (0..1_000u64).map(|number| pool.call_async::<u64>((number,)).unwrap()).collect();
        for (number, call) in calls.iter_mut().enumerate() {
            if number % 3 < 2
                && let Poll::Ready(result) = Pin::new(&mut *call).poll(&mut Context::from_waker(&wakers[number % 3]))
            {
                // Its result is taken, so another call takes its place.
                assert_eq!(result.unwrap(), number as u64);
                *call = pool.call_async((number as u64,)).unwrap();
            }
        }
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(call.wait().unwrap(), number as u64);
        }
    });
}

fn processes_are_started_when_calls_wait_for_them(transport: &str) {
    with_ledger(transport, as_it_is, |host, scratch| {
        let pool = host.function_pool("note").size(4).open().unwrap();
        for number in 0..100u64 {
            assert_eq!(pool.call::<u64>((number,)).unwrap(), number);
        }
        assert_eq!((pids(host).len(), Ledger::noted(host).len()), (1, 100), "one call at a time");
        let (file, pool) = (scratch.join("kept"), host.function_pool("kept").size(4).open().unwrap());
        let calls = (0..2).map(|number: u64| pool.call_async((number, text(&file))).unwrap()).collect();
        let occupied = Occupied { calls, pool, file };
        occupied.await_begun(2);
        let _pool = occupied.end();
        assert_eq!(host.status("ledger").unwrap().members.len(), 1, "two calls at a time");
        assert_eq!(pids(host).len(), 2);
    });
}

fn pools_share_their_processes_and_the_last_one_ends_them(transport: &str) {
    with_ledger(transport, as_it_is, |host, scratch| {
        let (one, other) = (occupy(host, 3, scratch), host.function_pool("held").size(3).open().unwrap());
        let former = pids(host);
        let file = scratch.join("other");
        let calls: Vec<_> = (0..3u64).map(|number| other.call_async::<u64>((number, text(&file))).unwrap()).collect();
        let (ended, folders): (Vec<_>, Vec<_>) =
            former[1..].iter().map(|pid| (Process::of(*pid), socket_folder(*pid))).unzip();
        assert_eq!(folders.iter().collect::<HashSet<_>>().len(), 2);
        one.end();
        assert_eq!(pids(host), former, "the other pool uses them");
        fs::write(&file, "").unwrap();
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(call.wait().unwrap(), number as u64);
        }
        drop(other);
        ended.iter().for_each(Process::ended);
        for folder in folders {
            until("its folder is removed", || !folder.exists());
        }
        assert_eq!(pids(host), former[..1]);
        assert_eq!(host.status("ledger").unwrap().members.len(), 0);
    });
}

/// The socket folder that a process of ours has been given.
fn socket_folder(pid: u32) -> PathBuf {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    let options = line.split('\0').rfind(|argument| argument.starts_with('{')).unwrap();
    let options: serde_json::Value = serde_json::from_str(options).unwrap();
    options["ipcDir"].as_str().unwrap().into()
}

fn no_call_is_misattributed_or_executed_twice_while_processes_are_killed(transport: &str) {
    with_ledger(transport, at_once, |host, scratch| {
        let file = scratch.join("file");
        let pool = host.function_pool("filed").size(3).open().unwrap();
        let is_over = AtomicBool::new(false);
        let kills = std::thread::scope(|scope| {
            let over = Over(&is_over);
            let killer = scope.spawn(|| {
                let (mut random, mut kills) = (Random(7), 0);
                while !is_over.load(Ordering::SeqCst) {
                    let processes = pids(host);
                    if let Some(pid) = processes.get(random.below(3) as usize).and_then(|pid| i32::try_from(*pid).ok())
                    {
                        // It may have ended by itself meanwhile.
                        let pid = rustix::process::Pid::from_raw(pid).unwrap();
                        kills += u32::from(rustix::process::kill_process(pid, Signal::KILL).is_ok());
                    }
                    std::thread::sleep(Duration::from_millis(5 + random.below(40)));
                }
                kills
            });
            let mut unknown = 0;
            let mut number = 0;
            let mut calls = FuturesUnordered::new();
            futures::executor::block_on(async {
                loop {
                    while number < 10_000 && calls.len() < 200 {
                        let call = pool.call_async::<u64>((number, text(&file), 50u64)).unwrap();
                        let own = number;
                        calls.push(async move { (own, call.await) });
                        number += 1;
                    }
                    let Some((own, outcome)) = calls.next().await else { break };
                    match outcome {
                        Ok(result) => assert_eq!(result, own),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
                            unknown += 1;
                        }
                    }
                }
            });
            drop(over);
            let filed = filed(&file);
            assert!(filed.values().all(|count| *count == 1), "a call was executed twice");
            assert!(filed.len() as u64 + unknown >= 10_000, "a call that was answered was not executed");
            killer.join().unwrap()
        });
        assert!(kills > 0);
        // The pool is as it was.
        assert_eq!(pool.call::<u64>((7, text(&file), 1)).unwrap(), 7);
    });
}

fn an_idempotent_call_is_made_again_in_another_process_at_once(transport: &str) {
    with_ledger(transport, never, |host, scratch| {
        let file = scratch.join("file");
        let pool = host.function_pool("crash_until").size(2).open().unwrap();
        let calls = pool.clone().with_options(CallOptions::new().idempotent(true));
        assert_eq!(calls.call::<u64>((7, text(&file), 1)).unwrap(), 7);
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2);
        let status = host.status("ledger").unwrap();
        assert_eq!((status.state, status.members[0].state), (PluginState::Broken, PluginState::Running));
        // One that is not idempotent is not.
        let error = pool.call::<u64>((8, text(&file), 9)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 3);
    });
}

fn calls_that_were_not_sent_go_to_the_processes_that_are_left(transport: &str) {
    with_ledger(transport, never, |host, scratch| {
        let occupied = occupy(host, 3, scratch);
        let pool = occupied.pool.clone();
        let waiting: Vec<_> =
            (100..200u64).map(|number| pool.call_async::<u64>((number, text(&occupied.file))).unwrap()).collect();
        let former = pids(host);
        for pid in &former[..2] {
            Process::of(*pid).signal(Signal::KILL);
        }
        fs::write(&occupied.file, "").unwrap();
        for (number, call) in (100..).zip(waiting) {
            assert_eq!(call.wait().unwrap(), number);
        }
        let held: Vec<_> = occupied.calls.into_iter().map(|call| call.wait()).collect();
        let unknown = held.iter().flat_map(|call| call.as_ref().err().map(Error::kind));
        assert!(unknown.eq([ErrorKind::OutcomeUnknown; 2]), "{held:?}");
        assert_eq!(pids(host), former[2..]);
    });
}

/// A plugin `ledger` that can be started so many times.
fn limited(scratch: &Path, starts: usize) -> PathBuf {
    let folder = scratch.join("ledger");
    fs::create_dir(&folder).unwrap();
    let script = format!(
        "#!/bin/sh\necho >> {0}/starts\ntest $(wc -l < {0}/starts) -le {starts} || {{ echo no more; exit 3; }}\nexec {1} \"$@\"\n",
        folder.display(),
        tools::ledger().display()
    );
    fs::write(folder.join("ledger"), script).unwrap();
    fs::set_permissions(folder.join("ledger"), PermissionsExt::from_mode(0o755)).unwrap();
    let manifest = json!({
        "version": "v1.0.0", "language": "executable", "executable": "ledger",
        "functions": ["note", "held", "kept", "filed", "meet", "noted", "begun"],
    });
    fs::write(folder.join("ledger.json"), manifest.to_string()).unwrap();
    folder
}

fn a_process_that_cannot_be_started_is_told_and_the_others_go_on(transport: &str) {
    let _watchdog = Watchdog::start();
    let scratch = tempfile::tempdir().unwrap();
    let folder = limited(scratch.path(), 1);
    let host = Host::builder().transport(transport).plugin(folder).recv_timeout(PATIENCE).build().unwrap();
    let events = host.events();
    let occupied = Occupied::begin(&host, 2, scratch.path());
    occupied.await_begun(1);
    let event = loop {
        let event = events.recv_timeout(PATIENCE).expect("an event of the second process");
        if event.member == 1 {
            break event;
        }
    };
    let EventKind::StartFailed { error } = &event.kind else { panic!("{event}") };
    assert!(error.contains("no more"), "{error}");
    assert!(event.to_string().starts_with("plugin ledger (pool member 1) could not be started: "), "{event}");
    until("the status has the error", || {
        let status = host.status("ledger").unwrap();
        let errors = status.members.iter().filter_map(|member| member.start_error.as_deref());
        errors.filter(|error| error.contains("no more")).count() == 1
    });
    // The second call waits for the first process.
    let pool = occupied.end();
    assert_eq!(pool.size(), 2);
    assert_eq!(host.function_pool("note").size(4).open().unwrap().call::<u64>((7,)).unwrap(), 7);
}

fn without_any_process_calls_fail(transport: &str) {
    let _watchdog = Watchdog::start();
    let scratch = tempfile::tempdir().unwrap();
    let folder = limited(scratch.path(), 2);
    let builder = Host::builder().transport(transport).plugin(folder).recv_timeout(PATIENCE);
    // Longer than a test may take.
    let host = never(builder).send_timeout(Duration::from_secs(3600)).build().unwrap();
    let occupied = occupy(&host, 2, scratch.path());
    until("two processes", || pids(&host).len() == 2);
    let pool = occupied.pool.clone();
    let waiting = pool.call_async::<u64>((9, "")).unwrap();
    for pid in pids(&host) {
        Process::of(pid).signal(Signal::KILL);
    }
    // Neither is started again for an hour, and calls do not wait that long.
    for call in occupied.calls {
        assert_eq!(call.wait().unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    }
    assert_eq!(waiting.wait().unwrap_err().kind(), ErrorKind::Broken);
    assert_eq!(pool.call::<u64>((9, "")).unwrap_err().kind(), ErrorKind::Broken);
}

fn a_plugin_that_is_repaired_is_called_at_once(transport: &str) {
    with_ledger(transport, never, |host, scratch| {
        let (pool, update) = (host.function_pool("note").size(1).open().unwrap(), version(scratch, "v2"));
        let call = || pool.call::<u64>((7,));
        assert_eq!(call().unwrap(), 7);
        for repair in [&|| host.reset("ledger"), &|| host.update(update.clone())] as [&dyn Fn() -> _; 2] {
            Process::of(pids(host)[0]).signal(Signal::KILL);
            until("the plugin is given up", || call().is_err_and(|error| error.kind() == ErrorKind::Broken));
            repair().unwrap();
            assert_eq!(call().unwrap(), 7);
        }
    });
}

fn a_process_that_hangs_gets_no_calls_until_it_has_answered(transport: &str) {
    with_ledger(transport, as_it_is, |host, scratch| {
        // Calls in one message wait for each other.
        let apart = CallOptions::new().batch_rows(1);
        let pool = occupy(host, 2, scratch).end().with_options(apart);
        let (hung, free) = (scratch.join("hung"), scratch.join("free"));
        fs::write(&free, "").unwrap();
        let short = pool.clone().with_options(apart.answer_within(Duration::from_millis(50)));
        assert_eq!(short.call::<u64>((1, text(&hung))).unwrap_err().kind(), ErrorKind::Timeout);
        for number in 0..50u64 {
            assert_eq!(pool.call::<u64>((number, text(&free))).unwrap(), number);
        }
        fs::write(&hung, "").unwrap();
        let again = scratch.join("again");
        let calls: Vec<_> = (0..2u64).map(|number| pool.call_async::<u64>((number, text(&again))).unwrap()).collect();
        let again = Occupied { calls, pool, file: again };
        again.await_begun(2);
        let pool = again.end();
        // Both hang, and one of them answers.
        let short = pool.clone().with_options(apart.answer_within(Duration::from_millis(50)));
        let files = [0, 1].map(|number| scratch.join(format!("hung{number}")));
        for answered in &files {
            let calls = files.each_ref().map(|file| short.call_async::<u64>((1, text(file))).unwrap());
            assert!(calls.into_iter().all(|call| call.wait().unwrap_err().kind() == ErrorKind::Timeout));
            fs::write(answered, "").unwrap();
            assert_eq!(pool.call::<u64>((1, text(&free))).unwrap(), 1);
            files.iter().for_each(|file| fs::write(file, "").unwrap());
            let last = scratch.join("last");
            let calls = [0, 1].map(|number: u64| pool.call_async((number, text(&last))).unwrap());
            let last = Occupied { calls: calls.into(), pool: pool.clone(), file: last };
            last.await_begun(2);
            last.end();
            files.iter().for_each(|file| fs::remove_file(file).unwrap());
        }
    });
}

fn a_long_call_holds_up_no_other(transport: &str) {
    with_ledger(transport, as_it_is, |host, scratch| {
        // Calls in one message wait for each other.
        let pool = occupy(host, 2, scratch).end().with_options(CallOptions::new().batch_rows(1));
        let (long, short) = (scratch.join("long"), scratch.join("short"));
        fs::write(&short, "").unwrap();
        let shorts = |count| (0..count).map(|number: u64| (number, text(&short)));
        for round in 0..5u64 {
            // Short calls, so that each process is given several at a time.
            let outcomes = pool.call_many::<u64, _>(shorts(500)).unwrap();
            assert!(outcomes.into_iter().map(Result::unwrap).eq(0..500));
            let call = pool.call_async::<u64>((round, text(&long))).unwrap();
            let outcomes = pool.call_many::<u64, _>(shorts(500)).unwrap();
            assert!(outcomes.into_iter().map(Result::unwrap).eq(0..500));
            fs::write(&long, "").unwrap();
            assert_eq!(call.wait().unwrap(), round);
            fs::remove_file(&long).unwrap();
        }
    });
}

fn calls_begin_in_their_order_and_dropped_ones_are_not_executed(transport: &str) {
    with_ledger(transport, as_it_is, |host, scratch| {
        let file = scratch.join("file");
        // All calls of one process, so that its file has their order.
        let pool = host.function_pool("filed").size(1).open().unwrap();
        let calls: Vec<_> =
            (0..1_000u64).map(|number| pool.call_async::<u64>((number, text(&file), 20)).unwrap()).collect();
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(call.wait().unwrap(), number as u64);
        }
        let lines = fs::read_to_string(&file).unwrap();
        let numbers = lines.lines().map(|line| line.split(' ').next().unwrap().parse::<u64>().unwrap());
        assert!(numbers.eq(0..1_000), "calls began in another order");

        let occupied = occupy(host, 2, scratch);
        let pool = occupied.pool.clone();
        let (kept, dropped): (Vec<_>, Vec<_>) = (100..200u64)
            .map(|number| (number, pool.call_async::<u64>((number, text(&occupied.file))).unwrap()))
            .partition(|(number, _)| number % 3 == 0);
        drop(dropped);
        fs::write(&occupied.file, "").unwrap();
        for (number, call) in kept {
            assert_eq!(call.wait().unwrap(), number);
        }
        let begun = fs::read_to_string(occupied.file.with_extension("begun")).unwrap();
        let begun: HashSet<u64> = begun.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(begun, (0..2).chain((100..200).filter(|number| number % 3 == 0)).collect());
    });
}

fn a_call_whose_deadline_passes_in_the_queue_is_not_executed(transport: &str) {
    with_ledger(transport, as_it_is, |host, scratch| {
        let occupied = occupy(host, 2, scratch);
        let hurried = occupied.pool.clone().with_options(CallOptions::new().deadline(Duration::from_millis(20)));
        let error = hurried.call::<u64>((77, text(&occupied.file))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Expired);
        assert!(error.to_string().contains("20ms"), "{error}");
        // One that was sent: its process is not disturbed.
        let pool = occupied.end();
        assert!(!Ledger::noted(host).contains(&77));
        let hurried = pool.clone().with_options(CallOptions::new().deadline(Duration::from_millis(50)));
        let file = scratch.join("late");
        assert_eq!(hurried.call::<u64>((78, text(&file))).unwrap_err().kind(), ErrorKind::Timeout);
        fs::write(&file, "").unwrap();
        assert_eq!(pool.call::<u64>((79, text(&file))).unwrap(), 79);
    });
}

fn a_full_queue_refuses_calls(transport: &str) {
    with_ledger(
        transport,
        |builder| builder.call_queue(10_000),
        |host, scratch| {
            let occupied = occupy(host, 2, scratch);
            let mut waiting = Vec::new();
            let error = loop {
                match occupied.pool.call_async::<u64>((waiting.len() as u64, text(&occupied.file))) {
                    Ok(call) => waiting.push(call),
                    Err(error) => break error,
                }
                assert!(waiting.len() < 10_000);
            };
            assert_eq!(error.kind(), ErrorKind::QueueFull);
            // Many rows wait themselves.
            let file = text(&occupied.file).to_owned();
            let pool = occupied.end();
            fs::write(&file, "").unwrap();
            for (number, call) in waiting.into_iter().enumerate() {
                assert_eq!(call.wait().unwrap(), number as u64);
            }
            let rows = (0..2_000u64).map(|number| (number, file.as_str()));
            let outcomes = pool.call_many::<u64, _>(rows).unwrap();
            assert!(outcomes.into_iter().map(Result::unwrap).eq(0..2_000));
            assert_eq!(pool.call::<u64>((1, file.as_str())).unwrap(), 1, "nothing waits any more");
        },
    );
}

fn a_stopper_ends_the_waits_on_its_pool_alone(transport: &str) {
    with_ledger(transport, as_it_is, |host, scratch| {
        let occupied = occupy(host, 2, scratch);
        let other = host.function_pool("held").size(2).open().unwrap();
        let others = other.call_async::<u64>((5, text(&occupied.file))).unwrap();
        let waiting = occupied.pool.call_async::<u64>((77, text(&occupied.file))).unwrap();
        let stopper = occupied.pool.stopper();
        let waits = std::thread::spawn(move || waiting.wait());
        stopper.stop();
        assert_eq!(waits.join().unwrap().unwrap_err().kind(), ErrorKind::Stopped);
        assert_eq!(occupied.pool.call::<u64>((1, "")).unwrap_err().kind(), ErrorKind::Stopped);
        for call in occupied.calls {
            assert_eq!(call.wait().unwrap_err().kind(), ErrorKind::Stopped);
        }
        fs::write(&occupied.file, "").unwrap();
        assert_eq!(others.wait().unwrap(), 5);
        assert!(!Ledger::noted(host).contains(&77));
    });
}

fn a_shutdown_ends_every_call_and_every_process(transport: &str) {
    with_ledger(
        transport,
        |builder| builder.grace(Duration::from_millis(100)),
        |host, scratch| {
            let occupied = occupy(host, 3, scratch);
            let former: Vec<_> = pids(host).iter().map(|pid| (Process::of(*pid), socket_folder(*pid))).collect();
            let pool = occupied.pool.clone();
            let waiting: Vec<_> =
                (0..100u64).map(|number| pool.call_async::<u64>((number, text(&occupied.file))).unwrap()).collect();
            let (futures, threads): (Vec<_>, Vec<_>) =
                waiting.into_iter().chain(occupied.calls).enumerate().partition(|(number, _)| number % 2 == 0);
            let threads: Vec<_> =
                threads.into_iter().map(|(_, call)| std::thread::spawn(move || call.wait())).collect();
            host.shutdown();
            for (process, folder) in former {
                process.ended();
                assert!(!folder.exists(), "{} is left", folder.display());
            }
            let waits = threads.into_iter().map(|thread| thread.join().unwrap());
            let futures = futures::executor::block_on(join_all(futures.into_iter().map(|(_, call)| call)));
            for outcome in waits.chain(futures) {
                let kind = outcome.unwrap_err().kind();
                let is_told = matches!(kind, ErrorKind::Stopped | ErrorKind::Exited | ErrorKind::OutcomeUnknown);
                assert!(is_told, "{kind:?}");
            }
            assert_eq!(pool.call::<u64>((1, "")).unwrap_err().kind(), ErrorKind::Stopped);
            let error = host.function_pool("note").open().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Stopped);
        },
    );
}

/// Another version of the plugin `ledger`, in a folder of its own.
fn version(scratch: &Path, version: &str) -> Package {
    let ledger = Ledger::new();
    let folder = scratch.join(version).join("ledger");
    fs::create_dir_all(&folder).unwrap();
    let manifest = fs::read_to_string(ledger.folder().join("ledger.json")).unwrap();
    fs::write(folder.join("ledger.json"), manifest.replace("v1.0.0", version)).unwrap();
    symlink(tools::ledger(), folder.join("ledger")).unwrap();
    Package::read(folder).unwrap()
}

fn an_update_under_load_costs_no_call_and_leaves_no_old_process(transport: &str) {
    with_ledger(transport, as_it_is, |host, scratch| {
        let file = scratch.join("file");
        let pool = host.function_pool("filed").size(3).open().unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let over = Over(&is_over);
            let (is_over, file, calling) = (&is_over, &file, pool.clone());
            let caller = scope.spawn(move || {
                let mut number = 0u64;
                while !is_over.load(Ordering::SeqCst) {
                    let calls: Vec<_> = (number..number + 50)
                        .map(|number| (number, calling.call_async::<u64>((number, text(file), 100)).unwrap()))
                        .collect();
                    for (number, call) in calls {
                        assert_eq!(call.wait().expect("a call is lost"), number);
                    }
                    number += 50;
                }
                number
            });
            for number in 2..5 {
                until("three processes", || pids(host).len() == 3 || caller.is_finished());
                let former: Vec<_> = pids(host).iter().map(|pid| Process::of(*pid)).collect();
                let package = version(scratch, &format!("v{number}"));
                let folder = package.folder.clone();
                host.update(package).unwrap();
                former.iter().for_each(Process::ended);
                until("three processes of the new version", || {
                    let pids = pids(host);
                    // One that has just been started may be anywhere yet.
                    let is_new = |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).ok() == Some(folder.clone());
                    pids.len() == 3 && pids.iter().all(is_new) || caller.is_finished()
                });
            }
            drop(over);
            let made = caller.join().unwrap();
            assert_eq!(filed(file), (0..made).map(|number| (number, 1)).collect());
        });
    });
}

fn a_stopped_plugin_is_started_by_the_next_calls(transport: &str) {
    with_ledger(transport, as_it_is, |host, scratch| {
        let file = scratch.join("file");
        let occupied = occupy(host, 2, scratch);
        let former: Vec<_> = pids(host).iter().map(|pid| Process::of(*pid)).collect();
        // Calls in flight are waited for.
        let calls = std::thread::scope(|scope| {
            let stopping = scope.spawn(|| host.stop("ledger"));
            let pool = occupied.end();
            stopping.join().unwrap().unwrap();
            pool
        });
        former.iter().for_each(Process::ended);
        fs::write(&file, "").unwrap();
        assert_eq!(calls.call::<u64>((7, text(&file))).unwrap(), 7);
        assert_eq!(pids(host).len(), 1, "one call needs one process");
        drop(occupy(host, 2, scratch).end());
        assert_eq!(pids(host).len(), 2);
    });
}

fn a_removed_plugin_ends_with_all_its_processes(transport: &str) {
    let _watchdog = Watchdog::start();
    let (scratch, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = plugins.path().join("ledger");
    fs::rename(version(scratch.path(), "v1").folder, &folder).unwrap();
    let host = Host::builder().transport(transport).plugins_dir(plugins.path()).build().unwrap();
    let removals: [&dyn Fn(); 2] = [&|| host.remove("ledger").unwrap(), &|| {
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(host.rescan().unwrap().removed, ["ledger"]);
    }];
    for remove in removals {
        let file = scratch.path().join("file");
        let occupied = occupy(&host, 2, scratch.path());
        let former: Vec<_> = pids(&host).iter().map(|pid| (Process::of(*pid), socket_folder(*pid))).collect();
        let pool = occupied.end();
        fs::write(&file, "").unwrap();
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| {
                loop {
                    match pool.call::<u64>((1, text(&file))) {
                        Ok(result) => assert_eq!(result, 1),
                        // On a busy machine the removal takes longer than a call
                        // waits.
                        Err(error) if error.kind() == ErrorKind::Away => {}
                        Err(error) => break error.kind(),
                    }
                }
            });
            remove();
            assert_eq!(caller.join().unwrap(), ErrorKind::Stopped);
        });
        for (number, (process, folder)) in former.into_iter().enumerate() {
            process.ended();
            assert!(number == 0 || !folder.exists(), "{} is left", folder.display());
        }
        assert_eq!(pool.call::<u64>((1, "")).unwrap_err().kind(), ErrorKind::Stopped);
        if folder.exists() {
            host.rescan().unwrap();
        }
    }
}

fn health_counts_the_calls_of_all_processes(transport: &str) {
    with_ledger(transport, as_it_is, |host, scratch| {
        let occupied = occupy(host, 2, scratch);
        let waiting: Vec<_> =
            (0..5u64).map(|number| occupied.pool.call_async::<u64>((number, text(&occupied.file))).unwrap()).collect();
        let health =
            || host.status("ledger").unwrap().symbols.into_iter().find(|symbol| symbol.name == "kept").unwrap();
        let now = health();
        assert_eq!((now.rows_out, now.rows_in, now.queue), (7, 0, Some(7)));
        drop(waiting);
        assert_eq!(health().queue, Some(2), "those that were dropped wait no more");
        let _pool = occupied.end();
        let now = health_after(host, "kept", 2);
        assert_eq!((now.queue, now.errors.total(), now.latency.unwrap().count()), (Some(0), 0, 2));
        let pool = host.function_pool("word").size(2).open().unwrap();
        let _ = pool.call_many::<String, _>((0..1000u64).map(|number| (number,))).unwrap();
        let now = health_after(host, "word", 1000);
        assert_eq!((now.rows_out, now.errors.symbol, now.errors.total()), (1000, 100, 100));
        let status = host.status("ledger").unwrap();
        let members: Vec<_> = status.members.iter().map(|member| (member.member, member.state)).collect();
        assert_eq!(members, [(1, PluginState::Running)]);
        let written = serde_json::to_value(&status).unwrap();
        assert_eq!(written["members"][0]["state"], "running");
        assert_eq!(written["members"][0]["member"], 1);
    });
}

/// The health of a function of which so many calls were answered.
fn health_after(host: &Host, name: &str, answers: u64) -> ekuiper_host::SymbolHealth {
    let status = host.status("ledger").unwrap();
    let health = status.symbols.into_iter().find(|symbol| symbol.name == name).unwrap();
    assert_eq!(health.rows_in, answers);
    health
}

fn a_plugin_in_python_and_one_with_a_supervisor_have_pools(transport: &str) {
    let _watchdog = Watchdog::start();
    let python = OfficialPython::on_ours();
    let mirror = Mirror::supervised();
    let host = python.host_builder(transport).plugin(mirror.folder()).build().unwrap();
    for function in [python.symbol("revert"), "revert".to_owned()] {
        let pool = host.function_pool(&function).size(2).open().unwrap();
        let rows = (0..2_000).map(|number| (format!("{number}x"),));
        let outcomes = pool.call_many::<String, _>(rows).unwrap();
        for (number, outcome) in outcomes.into_iter().enumerate() {
            let expected: String = format!("{number}x").chars().rev().collect();
            assert_eq!(outcome.unwrap(), expected);
        }
        let plugin = if function == "revert" { "mirror" } else { python.name() };
        until("the second process is started", || {
            let _ = pool.call_many::<String, _>((0..100).map(|_| ("x",))).unwrap();
            host.status(plugin).unwrap().members.iter().any(|member| member.state == PluginState::Running)
        });
    }
    host.shutdown();
    python.assert_clean();
}

fn sockets_are_in_the_folder_that_was_configured(transport: &str) {
    let folder = tempfile::tempdir().unwrap();
    with_ledger(
        transport,
        |builder| builder.ipc_dir(folder.path()),
        |host, scratch| {
            let occupied = occupy(host, 2, scratch);
            let folders: Vec<_> = pids(host).into_iter().map(socket_folder).collect();
            assert_eq!(folders[0], folder.path());
            assert_eq!(folders[1].parent(), Some(folder.path()));
            let mode = fs::metadata(&folders[1]).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
            occupied.end();
        },
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "something is left");
}

fn an_official_plugin_has_no_pool(transport: &str) {
    if ["zeromq", "shm"].contains(&transport) {
        return;
    }
    OfficialPython::run(transport, |plugin, host| {
        let revert = plugin.symbol("revert");
        let error = host.function_pool(&revert).size(2).open().unwrap_err();
        assert_eq!((error.plugin(), error.symbol()), (Some(plugin.name()), Some(&*revert)));
        assert_eq!(error.kind(), ErrorKind::NotPoolable);
        let expected = format!("plugin {}: function {revert} cannot have a pool of 2: ", plugin.name());
        assert!(error.to_string().starts_with(&expected), "{error}");
        // One process there is, in any case.
        let pool = host.function_pool(&revert).size(1).open().unwrap();
        let outcomes = pool.call_many::<String, _>((0..100).map(|number| (format!("{number}x"),))).unwrap();
        for (number, outcome) in outcomes.into_iter().enumerate() {
            let expected: String = format!("{number}x").chars().rev().collect();
            assert_eq!(outcome.unwrap(), expected);
        }
    });
}

fn sources_and_sinks_run_in_the_first_process_alone(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = Host::builder().transport(transport).plugin(mirror.folder()).build().unwrap();
    let source = host.source("random").config(json!({ "interval": 1, "count": 100_000 })).open().unwrap();
    let pool = host.function_pool("revert").size(2).open().unwrap();
    until("a second process", || {
        let _ = pool.call_many::<String, _>((0..100).map(|_| ("x",))).unwrap();
        host.status("mirror").unwrap().members.iter().any(|member| member.state == PluginState::Running)
    });
    let status = host.status("mirror").unwrap();
    Process::of(status.members[0].pid.unwrap()).signal(Signal::KILL);
    until("it is restarted", || host.status("mirror").unwrap().members[0].restarts == 1);
    // That is nothing to the source.
    let mut numbers = source.map(|tuple| tuple.unwrap().message["count"].as_u64().unwrap());
    let first = numbers.next().unwrap();
    assert!((first + 1..first + 100).eq(numbers.by_ref().take(99)));
    let status = host.status("mirror").unwrap();
    let restarts = |symbol: &str| status.symbols.iter().find(|open| open.name == symbol).unwrap().restarts;
    assert_eq!((status.restarts, restarts("random")), (0, 0));
}
