//! A plugin's process: its start, its output, its end.

pub(crate) mod command;
mod environment;
pub(crate) mod group;
mod guard;
pub(crate) mod guarded;
pub(crate) mod kin;
pub(crate) mod own_folder;
pub(crate) mod unstartable;

use std::collections::VecDeque;
use std::fmt;
use std::io::{BufRead, BufReader, PipeReader};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitIdStatus, kill_process_group};

use crate::{Result, printable};
use command::CommandLine;
use guarded::GuardedProcess;

/// How many of its last lines are kept for errors.
const TAIL_LINES: usize = 20;

/// What a process that had served wrote earlier than this before its end has
/// nothing to do with that.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(5);

/// The longest line that is logged whole, in bytes.
const MAX_LINE: usize = 4096;

/// The longest line that is whole in errors, in bytes.
const MAX_TAIL_LINE: usize = 512;

/// How long the end of the output is waited for after the process's own end.
/// It normally comes at once; a child may have taken the pipe elsewhere.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);

/// How long a process's end may follow that of its connections, which is
/// noticed first.
pub(crate) const EXIT_GRACE: Duration = Duration::from_millis(100);

/// How long the account of an end may take; a busy machine is slow with it.
const ACCOUNT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an error waits to be able to say how the process ended: that it
/// has is said within 100 ms.
const REPORT_GRACE: Duration = Duration::from_millis(50);

/// How long a process that is killed, and its guard, may take to be gone: they
/// are at once, unless the kernel holds the process in a call of its own.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// How a plugin's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exit {
    /// Its exit code, if it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// The last lines of its output, both streams. Of a process that had shaken
    /// hands: those of its last 5 seconds.
    pub tail: String,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (_, Some(signal)) => write!(f, "signal {signal}"),
            _ => f.write_str("exit status unknown"),
        }
    }
}

/// A running process, in a group of its own.
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
    /// Its last lines, and when they came.
    tail: VecDeque<(Instant, String)>,
    /// It has shaken hands.
    has_served: bool,
    output_ended: bool,
    /// Its number may be another process's.
    reaped: bool,
    exit: Option<Exit>,
    /// Its guard has ended too.
    is_over: bool,
}

impl State {
    /// What it has written that may tell of its end.
    fn last_words(&self, ended: Instant) -> String {
        self.lines_since(ended.checked_sub(LAST_WORDS).filter(|_| self.has_served))
    }

    fn lines_since(&self, since: Option<Instant>) -> String {
        let lines = self.tail.iter().filter(|(came, _)| since.is_none_or(|since| *came >= since));
        lines.map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }
}

impl Shared {
    /// Signals the group, unless its number may be another's by now.
    fn signal(&self, group: Pid, signal: Signal) {
        let state = self.lock();
        if !state.reaped {
            let _ = kill_process_group(group, signal);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, deadline: Instant, done: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(self.lock(), left, |state| !done(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Process {
    /// Starts a plugin. `on_exit` is called once, from another thread, when
    /// the process has ended and its end is known.
    pub(crate) fn spawn(
        plugin: &str,
        line: &CommandLine,
        on_exit: impl FnOnce(&Exit) + Send + 'static,
    ) -> Result<Self> {
        let fail = |source| line.cannot_start(plugin, source);
        let (output, writer) = std::io::pipe().map_err(fail)?;
        let second = writer.try_clone().map_err(fail)?;
        let mut started = GuardedProcess::start_with(&line.program, &line.args, &line.directory, None, second, writer)
            .map_err(|error| line.cannot_start(plugin, error))?;
        let pid = started.pid();
        tracing::debug!(plugin, pid = pid.as_raw_nonzero().get(), command = line.display(), "plugin started");

        // Without its threads it cannot be looked after: dropped, it is killed.
        let shared = Arc::new(Shared::default());
        let name = plugin.to_owned();
        let pump = shared.clone();
        spawn_thread(format!("{plugin}-output"), move || pump_output(&name, output, &pump)).map_err(fail)?;
        let name = plugin.to_owned();
        let waiter = shared.clone();
        spawn_thread(format!("{plugin}-exit"), move || {
            // Its end, while its number still names its group: whatever it
            // started itself goes with it.
            let ended = guarded::wait_for_end(pid);
            let at = Instant::now();
            started.end_group();
            let state = waiter.wait_until(Instant::now() + OUTPUT_GRACE, |state| state.output_ended);
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
            // Its number is given back last: on a busy machine the kernel may
            // take half a second for that, and nobody is to wait meanwhile.
            waiter.lock().reaped = true;
            let _ = started.reap();
            waiter.lock().is_over = true;
            waiter.changed.notify_all();
        })
        .map_err(fail)?;
        Ok(Self { pid, shared })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.shared.lock().exit.clone()
    }

    /// The last lines that it wrote.
    pub(crate) fn tail(&self) -> String {
        self.shared.lock().lines_since(None)
    }

    /// It has shaken hands: what it writes before is of its start.
    pub(crate) fn serves(&self) {
        self.shared.lock().has_served = true;
    }

    /// Waits for its end. When it has ended in time, how is waited for too: its
    /// last output may take a moment longer.
    pub(crate) fn wait(&self, patience: Duration) -> Option<Exit> {
        let is_known = |state: &State| state.exit.is_some();
        let exit = self.shared.wait_until(Instant::now() + patience, is_known).exit.clone();
        if exit.is_some() || !self.has_ended() {
            return exit;
        }
        self.shared.wait_until(Instant::now() + ACCOUNT_TIMEOUT, is_known).exit.clone()
    }

    /// How it ended, for the error of whoever was waiting for it: an account
    /// that takes longer than [`REPORT_GRACE`] is not waited for.
    pub(crate) fn exit_soon(&self) -> Option<Exit> {
        self.shared.wait_until(Instant::now() + REPORT_GRACE, |state| state.exit.is_some()).exit.clone()
    }

    /// Whether it has ended, though how may not be known yet.
    fn has_ended(&self) -> bool {
        // Under the lock: not while its number is given back.
        let state = self.shared.lock();
        state.reaped || guarded::has_ended(self.pid)
    }

    /// Ends it and its group: SIGTERM, `grace`, SIGKILL. Nothing is left of it
    /// then.
    pub(crate) fn terminate(&self, grace: Duration) {
        if self.exit().is_none() {
            self.shared.signal(self.pid, Signal::TERM);
            if self.wait(grace).is_none() {
                tracing::warn!(pid = self.pid(), ?grace, "the plugin ignored SIGTERM: killing it");
                self.shared.signal(self.pid, Signal::KILL);
            }
        }
        drop(self.shared.wait_until(Instant::now() + KILL_GRACE, |state| state.is_over));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.shared.signal(self.pid, Signal::KILL);
    }
}

/// Logs what the plugin writes, and keeps the last of it.
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
        let text = printable::one_line(text.trim_end());
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

/// Reads to the end of the line, and keeps at most [`MAX_LINE`] of it.
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
