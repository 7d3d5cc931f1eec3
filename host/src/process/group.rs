//! What the kernel reports of a plugin's process group, without the plugin's
//! cooperation: whether it does anything, and whether one of its processes is
//! ending.

use std::collections::HashMap;
use std::str::FromStr;

/// Positions in a process's `stat`, after its name, which may contain anything.
const GROUP: usize = 2;
const FLAGS: usize = 6;
const RESIDENT_PAGES: usize = 21;

/// Kernel flag of a thread that is ending (`PF_EXITING`), set before its
/// descriptors are closed.
const EXITING: u32 = 4;

/// Returns a field of the `stat` of a process or a thread.
fn field<T: FromStr>(folder: &str, place: usize) -> Option<T> {
    let stat = std::fs::read_to_string(format!("{folder}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(place)?.parse().ok()
}

/// Returns whether the kernel says that a process is ending. Meanwhile its
/// connections end one after the other, the last ones first.
pub(crate) fn is_ending(process: u32) -> bool {
    field(&format!("/proc/{process}"), FLAGS).is_some_and(|flags: u32| flags & EXITING != 0)
}

/// Returns whether a process is known to be the only one of its group, and not
/// to be ending: not if the host has no descriptor to find out.
pub(crate) fn lives_alone(leader: u32) -> bool {
    let is_alone = processes().is_some_and(|processes| among(processes, leader).eq([leader]));
    is_alone && field(&format!("/proc/{leader}"), FLAGS).is_some_and(|flags: u32| flags & EXITING == 0)
}

/// Returns the processes of the group led by `leader`.
pub(crate) fn members(leader: u32) -> Vec<u32> {
    processes().map_or_else(|| vec![leader], |processes| among(processes, leader).collect())
}

/// Returns those of some processes that are of the group led by `leader`.
fn among(processes: impl Iterator<Item = (u32, String)>, leader: u32) -> impl Iterator<Item = u32> {
    processes.filter(move |(_, folder)| field(folder, GROUP) == Some(leader)).map(|(pid, _)| pid)
}

/// Returns the resident memory of a process and its descendants, in bytes;
/// `None` if the process has ended. Other processes of the machine are not
/// looked at, however many there are.
pub(crate) fn resident(process: u32) -> Option<u64> {
    let pages = |pid: u32| field::<u64>(&format!("/proc/{pid}"), RESIDENT_PAGES);
    let mut resident = pages(process)?;
    let mut parents = vec![process];
    while let Some(parent) = parents.pop() {
        for child in children(parent) {
            // One that has ended meanwhile has none.
            resident += pages(child).unwrap_or_default();
            parents.push(child);
        }
    }
    Some(resident * rustix::param::page_size() as u64)
}

/// Returns the children of a process.
fn children(process: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Returns all processes, with their folders; `None` if they cannot be listed.
fn processes() -> Option<impl Iterator<Item = (u32, String)>> {
    let entries = std::fs::read_dir("/proc").ok()?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Some(pids.map(|pid: u32| (pid, format!("/proc/{pid}"))))
}

/// Activity counter of a set of processes.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// How often and how long each thread has run.
    pub(crate) turns: HashMap<String, String>,
    /// A thread runs, wants to run, or waits for a disk.
    pub(crate) is_working: bool,
    /// A signal or a debugger has stopped a thread, for no lack of work.
    pub(crate) is_stopped: bool,
}

pub(crate) fn activity(members: &[u32]) -> Activity {
    // Where nothing is reported, a process is taken for working.
    let mut activity = Activity { is_working: cfg!(not(target_os = "linux")), ..Activity::default() };
    for pid in members {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let read = |name: &str| std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            let stat = read("stat");
            let is_in = |states: [char; 2]| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(states));
            activity.is_working |= is_in(['R', 'D']);
            activity.is_stopped |= is_in(['T', 't']);
            activity.turns.insert(thread.path().display().to_string(), read("schedstat"));
        }
    }
    activity
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpid};
    use std::os::unix::process::CommandExt;
    use std::time::{Duration, Instant};

    #[test]
    #[allow(clippy::disallowed_methods)] // it does not outlive this test
    fn without_descriptors_no_process_is_known_to_live_alone() {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "process::group::tests::in_a_process_of_its_own", "--ignored"]);
        let output = command.process_group(0).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    #[ignore = "another test runs it, in a process of its own"]
    fn in_a_process_of_its_own() {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let own = std::process::id();
        assert!(lives_alone(own));
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, rustix::process::Rlimit { current: Some(64), ..limit }).unwrap();
        let taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        assert!(!lives_alone(own));
        drop(taken);
        assert!(lives_alone(own));
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // it does not outlive this test
    fn the_memory_of_descendants_counts() {
        let script = "sh -c 'sleep 1000 & wait' & sleep 1000 & wait";
        let mut command = std::process::Command::new("sh");
        let mut child = command.args(["-c", script]).process_group(0).spawn().unwrap();
        let give_up = Instant::now() + Duration::from_secs(20);
        let all = loop {
            let all = members(child.id());
            if all.len() == 4 {
                break all;
            }
            assert!(Instant::now() < give_up, "{all:?}");
        };
        let of = |pid: u32| resident(pid).unwrap();
        // One that does not execute its program yet has little or no memory.
        let is_more_than_each = || {
            let whole = of(child.id());
            all.iter().filter(|pid| **pid != child.id()).all(|pid| (1..whole).contains(&of(*pid)))
        };
        while !is_more_than_each() {
            assert!(Instant::now() < give_up, "the whole has no more than a part");
        }
        let mut descendants = children(child.id());
        descendants.extend(descendants.clone().into_iter().flat_map(children));
        assert_eq!(descendants.len(), 3);
        kill_process_group(Pid::from_child(&child), Signal::KILL).unwrap();
        child.wait().unwrap();
        assert_eq!(resident(child.id()), None);
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // it does not outlive this test
    fn a_process_that_a_signal_has_stopped_is_not_at_rest() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let now = |child: &std::process::Child| activity(&[child.id()]);
        let give_up = Instant::now() + Duration::from_secs(20);
        while now(&child).is_working {
            assert!(Instant::now() < give_up, "it does not sleep");
        }
        kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
        waitpid(Some(Pid::from_child(&child)), WaitOptions::UNTRACED).unwrap();
        let now = now(&child);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(now.is_stopped && !now.is_working);
    }
}
