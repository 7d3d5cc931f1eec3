//! Processes and sockets as the system sees them.

use std::path::{Path, PathBuf};

/// Returns the socket files in a folder whose name contains `part`.
pub(crate) fn sockets_in(folder: &Path, part: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".ipc") && name.contains(part)
    };
    entries.filter(is_one).collect()
}

/// Returns other processes whose command line contains `part`.
pub(crate) fn processes_with(part: &str) -> Vec<String> {
    found(part).into_iter().map(|(pid, line)| format!("process {pid}: {line}")).collect()
}

/// Returns the ids of processes whose command line contains `part`.
pub(crate) fn pids_with(part: &str) -> Vec<u32> {
    found(part).into_iter().map(|(pid, _)| pid).collect()
}

fn found(part: &str) -> Vec<(u32, String)> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if pid != own && line.contains(part) {
            found.push((pid, line));
        }
    }
    found
}

/// Returns the socket folder that a plugin on our SDK was given in the last
/// argument of its command line.
pub(crate) fn told_folder(pid: u32) -> Option<PathBuf> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let last = line.strip_suffix(b"\0")?.rsplit(|byte| *byte == 0).next()?;
    let told: serde_json::Value = serde_json::from_slice(last).ok()?;
    Some(told["ipcDir"].as_str()?.into())
}

/// Resource usage of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) rss_kib: u64,
    pub(crate) dirty_kib: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> std::io::Result<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let memory = std::fs::read_to_string(process.join("smaps_rollup"))?;
        let status = std::fs::read_to_string(process.join("status"))?;
        Ok(Self {
            rss_kib: field(&memory, "Rss:"),
            dirty_kib: field(&memory, "Private_Dirty:"),
            descriptors: std::fs::read_dir(process.join("fd"))?.count() as u64,
            threads: field(&status, "Threads:"),
        })
    }
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_kib > 100 && usage.dirty_kib > 10 && usage.descriptors >= 3 && usage.threads >= 1);
        assert!(usage.dirty_kib <= usage.rss_kib);
    }
}
