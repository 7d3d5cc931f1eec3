//! The transcripts of the guide's page on HTTP: each command is run, in the
//! page's order, and its output is the one that the page shows. Skipped, loudly,
//! where a program is not there that the page uses.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use ekuiper_conformance::wait_until;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use support::Bench;
use support::served::Server;

const PAGE: &str = include_str!("../../docs/src/manage-plugins.md");

/// Maximum time of a command before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// What stands for any text in an output.
const LEFT_OUT: &str = "…";

/// The ports of the page: of `serve`, and of another server, which a test takes
/// from the free ones.
const PORT: &str = ":9082";
const OTHER_PORT: &str = "8000";

/// Returns the page's code blocks, each with its language.
fn blocks() -> impl Iterator<Item = (&'static str, &'static str)> {
    PAGE.split("\n```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap())
}

/// Returns the commands of a transcript, each with the output that it shows.
fn commands(transcript: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in transcript.lines() {
        match (line.strip_prefix("$ "), found.last_mut()) {
            (Some(command), _) => found.push((command.to_owned(), String::new())),
            (None, Some((command, _))) if command.ends_with('\\') => *command += &format!("\n{line}"),
            (None, Some((_, output))) => *output += &format!("{line}\n"),
            (None, None) => panic!("an output without a command: {line}"),
        }
    }
    found
}

/// Returns whether a text is what the page shows, line by line.
fn is_shown(shown: &str, text: &str) -> bool {
    let (shown, text) = (shown.trim_end(), text.trim_end());
    let is_line = |(shown, line): (&str, &str)| {
        let mut parts = shown.split(LEFT_OUT);
        let Some(mut rest) = line.strip_prefix(parts.next().unwrap()) else { return false };
        let mut last = None;
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
            last = Some(part);
        }
        // The last part may be found before the line's end, too.
        last.map_or(rest.is_empty(), |part| line.ends_with(part))
    };
    let same_length = shown.lines().count() == text.lines().count();
    shown == LEFT_OUT || same_length && shown.lines().zip(text.lines()).all(is_line)
}

/// A shell that executes the page's commands, and ends with what they have left
/// running.
struct Shell {
    process: Child,
    stdin: ChildStdin,
    outputs: Receiver<String>,
}

impl Shell {
    fn start(bench: &Bench) -> Self {
        let mut command = Command::new("bash");
        command.current_dir(bench.path()).envs(variables(bench)).process_group(0);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (send, outputs) = mpsc::channel();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            let texts = stdout.split(0).map_while(Result::ok);
            texts.map(|bytes| String::from_utf8(bytes).unwrap()).try_for_each(|text| send.send(text))
        });
        Self { stdin: process.stdin.take().unwrap(), process, outputs }
    }

    /// Executes a command; returns what it has written.
    fn run(&mut self, command: &str) -> String {
        writeln!(self.stdin, "{{ {command}\n}} 2>&1 < /dev/null\nprintf '\\0'").unwrap();
        self.outputs.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no end of: {command}"))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        let _ = self.process.wait();
    }
}

/// Returns the variables of the commands: `ekuiper-plugin` is the one that is
/// tested, and curl tells of no progress.
fn variables(bench: &Bench) -> Vec<(&'static str, String)> {
    let own = Path::new(env!("CARGO_BIN_EXE_ekuiper-plugin")).parent().unwrap().display().to_string();
    let path = std::env::var("PATH").unwrap();
    fs::write(bench.path().join(".curlrc"), "silent\nshow-error\n").unwrap();
    let folder = bench.path().display().to_string();
    let temporary = format!("{folder}/tmp");
    vec![("PATH", format!("{own}:{path}")), ("CURL_HOME", folder), ("TMPDIR", temporary), ("no_proxy", "*".into())]
}

/// Starts `serve` as the page does, at a free port.
fn serve(bench: &Bench, command: &str) -> Server {
    let command = match command.contains("--listen") {
        true => command.replace(PORT, ":0"),
        false => format!("{command} --listen 127.0.0.1:0"),
    };
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("exec {command}")]).current_dir(bench.path()).envs(variables(bench));
    shell.stdin(Stdio::null());
    Server::spawn(shell)
}

#[test]
fn the_page_shows_what_its_commands_do() {
    for program in ["bash", "curl", "openssl"] {
        if Command::new(program).arg("--version").output().is_err() {
            let _ = writeln!(std::io::stderr(), "SKIPPED: the guide's page on HTTP: there is no {program} here");
            return;
        }
    }
    let bench = Bench::new();
    support::example("mirror");
    std::os::unix::fs::symlink(support::example(""), bench.path().join("examples")).unwrap();
    let other_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut shell = Shell::start(&bench);
    // What is told after the address can be seen at the end only.
    let mut served: Option<(Server, Vec<String>)> = None;
    let end = |served: Option<(Server, Vec<String>)>| {
        let Some((server, shown)) = served else { return };
        let said = server.end();
        for line in shown {
            assert!(said.lines().any(|said| is_shown(&line, said)), "{line} is not in:\n{said}");
        }
    };
    let mut count = 0;
    for (language, block) in blocks() {
        if language == "python" {
            let name = block.lines().next().unwrap().strip_prefix("# ").unwrap();
            let port = served.as_ref().unwrap().0.port();
            fs::write(bench.path().join(name), block.replace(PORT, &port)).unwrap();
        }
        if language == "yaml" {
            serde_saphyr::from_str::<serde_json::Value>(block).unwrap();
        }
        if language != "console" {
            continue;
        }
        for (command, shown) in commands(block) {
            count += 1;
            if command.starts_with("ekuiper-plugin serve") {
                end(served.take());
                let server = serve(&bench, &command);
                let said = server.said.replace(&server.port(), PORT);
                let mut shown = shown.lines().map(str::to_owned);
                let first = shown.next().unwrap();
                assert!(is_shown(&first, &said), "{command}\nshows:\n{first}\nand says:\n{said}");
                served = Some((server, shown.collect()));
                continue;
            }
            let port = served.as_ref().map_or(PORT.into(), |(server, _)| server.port());
            if command.contains("/logs") {
                let server = &served.as_ref().unwrap().0;
                wait_until("the log has the sink's line", || server.ask("GET", "/logs", "", "").1.contains("writing"));
            }
            let actual = command.replace(PORT, &port).replace(OTHER_PORT, &other_port);
            let text = shell.run(&actual).replace(&port, PORT).replace(&other_port, OTHER_PORT);
            assert!(is_shown(&shown, &text), "{command}\nshows:\n{shown}\nand does:\n{text}");
            if command.contains("http.server") {
                wait_until("the other server listens", || {
                    TcpStream::connect(format!("127.0.0.1:{other_port}")).is_ok()
                });
            }
            if command.contains("/sources/") && command.ends_with('&') {
                let server = &served.as_ref().unwrap().0;
                let status = || server.json("/plugins/portables/mirror/status");
                wait_until("the source is read", || status()["refCount"] != json!({}));
            }
        }
    }
    assert!(count > 40, "the page has {count} commands");
    end(served);
    drop(shell);
    bench.assert_nothing_is_left();
}

#[test]
fn an_output_is_compared_line_by_line() {
    for (shown, text) in [
        ("a", "a\n"),
        ("…", "any\nlines"),
        ("{\"pid\":…,\"b\":…}", "{\"pid\":7,\"b\":{}}"),
        ("a…c", "abcbc"),
        ("", "\n"),
    ] {
        assert!(is_shown(shown, text), "{shown}: {text}");
    }
    for (shown, text) in
        [("a", "b"), ("a", "ab"), ("a…", "b"), ("a…c", "abcd"), ("a", "a\nb"), ("a…\n…c", "a\nb\nc"), ("", "a")]
    {
        assert!(!is_shown(shown, text), "{shown}: {text}");
    }
}
