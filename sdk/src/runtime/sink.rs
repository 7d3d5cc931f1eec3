//! A running sink: its data and ack channels, its thread, and its shutdown.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::address::Address;
use ekuiper_core::message::{Collected, Control, encode_ack};
use ekuiper_core::transport::{Deadline, Endpoint, Pull, PullEvent, Push, TransportError};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::time::{ClockId, clock_gettime};

use super::live::{Progress, Stopper};
use super::site::Site;
use super::source::Channel;
use super::supervised::{Account, UNKNOWN_MESSAGE};
use crate::context::{Outlet, trim};
use crate::definition::SinkFactory;
use crate::error::text_of;
use crate::panic::catch_panic;
use crate::{Config, Error, Result, Sink, SinkContext};

/// The maximum wait for the engine to accept the ack channel, where it asks for
/// acks.
const ACK_CONNECT: Duration = Duration::from_secs(5);

/// The maximum wait for the ack channel where the engine does not ask for acks.
const IDLE_ACK_CONNECT: Duration = Duration::from_millis(100);

/// The maximum number of bytes in flight when a sink is stopped, unless the
/// system's buffers are larger. An engine that sends more after its stop never
/// pauses, and would keep the sink running for ever (fault 18).
const IN_FLIGHT: u64 = 512 << 10;

/// The minimum and maximum that a message counts towards [`IN_FLIGHT`]: its
/// frame, and the part of a very long message that buffers may hold.
const LEAST: u64 = 16;
const MOST: u64 = 256 << 10;

/// The minimum time between two reports of collected messages.
const REPORT_PAUSE: Duration = Duration::from_millis(10);

/// The deadline for sending the last report.
const LAST_REPORT: Duration = Duration::from_secs(1);

/// The maximum time spent counting discarded messages.
const COUNTING: Duration = Duration::from_millis(100);

/// The maximum wait for the engine to close its connection when asked.
const HANDING_OVER: Duration = Duration::from_millis(100);

/// The deadline for sending acknowledgements of discarded messages.
const REFUSING: Duration = Duration::from_millis(200);

/// The acknowledgement of a message that was received and not collected.
const NOT_COLLECTED: &str = "not collected: the plugin ended before the sink took this message";

/// The silence after which a stopped sink has been drained: a connection may not
/// have been accepted yet, and a transport with its own threads may lag.
const QUIET: Duration = Duration::from_millis(50);

/// The longest wait that is left to the transport, which may busy-poll for the
/// next message; a stop is noticed after it.
const SHORT: Duration = Duration::from_micros(50);

/// The interval between checks for a stop on a transport without a readiness
/// descriptor.
const SLICE: Duration = Duration::from_millis(100);

/// Runs a sink on its thread from its start to its end. `again` means that a
/// previous worker of the plugin has run it.
pub(super) fn live(
    site: &Site,
    make: &SinkFactory,
    control: Control,
    [data, ack]: [Address; 2],
    again: bool,
    progress: &Progress,
) -> Result<()> {
    let mut sink = catch_panic(|| Ok(make()))?;
    let requires_ack = control.requires_ack();
    let reports = control.reports && !requires_ack;
    let config = Config::from(control.config.unwrap_or_default());
    catch_panic(|| sink.configure(&config))?;
    let abandoned = Arc::new(AtomicBool::new(false));
    let abandons = abandoned.clone();
    progress.waits(move || abandons.store(true, Ordering::Release));
    let (listen, options) = (Endpoint::Listen(data.clone()), site.engine.only(&site.options));
    // The engine dials the data address as soon as it has the answer.
    let (pull, retained) =
        site.listening.listen(&data, &abandoned, || site.transport.data_socket(&listen, &options))?;
    let fail = |what: String| move |source| Error::Transport { what, source };
    let push = site.transport.push(&Endpoint::Dial(ack.clone()), &site.options);
    let push: Arc<dyn Push> = Arc::from(push.map_err(fail(format!("ack channel {ack} failed")))?);
    let patience = if requires_ack { ACK_CONNECT } else { IDLE_ACK_CONNECT };
    let waiting = push.clone();
    progress.waits(move || waiting.close());
    let connected = push.connect(Some(Instant::now() + patience));
    if requires_ack {
        connected.map_err(fail(format!("ack channel {ack} failed")))?;
    }
    let supervisor = site.supervisor.as_ref().filter(|_| requires_ack);
    let (account, owed) = supervisor
        .and_then(|supervisor| {
            let (mark, owed) = supervisor.marks.sink(&control.meta, again)?;
            Some((Arc::new(Account::new(mark, supervisor.link.clone(), control.meta.clone(), retained)), owed))
        })
        .unzip();
    let acks = Acks { channel: Channel(push.clone()), account: account.clone() };
    let owed = owed.unwrap_or(0);
    if owed > 0 {
        tracing::error!(messages = owed, "messages in flight when the previous worker died are acknowledged as failed");
    }
    for _ in 0..owed {
        acks.send(&encode_ack(Err(UNKNOWN_MESSAGE))).map_err(fail(format!("ack channel {ack} failed")))?;
    }
    let outlet = requires_ack.then(|| Box::new(acks) as Box<dyn Outlet>);
    let opened = catch_panic(|| Ok(sink.ack_mode())).and_then(|ack_mode| {
        let ctx = SinkContext::new(control.meta, outlet, ack_mode);
        catch_panic(|| sink.open(&ctx))?;
        Ok(ctx)
    });
    if opened.is_err() {
        account.iter().for_each(|account| account.over());
    }
    let ctx = opened?;

    let stop = Arc::new(Stop::new()?);
    let mut tally = Tally::new(stop.clone(), reports.then(|| push.clone()));
    let handover = Arc::new(Handover {
        site: site.clone(),
        ack,
        pull: pull.clone(),
        ctx: ctx.clone(),
        account: account.clone(),
        is_handed_over: AtomicBool::new(false),
    });
    if progress.running(stopper(&stop, &handover, &push, reports))
        && let Err(error) = collect(&mut *sink, &ctx, &*pull, &*push, &stop, &handover, &mut tally)
    {
        tracing::error!(error = %Chain(&error), "the data channel failed");
    }
    tally.report(Instant::now() + LAST_REPORT);
    if let Err(error) = catch_panic(|| sink.close(&ctx)) {
        tracing::error!(error = text_of(&*error), "closing the sink failed");
    }
    if handover.is_ending() {
        handover.refuse(0);
    }
    let _ = push.dispatch(Some(Instant::now()));
    push.close();
    // Last: with this socket's file, the host considers the sink ended, and may
    // listen at its addresses for the next one.
    pull.close();
    account.iter().for_each(|account| account.over());
    Ok(())
}

/// The callbacks with which the control thread stops the sink.
fn stopper(stop: &Arc<Stop>, handover: &Arc<Handover>, push: &Arc<dyn Push>, reports: bool) -> Stopper {
    let (asked, given_up, counted) = (stop.clone(), stop.clone(), stop.clone());
    let (handover, acks, span) = (handover.clone(), push.clone(), tracing::Span::current());
    let requires_ack = handover.ctx.requires_ack();
    let report = {
        let (told, push) = (stop.clone(), push.clone());
        move || {
            // The sink's own thread may hang in `collect`.
            if reports {
                let mut report = Vec::new();
                told.collected().encode(&mut report);
                let _ = push.send(&report, Some(Instant::now()));
            }
        }
    };
    let report_again = report.clone();
    Stopper {
        ask: Box::new(move || {
            // First: a host that no longer waits for its messages to be
            // collected waits for this number.
            report();
            asked.set();
        }),
        hurry: Box::new(move || {
            if requires_ack {
                // Unblocks an acknowledgement that the engine does not read.
                acks.close();
            }
            report_again();
        }),
        give_up: Box::new(move || {
            given_up.give_up();
            // Unless the sink's own thread receives and will close it; that
            // thread may also hang in `collect`.
            if span.in_scope(|| handover.give_up()) {
                handover.pull.close();
            }
        }),
        dealt_with: Some(Box::new(move || counted.collected().collected)),
    }
}

/// The duties of a sink whose plugin shuts down while the engine continues, as
/// with an update: messages in flight, and acknowledgements for which the engine
/// waits.
struct Handover {
    site: Site,
    ack: Address,
    pull: Arc<dyn Pull>,
    ctx: SinkContext,
    account: Option<Arc<Account>>,
    is_handed_over: AtomicBool,
}

impl Handover {
    /// Whether the plugin is shutting down.
    fn is_ending(&self) -> bool {
        self.site.listening.is_over()
    }

    /// Asks the engine to send its next message to the plugin's next process.
    /// The best moment is while the engine waits for an acknowledgement: a
    /// message sent just as its connection ends may be lost (mangos does not
    /// resend it), and then the engine waits for ever.
    fn hand_over(&self) {
        if !self.is_handed_over.swap(true, Ordering::AcqRel) {
            self.pull.hand_over(Some(Instant::now() + HANDING_OVER));
        }
    }

    /// Counts and logs the received messages that will not be collected, and
    /// acknowledges them and the sink's unacknowledged ones as failed. Returns
    /// false if another thread is receiving.
    fn give_up(&self) -> bool {
        self.hand_over();
        let (mut lost, mut message) = (0u64, Vec::new());
        let (now, mut is_receiver) = (Instant::now(), true);
        while now.elapsed() < COUNTING {
            match self.pull.receive(&mut message, Some(now)) {
                Ok(PullEvent::Message(_)) => {
                    lost += 1;
                    self.account.iter().for_each(|account| account.mark().taken());
                }
                Ok(PullEvent::Connected(_) | PullEvent::Disconnected(_)) => {}
                Err(TransportError::Misuse(_)) => {
                    is_receiver = false;
                    break;
                }
                Err(_) => break,
            }
        }
        if lost > 0 {
            tracing::error!(
                messages = lost,
                "the plugin is shutting down: messages received were not collected in time, and are lost"
            );
        }
        self.refuse(lost);
        is_receiver
    }

    /// Acknowledges as failed the sink's unacknowledged messages, and `unread`
    /// messages that it was not given.
    fn refuse(&self, unread: u64) {
        let owed = self.ctx.give_up();
        if !self.ctx.requires_ack() || owed + unread == 0 {
            return;
        }
        for _ in 0..owed + unread {
            self.account.iter().for_each(|account| account.mark().acknowledging());
        }
        let of_each = [(owed, UNKNOWN_MESSAGE), (unread, NOT_COLLECTED)];
        match refuse(&self.site, &self.ack, &of_each, Instant::now() + REFUSING) {
            Ok(()) => tracing::error!(
                messages = owed + unread,
                "the plugin is shutting down: unacknowledged messages are acknowledged as failed"
            ),
            Err(error) => {
                tracing::debug!(error = %Chain(&error), messages = owed + unread, "cannot acknowledge messages as failed")
            }
        }
    }
}

/// Acknowledges messages as failed, a number of them for each reason, on a new
/// connection: the sink's may be closed, or in use by a thread that hangs.
///
/// # Errors
/// The engine does not read the acknowledgements in time.
pub(super) fn refuse(
    site: &Site,
    ack: &Address,
    of_each: &[(u64, &str)],
    give_up: Instant,
) -> Result<(), TransportError> {
    let push = site.transport.push(&Endpoint::Dial(ack.clone()), &site.options)?;
    for (count, reason) in of_each {
        for _ in 0..*count {
            push.send(&encode_ack(Err(reason)), Some(give_up))?;
        }
    }
    push.flush(Some(give_up))
}

/// The number of messages that a sink has collected, and its reports to a host
/// that has asked for them.
struct Tally {
    stop: Arc<Stop>,
    channel: Option<Arc<dyn Push>>,
    now: Collected,
    /// The numbers last reported to the host.
    told: Collected,
    /// The encoded report.
    report: Vec<u8>,
    /// The earliest time of the next report, on the coarse clock: the precise
    /// one would cost more per message than the counting itself.
    next: Duration,
}

impl Tally {
    fn new(stop: Arc<Stop>, channel: Option<Arc<dyn Push>>) -> Self {
        let (now, told) = Default::default();
        // The longest possible report.
        let report = Vec::with_capacity(80);
        Self { stop, channel, now, told, report, next: Duration::ZERO }
    }

    /// Counts a message that the sink has dealt with.
    fn add(&mut self, is_refused: bool) {
        self.now.collected += 1;
        self.now.refused += u64::from(is_refused);
        self.stop.note(self.now);
        self.report_if_due();
    }

    /// Reports new numbers, at most once per [`REPORT_PAUSE`].
    fn report_if_due(&mut self) {
        if self.channel.is_some() && self.now != self.told && coarse_now() >= self.next {
            self.report(Instant::now());
        }
    }

    /// Reports new numbers.
    fn report(&mut self, deadline: Instant) {
        let Some(channel) = &self.channel else { return };
        if self.now != self.told {
            // A report that cannot be sent is superseded by the next.
            self.now.encode(&mut self.report);
            if channel.send(&self.report, Some(deadline)).is_ok() {
                self.told = self.now;
            }
            self.next = coarse_now() + REPORT_PAUSE;
        }
    }

    /// The longest wait that does not delay the next report.
    fn patience(&self) -> Option<Duration> {
        let has_news = self.channel.is_some() && self.now != self.told;
        has_news.then(|| self.next.saturating_sub(coarse_now()).max(Duration::from_millis(1)))
    }
}

fn coarse_now() -> Duration {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    // Since boot.
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// The ack channel, and the account of messages to be acknowledged.
struct Acks {
    channel: Channel,
    account: Option<Arc<Account>>,
}

impl Outlet for Acks {
    fn send(&self, ack: &[u8]) -> Result<(), TransportError> {
        let Some(account) = &self.account else { return self.channel.send(ack) };
        account.mark().acknowledging();
        // Unbatched: the ack must have been sent even if the worker dies next.
        self.channel.0.send(ack, None)
    }
}

/// Passes messages to the sink until it is stopped and drained.
fn collect(
    sink: &mut dyn Sink,
    ctx: &SinkContext,
    pull: &dyn Pull,
    acks: &dyn Push,
    stop: &Stop,
    handover: &Handover,
    tally: &mut Tally,
) -> Result<(), TransportError> {
    let account = handover.account.as_deref();
    let mut message = Vec::new();
    let now_past: Deadline = Some(Instant::now());
    let mut deadline = now_past;
    // Whether the last message soon followed the one before, and whether a
    // short wait for the next one is over.
    let (mut is_quick, mut has_waited) = (false, false);
    // Set once the sink is stopped: the bytes that it still reads at most.
    let mut in_flight = None;
    loop {
        if stop.is_given_up() {
            handover.give_up();
            return Ok(());
        }
        let received = pull.receive(&mut message, deadline);
        if let Some(mark) = account.map(Account::mark) {
            match received {
                Ok(PullEvent::Message(_)) => mark.taken(),
                _ => mark.read_nothing(),
            }
        }
        match received {
            Ok(PullEvent::Message(_)) => {
                if in_flight.is_some() && handover.is_ending() {
                    handover.hand_over();
                }
                // `deliver` has logged and acknowledged an error.
                let is_refused = deliver(sink, ctx, &message).is_err();
                tally.add(is_refused);
                if let Some(left) = &mut in_flight {
                    *left -= (message.len() as u64).clamp(LEAST, MOST).min(*left);
                }
                trim(&mut message);
                has_waited = false;
                deadline = now_past;
            }
            Ok(PullEvent::Connected(peer)) => account.into_iter().for_each(|account| account.connected(peer)),
            Ok(PullEvent::Disconnected(peer)) => account.into_iter().for_each(|account| account.disconnected(peer)),
            Err(TransportError::Timeout) if in_flight.is_some() => {
                // Drained: no message has arrived for a while.
                if handover.is_ending() && !handover.is_handed_over.load(Ordering::Acquire) {
                    handover.hand_over();
                } else {
                    return Ok(());
                }
            }
            Err(TransportError::Timeout) => {
                // Idle: flush the batched acknowledgements.
                if let Err(TransportError::Closed) = acks.dispatch(None) {
                    return Ok(());
                }
                tally.report_if_due();
                // With an account, reads must be announced to the supervisor.
                if is_quick && !has_waited && account.is_none() {
                    has_waited = true;
                    deadline = Some(Instant::now() + SHORT);
                } else {
                    let start = Instant::now();
                    deadline = stop.or_readable(pull, account, tally.patience());
                    is_quick = start.elapsed() < SHORT;
                }
            }
            Err(TransportError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
        if stop.is_set() {
            if *in_flight.get_or_insert_with(in_flight_at_most) == 0 {
                tracing::warn!("the engine keeps sending after its stop: further messages are not read");
                if handover.is_ending() {
                    handover.give_up();
                }
                return Ok(());
            }
            deadline = Some(Instant::now() + QUIET);
        }
    }
}

/// The maximum number of bytes in flight when the stop arrived. Data received
/// before the engine's connection ended is always less.
fn in_flight_at_most() -> u64 {
    let buffers = ["wmem_default", "wmem_max"].map(|name| {
        let set = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok();
        set.and_then(|set| set.trim().parse::<u64>().ok()).unwrap_or(0)
    });
    buffers.into_iter().max().unwrap_or(0).saturating_mul(2).max(IN_FLIGHT)
}

/// Passes one message to the sink, and acknowledges it in automatic mode.
pub(crate) fn deliver(sink: &mut dyn Sink, ctx: &SinkContext, message: &[u8]) -> Result<()> {
    ctx.begin();
    let outcome = catch_panic(|| sink.collect(ctx, message));
    ctx.end(&outcome);
    outcome
}

/// The stop request of a sink: a flag for a busy thread, and a descriptor for a
/// blocked one.
struct Stop {
    flag: AtomicBool,
    /// Whether received messages are discarded.
    given_up: AtomicBool,
    /// The numbers of messages that were collected, and of those refused.
    collected: AtomicU64,
    refused: AtomicU64,
    event: OwnedFd,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (flag, given_up) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { flag, given_up, collected: AtomicU64::new(0), refused: AtomicU64::new(0), event })
    }

    fn set(&self) {
        self.flag.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    fn note(&self, collected: Collected) {
        self.refused.store(collected.refused, Ordering::Relaxed);
        self.collected.store(collected.collected, Ordering::Release);
    }

    fn collected(&self) -> Collected {
        let collected = self.collected.load(Ordering::Acquire);
        Collected { collected, refused: self.refused.load(Ordering::Relaxed).min(collected) }
    }

    fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        self.set();
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Waits for a message, the stop, or the end of `patience`. Returns the
    /// deadline of the next receive.
    fn or_readable(&self, pull: &dyn Pull, account: Option<&Account>, patience: Option<Duration>) -> Deadline {
        let now = Instant::now();
        let Some(readiness) = pull.readiness() else {
            return Some(now + patience.unwrap_or(SLICE).min(SLICE));
        };
        let mut fds = [PollFd::from_borrowed_fd(readiness, PollFlags::IN), PollFd::new(&self.event, PollFlags::IN)];
        let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
        match account {
            Some(account) => account.wait(fds, timeout.as_ref()),
            // An interruption is harmless: the next receive decides.
            None => drop(poll(&mut fds, timeout.as_ref())),
        }
        Some(now)
    }
}
