//! The peers in `peers/`: started, asked, ended.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::guard::Process;
use crate::tools;

/// How long a command may take; the peers themselves give up earlier.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a peer may take to end in order.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// What a peer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// libnng, through pynng.
    Libnng,
    /// mangos.
    Mangos,
}

impl Library {
    /// Starts a peer; `None` when the test is to be skipped.
    ///
    /// # Panics
    /// Its tools were not set up.
    pub fn start(self) -> Option<Peer> {
        let command = match self {
            Self::Libnng => {
                let mut command = Command::new(tools::python());
                command.arg(tools::root().join("interop/peers/pynng/driver.py"));
                // Nothing of the tests is to be left in the checkout.
                command.env("PYTHONDONTWRITEBYTECODE", "1");
                command
            }
            Self::Mangos => Command::new(tools::mangos_peer()?),
        };
        Some(Peer::spawn(self, command))
    }
}

/// A running peer; `peers/README.md` has its commands. Dropping it ends it, and
/// whatever it has started.
pub struct Peer {
    library: Library,
    child: Child,
    commands: Option<ChildStdin>,
    answers: mpsc::Receiver<String>,
    log: File,
}

impl Peer {
    fn spawn(library: Library, mut command: Command) -> Self {
        let log = tempfile::tempfile().unwrap();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start the {library:?} peer: {error}"));
        let commands = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { library, child, commands, answers, log }
    }

    /// What it is made of.
    pub fn library(&self) -> Library {
        self.library
    }

    /// Gives it a command, and does not wait for the answer.
    pub fn post(&mut self, op: &str, mut fields: Value) {
        fields["op"] = op.into();
        let commands = self.commands.as_mut().expect("it has not been ended");
        writeln!(commands, "{fields}").and_then(|()| commands.flush()).expect("the peer takes commands");
    }

    /// Gives it a command and waits until it is done with it; whether it has
    /// lived to tell.
    pub fn outlives(&mut self, op: &str, mut fields: Value) -> bool {
        fields["op"] = op.into();
        let commands = self.commands.as_mut().expect("it has not been ended");
        let given = writeln!(commands, "{fields}").and_then(|()| commands.flush());
        given.is_ok() && self.answers.recv_timeout(ANSWER_TIMEOUT) != Err(mpsc::RecvTimeoutError::Disconnected)
    }

    /// The answer to the earliest command that has none yet.
    ///
    /// # Errors
    /// What the peer reports.
    ///
    /// # Panics
    /// It does not answer.
    pub fn answer(&mut self) -> Result<Value, String> {
        self.answer_within(ANSWER_TIMEOUT).unwrap_or_else(|| panic!("the {:?} peer does not answer", self.library))
    }

    /// The same, if it comes in time.
    ///
    /// # Panics
    /// The peer has ended.
    pub fn answer_within(&mut self, patience: Duration) -> Option<Result<Value, String>> {
        let line = match self.answers.recv_timeout(patience) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Timeout) => return None,
            Err(mpsc::RecvTimeoutError::Disconnected) => panic!("the {:?} peer has ended", self.library),
        };
        let answer: Value = serde_json::from_str(&line).unwrap();
        Some(match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        })
    }

    /// Gives it a command and waits for the answer.
    ///
    /// # Errors
    /// What the peer reports.
    pub fn try_ask(&mut self, op: &str, fields: Value) -> Result<Value, String> {
        self.post(op, fields);
        self.answer()
    }

    /// Gives it a command that must succeed.
    ///
    /// # Panics
    /// It fails.
    pub fn ask(&mut self, op: &str, fields: Value) -> Value {
        let asked = fields.to_string();
        self.try_ask(op, fields).unwrap_or_else(|error| panic!("{op} {asked}: {error}"))
    }

    /// Opens a socket: `open("s", "push", "dial", url)`.
    pub fn open(&mut self, id: &str, pattern: &str, side: &str, url: &str) {
        self.ask("open", json!({ "id": id, "pattern": pattern, side: url }));
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, as a crash would end it: it removes nothing and ends nobody.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it in order: it ends its plugin and removes its sockets.
    ///
    /// # Panics
    /// It does not end.
    pub fn end(mut self) {
        assert!(self.finish(), "the {:?} peer has not ended", self.library);
    }

    fn finish(&mut self) -> bool {
        drop(self.commands.take());
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return true;
        }
        let ended = Process::of(self.child.id()).ends_within(END_TIMEOUT);
        if !ended {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        ended
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.finish();
        if std::thread::panicking() {
            let mut log = String::new();
            let _ = self.log.rewind().and_then(|()| self.log.read_to_string(&mut log));
            eprintln!("the {:?} peer and its plugin wrote:\n{log}", self.library);
        }
    }
}
