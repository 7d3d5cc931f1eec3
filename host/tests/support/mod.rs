//! A host with a plugin whose process does nothing, and puppets that the test
//! plays on the plugin's channels.
#![allow(dead_code, clippy::disallowed_methods)] // each test file uses its part

pub(crate) mod logged;
pub(crate) mod other;
pub(crate) mod sinks;

use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use ekuiper_conformance::raw::{PULL, PUSH, REP, REQ, RawListener, RawPeer, frame, is_listening};
pub(crate) use ekuiper_conformance::wait_until;
use ekuiper_core::address::{Address, SocketFolder};
use ekuiper_core::message::Meta;
use ekuiper_host::{Event, EventKind, Function, Host, HostBuilder, Result, Sink};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Maximum time of any wait before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with plugins and sockets.
pub(crate) struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sockets")).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Creates a plugin that serves these functions, the source `s` and the
    /// sink `k` through puppets only.
    pub(crate) fn plugin(&self, name: &str, functions: &[&str]) -> PathBuf {
        self.script(name, functions, "exec sleep 1000")
    }

    /// Creates such a plugin with another script as its process.
    pub(crate) fn script(&self, name: &str, functions: &[&str], script: &str) -> PathBuf {
        let folder = self.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let only = name == "p";
        let manifest = serde_json::json!({
            "language": "executable", "executable": "run", "functions": functions,
            "sources": if only { vec!["s"] } else { vec![] }, "sinks": if only { vec!["k"] } else { vec![] },
        });
        std::fs::write(folder.join(format!("{name}.json")), manifest.to_string()).unwrap();
        write_script(&folder.join("run"), script);
        folder
    }

    /// Creates a plugin with the source `s<name>`, and another script as its
    /// process.
    pub(crate) fn named(&self, name: &str, script: &str) -> PathBuf {
        let folder = self.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let manifest = serde_json::json!({
            "language": "executable", "executable": "run", "sources": [format!("s{name}")],
        });
        std::fs::write(folder.join(format!("{name}.json")), manifest.to_string()).unwrap();
        write_script(&folder.join("run"), script);
        folder
    }

    pub(crate) fn builder(&self) -> HostBuilder {
        Host::builder().ipc_dir(self.path().join("sockets"))
    }

    pub(crate) fn sockets(&self) -> SocketFolder {
        SocketFolder::new(self.path().join("sockets"))
    }

    /// Returns the puppet of a plugin's control channel, after its handshake.
    pub(crate) fn control(&self, plugin: &str) -> Puppet {
        Puppet::greet(&self.sockets().control(plugin).unwrap())
    }

    /// Answers the start of a function; returns the puppet of its channel,
    /// after both handshakes.
    pub(crate) fn start_function(&self, control: &mut Puppet, symbol: &str) -> Puppet {
        let about = control.expect("start", symbol);
        assert_eq!(about["pluginType"], "func");
        let function = Puppet::greet(&self.sockets().function(symbol).unwrap());
        control.say(b"ok");
        function
    }

    /// Starts the process of the plugin `p`; returns the puppet of its control
    /// channel, after its handshake.
    pub(crate) fn start(&self, host: &Host) -> Puppet {
        std::thread::scope(|scope| {
            let start = scope.spawn(|| host.start("p"));
            let control = self.control("p");
            start.join().unwrap().unwrap();
            control
        })
    }

    /// Answers the start of the source `s` of rule `r`.
    pub(crate) fn serve_source(&self, control: &mut Puppet) -> RawPeer {
        let about = control.expect("start", "s");
        assert_eq!(about["pluginType"], "source");
        let peer = self.source("r", about["meta"]["instanceId"].as_i64().unwrap());
        control.say(b"ok");
        peer
    }

    /// Answers the start of the sink `k` of rule `r`; returns its data channel.
    pub(crate) fn serve_sink(&self, control: &mut Puppet) -> RawPeer {
        control.expect("start", "k");
        self.answer_sink(control)
    }

    /// Answers the start of a sink with acks, as the official SDKs do: both
    /// channels before the answer. Returns its data and its acknowledgements.
    pub(crate) fn serve_sink_with_acks(&self, control: &mut Puppet) -> (RawPeer, RawPeer) {
        control.expect("start", "k");
        let acks = self.acks("r");
        (self.answer_sink(control), acks)
    }

    /// The same, after the start was received.
    pub(crate) fn answer_sink(&self, control: &mut Puppet) -> RawPeer {
        // A process that was killed has left its socket.
        let _ = std::fs::remove_file(self.sink_path("r"));
        let listener = self.sink("r");
        control.say(b"ok");
        listener.accept_as(PULL, PUSH)
    }

    /// Removes the socket of the sink `k`, as its plugin does when it is
    /// stopped.
    pub(crate) fn remove_sink(&self) {
        std::fs::remove_file(self.sink_path("r")).unwrap();
    }

    /// Returns the peer of a source's data channel.
    pub(crate) fn source(&self, rule: &str, instance: i64) -> RawPeer {
        RawPeer::dial_as(&self.sockets().data(&meta(rule, "s", instance)).unwrap(), PUSH, PULL)
    }

    /// Returns the listener for a sink's data channel.
    pub(crate) fn sink(&self, rule: &str) -> RawListener {
        RawListener::bind(&self.sockets().data(&meta(rule, "k", 0)).unwrap())
    }

    pub(crate) fn sink_path(&self, rule: &str) -> PathBuf {
        self.sockets().data(&meta(rule, "k", 0)).unwrap().path().to_owned()
    }

    /// Returns the peer of a sink's acknowledgements.
    pub(crate) fn acks(&self, rule: &str) -> RawPeer {
        RawPeer::dial_as(&self.sockets().ack(&meta(rule, "k", 0)).unwrap(), PUSH, PULL)
    }
}

fn write_script(path: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn meta(rule: &str, operator: &str, instance: i64) -> Meta {
    Meta { rule_id: rule.into(), op_id: operator.into(), instance_id: instance }
}

/// The plugin's end of a control or function channel.
pub(crate) struct Puppet {
    peer: RawPeer,
    request: u32,
}

impl Puppet {
    /// Connects as soon as the host listens.
    pub(crate) fn dial(address: &Address) -> Self {
        // A socket that is bound and does not listen yet refuses connections.
        wait_until("somebody listens", || is_listening(address));
        Self { peer: RawPeer::dial_as(address, REQ, REP), request: 0x8000_0000 }
    }

    pub(crate) fn greet(address: &Address) -> Self {
        let mut puppet = Self::dial(address);
        puppet.say(b"handshake");
        puppet
    }

    /// Connects again, as a socket that repeats its latest request there.
    pub(crate) fn dial_again(self, address: &Address) -> Self {
        let request = self.request - 1;
        self.peer.hang_up();
        Self { request, ..Self::dial(address) }
    }

    /// Sends the next request.
    pub(crate) fn say(&mut self, words: &[u8]) {
        self.request += 1;
        self.peer.write(&frame(&[&self.request.to_be_bytes()[..], words].concat()));
    }

    /// Receives the reply to the latest request.
    pub(crate) fn hear(&mut self) -> Vec<u8> {
        let reply = self.peer.frame();
        assert_eq!(reply[..4], self.request.to_be_bytes(), "a reply to another request");
        reply[4..].to_vec()
    }

    pub(crate) fn hear_json(&mut self) -> Value {
        serde_json::from_slice(&self.hear()).unwrap()
    }

    /// Receives the next command; returns its kind and its control message.
    pub(crate) fn command(&mut self) -> (String, Value) {
        let command = self.hear_json();
        let about = serde_json::from_str(command["arg"].as_str().unwrap()).unwrap();
        (command["cmd"].as_str().unwrap().to_owned(), about)
    }

    /// Receives the next command, which must be this one; returns its control
    /// message.
    pub(crate) fn expect(&mut self, kind: &str, symbol: &str) -> Value {
        let (next, about) = self.command();
        assert_eq!((next.as_str(), &about["symbolName"]), (kind, &symbol.into()));
        about
    }

    /// Answers the next command, which must be a `stop`.
    pub(crate) fn expect_stop(&mut self, symbol: &str) {
        self.expect("stop", symbol);
        self.say(b"ok");
    }

    /// Returns whether there is something to receive, or the host has
    /// disconnected.
    pub(crate) fn has_something(&mut self) -> bool {
        self.peer.has_something()
    }

    /// Returns whether the host neither disconnects nor sends anything in this
    /// time.
    pub(crate) fn is_left_alone_for(&mut self, time: Duration) -> bool {
        let time = Instant::now() + time;
        while Instant::now() < time {
            if self.peer.has_something() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Repeats the handshake as fast as it can, until it is disconnected.
    pub(crate) fn flood(self) {
        let handshakes: Vec<u8> = (1u32..1000)
            .flat_map(|step| {
                let id = (self.request.wrapping_add(step) | 0x8000_0000).to_be_bytes();
                frame(&[&id[..], b"handshake"].concat())
            })
            .collect();
        self.peer.flood(&handshakes);
    }

    /// Answers a call with a result.
    pub(crate) fn answer(&mut self, result: &Value) {
        self.say(serde_json::json!({ "state": true, "result": result }).to_string().as_bytes());
    }
}

/// Sends a signal to the process of the plugin `p`, once it runs.
pub(crate) fn signal(host: &Host, signal: Signal) {
    wait_until("it runs", || host.pid("p").is_some());
    kill_process(Pid::from_raw(host.pid("p").unwrap().cast_signed()).unwrap(), signal).unwrap();
}

/// Kills the process of the plugin `p`.
pub(crate) fn kill(host: &Host) {
    signal(host, Signal::KILL);
}

/// Calls a function while its puppet acts.
pub(crate) fn call_while(function: &Function, argument: &Value, act: impl FnOnce()) -> Result<Value> {
    std::thread::scope(|scope| {
        let call = scope.spawn(|| function.call::<Value>((argument,)));
        act();
        call.join().unwrap()
    })
}

/// Sends a message to a sink with acks, whose puppet answers with this.
pub(crate) fn send_acked(
    sink: &Sink,
    message: &Value,
    data: &mut RawPeer,
    acks: &mut RawPeer,
    ack: &[u8],
) -> Result<()> {
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| sink.send(message));
        assert_eq!(data.frame(), message.to_string().as_bytes());
        acks.write(&frame(ack));
        sent.join().unwrap()
    })
}

/// Returns the next event that is picked; others are passed over.
pub(crate) fn await_event<T>(events: &Receiver<Event>, pick: impl Fn(EventKind) -> Option<T>) -> T {
    loop {
        let event = events.recv_timeout(PATIENCE).expect("no such event");
        if let Some(picked) = pick(event.kind) {
            return picked;
        }
    }
}
