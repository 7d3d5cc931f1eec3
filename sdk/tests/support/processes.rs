//! The two processes of a supervised plugin.

use std::path::PathBuf;

use ekuiper_core::message::HANDSHAKE;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Asked, Channel, Plugin, wait_until};

/// All processes: the pid, the parent, and whether it is a zombie.
fn processes() -> Vec<(i32, i32, bool)> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        Some((pid, fields.next()?.parse().ok()?, state == "Z"))
    })
    .collect()
}

/// Whether a process lives.
pub fn lives(pid: i32) -> bool {
    processes().iter().any(|(other, _, ended)| *other == pid && !ended)
}

pub fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Stops a process, and waits until all its threads have stopped, which happens
/// one by one, a moment later.
pub fn freeze(pid: i32) {
    signal(pid, Signal::STOP);
    let is_stopped = |stat: &str| stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'));
    wait_until("all threads are stopped", || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads
            .filter_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")).ok())
            .all(|stat| is_stopped(&stat))
    });
}

/// The private dirty memory of a process, in KiB.
pub fn private_dirty(pid: i32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

impl Plugin {
    /// Starts a plugin whose symbols are run by a worker.
    pub fn supervised(settings: &[(&str, &str)]) -> Self {
        Self::start(&[settings, &[("UNRULY_SUPERVISED", "1")]].concat())
    }

    pub fn supervisor(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The supervisor's live children.
    pub fn workers(&self) -> Vec<i32> {
        let children = processes().into_iter().filter(|(_, parent, ended)| *parent == self.supervisor() && !ended);
        children.map(|(pid, ..)| pid).collect()
    }

    /// Waits for the worker and returns its pid.
    pub fn worker(&self) -> i32 {
        let mut workers = Vec::new();
        wait_until("there is a worker", || {
            workers = self.workers();
            !workers.is_empty()
        });
        assert_eq!(workers.len(), 1, "one worker");
        workers[0]
    }

    /// The number of the supervisor's zombie children.
    pub fn zombies(&self) -> usize {
        processes().iter().filter(|(_, parent, ended)| *parent == self.supervisor() && *ended).count()
    }

    /// Kills the worker, and waits until the supervisor has noticed.
    pub fn kill_worker(&self) -> i32 {
        let worker = self.worker();
        signal(worker, Signal::KILL);
        wait_until("the worker ends", || !processes().iter().any(|(pid, ..)| *pid == worker));
        worker
    }

    /// The names of the socket files.
    pub fn socket_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|end| end == "ipc")).collect()
    }
}

impl Channel {
    /// Calls as a stock engine does, which resends a call as long as the answer
    /// is a handshake. Also returns the number of times it did.
    pub fn call_stock(&mut self, call: &[u8]) -> (Result<Value, String>, usize) {
        self.send(call);
        let mut again = 0;
        loop {
            match self.next() {
                Asked::Gone => {}
                Asked::Request(answer) if answer == HANDSHAKE => {
                    again += 1;
                    self.send(call);
                }
                Asked::Request(answer) => {
                    let reply: Value = serde_json::from_slice(&answer).unwrap();
                    let result = match reply["state"].as_bool().unwrap() {
                        true => Ok(reply["result"].clone()),
                        false => Err(reply["result"].as_str().unwrap().to_owned()),
                    };
                    return (result, again);
                }
            }
        }
    }

    /// Waits for the handshake on the next connection.
    pub fn greeted_again(&mut self) {
        assert_eq!(self.next(), Asked::Gone);
        assert_eq!(self.next(), Asked::Request(HANDSHAKE.to_vec()));
    }
}
