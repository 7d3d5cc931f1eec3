//! A running `attach`, and plugins that a test starts for it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use super::{Bench, example};

/// Maximum time of any wait before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `attach`.
pub(crate) struct Attached {
    pub(crate) child: Child,
    stdin: Option<ChildStdin>,
    output: Receiver<String>,
    errors: Receiver<String>,
    /// The lines of stderr that were read.
    told: Vec<String>,
}

/// Lines of a stream, read by a thread.
fn lines(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
    });
    receive
}

impl Attached {
    /// Starts `attach NAME` with sockets in the bench's folder.
    pub(crate) fn start(bench: &Bench, name: &str, arguments: &[&str]) -> Self {
        let folder = sockets(bench);
        let first = ["attach", name, "--ipc-dir", folder.to_str().unwrap()];
        let mut command = bench.command(&[&first, arguments].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (output, errors) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        Self { stdin: child.stdin.take(), child, output, errors, told: Vec::new() }
    }

    /// Waits for a line on stderr that contains this; returns it.
    pub(crate) fn expect(&mut self, words: &str) -> String {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            let Ok(line) = self.errors.recv_timeout(left) else {
                panic!("it never said {words:?}, but: {:#?}", self.told)
            };
            self.told.push(line.clone());
            if line.contains(words) {
                return line;
            }
        }
    }

    /// Waits until it says what to start; returns the argument of that.
    pub(crate) fn argument(&mut self) -> String {
        let line = self.expect("Go:");
        let (_, argument) = line.split_once(" '").unwrap();
        argument.strip_suffix('\'').unwrap().to_owned()
    }

    pub(crate) fn row(&self) -> Value {
        serde_json::from_str(&self.output.recv_timeout(PATIENCE).expect("no row")).unwrap()
    }

    pub(crate) fn send(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Waits for the end; returns the exit code, the rest of stdout, and all of
    /// stderr.
    pub(crate) fn finish(mut self) -> (Option<i32>, String, String) {
        drop(self.stdin.take());
        let give_up = Instant::now() + PATIENCE;
        let code = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status.code(),
                None if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(5)),
                None => {
                    let _ = self.child.kill();
                    panic!("it does not end; it said {:#?}", self.told);
                }
            }
        };
        self.told.extend(self.errors.iter());
        (code, self.output.iter().collect::<Vec<_>>().join("\n"), self.told.join("\n"))
    }
}

/// A test that does not wait for the end leaves nothing running.
impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A plugin that the test has started, killed on drop.
pub(crate) struct Plugin(pub(crate) Child);

impl Plugin {
    /// Starts the plugin `mirror` of the examples.
    pub(crate) fn mirror(argument: &str) -> Self {
        example("mirror");
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/mirror");
        Self::start(Command::new(program).arg(argument))
    }

    /// Starts a plugin in Python, in its folder.
    pub(crate) fn python(folder: &Path, argument: &str) -> Self {
        let script = folder.join(format!("{}.py", folder.file_name().unwrap().to_str().unwrap()));
        Self::start(Command::new("python3").arg("-u").arg(script).arg(argument).current_dir(folder))
    }

    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    pub(crate) fn is_alive(&self) -> bool {
        test_kill_process(Pid::from_child(&self.0)).is_ok()
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn sockets(bench: &Bench) -> PathBuf {
    let folder = bench.path().join("sockets");
    let _ = std::fs::create_dir(&folder);
    folder
}

/// Asserts that no socket is left.
pub(crate) fn assert_no_sockets(bench: &Bench) {
    let left = std::fs::read_dir(sockets(bench)).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    assert!(left.is_empty(), "left: {left:?}");
    bench.assert_nothing_is_left();
}
