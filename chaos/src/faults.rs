//! Carrying out the faults of a plan.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_host::{Host, PluginState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, pidfd_send_signal, prlimit};

use crate::findings::Findings;
use crate::plan::Fault;
use crate::post::{Post, ROLES, Role};
use crate::record::{CALLS, MESSAGES};
use crate::stage::STABLE_AFTER;
use crate::target::Target;
use crate::{strangers, survey};

/// How long a plugin may take to be back before the run has failed, on however
/// busy a machine.
pub(crate) const BACK_BY: Duration = Duration::from_secs(30);

/// How often a state is looked at of which no event tells.
const LOOK: Duration = Duration::from_millis(2);

/// Carries out faults on one plugin of a host.
pub(crate) struct Injector<'a> {
    pub(crate) host: &'a Host,
    pub(crate) target: &'a Target,
    pub(crate) posts: &'a [Arc<Post>],
    pub(crate) findings: &'a Findings,
}

/// A process of the plugin: nobody else, however its number is used again.
struct Victim {
    pid: u32,
    fd: OwnedFd,
    /// It has served for long.
    is_stable: bool,
}

impl Injector<'_> {
    /// Does it, and undoes what can be undone.
    pub(crate) fn inject(&self, fault: Fault) {
        self.findings.count(format!("fault: {} ({})", name(fault), self.target.who), "");
        match fault {
            Fault::Kill => self.kill(Signal::KILL),
            Fault::Terminate => self.kill(Signal::TERM),
            Fault::Stop(time) => {
                let Some(victim) = self.victim() else { return };
                victim.signal(Signal::STOP);
                pause(time);
                victim.signal(Signal::CONT);
            }
            Fault::StopAndKill(time) => {
                let Some(victim) = self.victim() else { return };
                victim.signal(Signal::STOP);
                pause(time);
                self.end(&victim, Signal::KILL);
            }
            Fault::CrashLoop(kills) => (0..kills).for_each(|_| self.kill(Signal::KILL)),
            Fault::DeleteSockets => drop(self.delete_sockets()),
            Fault::DeleteSocketsAndKill => {
                if let Some(victim) = self.delete_sockets() {
                    self.end(&victim, Signal::KILL);
                }
            }
            Fault::Visit(stranger, time) => {
                let Some(victim) = self.victim() else { return };
                std::thread::scope(|scope| {
                    for path in self.sockets(&victim) {
                        scope.spawn(move || {
                            strangers::visit(&path, stranger, Duration::from_millis(time), self.findings);
                        });
                    }
                });
            }
            Fault::DiskFull(time) => self.fill_disk(time),
            Fault::SlowSinks(time) => self.each(Role::Sink, |post| post.tell_to_pause(time)),
            Fault::SlowReader(time) => self.each(Role::Source, |post| post.tell_to_pause(time)),
            Fault::Reopen => self.posts.iter().for_each(|post| post.tell_to_reopen()),
            Fault::ReopenAndKill => {
                self.posts.iter().for_each(|post| post.tell_to_reopen());
                self.kill(Signal::KILL);
            }
        }
    }

    fn each(&self, role: Role, tell: impl Fn(&Post)) {
        self.posts.iter().filter(|post| post.role == role).for_each(|post| tell(post));
    }

    /// The process, as soon as it serves.
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
        // Still its number, now that nobody else can get it.
        let again = self.host.pid(&self.target.name)?;
        (again == pid).then_some(Victim { pid, fd, is_stable: status.since >= STABLE_AFTER })
    }

    fn kill(&self, signal: Signal) {
        if let Some(victim) = self.victim() {
            self.end(&victim, signal);
        }
    }

    /// Ends it and waits until the next one serves.
    fn end(&self, victim: &Victim, signal: Signal) {
        // An orderly end takes its time: it is no crash to be noticed.
        self.target.kill(victim.pid, signal == Signal::KILL, victim.is_stable, ROLES.len());
        victim.signal(signal);
        victim.await_end();
        self.target.died();
        let give_up = Instant::now() + BACK_BY;
        while !self.target.is_restored() {
            if Instant::now() >= give_up {
                self.findings.violation(format!("plugin {} is not back after {BACK_BY:?}", self.target.who));
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Its own and its host's, wherever they are.
    fn sockets(&self, victim: &Victim) -> Vec<PathBuf> {
        let mut sockets = survey::sockets_in(Path::new("/tmp"), &self.target.name);
        if let Some(folder) = survey::told_folder(victim.pid) {
            sockets.extend(survey::sockets_in(&folder, &self.target.name));
        }
        sockets
    }

    fn delete_sockets(&self) -> Option<Victim> {
        let victim = self.victim()?;
        for path in self.sockets(&victim) {
            let _ = std::fs::remove_file(path);
        }
        Some(victim)
    }

    /// No root is needed to let a file grow no further: one more piece of an
    /// entry fits, then every write fails.
    fn fill_disk(&self, time: u64) {
        let Some(victim) = self.victim() else { return };
        let length = |file| std::fs::metadata(self.target.folder.join(file)).map_or(0, |file| file.len());
        let limit = length(CALLS).min(length(MESSAGES)) + 30;
        let all = getrlimit(Resource::Fsize);
        victim.limit(Rlimit { current: Some(limit), ..all });
        pause(time);
        victim.limit(all);
    }
}

impl Victim {
    fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&self.fd, signal);
    }

    fn await_end(&self) {
        let patience = Timespec { tv_sec: BACK_BY.as_secs() as i64, tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&patience));
    }

    fn limit(&self, limit: Rlimit) {
        // There is no call for this by descriptor. Its number is its own as
        // long as the host has not noticed its end, and a signal reaches it.
        if pidfd_send_signal(&self.fd, Signal::CONT).is_ok() {
            let _ = prlimit(Pid::from_raw(self.pid as i32), Resource::Fsize, limit);
        }
    }
}

fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// A fault without its numbers.
fn name(fault: Fault) -> String {
    fault.to_string().split(|c: char| c.is_ascii_digit()).next().unwrap_or_default().trim().to_owned()
}
