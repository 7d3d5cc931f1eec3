//! The machine, and the resource usage of processes, as the kernel reports
//! them.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::{Error, Result};

/// Unit of CPU time in proc(5): a hundredth of a second on every machine that
/// Linux has been ported to recently.
const USER_HZ: f64 = 100.0;

/// The machine of a report.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processor name.
    pub processor: String,
    /// Number of usable processors.
    pub processors: usize,
    /// Kernel version.
    pub kernel: String,
    /// Load average over the minute before the measurement: the number of
    /// processes that wanted to run.
    pub load_before: f64,
}

impl Machine {
    /// Returns this machine, now.
    pub fn here() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processor = text("/proc/cpuinfo")
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()))
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        Self {
            processor,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: text("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }
}

/// Resource usage of some processes up to now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time of all their threads, in seconds.
    pub cpu: f64,
    /// Number of waits of their live threads.
    pub waits: u64,
}

impl Usage {
    /// Returns the usage of this process and those of `pids`.
    ///
    /// # Errors
    /// One of them is not alive.
    pub fn with(pids: &[u32]) -> Result<Self> {
        let mut sum = Self::default();
        for pid in pids.iter().chain([&std::process::id()]) {
            let usage = Self::of(*pid)?;
            sum.cpu += usage.cpu;
            sum.waits += usage.waits;
        }
        Ok(sum)
    }

    /// Returns the usage since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self { cpu: self.cpu - before.cpu, waits: self.waits.saturating_sub(before.waits) }
    }

    /// Returns the usage of one process.
    ///
    /// # Errors
    /// It is not alive.
    pub fn of(pid: u32) -> Result<Self> {
        Self::read(pid).map_err(Error::io(format!("read what process {pid} has used")))
    }

    fn read(pid: u32) -> std::io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // utime and stime are fields 14 and 15; the name before may contain
        // spaces.
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        let mut waits = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end meanwhile.
            let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
            waits += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
        }
        Ok(Self { cpu: ticks as f64 / USER_HZ, waits })
    }
}

/// Returns the resident memory of a process, in MiB.
///
/// # Errors
/// The process is not alive.
pub fn resident_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.map_err(Error::io(format!("read the memory of process {pid}")))?;
    Ok(field(&status, "VmRSS:").unwrap_or(0) as f64 / 1024.0)
}

/// Returns the number of this process's threads.
///
/// # Errors
/// `/proc` cannot be read.
pub fn threads() -> Result<usize> {
    entries("/proc/self/task")
}

/// Returns the number of this process's descriptors.
///
/// # Errors
/// `/proc` cannot be read.
pub fn descriptors() -> Result<usize> {
    entries("/proc/self/fd")
}

fn entries(folder: &str) -> Result<usize> {
    Ok(fs::read_dir(folder).map_err(Error::io(format!("read {folder}")))?.count())
}

/// Returns the size of a file, in MiB.
///
/// # Errors
/// The file does not exist.
pub fn file_mib(path: &Path) -> Result<f64> {
    let found = fs::metadata(path).map_err(Error::io(format!("read {}", path.display())))?;
    Ok(found.len() as f64 / (1 << 20) as f64)
}

fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let before = Usage::with(&[]).unwrap();
        let began = std::time::Instant::now();
        let mut sum = 0u64;
        while began.elapsed().as_millis() < 60 {
            sum = sum.wrapping_mul(31).wrapping_add(7);
        }
        std::thread::yield_now();
        let used = Usage::with(&[]).unwrap().since(&before);
        assert!(used.cpu > 0.0, "{used:?} {sum}");
        assert!(resident_mib(std::process::id()).unwrap() > 0.5);
        assert!(Usage::with(&[u32::MAX]).is_err());
    }

    #[test]
    fn the_machine_says_what_it_is() {
        let machine = Machine::here();
        assert!(machine.processors > 0 && !machine.kernel.is_empty() && !machine.processor.is_empty(), "{machine:?}");
    }
}
