//! A running sink: its data and ack channels, its thread, and its shutdown.

mod acks;
mod collect;
mod handover;
mod stop;
mod tally;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::address::Address;
use ekuiper_core::message::Control;
use ekuiper_core::transport::{Endpoint, Push};
use ekuiper_transport_ipc::wait::deadline_after;

use acks::Acks;
use collect::collect;
use handover::Handover;
use stop::Stop;
use tally::Tally;

pub(super) use handover::refuse;

use super::live::{Progress, Stopper};
use super::site::Site;
use super::supervised::{Account, UNKNOWN_MESSAGE};
use crate::configuration::Described;
use crate::context::AckOutlet;
use crate::definition::SinkFactory;
use crate::error::text_of;
use crate::panic::catch_panic;
use crate::{Config, Error, Result, SinkContext};

/// The maximum wait for the engine to accept the ack channel, where it asks for
/// acks.
const ACK_CONNECT: Duration = Duration::from_secs(5);

/// The maximum wait for the ack channel where the engine does not ask for acks.
const IDLE_ACK_CONNECT: Duration = Duration::from_millis(100);

/// The deadline for sending the last report.
const LAST_REPORT: Duration = Duration::from_secs(1);

/// Runs a sink on its thread from its start to its end. `again` means that a
/// previous worker of the plugin has run it.
pub(super) fn live(
    site: &Site,
    make: &SinkFactory,
    described: &Described,
    control: Control,
    [data, ack]: [Address; 2],
    again: bool,
    progress: &Progress,
) -> Result<()> {
    let mut sink = catch_panic(|| Ok(make()))?;
    let requires_ack = control.requires_ack();
    let reports = control.reports && !requires_ack;
    let counts = control.ack_counts && requires_ack;
    let config = Config::from(control.config.unwrap_or_default());
    described.configure(&config, || sink.configure(&config))?;
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
    let connected = push.connect(Some(deadline_after(patience)));
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
    let acks = Arc::new(Acks::new(push.clone(), account.clone(), counts));
    let owed = owed.unwrap_or(0);
    if owed > 0 {
        tracing::error!(messages = owed, "messages in flight when the previous worker died are acknowledged as failed");
    }
    for _ in 0..owed {
        acks.acknowledge(Err(UNKNOWN_MESSAGE)).map_err(fail(format!("ack channel {ack} failed")))?;
    }
    let outlet = requires_ack.then(|| Box::new(acks.clone()) as Box<dyn AckOutlet>);
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
        && let Err(error) = collect(&mut *sink, &ctx, &*pull, &acks, &stop, &handover, &mut tally)
    {
        tracing::error!(error = %Chain(&error), "the data channel failed");
    }
    tally.report(deadline_after(LAST_REPORT));
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
