//! The environment of a case: the transport, a folder of its own, and processes
//! that run the same case in another role.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Endpoint, Options, Pull, Push, Reply, Request, Transport};

use crate::PATIENCE;

const ROLE: &str = "EKUIPER_CONFORMANCE_ROLE";
const FOLDER: &str = "EKUIPER_CONFORMANCE_FOLDER";
const ALONE: &str = "alone";

/// The transport under test, with a folder and helper processes for one case.
pub struct Fixture {
    transport: Arc<dyn Transport>,
    folder: PathBuf,
    /// The test's name, in the form of the test binary's command line.
    test: String,
    role: Option<String>,
    /// The folder's owner; absent in a process that works in its parent's
    /// folder.
    _temporary: Option<tempfile::TempDir>,
}

impl Fixture {
    pub(crate) fn new(transport: Arc<dyn Transport>, test: String) -> Self {
        let role = std::env::var(ROLE).ok();
        let given = role.as_ref().and_then(|_| std::env::var_os(FOLDER));
        // Some transports refuse folders that others can enter.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let make = || tempfile::Builder::new().permissions(mode).tempdir().unwrap();
        let temporary = given.is_none().then(make);
        let folder = given.map_or_else(|| temporary.as_ref().unwrap().path().to_owned(), PathBuf::from);
        Self { transport, folder, test, role, _temporary: temporary }
    }

    /// The transport under test.
    pub fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    /// The case's own folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// An address in the case's folder.
    pub fn at(&self, name: &str) -> Address {
        Address::new(self.folder.join(name)).unwrap()
    }

    /// A listening endpoint with this name.
    pub fn listen(&self, name: &str) -> Endpoint {
        Endpoint::Listen(self.at(name))
    }

    /// A dialling endpoint with this name.
    pub fn dial(&self, name: &str) -> Endpoint {
        Endpoint::Dial(self.at(name))
    }

    /// Creates a push socket with the default options.
    pub fn push(&self, endpoint: &Endpoint) -> Arc<dyn Push> {
        self.transport.push(endpoint, &Options::default()).unwrap().into()
    }

    /// Creates a pull socket with the default options.
    pub fn pull(&self, endpoint: &Endpoint) -> Arc<dyn Pull> {
        self.transport.pull(endpoint, &Options::default()).unwrap().into()
    }

    /// Creates a request socket that dials `name`, with the default options.
    pub fn request(&self, name: &str) -> Arc<dyn Request> {
        self.transport.request(&self.at(name), &Options::default()).unwrap().into()
    }

    /// Creates a reply socket that listens at `name`, with the default options.
    pub fn reply(&self, name: &str) -> Arc<dyn Reply> {
        self.transport.reply(&self.at(name), &Options::default()).unwrap().into()
    }

    /// The role of this process, if [`Fixture::spawn`] started it.
    pub fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }

    /// Starts another process that runs this case in `role`, in this folder.
    /// Its standard input ends with this process or the [`Process`].
    pub fn spawn(&self, role: &str) -> Process {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &self.test, "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(FOLDER, &self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Process(Some(child))
    }

    /// Runs `case` in a process without other cases, for resources that are
    /// counted or limited per process.
    pub fn alone(&self, case: impl FnOnce(&Self)) {
        self.alone_for(2 * PATIENCE, case);
    }

    /// Runs `case` like [`Fixture::alone`], for at most `time`.
    pub(crate) fn alone_for(&self, time: Duration, case: impl FnOnce(&Self)) {
        if self.role() == Some(ALONE) {
            return case(self);
        }
        let mut child = self.spawn(ALONE).0.take().unwrap();
        let (done, outcome) = mpsc::channel();
        let pid = rustix::process::Pid::from_child(&child);
        // The pipe stays open until the process has ended.
        let stdin = child.stdin.take();
        std::thread::spawn(move || done.send(child.wait_with_output()));
        let output = outcome.recv_timeout(time).unwrap_or_else(|_| {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            outcome.recv().unwrap()
        });
        drop(stdin);
        let output = output.unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}\n{}{}", output.status, said(&output.stdout), said(&output.stderr));
        // A run that matches no test would succeed as well.
        assert!(said(&output.stdout).contains("1 passed"), "{}", said(&output.stdout));
    }

    /// Blocks until the parent's end of the pipe is closed; for a process with
    /// a role.
    pub fn until_parent_is_gone(&self) {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    }
}

/// A process that runs this case in another role; killed on drop.
pub struct Process(Option<Child>);

impl Process {
    /// The process id.
    pub fn id(&self) -> u32 {
        self.0.as_ref().expect("present until the end").id()
    }

    /// Kills the process with SIGKILL.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
