//! `ekuiper-plugin attach` and plugins of the official Python SDK that a person
//! starts, in a terminal or in a debugger.

// The helpers are tests as well.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use ekuiper_interop::guard::Watchdog;
use ekuiper_interop::plugins::OfficialPython;
use ekuiper_interop::tools;
use serde_json::{Value, json};

ekuiper_interop::over_each_transport! {
    attach_official_python,
}

/// A running `attach`, until what it has to say before the plugin comes.
struct Attached {
    child: Child,
    errors: BufReader<ChildStderr>,
}

impl Attached {
    fn start(name: &str, words: &[&str]) -> Self {
        let mut command = Command::new(tools::ekuiper_plugin());
        command.args(["attach", name]).args(words);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        let mut attached = Self { child, errors };
        attached.expect("debugpy:");
        attached
    }

    /// Waits for a line on stderr.
    fn expect(&mut self, words: &str) {
        let mut told = String::new();
        while !told.lines().last().is_some_and(|line| line.contains(words)) {
            assert!(self.errors.read_line(&mut told).unwrap() > 0, "it never said {words:?}: {told}");
        }
    }

    /// Returns what it prints until its end, which is a success.
    fn printed(mut self, input: &str) -> Vec<Value> {
        let _ = self.child.stdin.take().unwrap().write_all(input.as_bytes());
        let errors = std::thread::spawn(move || std::io::read_to_string(self.errors).unwrap());
        let output = self.child.wait_with_output().unwrap();
        let told = errors.join().unwrap();
        assert!(output.status.success(), "{told}");
        assert!(told.contains("has come"), "{told}");
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The plugin's process, as a person starts it.
fn python(folder: &Path, before: &[&str]) -> Child {
    let mut command = Command::new(tools::python());
    command.args(before).arg(folder.join("main.py")).arg(r#"{"sendTimeout":1000}"#);
    command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn attach_official_python(transport: &str) {
    let _watchdog = Watchdog::start();
    let plugin = OfficialPython::new();
    let [revert, pyjson, print] = ["revert", "pyjson", "print"].map(|symbol| plugin.symbol(symbol));
    let rows = |words: &[&str], input: &str| {
        let attached = Attached::start(plugin.name(), &[words, &["--transport", transport]].concat());
        let mut process = python(&plugin.folder(), &[]);
        let rows = attached.printed(input);
        // It ends when its host goes.
        process.wait().unwrap();
        rows
    };
    assert_eq!(rows(&["call", &revert, "\"hello\""], ""), ["olleh"]);
    let read = rows(&["source", &pyjson, "--config", r#"{"interval":1}"#, "-n", "3"], "");
    assert_eq!(read.iter().map(|row| row["value"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    let fed = rows(&["sink", &print, "--ack"], "{\"a\":1}\n{\"a\":2}\n");
    assert_eq!(fed, [json!({ "sent": 2, "delivered": 2, "acked": 2, "failed": 0, "unknown": 0 })]);
    plugin.assert_clean();
}

/// debugpy is not among what the tests need: `pip install debugpy` in
/// `.tools/python`.
#[test]
fn a_call_waits_while_debugpy_holds_the_function_at_a_breakpoint() {
    let has_debugpy = Command::new(tools::python()).args(["-c", "import debugpy"]).stderr(Stdio::null()).status();
    if !has_debugpy.unwrap().success() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: attach under debugpy: {:?} has no debugpy", tools::python());
        return;
    }
    let _watchdog = Watchdog::start();
    let plugin = OfficialPython::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut call = Attached::start(plugin.name(), &["call", &plugin.symbol("revert"), "\"hello\""]);
    let mut process = python(&plugin.folder(), &["-m", "debugpy", "--listen", &port, "--wait-for-client"]);
    let script = plugin.folder().join("pysam.py");
    let text = std::fs::read_to_string(&script).unwrap();
    let line = text.lines().position(|line| line.contains("[::-1]")).unwrap() + 1;
    let mut debugger = Command::new(tools::python());
    debugger.arg(tools::root().join("interop/peers/dap.py")).arg(port).arg(script).arg(line.to_string());
    let mut debugger = debugger.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(debugger.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), format!("stopped in exec line {line}"));
    call.expect("has come");
    call.expect("has not answered for 5s");
    drop(debugger.stdin.take());
    assert_eq!(said.next().unwrap().unwrap(), "going on");
    debugger.wait().unwrap();
    let output = call.child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "\"olleh\"\n");
    process.wait().unwrap();
    plugin.assert_clean();
}
