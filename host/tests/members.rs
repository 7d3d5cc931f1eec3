//! Plugins added to a host and removed from it while others serve.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ekuiper_host::{Chain, Error, ErrorDelivery, ErrorKind, Host, Package, PluginState, RestartPolicy};
use rustix::process::{Pid, test_kill_process};
use serde_json::{Value, json};
use support::sinks::{open_sink_without_acks, open_source, started_with};
use support::{PATIENCE, Puppet, Stage, kill, wait_until};

fn package(stage: &Stage, name: &str, functions: &[&str]) -> Package {
    Package::read(stage.plugin(name, functions)).unwrap()
}

/// Opens a function, and calls it.
fn call(stage: &Stage, host: &Host, plugin: &str, function: &str) -> (Puppet, Puppet) {
    std::thread::scope(|scope| {
        let called = scope.spawn(|| host.function(function).unwrap().call::<Value>((1,)).unwrap());
        let mut control = stage.control(plugin);
        let mut channel = stage.start_function(&mut control, function);
        channel.hear();
        channel.answer(&json!(7));
        assert_eq!(called.join().unwrap(), json!(7));
        (control, channel)
    })
}

#[test]
fn a_plugin_comes_and_goes_and_others_are_not_disturbed() {
    let stage = Stage::new();
    let (p, q) = (package(&stage, "p", &["f"]), package(&stage, "q", &["g"]));
    let host = stage.builder().package(p).build().unwrap();
    let _p = call(&stage, &host, "p", "f");
    let served = host.pid("p");
    host.add(q.clone()).unwrap();
    let _q = call(&stage, &host, "q", "g");
    let function = host.function("g").unwrap();
    let pid = Pid::from_raw(host.pid("q").unwrap().cast_signed()).unwrap();

    host.remove("q").unwrap();
    assert!(test_kill_process(pid).is_err(), "its process has ended");
    let error = function.call::<Value>((1,)).unwrap_err();
    assert!(matches!(error, Error::Stopped) && error.to_string().contains("the plugin was removed"), "{error}");
    assert!(matches!(host.function("g"), Err(Error::NoSuchSymbol { .. })));
    assert!(matches!(host.remove("q"), Err(Error::NoSuchPlugin(_))));
    assert_eq!((host.packages().len(), host.pid("p")), (1, served));

    host.add(q).unwrap();
    let _q = call(&stage, &host, "q", "g");
    host.shutdown();
    assert!(matches!(host.add(package(&stage, "late", &["h"])), Err(Error::Stopped)));
}

#[test]
fn a_plugin_that_cannot_be_added_changes_nothing() {
    let stage = Stage::new();
    let host = stage.builder().package(package(&stage, "p", &["f", "g"])).build().unwrap();
    // Not even symbols that no other plugin has.
    let refused = host.add(package(&stage, "q", &["e", "g"]));
    assert!(matches!(refused, Err(Error::DuplicateSymbol { .. })), "{refused:?}");
    assert!(matches!(host.function("e"), Err(Error::NoSuchSymbol { .. })));
    assert_eq!(host.packages().len(), 1);
    let twin = Package { folder: "elsewhere".into(), ..host.packages()[0].clone() };
    assert!(matches!(host.add(twin), Err(Error::DuplicatePlugin { .. })));
    let _p = call(&stage, &host, "p", "f");
}

#[test]
fn a_plugin_can_be_removed_while_it_starts() {
    let stage = Stage::new();
    let host = stage.builder().package(package(&stage, "p", &["f"])).build().unwrap();
    std::thread::scope(|scope| {
        let start = scope.spawn(|| host.start("p"));
        wait_until("it starts", || host.status("p").unwrap().state == PluginState::Starting);
        host.remove("p").unwrap();
        assert!(matches!(start.join().unwrap(), Err(Error::Stopped)));
    });
    assert!(matches!(host.status("p"), Err(Error::NoSuchPlugin(_))));
}

#[test]
fn a_stopped_plugin_starts_again_when_it_is_needed() {
    let stage = Stage::new();
    let host = stage.builder().package(package(&stage, "p", &["f"])).build().unwrap();
    let (mut control, channel) = call(&stage, &host, "p", "f");
    let function = host.function("f").unwrap();
    let (mut source, tuples) = open_source(&stage, &host, &mut control, 0);
    let (sink, rows) = open_sink_without_acks(&stage, &host, &mut control);
    let pid = Pid::from_raw(host.pid("p").unwrap().cast_signed()).unwrap();
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| host.stop("p"));
        wait_until("it is being stopped", || host.status("p").unwrap().state == PluginState::Stopping);
        // The sink first, which is drained.
        control.expect("stop", "k");
        stage.remove_sink();
        drop(rows);
        control.say(b"ok");
        control.expect_stop("s");
        drop(tuples);
        stop.join().unwrap().unwrap();
    });
    drop((control, channel));
    assert!(test_kill_process(pid).is_err(), "its process has ended");
    let status = host.status("p").unwrap();
    assert_eq!((status.state, status.pid, status.restarts), (PluginState::Idle, None, 0));
    host.stop("p").unwrap();
    // Its sources and sinks have ended with it.
    assert!(matches!(source.next(), Some(Err(Error::Stopped))));
    assert!(source.next().is_none());
    assert!(matches!(sink.send(&json!(1)), Err(Error::Stopped)));
    // Its functions have not.
    std::thread::scope(|scope| {
        let called = scope.spawn(|| function.call::<Value>((1,)).unwrap());
        let mut control = stage.control("p");
        let mut channel = stage.start_function(&mut control, "f");
        channel.hear();
        channel.answer(&json!(8));
        assert_eq!(called.join().unwrap(), json!(8));
        // Their places are free, although the handles are there.
        let (next, _tuples) = open_source(&stage, &host, &mut control, 0);
        sink.close().unwrap();
        source.close().unwrap();
        drop((next, control));
    });
    host.shutdown();
    assert!(matches!(host.stop("p"), Err(Error::Stopped)));
}

/// Makes a plugin in a folder of plugins.
fn install(plugins: &Path, name: &str, manifest: &str) -> PathBuf {
    let folder = plugins.join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{name}.json")), manifest).unwrap();
    folder
}

fn manifest(function: &str) -> String {
    json!({ "version": "1", "language": "executable", "executable": "run", "functions": [function] }).to_string()
}

#[test]
fn a_rescan_finds_what_has_come_and_gone_and_a_bad_folder_harms_no_other() {
    let stage = Stage::new();
    let plugins = stage.path().join("plugins");
    install(&plugins, "bad", "{");
    let gone = install(&plugins, "gone", &manifest("g"));
    install(&plugins, "twin", &manifest("g"));
    // Used by the host in another way, too.
    let p = package(&stage, "p", &["f"]);
    let host = stage.builder().plugins_dir(&plugins).package(p).build().unwrap();
    let problems = host.problems();
    let kinds: Vec<_> = problems.iter().map(|problem| (problem.error.plugin(), problem.error.kind())).collect();
    assert_eq!(kinds, [(Some("bad"), ErrorKind::Manifest), (Some("twin"), ErrorKind::DuplicateSymbol)]);
    assert!(problems[0].folder.ends_with("bad"), "{}", problems[0]);
    // A later use of it is an error that names the folder and the cause.
    assert_eq!(host.start("bad").unwrap_err().kind(), ErrorKind::Manifest);
    let error = host.function("h").unwrap_err();
    assert!(error.to_string().contains("bad.json") && error.to_string().contains("1 more"), "{error}");

    let _p = call(&stage, &host, "p", "f");
    let served = host.pid("p");
    fs::remove_dir_all(gone).unwrap();
    install(&plugins, "bad", &manifest("h"));
    install(&plugins, "new", &manifest("n"));
    install(&plugins, "worse", "{}");
    let rescan = host.rescan().unwrap();
    assert_eq!(
        (rescan.added, rescan.removed, rescan.updated),
        (vec!["bad".into(), "new".into(), "twin".into()], vec!["gone".into()], vec![])
    );
    assert_eq!(rescan.problems.len(), 1, "{:?}", rescan.problems);
    assert_eq!(host.problems()[0].error.plugin(), Some("worse"));

    // A plugin whose folder cannot be used now stays as it is.
    install(&plugins, "new", "{");
    fs::remove_dir_all(plugins.join("worse")).unwrap();
    let rescan = host.rescan().unwrap();
    assert_eq!((rescan.added.len(), rescan.removed.len(), rescan.problems.len()), (0, 0, 1));
    // All of them if the folder of plugins itself cannot.
    fs::rename(&plugins, stage.path().join("elsewhere")).unwrap();
    let rescan = host.rescan().unwrap();
    assert_eq!((rescan.removed.len(), rescan.problems.len(), host.packages().len()), (0, 1, 4));
    assert_eq!(host.pid("p"), served);

    // What is named one by one, and a folder of plugins, must be there.
    assert!(matches!(stage.builder().plugins_dir(&plugins).build().map(|_| ()), Err(Error::Folder { .. })));
    let bad = install(&plugins, "bad", "{");
    assert!(matches!(stage.builder().plugin(bad).build().map(|_| ()), Err(Error::Manifest { .. })));
    host.shutdown();
    assert!(matches!(host.rescan(), Err(Error::Stopped)));
}

#[test]
fn a_program_that_has_vanished_is_said() {
    let stage = Stage::new();
    let mut policy = RestartPolicy::default();
    (policy.first_pause, policy.max_pause, policy.break_after) =
        (Duration::from_millis(1), Duration::from_millis(1), 3);
    let (host, _control) = started_with(&stage, |builder| builder.restart(policy).send_timeout(PATIENCE));
    fs::remove_file(stage.path().join("p/run")).unwrap();
    kill(&host);
    wait_until("it is given up", || host.status("p").unwrap().state == PluginState::Broken);
    let error = host.start("p").unwrap_err();
    let text = Chain(&error).to_string();
    assert!(matches!(error, Error::Broken { .. }), "{text}");
    assert!(text.contains("its executable") && text.contains("p/run is gone") && !text.contains("signal"), "{text}");
    assert_eq!((error.plugin(), error.delivery()), (Some("p"), ErrorDelivery::NotSent));
}
