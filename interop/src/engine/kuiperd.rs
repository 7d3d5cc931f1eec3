//! A real engine, on ports and in a `/tmp` of its own: eKuiper's socket names
//! are the same for every engine on a machine.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::tools;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::package;
use super::process::{MARK, Process, kill_marked};

/// How long anything may take that takes a moment on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a test may take in all.
const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// Looks until `look` finds something.
///
/// # Panics
/// It does not in time.
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up, "{what}: not within {PATIENCE:?}");
        // The engine tells of no event.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The folder that an engine has as its `/tmp`, with all its files.
pub struct Site {
    root: tempfile::TempDir,
    mark: String,
    /// The interpreter of its plugins in Python.
    python: PathBuf,
}

impl Site {
    /// A site with the engine that the environment names, and the plugin
    /// `mirror`; without an engine the test is skipped, loudly.
    pub fn new() -> Option<Self> {
        Self::with(tools::mirror, tools::python)
    }

    /// The same, where the plugin has a guard before it.
    pub fn supervised() -> Option<Self> {
        Self::with(tools::supervised, tools::python)
    }

    /// The same, where this interpreter runs the plugins in Python.
    pub fn python(python: fn() -> PathBuf) -> Option<Self> {
        Self::with(tools::mirror, python)
    }

    fn with(program: fn() -> &'static Path, python: fn() -> PathBuf) -> Option<Self> {
        let site = match Self::bare(python) {
            Ok(site) => site,
            Err(reason) => {
                tools::skip(&reason);
                return None;
            }
        };
        package::write_mirror(&site.path("mirror.zip"), program());
        package::write_pysam(&site.path("pysam.zip"), false);
        watch(&site.mark);
        Some(site)
    }

    /// A site with the engine that the environment names, and no plugin.
    ///
    /// # Errors
    /// The environment names no engine; the text says what to do.
    pub fn bare(python: impl FnOnce() -> PathBuf) -> Result<Self, String> {
        let (Some(kuiperd), Some(etc)) = (std::env::var_os("KUIPERD"), std::env::var_os("KUIPER_ETC")) else {
            return Err("set KUIPERD to a kuiperd binary and KUIPER_ETC to its etc folder".into());
        };
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let root = tempfile::tempdir().unwrap();
        // An engine with support for native plugins starts only with their folders.
        for folder in ["data", "log", "plugins/portable", "plugins/sources", "plugins/sinks", "plugins/functions"] {
            fs::create_dir_all(root.path().join("base").join(folder)).unwrap();
        }
        // The engine writes into it.
        copy(Path::new(&etc), &root.path().join("base/etc"));
        // Its own place may be hidden by the engine's /tmp.
        fs::copy(&kuiperd, root.path().join("kuiperd"))
            .unwrap_or_else(|error| panic!("KUIPERD is {}: {error}", Path::new(&kuiperd).display()));
        let mark = format!("{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Self { root, mark, python: python() })
    }

    /// Where a file of this name is for the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The sockets that are there.
    pub fn sockets(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.root.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".ipc")).collect()
    }

    /// The rows in a sink's file; none while there is no file.
    pub fn rows(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        // What follows the last line's end is still being written.
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until there are as many rows.
    pub fn wait_for_rows(&self, name: &str, count: usize) -> Vec<Value> {
        wait(&format!("{count} rows in {name}"), || Some(self.rows(name)).filter(|rows| rows.len() >= count))
    }

    /// The plugin's process.
    pub fn plugin(&self) -> Process {
        wait("the plugin's process", || {
            let mut found = Process::running(&self.mark, "mirror");
            assert!(found.len() <= 1, "more than one plugin process: {found:?}");
            found.pop()
        })
    }

    /// All processes of the plugin: guards, workers, and those that a former one
    /// has left.
    pub fn plugins(&self) -> Vec<Process> {
        Process::running(&self.mark, "mirror")
    }

    /// The engine's process, and all that it has started.
    pub fn processes(&self) -> Vec<Process> {
        Process::marked(&self.mark)
    }

    /// All processes that run this script.
    pub fn scripts(&self, script: &str) -> Vec<Process> {
        let mut found = Process::marked(&self.mark);
        found.retain(|process| process.runs(script));
        found
    }

    /// A process that runs this script.
    pub fn script(&self, script: &str) -> Option<Process> {
        self.scripts(script).into_iter().next()
    }

    /// A supervised plugin's guard and worker.
    pub fn guard_and_worker(&self) -> (Process, Process) {
        wait("a guard and its worker", || {
            let mut found = Process::running(&self.mark, "mirror");
            let pids: Vec<_> = found.iter().map(|process| process.pid).collect();
            let place = found.iter().position(|process| process.parent().is_some_and(|pid| pids.contains(&pid)))?;
            let worker = found.remove(place);
            assert!(found.len() <= 1, "more than a guard and its worker: {found:?}, {worker:?}");
            Some((found.pop()?, worker))
        })
    }

    /// Waits until no process is left.
    pub fn wait_for_nobody(&self) {
        wait("the end of all processes", || Process::marked(&self.mark).is_empty().then_some(()));
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        kill_marked(&self.mark);
    }
}

/// Ends the test's process, and what it has started, when a test takes too
/// long: every wait has a deadline, and this is for the mistake in one.
fn watch(mark: &str) {
    let mark = mark.to_owned();
    std::thread::spawn(move || {
        std::thread::sleep(TEST_TIMEOUT);
        if !Process::marked(&mark).is_empty() {
            kill_marked(&mark);
            let _ = writeln!(std::io::stderr(), "a test with an engine hangs: it has run for {TEST_TIMEOUT:?}");
            std::process::exit(101);
        }
    });
}

/// A running engine.
pub struct Engine<'a> {
    site: &'a Site,
    child: Child,
    url: String,
}

impl<'a> Engine<'a> {
    /// Starts it, and waits until it answers.
    pub fn start(site: &'a Site) -> Self {
        let ports: [u16; 3] = free_ports();
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let script = r#"mount --bind "$0" /tmp && cd /tmp/base && exec /tmp/kuiperd"#;
        let log = fs::File::options().create(true).append(true).open(site.path("engine.log")).unwrap();
        let child = command
            .args(["--mount", "sh", "-c", script])
            .arg(site.root.path())
            .env(MARK, &site.mark)
            .env("KuiperBaseKey", "/tmp/base")
            .env("KUIPER__BASIC__IP", "127.0.0.1")
            .env("KUIPER__BASIC__PORT", ports[0].to_string())
            .env("KUIPER__BASIC__RESTIP", "127.0.0.1")
            .env("KUIPER__BASIC__RESTPORT", ports[1].to_string())
            .env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1")
            .env("KUIPER__SOURCE__HTTPSERVERPORT", ports[2].to_string())
            .env("KUIPER__BASIC__PPROF", "false")
            .env("KUIPER__BASIC__PROMETHEUS", "false")
            .env("KUIPER__BASIC__CONSOLELOG", "true")
            .env("KUIPER__BASIC__FILELOG", "false")
            .env("KUIPER__PORTABLE__PYTHONBIN", &site.python)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("unshare (util-linux) gives the engine a /tmp of its own");
        let mut engine = Self { site, child, url: format!("http://127.0.0.1:{}", ports[1]) };
        wait("the engine's answer to a ping", || {
            let exit = engine.child.try_wait().unwrap();
            assert!(exit.is_none(), "the engine has ended: {exit:?}");
            engine.request("GET", "/ping", None).ok()
        });
        engine
    }

    /// Starts it where this plugin is installed. The engine reads its plugins
    /// beside all else that it starts (`syncRegistry` in eKuiper's
    /// `internal/plugin/portable/manager.go`): where a plugin comes too late,
    /// the manager page misses its sources and sinks, rules fail for good, and
    /// the engine is started once more.
    pub fn start_with(site: &'a Site, plugin: &str) -> Self {
        let read = || fs::read_to_string(site.path("engine.log")).unwrap_or_default();
        let installed = format!("Installed portable plugin {plugin} successfully");
        wait(&format!("a start at which {plugin} is not too late"), || {
            let former = read().len();
            let engine = Self::start(site);
            let log = wait("the end of the engine's start", || {
                Some(read().split_off(former)).filter(|log| log.contains("Serving kuiper"))
            });
            let is_needed = |line: &&str| line.contains("but not installed") || line.contains("Starting rules");
            let before = log.lines().take_while(|line| !is_needed(line)).any(|line| line.contains(&installed));
            if !before {
                engine.stop();
                return None;
            }
            Some(engine)
        })
    }

    /// The engine's own process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its REST interface is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it answers; an error is its text, or why there is none.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String, String> {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into();
        let url = format!("{}{path}", self.url);
        let answer = match (method, body) {
            ("GET", _) => agent.get(url).call(),
            ("DELETE", _) => agent.delete(url).call(),
            ("PUT", Some(body)) => agent.put(url).send_json(body),
            (_, Some(body)) => agent.post(url).send_json(body),
            (_, None) => agent.post(url).send_empty(),
        };
        let mut answer = answer.map_err(|error| error.to_string())?;
        let text = answer.body_mut().read_to_string().map_err(|error| error.to_string())?;
        if answer.status().is_success() { Ok(text) } else { Err(text) }
    }

    /// What it answers.
    ///
    /// # Panics
    /// It refuses, or does not answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> String {
        self.request(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// The JSON at this path.
    pub fn get(&self, path: &str) -> Value {
        let text = self.ask("GET", path, None);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path} is not JSON: {error}: {text}"))
    }

    /// Installs the plugin.
    pub fn install_mirror(&self) {
        self.install("mirror");
    }

    /// Installs the plugin of this name.
    pub fn install(&self, name: &str) {
        let plugin = json!({ "name": name, "file": format!("file:///tmp/{name}.zip") });
        self.ask("POST", "/plugins/portables", Some(&plugin));
        let path = format!("/plugins/portables/{name}/status");
        let status: Value = serde_json::from_str(&self.ask("GET", &path, None)).unwrap();
        // The engine may report how the process of a former installation ended,
        // for good.
        let is_former_end = status["errMsg"] == "signal: killed";
        assert!(is_former_end || status["status"] == "running", "{status}");
    }

    /// Installs the plugin of this name; an error is the engine's text.
    pub fn try_install(&self, name: &str) -> Result<String, String> {
        let plugin = json!({ "name": name, "file": format!("file:///tmp/{name}.zip") });
        self.request("POST", "/plugins/portables", Some(&plugin))
    }

    /// Installs the plugin of this name once more, over itself.
    pub fn update(&self, name: &str) {
        let plugin = json!({ "name": name, "file": format!("file:///tmp/{name}.zip") });
        self.ask("PUT", &format!("/plugins/portables/{name}"), Some(&plugin));
    }

    /// Removes the plugin.
    pub fn delete_mirror(&self) {
        self.remove("mirror");
    }

    /// Removes the plugin of this name.
    pub fn remove(&self, name: &str) {
        self.ask("DELETE", &format!("/plugins/portables/{name}"), None);
    }

    /// A stream on the plugin's source with these settings; it has their name.
    pub fn create_stream(&self, settings: &str) {
        self.create_stream_of("random", settings);
    }

    /// The same on this source.
    pub fn create_stream_of(&self, source: &str, settings: &str) {
        let sql =
            format!(r#"CREATE STREAM {settings} () WITH (TYPE="{source}", FORMAT="json", CONF_KEY="{settings}")"#);
        self.ask("POST", "/streams", Some(&json!({ "sql": sql })));
    }

    /// A rule whose rows go to the plugin's sink, with acks, and there to the
    /// file `<id>.jsonl`.
    pub fn create_rule(&self, id: &str, sql: &str) {
        let sink = json!({ "lines": { "path": format!("/tmp/{id}.jsonl"), "requireAck": true } });
        let rule = json!({ "id": id, "sql": sql, "actions": [sink], "options": { "bufferLength": 4096 } });
        self.ask("POST", "/rules", Some(&rule));
    }

    /// A stream on the source of `pysam`, with these settings; it has their name.
    pub fn create_python_stream(&self, settings: &str) {
        let sql = format!(r#"CREATE STREAM {settings} () WITH (TYPE="pyjson", FORMAT="json", CONF_KEY="{settings}")"#);
        self.ask("POST", "/streams", Some(&json!({ "sql": sql })));
    }

    /// A rule whose rows go to this action.
    pub fn create_rule_to(&self, id: &str, sql: &str, action: Value) {
        self.ask("POST", "/rules", Some(&json!({ "id": id, "sql": sql, "actions": [action] })));
    }

    /// A rule whose rows go to the sink of `pysam`, with acks.
    pub fn create_python_rule(&self, id: &str, sql: &str) {
        let rule = json!({ "id": id, "sql": sql, "actions": [{ "print": { "requireAck": true } }] });
        self.ask("POST", "/rules", Some(&rule));
    }

    /// `start`, `stop` or `restart`.
    pub fn tell_rule(&self, id: &str, what: &str) {
        self.ask("POST", &format!("/rules/{id}/{what}"), None);
    }

    /// Removes a rule.
    pub fn delete_rule(&self, id: &str) {
        self.ask("DELETE", &format!("/rules/{id}"), None);
    }

    /// How a rule is, with all its counters.
    pub fn rule_status(&self, id: &str) -> Value {
        serde_json::from_str(&self.ask("GET", &format!("/rules/{id}/status"), None)).unwrap()
    }

    /// Checks that a rule runs and that nothing in it has failed.
    pub fn assert_healthy(&self, id: &str) {
        let status = self.rule_status(id);
        assert_eq!(status["status"], "running", "{status:#}");
        let counters = status.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_exceptions_total"));
        let mut count = 0;
        for (name, exceptions) in counters {
            assert_eq!(*exceptions, 0, "{name}: {status:#}");
            count += 1;
        }
        assert!(count > 0, "no counters: {status:#}");
    }

    /// Asks it to end, and waits. A stock engine answers requests before it
    /// listens to this signal, and dies of it until then.
    pub fn stop(self) {
        let status = self.end(Signal::TERM);
        let has_not_listened = status.signal() == Some(Signal::TERM.as_raw());
        assert!(status.success() || has_not_listened, "the engine ended with {status}");
    }

    /// Kills it, and waits.
    pub fn kill(self) {
        assert_eq!(self.end(Signal::KILL).signal(), Some(9));
    }

    fn end(mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        wait("the engine's end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.site.path("engine.log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("the engine's log ends with:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

/// Ports that nobody uses at the moment, and that no connection is given for
/// its own end before the engine listens there: those are numbered from 32768.
fn free_ports<const N: usize>() -> [u16; N] {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let any = || loop {
        let number = std::process::id().wrapping_mul(101).wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = 16_384 + (number % 16_384) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    };
    [(); N].map(|()| any())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let entries = fs::read_dir(from).unwrap_or_else(|error| panic!("KUIPER_ETC: {}: {error}", from.display()));
    for entry in entries.map(|entry| entry.unwrap()) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}
