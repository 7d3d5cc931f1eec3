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

use std::io;
use std::os::fd::AsFd;

use ekuiper_core::transport::{Options, PeerProcess};
use rustix::process::{Pid, getpgid};

use crate::platform;

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
    platform::peer(socket.as_fd())
}

/// The peer process of a connected Unix socket, in any pid namespace. A
/// descriptor that is not a socket has no identifiable peer.
pub fn peer_process(socket: impl AsFd) -> PeerProcess {
    match peer(&socket) {
        Ok(Some(pid)) => PeerProcess::Pid(pid),
        Ok(None) => PeerProcess::Elsewhere(platform::peer_inode(socket.as_fd())),
        Err(_) => PeerProcess::Elsewhere(None),
    }
}

/// Whether the peer process of a connected socket is admitted by these options.
pub fn is_admitted(socket: impl AsFd, options: &Options) -> bool {
    let Some(admission) = &options.admission else { return true };
    admission.admits(peer_process(socket))
}

/// The parent of a process; `None` when there is no such process, or its parent
/// is in another pid namespace.
pub fn parent(process: u32) -> Option<u32> {
    platform::parent(process)
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
