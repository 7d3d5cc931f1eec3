//! What a plugin leaves behind when it has ended: processes, sockets and
//! temporary files.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, getpid, kill_process};

use super::report::{Area, Report};

/// Looks at a plugin while it runs, and afterwards.
pub(super) struct Leftovers {
    /// The sockets in `/tmp` before the start.
    sockets: HashSet<PathBuf>,
    /// The children of this process before the start.
    children: HashSet<i32>,
    /// Temporary files that the plugin has had open.
    files: HashSet<PathBuf>,
}

impl Leftovers {
    pub(super) fn before_start() -> Self {
        // Processes that outlive their parent become children of this one.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::set_child_subreaper(Some(getpid()));
        Self { sockets: sockets(), children: children().into_iter().collect(), files: HashSet::new() }
    }

    /// Notes the temporary files that the plugin's process has open.
    pub(super) fn look(&mut self, pid: Option<u32>) {
        let Some(pid) = pid else { return };
        let temporary = std::env::temp_dir();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let paths = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        self.files.extend(paths.filter(|path| path.parent() == Some(temporary.as_path())));
    }

    /// Reports what is left, after the plugin's end.
    pub(super) fn report(self, plugin: &str, symbols: &[String], rule: &str, report: &mut Report) {
        let own = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_symbols = |symbol: &String| name == format!("func_{symbol}.ipc");
            name == format!("plugin_{plugin}.ipc") || name.starts_with(rule) || symbols.iter().any(is_symbols)
        };
        let left = sockets().into_iter().filter(|path| !self.sockets.contains(path) && own(path));
        let files = self.files.into_iter().filter(|path| path.is_file());
        let mut left: Vec<_> = left.chain(files).collect();
        left.sort();
        for path in left {
            let text = "is left after the plugin's end";
            report.warning(Area::End, &path.display().to_string(), text, "remove it when the symbol is closed");
        }
        let mut orphans = HashSet::new();
        loop {
            let new: Vec<_> = children().into_iter().filter(|pid| !self.children.contains(pid)).collect();
            // The children of one that is killed become this process's in turn.
            let known = orphans.len();
            orphans.extend(new.iter().copied());
            if orphans.len() == known {
                break;
            }
            for pid in new.into_iter().filter_map(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            }
        }
        if !orphans.is_empty() {
            let what = if orphans.len() == 1 { "a process".into() } else { format!("{} processes", orphans.len()) };
            let text = format!("has left {what} running when it ended");
            report.error(Area::End, plugin, text, "end them in the symbols' close");
        }
    }
}

/// The sockets in the folder that eKuiper and its SDKs use.
fn sockets() -> HashSet<PathBuf> {
    let entries = fs::read_dir("/tmp").into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "ipc")).collect()
}

/// The living children of this process.
fn children() -> Vec<i32> {
    let own = getpid().as_raw_nonzero().get().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name, which may hold anything: state and parent.
        let mut fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
        fields.next().is_some_and(|state| state != "Z") && fields.next() == Some(&own)
    };
    pids.filter(is_child).collect()
}
