//! Runs the real command on plugins written by tests, and checks what it leaves
//! behind.
#![allow(dead_code)] // each test file uses its part

pub(crate) mod attached;
pub(crate) mod checked;
pub(crate) mod raw_zip;
pub(crate) mod served;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::Pid;

/// Maximum time of one command: its own deadlines bound it, and this only keeps
/// a bug from hanging the tests.
const WATCHDOG: Duration = Duration::from_secs(120);

/// A test's folder: its plugins, and `TMPDIR` of its commands.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

/// Result of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tmp")).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Returns a plugin name that is unique in `/tmp`.
    pub(crate) fn unique(&self, name: &str) -> String {
        let own = self.path().file_name().unwrap().to_string_lossy().replace('.', "");
        format!("{name}{own}")
    }

    /// Creates a plugin's folder with a manifest and no executable.
    pub(crate) fn plugin(&self, name: &str, manifest: &str) -> PathBuf {
        let folder = self.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.json")), manifest).unwrap();
        folder
    }

    /// Creates a plugin whose executable is this script for `sh`, with the
    /// function `f`.
    pub(crate) fn script(&self, script: &str) -> PathBuf {
        let manifest = r#"{"language":"go","executable":"run","functions":["f"]}"#;
        let folder = self.plugin(&self.unique("script"), manifest);
        write_program(&folder.join("run"), format!("#!/bin/sh\n{script}\n").as_bytes());
        folder
    }

    /// Returns the command, with everything temporary in this folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ekuiper-plugin"));
        command.args(arguments).env("TMPDIR", self.path().join("tmp")).stdin(Stdio::null());
        command
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Runs a command that must fail with this exit code, report the reason in
    /// one sentence, and leave nothing behind. Returns the sentence.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert_eq!(ran.stdout, "", "a failure prints no result");
        let sentence = ran.stderr.strip_prefix("ekuiper-plugin: ");
        let sentence = sentence.unwrap_or_else(|| panic!("not the command's own words: {}", ran.stderr)).trim_end();
        assert!(!sentence.contains("panicked"), "{sentence}");
        self.assert_nothing_is_left();
        sentence.to_owned()
    }

    /// Returns the process of a plugin that a command of this bench runs.
    pub(crate) fn plugin_process(&self, name: &str) -> Pid {
        let is_it = |line: &str| line.split(' ').next().is_some_and(|program| program.ends_with(name));
        let found = processes_of(self.path()).into_iter().find(|(_, line)| is_it(line));
        found.unwrap_or_else(|| panic!("{name} does not run")).0
    }

    /// Returns whether a process runs that was started with a path in this
    /// folder.
    pub(crate) fn has_processes(&self) -> bool {
        !processes_of(self.path()).is_empty()
    }

    /// Waits until no such process runs.
    pub(crate) fn wait_for_processes(&self) {
        let deadline = std::time::Instant::now() + WATCHDOG;
        while self.has_processes() {
            assert!(std::time::Instant::now() < deadline, "left running: {:?}", processes_of(self.path()));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asserts that no socket, no folder and no process is left.
    pub(crate) fn assert_nothing_is_left(&self) {
        let left: Vec<_> =
            std::fs::read_dir(self.path().join("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "left in TMPDIR: {left:?}");
        let own = self.path().file_name().unwrap().to_string_lossy().replace('.', "");
        for entry in std::fs::read_dir("/tmp").unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            assert!(!(name.contains(&own) && name.ends_with(".ipc")), "left in /tmp: {name}");
        }
        // The guard of a process that was killed ends a moment later.
        let give_up = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let processes = processes_of(self.path());
            if processes.is_empty() {
                break;
            }
            assert!(std::time::Instant::now() < give_up, "left running: {processes:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Waits for a command's end, and kills it when it takes far too long.
pub(crate) fn finish(child: Child) -> Ran {
    let pid = child.id();
    let (done, ended) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(WATCHDOG) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    watchdog.join().unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) fn write_program(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Returns the processes that were started with a path in this folder.
fn processes_of(folder: &Path) -> Vec<(Pid, String)> {
    let folder = folder.to_string_lossy();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        if let Ok(line) = std::fs::read(entry.path().join("cmdline")) {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let pid = entry.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
            if let (true, Some(pid)) = (line.contains(&*folder), pid) {
                found.push((pid, line));
            }
        }
    }
    found
}

/// Returns a plugin or a pipeline in the folder `examples` of the checkout,
/// after building it here, where no command's deadline applies.
pub(crate) fn example(name: &str) -> String {
    static BUILT: std::sync::Once = std::sync::Once::new();
    BUILT.call_once(|| {
        let build = Command::new(env!("CARGO")).args(["build", "--quiet", "--release", "--package", "mirror"]).status();
        assert!(build.unwrap().success());
    });
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name).to_string_lossy().into_owned()
}

/// Creates a plugin in Python that speaks SP and sends anything: `say` is
/// called with each command and returns the next request.
pub(crate) fn liar(bench: &Bench, first: &str, say: &str) -> PathBuf {
    let name = bench.unique("liar");
    let manifest = format!(r#"{{"language":"python","executable":"{name}.py","functions":["f"]}}"#);
    let folder = bench.plugin(&name, &manifest);
    let program = format!(
        r#"
import json, os, socket, struct, sys, threading
folder = json.loads(sys.argv[1])["ipcDir"]
def channel(path, first, say):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    s.sendall(b"\0SP\0\0\x30\0\0")
    f = s.makefile("rb")
    f.read(8)
    request, words = 0x80000001, first
    while words is not None:
        s.sendall(b"\1" + struct.pack(">QI", len(words) + 4, request) + words)
        head = f.read(9)
        if len(head) < 9:
            return
        command = f.read(struct.unpack(">Q", head[1:])[0])[4:]
        request, words = request + 1, say(command)
    f.read()
def say(command):
    {say}
channel(folder + "/plugin_{name}.ipc", {first}, say)
"#
    );
    std::fs::write(folder.join(format!("{name}.py")), program).unwrap();
    folder
}

/// Creates a plugin in Python that speaks SP and has the source `s`, the sink
/// `k` and the function `f`. `hello` is the start of its control channel;
/// `body` defines `source(push)`, `row(data)` and `call(request)`, as far as
/// they are used (or `take(path, data)`, for sinks that differ): `push` sends a message, `call` returns the reply. `stopped`
/// is set when the source is to stop.
pub(crate) fn speaker(bench: &Bench, hello: &str, body: &str) -> PathBuf {
    let name = bench.unique("speaker");
    let manifest =
        format!(r#"{{"language":"python","executable":"{name}.py","sources":["s"],"sinks":["k"],"functions":["f"]}}"#);
    let folder = bench.plugin(&name, &manifest);
    let program = format!(
        r#"
import json, os, signal, socket, struct, sys, threading, time
folder = json.loads(sys.argv[1])["ipcDir"]
def greet(s, role):
    s.sendall(b"\0SP\0\0" + bytes([role]) + b"\0\0")
    f = s.makefile("rb")
    f.read(8)
    return f
def dial(path, role):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    return s, greet(s, role)
def send(s, words):
    s.sendall(b"\1" + struct.pack(">Q", len(words)) + words)
def receive(f):
    head = f.read(9)
    return f.read(struct.unpack(">Q", head[1:])[0]) if len(head) == 9 else None
def serve(path, words, answer):
    s, f = dial(path, 0x30)
    request = 0x80000001
    while True:
        send(s, struct.pack(">I", request) + words)
        command = receive(f)
        if command is None:
            return
        request, words = request + 1, answer(command[4:])
def take(path, data): return row(data)
def listen(path, acks):
    l = socket.socket(socket.AF_UNIX)
    l.bind(path)
    l.listen()
    def collect():
        s, _ = l.accept()
        os.unlink(path)
        f = greet(s, 0x51)
        ack = dial(acks, 0x50)[0] if acks else None
        while (data := receive(f)) is not None:
            answer = take(path, data)
            if ack:
                send(ack, answer or b'{{}}')
    threading.Thread(target=collect, daemon=True).start()
stopped = threading.Event()
def emit(path):
    s, _ = dial(path, 0x50)
    try:
        source(lambda words: send(s, words))
    except OSError:
        pass
    s.close()
{body}
def control(command):
    command = json.loads(command)
    arg = json.loads(command["arg"])
    if command["cmd"] == "start":
        meta = arg.get("meta") or {{}}
        stem = folder + "/%s_%s_%s" % (meta.get("ruleId"), meta.get("opId"), meta.get("instanceId"))
        if arg["pluginType"] == "source":
            threading.Thread(target=emit, args=(stem + ".ipc",), daemon=True).start()
        elif arg["pluginType"] == "sink":
            listen(stem + ".ipc", stem + "_ack.ipc" if arg["config"].get("requireAck") else None)
        else:
            path = folder + "/func_" + arg["symbolName"] + ".ipc"
            threading.Thread(target=serve, args=(path, b"handshake", call), daemon=True).start()
    elif arg["pluginType"] == "source":
        stopped.set()
    return b"ok"
serve(folder + "/plugin_{name}.ipc", {hello}, control)
"#
    );
    std::fs::write(folder.join(format!("{name}.py")), program).unwrap();
    folder
}

/// A hello by which a plugin agrees to MessagePack.
pub(crate) const MESSAGEPACK: &str = "b'handshake ' + json.dumps({\"sdk\": \"test\", \"version\": \"1\", \"symbols\": \
                                      {\"sources\": [\"s\"], \"sinks\": [\"k\"], \"functions\": [\"f\"]}, \
                                      \"codecs\": [\"messagepack\"], \"features\": []}).encode()";
