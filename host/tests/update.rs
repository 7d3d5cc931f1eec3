//! Updates of a plugin: the new version is tried before the old one ends, and
//! the symbols in use continue with one or the other (fault 16).
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ekuiper_conformance::raw::{REQ, RawPeer, frame};
use ekuiper_core::address::SocketFolder;
use ekuiper_host::{
    Chain, Error, EventKind, Function, Host, HostBuilder, Package, PluginState, RestartPolicy, Sink, Source,
};
use serde_json::{Value, json};
use support::other::{self, Other, dialling};
use support::{PATIENCE, Puppet, Stage, await_event, call_while, kill, send_acked, wait_until};

#[test]
fn other_process() {
    other::act();
}

/// Script that records its arguments, then leaves the rest to puppets.
const QUIET: &str = r#"printf '%s' "$1" > "launch.new"; mv launch.new "launch.$$"; exec sleep 1000"#;

/// Another version of the plugin `p`, in a separate folder.
struct Version {
    folder: PathBuf,
}

impl Version {
    fn new(stage: &Stage, version: &str, functions: &[&str], script: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = stage.path().join(version).join("p");
        std::fs::create_dir_all(&folder).unwrap();
        let manifest = json!({
            "version": version, "language": "executable", "executable": "run",
            "functions": functions, "sources": ["s"], "sinks": ["k"],
        });
        std::fs::write(folder.join("p.json"), manifest.to_string()).unwrap();
        let run = folder.join("run");
        std::fs::write(&run, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn package(&self) -> Package {
        Package::read(&self.folder).unwrap()
    }

    /// Returns the `ipcDir`s of its processes.
    fn launches(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap());
        let launches = files.filter(|file| {
            let name = file.file_name();
            name.to_string_lossy().starts_with("launch.") && name != "launch.new"
        });
        let told = launches.map(|file| std::fs::read(file.path()).unwrap());
        told.map(|told| serde_json::from_slice::<Value>(&told).unwrap()["ipcDir"].as_str().unwrap().into()).collect()
    }

    /// Returns the folder given to its first process, which is the trial's.
    fn trial_folder(&self) -> SocketFolder {
        wait_until("the new version is tried", || !self.launches().is_empty());
        SocketFolder::new(self.launches().swap_remove(0))
    }

    /// Completes the handshake in the trial.
    fn on_trial(&self) -> Puppet {
        Puppet::greet(&self.trial_folder().control("p").unwrap())
    }

    /// Passes the trial, with the function `f` in use.
    fn pass(&self) {
        let mut control = self.on_trial();
        control.expect("start", "f");
        let mut function = Puppet::greet(&self.trial_folder().function("f").unwrap());
        control.say(b"ok");
        assert_eq!(function.hear_json()["func"], "IsAggregate");
        function.answer(&json!(false));
    }
}

/// A process of the plugin `p`, with its three symbols.
struct Process {
    control: Puppet,
    function: Puppet,
    data: RawPeer,
    acks: RawPeer,
    source: RawPeer,
}

impl Process {
    /// Answers the start of all symbols.
    fn restore(stage: &Stage, mut control: Puppet) -> Self {
        let function = stage.start_function(&mut control, "f");
        let (data, acks) = stage.serve_sink_with_acks(&mut control);
        let source = stage.serve_source(&mut control);
        Self { control, function, data, acks, source }
    }

    /// Answers the stop of the sink and the source.
    fn stop(self, stage: &Stage) {
        self.stop_after(stage, || {});
    }

    /// The same, and runs `work` before: once a stop is told, new work waits
    /// for the next process.
    fn stop_after<R>(mut self, stage: &Stage, work: impl FnOnce() -> R) -> R {
        self.control.expect("stop", "k");
        let outcome = work();
        let _ = std::fs::remove_file(stage.sink_path("r"));
        self.control.say(b"ok");
        self.control.expect_stop("s");
        outcome
    }

    /// Uses each symbol.
    fn works(&mut self, handles: &mut Handles, word: &str) {
        let answer = call_while(&handles.function, &json!(word), || {
            assert_eq!(self.function.hear_json()["arg"][0], word);
            self.function.answer(&json!(word));
        });
        assert_eq!(answer.unwrap(), word);
        send_acked(&handles.sink, &json!(word), &mut self.data, &mut self.acks, b"{}").unwrap();
        self.source.write(&frame(json!({ "message": word }).to_string().as_bytes()));
        assert_eq!(handles.source.next_within(PATIENCE).unwrap().unwrap().message, word);
    }
}

/// An engine's handles of the plugin's symbols.
struct Handles {
    function: Function,
    sink: Arc<Sink>,
    source: Source,
}

/// So that a failed test ends soon.
fn builder(stage: &Stage) -> HostBuilder {
    stage.builder().init_timeout(PATIENCE / 2)
}

/// Starts the plugin with its three symbols.
fn start(stage: &Stage, host: &Host) -> (Handles, Process) {
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            let function = host.function("f").unwrap();
            let sink = host.sink("k").rule("r").operator("k").require_ack(true).open().unwrap();
            let source = host.source("s").rule("r").operator("s").open().unwrap();
            Handles { function, sink: Arc::new(sink), source }
        });
        let process = Process::restore(stage, stage.control("p"));
        (opened.join().unwrap(), process)
    })
}

/// Returns the control channel of the process of this generation.
fn control_of(stage: &Stage, host: &Host, generation: u64) -> Puppet {
    wait_until("the next process is started", || host.status("p").unwrap().generation == generation);
    stage.control("p")
}

/// Returns the reason of a failed update.
fn reason(error: Error) -> Error {
    match error {
        Error::Update { plugin, source, .. } if plugin == "p" => (*source).clone(),
        error => panic!("another error: {error}"),
    }
}

fn update_failed(kind: EventKind) -> Option<String> {
    match kind {
        EventKind::UpdateFailed { error } => Some(error),
        _ => None,
    }
}

/// Shuts down without the stops of symbols in use, which no puppet would
/// answer.
fn end(host: &Host) {
    kill(host);
    host.shutdown();
}

fn is_gone(folder: &SocketFolder) -> bool {
    !folder.path().exists()
}

#[test]
fn fault_16_a_bad_update_keeps_the_old_version() {
    let stage = Stage::new();
    let builder = builder(&stage).plugin(stage.plugin("p", &["f"])).plugin(stage.plugin("q", &["other"]));
    let host = builder.init_timeout(Duration::from_secs(4)).build().unwrap();
    let events = host.events();
    let (mut handles, mut process) = start(&stage, &host);
    let pid = host.pid("p").unwrap();
    let mut refused = |version: &Version, trial: &dyn Fn()| {
        let error = std::thread::scope(|scope| {
            let update = scope.spawn(|| host.update(version.package()).unwrap_err());
            trial();
            reason(update.join().unwrap())
        });
        assert_eq!(host.pid("p"), Some(pid), "after {error}");
        let status = host.status("p").unwrap();
        assert_eq!((status.state, status.generation, status.restarts), (PluginState::Running, 1, 0));
        process.works(&mut handles, &error.to_string());
        assert_eq!(await_event(&events, update_failed), Chain(&error).to_string());
        error
    };

    let exits = Version::new(&stage, "exits", &["f"], "echo 'no paper' >&2; exit 4");
    let error = refused(&exits, &|| ());
    assert!(matches!(&error, Error::EarlyExit { exit, .. } if exit.code == Some(4) && exit.tail == "no paper"));

    let silent = Version::new(&stage, "silent", &["f"], QUIET);
    let error = refused(&silent, &|| ());
    assert!(matches!(error, Error::NoHandshake { .. }), "{error}");
    assert!(is_gone(&silent.trial_folder()));

    let refuses = Version::new(&stage, "refuses", &["f"], QUIET);
    let error = refused(&refuses, &|| {
        let mut control = refuses.on_trial();
        control.expect("start", "f");
        control.say(b"no ink");
    });
    assert!(matches!(&error, Error::Refused { text, .. } if text == "no ink"), "{error}");

    let dies = Version::new(
        &stage,
        "dies",
        &["f"],
        &QUIET.replace("exec sleep 1000", "while [ ! -e die ]; do sleep 0.01; done; exit 5"),
    );
    let error = refused(&dies, &|| {
        let mut control = dies.on_trial();
        control.expect("start", "f");
        std::fs::write(dies.folder.join("die"), "").unwrap();
        drop(control);
    });
    assert!(matches!(&error, Error::OutcomeUnknown { .. } | Error::Exited { .. }), "{error}");

    // These versions are not even started.
    let lacks = Version::new(&stage, "lacks", &["g"], QUIET);
    let error = refused(&lacks, &|| ());
    assert_eq!(
        error.to_string(),
        "the new version of plugin p lacks symbols in use: function f: close them first, or keep them in the new version"
    );
    let takes = Version::new(&stage, "takes", &["f", "other"], QUIET);
    let error = refused(&takes, &|| ());
    assert!(matches!(error, Error::DuplicateSymbol { .. }), "{error}");
    assert!(lacks.launches().is_empty() && takes.launches().is_empty());

    // Nor does anything of theirs remain.
    assert!(matches!(host.function("g"), Err(Error::NoSuchSymbol { .. })));
    assert!(host.packages().iter().all(|package| package.manifest.version.is_empty()));
    end(&host);
}

#[test]
fn fault_16_a_good_update_goes_on_under_the_same_handles() {
    let stage = Stage::new();
    let host = builder(&stage).plugin(stage.plugin("p", &["f"])).build().unwrap();
    let events = host.events();
    let (mut handles, mut process) = start(&stage, &host);
    let pid = host.pid("p").unwrap();
    process.works(&mut handles, "old");
    let good = Version::new(&stage, "good", &["f", "g"], QUIET);
    std::thread::scope(|scope| {
        let update = scope.spawn(|| host.update(good.package()));
        good.pass();
        wait_until("the swap has begun", || host.status("p").unwrap().state == PluginState::Updating);
        assert!(is_gone(&good.trial_folder()));
        // The last messages of the old version are not lost.
        process.source.write(&frame(br#"{"message":"last"}"#));
        // New work waits for the new version.
        let (function, sink) = (handles.function.clone(), handles.sink.clone());
        let (call, sent) = process.stop_after(&stage, || {
            let call = scope.spawn(move || function.call::<Value>(("early",)));
            (call, scope.spawn(move || sink.send("early")))
        });
        let mut process = Process::restore(&stage, control_of(&stage, &host, 2));
        assert_eq!(process.function.hear_json()["arg"][0], "early");
        process.function.answer(&json!("new"));
        assert_eq!(call.join().unwrap().unwrap(), "new");
        assert_eq!(process.data.frame(), br#""early""#);
        process.acks.write(&frame(b"{}"));
        sent.join().unwrap().unwrap();
        update.join().unwrap().unwrap();
        assert_eq!(handles.source.next_within(PATIENCE).unwrap().unwrap().message, "last");
        process.works(&mut handles, "new");

        assert_ne!(host.pid("p"), Some(pid));
        let status = host.status("p").unwrap();
        assert_eq!((status.state, status.generation, status.restarts), (PluginState::Running, 2, 0));
        let happened: Vec<_> = events.try_iter().map(|event| event.to_string()).collect();
        assert!(happened.iter().all(|event| !event.contains("crashed") && !event.contains("lost")), "{happened:?}");
        assert_eq!(happened.last().unwrap(), r#"plugin p was updated from version "" to "good""#);
        // The new function can be called.
        let g = scope.spawn(|| host.function("g").map(drop));
        let _g = stage.start_function(&mut process.control, "g");
        g.join().unwrap().unwrap();
        end(&host);
    });
}

#[test]
fn fault_16_what_fails_after_the_trial_brings_the_old_version_back() {
    let stage = Stage::new();
    let host = builder(&stage).plugin(stage.plugin("p", &["f"])).build().unwrap();
    let events = host.events();
    let (Handles { function, sink, mut source }, process) = start(&stage, &host);
    let bad = Version::new(&stage, "bad", &["f"], QUIET);
    std::thread::scope(|scope| {
        let update = scope.spawn(|| host.update(bad.package()).unwrap_err());
        // The caller waits all the time.
        let reader = scope.spawn(move || {
            let next = source.next_within(PATIENCE).unwrap().unwrap().message;
            (next, source)
        });
        bad.pass();
        process.stop(&stage);
        let mut control = control_of(&stage, &host, 2);
        let _f = stage.start_function(&mut control, "f");
        let (_data, _acks) = stage.serve_sink_with_acks(&mut control);
        control.expect("start", "s");
        control.say(b"no water");
        // The process is ended gracefully.
        control.expect("stop", "k");
        let _ = std::fs::remove_file(stage.sink_path("r"));
        control.say(b"ok");
        drop(control);

        let mut process = Process::restore(&stage, control_of(&stage, &host, 3));
        let error = update.join().unwrap();
        let text =
            r#"plugin p was not updated to version "bad" and stays at version "": it did not start source s: no water"#;
        assert_eq!(Chain(&error).to_string(), text);
        assert_eq!(await_event(&events, update_failed), "plugin p did not start source s: no water");
        // No handle has noticed.
        process.source.write(&frame(br#"{"message":"again"}"#));
        let (next, source) = reader.join().unwrap();
        assert_eq!(next, "again");
        let mut handles = Handles { function, sink, source };
        process.works(&mut handles, "back");
        let status = host.status("p").unwrap();
        assert_eq!((status.state, status.generation, status.restarts), (PluginState::Running, 3, 0));
        assert_eq!(status.symbols.len(), 3);
        end(&host);
    });
}

#[test]
fn a_version_that_knows_only_the_common_folder_is_seen_there() {
    let stage = Stage::new();
    let host = builder(&stage).plugin(stage.plugin("p", &["f"])).build().unwrap();
    let (mut handles, process) = start(&stage, &host);
    let says = [&REQ[..], &frame(b"\x80\0\0\x01handshake")].concat();
    let address = stage.sockets().control("p").unwrap();
    let mut dials_when_told = dialling(address.path(), &says);
    let told = stage.path().join("told");
    dials_when_told["after"] = told.to_str().unwrap().into();
    // In the trial it connects to the common folder; the next process is a
    // puppet's.
    let (note, _) = QUIET.split_once("; exec").unwrap();
    let script = format!("{note}\nif mkdir tried; then exec {}; fi\nexec sleep 1000", other::command(dials_when_told));
    let good = Version::new(&stage, "good", &["f"], &script);
    std::thread::scope(|scope| {
        let update = scope.spawn(|| host.update(good.package()));
        good.trial_folder();
        // Another process is not taken for the new version.
        let stranger = Other::start(&dialling(address.path(), &says));
        (0..3).for_each(|_| stranger.expect("hung up"));
        assert!(!is_gone(&good.trial_folder()));
        std::fs::write(&told, "").unwrap();
        wait_until("the trial is over", || is_gone(&good.trial_folder()));
        assert!(!stranger.has_said().contains(&"heard something".to_owned()));
        drop(stranger);
        process.stop(&stage);
        let mut process = Process::restore(&stage, control_of(&stage, &host, 2));
        update.join().unwrap().unwrap();
        process.works(&mut handles, "new");
        end(&host);
    });
}

/// Updates during an operation in `process`, which `finish` brings to its end.
fn update_meets(stage: &Stage, host: &Host, mut process: Process, finish: impl FnOnce(&mut Process)) -> Process {
    let good = Version::new(stage, "good", &["f"], QUIET);
    std::thread::scope(|scope| {
        let update = scope.spawn(|| host.update(good.package()));
        good.pass();
        wait_until("the swap has begun", || host.status("p").unwrap().state == PluginState::Updating);
        assert!(process.control.is_left_alone_for(Duration::from_millis(100)), "nothing is stopped yet");
        finish(&mut process);
        process.stop(stage);
        let process = Process::restore(stage, control_of(stage, host, 2));
        update.join().unwrap().unwrap();
        process
    })
}

#[test]
fn a_call_under_way_comes_to_its_end_before_the_swap() {
    let stage = Stage::new();
    let host = builder(&stage).plugin(stage.plugin("p", &["f"])).build().unwrap();
    let (mut handles, mut process) = start(&stage, &host);
    std::thread::scope(|scope| {
        let function = handles.function.clone();
        let call = scope.spawn(move || function.call::<Value>(("long",)));
        process.function.hear();
        let mut process = update_meets(&stage, &host, process, |process| {
            process.function.answer(&json!("done"));
            assert_eq!(call.join().unwrap().unwrap(), "done");
        });
        process.works(&mut handles, "new");
        end(&host);
    });
}

#[test]
fn a_message_under_way_has_its_acknowledgement_before_the_swap() {
    let stage = Stage::new();
    let host = builder(&stage).plugin(stage.plugin("p", &["f"])).build().unwrap();
    let (mut handles, mut process) = start(&stage, &host);
    std::thread::scope(|scope| {
        let sink = handles.sink.clone();
        let sent = scope.spawn(move || sink.send("long"));
        process.data.frame();
        let mut process = update_meets(&stage, &host, process, |process| {
            process.acks.write(&frame(b"{}"));
            sent.join().unwrap().unwrap();
        });
        process.works(&mut handles, "new");
        end(&host);
    });
}

#[test]
fn an_update_of_an_idle_plugin_is_tried_and_serves_its_new_symbols() {
    let stage = Stage::new();
    let host = builder(&stage).plugin(stage.plugin("p", &["f"])).build().unwrap();
    let exits = Version::new(&stage, "exits", &["g"], "exit 4");
    assert!(matches!(reason(host.update(exits.package()).unwrap_err()), Error::EarlyExit { .. }));
    let good = Version::new(&stage, "good", &["g"], QUIET);
    std::thread::scope(|scope| {
        let update = scope.spawn(|| host.update(good.package()));
        let _control = good.on_trial();
        update.join().unwrap().unwrap();
        assert_eq!(host.pid("p"), None);
        assert!(matches!(host.function("f"), Err(Error::NoSuchSymbol { .. })));
        let g = scope.spawn(|| host.function("g").map(drop));
        let mut control = stage.control("p");
        let _g = stage.start_function(&mut control, "g");
        g.join().unwrap().unwrap();
        host.shutdown();
    });
}

fn lacks_symbols(error: Error) -> bool {
    matches!(reason(error), Error::MissingSymbols { .. })
}

#[test]
fn a_new_version_may_lack_a_function_that_nobody_uses_any_more() {
    let stage = Stage::new();
    let host = builder(&stage).plugin(stage.plugin("p", &["f"])).build().unwrap();
    let lacks = Version::new(&stage, "lacks", &["g"], QUIET);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| host.function("f"));
        let mut control = stage.control("p");
        let mut process = stage.start_function(&mut control, "f");
        let function = opened.join().unwrap().unwrap();
        // A call that is under way uses it, too.
        let call = function.call_async::<Value>(("x",)).unwrap();
        drop(function);
        assert!(host.update(lacks.package()).is_err_and(lacks_symbols));
        assert_eq!(process.hear_json()["arg"][0], "x");
        process.answer(&json!("y"));
        assert_eq!(call.wait().unwrap(), "y");
        let update = scope.spawn(|| {
            wait_until("the reader of the answer is done with the call", || {
                !host.update(lacks.package()).is_err_and(lacks_symbols)
            });
        });
        let _trial = lacks.on_trial();
        let _control = control_of(&stage, &host, 2);
        update.join().unwrap();
        assert!(matches!(host.function("f"), Err(Error::NoSuchSymbol { .. })));
        end(&host);
    });
}

#[test]
fn an_update_heals_a_plugin_that_crashes_again_and_again() {
    let stage = Stage::new();
    let mut policy = RestartPolicy::default();
    policy.break_after = 1;
    policy.break_pause = Duration::from_secs(3600);
    let host = builder(&stage).plugin(stage.plugin("p", &["f"])).restart(policy).build().unwrap();
    let (mut handles, process) = start(&stage, &host);
    kill(&host);
    drop(process);
    wait_until("the breaker is open", || host.status("p").unwrap().state == PluginState::Broken);
    let good = Version::new(&stage, "good", &["f"], QUIET);
    std::thread::scope(|scope| {
        let update = scope.spawn(|| host.update(good.package()));
        good.pass();
        update.join().unwrap().unwrap();
        let mut process = Process::restore(&stage, control_of(&stage, &host, 2));
        wait_until("it serves", || host.status("p").unwrap().state == PluginState::Running);
        process.works(&mut handles, "healed");
        end(&host);
    });
}

#[test]
fn a_crash_in_a_trial_ends_the_trial_and_restores_the_old_version() {
    let stage = Stage::new();
    let host = builder(&stage).plugin(stage.plugin("p", &["f"])).build().unwrap();
    let (mut handles, process) = start(&stage, &host);
    let slow = Version::new(&stage, "slow", &["f"], QUIET);
    std::thread::scope(|scope| {
        let update = scope.spawn(|| host.update(slow.package()).unwrap_err());
        let folder = slow.trial_folder();
        kill(&host);
        drop(process);
        let error = reason(update.join().unwrap());
        assert!(matches!(error, Error::TrialEnded { .. }), "{error}");
        assert!(is_gone(&folder));
        let mut process = Process::restore(&stage, control_of(&stage, &host, 2));
        wait_until("it serves", || host.status("p").unwrap().state == PluginState::Running);
        process.works(&mut handles, "back");
        end(&host);
    });
}

#[test]
fn a_shutdown_ends_an_update_in_its_trial_and_in_its_swap() {
    for in_swap in [false, true] {
        let stage = Stage::new();
        let host = builder(&stage).plugin(stage.plugin("p", &["f"])).build().unwrap();
        let (handles, process) = start(&stage, &host);
        let slow = Version::new(&stage, "slow", &["f"], QUIET);
        std::thread::scope(|scope| {
            let update = scope.spawn(|| host.update(slow.package()).unwrap_err());
            let folder = slow.trial_folder();
            let running = if in_swap {
                slow.pass();
                process.stop(&stage);
                wait_until("the swap goes on", || slow.launches().len() == 2);
                None
            } else {
                Some(process)
            };
            // Nobody answers its stops.
            drop(running);
            host.shutdown();
            let error = update.join().unwrap();
            assert!(matches!(error, Error::Stopped), "{error}");
            assert!(is_gone(&folder));
        });
        drop(handles);
        assert_eq!(host.status("p").unwrap().state, PluginState::Stopped);
    }
}
