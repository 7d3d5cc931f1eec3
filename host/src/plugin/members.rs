//! Further processes of a plugin, the members of its function pools. Each is a
//! plugin with a lifecycle and a socket folder of its own, which lives as long
//! as a pool uses it. The plugin itself is member 0.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use ekuiper_core::Chain;

use super::running::Running;
use super::{Origin, Plugin};
use crate::catalog::Package;
use crate::process::own_folder::OwnFolder;
use crate::status::{EventKind, MemberStatus, MemberTotals};
use crate::sync::lock;
use crate::{Error, Result};

/// The further processes of a plugin.
#[derive(Default)]
pub(super) struct Members(Mutex<State>);

#[derive(Default)]
struct State {
    /// Those in use, and those that are being ended.
    processes: Vec<Arc<MemberProcess>>,
    /// Those in use.
    leases: HashMap<usize, Weak<Member>>,
    /// What those that were ended have done.
    ended: MemberTotals,
    /// The plugin has ended, or is ending.
    is_over: bool,
}

/// A further process of a plugin.
struct MemberProcess {
    number: usize,
    plugin: Arc<Plugin>,
    /// Removed after the process.
    folder: Mutex<Option<OwnFolder>>,
    /// Why the last start failed.
    start_error: Mutex<Option<Error>>,
}

impl MemberProcess {
    /// Ends the process, or waits until another thread has.
    fn end(&self, end: impl FnOnce(&Arc<Plugin>)) {
        end(&self.plugin);
        drop(lock(&self.folder).take());
    }

    fn status(&self) -> MemberStatus {
        let status = self.plugin.status();
        MemberStatus {
            member: self.number,
            state: status.state,
            since: status.since,
            pid: status.pid,
            generation: status.generation,
            restarts: status.restarts,
            uptime: status.uptime,
            resident: status.resident,
            last_exit: status.last_exit,
            start_error: lock(&self.start_error).as_ref().map(|error| Chain(error).to_string()),
        }
    }
}

/// Use of a further process of a plugin, which ends with the last use.
pub(crate) struct Member {
    process: Arc<MemberProcess>,
    /// The plugin itself.
    first: Arc<Plugin>,
}

impl Member {
    pub(crate) fn plugin(&self) -> &Arc<Plugin> {
        &self.process.plugin
    }

    /// Records the outcome of a start, and reports a failure that the process's
    /// lifecycle does not report itself.
    pub(crate) fn note_start(&self, outcome: Result<(), &Error>) {
        match outcome {
            Ok(()) => *lock(&self.process.start_error) = None,
            // Its lifecycle has reported why.
            Err(
                Error::Away { .. }
                | Error::Broken { .. }
                | Error::Stopping { .. }
                | Error::Updating { .. }
                | Error::Stopped,
            ) => {}
            Err(error) => {
                *lock(&self.process.start_error) = Some(error.clone());
                self.first.tell_member_failure(self.process.number, error);
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let (first, process) = (self.first.clone(), self.process.clone());
        // After the calls in flight, which a shutdown of the host ends.
        self.first.site.background.run(move || {
            process.end(Plugin::remove);
            let mut state = lock(&first.members.0);
            state.ended += process.plugin.own_totals();
            state.processes.retain(|other| !Arc::ptr_eq(other, &process));
        });
    }
}

impl Plugin {
    /// Returns a further process, by its number from 1: that which other pools
    /// use, or a new one, which is started when it is needed.
    ///
    /// # Errors
    /// [`Error::Stopped`]; the socket folder cannot be created.
    pub(crate) fn member(self: &Arc<Self>, number: usize) -> Result<Arc<Member>> {
        let mut state = lock(&self.members.0);
        if state.is_over {
            return Err(Error::Stopped);
        }
        if let Some(member) = state.leases.get(&number).and_then(Weak::upgrade) {
            return Ok(member);
        }
        let (site, folder) = self.site.for_member(number)?;
        // Under the lock, which an update takes after it has changed this.
        let package = Package::clone(&lock(&self.inner).package);
        let plugin = Plugin::new(package, Origin::Started, site);
        let (folder, start_error) = (Mutex::new(Some(folder)), Mutex::default());
        let process = Arc::new(MemberProcess { number, plugin, folder, start_error });
        state.processes.push(process.clone());
        let member = Arc::new(Member { process, first: self.clone() });
        state.leases.insert(number, Arc::downgrade(&member));
        Ok(member)
    }

    /// Reports that a further process could not be started.
    pub(crate) fn tell_member_failure(&self, number: usize, error: &Error) {
        if !matches!(error, Error::Stopped) {
            let event = EventKind::StartFailed { error: Chain(error).to_string() };
            self.site.events.of_member(number).tell(self.name(), event);
        }
    }

    /// Returns whether several processes of the plugin can run at once: it takes
    /// its socket folder from the host, which starts it. True if no process of
    /// it runs.
    pub(crate) fn can_have_members(&self) -> bool {
        if self.origin == Origin::Attached {
            return false;
        }
        let is_own = |running: &Arc<Running>| running.folder == self.site.folder && !running.uses_official_sdk();
        lock(&self.inner).running.as_ref().is_none_or(is_own)
    }

    /// Returns the status of the further processes in use, sorted by number.
    pub(super) fn member_statuses(&self) -> Vec<MemberStatus> {
        // The last lease may be dropped here, so not under the lock.
        let mut used: Vec<_> = lock(&self.members.0).leases.values().filter_map(Weak::upgrade).collect();
        used.sort_by_key(|lease| lease.process.number);
        used.iter().map(|lease| lease.process.status()).collect()
    }

    /// Returns the number of restarts after a crash, with those of all further
    /// processes.
    pub(crate) fn all_restarts(&self) -> u64 {
        self.restarts() + self.member_totals().restarts
    }

    /// Returns what all further processes have done, ended ones included.
    pub(super) fn member_totals(&self) -> MemberTotals {
        let state = lock(&self.members.0);
        let mut totals = state.ended;
        state.processes.iter().for_each(|process| totals += process.plugin.own_totals());
        totals
    }

    /// Forgets the crashes of the further processes.
    pub(super) fn reset_members(&self) {
        self.processes().iter().for_each(|process| process.plugin.reset());
    }

    /// Ends the further processes for good, each in its own thread.
    pub(super) fn end_members(&self, end: impl Fn(&Arc<Plugin>) + Sync) {
        lock(&self.members.0).is_over = true;
        self.for_each_member(|process| process.end(&end));
    }

    /// Ends the further processes gracefully, until they are needed again.
    pub(super) fn stop_members(&self) {
        self.for_each_member(|process| {
            // It has ended for good.
            let _ = process.plugin.stop();
        });
    }

    /// Replaces the further processes by those of another version, which are
    /// started when they are needed.
    pub(crate) fn update_members(&self, package: &Package) {
        let package = Arc::new(package.clone());
        for process in self.processes() {
            lock(&process.plugin.inner).package = package.clone();
            process.plugin.forget_unused(&package);
        }
        self.stop_members();
    }

    fn processes(&self) -> Vec<Arc<MemberProcess>> {
        lock(&self.members.0).processes.clone()
    }

    /// Does this for all further processes at once.
    fn for_each_member(&self, work: impl Fn(&MemberProcess) + Sync) {
        let processes = self.processes();
        std::thread::scope(|scope| {
            for process in &processes {
                // Sequential where no more threads can be created.
                if std::thread::Builder::new().spawn_scoped(scope, || work(process)).is_err() {
                    work(process);
                }
            }
        });
    }
}
