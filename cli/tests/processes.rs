//! Processes that the command starts, when the command is killed, and when it
//! is process 1 of a container.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use ekuiper_conformance::{wait_for, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use support::{Bench, finish, write_program};

/// Returns the number that a script has written to a file, with the line
/// ending.
fn number(path: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'))?;
    Pid::from_raw(text.trim().parse().ok()?)
}

fn is_gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.trim_start().starts_with('Z'))
}

#[test]
fn the_build_of_a_plugin_ends_with_a_killed_command() {
    let bench = Bench::new();
    let folder = bench.plugin("project", r#"{"language":"rust","executable":"project","functions":["f"]}"#);
    std::fs::write(folder.join("Cargo.toml"), "").unwrap();
    let cargo = bench.path().join("cargo");
    write_program(&cargo, b"#!/bin/sh\nsleep 86400 &\necho $! >compiler\necho $$ >cargo\nwait\n");
    let mut command = bench.command(&["call", folder.to_str().unwrap(), "f"]);
    let mut child = command.env("CARGO", &cargo).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pids = ["cargo", "compiler"].map(|name| wait_for(name, || number(&folder.join(name))));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("cargo and what it runs are gone", || pids.iter().all(|pid| is_gone(*pid)));
}

/// Returns the command as process 1 of a container; `None` where this user
/// cannot have one on this system.
fn first_process(bench: &Bench, arguments: &[&str]) -> Option<Command> {
    const CONTAINER: &[&str] = &["-pf", "--mount-proc", "--kill-child"];
    let options: &[&[&str]] = match rustix::process::getuid().is_root() {
        true => &[CONTAINER],
        false => &[&["-r"], CONTAINER],
    };
    let container = || {
        let mut unshare = Command::new("unshare");
        unshare.args(options.iter().copied().flatten());
        unshare
    };
    if !container().arg("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: this user can have no namespace of processes");
        return None;
    }
    let mut command = container();
    command.arg(env!("CARGO_BIN_EXE_ekuiper-plugin")).args(arguments);
    command.env("TMPDIR", bench.path().join("tmp")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command)
}

#[test]
fn the_first_process_of_a_container_reaps_orphans() {
    let bench = Bench::new();
    // Processes that have left the plugin's group, and whose parent has ended.
    let folder = bench.script(
        "for i in 1 2 3; do sh -c 'setsid sleep 0 & echo $! >>orphans'; done\n\
         count() { n=0; while read pid; do [ -d /proc/$pid ] && n=$((n + 1)); done <orphans; }\n\
         tries=0; count; while [ $n -gt 0 ] && [ $tries -lt 200 ]; do sleep 0.05; tries=$((tries + 1)); count; done\n\
         echo \"orphans left: $n, process 1 is $(cat /proc/1/comm)\"\nexit 3",
    );
    let Some(mut command) = first_process(&bench, &["call", folder.to_str().unwrap(), "f"]) else { return };
    let ran = finish(command.spawn().unwrap());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("orphans left: 0, process 1 is ekuiper-plugin"), "{ran:?}");
}

#[test]
fn the_first_process_of_a_container_passes_signals_on() {
    let bench = Bench::new();
    let folder = bench.script("echo ready >ready; exec sleep 86400");
    let Some(mut command) = first_process(&bench, &["call", folder.to_str().unwrap(), "f"]) else { return };
    let container = command.spawn().unwrap();
    wait_until("the plugin runs", || folder.join("ready").exists());
    let children = format!("/proc/{0}/task/{0}/children", container.id());
    let first = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    // The signal that stops a container.
    kill_process(Pid::from_raw(first).unwrap(), Signal::TERM).unwrap();
    let ran = finish(container);
    assert_eq!(ran.code, Some(130), "{ran:?}");
    bench.assert_nothing_is_left();
}

/// As under a parent that ignores its children's ends.
#[test]
fn how_a_plugin_ended_is_known_where_sigchld_was_ignored() {
    let bench = Bench::new();
    let folder = bench.plugin("three", r#"{"language":"go","executable":"three","functions":["f"]}"#);
    write_program(&folder.join("three"), b"#!/bin/sh\nexit 3\n");
    let command = bench.command(&["call", folder.to_str().unwrap(), "f", "1"]);
    let mut ignoring = Command::new("env");
    ignoring.arg("--ignore-signal=CHLD").arg(command.get_program()).args(command.get_args());
    let output = ignoring.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("exit code 3"), "{said}");
}

/// Whatever an installer leaves in its folder for temporary files is removed
/// with the folder, or by the next command if this one was killed.
#[test]
fn what_an_interrupted_installer_leaves_is_removed() {
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let bench = Bench::new();
        let manifest = r#"{"language":"python","executable":"snake.py","virtualEnvType":"venv","functions":["f"]}"#;
        let folder = bench.plugin("snake", manifest);
        std::fs::write(folder.join("snake.py"), "").unwrap();
        let python = bench.path().join("python");
        let installer = b"#!/bin/sh\nfile=$(mktemp) && folder=$(mktemp -d) && echo pip >\"$folder/wheel\"\n\
            echo $file $folder >made.new && mv made.new made\nsleep 600\n";
        write_program(&python, installer);
        let mut command =
            bench.command(&["call", folder.to_str().unwrap(), "f", "--python-bin", python.to_str().unwrap()]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let made = folder.join("made");
        let made = wait_for("the installer", || std::fs::read_to_string(&made).ok());
        kill_process(Pid::from_child(&child), signal).unwrap();
        let ran = finish(child);
        assert_eq!(ran.code, code, "{ran:?}");
        if signal == Signal::KILL {
            wait_until("the installer's end", || !bench.has_processes());
            let next = bench.fails(1, &["call", bench.script("exit 3").to_str().unwrap(), "f"]);
            assert!(next.contains("exit code 3"), "{next}");
        }
        bench.assert_nothing_is_left();
        for path in made.split_whitespace() {
            assert!(!Path::new(path).exists(), "{path}");
        }
    }
}
