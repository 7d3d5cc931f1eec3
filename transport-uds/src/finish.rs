//! Writes the rest of a frame whose sender's deadline has passed.
//!
//! A long message to a slow peer can only be cut off by closing its connection.
//! So if a call's deadline passes in the middle of one, a temporary thread
//! writes the rest: the message counts as accepted, like one in the kernel's
//! buffer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::link::Link;
use ekuiper_transport_ipc::wait::wait_for;

/// Writes `rest` to `link` on a new thread; until it is done, the link takes no
/// other frame. Closes the connection if the peer pauses for `stall`.
pub(crate) fn in_background(link: Arc<Link>, rest: Vec<u8>, stall: Duration) -> std::io::Result<()> {
    std::thread::Builder::new().name("ekuiper-finish".into()).spawn(move || match finish(&link, &rest, stall) {
        Ok(()) => link.finished(),
        Err(reason) => {
            tracing::debug!(connection = link.id.0, %reason, "connection closed in the middle of a message");
            link.cut_off();
        }
    })?;
    Ok(())
}

fn finish(link: &Link, mut rest: &[u8], stall: Duration) -> Result<(), Errno> {
    while !rest.is_empty() {
        match link.send(rest, &[]) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::INTR) => {}
            // This wait also ends when either side closes the connection.
            Err(Errno::AGAIN) => {
                let give_up = Instant::now().checked_add(stall);
                wait_for(&mut [PollFd::new(link, PollFlags::OUT)], give_up).map_err(|_| Errno::TIMEDOUT)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
