//! Our plugin `mirror` under hosts that go as eKuiper goes, on libnng and on
//! mangos, in `/tmp` as eKuiper.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ekuiper_interop::guard::{Process, Turn, Watchdog, sockets_in_tmp, soon, unique};
use ekuiper_interop::peer::Peer;
use ekuiper_interop::plugins::Mirror;
use rustix::process::Signal;
use serde_json::{Value, json};

ekuiper_interop::with_each_host! {
    our_source,
    our_sink,
    our_sink_with_ack,
    our_function,
    our_aggregate,
    a_refusal_has_its_text,
    fault_02_a_call_after_an_idle_time_is_sent_once,
    long_messages_pass_both_ways,
    a_symbol_is_stopped_and_started_again,
    a_plugin_that_is_launched_again_serves_the_old_channels,
    it_ends_when_its_host_is_killed,
    it_ends_on_sigterm,
}

/// A host of the plugin, and the plugin.
struct Hosted {
    peer: Peer,
    mirror: Mirror,
    process: Process,
    rule: String,
    _turn: Turn,
    _watchdog: Watchdog,
}

fn launch(mut peer: Peer) -> Hosted {
    let watchdog = Watchdog::start();
    let turn = Turn::take("mirror");
    let mirror = Mirror::new();
    let process = start(&mut peer, &mirror);
    Hosted { peer, mirror, process, rule: unique("rule"), _turn: turn, _watchdog: watchdog }
}

fn start(peer: &mut Peer, mirror: &Mirror) -> Process {
    let launch = json!({ "plugin": "mirror", "command": [mirror.program()], "cwd": mirror.folder() });
    Process::of(peer.ask("launch", launch)["pid"].as_u64().unwrap().try_into().unwrap())
}

impl Hosted {
    fn source(&mut self, config: Value, count: usize) -> Value {
        let fields =
            json!({ "symbol": "random", "rule": self.rule, "operator": "in", "config": config, "count": count });
        self.peer.ask("source", fields)
    }

    fn sink(&mut self, require_ack: bool, messages: &[Value]) -> Value {
        let config = json!({ "path": self.file() });
        let fields = json!({ "symbol": "file", "rule": self.rule, "operator": "out", "config": config,
                             "require_ack": require_ack, "messages": messages });
        self.peer.ask("sink", fields)
    }

    fn control(&mut self, cmd: &str, kind: &str, symbol: &str, config: Value) -> String {
        let meta = json!({ "ruleId": self.rule, "opId": symbol, "instanceId": 0 });
        let control = json!({ "symbolName": symbol, "meta": meta, "pluginType": kind, "config": config });
        self.peer.ask("control", json!({ "cmd": cmd, "control": control }))["answer"].as_str().unwrap().to_owned()
    }

    fn call(&mut self, symbol: &str, func: &str, args: Value) -> Value {
        let answer = self.peer.ask("call", json!({ "symbol": symbol, "func": func, "args": args }));
        assert_eq!(answer.get("resent"), None, "each call is sent once: {answer}");
        answer["reply"].clone()
    }

    fn file(&self) -> PathBuf {
        self.mirror.scratch().join("rows")
    }

    fn rows(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap_or_default()
    }

    /// Nothing of the rule's sources and sinks is left in `/tmp`, while the
    /// host still lives: it would tidy up.
    fn assert_clean(&self) {
        assert_eq!(sockets_in_tmp(&self.rule), [] as [PathBuf; 0]);
    }

    /// Ends the host in order; it ends the plugin.
    fn end(self) {
        self.peer.end();
        self.process.ended();
        assert!(!Path::new("/tmp/plugin_mirror.ipc").exists());
    }
}

fn our_source(peer: Peer) {
    let mut host = launch(peer);
    let got = host.source(json!({ "interval": 0 }), 1000);
    assert_eq!((&got["start"], &got["stop"]), (&json!("ok"), &json!("ok")));
    for (index, tuple) in got["tuples"].as_array().unwrap().iter().enumerate() {
        assert_eq!(tuple["message"]["count"], index + 1);
        assert_eq!(tuple["meta"], Value::Null);
    }
    host.assert_clean();
    host.end();
}

fn our_sink(peer: Peer) {
    let mut host = launch(peer);
    let messages: Vec<_> = (0..500).map(|number| json!([{ "n": number }])).collect();
    let got = host.sink(false, &messages);
    // It was not asked for acks: nobody would read them.
    assert_eq!(got, json!({ "sent": 500, "acks": [], "start": "ok", "stop": "ok" }));
    assert_eq!(host.rows(), (0..500).map(|number| format!("{{\"n\":{number}}}\n")).collect::<String>());
    host.assert_clean();
    host.end();
}

fn our_sink_with_ack(peer: Peer) {
    let mut host = launch(peer);
    let mut messages: Vec<_> = (0..100).map(|number| json!({ "n": number })).collect();
    // One that is no row.
    messages[50] = json!([7, [8]]);
    let got = host.sink(true, &messages);
    assert_eq!((&got["sent"], &got["start"], &got["stop"]), (&json!(100), &json!("ok"), &json!("ok")));
    assert_eq!(got["acks"], json!(vec![json!({}); 100]));
    assert_eq!(host.rows().lines().count(), 101);
    host.assert_clean();
    host.end();
}

fn our_function(peer: Peer) {
    let mut host = launch(peer);
    host.peer.ask("function", json!({ "symbol": "revert" }));
    host.peer.ask("function", json!({ "symbol": "echo" }));
    assert_eq!(host.call("revert", "IsAggregate", Value::Null), json!({ "state": true, "result": false }));
    // The engine's arguments are nodes of its syntax tree.
    let node = json!({ "Val": "hello" });
    assert_eq!(host.call("revert", "Validate", json!([node])), json!({ "state": true, "result": "" }));
    assert_eq!(host.call("revert", "Exec", json!(["hello"])), json!({ "state": true, "result": "olleh" }));
    for value in [json!(null), json!(true), json!(-1.5), json!("ü"), json!({ "a": [1, { "b": null }] })] {
        assert_eq!(host.call("echo", "Exec", json!([value])), json!({ "state": true, "result": value }));
    }
    let many = host.peer.ask("call", json!({ "symbol": "revert", "func": "Exec", "args": ["hello"], "repeat": 500 }));
    assert_eq!((&many["reply"]["result"], many.get("resent")), (&json!("olleh"), None));
    // The engine starts a function again for each rule.
    let control = json!({ "symbolName": "revert", "pluginType": "func" });
    assert_eq!(host.peer.ask("control", json!({ "cmd": "start", "control": control }))["answer"], "ok");
    assert_eq!(host.call("revert", "Exec", json!(["ab"]))["result"], "ba");
    host.end();
}

fn our_aggregate(peer: Peer) {
    let mut host = launch(peer);
    host.peer.ask("function", json!({ "symbol": "average" }));
    assert_eq!(host.call("average", "IsAggregate", Value::Null), json!({ "state": true, "result": true }));
    assert_eq!(host.call("average", "Exec", json!([[1, 2, 6]])), json!({ "state": true, "result": 3.0 }));
    assert_eq!(host.call("average", "Exec", json!([[]])), json!({ "state": true, "result": null }));
    host.end();
}

fn a_refusal_has_its_text(peer: Peer) {
    let mut host = launch(peer);
    host.peer.ask("function", json!({ "symbol": "revert" }));
    let reply = host.call("revert", "Validate", json!([1, 2]));
    assert_eq!(reply, json!({ "state": false, "result": "takes 1 argument, got 2" }));
    let reply = host.call("revert", "Exec", json!([7]));
    assert_eq!(reply["state"], false);
    assert!(reply["result"].as_str().unwrap().contains("argument 1"), "{reply}");
    for kind in ["source", "sink", "func"] {
        let text = host.control("start", kind, "ghost", json!({}));
        assert!(text.starts_with("this plugin has no ") && text.contains("ghost"), "{text}");
    }
    let text = host.control("start", "sink", "file", json!({}));
    assert!(text.contains("path"), "{text}");
    let text = host.control("start", "source", "random", json!({ "interval": "soon" }));
    assert!(text.contains("interval"), "{text}");
    host.assert_clean();
    host.end();
}

/// It sends no keepalives, which would queue up (faults 1 and 2).
fn fault_02_a_call_after_an_idle_time_is_sent_once(peer: Peer) {
    let mut host = launch(peer);
    host.peer.ask("function", json!({ "symbol": "revert" }));
    assert_eq!(host.call("revert", "Exec", json!(["ab"]))["result"], "ba");
    // Longer than the official SDKs stay silent.
    host.peer.ask("idle", json!({ "symbol": "revert", "seconds": 5.5 }));
    for text in ["handshake", "h", "ab"] {
        let expected: String = text.chars().rev().collect();
        assert_eq!(host.call("revert", "Exec", json!([text]))["result"], expected);
    }
    assert_eq!(host.source(json!({ "interval": 0 }), 1)["stop"], "ok");
    host.end();
}

fn long_messages_pass_both_ways(peer: Peer) {
    let mut host = launch(peer);
    host.peer.ask("function", json!({ "symbol": "echo" }));
    let long = "x".repeat(3_000_000);
    assert!(host.call("echo", "Exec", json!([&long]))["result"] == long);
    let got = host.sink(true, &[json!({ "text": &long })]);
    assert_eq!(got["acks"], json!([{}]));
    assert!(host.rows().len() > long.len());
    host.end();
}

fn a_symbol_is_stopped_and_started_again(peer: Peer) {
    let mut host = launch(peer);
    for round in 1..=10 {
        let got = host.source(json!({ "interval": 0 }), 3);
        assert_eq!(got["tuples"][0]["message"]["count"], 1, "a new source counts anew");
        assert_eq!(host.sink(true, &[json!({ "round": round })])["stop"], "ok");
        host.assert_clean();
    }
    assert_eq!(host.rows().lines().count(), 10);
    host.end();
}

/// The engine's hot update: its channels stay, and it starts the functions
/// again.
fn a_plugin_that_is_launched_again_serves_the_old_channels(peer: Peer) {
    let mut host = launch(peer);
    host.peer.ask("function", json!({ "symbol": "revert" }));
    for _ in 0..3 {
        assert_eq!(host.call("revert", "Exec", json!(["ab"]))["result"], "ba");
        let former = std::mem::replace(&mut host.process, start(&mut host.peer, &host.mirror));
        former.ended();
        host.peer.ask("function", json!({ "symbol": "revert" }));
    }
    assert_eq!(host.call("revert", "Exec", json!(["cd"]))["result"], "dc");
    assert_eq!(host.source(json!({ "interval": 0 }), 3)["stop"], "ok");
    host.end();
}

/// Everything is on: a source that emits, a sink that listens, a function.
fn busy(peer: Peer) -> Hosted {
    let mut host = launch(peer);
    host.peer.ask("function", json!({ "symbol": "revert" }));
    let file = host.file();
    assert_eq!(host.control("start", "sink", "file", json!({ "path": file })), "ok");
    assert_eq!(sockets_in_tmp(&format!("{}_file", host.rule)).len(), 1);
    let fields = json!({ "symbol": "random", "rule": host.rule, "operator": "in", "config": { "interval": 1 },
                         "count": 1_000_000, "timeout_ms": 60_000 });
    host.peer.post("source", fields);
    let give_up = soon();
    while host.process.threads("random") == 0 {
        assert!(Instant::now() < give_up, "the source does not start");
        std::thread::sleep(Duration::from_millis(1));
    }
    host
}

/// Kills the host, and tidies up after it.
fn kill(peer: Peer, rule: &str) {
    peer.kill();
    let own = ["/tmp/plugin_mirror.ipc".into(), "/tmp/func_revert.ipc".into(), format!("/tmp/{rule}_in_0.ipc")];
    for path in own {
        match std::fs::remove_file(&path) {
            // Where the plugin's end has met the start of the source, the host has
            // closed the source's socket itself.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed.unwrap(),
        }
    }
}

fn it_ends_when_its_host_is_killed(peer: Peer) {
    let Hosted { peer, process, rule, _turn, .. } = busy(peer);
    kill(peer, &rule);
    process.ended();
    assert_eq!(sockets_in_tmp(&rule), [] as [PathBuf; 0]);
}

fn it_ends_on_sigterm(peer: Peer) {
    let Hosted { peer, process, rule, _turn, .. } = busy(peer);
    process.signal(Signal::TERM);
    process.ended();
    kill(peer, &rule);
    assert_eq!(sockets_in_tmp(&rule), [] as [PathBuf; 0]);
}
