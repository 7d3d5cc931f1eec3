//! Processes of plugins: their starts in parallel, and their ends.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::time::Duration;

use ekuiper_host::{Error, EventKind, Host};
use serde_json::Value;
use support::{Stage, wait_until};

fn is_running(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn fault_09_plugins_start_side_by_side() {
    let stage = Stage::new();
    let builder = stage.builder().plugin(stage.plugin("one", &["f"])).plugin(stage.plugin("two", &["g"]));
    let host = builder.build().unwrap();
    std::thread::scope(|scope| {
        let start = scope.spawn(|| host.start_all());
        // Neither completes its handshake before both are being waited for.
        for plugin in ["one", "two"] {
            wait_until("both are waited for", || stage.sockets().control(plugin).unwrap().path().exists());
        }
        let _puppets = [stage.control("two"), stage.control("one")];
        start.join().unwrap().unwrap();
    });
    assert_ne!(host.pid("one").unwrap(), host.pid("two").unwrap());
}

#[test]
fn a_shutdown_ends_a_start_that_is_under_way() {
    let stage = Stage::new();
    let host = stage.builder().plugin(stage.plugin("p", &["f"])).build().unwrap();
    std::thread::scope(|scope| {
        let start = scope.spawn(|| host.start("p"));
        wait_until("it is waited for", || stage.sockets().control("p").unwrap().path().exists());
        host.shutdown();
        assert!(matches!(start.join().unwrap(), Err(Error::Stopped)));
    });
    assert!(matches!(host.start("p"), Err(Error::Stopped)));
    assert_eq!(std::fs::read_dir(stage.sockets().path()).unwrap().count(), 0);
}

#[test]
fn a_shutdown_ends_every_wait_and_every_process() {
    let stage = Stage::new();
    // A child of its own: the whole group ends.
    let plugin = stage.script("p", &["f"], "sleep 1000 & echo $! >children; wait");
    let host = stage.builder().plugin(&plugin).recv_timeout(Duration::from_secs(600)).build().unwrap();
    std::thread::scope(|scope| {
        let function = scope.spawn(|| host.function("f").unwrap());
        let mut control = stage.control("p");
        let mut puppet = stage.start_function(&mut control, "f");
        let function = function.join().unwrap();
        let pid = host.pid("p").unwrap();
        wait_until("it has a child", || {
            std::fs::read_to_string(plugin.join("children")).is_ok_and(|text| text.ends_with('\n'))
        });
        let child: u32 = std::fs::read_to_string(plugin.join("children")).unwrap().trim().parse().unwrap();
        assert!(is_running(child));

        let call = scope.spawn(move || function.call::<Value>((1,)));
        puppet.hear();
        host.shutdown();
        assert!(call.join().unwrap().is_err());
        wait_until("both processes are gone", || !is_running(pid) && !is_running(child));
    });
    assert_eq!(std::fs::read_dir(stage.sockets().path()).unwrap().count(), 0);
}

#[test]
fn a_plugin_that_has_died_is_told_with_its_last_words() {
    let stage = Stage::new();
    let plugin = stage.script("p", &["f"], "read nothing <go; echo 'out of ink' >&2; exit 4");
    let go = plugin.join("go");
    assert!(std::process::Command::new("mkfifo").arg(&go).status().unwrap().success());
    let host = stage.builder().plugin(&plugin).build().unwrap();
    std::thread::scope(|scope| {
        let function = scope.spawn(|| host.function("f").unwrap());
        let mut control = stage.control("p");
        let mut puppet = stage.start_function(&mut control, "f");
        let function = function.join().unwrap();

        let call = scope.spawn(move || function.call::<Value>((1,)));
        puppet.hear();
        std::fs::write(&go, "\n").unwrap();
        wait_until("it has ended", || host.pid("p").is_none());
        drop((puppet, control));
        let error = call.join().unwrap().unwrap_err();
        assert!(matches!(&error, Error::OutcomeUnknown { exit: Some(exit), .. } if exit.code == Some(4)), "{error}");
        assert!(error.to_string().ends_with("it last wrote:\nout of ink"), "{error}");
    });
}

#[test]
fn what_a_plugin_wrote_long_before_its_end_are_not_its_last_words() {
    let stage = Stage::new();
    let plugin = stage.script("p", &["f"], "echo 'long ago'; read nothing <go; exit 4");
    let go = plugin.join("go");
    assert!(std::process::Command::new("mkfifo").arg(&go).status().unwrap().success());
    let host = stage.builder().plugin(&plugin).build().unwrap();
    let events = host.events();
    std::thread::scope(|scope| {
        let function = scope.spawn(|| host.function("f").unwrap());
        let mut control = stage.control("p");
        let puppet = stage.start_function(&mut control, "f");
        function.join().unwrap();
        // Age matters here: a slow machine only adds to it.
        std::thread::sleep(Duration::from_millis(5100));
        std::fs::write(&go, "\n").unwrap();
        let crashed = events.iter().find_map(|event| match event.kind {
            EventKind::Crashed { exit } => Some(exit),
            _ => None,
        });
        drop((puppet, control));
        let exit = crashed.unwrap();
        assert_eq!((exit.code, exit.tail.as_str()), (Some(4), ""));
        let error = Error::Exited { plugin: "p".into(), exit }.to_string();
        assert!(error.ends_with("it wrote nothing in its last 5s"), "{error}");
    });
}

#[test]
fn a_host_without_plugins_is_fine() {
    let host = Host::builder().build().unwrap();
    assert!(matches!(host.start("p"), Err(Error::NoSuchPlugin(_))));
    host.start_all().unwrap();
}
