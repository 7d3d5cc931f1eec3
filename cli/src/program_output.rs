//! Reading what a program writes until its end, a deadline or a signal.

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::interrupt::Interrupt;

/// Size of one read, in bytes.
const PIECE: usize = 64 << 10;

/// How far a program's output was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadUntil {
    /// To its end.
    End,
    /// As far as `take` wanted it.
    Enough,
    /// The deadline has passed, or a signal has arrived.
    CutOff,
}

/// Passes each piece of a program's output to `take`, which returns whether to
/// go on.
///
/// # Errors
/// The output cannot be read.
pub(crate) fn read(
    output: &mut PipeReader,
    deadline: Option<Instant>,
    interrupt: Option<&Interrupt>,
    mut take: impl FnMut(&[u8]) -> bool,
) -> io::Result<ReadUntil> {
    let mut piece = vec![0; PIECE];
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let watched = [Some(output.as_fd()), interrupt.map(Interrupt::fd)].into_iter().flatten();
        let mut watched: Vec<_> = watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut watched, timeout.as_ref()) {
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(0) => return Ok(ReadUntil::CutOff),
            Ok(_) if left.is_some_and(|left| left.is_zero()) => return Ok(ReadUntil::CutOff),
            Ok(_) if interrupt.is_some_and(Interrupt::is_set) => return Ok(ReadUntil::CutOff),
            Ok(_) => {}
        }
        match output.read(&mut piece)? {
            0 => return Ok(ReadUntil::End),
            count if take(&piece[..count]) => {}
            _ => return Ok(ReadUntil::Enough),
        }
    }
}
