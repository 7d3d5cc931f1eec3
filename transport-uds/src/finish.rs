//! Finishing a frame that was begun, when whoever sends it has no time left.
//!
//! A long message to a peer that reads slowly can only be cut off with its
//! connection. So a call whose deadline passes in the middle of one leaves the
//! rest to a thread, which is made for it and ends with it: the message counts
//! as accepted, like one that is in the kernel's buffer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::link::Link;
use ekuiper_transport_ipc::wait::wait_for;

/// Sends `rest` on `link`, which takes no other frame until then. Ends the
/// connection when the peer pauses for `stall`.
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
            // The connection's end, on whichever side, ends this wait too.
            Err(Errno::AGAIN) => {
                let give_up = Instant::now().checked_add(stall);
                wait_for(&mut [PollFd::new(link, PollFlags::OUT)], give_up).map_err(|_| Errno::TIMEDOUT)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
