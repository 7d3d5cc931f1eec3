//! The command `ekuiper-plugin` and plugins of the official Python SDK.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ekuiper_conformance::wait_until;
use ekuiper_interop::guard::{Turn, Watchdog};
use ekuiper_interop::plugins::OfficialPython;
use ekuiper_interop::tools;
use serde_json::{Value, json};

ekuiper_interop::over_each_transport! {
    call_official_python,
    read_official_python,
    feed_official_python,
    the_example_pysam,
    a_wrong_call_is_one_sentence,
    the_sockets_of_a_killed_command_are_removed_by_the_next,
}

/// Runs the command to its end.
fn run(transport: &str, words: &[&str], input: &str) -> Output {
    let mut child = Command::new(tools::ekuiper_plugin())
        .args(words)
        .args(["--transport", transport, "--python-bin"])
        .arg(tools::python())
        // Nothing of the tests is to be left in the checkout.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that reads nothing closes it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What it printed, when it worked.
fn printed(transport: &str, words: &[&str], input: &str) -> Vec<Value> {
    let output = run(transport, words, input);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn call_official_python(transport: &str) {
    let _watchdog = Watchdog::start();
    let plugin = OfficialPython::new();
    let folder = plugin.folder();
    let folder = folder.to_str().unwrap();
    let result = printed(transport, &["call", folder, &plugin.symbol("revert"), r#""hello""#], "");
    assert_eq!(result, ["olleh"]);
    let result = printed(transport, &["call", folder, &plugin.symbol("mean"), "[1, 2, 6]"], "");
    assert_eq!(result, [3.0]);
    let repeated = printed(transport, &["call", folder, &plugin.symbol("revert"), r#""hello""#, "--repeat", "100"], "");
    assert_eq!(repeated[0]["calls"], 100);
    plugin.assert_clean();
}

fn read_official_python(transport: &str) {
    let _watchdog = Watchdog::start();
    let plugin = OfficialPython::new();
    let (folder, symbol) = (plugin.folder(), plugin.symbol("pyjson"));
    let words = ["source", folder.to_str().unwrap(), &symbol, "--config", r#"{"interval":1}"#, "--count", "5"];
    let rows = printed(transport, &words, "");
    assert_eq!(rows.iter().map(|row| row["value"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    plugin.assert_clean();
}

fn feed_official_python(transport: &str) {
    let _watchdog = Watchdog::start();
    let plugin = OfficialPython::new();
    let folder = plugin.folder();
    let folder = folder.to_str().unwrap();
    let input = "{\"a\":1}\n{\"a\":\"bad\"}\n{\"a\":3}\n";
    let counts = printed(transport, &["sink", folder, &plugin.symbol("print"), "--ack"], input);
    assert_eq!(counts, [json!({ "sent": 3, "delivered": 3, "acked": 3, "failed": 0, "unknown": 0 })]);
    let refused = run(transport, &["sink", folder, &plugin.symbol("picky"), "--ack"], input);
    assert_eq!(refused.status.code(), Some(1));
    let counts: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(counts, json!({ "sent": 3, "delivered": 2, "acked": 2, "failed": 1, "unknown": 0 }));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("line 2") && said.contains("I do not like that"), "{said}");
    plugin.assert_clean();
}

/// As it stands in the checkout, and as the README has it.
fn the_example_pysam(transport: &str) {
    let _watchdog = Watchdog::start();
    let _turn = Turn::take("pysam");
    let pysam = tools::root().join("examples/pysam");
    let pysam = pysam.to_str().unwrap();
    assert_eq!(printed(transport, &["call", pysam, "revert", r#""hello""#], ""), ["olleh"]);
    let rows = printed(transport, &["source", pysam, "pyjson", "--count", "5", "--config", r#"{"interval":1}"#], "");
    assert_eq!(rows.len(), 5);
    let counts = printed(transport, &["sink", pysam, "print", "--ack"], "{\"a\":1}\n{\"a\":2}\n");
    assert_eq!(counts, [json!({ "sent": 2, "delivered": 2, "acked": 2, "failed": 0, "unknown": 0 })]);
    assert!(!Path::new("/tmp/plugin_pysam.ipc").exists());
}

fn a_wrong_call_is_one_sentence(transport: &str) {
    let _watchdog = Watchdog::start();
    let plugin = OfficialPython::new();
    let folder = plugin.folder();
    let folder = folder.to_str().unwrap();
    let [revert, fail, ghost, exit] = ["revert", "fail", "ghost", "exit"].map(|symbol| plugin.symbol(symbol));
    let wrong: [(&[&str], &str); 6] = [
        (&["call", folder, "no_such"], "there is no function no_such"),
        (&["call", folder, &revert, "1", "2"], "revert takes 1 argument, got 2"),
        (&["call", folder, &fail, "1"], "ValueError: no luck with 1"),
        (&["call", folder, &ghost], "KeyError"),
        (&["call", folder, &exit, "7"], "outcome unknown"),
        (&["source", folder, &ghost], "KeyError"),
    ];
    for (words, sentence) in wrong {
        let output = run(transport, words, "");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        // A crash is logged too, and the error may have the plugin's last words.
        let error = said.find("ekuiper-plugin: ").map(|start| &said[start..]);
        assert!(error.is_some_and(|error| error.contains(sentence)), "{words:?}: {said}");
        assert!(output.stdout.is_empty(), "{words:?}");
    }
    plugin.assert_clean();
}

/// The official SDK knows `/tmp` only, where a killed host removes nothing.
fn the_sockets_of_a_killed_command_are_removed_by_the_next(transport: &str) {
    let _watchdog = Watchdog::start();
    let (plugin, next) = (OfficialPython::new(), OfficialPython::new());
    // What is noted here is left alone by other tests' commands.
    let own_folders = tempfile::tempdir().unwrap();
    let command = |plugin: &OfficialPython, words: &[&str], symbol: &str| {
        let mut command = Command::new(tools::ekuiper_plugin());
        command.arg(words[0]).arg(plugin.folder()).arg(plugin.symbol(symbol)).args(&words[1..]);
        command.args(["--transport", transport, "--python-bin"]).arg(tools::python());
        command.env("TMPDIR", own_folders.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    for (words, symbol, sockets) in
        [(&["source", "--config", r#"{"interval":1}"#][..], "pyjson", 2), (&["sink", "--ack"], "print", 3)]
    {
        let mut killed = command(&plugin, words, symbol);
        killed.stdin.as_ref().unwrap().write_all(b"{\"a\":1}\n").unwrap();
        let id = killed.id();
        wait_until("it has its sockets", || sockets_in_tmp(id, plugin.name()).len() == sockets);
        let all = sockets_in_tmp(id, plugin.name());
        killed.kill().unwrap();
        killed.wait().unwrap();
        // A moment later nobody listens any more. A plugin that is told may have
        // removed its own.
        wait_until("nobody listens", || all.iter().all(|path| UnixStream::connect(path).is_err()));
        assert!(sockets_in_tmp(id, plugin.name()).len() >= 2, "{words:?}: of {all:?} hardly one is left");
        let called = command(&next, &["call", "\"hello\""], "revert").wait_with_output().unwrap();
        assert!(called.status.success());
        assert_eq!(sockets_in_tmp(id, plugin.name()), [] as [PathBuf; 0], "{words:?}");
    }
}

/// The sockets in `/tmp` of a command's rule and of its plugin.
fn sockets_in_tmp(command: u32, plugin: &str) -> Vec<PathBuf> {
    let (rule, control) = (format!("host{command}_"), format!("plugin_{plugin}.ipc"));
    let entries = std::fs::read_dir("/tmp").unwrap().map(|entry| entry.unwrap());
    let names = entries.map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned()));
    let mut found: Vec<_> =
        names.filter(|(_, name)| name.starts_with(&rule) || *name == control).map(|(path, _)| path).collect();
    found.sort();
    found
}
