//! A supervised plugin under hosts that go as eKuiper goes, and under our own:
//! what a crash of its worker costs a rule.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ekuiper_host::Host;
use ekuiper_interop::guard::{PATIENCE, Process, Turn, Watchdog, sockets_in_tmp, soon, unique};
use ekuiper_interop::peer::Peer;
use ekuiper_interop::plugins::Mirror;
use rustix::process::Signal;
use serde_json::{Value, json};

ekuiper_interop::with_each_host! {
    a_rule_goes_on_after_its_worker_was_killed,
    a_call_that_kills_its_worker_is_an_error,
    without_a_guard_the_rule_is_dead,
    nothing_is_left_of_either_process,
}

/// A rule as the engine runs it: a tuple from the source, a call of the
/// function, a message to the sink and its ack, and again.
struct Rule {
    peer: Peer,
    mirror: Mirror,
    process: Process,
    rule: String,
    /// How long each step of a turn may take.
    patience: Duration,
    _turn: Turn,
    _watchdog: Watchdog,
}

impl Rule {
    fn start(mut peer: Peer, make: impl FnOnce() -> Mirror) -> Self {
        let watchdog = Watchdog::start();
        let turn = Turn::take("mirror");
        let mirror = make();
        let launch = json!({ "plugin": "mirror", "command": [mirror.program()], "cwd": mirror.folder() });
        let process = Process::of(peer.ask("launch", launch)["pid"].as_u64().unwrap().try_into().unwrap());
        let rule = unique("rule");
        let mut rule = Self { peer, mirror, process, rule, patience: PATIENCE, _turn: turn, _watchdog: watchdog };
        rule.peer.ask("function", json!({ "symbol": "revert" }));
        let (tuples, acks, rows) = (rule.url("in_0"), rule.url("out_0_ack"), rule.url("out_0"));
        let file = rule.mirror.scratch().join("rows");
        rule.peer.open("acks", "pull", "listen", &acks);
        assert_eq!(rule.control("sink", "file", "out", json!({ "path": file, "requireAck": true })), "ok");
        rule.peer.open("rows", "push", "dial", &rows);
        rule.peer.open("tuples", "pull", "listen", &tuples);
        assert_eq!(rule.control("source", "random", "in", json!({ "interval": 10 })), "ok");
        rule
    }

    fn url(&self, channel: &str) -> String {
        format!("ipc:///tmp/{}_{channel}.ipc", self.rule)
    }

    fn control(&mut self, kind: &str, symbol: &str, op: &str, config: Value) -> String {
        let meta = json!({ "ruleId": self.rule, "opId": op, "instanceId": 0 });
        let control = json!({ "symbolName": symbol, "meta": meta, "pluginType": kind, "config": config });
        self.peer.ask("control", json!({ "cmd": "start", "control": control }))["answer"].as_str().unwrap().to_owned()
    }

    /// One turn of the rule: the tuple's number.
    fn turn(&mut self) -> Result<u64, String> {
        let timeout = u64::try_from(self.patience.as_millis()).unwrap();
        let tuple = self.peer.try_ask("receive", json!({ "id": "tuples", "count": 1, "timeout_ms": timeout }))?;
        let tuple: Value = serde_json::from_str(tuple["messages"][0]["text"].as_str().unwrap()).unwrap();
        let name = tuple["message"]["name"].as_str().unwrap();
        let call = json!({ "symbol": "revert", "func": "Exec", "args": [name], "timeout_ms": timeout });
        let reply = self.peer.try_ask("call", call)?["reply"].clone();
        assert_eq!(reply, json!({ "state": true, "result": name.chars().rev().collect::<String>() }));
        let row = json!({ "reversed": reply["result"] }).to_string();
        self.peer.try_ask("send", json!({ "id": "rows", "text": row, "timeout_ms": timeout }))?;
        let ack = self.peer.try_ask("receive", json!({ "id": "acks", "count": 1, "timeout_ms": timeout }))?;
        match ack["messages"][0]["text"].as_str() {
            Some("{}") => {}
            ack => return Err(format!("the row was acknowledged with {ack:?}")),
        }
        Ok(tuple["message"]["count"].as_u64().unwrap())
    }

    fn rows(&self) -> usize {
        std::fs::read_to_string(self.mirror.scratch().join("rows")).unwrap().lines().count()
    }

    fn worker(&self) -> Process {
        let give_up = soon();
        loop {
            let mut workers = self.process.children();
            assert!(workers.len() <= 1, "more than one worker");
            if let Some(worker) = workers.pop() {
                return worker;
            }
            assert!(Instant::now() < give_up, "there is no worker");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) {
        let Self { peer, process, rule, _turn, .. } = self;
        let workers = process.children();
        peer.end();
        process.ended();
        workers.iter().for_each(Process::ended);
        // The bare sockets are the driver's, the sink's is the plugin's own,
        // which was killed.
        for path in sockets_in_tmp(&rule) {
            std::fs::remove_file(path).unwrap();
        }
    }
}

fn a_rule_goes_on_after_its_worker_was_killed(peer: Peer) {
    let library = peer.library();
    let mut rule = Rule::start(peer, Mirror::supervised);
    let mut rows = 0;
    let mut turns = |rule: &mut Rule, count: usize| {
        for _ in 0..count {
            rule.turn().unwrap();
        }
        rows += count;
        assert_eq!(rule.rows(), rows, "each row was written once");
    };
    turns(&mut rule, 20);
    for _ in 0..3 {
        let worker = rule.worker();
        let killed = Instant::now();
        worker.signal(Signal::KILL);
        worker.ended();
        turns(&mut rule, 1);
        println!("{library:?}: the rule was away for {:?}", killed.elapsed());
        turns(&mut rule, 20);
    }
    rule.end();
}

fn a_call_that_kills_its_worker_is_an_error(peer: Peer) {
    let mut rule = Rule::start(peer, Mirror::supervised);
    rule.peer.ask("function", json!({ "symbol": "echo" }));
    let flag = rule.mirror.scratch().join("poison");
    std::fs::write(&flag, "").unwrap();
    let former = rule.worker();
    let call = json!({ "symbol": "echo", "func": "Exec", "args": [flag] });
    let answer = rule.peer.ask("call", call.clone());
    assert!(answer["reply"]["result"].as_str().unwrap().starts_with("outcome unknown"), "{answer}");
    assert_eq!((&answer["reply"]["state"], &answer["resent"]), (&json!(false), &json!(1)));
    former.ended();
    assert_eq!(rule.peer.ask("call", call)["reply"], json!({ "state": true, "result": flag }));
    // The function is back at once, and the sink a moment later: a row that is
    // sent to the dead worker meanwhile is acknowledged as failed.
    while let Err(error) = rule.turn() {
        assert!(error.contains("outcome unknown: the plugin's process ended"), "{error}");
    }
    rule.end();
}

/// What the guard is for.
fn without_a_guard_the_rule_is_dead(peer: Peer) {
    let library = peer.library();
    let mut rule = Rule::start(peer, Mirror::new);
    rule.turn().unwrap();
    // It ends the turn for which there is nothing.
    rule.patience = Duration::from_secs(1);
    rule.process.signal(Signal::KILL);
    rule.process.ended();
    // What had left before the end is still there to be read.
    let error = loop {
        if let Err(error) = rule.turn() {
            break error;
        }
    };
    println!("{library:?}: without a guard: {error}");
    assert!(error.contains("timed out"), "{error}");
    let path = PathBuf::from(format!("/tmp/{}_out_0.ipc", rule.rule));
    assert!(path.exists(), "a killed plugin leaves its socket");
    std::fs::remove_file(path).unwrap();
    let Rule { peer, .. } = rule;
    peer.end();
}

fn nothing_is_left_of_either_process(peer: Peer) {
    let mut rule = Rule::start(peer, Mirror::supervised);
    rule.turn().unwrap();
    let worker = rule.worker();
    let data = PathBuf::from(format!("/tmp/{}_out_0.ipc", rule.rule));
    assert!(data.exists());
    // A stopping engine kills the guard alone.
    rule.process.signal(Signal::KILL);
    rule.process.ended();
    worker.ended();
    assert!(!data.exists());
    let Rule { peer, .. } = rule;
    peer.end();
}

#[test]
fn under_our_own_host_too() {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::supervised();
    let host = Host::builder().plugin(mirror.folder()).ipc_dir(mirror.scratch().join("ipc")).build().unwrap();
    let revert = host.function("revert").unwrap();
    assert_eq!(revert.call::<String>(("hello",)).unwrap(), "olleh");
    let config = json!({ "path": mirror.scratch().join("rows") });
    let sink = host.sink("file").rule("rule").config(config).require_ack(true).open().unwrap();
    sink.send(&json!({ "n": 1 })).unwrap();
    // A host that starts plugins again itself needs no guard in them.
    let plugin = Process::of(host.pid("mirror").unwrap());
    assert_eq!(plugin.children().len(), 0);
    let killed = Instant::now();
    plugin.signal(Signal::KILL);
    plugin.ended();
    let give_up = soon();
    while revert.call::<String>(("hello",)).is_err() {
        assert!(Instant::now() < give_up, "the function does not come back");
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("our host: the function was away for {:?}", killed.elapsed());
    sink.send(&json!({ "n": 2 })).unwrap();
    assert_eq!(std::fs::read_to_string(mirror.scratch().join("rows")).unwrap(), "{\"n\":1}\n{\"n\":2}\n");
    println!("our host: all was away for {:?}", killed.elapsed());
    sink.close().unwrap();
    host.shutdown();
}
