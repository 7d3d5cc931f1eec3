//! The process at the other end of a connection, and how processes are related.
//!
//! The kernel records the process when the connection is made (`SO_PEERCRED`):
//! on the accepting side the one that called `connect`, on the dialling side
//! the one that called `listen`. A peer cannot change it by anything that it
//! sends, nor by forking, executing another program, or passing the socket on.
//!
//! A process id is valid only as long as the process lives: after it has ended
//! and its parent has reaped it, the kernel may reuse the id, though it hands
//! out all others first. So check a peer when its connection is made, and keep
//! the result, not the id.
//!
//! A peer in another pid namespace, which this one does not contain, has no
//! process id here. It is identified by a pidfd (`SO_PEERPIDFD`, Linux 6.5),
//! whose inode belongs to one process only (Linux 6.9).
//!
//! Process relations are read from `/proc`. If that is not mounted, or shows
//! another pid namespace, no process is another's descendant.
#![allow(unsafe_code)] // rustix takes the process number for one that is never 0, and has no SO_PEERPIDFD

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use ekuiper_core::transport::{Options, PeerProcess};
use rustix::fs::{fstat, fstatfs};
use rustix::process::{Pid, getpgid};

/// Maximum length of [`ancestors`]. A plugin has a handful of wrapper
/// processes.
const MAX_GENERATIONS: usize = 64;

/// The process id of the peer of a connected Unix socket. `None` when it has
/// none here: the peer is in another pid namespace, which this one does not
/// contain.
///
/// # Errors
/// The descriptor is not a socket.
pub fn peer(socket: impl AsFd) -> io::Result<Option<u32>> {
    let mut credentials = MaybeUninit::<libc::ucred>::zeroed();
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, and the target is that
    // large; it consists of plain numbers, zeroed before, and any bits are
    // valid.
    let (outcome, credentials) = unsafe {
        let place = credentials.as_mut_ptr().cast();
        let socket: c_int = socket.as_fd().as_raw_fd();
        let outcome = libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, place, &raw mut length);
        (outcome, credentials.assume_init())
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(credentials.pid).ok().filter(|pid| *pid != 0))
}

/// The peer process of a connected Unix socket, in any pid namespace. A
/// descriptor that is not a socket has no identifiable peer.
pub fn peer_process(socket: impl AsFd) -> PeerProcess {
    match peer(&socket) {
        Ok(Some(pid)) => PeerProcess::Pid(pid),
        Ok(None) => PeerProcess::Elsewhere(pidfd_inode(socket)),
        Err(_) => PeerProcess::Elsewhere(None),
    }
}

/// The inode of a pidfd of the peer process of a connected Unix socket; `None`
/// where the kernel has no such option, or gives all pidfds the same inode.
fn pidfd_inode(socket: impl AsFd) -> Option<u64> {
    /// The magic number of the file system whose inodes are processes
    /// (`PID_FS_MAGIC`).
    const PID_FS: u64 = 0x5049_4446;
    let mut pidfd: c_int = -1;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, and the target is that
    // large.
    let outcome = unsafe {
        let place = (&raw mut pidfd).cast();
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERPIDFD, place, &raw mut length)
    };
    if outcome != 0 || pidfd < 0 {
        return None;
    }
    // SAFETY: the kernel has just created it, and it has no other owner.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let is_own_inode = fstatfs(&pidfd).is_ok_and(|system| system.f_type as u64 == PID_FS);
    is_own_inode.then(|| fstat(&pidfd).ok().map(|status| status.st_ino)).flatten()
}

/// Whether the peer process of a connected socket is admitted by these options.
pub fn is_admitted(socket: impl AsFd, options: &Options) -> bool {
    let Some(admission) = &options.admission else { return true };
    admission.admits(peer_process(socket))
}

/// The parent of a process; `None` when there is no such process, or its parent
/// is in another pid namespace.
pub fn parent(process: u32) -> Option<u32> {
    if !is_proc_ours() {
        return None;
    }
    let stat = std::fs::read(format!("/proc/{process}/stat")).ok()?;
    parent_in(&stat)
}

/// Whether `/proc` shows this pid namespace: in a namespace created without its
/// own `/proc` it does not.
fn is_proc_ours() -> bool {
    static OURS: OnceLock<bool> = OnceLock::new();
    *OURS.get_or_init(|| {
        let own = std::fs::read_link("/proc/self");
        own.is_ok_and(|own| own.as_os_str() == std::process::id().to_string().as_str())
    })
}

/// Parses the parent out of a process's `stat`: its id, its name in
/// parentheses, which may contain parentheses itself, its state, and then its
/// parent.
fn parent_in(stat: &[u8]) -> Option<u32> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let parent = stat[name_end + 1..].split(|byte| *byte == b' ').filter(|field| !field.is_empty()).nth(1)?;
    str::from_utf8(parent).ok()?.parse().ok().filter(|parent| *parent != 0)
}

/// The parent of a process, the parent's parent, and so on, as far as visible;
/// at most 64.
pub fn ancestors(process: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(parent(process), |process| parent(*process)).take(MAX_GENERATIONS)
}

/// Whether a process was started by another one, directly or indirectly, and
/// every process between them still runs. No process is its own descendant.
pub fn is_descendant(process: u32, of: u32) -> bool {
    ancestors(process).any(|ancestor| ancestor == of)
}

/// Whether a process is in the process group that `leader` leads or led.
pub fn is_in_group(process: u32, leader: u32) -> bool {
    let number = |process: u32| i32::try_from(process).ok().and_then(Pid::from_raw);
    match (number(process), number(leader)) {
        (Some(process), Some(leader)) => getpgid(Some(process)) == Ok(leader),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process group that is killed on drop.
    struct Group(Child);

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = rustix::process::kill_process_group(Pid::from_child(&self.0), rustix::process::Signal::KILL);
            let _ = self.0.wait();
        }
    }

    /// Starts a shell in its own process group, which starts a child and prints
    /// its process id.
    fn shell(script: &str) -> (Group, u32) {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).stdout(Stdio::piped()).process_group(0);
        let mut group = Group(command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(group.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let child = line.trim().parse().unwrap();
        (group, child)
    }

    #[test]
    fn a_child_is_a_descendant_and_in_the_group_and_nobody_else_is() {
        let own = std::process::id();
        let (group, child) = shell("sleep 60 & echo $!; wait");
        let leader = group.0.id();
        assert_eq!(parent(child), Some(leader));
        assert_eq!(ancestors(child).take(2).collect::<Vec<_>>(), [leader, own]);
        assert!(is_descendant(child, leader) && is_descendant(child, own) && is_descendant(leader, own));
        assert!(!is_descendant(leader, child) && !is_descendant(leader, leader) && !is_descendant(own, leader));
        assert!(is_in_group(child, leader) && is_in_group(leader, leader));
        assert!(!is_in_group(own, leader) && !is_in_group(child, own));
        let (_other, stranger) = shell("sleep 60 & echo $!; wait");
        assert!(!is_descendant(stranger, leader) && !is_in_group(stranger, leader));
    }

    #[test]
    fn one_that_has_gone_is_nothing_to_anybody() {
        let (group, child) = shell("echo $$");
        assert_eq!(child, group.0.id());
        drop(group);
        assert_eq!((parent(child), ancestors(child).count()), (None, 0));
        assert!(!is_in_group(child, child) && !is_descendant(child, std::process::id()));
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_misleads_nobody() {
        assert_eq!(parent_in(b"7 (a) S 99 (b)) S 12 7 7 0"), Some(12));
        assert_eq!(parent_in(b"7 (a)  R 0 7"), None);
        assert_eq!(parent_in(b"7"), None);
    }

    #[test]
    fn the_peer_is_who_connected_and_who_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer");
        let listener = UnixListener::bind(&path).unwrap();
        let dialled = UnixStream::connect(&path).unwrap();
        assert_eq!(peer(&dialled).unwrap(), Some(std::process::id()));
        assert_eq!(peer(listener.accept().unwrap().0).unwrap(), Some(std::process::id()));
        let script = "import os, socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                      print(os.getpid(), flush=True)\nos.fork()\ns.recv(1)";
        let mut command = Command::new("python3");
        command.arg("-c").arg(script).arg(&path).stdout(Stdio::null()).process_group(0);
        let group = Group(command.spawn().unwrap());
        let accepted = listener.accept().unwrap().0;
        assert_eq!(peer(&accepted).unwrap(), Some(group.0.id()));
        drop(group);
        assert!(peer(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
