//! A supervised plugin in Python under hosts that go as eKuiper goes: what a
//! crash of its worker costs.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ekuiper_interop::guard::{Process, Watchdog, sockets_in_tmp, soon, unique};
use ekuiper_interop::peer::Peer;
use ekuiper_interop::tools;
use rustix::process::Signal;
use serde_json::{Value, json};

ekuiper_interop::with_each_host! {
    a_crash_of_any_kind_costs_a_restart_of_the_worker,
    a_source_goes_on_after_its_worker_was_killed,
    nothing_is_left_of_either_process,
}

/// A host of the plugin `plugins/crashing`, and the plugin's guard.
struct Hosted {
    peer: Peer,
    guard: Process,
    name: String,
    _folder: tempfile::TempDir,
    _watchdog: Watchdog,
}

fn launch(mut peer: Peer) -> Hosted {
    let watchdog = Watchdog::start();
    let (root, name) = (tempfile::tempdir().unwrap(), unique("crashing"));
    let folder = root.path().join(&name);
    std::fs::create_dir(&folder).unwrap();
    let script = folder.join("main.py");
    std::fs::copy(tools::root().join("interop/plugins/crashing/main.py"), &script).unwrap();
    let command = [tools::our_python(), "-u".into(), script];
    let launched = peer.ask("launch", json!({ "plugin": name, "command": command, "cwd": folder }));
    let guard = Process::of(launched["pid"].as_u64().unwrap().try_into().unwrap());
    Hosted { peer, guard, name, _folder: root, _watchdog: watchdog }
}

impl Hosted {
    fn call(&mut self, what: &str) -> Value {
        let symbol = format!("{}_crash", self.name);
        let call = json!({ "symbol": symbol, "func": "Exec", "args": [what], "timeout_ms": 30_000 });
        let answer = self.peer.ask("call", call);
        answer["reply"].clone()
    }

    fn worker(&self) -> Process {
        let give_up = soon();
        loop {
            let mut workers = self.guard.children();
            assert!(workers.len() <= 1, "more than one worker");
            if let Some(worker) = workers.pop() {
                return worker;
            }
            assert!(Instant::now() < give_up, "there is no worker");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) {
        let Self { peer, guard, name, .. } = self;
        let workers = guard.children();
        peer.end();
        guard.ended();
        workers.iter().for_each(Process::ended);
        assert_eq!(sockets_in_tmp(&name), [] as [PathBuf; 0]);
    }
}

fn a_crash_of_any_kind_costs_a_restart_of_the_worker(peer: Peer) {
    let mut host = launch(peer);
    let memory = std::fs::read_to_string(format!("/proc/{}/status", host.guard.pid())).unwrap();
    println!(
        "the guard: {:?}",
        memory.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("RssAnon")).collect::<Vec<_>>()
    );
    let exe = std::fs::read_link(format!("/proc/{}/exe", host.guard.pid())).unwrap();
    assert!(exe.ends_with("ekuiper-guard"), "the process that the engine has started is the guard: {exe:?}");
    let symbol = format!("{}_crash", host.name);
    host.peer.ask("function", json!({ "symbol": symbol }));
    assert_eq!(host.call("count")["result"], 1);
    assert_eq!(host.call("count")["result"], 2);
    for crash in ["exit", "segfault", "kill"] {
        let worker = host.worker();
        let reply = host.call(crash);
        assert_eq!(reply["state"], false, "{reply}");
        assert!(reply["result"].as_str().unwrap().contains("outcome unknown"), "{reply}");
        worker.ended();
        // In another worker, at once, and by the same channel.
        assert_eq!(host.call("count")["result"], 1);
    }
    host.end();
}

fn a_source_goes_on_after_its_worker_was_killed(peer: Peer) {
    let mut host = launch(peer);
    let rule = format!("{}r", host.name);
    host.peer.open("tuples", "pull", "listen", &format!("ipc:///tmp/{rule}_in_0.ipc"));
    let meta = json!({ "ruleId": rule, "opId": "in", "instanceId": 0 });
    let control = json!({ "symbolName": format!("{}_count", host.name), "meta": meta, "pluginType": "source" });
    assert_eq!(host.peer.ask("control", json!({ "cmd": "start", "control": control }))["answer"], "ok");
    let next = |host: &mut Hosted| {
        let got = host.peer.ask("receive", json!({ "id": "tuples", "count": 1, "timeout_ms": 30_000 }));
        let tuple: Value = serde_json::from_str(got["messages"][0]["text"].as_str().unwrap()).unwrap();
        tuple["message"]["number"].as_u64().unwrap()
    };
    for _ in 0..2 {
        while next(&mut host) < 5 {}
        let worker = host.worker();
        worker.signal(Signal::KILL);
        worker.ended();
        // The next worker's source counts anew.
        while next(&mut host) != 1 {}
    }
    host.peer.ask("control", json!({ "cmd": "stop", "control": control }));
    host.peer.ask("close", json!({ "id": "tuples" }));
    host.end();
}

fn nothing_is_left_of_either_process(peer: Peer) {
    let Hosted { peer, guard, name, _folder, _watchdog } = launch(peer);
    let worker = guard.children().pop().unwrap();
    peer.kill();
    guard.ended();
    worker.ended();
    std::fs::remove_file(format!("/tmp/plugin_{name}.ipc")).unwrap();
    assert_eq!(sockets_in_tmp(&name), [] as [PathBuf; 0]);
}
