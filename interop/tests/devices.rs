//! The package that is installed on a device: `ekuiper-plugin package` makes it
//! for another target, and this machine's host runs it, in qemu where the
//! processor is another.
//!
//! `cargo xtask cross` builds the target's programs, and runs this.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ekuiper_conformance::wait_until;
use ekuiper_interop::guard::{Process, Watchdog, lines_of, next, sockets_in};
use ekuiper_interop::managed::{builder, file, install, scratch};
use ekuiper_interop::plugins::Mirror;
use ekuiper_interop::tools;
use rustix::process::Signal;
use serde_json::{Value, json};

/// Packages the plugin `mirror` for the target.
fn package(target: &str, folder: &Path) -> PathBuf {
    let zip = folder.join("mirror.zip");
    let mut command = Command::new(tools::ekuiper_plugin());
    command.arg("package").arg(tools::root().join("examples/mirror")).args(["--target", target]).arg("-o").arg(&zip);
    // Needs no linker but Rust's own; the others were built by zig.
    if !(target.contains("-musl") && has_library(target)) {
        command.arg("--no-build");
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "the plugin cannot be packaged for {target}");
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made["target"], target);
    if target.contains("-gnu") {
        let check = Command::new(tools::ekuiper_plugin()).args(["check", "--no-start"]).arg(&zip).output().unwrap();
        let checked = String::from_utf8(check.stdout).unwrap();
        let (_, version) = checked.split_once(", glibc 2.").unwrap_or_else(|| panic!("{checked}"));
        let version: u32 = version.split(' ').next().unwrap().parse().unwrap();
        assert!(version <= 17, "the program needs glibc 2.{version}");
    }
    zip
}

/// Whether rustup has installed Rust's library for the target.
fn has_library(target: &str) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let printed = Command::new(rustc).args(["--print", "target-libdir", "--target", target]).output().unwrap();
    let folder = String::from_utf8(printed.stdout).unwrap();
    std::fs::read_dir(folder.trim_end()).is_ok_and(|mut entries| entries.next().is_some())
}

#[test]
fn a_package_for_a_device_is_called_feeds_is_fed_and_comes_back() {
    let Some(target) = tools::device() else {
        return tools::skip(
            "no target is named (EKUIPER_DEVICE): `cargo xtask cross` builds for devices, and tests that",
        );
    };
    let root = scratch();
    let zip = file(package(&target, root.path()));
    let _watchdog = Watchdog::start();
    let manager = builder(root.path()).open().unwrap();
    install(&manager, &zip).unwrap();
    let host = manager.host();
    let revert = host.function("revert").unwrap();
    assert_eq!(revert.call::<String>(("hällo",)).unwrap(), "olläh");
    let config = json!({ "interval": 1 });
    let mut source = host.source("random").rule("in").config(config).open().unwrap();
    let first = next(&mut source).message["count"].as_u64().unwrap();
    assert_eq!(next(&mut source).message["count"], first + 1);
    let written = root.path().join("rows");
    let sink = host.sink("file").rule("out").config(json!({ "path": written })).require_ack(true).open().unwrap();
    (0..10).for_each(|number| sink.send(&json!({ "n": number })).unwrap());
    assert_eq!(lines_of(&written, 10).len(), 10);

    let before = host.pid("mirror").unwrap();
    let runs = std::fs::read_link(format!("/proc/{before}/exe")).unwrap();
    let is_emulated = runs.file_name().unwrap().to_string_lossy().starts_with("qemu-");
    assert_eq!(is_emulated, !target.starts_with(std::env::consts::ARCH), "{} runs it", runs.display());

    Process::of(before).signal(Signal::KILL);
    wait_until("another process serves", || host.pid("mirror").is_some_and(|pid| pid != before));
    wait_until("its function is back", || revert.call::<String>(("abc",)).is_ok_and(|text| text == "cba"));
    wait_until("its sink is back", || sink.send(&json!({ "n": 10 })).is_ok());
    next(&mut source);
    let last = lines_of(&written, 11).pop().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&last).unwrap(), json!({ "n": 10 }));
    sink.close().unwrap();
    source.close().unwrap();
    host.shutdown();
    assert_eq!(sockets_in(root.path()), [] as [PathBuf; 0]);
}

/// The host on a device: the command, and the plugins that it starts, are the
/// target's.
#[test]
fn the_command_of_a_device_runs_plugins() {
    let Some(target) = tools::device() else {
        return tools::skip(
            "no target is named (EKUIPER_DEVICE): `cargo xtask cross` builds for devices, and tests that",
        );
    };
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let program = tools::root().join("target").join(target).join("debug/ekuiper-plugin");
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).env("TMPDIR", mirror.scratch()).stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let folder = mirror.folder();
    let folder = folder.to_str().unwrap();
    assert_eq!(command(&["call", folder, "revert", r#""hello""#]), "\"olleh\"\n");
    let rows = command(&["source", folder, "random", "--config", r#"{"interval":1}"#, "--count", "3"]);
    assert_eq!(rows.lines().count(), 3, "{rows}");
}
