//! The sending end of a sink, for one process of its plugin.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::codec::Format;
use ekuiper_core::message::{Control, Feature};
use ekuiper_core::transport::{Deadline, Push, TransportError};
use ekuiper_transport_ipc::lock::{DeadlineLock, Waited};
use ekuiper_transport_ipc::wait::deadline_after;

use super::acks::{Acknowledged, Acks, Receipt};
use super::proof::Proof;
use super::tally::Tally;
use crate::channel::idle_reader::{LOOK_LIMIT, Watch, Watched};
use crate::plugin::running::{Running, Stopped};
use crate::process::EXIT_GRACE;
use crate::sync::lock;
use crate::{Error, Result, Subject};

/// Interval of the check whether a stopped sink has removed its socket, which
/// no event reports.
const GONE_PAUSE: Duration = Duration::from_millis(1);

/// The same interval while the sink collects.
const END_LOOK: Duration = Duration::from_millis(20);

/// Maximum time to read the pending reports, since a stranger may send without
/// end.
const MAX_REPORTS: Duration = Duration::from_secs(1);

/// Maximum time for the report after a stop that no caller waits for. The
/// report comes at once, unless the plugin hangs.
const STOP_REPORT: Duration = Duration::from_millis(500);

/// A sink in one process.
pub(crate) struct SinkConnection {
    pub(crate) running: Arc<Running>,
    pub(crate) receipt: Receipt,
    /// Held while a message is sent. A process that is being replaced is left
    /// after that message; a sender that gets the turn later goes to the next.
    pub(crate) turn: DeadlineLock<()>,
    /// An acknowledgement is missing: later ones could be mistaken for it.
    is_broken: AtomicBool,
    /// The sink runs after its stop.
    still_runs: AtomicBool,
    push: Arc<dyn Push>,
    /// Number of connections when the first message was sent.
    connections: u64,
    pub(crate) acks: Arc<Acks>,
    pub(crate) proof: Proof,
    /// When the start was answered.
    pub(crate) started: Instant,
    pub(super) control: Control,
    /// The codec of the rows that the sink reads.
    pub(super) format: Format,
    data: Address,
    _watch: Watch,
}

impl SinkConnection {
    /// Starts the sink, in the protocol's order: listen for acknowledgements,
    /// start, connect to the data channel.
    pub(crate) fn start(
        running: &Arc<Running>,
        control: &Control,
        data: &Address,
        ack: &Address,
        what: &Subject,
        tally: &Arc<Tally>,
    ) -> Result<Arc<Self>> {
        let receipt = match control.requires_ack() {
            true => Receipt::Ack,
            false if running.has(Feature::Collected) => Receipt::Report,
            false => Receipt::Read,
        };
        tally.counted.is_told(receipt != Receipt::Read);
        let pull =
            running.scope.reports(ack).map_err(|source| running.channel_error(what.clone().not_sent(), source))?;
        let acks = Arc::new(Acks::new(pull, receipt, running.counts_acks(control), tally.clone()));
        // Read from now on: a plugin may send much there before it answers the
        // start, for example acknowledgements without a message, which must not
        // fill the channel (fault 10).
        let watch = running.site.idle_reader.watch(what, acks.clone()).inspect_err(|_| acks.pull.close())?;
        acks.enable_tasks(&watch);
        running.mark_listening(data);
        if let Err(error) = running.start_symbol(control) {
            acks.pull.close();
            return Err(error);
        }
        acks.begin();
        let opened = running
            .scope
            .push(data)
            .and_then(|push| {
                push.connect(Some(deadline_after(running.site.options.send_timeout)))?;
                Ok(push)
            })
            .map_err(|source| match source {
                TransportError::Timeout => {
                    let (kind, symbol) = (control.plugin_type, &control.symbol_name);
                    let words = format!("{kind} {symbol}: it was started, and does not listen at {data}");
                    let what = what.in_words(words);
                    let after = running.site.options.send_timeout;
                    Error::Timeout { plugin: running.name.clone(), what, after }.or_shortage()
                }
                source => running.channel_error(what.clone(), source),
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
            still_runs: AtomicBool::new(false),
            push,
            acks,
            proof: Proof::default(),
            control: control.clone(),
            format: running.format_of_sink(&control.symbol_name),
            data: data.clone(),
            _watch: watch,
        }))
    }

    /// Returns whether messages may be sent to the process, which may end at
    /// any time.
    pub(crate) fn is_current(&self) -> bool {
        !self.running.scope.is_over() && !self.running.is_left()
    }

    /// Returns whether an acknowledgement is missing.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::SeqCst)
    }

    /// Records that an acknowledgement is missing.
    pub(crate) fn mark_broken(&self) {
        self.is_broken.store(true, Ordering::SeqCst);
    }

    /// Returns whether the process is alive.
    pub(crate) fn is_alive(&self) -> bool {
        self.running.process.exit().is_none()
    }

    /// Sends a message; returns its number. With `in_company` the message may
    /// be delayed to be sent in a batch. The caller, who has it since `since`,
    /// holds the turn.
    pub(crate) fn send(
        &self,
        message: &[u8],
        in_company: bool,
        since: Instant,
        deadline: Deadline,
    ) -> std::result::Result<u64, TransportError> {
        // Before sending: the acknowledgement may be read before this thread
        // continues.
        self.acks.tally.sends(1, since);
        let number = self.sent() + 1;
        self.acks.sent.store(number, Ordering::Release);
        let sent = if in_company { self.push.post(message, deadline) } else { self.push.send(message, deadline) };
        match sent {
            Ok(()) => self.acks.tally.sent(1),
            // The sender holds the turn, so there is no later message.
            Err(_) => self.acks.sent.store(number - 1, Ordering::Release),
        }
        sent.map(|()| number)
    }

    /// Sends messages in batches, for a sink without acknowledgements; returns
    /// how many were sent. The caller holds the turn, as for [`send`](Self::send).
    pub(crate) fn send_all<'a>(
        &self,
        messages: impl ExactSizeIterator<Item = &'a [u8]>,
        since: Instant,
        deadline: Deadline,
    ) -> (usize, std::result::Result<(), TransportError>) {
        let (before, count) = (self.sent(), messages.len());
        // Before sending: they may be reported as collected before this thread
        // continues.
        self.acks.tally.sends(count as u64, since);
        self.acks.sent.store(before + count as u64, Ordering::Release);
        let mut done: usize = 0;
        let sent = self.push.post_all(&mut messages.inspect(|_| done += 1), deadline);
        if sent.is_err() {
            // The last one was not sent, or there was none.
            done = done.saturating_sub(1);
            self.acks.sent.store(before + done as u64, Ordering::Release);
        }
        self.acks.tally.sent(done as u64);
        (done, sent)
    }

    /// Returns the number of messages sent.
    pub(crate) fn sent(&self) -> u64 {
        self.acks.sent.load(Ordering::Acquire)
    }

    /// Returns the number of messages whose outcome is neither known nor
    /// returned to their sender.
    pub(crate) fn owed(&self) -> u64 {
        let acks = &self.acks;
        let (told, known) = (acks.told.load(Ordering::SeqCst), acks.acked.load(Ordering::SeqCst));
        self.sent().saturating_sub(known).saturating_sub(told)
    }

    /// Counts a message whose sender is told that the outcome will not be
    /// known.
    pub(crate) fn tell_unknown(&self) {
        self.acks.told.fetch_add(1, Ordering::SeqCst);
        self.acks.tally.told();
    }

    /// Returns whether the first connection, which got all messages, is still
    /// alive.
    pub(crate) fn is_connected(&self) -> bool {
        self.push.connect(Some(Instant::now())).is_ok() && self.push.backlog().connections == self.connections
    }

    /// Returns the amount that the plugin has not read, in no fixed unit.
    pub(crate) fn unread(&self) -> Option<u64> {
        self.push.backlog().unread
    }

    /// Returns what polls writable when there may be room for a message.
    pub(crate) fn room(&self) -> Option<Arc<dyn AsFd + Send + Sync>> {
        self.push.room()
    }

    /// Flushes posted messages.
    pub(crate) fn dispatch(&self, deadline: Instant) -> std::result::Result<(), TransportError> {
        self.push.dispatch(Some(deadline))
    }

    /// Reads all pending reports and acknowledgements, without waiting for
    /// more.
    pub(crate) fn read_reports(&self) {
        let acks = &self.acks;
        // Another thread that reads does so for all.
        let Some(mut reading) = acks.reading.lock(deadline_after(EXIT_GRACE)) else { return };
        let give_up = deadline_after(MAX_REPORTS);
        while Instant::now() < give_up && acks.receive(&mut reading, Instant::now()).is_ok() {}
    }

    /// Runs `stop`, after which a reporting plugin sends its report at once,
    /// and waits briefly for that.
    pub(crate) fn report_after(&self, stop: impl FnOnce()) {
        self.read_reports();
        let deadline = deadline_after(STOP_REPORT);
        // Locked before the stop, so that no other thread takes its report.
        let Some(mut reading) = self.acks.reading.lock(deadline) else { return stop() };
        stop();
        if self.receipt == Receipt::Report {
            while let Ok(false) = self.acks.receive(&mut reading, deadline) {}
        }
    }

    /// Waits until everything sent has been read.
    pub(crate) fn flush(&self, deadline: Deadline) -> std::result::Result<(), TransportError> {
        self.push.flush(deadline)
    }

    /// Returns whether the message with this number is acknowledged, after
    /// reading what has arrived.
    pub(crate) fn is_acknowledged(&self, number: u64) -> bool {
        self.acks.known() >= number || {
            self.acks.tend();
            self.acks.known() >= number
        }
    }

    /// Waits for the acknowledgement of the message with this number.
    /// Acknowledgements arrive in the order of the messages.
    pub(crate) fn await_ack(&self, number: u64, deadline: Instant) -> Acknowledged {
        self.await_acks(number, deadline).unwrap_or_else(|| self.acknowledged(number))
    }

    /// Returns the acknowledgement of the message with this number, if it has
    /// been read.
    pub(crate) fn answer(&self, number: u64) -> Option<Acknowledged> {
        (self.acks.known() >= number).then(|| self.acknowledged(number))
    }

    /// Returns the acknowledgement of a message, which has been read.
    fn acknowledged(&self, number: u64) -> Acknowledged {
        let is_refused = self.acks.refusals.load(Ordering::SeqCst) > 0;
        is_refused.then(|| self.acks.refused(number)).flatten().unwrap_or(Acknowledged::Answer(Ok(())))
    }

    /// Waits until at most this many messages are unacknowledged.
    pub(crate) fn await_room(&self, unacknowledged: u64, deadline: Instant) -> Option<Acknowledged> {
        let number = self.sent().saturating_sub(unacknowledged);
        self.await_acks(number, deadline)
    }

    /// Waits for all acknowledgements up to this number; returns why some are
    /// missing.
    fn await_acks(&self, number: u64, deadline: Instant) -> Option<Acknowledged> {
        let acks = &self.acks;
        if acks.acked.load(Ordering::SeqCst) >= number {
            return None;
        }
        if number < self.sent() && self.has_acknowledged(number) {
            return None;
        }
        // A message that is not sent yet is not acknowledged.
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
            // The end may have been seen before the message was sent.
            if reading.peers.is_over() {
                return Some(Acknowledged::Lost);
            }
            match acks.receive(&mut reading, deadline) {
                Ok(false) if reading.peers.is_plugin_silent() && Instant::now() >= deadline => {
                    return Some(Acknowledged::Timeout(TransportError::Timeout));
                }
                Ok(_) => {}
                Err(TransportError::Closed) => return Some(Acknowledged::Lost),
                Err(error) => return Some(Acknowledged::Timeout(error)),
            }
        }
        None
    }

    /// Returns whether the acknowledgement of the message with this number has
    /// arrived; reads those before it. Posted messages stay together with those
    /// that follow, as long as acknowledgements have arrived.
    fn has_acknowledged(&self, number: u64) -> bool {
        let acks = &self.acks;
        let Some(mut reading) = acks.reading.try_lock() else { return false };
        for _ in 0..LOOK_LIMIT {
            if acks.acked.load(Ordering::SeqCst) >= number {
                return true;
            }
            if reading.peers.is_over() || acks.receive(&mut reading, self.started).is_err() {
                return false;
            }
        }
        false
    }

    /// Discards the outcome of a message.
    pub(crate) fn forget(&self, number: u64) {
        if self.acks.acked.load(Ordering::SeqCst) < number {
            lock(&self.acks.refusals_to_tell).unwanted.insert(number);
        }
        // The outcome may have arrived meanwhile.
        if self.acks.acked.load(Ordering::SeqCst) >= number {
            lock(&self.acks.refusals_to_tell).unwanted.remove(&number);
            self.acks.refused(number);
        }
    }

    /// Stops the sink in its process, if that is alive. A sink that
    /// [still runs](Self::still_runs) afterwards stays connected.
    pub(crate) fn stop(&self, control: &Control) -> Result<()> {
        let stopped = self.tell_to_stop(control, |patience| is_gone(&self.running, &self.data, patience));
        if self.still_runs() {
            return stopped;
        }
        self.end(stopped.is_ok());
        stopped
    }

    fn end(&self, is_stopped: bool) {
        self.read_reports();
        self.close();
        if is_stopped && self.is_alive() {
            self.running.mark_closed(&self.data);
        } else {
            self.running.sweep();
        }
    }

    /// Returns whether the sink runs after its stop: it collects what was sent
    /// before, or the stop was not sent.
    pub(crate) fn still_runs(&self) -> bool {
        self.still_runs.load(Ordering::SeqCst)
    }

    /// Waits until a sink that still runs has closed its socket, or its process
    /// has ended. Its reports are read until then.
    pub(crate) fn await_end(&self) {
        while self.data.path().exists() && self.running.process.wait(END_LOOK).is_none() {}
        self.end(true);
    }

    /// Stops the sink in a process that is about to be ended gracefully.
    pub(crate) fn stop_to_end(&self, control: &Control) -> Result<()> {
        self.tell_to_stop(control, |_| true)
    }

    fn tell_to_stop(&self, control: &Control, has_stopped: impl FnMut(Duration) -> bool) -> Result<()> {
        let stopped = self.running.stop_symbol(control, has_stopped);
        if matches!(stopped, Ok(Stopped::Answered) | Err(Error::Refused { .. })) {
            self.mark_stop_answered();
        }
        if self.running.runs_after(&stopped) {
            self.still_runs.store(true, Ordering::SeqCst);
            return Err(stopped.err().unwrap_or_else(|| self.running.still_runs(control)));
        }
        stopped.map(|_| ())
    }

    /// Ends the wait of a sender, in the middle of its message.
    pub(crate) fn cut_off(&self) {
        self.push.close();
    }

    /// Ends the waits for acknowledgements.
    pub(crate) fn expect_no_acks(&self) {
        self.acks.pull.close();
    }

    /// Ends every wait; the addresses are free then.
    pub(crate) fn close(&self) {
        self.push.close();
        self.acks.pull.close();
    }
}

/// Waits until a sink has closed its socket, which removes the file, or its
/// process has ended. Normally the socket is closed when the stop is answered.
fn is_gone(running: &Running, address: &Address, patience: Duration) -> bool {
    let deadline = deadline_after(patience);
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
