//! Execution of the faults of a plan.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::sync::lock;
use ekuiper_host::{Host, PluginState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, pidfd_send_signal, prlimit, setrlimit,
};

use crate::findings::Findings;
use crate::plan::{Fault, Stranger};
use crate::post::{Post, Role, STEADY};
use crate::record::{CALLS, MESSAGES};
use crate::stage::STABLE_AFTER;
use crate::target::{Age, Target};
use crate::{shortage, survey};

/// Time for a plugin to be restored before the run fails, however busy the
/// machine.
pub(crate) const BACK_BY: Duration = Duration::from_secs(30);

/// Time for a plugin to be restored after a kill during its start, or while the
/// host could not start it: including the host's pause, ten times the promise.
const BACK_FROM_START_BY: Duration = Duration::from_secs(10);

/// Interval for polling states that no event reports.
const LOOK: Duration = Duration::from_millis(2);

/// Carries out faults on one plugin of a host.
pub(crate) struct Injector<'a> {
    pub(crate) host: &'a Host,
    pub(crate) target: &'a Target,
    pub(crate) posts: &'a [Arc<Post>],
    pub(crate) findings: &'a Findings,
}

/// A process of the plugin, safe from a reuse of its id.
struct Victim {
    pid: u32,
    fd: OwnedFd,
    age: Age,
}

impl Injector<'_> {
    /// Injects a fault, and reverts what can be reverted.
    pub(crate) fn inject(&self, fault: Fault) {
        self.findings.count(format!("fault: {} ({})", name(fault), self.target.who), "");
        match fault {
            Fault::Kill => self.kill(Signal::KILL),
            Fault::Terminate => self.kill(Signal::TERM),
            Fault::Stop(time) => {
                let Some(victim) = self.victim() else { return };
                self.target.stops.fetch_add(1, Ordering::SeqCst);
                victim.signal(Signal::STOP);
                pause(time);
                victim.signal(Signal::CONT);
                self.target.stops.fetch_add(1, Ordering::SeqCst);
            }
            Fault::StopAndKill(time) => {
                let Some(victim) = self.victim() else { return };
                victim.signal(Signal::STOP);
                pause(time);
                self.end(&victim, Signal::KILL);
            }
            Fault::KillAgain(time) => self.kill_again(time),
            Fault::Ambush(time) => {
                let Some(victim) = self.victim() else { return };
                let paths = vec![self.target.name.clone().into(), self.folder(&victim)];
                let ambush = self.visitor(Stranger::Ambush, time, &paths);
                self.end(&victim, Signal::KILL);
                ambush.into_iter().for_each(|ambush| self.hear(ambush));
            }
            Fault::Shortage(time) => self.run_short(time),
            Fault::CrashLoop(kills) => (0..kills).for_each(|_| self.kill(Signal::KILL)),
            Fault::DeleteSockets => drop(self.delete_sockets()),
            Fault::DeleteSocketsAndKill => {
                if let Some(victim) = self.delete_sockets() {
                    self.end(&victim, Signal::KILL);
                }
            }
            Fault::Visit(stranger, time) => {
                let Some(victim) = self.victim() else { return };
                let visitor = self.visitor(stranger, time, &self.sockets(&victim));
                visitor.into_iter().for_each(|visitor| self.hear(visitor));
            }
            Fault::DiskFull(time) => self.fill_disk(time),
            Fault::SlowSinks(time) => self.each(Role::Sink, |post| post.tell_to_pause(time)),
            Fault::SlowReader(time) => self.each(Role::Source, |post| post.tell_to_pause(time)),
            Fault::Reopen => self.posts.iter().for_each(|post| post.tell_to_reopen()),
            Fault::ReopenAndKill(time) => {
                self.posts.iter().for_each(|post| post.tell_to_reopen());
                pause(time);
                self.kill(Signal::KILL);
            }
        }
    }

    fn each(&self, role: Role, tell: impl Fn(&Post)) {
        self.posts.iter().filter(|post| post.role == role).for_each(|post| tell(post));
    }

    /// Returns the process, once it serves.
    fn victim(&self) -> Option<Victim> {
        let give_up = Instant::now() + BACK_BY;
        while Instant::now() < give_up {
            if let Some(victim) = self.running() {
                return Some(victim);
            }
            std::thread::sleep(LOOK);
        }
        self.findings.violation(format!("plugin {} does not serve after {BACK_BY:?}", self.target.who));
        None
    }

    fn running(&self) -> Option<Victim> {
        let status = self.host.status(&self.target.name).ok()?;
        let pid = status.pid.filter(|_| status.state == PluginState::Running)?;
        let fd = pidfd_open(Pid::from_raw(pid.try_into().ok()?)?, PidfdFlags::empty()).ok()?;
        // The id is still the process's, now that it cannot be reused.
        let again = self.host.pid(&self.target.name)?;
        let age = if status.since >= STABLE_AFTER { Age::Stable } else { Age::Young };
        (again == pid).then_some(Victim { pid, fd, age })
    }

    fn kill(&self, signal: Signal) {
        if let Some(victim) = self.victim() {
            self.end(&victim, signal);
        }
    }

    /// Ends a process, and waits until the next one serves.
    fn end(&self, victim: &Victim, signal: Signal) {
        self.send_off(victim, signal);
        self.await_return(BACK_BY);
    }

    /// Ends a process.
    fn send_off(&self, victim: &Victim, signal: Signal) {
        // A graceful end takes time, and is not a crash to be noticed.
        self.target.kill(victim.pid, signal == Signal::KILL, victim.age, STEADY);
        victim.signal(signal);
        victim.await_end();
        self.target.died();
    }

    /// Waits until the next process serves.
    fn await_return(&self, patience: Duration) {
        let give_up = Instant::now() + patience;
        while !self.target.is_restored() {
            if Instant::now() >= give_up {
                self.findings.violation(format!("plugin {} is not back after {patience:?}", self.target.who));
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Ends a process, and its successor before that has served.
    fn kill_again(&self, time: u64) {
        let Some(victim) = self.victim() else { return };
        self.send_off(&victim, Signal::KILL);
        let give_up = Instant::now() + BACK_BY;
        let next = loop {
            if let Some(next) = self.successor(victim.pid) {
                break next;
            }
            if Instant::now() >= give_up {
                self.findings.violation(format!("plugin {} is not started after {BACK_BY:?}", self.target.who));
                return;
            }
            std::thread::sleep(LOOK);
        };
        pause(time);
        // The successor may have been restored already.
        let restored = self.target.is_restored();
        let age = if restored { Age::Young } else { Age::Starting };
        self.send_off(&Victim { age, ..next }, Signal::KILL);
        self.await_return(BACK_FROM_START_BY);
    }

    /// Returns a process of the plugin that is not `former`, as soon as there
    /// is one.
    fn successor(&self, former: u32) -> Option<Victim> {
        let executable = self.target.folder.to_string_lossy();
        let pid = survey::pids_with(&executable).into_iter().find(|pid| *pid != former)?;
        let fd = pidfd_open(Pid::from_raw(pid.try_into().ok()?)?, PidfdFlags::empty()).ok()?;
        // Still the same process.
        survey::pids_with(&executable).contains(&pid).then_some(Victim { pid, fd, age: Age::Starting })
    }

    /// Exhausts the descriptors of the host, which is this process, for a
    /// while, and kills the plugin meanwhile: not a fault of the plugin.
    fn run_short(&self, time: u64) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = lock(&ONE_AT_A_TIME);
        let Some(victim) = self.victim().filter(|victim| victim.age == Age::Stable) else { return };
        let all = getrlimit(Resource::Nofile);
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
        self.target.is_short.store(true, Ordering::SeqCst);
        shortage::change();
        let limited = setrlimit(Resource::Nofile, Rlimit { current: Some(open + time % 8), ..all });
        // The restart takes as long as the shortage.
        self.send_off(&Victim { age: Age::Young, ..victim }, Signal::KILL);
        pause(time);
        if limited.and_then(|()| setrlimit(Resource::Nofile, all)).is_err() {
            self.findings.violation("the limit of descriptors cannot be changed");
        }
        shortage::change();
        self.await_return(BACK_FROM_START_BY);
        self.target.is_short.store(false, Ordering::SeqCst);
    }

    /// Starts a stranger: a process that is neither the host's nor the
    /// plugin's.
    fn visitor(&self, stranger: Stranger, time: u64, paths: &[PathBuf]) -> Option<Child> {
        self.findings.count("strangers", "");
        let own = std::env::current_exe().ok()?;
        let command = &mut Command::new(own);
        command.arg("stranger").arg(format!("{stranger:?}")).arg(time.to_string()).args(paths);
        // Without descriptors no stranger is started.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()
    }

    /// Waits until a stranger has ended, and reads what it received.
    fn hear(&self, visitor: Child) {
        let heard = visitor.wait_with_output().map(|output| output.stdout).unwrap_or_default();
        for line in String::from_utf8_lossy(&heard).lines() {
            self.findings.violation(format!("a stranger got what is for plugin {}: {line}", self.target.who));
        }
    }

    /// Returns the folder of the plugin's sockets, if not `/tmp`.
    fn folder(&self, victim: &Victim) -> PathBuf {
        survey::told_folder(victim.pid).unwrap_or_else(|| "/tmp".into())
    }

    /// Returns the plugin's and its host's sockets, wherever they are.
    fn sockets(&self, victim: &Victim) -> Vec<PathBuf> {
        let mut sockets = survey::sockets_in(Path::new("/tmp"), &self.target.name);
        if let Some(folder) = survey::told_folder(victim.pid) {
            sockets.extend(survey::sockets_in(&folder, &self.target.name));
        }
        sockets
    }

    fn delete_sockets(&self) -> Option<Victim> {
        let victim = self.victim()?;
        self.target.deletions.fetch_add(1, Ordering::SeqCst);
        for path in self.sockets(&victim) {
            let _ = std::fs::remove_file(path);
        }
        Some(victim)
    }

    /// Limits the file size, which needs no root: one more part of an entry
    /// fits, then every write fails.
    fn fill_disk(&self, time: u64) {
        let Some(victim) = self.victim() else { return };
        let length = |file| std::fs::metadata(self.target.folder.join(file)).map_or(0, |file| file.len());
        let limit = length(CALLS).min(length(MESSAGES)) + 30;
        let all = getrlimit(Resource::Fsize);
        self.target.fillings.fetch_add(1, Ordering::SeqCst);
        victim.limit(Rlimit { current: Some(limit), ..all });
        pause(time);
        victim.limit(all);
        self.target.fillings.fetch_add(1, Ordering::SeqCst);
    }
}

impl Victim {
    fn signal(&self, signal: Signal) {
        // The process may have ended by itself.
        let _ = pidfd_send_signal(&self.fd, signal);
    }

    fn await_end(&self) {
        let patience = Timespec { tv_sec: BACK_BY.as_secs() as i64, tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&patience));
    }

    fn limit(&self, limit: Rlimit) {
        // No system call for this takes a descriptor. The id is the process's
        // own until the host has noticed its end, and while signals reach it.
        if pidfd_send_signal(&self.fd, Signal::CONT).is_ok() {
            let _ = prlimit(Pid::from_raw(self.pid as i32), Resource::Fsize, limit);
        }
    }
}

fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// Returns a fault's name, without its numbers.
fn name(fault: Fault) -> String {
    fault.to_string().split(|c: char| c.is_ascii_digit()).next().unwrap_or_default().trim().to_owned()
}
