//! Processes other than the host's: code in the host's own process is trusted,
//! so a stranger in a test must be another process. Each is the test's own
//! binary, which runs its test `other_process` alone.

#![allow(clippy::disallowed_methods)] // tests start their own

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::PATIENCE;

const ORDER: &str = "EKUIPER_TEST_OTHER";

/// Returns the orders of such a process. It waits for the file `after`, if one
/// is given, connects to `dial` as soon as a process listens there, and sends
/// `says`; or it listens at `listen`. It stays until its standard input ends,
/// unless `stays`.
pub(crate) fn dialling(path: &Path, says: &[u8]) -> Value {
    json!({ "dial": path, "says": says })
}

pub(crate) fn listening(path: &Path, says: &[u8]) -> Value {
    json!({ "listen": path, "says": says })
}

/// Returns the shell command of such a process, for a script.
pub(crate) fn command(mut order: Value) -> String {
    order["stays"] = true.into();
    let binary = std::env::current_exe().unwrap();
    format!("env {ORDER}='{order}' {} --exact other_process --nocapture", binary.display())
}

/// Another process, killed on drop.
pub(crate) struct Other {
    child: Child,
    _stdin: ChildStdin,
    said: Receiver<String>,
}

impl Other {
    pub(crate) fn start(order: &Value) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "other_process", "--nocapture"]).env(ORDER, order.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        #[allow(clippy::disallowed_methods)] // this test's own, not a host's
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            lines.filter_map(|line| Some(line.strip_prefix('@')?.to_owned())).try_for_each(|line| say.send(line))
        });
        Self { _stdin: child.stdin.take().unwrap(), child, said }
    }

    /// Waits until the process prints this.
    pub(crate) fn expect(&self, wanted: &str) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok(said) if said == wanted => return,
                Ok(_) => {}
                Err(_) => panic!("the other process never said: {wanted}"),
            }
        }
    }

    /// Returns what the process has printed since the last call.
    pub(crate) fn has_said(&self) -> Vec<String> {
        self.said.try_iter().collect()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the test `other_process`, which does nothing when it is run with the
/// others.
pub(crate) fn act() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let order: Value = serde_json::from_str(&order).unwrap();
    if order["stays"] != true {
        std::thread::spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
    }
    if order["setsid"] == true {
        rustix::process::setsid().unwrap();
    }
    if let Some(after) = order["after"].as_str() {
        super::wait_until("there is a file", || Path::new(after).exists());
    }
    let says: Vec<u8> = serde_json::from_value(order["says"].clone()).unwrap();
    let crowd = order["crowd"].as_u64().unwrap_or(1);
    if let Some(path) = order["dial"].as_str() {
        loop {
            let mut peers: Vec<_> = (0..crowd).map(|_| dial(Path::new(path), &says)).collect();
            say("connected");
            let heard: usize = peers.iter_mut().map(read_to_the_end).sum();
            // The listener's header is no secret.
            say(if heard <= 8 * peers.len() { "hung up" } else { "heard something" });
        }
    }
    let listener = UnixListener::bind(order["listen"].as_str().unwrap()).unwrap();
    say("listening");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.write_all(&says);
        say(if read_to_the_end(&mut stream) <= 8 { "hung up" } else { "heard something" });
    }
}

fn dial(path: &Path, says: &[u8]) -> UnixStream {
    loop {
        if let Ok(mut stream) = UnixStream::connect(path) {
            let _ = stream.write_all(says);
            return stream;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Returns the number of bytes received before the other side disconnects.
fn read_to_the_end(stream: &mut UnixStream) -> usize {
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    heard.len()
}

fn say(word: &str) {
    let _ = writeln!(std::io::stdout(), "\n@{word}");
}
