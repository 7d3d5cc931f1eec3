//! A running sink: its data and ack channels, its thread, its end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::message::{Control, encode_ack};
use ekuiper_core::transport::{Deadline, Endpoint, Pull, PullEvent, Push, TransportError};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::live::{Progress, Stopper};
use super::source::Channel;
use super::supervised::{Account, UNKNOWN_MESSAGE};
use super::{Site, guarded};
use crate::context::{Outlet, trim};
use crate::error::text_of;
use crate::plugin::SinkFactory;
use crate::{Config, Error, Result, Sink, SinkContext};

/// How long the engine may take to accept the ack channel, where it has asked
/// for acks.
const ACK_CONNECT: Duration = Duration::from_secs(5);

/// The same where it has not, and nothing depends on it.
const IDLE_ACK_CONNECT: Duration = Duration::from_millis(100);

/// How long a sink that was stopped still reads what had come before; an
/// engine that never pauses would otherwise keep it for ever (fault 18).
const DRAIN: Duration = Duration::from_secs(1);

/// How long nothing has come when all has: a connection may not have been
/// accepted yet, and a transport with threads of its own may be behind.
const QUIET: Duration = Duration::from_millis(50);

/// A wait as short as this is left to the transport, which may look for the
/// next message without sleeping; the stop is noticed after it.
const SHORT: Duration = Duration::from_micros(50);

/// How often a transport without a readiness descriptor looks for the stop.
const SLICE: Duration = Duration::from_millis(100);

/// A sink's whole life, on its thread. It is started `again` when a former
/// worker of the plugin has run it.
pub(super) fn live(
    site: &Site,
    make: &SinkFactory,
    control: Control,
    [data, ack]: [Address; 2],
    again: bool,
    progress: &Progress,
) -> Result<()> {
    let mut sink = guarded(|| Ok(make()))?;
    let requires_ack = control.requires_ack();
    let config = Config::from(control.config.unwrap_or_default());
    guarded(|| sink.configure(&config))?;
    // The engine dials the data address as soon as it has the answer.
    let fail = |what: String| move |source| Error::Transport { what, source };
    let pull = site.transport.pull(&Endpoint::Listen(data.clone()), &site.options);
    let pull: Arc<dyn Pull> = Arc::from(pull.map_err(fail(format!("data channel {data}")))?);
    let push = site.transport.push(&Endpoint::Dial(ack.clone()), &site.options);
    let push: Arc<dyn Push> = Arc::from(push.map_err(fail(format!("ack channel {ack}")))?);
    let patience = if requires_ack { ACK_CONNECT } else { IDLE_ACK_CONNECT };
    let waiting = push.clone();
    progress.waits(move || waiting.close());
    let connected = push.connect(Some(Instant::now() + patience));
    if requires_ack {
        connected.map_err(fail(format!("ack channel {ack}")))?;
    }
    let guard = site.guard.as_ref().filter(|_| requires_ack);
    let (account, owed) = guard
        .and_then(|guard| {
            let (mark, owed) = guard.marks.sink(&control.meta, again)?;
            Some((Arc::new(Account::new(mark, guard.link.clone(), control.meta.clone())), owed))
        })
        .unzip();
    let acks = Acks { channel: Channel(push.clone()), account: account.clone() };
    for _ in 0..owed.unwrap_or(0) {
        tracing::error!("a message that a former worker has died with is acknowledged as failed");
        acks.send(&encode_ack(Err(UNKNOWN_MESSAGE))).map_err(fail(format!("ack channel {ack}")))?;
    }
    let outlet = requires_ack.then(|| Box::new(acks) as Box<dyn Outlet>);
    let opened = guarded(|| Ok(sink.ack_mode())).and_then(|ack_mode| {
        let ctx = SinkContext::new(control.meta, outlet, ack_mode);
        guarded(|| sink.open(&ctx))?;
        Ok(ctx)
    });
    if opened.is_err() {
        account.iter().for_each(|account| account.over());
    }
    let ctx = opened?;

    let stop = Arc::new(Stop::new()?);
    let (stopper, data, acks) = (stop.clone(), pull.clone(), push.clone());
    let stopper = Stopper {
        ask: Box::new(move || stopper.set()),
        force: Box::new(move || {
            data.close();
            // Ends an acknowledgement that the engine does not take.
            acks.close();
        }),
    };
    if progress.running(stopper)
        && let Err(error) = collect(&mut *sink, &ctx, &*pull, &*push, &stop, account.as_deref())
    {
        tracing::error!(%error, "the data channel failed");
    }
    if let Err(error) = guarded(|| sink.close(&ctx)) {
        tracing::error!(error = text_of(&*error), "the sink was not closed in order");
    }
    pull.close();
    let _ = push.dispatch(Some(Instant::now()));
    push.close();
    account.iter().for_each(|account| account.over());
    Ok(())
}

/// The ack channel, and the account of what is still to be acknowledged.
struct Acks {
    channel: Channel,
    account: Option<Arc<Account>>,
}

impl Outlet for Acks {
    fn send(&self, ack: &[u8]) -> Result<(), TransportError> {
        let Some(account) = &self.account else { return self.channel.send(ack) };
        account.mark().acknowledging();
        // Should the worker die, it must have left.
        self.channel.0.send(ack, None)
    }
}

/// Gives messages to the sink until it is stopped and what had come before is
/// read.
fn collect(
    sink: &mut dyn Sink,
    ctx: &SinkContext,
    pull: &dyn Pull,
    acks: &dyn Push,
    stop: &Stop,
    account: Option<&Account>,
) -> Result<(), TransportError> {
    let mut message = Vec::new();
    let now_past: Deadline = Some(Instant::now());
    let mut deadline = now_past;
    let mut readable = false;
    // The last message came soon after the one before; it was waited for.
    let (mut is_quick, mut has_waited) = (false, false);
    // Set once it is stopped: until when it reads at most.
    let mut drain_until = None;
    loop {
        let reading = account.map(Account::mark).filter(|_| std::mem::take(&mut readable));
        reading.inspect(|mark| mark.reading(true));
        let received = pull.receive(&mut message, deadline);
        if let (Some(account), Ok(PullEvent::Message(_))) = (account, &received) {
            account.mark().taken();
        }
        reading.inspect(|mark| mark.reading(false));
        match received {
            Ok(PullEvent::Message(_)) => {
                // Told to the engine and logged already.
                let _ = deliver(sink, ctx, &message);
                trim(&mut message);
                has_waited = false;
                deadline = now_past;
            }
            Ok(PullEvent::Connected(peer)) => account.into_iter().for_each(|account| account.connected(pull, peer)),
            Ok(PullEvent::Disconnected(peer)) => account.into_iter().for_each(|account| account.disconnected(peer)),
            Err(TransportError::Timeout) if drain_until.is_some() => return Ok(()),
            Err(TransportError::Timeout) => {
                // Nothing more to do: nobody is to wait for an acknowledgement.
                if let Err(TransportError::Closed) = acks.dispatch(None) {
                    return Ok(());
                }
                // Where a guard counts what is read, it must know before.
                if is_quick && !has_waited && account.is_none() {
                    has_waited = true;
                    deadline = Some(Instant::now() + SHORT);
                } else {
                    let start = Instant::now();
                    (deadline, readable) = stop.or_readable(pull);
                    is_quick = start.elapsed() < SHORT;
                }
            }
            Err(TransportError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
        if stop.is_set() {
            let now = Instant::now();
            if now > *drain_until.get_or_insert(now + DRAIN) {
                tracing::warn!("stopped while the engine was still sending: what it sends from here on is not read");
                return Ok(());
            }
            deadline = Some(now + QUIET);
        }
    }
}

/// Gives one message to the sink, and acknowledges it where that is due.
pub(crate) fn deliver(sink: &mut dyn Sink, ctx: &SinkContext, message: &[u8]) -> Result<()> {
    ctx.begin();
    let outcome = guarded(|| sink.collect(ctx, message));
    ctx.end(&outcome);
    outcome
}

/// The wish that a sink end: a flag for who is busy, and a descriptor for who
/// waits.
struct Stop {
    flag: AtomicBool,
    event: OwnedFd,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { flag: AtomicBool::new(false), event })
    }

    fn set(&self) {
        self.flag.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Waits for a message or the stop; returns how the next look is to wait,
    /// and whether there is something to read.
    fn or_readable(&self, pull: &dyn Pull) -> (Deadline, bool) {
        let now = Instant::now();
        match pull.readiness() {
            None => (Some(now + SLICE), false),
            Some(readiness) => {
                let mut fds =
                    [PollFd::from_borrowed_fd(readiness, PollFlags::IN), PollFd::new(&self.event, PollFlags::IN)];
                // Interrupted or not: the next look tells.
                let _ = poll(&mut fds, None);
                (Some(now), fds[0].revents().contains(PollFlags::IN))
            }
        }
    }
}
