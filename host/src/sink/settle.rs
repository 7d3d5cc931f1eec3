//! Draining a sink in one process: the wait until everything sent is known to
//! have been collected.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ekuiper_core::transport::TransportError;
use ekuiper_transport_ipc::wait::deadline_after;

use super::acks::Receipt;
use super::connection::SinkConnection;
use super::work::{Looks, ProcessWork};
use crate::options::Options;
use crate::process::Exit;
use crate::process::group::activity;

/// Interval of the check whether the wait is over for another reason than
/// progress.
const SLICE: Duration = Duration::from_millis(50);

/// Maximum time of a sink on an official SDK from the answer to its start,
/// which precedes its `open`, until it takes messages.
const OPENING: Duration = Duration::from_secs(2);

/// Time without activity after which a process counts as idle; `REST_LOOK` is
/// the interval of the check, `MAX_REST` the maximum wait for a process that
/// only wakes up now and then, or that has other sources or sinks.
const REST: Duration = Duration::from_millis(150);
const REST_LOOK: Duration = Duration::from_millis(15);
const MAX_REST: Duration = Duration::from_secs(2);

/// Limits of a wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Deadline.
    until: Instant,
    /// Maximum time without progress.
    stall: Duration,
}

impl Patience {
    /// Returns the limits of the host's options.
    pub(crate) fn of(options: &Options) -> Self {
        Self { until: deadline_after(options.drain_timeout), stall: options.drain_stall }
    }

    /// Returns a limit of the total time only.
    pub(crate) fn only(patience: Duration) -> Self {
        Self { until: deadline_after(patience), stall: patience }
    }

    /// Returns the deadline.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }
}

/// Why a wait ended early.
#[derive(Debug)]
pub(crate) enum Unsettled {
    /// No progress for too long.
    Stalled,
    /// The deadline has passed.
    Late,
    /// The process has ended.
    Exited(Exit),
    /// A connection has ended in a live process.
    Disconnected,
    /// The wait was given up.
    Over,
    /// A channel cannot be used.
    Failed(TransportError),
}

impl SinkConnection {
    /// Waits until every message has been collected, or only read if the plugin
    /// does not report more. `is_over` ends the wait.
    pub(crate) fn settle(&self, patience: Patience, is_over: impl Fn() -> bool) -> Result<(), Unsettled> {
        let mut left = (u64::MAX, None);
        let mut progress = Instant::now();
        let mut work = None;
        loop {
            // Before the results of the process are checked.
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
            } else if self.is_known_by_its_work()
                && work.get_or_insert_with(|| ProcessWork::new(&self.running)).goes_on(now)
            {
                progress = now;
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

    /// Waits as `settle` before the sink is stopped. If the plugin does not
    /// report what it has collected, gives its process time to process what it
    /// has read.
    pub(crate) fn settle_to_stop(&self, patience: Patience, is_over: impl Fn() -> bool) -> Result<(), Unsettled> {
        self.settle(patience, &is_over)?;
        if self.receipt == Receipt::Read && self.sent() > 0 {
            self.await_rest(patience, is_over)?;
            // A sink that has failed closes its channel itself, with what it
            // has read and not processed.
            if !self.is_connected() {
                return match self.running.process.wait_after_disconnect() {
                    Some(exit) => Err(Unsettled::Exited(exit)),
                    None => Err(Unsettled::Disconnected),
                };
            }
            self.proof.awaited.store(self.sent(), Ordering::SeqCst);
        }
        Ok(())
    }

    /// Records that the plugin has answered the sink's stop.
    pub(crate) fn mark_stop_answered(&self) {
        // A process that has ended since may have ended before it was done.
        if self.running.process.wait(Duration::ZERO).is_none() {
            self.proof.stopped();
        }
    }

    /// Writes off the messages that were only read, and are not known to be
    /// processed, once nothing more will be known.
    pub(crate) fn write_off(&self) {
        if self.receipt == Receipt::Read {
            self.acks.takes_back(self.proof.write_off(self.acks.known()));
        }
    }

    /// Waits for news, at most until the deadline.
    fn settle_on(&self, deadline: Instant) -> Result<(), Unsettled> {
        let looked = match self.receipt {
            Receipt::Read => self.look(deadline).map(|_| ()),
            Receipt::Ack | Receipt::Report => self.listen(deadline),
        };
        match looked {
            Ok(()) | Err(TransportError::Timeout) => Ok(()),
            // A process that ends closes its channels first.
            Err(error) => match (self.running.process.wait_after_disconnect(), error) {
                (Some(_), _) => Ok(()),
                (None, TransportError::Disconnected) => Err(Unsettled::Disconnected),
                (None, error) => Err(Unsettled::Failed(error)),
            },
        }
    }

    /// Reads the next acknowledgement or report.
    fn listen(&self, deadline: Instant) -> Result<(), TransportError> {
        // A message that is not sent is not collected. If the connection is
        // gone, the rest is not collected either, but earlier messages may
        // still be reported.
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

    /// Checks by the deadline whether everything was read, and records it.
    ///
    /// # Errors
    /// The connection has ended: what was not read is lost.
    pub(crate) fn look(&self, deadline: Instant) -> Result<bool, TransportError> {
        let sent = self.sent();
        match self.flush(Some(deadline)) {
            Ok(()) => {}
            Err(TransportError::Timeout) => return Ok(false),
            Err(error) => return Err(error),
        }
        // A disconnected peer reads no more, and no other peer has read it.
        if !self.is_connected() {
            return Err(TransportError::Disconnected);
        }
        self.acks.reached(sent);
        Ok(true)
    }

    /// Returns whether the work of the plugin's process is progress of this
    /// sink: the plugin tells nothing else, or has no other source or sink.
    fn is_known_by_its_work(&self) -> bool {
        self.receipt == Receipt::Read || self.has_the_process_to_itself()
    }

    fn has_the_process_to_itself(&self) -> bool {
        self.running.runs_only(&self.control)
    }

    /// Waits until the sink can have been opened and the plugin's process is
    /// idle: what it has read is processed by then, unless it waits for
    /// something else meanwhile. A process that only wakes up now and then, or
    /// that has other sources or sinks, may never be idle: it is waited for at
    /// most [`MAX_REST`]. No more can be known of an official SDK.
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
        let give_up = deadline_after(MAX_REST);
        let members = process.members();
        let (mut before, mut since) = (activity(&members), Instant::now());
        let mut looks = Looks::default();
        let is_at_work = |looks: &Looks| self.has_the_process_to_itself() && looks.are_at_work();
        while since.elapsed() < REST && (Instant::now() < give_up || is_at_work(&looks)) {
            pause()?;
            let now = activity(&members);
            looks.add(now.is_working);
            if now.is_working || now.is_stopped || now != before {
                (before, since) = (now, Instant::now());
            }
        }
        Ok(())
    }
}
