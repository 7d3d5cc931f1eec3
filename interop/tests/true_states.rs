//! What a host says of a plugin whose process is killed, at each moment and in
//! each phase of its life.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ekuiper_conformance::wait_until;
use ekuiper_host::{Host, Package, PluginState, RestartPolicy, Status};
use ekuiper_interop::guard::{Process, Watchdog};
use ekuiper_interop::managed::scratch;
use ekuiper_interop::{packages, tools};
use rustix::process::Signal;
use serde_json::json;

/// A plugin `mirror` or `ledger` whose program is a script that executes it
/// after some commands.
fn package(root: &Path, folder: &str, program: &Path, before: &str) -> PathBuf {
    let name = program.file_name().unwrap().to_str().unwrap();
    let folder = root.join(folder).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let symbols = match name {
        "ledger" => json!({ "sources": ["stuck"], "functions": ["note", "held", "kept", "meet"] }),
        _ => json!({ "sources": ["random"], "sinks": ["file", "lines"], "functions": ["echo", "revert", "average"] }),
    };
    let mut manifest = json!({ "version": folder.parent().unwrap().file_name().unwrap().to_str().unwrap(), "language": "go", "executable": "run" });
    manifest.as_object_mut().unwrap().extend(symbols.as_object().unwrap().clone());
    std::fs::write(folder.join(format!("{name}.json")), manifest.to_string()).unwrap();
    std::fs::write(folder.join("run"), packages::script(before, program)).unwrap();
    std::fs::set_permissions(folder.join("run"), PermissionsExt::from_mode(0o755)).unwrap();
    folder
}

fn host(root: &Path, folder: &Path) -> Host {
    let mut policy = RestartPolicy::default();
    policy.break_after = 0;
    (policy.first_pause, policy.max_pause) = (Duration::from_millis(1), Duration::from_millis(1));
    Host::builder().plugin(folder).ipc_dir(root).restart(policy).build().unwrap()
}

/// Asks until the process has ended and what follows is known. Whenever the
/// process had ended before the question, the answer does not claim that it
/// lives, or serves.
fn kill_and_watch(host: &Host, plugin: &str, process: &Process, is_over: impl Fn(&Status) -> bool) -> Status {
    let mut status = host.status(plugin).unwrap();
    let (crashes, restarts) = (status.crashes, status.restarts);
    process.signal(Signal::KILL);
    let mut last = (crashes, restarts, status.generation);
    wait_until("it is over", || {
        let had_ended = process.ends_within(Duration::ZERO);
        status = host.status(plugin).unwrap();
        let is_alive = status.pid.is_some() && status.uptime.is_some();
        assert!(status.state != PluginState::Running || is_alive, "{status:?}");
        if had_ended {
            assert_ne!(status.pid, Some(process.pid()), "{status:?}");
        }
        let now = (status.crashes, status.restarts, status.generation);
        assert!(last.0 <= now.0 && last.1 <= now.1 && last.2 <= now.2, "{last:?}, then {status:?}");
        last = now;
        is_over(&status)
    });
    status
}

fn process(host: &Host, plugin: &str) -> Process {
    Process::of(host.pid(plugin).unwrap())
}

/// Crashes, restarts and processes so far.
fn counts(status: &Status) -> [u64; 3] {
    [status.crashes, status.restarts, status.generation]
}

fn is_back(restarts: u64) -> impl Fn(&Status) -> bool {
    move |status| status.state == PluginState::Running && status.restarts == restarts
}

#[test]
fn a_killed_plugin_is_never_said_to_serve() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    // What it leaves behind has its output, which is waited for.
    let folder = package(root.path(), "v1", tools::mirror(), "setsid sleep 5 &");
    let host = host(root.path(), &folder);
    let status = || host.status("mirror").unwrap();
    assert_eq!((status().state, status().pid, counts(&status())), (PluginState::Idle, None, [0, 0, 0]));
    let revert = host.function("revert").unwrap();
    for round in 1..=3 {
        let after = kill_and_watch(&host, "mirror", &process(&host, "mirror"), is_back(round));
        assert_eq!(counts(&after), [round, round, round + 1]);
    }
    // While it is called.
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                let _ = revert.call::<String>(("abc",));
            }
        });
        for round in 4..=8 {
            let after = kill_and_watch(&host, "mirror", &process(&host, "mirror"), is_back(round));
            assert_eq!(counts(&after), [round, round, round + 1]);
        }
        is_done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_start_that_is_killed_is_no_crash() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let [held, pid] = ["held", "pid"].map(|name| root.path().join(name));
    let before = format!(
        "while [ -e '{}' ]; do echo $$ > '{}.new'; mv '{1}.new' '{1}'; sleep 0.02; done",
        held.display(),
        pid.display()
    );
    let folder = package(root.path(), "v1", tools::mirror(), &before);
    let host = host(root.path(), &folder);
    let starting = || {
        let mut found = None;
        wait_until("it starts", || {
            found = std::fs::read_to_string(&pid).ok().and_then(|text| text.trim().parse().ok());
            found.is_some()
        });
        Process::of(found.unwrap())
    };
    std::fs::write(&held, "").unwrap();
    std::thread::scope(|scope| {
        let start = scope.spawn(|| host.start("mirror"));
        let process = starting();
        assert_eq!(host.status("mirror").unwrap().state, PluginState::Starting);
        let after = kill_and_watch(&host, "mirror", &process, |status| status.state == PluginState::Idle);
        assert_eq!(counts(&after), [0, 0, 1]);
        assert!(after.last_error.unwrap().text.contains("signal 9"));
        start.join().unwrap().unwrap_err();
    });
    std::fs::remove_file(&held).unwrap();
    host.start("mirror").unwrap();
    assert_eq!(counts(&host.status("mirror").unwrap()), [0, 0, 2]);

    // The restart after a crash is killed, too: it is one crash, and one restart.
    std::fs::write(&held, "").unwrap();
    std::fs::remove_file(&pid).unwrap();
    process(&host, "mirror").signal(Signal::KILL);
    for generation in 3..6 {
        let process = starting();
        let status = host.status("mirror").unwrap();
        assert_eq!((counts(&status), status.state), ([1, 0, generation], PluginState::Starting));
        std::fs::remove_file(&pid).unwrap();
        kill_and_watch(&host, "mirror", &process, |status| status.generation > generation);
    }
    std::fs::remove_file(&held).unwrap();
    wait_until("it is back", || is_back(1)(&host.status("mirror").unwrap()));
    assert_eq!(counts(&host.status("mirror").unwrap()), [1, 1, 6]);
}

#[test]
fn a_restoration_that_is_killed_is_a_crash() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let folder = package(root.path(), "v1", tools::ledger(), "");
    let host = host(root.path(), &folder);
    let go = root.path().join("go");
    std::fs::write(&go, "").unwrap();
    let source = host.source("stuck").datasource(go.to_str().unwrap()).open().unwrap();
    std::fs::remove_file(&go).unwrap();
    let first = process(&host, "ledger");
    first.signal(Signal::KILL);
    first.ended();
    for crashes in 1..4 {
        wait_until("it is ready, and restores its source", || {
            let status = host.status("ledger").unwrap();
            assert_ne!(status.state, PluginState::Running);
            status.generation == crashes + 1 && status.pid.is_some()
        });
        assert_eq!(counts(&host.status("ledger").unwrap()), [crashes, 0, crashes + 1]);
        let process = process(&host, "ledger");
        kill_and_watch(&host, "ledger", &process, |status| status.crashes == crashes + 1);
    }
    std::fs::write(&go, "").unwrap();
    wait_until("it is back", || is_back(1)(&host.status("ledger").unwrap()));
    assert_eq!(counts(&host.status("ledger").unwrap()), [4, 1, 5]);
    drop(source);
}

#[test]
fn an_update_is_killed_on_either_side() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let [held, pid] = ["held", "pid"].map(|name| root.path().join(name));
    let first = package(root.path(), "v1", tools::mirror(), "");
    let before = format!("echo $$ > '{}'; while [ -e '{}' ]; do sleep 0.02; done", pid.display(), held.display());
    let second = package(root.path(), "v2", tools::mirror(), &before);
    let host = host(root.path(), &first);
    host.start("mirror").unwrap();
    std::fs::write(&held, "").unwrap();
    let update = || host.update(Package::read(&second).unwrap());
    let trial = || {
        let mut found = None;
        wait_until("it is tried", || {
            found = std::fs::read_to_string(&pid).ok().and_then(|text| text.trim().parse().ok());
            found.is_some()
        });
        std::fs::remove_file(&pid).unwrap();
        Process::of(found.unwrap())
    };
    // The trial is killed: the old version goes on, and nothing has crashed.
    std::thread::scope(|scope| {
        let updated = scope.spawn(update);
        trial().signal(Signal::KILL);
        updated.join().unwrap().unwrap_err();
    });
    let status = host.status("mirror").unwrap();
    assert_eq!((counts(&status), status.state, status.version.as_str()), ([0, 0, 1], PluginState::Running, "v1"));
    // The old version is killed: it is back, and the update has failed.
    std::thread::scope(|scope| {
        let updated = scope.spawn(update);
        let _trial = trial();
        let old = process(&host, "mirror");
        let after = kill_and_watch(&host, "mirror", &old, |status| status.crashes == 1);
        assert_eq!(after.version, "v1");
        std::fs::remove_file(&held).unwrap();
        updated.join().unwrap().unwrap_err();
    });
    wait_until("it is back", || is_back(1)(&host.status("mirror").unwrap()));
    assert_eq!(counts(&host.status("mirror").unwrap()), [1, 1, 2]);
    update().unwrap();
    let status = host.status("mirror").unwrap();
    assert_eq!((counts(&status), status.state, status.version.as_str()), ([1, 1, 3], PluginState::Running, "v2"));
    // Killed while it is stopped, it ends as it was to.
    let revert = host.function("revert").unwrap();
    assert_eq!(revert.call::<String>(("abc",)).unwrap(), "cba");
    let process = process(&host, "mirror");
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| host.stop("mirror"));
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_raw(process.pid() as i32).unwrap(), Signal::KILL);
        stopped.join().unwrap().unwrap();
    });
    let status = host.status("mirror").unwrap();
    assert_eq!((status.state, status.pid, status.uptime), (PluginState::Idle, None, None));
    assert!(status.crashes <= 2, "{status:?}");
}
