//! What the kernel tells of a plugin's process group, without a word of the
//! plugin's: whether it does anything, and whether a process of it ends.

use std::collections::HashMap;
use std::str::FromStr;

/// Places in a process's `stat`, after its name, which may hold anything.
const GROUP: usize = 2;
const FLAGS: usize = 6;

/// The kernel's flag of a thread that ends (`PF_EXITING`): it has it before its
/// descriptors are closed.
const EXITING: u32 = 4;

/// A field of the `stat` of a process or a thread.
fn field<T: FromStr>(folder: &str, place: usize) -> Option<T> {
    let stat = std::fs::read_to_string(format!("{folder}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(place)?.parse().ok()
}

/// Whether a process is the only one of its group, and is not ending. While one
/// ends, its connections do so one after the other, and it can be seen to.
pub(crate) fn lives_alone(leader: u32) -> bool {
    members(leader) == [leader]
        && field(&format!("/proc/{leader}"), FLAGS).is_some_and(|flags: u32| flags & EXITING == 0)
}

/// The processes of the group that `leader` leads.
pub(crate) fn members(leader: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return vec![leader] };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| field(&format!("/proc/{pid}"), GROUP).is_some_and(|group: u32| group == leader)).collect()
}

/// How often the threads of some processes have run.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct Activity {
    turns: HashMap<String, String>,
    /// One runs just now, or wants to, or is kept from it.
    pub(crate) is_busy: bool,
}

pub(crate) fn activity(members: &[u32]) -> Activity {
    let mut activity = Activity::default();
    for pid in members {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let read = |name: &str| std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            let stat = read("stat");
            // `T`, `t`: it was stopped by a signal or a debugger, and not by
            // having nothing to do.
            let states = ['R', 'D', 'T', 't'];
            activity.is_busy |= stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(states));
            activity.turns.insert(thread.path().display().to_string(), read("schedstat"));
        }
    }
    activity
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
    use std::time::{Duration, Instant};

    #[test]
    #[allow(clippy::disallowed_methods)] // it does not outlive this test
    fn a_process_that_a_signal_has_stopped_is_not_at_rest() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let is_busy = |child: &std::process::Child| activity(&[child.id()]).is_busy;
        let give_up = Instant::now() + Duration::from_secs(20);
        while is_busy(&child) {
            assert!(Instant::now() < give_up, "it does not sleep");
        }
        kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
        waitpid(Some(Pid::from_child(&child)), WaitOptions::UNTRACED).unwrap();
        let is_busy = is_busy(&child);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_busy);
    }
}
