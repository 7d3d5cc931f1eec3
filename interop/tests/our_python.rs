//! Programs for the official Python SDK, unchanged, on our module `ekuiper`:
//! under our host side by side with the official one, and under hosts that go
//! as eKuiper goes.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use ekuiper_host::{Chain, Error, Host, Tuple};
use ekuiper_interop::guard::{PATIENCE, Process, Turn, Watchdog, lines_of, next, sockets_in_tmp, unique};
use ekuiper_interop::peer::Peer;
use ekuiper_interop::plugins::OfficialPython;
use ekuiper_interop::tools;
use rustix::process::Signal;
use serde_json::{Value, json};

/// What a plugin's users see of it, line by line.
fn transcript(plugin: &OfficialPython) -> Vec<String> {
    let host = plugin.host("uds");
    let mut lines = Vec::new();
    let mut note = |what: &str, seen: String| {
        // The names are the only thing that is not the same.
        lines.push(format!("{what}: {}", seen.replace(plugin.name(), "NAME")));
    };

    let revert = host.function(&plugin.symbol("revert")).unwrap();
    note("is_aggregate", format!("{:?}", revert.is_aggregate().unwrap()));
    note("validate", format!("{:?}", revert.validate(("a",))));
    note("validate", revert.validate(("a", "b")).unwrap_err().to_string());
    for text in ["hello", "", "größer 🦀", "\0\"\\"] {
        note("exec", revert.call::<Value>((text,)).unwrap().to_string());
    }
    for list in [json!([1, 2.5, null, true]), json!([[], {}])] {
        note("exec", revert.call::<Value>((list,)).unwrap().to_string());
    }
    let mean = host.function(&plugin.symbol("mean")).unwrap();
    note("is_aggregate", format!("{:?}", mean.is_aggregate().unwrap()));
    note("exec", mean.call::<Value>(([1, 2, 6],)).unwrap().to_string());
    let fail = host.function(&plugin.symbol("fail")).unwrap();
    note("exec fails", last_line(fail.call::<Value>(("seven",))));
    note("exec fails", last_line(revert.call::<Value>((7,))));

    let config = json!({ "interval": 1, "count": 5 });
    let source = host.source(&plugin.symbol("pyjson")).rule(plugin.rule("1")).config(config);
    let mut source = source.open().unwrap();
    for _ in 0..5 {
        let Tuple { message, meta, .. } = next(&mut source);
        note("tuple", format!("{message} {meta}"));
    }
    note("close", format!("{:?}", source.close()));
    let told = host.source(&plugin.symbol("told")).datasource("topic/a").config(json!({ "depth": [1, null] }));
    let mut told = told.rule(plugin.rule("2")).operator("here").instance(7).open().unwrap();
    let Tuple { message, meta, .. } = next(&mut told);
    note("told", format!("{} {} {meta}", message["datasource"], message["config"]["depth"]));
    drop(told);
    let mut faulty = host.source(&plugin.symbol("faulty")).rule(plugin.rule("3")).open().unwrap();
    for _ in 0..3 {
        note(
            "faulty",
            match faulty.next_within(PATIENCE) {
                Ok(tuple) => tuple.unwrap().message.to_string(),
                Err(error) => error.to_string(),
            },
        );
    }
    drop(faulty);

    let sink = host.sink(&plugin.symbol("picky")).rule(plugin.rule("4")).require_ack(true).open().unwrap();
    for mood in ["good", "bad", "good"] {
        note("ack", sink.send(&json!([{ "mood": mood }])).map_or_else(|error| error.to_string(), |()| "ok".into()));
    }
    note("close", format!("{:?}", sink.close()));
    let file = plugin.folder().join("kept");
    let keep = host.sink(&plugin.symbol("keep")).rule(plugin.rule("5")).config(json!({ "path": file }));
    let keep = keep.open().unwrap();
    for number in 0..100 {
        keep.send(&json!({ "number": number, "text": "ü" })).unwrap();
    }
    keep.close().unwrap();
    note("kept", format!("{:?}", lines_of(&file, 100)));
    host.shutdown();
    plugin.assert_clean();
    lines
}

/// Our module tells an exception by its type and text, the official one by its
/// whole traceback, whose last line that is.
fn last_line(result: Result<Value, Error>) -> String {
    match result {
        Err(Error::Function { text, .. }) => text.trim_end().lines().last().unwrap_or_default().to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_same_program_on_both_packages() {
    let _watchdog = Watchdog::start();
    let official = transcript(&OfficialPython::new());
    let ours = transcript(&OfficialPython::on_ours());
    for (official, ours) in official.iter().zip(&ours) {
        println!("{} {official:60.60} | {ours:60.60}", if official == ours { "=" } else { "≠" });
    }
    assert_eq!(official, ours);
}

#[test]
fn an_error_of_each_kind_as_a_user_meets_it() {
    let _watchdog = Watchdog::start();
    let plugin = OfficialPython::on_ours();
    let host = plugin.host("uds");
    let fail = host.function(&plugin.symbol("fail")).unwrap();
    let error = Chain(&fail.call::<Value>(("seven",)).unwrap_err()).to_string();
    assert!(error.ends_with(": ValueError: no luck with seven"), "{error}");
    let keep = host.sink(&plugin.symbol("keep")).rule(plugin.rule("1")).open().err().unwrap();
    let keep = Chain(&keep).to_string();
    assert!(keep.ends_with("KeyError: 'path'"), "{keep}");
    host.shutdown();

    // A manifest that promises more than the program has.
    let manifest = plugin.folder().join(format!("{}.json", plugin.name()));
    let honest = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, honest.replace("_revert", "_inverse")).unwrap();
    let error = Chain(&plugin.host("uds").start(plugin.name()).unwrap_err()).to_string();
    assert!(error.contains(&plugin.symbol("inverse")), "{error}");
    std::fs::write(&manifest, honest).unwrap();

    let script = plugin.folder().join("main.py");
    let good = std::fs::read_to_string(&script).unwrap();
    std::fs::write(&script, format!("import nowhere_at_all\n{good}")).unwrap();
    let error = Chain(&plugin.host("uds").start(plugin.name()).unwrap_err()).to_string();
    assert!(error.contains("ModuleNotFoundError: No module named 'nowhere_at_all'"), "{error}");
}

#[test]
fn an_exceptions_traceback_is_in_the_log() {
    let _watchdog = Watchdog::start();
    let plugin = OfficialPython::on_ours();
    let error = plugin.folder().join("stderr");
    // The plugin's own stderr is the host's log: it is read where it is written.
    let script = plugin.folder().join("main.py");
    let good = std::fs::read_to_string(&script).unwrap();
    std::fs::write(&script, format!("import sys\nsys.stderr = open({:?}, 'w', buffering=1)\n{good}", error)).unwrap();
    let host = plugin.host("uds");
    let fail = host.function(&plugin.symbol("fail")).unwrap();
    fail.call::<Value>(("seven",)).unwrap_err();
    let log = std::fs::read_to_string(&error).unwrap();
    let name = plugin.symbol("fail");
    assert!(log.contains(&format!("ERROR {name} ")) && log.contains(&format!("function {name} failed")), "{log}");
    assert!(log.contains("Traceback (most recent call last)") && log.contains("main.py\", line"), "{log}");
    host.shutdown();
}

#[test]
fn a_death_in_mid_call_is_said_at_once_and_the_plugin_is_back() {
    let _watchdog = Watchdog::start();
    let plugin = OfficialPython::on_ours();
    let host: Host = plugin.host_builder("uds").recv_timeout(Duration::from_secs(120)).build().unwrap();
    let exit = host.function(&plugin.symbol("exit")).unwrap();
    assert!(matches!(exit.call::<Value>((7,)), Err(Error::OutcomeUnknown { .. })));
    let revert = host.function(&plugin.symbol("revert")).unwrap();
    assert_eq!(revert.call::<String>(("ab",)).unwrap(), "ba");
    let source = host.source(&plugin.symbol("pyjson")).rule(plugin.rule("1")).config(json!({ "interval": 1 }));
    let mut source = source.open().unwrap();
    while next(&mut source).message["value"] != 5 {}
    Process::of(host.pid(plugin.name()).unwrap()).signal(Signal::KILL);
    while next(&mut source).message["value"] != 1 {}
    drop(source);
    host.shutdown();
    plugin.assert_clean();
}

/// The host makes the environment, from a `requirements.txt` that names our
/// wheel, and runs the plugin in it.
#[test]
fn the_host_makes_the_plugins_environment() {
    let _watchdog = Watchdog::start();
    let plugin = OfficialPython::on_ours();
    let manifest = plugin.folder().join(format!("{}.json", plugin.name()));
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replacen('{', r#"{"virtualEnvType":"venv","#, 1)).unwrap();
    let requirements = plugin.folder().join("requirements.txt");
    std::fs::write(&requirements, "/no/such/wheel-1.0-py3-none-any.whl\n").unwrap();
    let host = || plugin.host_builder("uds").python_bin(tools::python().display().to_string()).build().unwrap();
    let error = Chain(&host().start(plugin.name()).unwrap_err()).to_string();
    assert!(error.contains("pip install failed") && error.contains("/no/such/wheel-1.0"), "{error}");

    // As the guide has it: the wheel lies in the plugin's folder.
    let wheel = tools::our_wheel();
    let name = wheel.file_name().unwrap().to_str().unwrap();
    std::fs::copy(&wheel, plugin.folder().join(name)).unwrap();
    std::fs::write(&requirements, format!("./{name}\n")).unwrap();
    let first = host();
    let revert = first.function(&plugin.symbol("revert")).unwrap();
    assert_eq!(revert.call::<String>(("ab",)).unwrap(), "ba");
    let command = std::fs::read(format!("/proc/{}/cmdline", first.pid(plugin.name()).unwrap())).unwrap();
    let python = plugin.folder().join(".venv/bin/python");
    assert!(command.starts_with(python.as_os_str().as_encoded_bytes()), "{}", String::from_utf8_lossy(&command));
    first.shutdown();
    plugin.assert_clean();
}

ekuiper_interop::with_each_host! {
    pysam_source,
    pysam_sink,
    pysam_function,
    a_symbol_that_it_lacks_is_refused,
    pysam_is_stopped_and_started_again,
    fault_02_a_call_after_an_idle_time_is_sent_once,
    it_ends_when_its_host_is_killed,
    it_ends_on_sigterm,
    it_ends_on_ctrl_c,
}

/// A host of the document's plugin, `examples/pysam`.
struct Hosted {
    peer: Peer,
    process: Process,
    rule: String,
    _turn: Turn,
    _watchdog: Watchdog,
}

fn launch(mut peer: Peer) -> Hosted {
    let watchdog = Watchdog::start();
    let turn = Turn::take("pysam");
    let folder = tools::root().join("examples/pysam");
    let command = [tools::our_python(), "-u".into(), folder.join("pysam.py")];
    let launched = peer.ask("launch", json!({ "plugin": "pysam", "command": command, "cwd": folder }));
    let process = Process::of(launched["pid"].as_u64().unwrap().try_into().unwrap());
    Hosted { peer, process, rule: unique("rule"), _turn: turn, _watchdog: watchdog }
}

impl Hosted {
    fn source(&mut self, count: usize) -> Value {
        let fields = json!({ "symbol": "pyjson", "rule": self.rule, "operator": "in", "count": count,
                             "config": { "interval": 1 } });
        self.peer.ask("source", fields)
    }

    fn sink(&mut self, require_ack: bool, messages: &[Value]) -> Value {
        let fields = json!({ "symbol": "print", "rule": self.rule, "operator": "out",
                             "config": { "requireAck": require_ack }, "require_ack": require_ack,
                             "messages": messages });
        self.peer.ask("sink", fields)
    }

    fn call(&mut self, func: &str, args: Value) -> Value {
        let answer = self.peer.ask("call", json!({ "symbol": "revert", "func": func, "args": args }));
        assert_eq!(answer.get("resent"), None, "each call is sent once: {answer}");
        answer["reply"].clone()
    }

    fn assert_clean(&self) {
        assert_eq!(sockets_in_tmp(&self.rule), [] as [PathBuf; 0]);
    }

    fn end(self) {
        self.peer.end();
        self.process.ended();
        assert!(!Path::new("/tmp/plugin_pysam.ipc").exists());
    }
}

fn pysam_source(peer: Peer) {
    let mut host = launch(peer);
    let got = host.source(50);
    assert_eq!((&got["start"], &got["stop"]), (&json!("ok"), &json!("ok")));
    for (index, tuple) in got["tuples"].as_array().unwrap().iter().enumerate() {
        assert_eq!(*tuple, json!({ "message": { "name": "pyjson", "value": index + 1 }, "meta": null }));
    }
    host.assert_clean();
    host.end();
}

fn pysam_sink(peer: Peer) {
    let mut host = launch(peer);
    let messages: Vec<_> = (0..100).map(|number| json!([{ "n": number }])).collect();
    let got = host.sink(true, &messages);
    assert_eq!(got, json!({ "sent": 100, "acks": vec![json!({}); 100], "start": "ok", "stop": "ok" }));
    let got = host.sink(false, &messages);
    assert_eq!(got, json!({ "sent": 100, "acks": [], "start": "ok", "stop": "ok" }));
    host.assert_clean();
    host.end();
}

fn pysam_function(peer: Peer) {
    let mut host = launch(peer);
    host.peer.ask("function", json!({ "symbol": "revert" }));
    assert_eq!(host.call("IsAggregate", Value::Null), json!({ "state": true, "result": false }));
    assert_eq!(host.call("Validate", json!([{ "Val": "x" }])), json!({ "state": true, "result": "" }));
    let refusal = json!({ "state": false, "result": "revert takes 1 argument, got 2" });
    assert_eq!(host.call("Validate", json!([1, 2])), refusal);
    for (text, reversed) in [("hello", "olleh"), ("", ""), ("größer 🦀", "🦀 reßörg")] {
        assert_eq!(host.call("Exec", json!([text])), json!({ "state": true, "result": reversed }));
    }
    let reply = host.call("Exec", json!([7]));
    assert_eq!(reply, json!({ "state": false, "result": "TypeError: 'int' object is not subscriptable" }));
    let long = "ab".repeat(1_500_000);
    assert!(host.call("Exec", json!([&long]))["result"] == "ba".repeat(1_500_000));
    host.end();
}

fn a_symbol_that_it_lacks_is_refused(peer: Peer) {
    let mut host = launch(peer);
    let meta = json!({ "ruleId": host.rule, "opId": "x", "instanceId": 0 });
    for kind in ["source", "sink", "func"] {
        let control = json!({ "symbolName": "ghost", "meta": meta, "pluginType": kind });
        let answer = host.peer.ask("control", json!({ "cmd": "start", "control": control }));
        let text = answer["answer"].as_str().unwrap();
        assert!(text.starts_with("this plugin has no ") && text.contains("ghost: it has "), "{text}");
    }
    assert_eq!(host.source(1)["stop"], "ok");
    host.end();
}

fn pysam_is_stopped_and_started_again(peer: Peer) {
    let mut host = launch(peer);
    for _ in 0..10 {
        assert_eq!(host.source(2)["tuples"][0]["message"]["value"], 1, "a new source counts anew");
        assert_eq!(host.sink(true, &[json!({})])["stop"], "ok");
        host.assert_clean();
    }
    host.end();
}

fn fault_02_a_call_after_an_idle_time_is_sent_once(peer: Peer) {
    let mut host = launch(peer);
    host.peer.ask("function", json!({ "symbol": "revert" }));
    assert_eq!(host.call("Exec", json!(["ab"]))["result"], "ba");
    host.peer.ask("idle", json!({ "symbol": "revert", "seconds": 5.5 }));
    for text in ["handshake", "h", "ab"] {
        let expected: String = text.chars().rev().collect();
        assert_eq!(host.call("Exec", json!([text]))["result"], expected);
    }
    assert_eq!(host.source(1)["stop"], "ok");
    host.end();
}

/// Everything is on: a source, a sink, a function.
fn busy(peer: Peer) -> Hosted {
    let mut host = launch(peer);
    host.peer.ask("function", json!({ "symbol": "revert" }));
    let meta = json!({ "ruleId": host.rule, "opId": "out", "instanceId": 0 });
    let control = json!({ "symbolName": "print", "meta": meta, "pluginType": "sink", "config": {} });
    assert_eq!(host.peer.ask("control", json!({ "cmd": "start", "control": control }))["answer"], "ok");
    let fields = json!({ "symbol": "pyjson", "rule": host.rule, "operator": "in", "config": { "interval": 1 },
                         "count": 1_000_000, "timeout_ms": 60_000 });
    host.peer.post("source", fields);
    let give_up = ekuiper_interop::guard::soon();
    // The symbol's, and then that of `open`, which runs when the start has been carried out.
    while host.process.threads("pyjson") < 2 {
        assert!(std::time::Instant::now() < give_up, "the source does not start");
        std::thread::sleep(Duration::from_millis(1));
    }
    host
}

fn kill(peer: Peer, rule: &str) {
    peer.kill();
    let own = ["/tmp/plugin_pysam.ipc".into(), "/tmp/func_revert.ipc".into(), format!("/tmp/{rule}_in_0.ipc")];
    own.iter().for_each(|path| std::fs::remove_file(path).unwrap());
}

fn it_ends_when_its_host_is_killed(peer: Peer) {
    let Hosted { peer, process, rule, _turn, .. } = busy(peer);
    kill(peer, &rule);
    process.ended();
    assert_eq!(sockets_in_tmp(&rule), [] as [PathBuf; 0]);
}

fn it_ends_on(signal: Signal, peer: Peer) {
    let Hosted { peer, process, rule, _turn, .. } = busy(peer);
    process.signal(signal);
    process.ended();
    kill(peer, &rule);
    assert_eq!(sockets_in_tmp(&rule), [] as [PathBuf; 0]);
}

fn it_ends_on_sigterm(peer: Peer) {
    it_ends_on(Signal::TERM, peer);
}

fn it_ends_on_ctrl_c(peer: Peer) {
    it_ends_on(Signal::INT, peer);
}
