//! A plugin's process: its start, its output and its end.

pub(crate) mod command;
mod environment;
pub(crate) mod exit;
pub(crate) mod group;
mod guard;
pub(crate) mod guarded;
pub(crate) mod kin;
pub(crate) mod own_folder;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, PipeReader};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ekuiper_transport_ipc::wait::deadline_after;

use rustix::process::{Pid, Signal, WaitIdStatus, kill_process_group};

use crate::error::system_error;
use crate::sync::{lock, wait_while};
use crate::{Result, Subject};
use command::CommandLine;
pub use exit::Exit;
use exit::LAST_WORDS;
use guarded::{GuardedProcess, NotStarted};

/// Number of a process's last lines that are kept for errors.
const TAIL_LINES: usize = 20;

/// Maximum length of a line in the log, in bytes; longer lines are cut.
const MAX_LINE: usize = 4096;

/// Maximum length of a line in errors, in bytes; longer lines are cut.
const MAX_TAIL_LINE: usize = 512;

/// Maximum wait for the end of the output after the process's own end. Normally
/// it comes at once, but a child may have kept the pipe open.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);

/// Maximum time from the end of a process's connections, which is noticed
/// first, to the end of the process.
pub(crate) const EXIT_GRACE: Duration = Duration::from_millis(100);

/// Maximum time to collect how a process ended; it is long only on a busy
/// machine.
const ACCOUNT_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum wait of an error for how the process ended, so that the end itself
/// is reported within 100 ms.
const REPORT_GRACE: Duration = Duration::from_millis(50);

/// Maximum time for a killed process and its guard to be gone. They are gone at
/// once, unless the kernel holds the process in a system call.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// A running process, in a process group of its own.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The last lines, and when they arrived.
    tail: VecDeque<(Instant, String)>,
    /// The process has completed its handshake.
    has_served: bool,
    output_ended: bool,
    /// The process id may belong to another process.
    reaped: bool,
    exit: Option<Exit>,
    /// The guard has ended too.
    is_over: bool,
}

impl State {
    /// Returns the output that may explain the end.
    fn last_words(&self, ended: Instant) -> String {
        self.lines_since(ended.checked_sub(LAST_WORDS).filter(|_| self.has_served))
    }

    fn lines_since(&self, since: Option<Instant>) -> String {
        let lines = self.tail.iter().filter(|(came, _)| since.is_none_or(|since| *came >= since));
        lines.map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }
}

impl Shared {
    /// Signals the process group, unless its id may belong to another by now.
    fn signal(&self, group: Pid, signal: Signal) {
        let state = self.lock();
        if !state.reaped {
            let _ = kill_process_group(group, signal);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wait_until(&self, deadline: Instant, done: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let left = deadline.saturating_duration_since(Instant::now());
        wait_while(&self.changed, self.lock(), left, |state| !done(state))
    }
}

impl Process {
    /// Starts a plugin. `on_exit` is called once, from another thread, when the
    /// process has ended and how is known.
    pub(crate) fn spawn(
        plugin: &str,
        line: &CommandLine,
        on_exit: impl FnOnce(&Exit) + Send + 'static,
    ) -> Result<Self> {
        let refused = |resource| system_error(Subject::of_plugin(plugin), resource);
        let (output, writer) = std::io::pipe().map_err(refused("a pipe"))?;
        let second = writer.try_clone().map_err(refused("a pipe"))?;
        let mut started = GuardedProcess::start_with(&line.program, &line.args, &line.directory, None, second, writer)
            .map_err(|failure| match failure {
                NotStarted::System(resource, error) => refused(resource)(error),
                NotStarted::Program(error) => line.cannot_start(plugin, error),
            })?;
        let pid = started.pid();
        tracing::debug!(plugin, pid = pid.as_raw_nonzero().get(), command = line.display(), "plugin started");

        // Without its threads the process cannot be supervised: it is killed on
        // drop.
        let shared = Arc::new(Shared::default());
        let name = plugin.to_owned();
        let pump = shared.clone();
        spawn_thread(format!("{plugin}-output"), move || pump_output(&name, output, &pump))
            .map_err(refused("a thread"))?;
        let name = plugin.to_owned();
        let waiter = shared.clone();
        spawn_thread(format!("{plugin}-exit"), move || {
            // Ends the group while the process id still names it: children go
            // with the process.
            let ended = guarded::wait_for_end(pid);
            let at = Instant::now();
            started.end_group();
            let state = waiter.wait_until(deadline_after(OUTPUT_GRACE), |state| state.output_ended);
            let tail = state.last_words(at);
            drop(state);
            let exit = Exit {
                code: ended.as_ref().and_then(WaitIdStatus::exit_status),
                signal: ended.as_ref().and_then(WaitIdStatus::terminating_signal),
                tail,
            };
            tracing::debug!(plugin = name, %exit, "plugin ended");
            waiter.lock().exit = Some(exit.clone());
            waiter.changed.notify_all();
            on_exit(&exit);
            // Reaped last: on a busy machine the kernel may take half a second
            // for that, and nothing is to wait meanwhile.
            waiter.lock().reaped = true;
            let _ = started.reap();
            waiter.lock().is_over = true;
            waiter.changed.notify_all();
        })
        .map_err(refused("a thread"))?;
        Ok(Self { pid, shared })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Returns how the process ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.shared.lock().exit.clone()
    }

    /// Returns the last lines of output.
    pub(crate) fn tail(&self) -> String {
        self.shared.lock().lines_since(None)
    }

    /// Marks the handshake as complete: earlier output belongs to the start.
    pub(crate) fn mark_serving(&self) {
        self.shared.lock().has_served = true;
    }

    /// Waits for the process's end; `None` if it is still alive. If it ends in
    /// time, also waits for how it ended, since the last output may arrive a
    /// little later.
    pub(crate) fn wait(&self, patience: Duration) -> Option<Exit> {
        let is_known = |state: &State| state.exit.is_some();
        let exit = self.shared.wait_until(deadline_after(patience), is_known).exit.clone();
        if exit.is_some() || !self.has_ended() {
            return exit;
        }
        let state = self.shared.wait_until(deadline_after(ACCOUNT_TIMEOUT), is_known);
        Some(state.exit.clone().unwrap_or_else(|| Exit::unknown(state.lines_since(None))))
    }

    /// Returns how the process ended, for an error; waits for that at most
    /// [`REPORT_GRACE`].
    pub(crate) fn exit_soon(&self) -> Option<Exit> {
        self.shared.wait_until(deadline_after(REPORT_GRACE), |state| state.exit.is_some()).exit.clone()
    }

    /// Returns whether the process has ended, though how may not be known yet.
    fn has_ended(&self) -> bool {
        // Under the lock, so that the process is not reaped meanwhile.
        let state = self.shared.lock();
        state.reaped || guarded::has_ended(self.pid)
    }

    /// Ends the process and its group: SIGTERM, `grace`, SIGKILL. Afterwards
    /// nothing is left of them.
    pub(crate) fn terminate(&self, grace: Duration) {
        if self.exit().is_none() {
            self.shared.signal(self.pid, Signal::TERM);
            if self.wait(grace).is_none() {
                tracing::warn!(pid = self.pid(), ?grace, "the plugin ignored SIGTERM: killing it");
                self.shared.signal(self.pid, Signal::KILL);
            }
        }
        drop(self.shared.wait_until(deadline_after(KILL_GRACE), |state| state.is_over));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.shared.signal(self.pid, Signal::KILL);
    }
}

/// Logs the plugin's output, and keeps its last lines.
fn pump_output(plugin: &str, output: PipeReader, shared: &Shared) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match read_line(&mut reader, &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = ekuiper_core::printable::one_line(text.trim_end());
        tracing::info!(target: "plugin", plugin, "{text}");
        let mut state = shared.lock();
        if state.tail.len() == TAIL_LINES {
            state.tail.pop_front();
        }
        state.tail.push_back((Instant::now(), shortened(text.into_owned())));
    }
    shared.lock().output_ended = true;
    shared.changed.notify_all();
}

fn shortened(mut line: String) -> String {
    if line.len() > MAX_TAIL_LINE {
        let end = (0..=MAX_TAIL_LINE).rev().find(|end| line.is_char_boundary(*end));
        line.truncate(end.unwrap_or(0));
        line.push('…');
    }
    line
}

/// Reads a line to its end, and keeps at most [`MAX_LINE`] bytes of it.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut total = 0;
    loop {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            return Ok(total);
        }
        let (used, done) = match available.iter().position(|byte| *byte == b'\n') {
            Some(position) => (position + 1, true),
            None => (available.len(), false),
        };
        let keep = used.min(MAX_LINE.saturating_sub(line.len()));
        line.extend_from_slice(&available[..keep]);
        reader.consume(used);
        total += used;
        if done {
            return Ok(total);
        }
    }
}

fn spawn_thread(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name).spawn(body).map(|_| ())
}
