//! Plugins added to a host and removed from it while others serve.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use ekuiper_host::{Error, Host, Package, PluginState};
use rustix::process::{Pid, test_kill_process};
use serde_json::{Value, json};
use support::{Puppet, Stage, wait_until};

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
