//! The end of a sink in one process: the wait until everything that was sent
//! is known to have been collected.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::transport::TransportError;

use super::acks::Receipt;
use super::connection::SinkConnection;
use crate::options::Options;
use crate::process::group::{activity, members};
use crate::process::{EXIT_GRACE, Exit};

/// How often it is looked whether the wait is over for another reason than
/// progress.
const SLICE: Duration = Duration::from_millis(50);

/// How long a sink of an official SDK may take from the answer to its start,
/// which comes before its `open`, until it takes messages.
const OPENING: Duration = Duration::from_secs(2);

/// For how long a process must do nothing to be at rest, how often that is
/// looked at, and for how long at most.
const REST: Duration = Duration::from_millis(150);
const REST_LOOK: Duration = Duration::from_millis(15);
const MAX_REST: Duration = Duration::from_secs(2);

/// How many messages an official SDK has read at most and not dealt with: in
/// Go one that is read, those in the socket's queue (mangos, `protocol/xpull`:
/// 128), and one in `Collect`. Python's has fewer.
const MAX_HELD: u64 = 130;

/// How long a wait may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Until when at most.
    until: Instant,
    /// For how long at most while nothing changes.
    stall: Duration,
}

impl Patience {
    /// As the host's options say.
    pub(crate) fn of(options: &Options) -> Self {
        let now = Instant::now();
        let far = now + Duration::from_secs(365 * 86_400);
        Self { until: now.checked_add(options.drain_timeout).unwrap_or(far), stall: options.drain_stall }
    }

    /// So long, whatever happens.
    pub(crate) fn only(patience: Duration) -> Self {
        Self { until: Instant::now() + patience, stall: patience }
    }

    /// Until when the wait may be.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }
}

/// Why a wait was broken off.
#[derive(Debug)]
pub(crate) enum Unsettled {
    /// Nothing has changed for too long.
    Stalled,
    /// It has taken too long.
    Late,
    /// The process has ended.
    Exited(Exit),
    /// A connection has ended in the process, which lives.
    Disconnected,
    /// Nobody is to wait any more.
    Over,
    /// A channel cannot be used.
    Failed(TransportError),
}

/// What a plugin is known to have dealt with that does not tell that: what its
/// process had read when it came to rest, once it has answered the stop that
/// came after. It may have gone on with anything else, or have died with it.
#[derive(Default)]
pub(crate) struct Proof {
    /// How many messages it had been sent when the wait before its stop was
    /// over.
    awaited: AtomicU64,
    /// How many are known to be dealt with, or were written off.
    settled: AtomicU64,
}

impl Proof {
    /// The plugin has answered the stop, and lives.
    fn stopped(&self) {
        self.settled.fetch_max(self.awaited.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// How many of the `read` messages may not have been dealt with; none of
    /// them when it is asked again.
    fn write_off(&self, read: u64) -> u64 {
        read.saturating_sub(self.settled.swap(read, Ordering::SeqCst)).min(MAX_HELD)
    }
}

impl SinkConnection {
    /// Waits until every message has been collected, as far as the plugin tells
    /// that; else until it was read. `is_over` ends the wait.
    pub(crate) fn settle(&self, patience: Patience, is_over: impl Fn() -> bool) -> Result<(), Unsettled> {
        let mut left = (u64::MAX, None);
        let mut progress = Instant::now();
        loop {
            // Before it is looked at what has come of it.
            let exit = self.running.process.exit();
            if exit.is_some() {
                self.read_reports();
            }
            if self.owed() == 0 {
                break;
            }
            let now = Instant::now();
            let still = (self.owed(), self.unread());
            if still != left {
                (left, progress) = (still, now);
            }
            match exit {
                Some(exit) => return Err(Unsettled::Exited(exit)),
                None if is_over() => return Err(Unsettled::Over),
                None if now >= patience.until => return Err(Unsettled::Late),
                None if now.duration_since(progress) >= patience.stall => return Err(Unsettled::Stalled),
                None => self.settle_on((now + SLICE).min(patience.until))?,
            }
        }
        Ok(())
    }

    /// The same before the sink is stopped: where the plugin does not tell what
    /// it has collected, its process is given time to deal with what it has
    /// read.
    pub(crate) fn settle_to_stop(&self, patience: Patience, is_over: impl Fn() -> bool) -> Result<(), Unsettled> {
        self.settle(patience, &is_over)?;
        if self.receipt == Receipt::Read && self.sent() > 0 {
            self.await_rest(patience, is_over)?;
            self.proof.awaited.store(self.sent(), Ordering::SeqCst);
        }
        Ok(())
    }

    /// The plugin has answered the sink's stop.
    pub(crate) fn has_answered_stop(&self) {
        // One that has ended since may have ended before it was done.
        if self.running.process.wait(Duration::ZERO).is_none() {
            self.proof.stopped();
        }
    }

    /// No more will be known: what was only read, and is not known to have been
    /// dealt with, was not collected.
    pub(crate) fn write_off(&self) {
        if self.receipt == Receipt::Read {
            self.acks.takes_back(self.proof.write_off(self.acks.known()));
        }
    }

    /// Waits for news, at most until then.
    fn settle_on(&self, deadline: Instant) -> Result<(), Unsettled> {
        let looked = match self.receipt {
            Receipt::Read => self.look(deadline).map(|_| ()),
            Receipt::Ack | Receipt::Report => self.listen(deadline),
        };
        match looked {
            Ok(()) | Err(TransportError::Timeout) => Ok(()),
            // A process that ends closes its channels first.
            Err(error) => match (self.running.process.wait(EXIT_GRACE), error) {
                (Some(_), _) => Ok(()),
                (None, TransportError::Disconnected) => Err(Unsettled::Disconnected),
                (None, error) => Err(Unsettled::Failed(error)),
            },
        }
    }

    /// Reads the next acknowledgement or report.
    fn listen(&self, deadline: Instant) -> Result<(), TransportError> {
        // What is not sent is not collected. Where the connection is gone, the
        // rest is not collected either, and what was may still be told.
        if let Err(TransportError::Timeout) = self.dispatch(deadline) {
            return Err(TransportError::Timeout);
        }
        let acks = &self.acks;
        // Another thread that reads does so for all.
        let Some(mut reading) = acks.reading.lock(deadline) else { return Ok(()) };
        if reading.peers.is_over() || reading.peers.has_nobody() && !self.is_connected() {
            return Err(TransportError::Disconnected);
        }
        acks.receive(&mut reading, deadline).map(|_| ())
    }

    /// Notes that everything was read, if that is so by the deadline; whether
    /// it is.
    ///
    /// # Errors
    /// The connection has ended: what it had not read is lost.
    pub(crate) fn look(&self, deadline: Instant) -> Result<bool, TransportError> {
        let sent = self.sent();
        match self.flush(Some(deadline)) {
            Ok(()) => {}
            Err(TransportError::Timeout) => return Ok(false),
            Err(error) => return Err(error),
        }
        // Whoever has gone reads no more, and another has not read it either.
        if !self.is_connected() {
            return Err(TransportError::Disconnected);
        }
        self.acks.reached(sent);
        Ok(true)
    }

    /// Waits until the sink can have been opened and the plugin's process does
    /// nothing: what it has read it has dealt with by then, unless it waits for
    /// something else meanwhile. One that never rests, since it has more to do
    /// than this sink, is waited for no longer than [`MAX_REST`]. No more can be
    /// known of an official SDK.
    fn await_rest(&self, patience: Patience, is_over: impl Fn() -> bool) -> Result<(), Unsettled> {
        let process = &self.running.process;
        let pause = || match process.wait(REST_LOOK) {
            Some(exit) => Err(Unsettled::Exited(exit)),
            None if is_over() => Err(Unsettled::Over),
            None if Instant::now() >= patience.until => Err(Unsettled::Late),
            None => Ok(()),
        };
        while self.started.elapsed() < OPENING {
            pause()?;
        }
        let give_up = Instant::now() + MAX_REST;
        let members = members(process.pid());
        let (mut before, mut since) = (activity(&members), Instant::now());
        while since.elapsed() < REST && Instant::now() < give_up {
            pause()?;
            let now = activity(&members);
            if now.is_busy || now != before {
                (before, since) = (now, Instant::now());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_proven_is_written_off_once() {
        let proof = Proof::default();
        proof.awaited.store(10, Ordering::SeqCst);
        // Its stop was not answered.
        assert_eq!([proof.write_off(10), proof.write_off(10)], [10, 0]);
        proof.awaited.store(20, Ordering::SeqCst);
        proof.stopped();
        assert_eq!([proof.write_off(20), proof.write_off(1000)], [0, MAX_HELD]);
    }
}
