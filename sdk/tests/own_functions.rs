//! A plugin under an engine that restarts it without its functions, as a stock
//! eKuiper does after an update or a crash. This test is the engine: the plugin's
//! parent, which keeps the functions' sockets.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ekuiper_core::message::{self, CallKind, CommandKind, Control, HANDSHAKE};
use rustix::process::Signal;
use serde_json::json;

use support::build::unruly;
use support::processes::signal;
use support::{Asked, Channel, wait_until, watchdog};

const FUNCTIONS: [&str; 3] = ["echo", "divide", "repeat"];

/// The engine's socket folder, and its end of each channel.
struct Engine {
    folder: tempfile::TempDir,
    control: Channel,
    functions: Vec<Channel>,
    /// Whether the engine restarts plugins by itself, as `ekuiper-host` does.
    supervises: bool,
    /// The number of calls so far.
    calls: u32,
}

impl Engine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = Channel::listen(&sockets(&folder).control("unruly").unwrap());
        Self { folder, control, functions: Vec::new(), supervises: false, calls: 0 }
    }

    fn listen(&mut self, function: &str) {
        self.functions.push(Channel::listen(&sockets(&self.folder).function(function).unwrap()));
    }

    fn launch(&self) -> String {
        let mut launch = json!({ "sendTimeout": 1000, "ipcDir": self.folder.path() });
        if self.supervises {
            launch["supervises"] = true.into();
        }
        launch.to_string()
    }

    /// Starts the plugin, and waits for its handshake.
    fn start(&mut self, command: &mut Command) -> Running {
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        while self.control.next() != Asked::Request(HANDSHAKE.to_vec()) {}
        Running(child)
    }

    fn start_unruly(&mut self) -> Running {
        let launch = self.launch();
        self.start(Command::new(unruly()).arg(launch))
    }

    fn send_start(&mut self, function: &str) -> String {
        let command = message::Command { kind: CommandKind::Start, control: Control::function(function) };
        self.control.ask_text(&command.encode().unwrap())
    }

    /// Asserts that each function has sent one handshake, and answers.
    #[track_caller]
    fn assert_serves(&mut self) {
        self.call(1);
    }

    /// Asserts that each function answers on its connection, and has no other.
    #[track_caller]
    fn assert_serves_still(&mut self) {
        for channel in &mut self.functions {
            assert!(channel.is_silent_for(Duration::from_millis(100)), "something came that nobody asked for");
        }
        self.call(0);
    }

    /// Calls each function, which sends this number of handshakes before.
    #[track_caller]
    fn call(&mut self, handshakes: usize) {
        // A worker that is killed between its answer and its note of that would
        // refuse the same call again.
        self.calls += 1;
        let n = self.calls;
        let calls = [
            (json!([[n, "a"]]), json!([n, "a"])),
            (json!([2 * n, 2]), json!(f64::from(n))),
            (json!(["ab", n]), json!("ab".repeat(n as usize))),
        ];
        for (channel, (args, result)) in self.functions.iter_mut().zip(calls) {
            while channel.handshakes < handshakes {
                channel.next();
            }
            assert_eq!(channel.call(CallKind::Exec, &args), Ok(result));
            assert_eq!(channel.handshakes, handshakes, "a second handshake makes an engine send a call twice");
            channel.handshakes = 0;
        }
    }
}

/// A plugin's process, killed on drop.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sockets(folder: &tempfile::TempDir) -> ekuiper_core::address::SocketFolder {
    ekuiper_core::address::SocketFolder::new(folder.path())
}

fn engine_with_three() -> Engine {
    let mut engine = Engine::new();
    FUNCTIONS.iter().for_each(|function| engine.listen(function));
    engine
}

#[test]
fn after_an_update_or_a_crash_all_functions_are_back_without_a_start() {
    let _watchdog = watchdog();
    let mut engine = engine_with_three();
    let first = engine.start_unruly();
    engine.assert_serves();
    // Killed by whoever, or by the engine for an update; the engine starts
    // another, and sends the start of the last function.
    drop(first);
    let _second = engine.start_unruly();
    assert_eq!(engine.send_start("repeat"), "ok");
    engine.assert_serves();
    // So it does again, for a rule that is made.
    assert_eq!(engine.send_start("echo"), "ok");
    engine.assert_serves_still();
}

#[test]
fn a_socket_that_is_made_later_or_made_again_is_dialled() {
    let _watchdog = watchdog();
    let mut engine = Engine::new();
    let _plugin = engine.start_unruly();
    FUNCTIONS.iter().for_each(|function| engine.listen(function));
    engine.assert_serves();
    for _ in 0..2 {
        engine.functions.clear();
        FUNCTIONS.iter().for_each(|function| engine.listen(function));
        engine.assert_serves();
    }
}

#[test]
fn a_plugin_behind_a_wrapper_or_a_guard_does_it_too() {
    let _watchdog = watchdog();
    let mut engine = engine_with_three();
    let launch = engine.launch();
    // As `conda run` does: the engine is the parent's parent.
    let wrapped = engine.start(Command::new("sh").args(["-c", r#""$0" "$1"; exit $?"#]).arg(unruly()).arg(&launch));
    engine.assert_serves();
    // Killed, the shell leaves its child to the death of its parent.
    drop(wrapped);
    for channel in &mut engine.functions {
        assert_eq!(channel.next(), Asked::Gone);
    }
    assert_eq!(engine.control.next(), Asked::Gone);
    let supervisor = engine.start(Command::new(unruly()).arg(&launch).env("UNRULY_SUPERVISED", "1"));
    engine.assert_serves();
    // The supervisor has seen no start, and its next worker needs none.
    let worker = children(supervisor.0.id())[0];
    signal(worker, Signal::KILL);
    engine.assert_serves();
    assert_eq!(engine.send_start("divide"), "ok");
    engine.assert_serves_still();
    let next = children(supervisor.0.id())[0];
    assert_ne!(next, worker);
    signal(next, Signal::KILL);
    engine.assert_serves();
}

fn children(pid: u32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    std::fs::read_to_string(path).unwrap().split_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// The process of another engine, and not a test: listens and reports handshakes.
#[test]
#[ignore = "the other engine of the tests here"]
fn other_engine() {
    let Ok(path) = std::env::var("OTHER_ENGINE") else { return };
    let listener = UnixListener::bind(path).unwrap();
    println!("\nlistening");
    for stream in listener.incoming() {
        let mut heard = Vec::new();
        stream.unwrap().read_to_end(&mut heard).unwrap();
        println!("heard {heard:?}");
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn the_socket_of_another_engine_is_left_before_a_byte_is_sent() {
    let _watchdog = watchdog();
    let mut engine = Engine::new();
    let path = sockets(&engine.folder).function("echo").unwrap().path().to_owned();
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "other_engine", "--ignored", "--nocapture", "--test-threads=1"])
        .env("OTHER_ENGINE", &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines().map(Result::unwrap);
    let _other = Running(other);
    assert!(lines.any(|line| line == "listening"));
    // It is neither parent nor ancestor of this plugin.
    let _plugin = engine.start_unruly();
    assert_eq!(lines.next().unwrap(), "heard []");
    // Where the engine itself listens later, it is served.
    std::fs::remove_file(&path).unwrap();
    engine.listen("echo");
    engine.assert_serves();
}

#[test]
fn a_host_that_restores_by_itself_is_not_dialled() {
    let _watchdog = watchdog();
    let mut engine = engine_with_three();
    engine.supervises = true;
    let _plugin = engine.start_unruly();
    for channel in &mut engine.functions {
        assert!(channel.is_silent_for(Duration::from_millis(200)), "nobody has started it");
    }
    assert_eq!(engine.send_start("echo"), "ok");
    engine.functions.truncate(1);
    engine.assert_serves();
}

#[test]
fn an_idle_plugin_does_not_wake_for_a_busy_folder() {
    let _watchdog = watchdog();
    let mut engine = Engine::new();
    let plugin = engine.start_unruly();
    let wakes = || wakes_of(plugin.0.id(), "functions");
    wait_until("the thread waits", || wakes().is_some());
    let before = wakes().unwrap();
    let (start, file) = (Instant::now(), engine.folder.path().join("file"));
    let mut made = 0;
    while made < 1000 || start.elapsed() < Duration::from_secs(1) {
        std::fs::write(&file, "").unwrap();
        std::fs::remove_file(&file).unwrap();
        made += 1;
    }
    let (woken, time) = (wakes().unwrap() - before, start.elapsed());
    // It sleeps twice for each look: until the next is due, and for a file.
    assert!(woken as f64 <= 25.0 * time.as_secs_f64(), "{woken} wakes for {made} files in {time:?}");
    // And still it does not miss what it waits for.
    FUNCTIONS.iter().for_each(|function| engine.listen(function));
    engine.assert_serves();
}

/// The number of voluntary context switches of a thread.
fn wakes_of(pid: u32, thread: &str) -> Option<u64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let is_it =
        |path: &std::path::Path| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == thread);
    let task = tasks.filter_map(|task| Some(task.ok()?.path())).find(|path| is_it(path))?;
    let status = std::fs::read_to_string(task.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}
