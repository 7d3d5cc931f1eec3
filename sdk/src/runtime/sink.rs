//! A running sink: its data and ack channels, its thread, its end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_core::message::Control;
use ekuiper_core::transport::{Deadline, Endpoint, Pull, PullEvent, Push, TransportError};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::control::{Key, Live, StartFailure, launch};
use super::source::Channel;
use super::{Site, guarded};
use crate::context::Outlet;
use crate::{Error, Result, Sink, SinkContext};

/// How long the engine may take to accept the ack channel, where it has asked
/// for acks.
const ACK_CONNECT: Duration = Duration::from_secs(5);

/// The same where it has not, and nothing depends on it.
const IDLE_ACK_CONNECT: Duration = Duration::from_millis(100);

/// How often a transport without a readiness descriptor looks for the stop.
const SLICE: Duration = Duration::from_millis(100);

pub(super) fn start(site: &Site, key: &Key, mut sink: Box<dyn Sink>, control: Control) -> Result<Live, StartFailure> {
    let site = site.clone();
    launch(key, move |report| {
        let requires_ack = control.requires_ack();
        let config = control.config.unwrap_or_default().into();
        guarded(|| sink.configure(&config))?;
        // The engine dials the data address as soon as it has the answer.
        let data = site.folder.data(&control.meta)?;
        let fail = |what: String| move |source| Error::Transport { what, source };
        let pull = site.transport.pull(&Endpoint::Listen(data.clone()), &site.options);
        let pull = pull.map_err(fail(format!("data channel {data}")))?;
        let ack = site.folder.ack(&control.meta)?;
        let push = site.transport.push(&Endpoint::Dial(ack.clone()), &site.options);
        let push: Arc<dyn Push> = Arc::from(push.map_err(fail(format!("ack channel {ack}")))?);
        let patience = if requires_ack { ACK_CONNECT } else { IDLE_ACK_CONNECT };
        let connected = push.connect(Some(Instant::now() + patience));
        if requires_ack {
            connected.map_err(fail(format!("ack channel {ack}")))?;
        }
        let outlet: Option<Box<dyn Outlet>> = if requires_ack { Some(Box::new(Channel(push.clone()))) } else { None };
        let ctx = SinkContext::new(control.meta, outlet, sink.ack_mode());
        guarded(|| sink.open(&ctx))?;

        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (stopper, acks) = (stop.clone(), push.clone());
        let _ = report.send(Ok(Box::new(move || {
            let _ = rustix::io::write(&stopper, &1u64.to_ne_bytes());
            if !requires_ack {
                acks.close();
            }
        })));
        let collected = collect(&mut *sink, &ctx, &*pull, &stop);
        if let Err(error) = collected {
            tracing::error!(%error, "the data channel failed");
        }
        if let Err(error) = guarded(|| sink.close(&ctx)) {
            tracing::error!(%error, "the sink was not closed in order");
        }
        pull.close();
        push.close();
        Ok(())
    })
}

/// Gives messages to the sink until it is stopped and all that had come before
/// is read.
fn collect(sink: &mut dyn Sink, ctx: &SinkContext, pull: &dyn Pull, stop: &OwnedFd) -> Result<(), TransportError> {
    let mut message = Vec::new();
    let mut deadline: Deadline = Some(Instant::now());
    loop {
        match pull.receive(&mut message, deadline) {
            Ok(PullEvent::Message(_)) => {
                ctx.begin();
                let outcome = guarded(|| sink.collect(ctx, &message));
                ctx.end(&outcome);
            }
            Ok(PullEvent::Connected(_) | PullEvent::Disconnected(_)) => {}
            Err(TransportError::Closed) => return Ok(()),
            Err(TransportError::Timeout) => {
                if is_set(stop) {
                    return Ok(());
                }
                deadline = wait(pull, stop);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Waits for a message or the stop; returns how the next look is to wait.
fn wait(pull: &dyn Pull, stop: &OwnedFd) -> Deadline {
    let now = Instant::now();
    match pull.readiness() {
        None => Some(now + SLICE),
        Some(readiness) => {
            let mut fds = [PollFd::from_borrowed_fd(readiness, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            // Interrupted or not: the next look tells.
            let _ = poll(&mut fds, None);
            Some(now)
        }
    }
}

/// Whether the stop was asked for; the descriptor is never read.
fn is_set(stop: &OwnedFd) -> bool {
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&now)), Ok(1))
}
