//! Plugins that the host does not start: it waits for them, and never ends them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::time::Duration;

use ekuiper_conformance::raw::frame;
use ekuiper_host::{Error, EventKind, Host, PluginState};
use serde_json::{Value, json};
use support::other::{self, Other, dialling};
use support::{PATIENCE, Puppet, Stage, await_event, wait_until};

#[test]
fn other_process() {
    other::act();
}

/// The first bytes of a plugin that connects and says this.
fn greeting(words: &[u8]) -> Vec<u8> {
    let request = 0x8000_0001u32.to_be_bytes();
    [&b"\0SP\0\0\x30\0\0"[..], &frame(&[&request[..], words].concat())].concat()
}

/// Another process that says this on the control channel of the plugin `a`.
fn another(stage: &Stage, words: &[u8]) -> Other {
    Other::start(&dialling(stage.sockets().control("a").unwrap().path(), &greeting(words)))
}

fn attached(stage: &Stage) -> Host {
    stage.builder().attach("a").init_timeout(PATIENCE).build().unwrap()
}

/// Answers one call of the function `f`.
fn serve(stage: &Stage, control: &mut Puppet, answer: &Value) -> Puppet {
    let mut function = stage.start_function(control, "f");
    function.hear();
    function.answer(answer);
    function
}

#[test]
fn a_plugin_without_files_is_waited_for_and_asked_for_any_symbol() {
    let stage = Stage::new();
    let host = attached(&stage);
    let events = host.events();
    let (control, function) = std::thread::scope(|scope| {
        let called = scope.spawn(|| host.function("f").unwrap().call::<Value>((1,)).unwrap());
        let address = await_event(&events, |kind| match kind {
            EventKind::Awaited { address } => Some(address),
            _ => None,
        });
        assert_eq!(address, stage.sockets().control("a").unwrap().to_string());
        let mut control = stage.control("a");
        let function = serve(&stage, &mut control, &json!(7));
        assert_eq!(called.join().unwrap(), json!(7));
        (control, function)
    });
    assert_eq!(host.pid("a"), Some(std::process::id()));
    // This process is the plugin: a host that ended it would end the test.
    host.shutdown();
    let mut ends = [control, function];
    assert!(ends.iter_mut().all(Puppet::has_something), "its channels are closed");
    assert!(!stage.sockets().control("a").unwrap().path().exists(), "the socket is gone");
}

#[test]
fn a_plugin_that_goes_is_waited_for_again_and_its_symbols_are_restored() {
    let stage = Stage::new();
    let host = attached(&stage);
    let events = host.events();
    let first = another(&stage, b"handshake");
    host.start("a").unwrap();
    first.expect("connected");
    let opened = std::thread::scope(|scope| {
        let opened = scope.spawn(|| host.source("s").rule("r").open_as::<Value>());
        // It does not answer, and ends: the open waits for the next one.
        drop(first);
        await_event(&events, |kind| matches!(kind, EventKind::Crashed { .. }).then_some(()));
        // This process could also connect to the sockets of the former one.
        wait_until("the next is waited for", || host.status("a").unwrap().state == PluginState::Starting);
        let mut control = stage.control("a");
        let mut peer = stage.serve_source(&mut control);
        let source = opened.join().unwrap().unwrap();
        peer.write(&frame(br#"{"message":{"n":1},"meta":null}"#));
        (source, control, peer)
    });
    let (mut source, _control, _peer) = opened;
    assert_eq!(source.next().unwrap().unwrap().message["n"], 1);
    await_event(&events, |kind| matches!(kind, EventKind::Restored { .. }).then_some(()));
}

#[test]
fn a_plugin_may_go_and_come_back_any_number_of_times() {
    let stage = Stage::new();
    let host = attached(&stage);
    for _ in 0..12 {
        let process = another(&stage, b"handshake");
        host.start("a").unwrap();
        assert_ne!(host.pid("a").unwrap(), std::process::id());
        drop(process);
        wait_until("its end is seen", || host.status("a").unwrap().state != PluginState::Running);
    }
    assert_eq!(host.status("a").unwrap().restarts, 11);
}

#[test]
fn a_second_process_of_the_name_is_not_admitted() {
    let stage = Stage::new();
    let host = attached(&stage);
    let first = another(&stage, b"handshake");
    host.start("a").unwrap();
    let served = host.pid("a");
    let second = another(&stage, b"handshake");
    second.expect("hung up");
    assert_eq!(host.pid("a"), served);
    drop(first);
    wait_until("the second is the plugin", || host.pid("a").is_some_and(|pid| Some(pid) != served));
}

#[test]
fn who_connects_and_sends_no_handshake_is_not_the_plugin() {
    let stage = Stage::new();
    let host = attached(&stage);
    let address = stage.sockets().control("a").unwrap();
    std::thread::scope(|scope| {
        let started = scope.spawn(|| host.start("a"));
        let silent = Other::start(&dialling(address.path(), &greeting(b"")[..8]));
        silent.expect("connected");
        let plugin = another(&stage, b"handshake");
        started.join().unwrap().unwrap();
        drop(silent);
        assert!(host.pid("a").is_some(), "the silent one was taken for the plugin");
        drop(plugin);
    });
}

#[test]
fn what_speaks_otherwise_is_an_error() {
    let stage = Stage::new();
    let host = attached(&stage);
    let _other = another(&stage, b"hello v9");
    let error = host.start("a").unwrap_err();
    assert!(matches!(&error, Error::Garbage { said, .. } if said == "hello v9"), "{error}");
}

#[test]
fn a_plugin_that_never_comes_is_an_error_after_the_wait() {
    let stage = Stage::new();
    let host = stage.builder().attach("a").init_timeout(Duration::from_millis(50)).build().unwrap();
    let error = host.start("a").unwrap_err();
    assert!(matches!(&error, Error::NoHandshake { .. }), "{error}");
    assert!(!stage.sockets().control("a").unwrap().path().exists(), "the socket is gone");
    let _plugin = another(&stage, b"handshake");
    wait_until("it can still come", || host.start("a").is_ok());
}

#[test]
fn a_shutdown_ends_the_wait() {
    let stage = Stage::new();
    let host = stage.builder().attach("a").init_timeout(Duration::MAX).build().unwrap();
    std::thread::scope(|scope| {
        let started = scope.spawn(|| host.start("a"));
        wait_until("it is waited for", || stage.sockets().control("a").unwrap().path().exists());
        host.shutdown();
        assert!(matches!(started.join().unwrap(), Err(Error::Stopped)));
    });
    assert!(!stage.sockets().control("a").unwrap().path().exists(), "the socket is gone");
}

#[test]
fn one_host_at_a_time_waits_for_a_plugin() {
    let stage = Stage::new();
    let (host, second) = (attached(&stage), attached(&stage));
    std::thread::scope(|scope| {
        let started = scope.spawn(|| host.start("a"));
        wait_until("it is waited for", || stage.sockets().control("a").unwrap().path().exists());
        let error = second.start("a").unwrap_err();
        assert!(matches!(&error, Error::Transport { .. }), "{error:?}");
        // The second has looked whether anybody listens there.
        let _plugin = another(&stage, b"handshake");
        started.join().unwrap().unwrap();
    });
}

#[test]
fn an_attached_plugin_has_the_manifest_of_its_folder() {
    let stage = Stage::new();
    let folder = stage.plugin("p", &["f"]);
    let host = stage.builder().plugin(folder).attach("p").build().unwrap();
    assert!(matches!(host.function("g"), Err(Error::NoSuchSymbol { .. })));
    std::thread::scope(|scope| {
        let called = scope.spawn(|| host.function("f").unwrap().call::<Value>((1,)).unwrap());
        let mut control = stage.control("p");
        let _function = serve(&stage, &mut control, &json!(7));
        assert_eq!(called.join().unwrap(), json!(7));
    });
    assert_eq!(host.pid("p"), Some(std::process::id()), "its own program was not started");
}
