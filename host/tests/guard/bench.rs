//! A host in a separate process, the plugins it runs, and what remains of them:
//! every process that descends from it has the bench's folder in its
//! environment, including its guards.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ekuiper_conformance::wait_for;
use ekuiper_host::{Chain, Host};
use rustix::process::{Pid, Signal};

/// Variable with the bench's folder, which marks all descendants of the host.
const MARK: &str = "EKUIPER_GUARD_BENCH";

/// Variable of a process that starts a host and adopts orphans.
const ADOPTER: &str = "EKUIPER_GUARD_ADOPTER";

/// Prefix of the host's lines; the test harness writes to the same pipe.
const SAYS: &str = "host: ";

/// Maximum time of any wait, which only a bug exceeds.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Held during a fork: a program that is being written cannot be executed, and
/// a process that is being forked may hold it open.
static FORK: Mutex<()> = Mutex::new(());

/// A test's folder, with its plugins and its hosts' temporary files.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

/// A process in the role of a host.
pub(crate) struct HostProcess {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// A process, as in `/proc/<pid>/stat`.
#[derive(Debug)]
#[allow(dead_code)] // for people
pub(crate) struct Found {
    pub(crate) pid: i32,
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
}

impl Found {
    pub(crate) fn id(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    pub(crate) fn is_guard(&self) -> bool {
        self.name == "ekuiper-guard"
    }

    pub(crate) fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid))
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tmp", "bin", "plugins"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns a name that is unique in `/tmp`.
    pub(crate) fn unique(&self, name: &str) -> String {
        format!("{name}{}", self.own())
    }

    fn own(&self) -> String {
        self.folder.path().file_name().unwrap().to_string_lossy().replace('.', "")
    }

    /// Creates a plugin's folder, with its manifest.
    pub(crate) fn plugin(&self, name: &str, manifest: &str) -> PathBuf {
        let folder = self.path("plugins").join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.json")), manifest).unwrap();
        folder
    }

    /// Creates a plugin that is a script for `sh` in its own folder, and never
    /// completes its handshake. The script creates the file `ready` there.
    /// Returns its name.
    pub(crate) fn script(&self, name: &str, script: &str) -> String {
        let name = self.unique(name);
        let manifest = format!(r#"{{"language":"go","executable":"run","functions":["f{name}"]}}"#);
        let folder = self.plugin(&name, &manifest);
        write_program(&folder.join("run"), &format!("#!/bin/sh\n{script}\n"));
        name
    }

    /// Waits for a script's file `ready`.
    pub(crate) fn wait_ready(&self, plugin: &str) {
        let ready = self.path("plugins").join(plugin).join("ready");
        wait_for(&format!("{plugin} is ready"), || ready.exists().then_some(()));
    }

    /// Starts a process in the role of a host of all plugins of this bench.
    pub(crate) fn host(&self) -> HostProcess {
        self.start(Command::new(std::env::current_exe().unwrap()))
    }

    /// Starts a host with every signal blocked and ignored, except as this
    /// argument of `env` says.
    pub(crate) fn deaf_host(&self, kept: &str) -> HostProcess {
        let mut command = Command::new("env");
        command.args(["--block-signal", "--ignore-signal", kept]).arg(std::env::current_exe().unwrap());
        self.start(command)
    }

    /// Starts a host whose orphans become children of a process that, like
    /// process 1 of many containers, waits for its own child alone; returns
    /// that process.
    pub(crate) fn adopter(&self) -> HostProcess {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(ADOPTER, "");
        self.start(command)
    }

    fn start(&self, mut command: Command) -> HostProcess {
        let path = std::env::var_os("PATH").unwrap();
        let path = std::env::join_paths([self.path("bin")].into_iter().chain(std::env::split_paths(&path))).unwrap();
        let fork = FORK.lock().unwrap();
        let mut child = command
            .args(["--exact", "in_the_role_of_a_host", "--nocapture"])
            .env(MARK, self.folder.path())
            .env("TMPDIR", self.path("tmp"))
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        drop(fork);
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        HostProcess { child, input, output }
    }

    /// Returns all processes of this bench, without zombies, of which only the
    /// process id is left.
    pub(crate) fn processes(&self) -> Vec<Found> {
        let mark = format!("{MARK}={}", self.folder.path().display()).into_bytes();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter(|entry| {
                let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
                environment.split(|byte| *byte == 0).any(|variable| variable == mark)
            })
            .filter_map(|entry| found(&entry.path()))
            .collect()
    }

    pub(crate) fn guards(&self) -> Vec<Found> {
        self.processes().into_iter().filter(Found::is_guard).collect()
    }

    /// Waits for the guard, of which there is one.
    pub(crate) fn guard(&self) -> Found {
        wait_for("there is one guard", || Some(self.guards()).filter(|found| found.len() == 1)?.pop())
    }

    /// Waits until only these processes are left.
    pub(crate) fn wait_nothing_but(&self, kept: &[u32]) {
        let mut left = Vec::new();
        let deadline = Instant::now() + WATCHDOG;
        while Instant::now() < deadline {
            left = self.processes();
            left.retain(|found| !kept.iter().any(|kept| i64::from(*kept) == i64::from(found.pid)));
            if left.is_empty() {
                return;
            }
            pause();
        }
        panic!("left after {WATCHDOG:?}: {left:#?}");
    }
}

impl Drop for Bench {
    /// Ends what a failed test leaves running, and removes the sockets of
    /// killed hosts.
    fn drop(&mut self) {
        for found in self.processes() {
            let _ = rustix::process::kill_process(Pid::from_raw(found.pid).unwrap(), Signal::KILL);
        }
        for entry in std::fs::read_dir("/tmp").unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(&self.own()) && name.ends_with(".ipc") {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

impl HostProcess {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Orders the host to start a plugin, without waiting for the handshake.
    pub(crate) fn start(&mut self, plugin: &str) {
        self.tell(&format!("start {plugin}"));
    }

    pub(crate) fn tell(&mut self, order: &str) {
        writeln!(self.input, "{order}").unwrap();
    }

    /// Sends an order to the host, and returns its next line.
    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.hear()
    }

    /// Returns the host's next line.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let count = self.output.read_line(&mut line).unwrap();
            assert_ne!(count, 0, "the host has ended");
            // The harness does not end the line that it writes first.
            if let Some((_, said)) = line.split_once(SAYS) {
                return said.trim_end().to_owned();
            }
        }
    }

    /// Kills the host with SIGKILL; returns once it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Acts as a host, if this process is one: follows orders until there are no
/// more.
pub(crate) fn be_a_host() {
    let Some(folder) = std::env::var_os(MARK) else { return };
    if std::env::var_os(ADOPTER).is_some() {
        rustix::process::set_child_subreaper(Pid::from_raw(1)).unwrap();
        let host = std::env::current_exe().unwrap();
        let arguments = ["--exact", "in_the_role_of_a_host", "--nocapture"];
        let _ = Command::new(host).args(arguments).env_remove(ADOPTER).status().unwrap();
        return;
    }
    let plugins = Path::new(&folder).join("plugins");
    let mut builder = Host::builder().plugins_dir(plugins).grace(Duration::from_secs(1));
    if let Some(python) = official_python() {
        builder = builder.python_bin(python.to_string_lossy());
    }
    let host = builder.build().unwrap();
    std::thread::scope(|scope| {
        for order in std::io::stdin().lines() {
            let order = order.unwrap();
            let (verb, name) = order.split_once(' ').unwrap_or((&order, ""));
            match verb {
                "start" => {
                    let (host, name) = (&host, name.to_owned());
                    scope.spawn(move || match host.start(&name) {
                        Ok(()) => say(&format!("{name} is ready")),
                        Err(error) => say(&Chain(&error).to_string().replace('\n', " ")),
                    });
                }
                "call" => {
                    let result = host.function(name).and_then(|function| function.call::<String>(("hello",)));
                    say(&result.unwrap_or_else(|error| Chain(&error).to_string()));
                }
                "ping" => say("pong"),
                "shutdown" => {
                    host.shutdown();
                    say("shut down");
                }
                "bear" => {
                    std::mem::forget(Command::new("/bin/true").spawn().unwrap());
                    say("born");
                }
                "adopt" => {
                    rustix::process::set_child_subreaper(Pid::from_raw(1)).unwrap();
                    say("adopts");
                }
                _ => panic!("{order}"),
            }
        }
        host.shutdown();
    });
}

fn say(text: &str) {
    println!("{SAYS}{text}");
}

/// Returns the Python with the official SDK that `cargo xtask tools` sets up.
pub(crate) fn official_python() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/python/bin/python");
    path.exists().then_some(path)
}

/// Pauses between two polls of something that no event reports.
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

pub(crate) fn write_program(path: &Path, content: &str) {
    let _fork = FORK.lock().unwrap();
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Returns a process that is not a zombie.
pub(crate) fn found(proc: &Path) -> Option<Found> {
    stat(proc).filter(|found| found.state != "Z")
}

/// Returns the zombies among a process's children.
pub(crate) fn zombies(parent: u32) -> Vec<Found> {
    let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| stat(&entry.path()));
    all.filter(|found| i64::from(found.parent) == i64::from(parent) && found.state == "Z").collect()
}

fn stat(proc: &Path) -> Option<Found> {
    let stat = std::fs::read_to_string(proc.join("stat")).ok()?;
    let (before, after) = stat.rsplit_once(") ")?;
    let (pid, name) = before.split_once(" (")?;
    let fields: Vec<_> = after.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse().ok();
    Some(Found {
        pid: pid.parse().ok()?,
        name: name.to_owned(),
        state: fields.first()?.to_string(),
        parent: number(1)?,
        group: number(2)?,
        session: number(3)?,
    })
}
