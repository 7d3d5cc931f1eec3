//! The real `serve`, asked over HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use ekuiper_manager::archive::{Archive, Contents, Limits};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::Bench;

/// Maximum time of an answer before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    process: Child,
    stderr: BufReader<ChildStderr>,
    pub(crate) address: String,
    /// What it has said until it served.
    pub(crate) said: String,
}

impl Server {
    pub(crate) fn start(bench: &Bench) -> Self {
        Self::start_with(bench, &["--listen", "127.0.0.1:0"], &[])
    }

    /// Starts it with more arguments and variables.
    pub(crate) fn start_with(bench: &Bench, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let plugins = bench.path().join("plugins").display().to_string();
        let arguments = [&["serve", "--plugins", &plugins], arguments].concat();
        let mut command = bench.command(&arguments);
        command.envs(variables.iter().copied());
        Self::spawn(command)
    }

    /// Starts it by a program that executes the command in its last arguments.
    pub(crate) fn start_in(bench: &Bench, wrapper: &[&str]) -> Self {
        let plugins = bench.path().join("plugins").display().to_string();
        let inner = bench.command(&["serve", "--plugins", &plugins, "--listen", "127.0.0.1:0"]);
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(inner.get_program()).args(inner.get_args());
        let variables = inner.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command.envs(variables).stdin(Stdio::null()).stdout(Stdio::piped());
        Self::spawn(command)
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Starts a command that serves, and waits until it says where.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        // It may tell of plugins before.
        let mut said = String::new();
        while !said.contains("serving http") {
            assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "{said}");
        }
        let served = said.split("serving http").nth(1).unwrap();
        let address = served.split("://").nth(1).unwrap().split('/').next().unwrap().to_owned();
        Self { process, stderr, address, said }
    }

    /// Its port, after the colon that precedes one in an address.
    pub(crate) fn port(&self) -> String {
        self.address[self.address.rfind(':').unwrap()..].to_owned()
    }

    /// Connects to it.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a request; returns the status and the body of the answer.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str, headers: &str) -> (u16, String) {
        self.ask_bytes(method, path, body.as_bytes(), headers)
    }

    pub(crate) fn ask_bytes(&self, method: &str, path: &str, body: &[u8], headers: &str) -> (u16, String) {
        let mut stream = self.connect();
        let own = format!("Host: {}\r\n", self.address);
        let host = if headers.contains("Host: ") { "" } else { &own };
        let head = format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}");
        // A server that refuses early may not read everything.
        let head = format!("{head}Content-Length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(&[head.as_bytes(), body].concat());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}")).parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// Sends a request of which no more than this comes; returns the status and
    /// the whole of the answer.
    pub(crate) fn break_off(&self, request: &str) -> (u16, String) {
        self.send(request, |stream| stream.shutdown(Shutdown::Write).unwrap())
    }

    /// Sends a request as it is, after whose answer the connection ends; returns
    /// the status and the whole of the answer.
    pub(crate) fn send_raw(&self, request: &str) -> (u16, String) {
        self.send(request, |_| {})
    }

    fn send(&self, request: &str, then: impl FnOnce(&TcpStream)) -> (u16, String) {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        then(&stream);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}")).parse().unwrap();
        (status, answer)
    }

    /// Sends a request whose answer goes on for any time; returns its lines.
    pub(crate) fn follow(&self, path: &str, headers: &str) -> impl Iterator<Item = String> + use<> {
        let mut stream = self.connect();
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.address);
        stream.write_all(head.as_bytes()).unwrap();
        BufReader::new(stream).lines().map(Result::unwrap)
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, "", "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until an answer to `GET` has this status; returns its body.
    pub(crate) fn wait_for(&self, path: &str, status: u16) -> String {
        let mut body = String::new();
        ekuiper_conformance::wait_until(&format!("{path} answers {status}"), || {
            let answer = self.ask("GET", path, "", "");
            body = answer.1;
            answer.0 == status
        });
        body
    }

    /// Ends it as Ctrl-C does; returns what it has said.
    pub(crate) fn end(self) -> String {
        kill_process(Pid::from_child(&self.process), Signal::INT).unwrap();
        let (code, said) = self.finish();
        assert_eq!(code, Some(130), "{said}");
        said
    }

    /// Waits for its end; returns the exit code, and what it has said.
    pub(crate) fn finish(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.process.wait().unwrap().code(), said)
    }
}

/// A test that fails leaves nothing running.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes a package of `mirror`, whose program is a script that executes it.
pub(crate) fn package(bench: &Bench, version: &str) -> String {
    package_that(bench, version, ":")
}

/// Writes one whose script does something else first.
pub(crate) fn package_that(bench: &Bench, version: &str, script: &str) -> String {
    package_of(bench, version, script, &["echo", "revert", "average"])
}

/// Contents of one with a script that is run when it is installed.
pub(crate) fn with_script(bench: &Bench, script: &str) -> Contents {
    package(bench, "plain");
    let folder = bench.path().join("plain");
    let mut archive = Archive::open(bench.path().join("plain.zip"), Limits::default()).unwrap();
    archive.unpack(&folder, |_| true).unwrap();
    let mut contents = Contents::new();
    for (name, is_executable) in [("mirror.json", false), ("run", true)] {
        contents.add_file(name, folder.join(name), is_executable).unwrap();
    }
    contents.add_bytes("install.sh", script, true).unwrap();
    contents
}

/// Writes one that has these functions.
pub(crate) fn package_of(bench: &Bench, version: &str, script: &str, functions: &[&str]) -> String {
    super::example("mirror");
    let program = Path::new(env!("CARGO_BIN_EXE_ekuiper-plugin")).ancestors().nth(2).unwrap().join("release/mirror");
    let manifest = json!({
        "version": version, "language": "go", "executable": "run",
        "sources": ["random"], "sinks": ["file", "lines"], "functions": functions,
    });
    let mut contents = Contents::new();
    contents.add_bytes("mirror.json", manifest.to_string(), false).unwrap();
    contents.add_bytes("run", format!("#!/bin/sh\n{script}\nexec '{}' \"$@\"\n", program.display()), true).unwrap();
    contents.add_bytes("sources/random.yaml", "default: {}\n", false).unwrap();
    let path = bench.path().join(format!("{version}.zip"));
    contents.write(&path).unwrap();
    json!({ "name": "mirror", "file": format!("file://{}", path.display()) }).to_string()
}
