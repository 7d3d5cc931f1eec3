//! A plugin's process and its channels.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use ekuiper_core::address::SocketFolder;
use ekuiper_core::message::{self, CommandKind, Control, HANDSHAKE, Meta};
use ekuiper_core::transport::{Endpoint, Options, Pull, Push, Transport};
use ekuiper_transport_uds::UdsTransport;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::build::unruly;
use super::channels::{Asked, Channel};
use super::processes::lives;
use super::{PATIENCE, wait_until};

/// The lines that the plugin has written to stderr.
#[derive(Default)]
pub struct Log {
    text: Mutex<String>,
    more: Condvar,
}

impl Log {
    fn pump(self: Arc<Self>, stream: impl Read + Send + 'static) {
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                self.text.lock().unwrap().push_str(&(line + "\n"));
                self.more.notify_all();
            }
        });
    }

    pub fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Waits for a line that contains all of `words`.
    pub fn wait_for(&self, words: &[&str]) -> String {
        let end = Instant::now() + PATIENCE;
        let mut text = self.text.lock().unwrap();
        loop {
            if let Some(line) = text.lines().find(|line| words.iter().all(|word| line.contains(word))) {
                return line.to_owned();
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Not with the lock: whoever prints the log needs it.
                drop(text);
                panic!("no line with {words:?} in the log");
            }
            text = self.more.wait_timeout(text, left).unwrap().0;
        }
    }
}

/// A running plugin, in its own socket folder.
pub struct Plugin {
    pub folder: TempDir,
    pub control: Channel,
    pub child: Child,
    pub log: Arc<Log>,
    /// The plugin's greeting.
    pub greeting: Vec<u8>,
}

impl Plugin {
    /// Starts the plugin and waits for its handshake.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_as(settings, |launch| {
            let mut command = Command::new(unruly());
            command.arg(launch);
            command
        })
    }

    /// Starts the plugin by a custom command, made from its launch argument.
    pub fn start_as(settings: &[(&str, &str)], line: impl FnOnce(&str) -> Command) -> Self {
        Self::start_told(settings, json!({}), HANDSHAKE, line)
    }

    /// Starts the plugin with further launch options; its greeting must begin
    /// with `words`.
    pub fn start_told(
        settings: &[(&str, &str)],
        more: Value,
        words: &[u8],
        line: impl FnOnce(&str) -> Command,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut control = Channel::listen(&sockets(&folder).control("unruly").unwrap());
        let mut launch = json!({ "sendTimeout": 1000, "ipcDir": folder.path(), "logLevel": "debug" });
        launch.as_object_mut().unwrap().extend(map(more));
        let mut command = line(&launch.to_string());
        command.envs(settings.iter().copied()).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::<Log>::default();
        log.clone().pump(child.stderr.take().unwrap());
        let Asked::Request(greeting) = control.next() else { panic!("it went away") };
        assert!(greeting.starts_with(words) && (words != HANDSHAKE || greeting == words), "{greeting:?}");
        Self { control, folder, child, log, greeting }
    }

    /// Starts the plugin again in the same socket folder, as an engine does after
    /// the end of the previous process.
    pub fn next(mut self, settings: &[(&str, &str)]) -> Self {
        let launch = json!({ "sendTimeout": 1000, "ipcDir": self.folder.path(), "logLevel": "debug" });
        let mut command = Command::new(unruly());
        command.arg(launch.to_string()).envs(settings.iter().copied()).stdin(Stdio::null()).stderr(Stdio::piped());
        self.child = command.spawn().unwrap();
        self.log.clone().pump(self.child.stderr.take().unwrap());
        while self.control.next() != Asked::Request(HANDSHAKE.to_vec()) {}
        self
    }

    pub fn sockets(&self) -> SocketFolder {
        sockets(&self.folder)
    }

    /// A file in the plugin's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&mut self, kind: CommandKind, control: Control) -> String {
        let command = message::Command { kind, control }.encode().unwrap();
        self.control.ask_text(&command)
    }

    /// Listens for a source's tuples, and starts it.
    pub fn start_source(&mut self, symbol: &str, meta: &Meta, config: Value) -> (Box<dyn Pull>, String) {
        let data = Endpoint::Listen(self.sockets().data(meta).unwrap());
        let pull = UdsTransport::new().pull(&data, &Options::default()).unwrap();
        let answer = self.command(CommandKind::Start, Control::source(symbol, meta.clone(), "topic", map(config)));
        (pull, answer)
    }

    /// Listens for a sink's acks, starts it, and dials it.
    pub fn start_sink(&mut self, symbol: &str, meta: &Meta, config: Value) -> (Box<dyn Push>, Box<dyn Pull>, String) {
        let sockets = self.sockets();
        let ack = Endpoint::Listen(sockets.ack(meta).unwrap());
        let acks = UdsTransport::new().pull(&ack, &Options::default()).unwrap();
        let answer = self.command(CommandKind::Start, Control::sink(symbol, meta.clone(), map(config)));
        let data = Endpoint::Dial(sockets.data(meta).unwrap());
        let push = UdsTransport::new().push(&data, &Options::default()).unwrap();
        (push, acks, answer)
    }

    /// Listens for a function's handshake, and starts it.
    pub fn start_function(&mut self, symbol: &str) -> Channel {
        let channel = Channel::listen(&self.sockets().function(symbol).unwrap());
        assert_eq!(self.command(CommandKind::Start, Control::function(symbol)), "ok");
        channel.greeted()
    }

    pub fn stop_source(&mut self, symbol: &str, meta: &Meta) -> String {
        self.command(CommandKind::Stop, Control::source(symbol, meta.clone(), "", Map::new()))
    }

    pub fn stop_sink(&mut self, symbol: &str, meta: &Meta) -> String {
        self.command(CommandKind::Stop, Control::sink(symbol, meta.clone(), Map::new()))
    }

    /// Asserts that the plugin still executes commands.
    pub fn assert_alive(&mut self) {
        let meta = meta("alive", "probe");
        let (pull, answer) = self.start_source("counter", &meta, json!({}));
        assert_eq!(answer, "ok");
        assert!(super::drain(&*pull).is_some());
        assert_eq!(self.stop_source("counter", &meta), "ok");
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the plugin's end.
    pub fn exit(&mut self) -> ExitStatus {
        exit_of(&mut self.child)
    }

    /// Asserts an orderly end.
    pub fn assert_exit_0(&mut self) {
        let status = self.exit();
        let log = self.log.text();
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{log}");
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let workers = self.workers();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A worker that goes on writes into the folder that is being removed.
        for worker in workers {
            let _ = kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL);
            wait_until("the worker ends", || !lives(worker));
        }
        if std::thread::panicking() {
            eprintln!("the plugin's log:\n{}", self.log.text());
        }
    }
}

/// Waits for a process's end.
pub fn exit_of(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_until("the process ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

pub fn meta(rule: &str, op: &str) -> Meta {
    Meta { rule_id: rule.into(), op_id: op.into(), instance_id: 0 }
}

fn sockets(folder: &TempDir) -> SocketFolder {
    SocketFolder::new(folder.path())
}

fn map(config: Value) -> Map<String, Value> {
    config.as_object().unwrap().clone()
}

/// Releases a symbol that hangs until this file exists.
pub fn release(file: &Path) {
    std::fs::write(file, "").unwrap();
}
