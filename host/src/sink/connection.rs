//! The sending end of a sink, for one process of its plugin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::message::{Control, Feature};
use ekuiper_core::transport::{Deadline, Push, TransportError};
use ekuiper_transport_ipc::lock::{DeadlineLock, Waited};

use super::acks::{Acknowledged, Acks, Receipt};
use super::settle::Proof;
use super::tally::Tally;
use crate::channel::idle_reader::{Watch, Watched};
use crate::plugin::running::{Running, Stopped};
use crate::process::EXIT_GRACE;
use crate::sync::lock;
use crate::{Error, Result};

/// How often a sink's socket is looked at after its stop: nothing tells that a
/// file is gone.
const GONE_PAUSE: Duration = Duration::from_millis(1);

/// For how long at most the reports are read that have come: a stranger may
/// send without end.
const MAX_REPORTS: Duration = Duration::from_secs(1);

/// How long the report may take that follows a stop, where nobody waits for
/// the stop: it comes at once, unless the plugin hangs.
const STOP_REPORT: Duration = Duration::from_millis(500);

/// A sink in one process.
pub(crate) struct SinkConnection {
    pub(crate) running: Arc<Running>,
    pub(crate) receipt: Receipt,
    /// Whoever sends has it, until the acknowledgement.
    pub(crate) turn: DeadlineLock<()>,
    /// An ack did not come: later ones could be taken for it.
    is_broken: AtomicBool,
    push: Arc<dyn Push>,
    /// How many connections there had been when the first message was sent.
    connections: u64,
    pub(crate) acks: Arc<Acks>,
    pub(crate) proof: Proof,
    /// When its start was answered.
    pub(crate) started: Instant,
    data: Address,
    _watch: Watch,
}

impl SinkConnection {
    /// Starts the sink. The order is the protocol's: listen for acks, start,
    /// dial the data.
    pub(crate) fn start(
        running: &Arc<Running>,
        control: &Control,
        data: &Address,
        ack: &Address,
        what: &str,
        tally: &Arc<Tally>,
    ) -> Result<Arc<Self>> {
        let receipt = match control.requires_ack() {
            true => Receipt::Ack,
            false if running.has(Feature::Collected) => Receipt::Report,
            false => Receipt::Read,
        };
        let pull = running.scope.reports(ack).map_err(|source| running.channel_error(what.to_owned(), source))?;
        let acks = Arc::new(Acks::new(pull, receipt, tally.clone()));
        // Read from now on: a plugin may send much there before it answers the
        // start, acks of nothing for instance, and those must not fill the
        // channel (fault 10).
        let watch = running.site.idle_reader.watch(acks.clone());
        running.listens_at(data);
        if let Err(error) = running.start_symbol(control) {
            acks.pull.close();
            return Err(error);
        }
        let opened = running
            .scope
            .push(data)
            .and_then(|push| {
                push.connect(Some(Instant::now() + running.site.options.send_timeout))?;
                Ok(push)
            })
            .map_err(|source| match source {
                TransportError::Timeout => {
                    let (kind, symbol) = (control.plugin_type, &control.symbol_name);
                    let what = format!("{kind} {symbol}: it was started, and does not listen at {data}");
                    let after = running.site.options.send_timeout;
                    Error::Timeout { plugin: running.name.clone(), what, after }.or_shortage()
                }
                source => running.channel_error(what.to_owned(), source),
            });
        let push = match opened {
            Ok(push) => push,
            Err(error) => {
                let _ = running.stop_symbol(control, |patience| is_gone(running, data, patience));
                running.sweep();
                acks.pull.close();
                return Err(error);
            }
        };
        Ok(Arc::new(Self {
            running: running.clone(),
            receipt,
            connections: push.backlog().connections,
            started: Instant::now(),
            turn: DeadlineLock::default(),
            is_broken: AtomicBool::new(false),
            push,
            acks,
            proof: Proof::default(),
            data: data.clone(),
            _watch: watch,
        }))
    }

    /// Whether messages may still go to its process; if so, it may end at any
    /// time.
    pub(crate) fn is_current(&self) -> bool {
        !self.running.scope.is_over() && !self.running.is_left()
    }

    /// Whether an ack has not come.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::SeqCst)
    }

    /// An ack has not come.
    pub(crate) fn breaks(&self) {
        self.is_broken.store(true, Ordering::SeqCst);
    }

    /// Whether its process lives.
    pub(crate) fn is_alive(&self) -> bool {
        self.running.process.exit().is_none()
    }

    /// Sends a message; its number. With `in_company` it may wait a moment for
    /// others. Only who has the turn may.
    pub(crate) fn send(
        &self,
        message: &[u8],
        in_company: bool,
        deadline: Deadline,
    ) -> std::result::Result<u64, TransportError> {
        // Before: its ack may be read before this thread goes on.
        let number = self.sent() + 1;
        self.acks.sent.store(number, Ordering::Release);
        let sent = if in_company { self.push.post(message, deadline) } else { self.push.send(message, deadline) };
        match sent {
            Ok(()) => self.acks.tally.sent(),
            // Whoever sends has the turn: there is no later one.
            Err(_) => self.acks.sent.store(number - 1, Ordering::Release),
        }
        sent.map(|()| number)
    }

    /// How many messages were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.acks.sent.load(Ordering::Acquire)
    }

    /// How many messages have no known outcome, and nobody was told so.
    pub(crate) fn owed(&self) -> u64 {
        let acks = &self.acks;
        let (told, known) = (acks.told.load(Ordering::SeqCst), acks.acked.load(Ordering::SeqCst));
        self.sent().saturating_sub(known).saturating_sub(told)
    }

    /// Whoever sent a message is told that its outcome will not be known.
    pub(crate) fn tell_unknown(&self) {
        self.acks.told.fetch_add(1, Ordering::SeqCst);
        self.acks.tally.told();
    }

    /// Whether the first connection still lives, which has had all messages.
    pub(crate) fn is_connected(&self) -> bool {
        self.push.connect(Some(Instant::now())).is_ok() && self.push.backlog().connections == self.connections
    }

    /// How much the plugin has not read, in no known measure.
    pub(crate) fn unread(&self) -> Option<u64> {
        self.push.backlog().unread
    }

    /// Lets go of what waits for company.
    pub(crate) fn dispatch(&self, deadline: Instant) -> std::result::Result<(), TransportError> {
        self.push.dispatch(Some(deadline))
    }

    /// Reads all reports and acknowledgements that are there, and waits for no
    /// others.
    pub(crate) fn read_reports(&self) {
        let acks = &self.acks;
        // Another thread that reads on does so for all.
        let Some(mut reading) = acks.reading.lock(Instant::now() + EXIT_GRACE) else { return };
        let give_up = Instant::now() + MAX_REPORTS;
        while Instant::now() < give_up && acks.receive(&mut reading, Instant::now()).is_ok() {}
    }

    /// Carries out `stop`, after which a plugin that reports does so at once,
    /// and waits a moment for that.
    pub(crate) fn report_after(&self, stop: impl FnOnce()) {
        self.read_reports();
        let deadline = Instant::now() + STOP_REPORT;
        // Before the stop: nobody else is to take its report.
        let Some(mut reading) = self.acks.reading.lock(deadline) else { return stop() };
        stop();
        if self.receipt == Receipt::Report {
            while let Ok(false) = self.acks.receive(&mut reading, deadline) {}
        }
    }

    /// Waits until all that was sent has been read.
    pub(crate) fn flush(&self, deadline: Deadline) -> std::result::Result<(), TransportError> {
        self.push.flush(deadline)
    }

    /// Whatever is there while no ack is due answers no message. Returns how
    /// many there were.
    pub(crate) fn drop_stray_acks(&self) -> u64 {
        let before = self.acks.surplus.load(Ordering::Relaxed);
        self.acks.tend();
        self.acks.surplus.load(Ordering::Relaxed) - before
    }

    /// Waits for the ack of the message with this number. They come in the
    /// messages' order.
    pub(crate) fn await_ack(&self, number: u64, deadline: Instant) -> Acknowledged {
        match self.await_acks(number, deadline) {
            None if self.acks.refusals.load(Ordering::SeqCst) == 0 => Acknowledged::Answer(Ok(())),
            None => self.acks.refused(number).unwrap_or(Acknowledged::Answer(Ok(()))),
            Some(reason) => reason,
        }
    }

    /// Waits until at most so many messages have no ack.
    pub(crate) fn await_room(&self, unacknowledged: u64, deadline: Instant) -> Option<Acknowledged> {
        let number = self.sent().saturating_sub(unacknowledged);
        self.await_acks(number, deadline)
    }

    /// Waits for all acks up to this number; why some will not come.
    fn await_acks(&self, number: u64, deadline: Instant) -> Option<Acknowledged> {
        let acks = &self.acks;
        if acks.acked.load(Ordering::SeqCst) >= number {
            return None;
        }
        // What is not sent has no ack.
        if let Err(TransportError::Timeout) = self.push.dispatch(Some(deadline)) {
            return Some(Acknowledged::Timeout(TransportError::Timeout));
        }
        let mut reading = match acks.reading.lock_unless(deadline, || acks.acked.load(Ordering::SeqCst) >= number) {
            Waited::Held(reading) => reading,
            // Another thread has read it.
            Waited::Done => return None,
            Waited::Late => return Some(Acknowledged::Timeout(TransportError::Timeout)),
        };
        while acks.acked.load(Ordering::SeqCst) < number {
            // Its end may have been seen before the message was sent.
            if reading.peers.is_over() {
                return Some(Acknowledged::Lost);
            }
            match acks.receive(&mut reading, deadline) {
                Ok(false) if reading.peers.has_heard_the_plugin() && Instant::now() >= deadline => {
                    return Some(Acknowledged::Timeout(TransportError::Timeout));
                }
                Ok(_) => {}
                Err(TransportError::Closed) => return Some(Acknowledged::Lost),
                Err(error) => return Some(Acknowledged::Timeout(error)),
            }
        }
        None
    }

    /// Nobody wants to know what became of this message.
    pub(crate) fn forget(&self, number: u64) {
        if self.acks.acked.load(Ordering::SeqCst) < number {
            lock(&self.acks.refusals_to_tell).unwanted.insert(number);
        }
        // It may have come meanwhile.
        if self.acks.acked.load(Ordering::SeqCst) >= number {
            lock(&self.acks.refusals_to_tell).unwanted.remove(&number);
            self.acks.refused(number);
        }
    }

    /// Stops the sink in its process, if that lives.
    pub(crate) fn stop(&self, control: &Control) -> Result<()> {
        let stopped = self.tell_to_stop(control, |patience| is_gone(&self.running, &self.data, patience));
        self.read_reports();
        self.close();
        match stopped {
            Ok(()) if self.is_alive() => self.running.has_closed(&self.data),
            _ => self.running.sweep(),
        }
        stopped
    }

    /// The same in a process that is about to be ended in order.
    pub(crate) fn stop_to_end(&self, control: &Control) -> Result<()> {
        self.tell_to_stop(control, |_| true)
    }

    fn tell_to_stop(&self, control: &Control, has_stopped: impl FnMut(Duration) -> bool) -> Result<()> {
        let stopped = self.running.stop_symbol(control, has_stopped);
        if matches!(stopped, Ok(Stopped::Answered) | Err(Error::Refused { .. })) {
            self.has_answered_stop();
        }
        stopped.map(|_| ())
    }

    /// Ends the wait of whoever sends a message, in the middle of it.
    pub(crate) fn cut_off(&self) {
        self.push.close();
    }

    /// Ends the wait of whoever waits for an ack.
    pub(crate) fn expect_no_acks(&self) {
        self.acks.pull.close();
    }

    /// Ends every wait: its addresses are free then.
    pub(crate) fn close(&self) {
        self.push.close();
        self.acks.pull.close();
    }
}

/// Waits until a sink has closed its socket, which removes the file, or its
/// process has ended. It normally has when it answers.
fn is_gone(running: &Running, address: &Address, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while address.path().exists() {
        if Instant::now() >= deadline {
            return false;
        }
        if running.process.wait(GONE_PAUSE).is_some() {
            return true;
        }
    }
    true
}
