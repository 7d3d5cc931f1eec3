//! What the operating system refuses: the shortages, with their remedies, and
//! the errors of what needed something.

use std::io;
use std::path::PathBuf;

use ekuiper_core::Chain;
use ekuiper_core::transport::TransportError;
use rustix::io::Errno;

use super::{Error, Subject};

/// Returns the error of a transport, with the channel it happened on.
pub(crate) fn transport_error(what: impl Into<Subject>) -> impl FnOnce(TransportError) -> Error {
    let what = what.into();
    move |source| match source {
        TransportError::Io { source, .. } if short_of(&source).is_some() => shortage(what, source),
        source => Error::Transport { what, source: source.into() },
    }
}

/// Returns the resource whose shortage the operating system reports with this
/// error, and its remedy.
fn short_of(error: &std::io::Error) -> Option<(&'static str, &'static str)> {
    const FILES: &str = "raise its limit of open files (ulimit -n, LimitNOFILE), or open less at a time";
    const SYSTEM_FILES: &str = "raise the machine's limit of open files (fs.file-max)";
    const MEMORY: &str = "raise its limit of memory (ulimit -v, memory.max), or start fewer plugins";
    const PROCESSES: &str = "raise its limit of processes and threads (ulimit -u, pids.max), or of memory, which their \
stacks need (ulimit -v), or start fewer plugins";
    match (Errno::from_io_error(error), error.kind()) {
        (Some(Errno::MFILE), _) => Some(("file descriptors", FILES)),
        (Some(Errno::NFILE), _) => Some(("file descriptors, as has the whole machine", SYSTEM_FILES)),
        (Some(Errno::NOMEM | Errno::NOBUFS), _) | (_, io::ErrorKind::OutOfMemory) => Some(("memory", MEMORY)),
        (Some(Errno::AGAIN), _) | (_, io::ErrorKind::WouldBlock) => Some(("processes or threads", PROCESSES)),
        _ => None,
    }
}

/// Returns the error of a shortage.
fn shortage(what: Subject, source: std::io::Error) -> Error {
    let (resource, remedy) = short_of(&source).unwrap_or(("resources", "see the system's error"));
    Error::Shortage { what, resource, remedy, source: source.into() }
}

/// Returns the error of something that the system refuses to `what`: a
/// shortage, or what `other` makes of it.
fn refused(what: Subject, source: std::io::Error, other: impl FnOnce(Subject, std::io::Error) -> Error) -> Error {
    match short_of(&source) {
        Some(_) => shortage(what, source),
        None => other(what, source),
    }
}

/// Returns the error of a failed start: a shortage, or what `other` makes of
/// it.
pub(crate) fn start_error(plugin: &str, source: std::io::Error, other: impl FnOnce(std::io::Error) -> Error) -> Error {
    refused(Subject::of_plugin(plugin).not_sent(), source, |_, source| other(source))
}

/// Returns the error of something that the system refuses: a shortage, or
/// [`Error::System`].
pub(crate) fn system_error(what: impl Into<Subject>, resource: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into().not_sent();
    move |source| refused(what, source, |what, source| Error::System { what, resource, source: source.into() })
}

/// Returns the error of a host that cannot be created: a shortage, or its
/// socket folder's.
pub(crate) fn folder_error(path: PathBuf) -> impl FnOnce(std::io::Error) -> Error {
    let what = Subject::from("the host cannot start").not_sent();
    move |source| refused(what, source, |_, source| Error::SocketFolder { path, source: source.into() })
}

/// Number of descriptors that a new connection takes, for a moment: its socket's
/// and its shared memory's.
const OF_A_CONNECTION: usize = 2;

impl Error {
    /// Returns whether the cause is a shortage of this host.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(self, Self::Shortage { .. })
    }

    /// Turns a start that was refused or not answered into a shortage, if this
    /// host has one now: without file descriptors it accepts no connection, and
    /// a plugin that is not connected starts nothing.
    pub(crate) fn or_shortage(self) -> Self {
        if !matches!(self, Self::Refused { .. } | Self::Timeout { .. }) {
            return self;
        }
        let some: std::io::Result<Vec<_>> = (0..OF_A_CONNECTION).map(|_| std::fs::File::open("/dev/null")).collect();
        match some {
            Err(source) if short_of(&source).is_some() => {
                let what = Subject::from(Chain(&self).to_string());
                let about = self.plugin().map(|plugin| what.clone().about(plugin, self.symbol()));
                shortage(about.unwrap_or(what), source)
            }
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ErrorKind;
    use super::*;

    /// A refused thread has many causes; the folder is not one of them.
    #[test]
    fn a_hosts_shortage_is_not_its_folders_fault() {
        for (number, limits) in
            [(libc::EAGAIN, ["ulimit -u", "ulimit -v"]), (libc::EMFILE, ["ulimit -n", "LimitNOFILE"])]
        {
            let error = folder_error("/tmp".into())(std::io::Error::from_raw_os_error(number)).to_string();
            assert!(limits.iter().all(|limit| error.contains(limit)) && !error.contains("ipc_dir"), "{error}");
        }
        let error = folder_error("/tmp".into())(std::io::Error::from_raw_os_error(libc::EACCES)).to_string();
        assert!(error.contains("ipc_dir"), "{error}");
    }

    #[test]
    fn what_the_system_refuses_is_no_fault_of_a_folder_or_a_program() {
        let refused = |number| {
            let error = system_error("the host", "an event queue")(std::io::Error::from_raw_os_error(number));
            (error.kind(), Chain(&error).to_string())
        };
        let (kind, text) = refused(libc::EPERM);
        assert_eq!(kind, ErrorKind::System);
        assert!(text.starts_with("the host cannot get an event queue: Operation not permitted"), "{text}");
        assert_eq!(refused(libc::EMFILE).0, ErrorKind::Shortage);
    }
}
