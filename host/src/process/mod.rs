//! A plugin's process: its start, its output and its end.

mod checksum;
pub(crate) mod command;
mod environment;
pub(crate) mod exit;
mod fork;
pub(crate) mod group;
pub(crate) mod guard;
pub(crate) mod guarded;
pub(crate) mod kin;
pub(crate) mod own_folder;

use std::collections::VecDeque;
use std::io::PipeWriter;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ekuiper_transport_ipc::platform::ProcessHandle;
use ekuiper_transport_ipc::wait::deadline_after;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitIdStatus, kill_process_group};

use crate::error::system_error;
use crate::plugin_log::{OutputReader, PluginLog, PluginOutput};
use crate::plugin_options::{PluginOptions, ProcessLimits};
use crate::sync::{lock, wait_while};
use crate::{Error, Result, Subject};
use command::CommandLine;
pub use exit::Exit;
use exit::LAST_WORDS;
use guarded::{GuardedProcess, NotStarted, Setup};

/// Number of a process's last lines that are kept for errors.
const TAIL_LINES: usize = 20;

/// Maximum length of a line in errors, in bytes; longer lines are cut.
const MAX_TAIL_LINE: usize = 512;

/// Maximum wait for the end of the output after the process's own end. Normally
/// it comes at once, but a child may have kept the pipe open.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);

/// Maximum time from the end of a process's connections, which is noticed
/// first, until the kernel [says](Process::is_ending) that the process ends.
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

/// Maximum time, at the end of a process, for its last lines to be delivered to
/// the engine's log, which may be slow.
const LOG_GRACE: Duration = Duration::from_secs(1);

/// A running process: one that the host has started, in a process group of its
/// own, or one that somebody else has.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    shared: Arc<Shared>,
    /// Of a process that somebody else has started: the host lets go of it when
    /// this is dropped, and never signals it.
    hold: Option<Mutex<Option<PipeWriter>>>,
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
    /// When the process has last said that it gets no more memory, though it is
    /// limited. The lines after that may be more than are kept.
    ran_out: Option<Instant>,
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
        self.lines_since(self.last_words_since(ended))
    }

    fn last_words_since(&self, ended: Instant) -> Option<Instant> {
        ended.checked_sub(LAST_WORDS).filter(|_| self.has_served)
    }

    /// Returns whether the process has said before its end that it gets no more
    /// memory.
    fn had_run_out(&self, ended: Instant) -> bool {
        self.ran_out.is_some_and(|at| self.last_words_since(ended).is_none_or(|since| at >= since))
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
        options: &PluginOptions,
        log: &PluginLog,
        on_exit: impl FnOnce(&Exit) + Send + 'static,
    ) -> Result<Self> {
        let refused = |resource| system_error(Subject::of_plugin(plugin), resource);
        let program = match &options.sha256 {
            Some(sha256) => line.open_checked(plugin, sha256)?,
            None => None,
        };
        let (clears_env, env, limits) = (options.clears_env, options.env.clone(), options.limits);
        let setup = Setup { clears_env, env, limits, program };
        let (output, writer) = std::io::pipe().map_err(refused("a pipe"))?;
        let second = writer.try_clone().map_err(refused("a pipe"))?;
        let mut started = GuardedProcess::start_with(&line.program, &line.args, &line.directory, setup, second, writer)
            .map_err(|failure| match failure {
                NotStarted::System(resource, error) => refused(resource)(error),
                NotStarted::Limit(problem) => Error::PluginOption { plugin: plugin.to_owned(), problem },
                NotStarted::Program(error) => line.cannot_start(plugin, error),
            })?;
        let pid = started.pid();
        tracing::debug!(plugin, pid = pid.as_raw_nonzero().get(), command = line.display(), "plugin started");

        // Without its threads the process cannot be supervised: it is killed on
        // drop.
        let shared = Arc::new(Shared::default());
        let lines = PluginOutput::new(log, plugin, pid.as_raw_nonzero().get().unsigned_abs());
        let (pump, log) = (shared.clone(), log.clone());
        spawn_thread(format!("{plugin}-output"), move || {
            pump_output(OutputReader::new(output, lines), limits, &pump);
        })
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
            let (tail, had_run_out) = (state.last_words(at), state.had_run_out(at));
            drop(state);
            let code = ended.as_ref().and_then(WaitIdStatus::exit_status);
            let signal = ended.as_ref().and_then(WaitIdStatus::terminating_signal);
            let exit = Exit { code, signal, memory_limit: limits.reached(had_run_out, code, signal), tail };
            tracing::debug!(plugin = name, %exit, "plugin ended");
            waiter.lock().exit = Some(exit.clone());
            waiter.changed.notify_all();
            on_exit(&exit);
            // Reaped last: on a busy machine the kernel may take half a second
            // for that, and nothing is to wait meanwhile.
            waiter.lock().reaped = true;
            let _ = started.reap();
            log.flush(LOG_GRACE);
            waiter.lock().is_over = true;
            waiter.changed.notify_all();
        })
        .map_err(refused("a thread"))?;
        Ok(Self { pid, shared, hold: None })
    }

    /// Watches a process that somebody else has started. `on_exit`
    /// is called once, from another thread, when it has ended, or the host lets
    /// go of it.
    pub(crate) fn attach(
        plugin: &str,
        pid: Pid,
        handle: ProcessHandle,
        on_exit: impl FnOnce(&Exit) + Send + 'static,
    ) -> Result<Self> {
        let refused = |resource| system_error(Subject::of_plugin(plugin), resource);
        let (let_go, hold) = std::io::pipe().map_err(refused("a pipe"))?;
        let shared = Arc::new(Shared::default());
        let waiter = shared.clone();
        spawn_thread(format!("{plugin}-exit"), move || {
            let mut fds = [PollFd::new(&handle, PollFlags::IN), PollFd::new(&let_go, PollFlags::IN)];
            while let Err(Errno::INTR) = poll(&mut fds, None) {}
            let exit = Exit::unknown(String::new());
            waiter.lock().exit = Some(exit.clone());
            waiter.changed.notify_all();
            on_exit(&exit);
            let mut state = waiter.lock();
            (state.reaped, state.is_over) = (true, true);
            waiter.changed.notify_all();
        })
        .map_err(refused("a thread"))?;
        Ok(Self { pid, shared, hold: Some(Mutex::new(Some(hold))) })
    }

    /// Returns whether somebody else has started the process.
    pub(crate) fn is_attached(&self) -> bool {
        self.hold.is_some()
    }

    /// Returns the processes whose work is the plugin's.
    pub(crate) fn members(&self) -> Vec<u32> {
        // A person's shell or debugger may lead the group.
        if self.is_attached() { vec![self.pid()] } else { group::members(self.pid()) }
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

    /// Waits for the end of a process that has closed a connection; `None` if it
    /// goes on.
    pub(crate) fn wait_after_disconnect(&self) -> Option<Exit> {
        self.wait(EXIT_GRACE).or_else(|| if self.is_ending() { self.wait(KILL_GRACE) } else { None })
    }

    /// Returns whether the kernel is ending the process: on a busy machine its
    /// end may come long after that of its connections.
    pub(crate) fn is_ending(&self) -> bool {
        group::is_ending(self.pid())
    }

    /// Returns how the process ended, for an error; waits for that at most
    /// [`REPORT_GRACE`].
    pub(crate) fn exit_soon(&self) -> Option<Exit> {
        self.shared.wait_until(deadline_after(REPORT_GRACE), |state| state.exit.is_some()).exit.clone()
    }

    /// Returns whether the process has ended, though how may not be known yet.
    pub(crate) fn has_ended(&self) -> bool {
        if self.is_attached() {
            // How it ended is never known, so the end is known at once.
            return self.exit().is_some();
        }
        // Under the lock, so that the process is not reaped meanwhile.
        let state = self.shared.lock();
        state.reaped || guarded::has_ended(self.pid)
    }

    /// Ends the process and its group: SIGTERM, `grace`, SIGKILL. Afterwards
    /// nothing is left of them. The host only lets go of a process that somebody
    /// else has started: for it, the process has ended.
    pub(crate) fn terminate(&self, grace: Duration) {
        if let Some(hold) = &self.hold {
            lock(hold).take();
        } else if self.exit().is_none() {
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
        if !self.is_attached() {
            self.shared.signal(self.pid, Signal::KILL);
        }
    }
}

/// Reads the plugin's output to its end, and keeps its last lines.
fn pump_output(mut output: OutputReader, limits: ProcessLimits, shared: &Shared) {
    while let Some(line) = output.next_line() {
        let has_run_out = limits.is_told_by(&line);
        let mut state = shared.lock();
        if has_run_out {
            state.ran_out = Some(Instant::now());
        }
        if state.tail.len() == TAIL_LINES {
            state.tail.pop_front();
        }
        state.tail.push_back((Instant::now(), shortened(line)));
    }
    shared.lock().output_ended = true;
    shared.changed.notify_all();
    output.finish();
}

fn shortened(mut line: String) -> String {
    if line.len() > MAX_TAIL_LINE {
        let end = (0..=MAX_TAIL_LINE).rev().find(|end| line.is_char_boundary(*end));
        line.truncate(end.unwrap_or(0));
        line.push('…');
    }
    line
}

fn spawn_thread(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name).spawn(body).map(|_| ())
}
