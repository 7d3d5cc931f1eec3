//! What differs between operating systems, in two forms of the same names: that
//! of Linux, which plugins run on, and that of macOS and the BSDs, where
//! authors develop them.
//!
//! Not here: what only a device needs, such as limits by cgroup. It is left out
//! elsewhere, where it is used.

#[cfg(not(target_os = "linux"))]
mod bsd;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(not(target_os = "linux"))]
use bsd as system;
#[cfg(target_os = "linux")]
use linux as system;

pub use system::{
    Flag, FolderWatch, NO_SIGNAL, ONLY_NAMES, PEER_CLOSED, Poller, ProcessHandle, RECEIVE_CLOSED, coarse_now,
    name_process, no_timer_slack, own_executable, process_name, random, rename_new, shared_memory, unread, unread_at,
};
pub(crate) use system::{parent, peer, peer_inode};

/// What a [`Poller`] waits for on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// There is something to read, or the peer has closed.
    Input,
    /// The same, or there is room to write.
    InputOrRoom,
    /// There is something to read, once: not again until the descriptor is [armed](Poller::arm).
    InputOnce,
    /// There is room to write, once.
    RoomOnce,
}

/// Maximum number of descriptors that one wait of a [`Poller`] reports.
pub const MAX_READY: usize = 16;
