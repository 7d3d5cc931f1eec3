//! The loop of a sink: passing messages to it until it is stopped and drained.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ekuiper_core::buffer::trim;
use ekuiper_core::transport::{Deadline, Pull, PullEvent, TransportError};
use ekuiper_transport_ipc::wait::deadline_after;

use super::acks::Acks;
use super::handover::Handover;
use super::stop::Stop;
use super::tally::Tally;
use crate::invoke::deliver;
use crate::runtime::supervised::Account;
use crate::{Sink, SinkContext};

/// The maximum number of bytes in flight when a sink is stopped, unless the
/// system's buffers are larger. An engine that sends more after its stop never
/// pauses, and would keep the sink running for ever (fault 18).
const IN_FLIGHT: u64 = 512 << 10;

/// The minimum and maximum that a message counts towards [`IN_FLIGHT`]: its
/// frame, and the part of a very long message that buffers may hold.
const LEAST: u64 = 16;
const MOST: u64 = 256 << 10;

/// The silence after which a stopped sink has been drained: a connection may not
/// have been accepted yet, and a transport with its own threads may lag.
const QUIET: Duration = Duration::from_millis(50);

/// The longest wait that is left to the transport, which may busy-poll for the
/// next message; a stop is noticed after it.
const SHORT: Duration = Duration::from_micros(50);

/// Passes messages to the sink until it is stopped and drained.
pub(super) fn collect(
    sink: &mut dyn Sink,
    ctx: &SinkContext,
    pull: &dyn Pull,
    acks: &Acks,
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
    // Whether there was no message before the next one.
    let mut has_idled = false;
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
                // The engine waits for the acknowledgement of a message that the
                // sink has waited for, and probably of no other.
                acks.set_prompt(has_idled);
                has_idled = false;
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
                has_idled = true;
                if let Err(TransportError::Closed) = acks.dispatch() {
                    return Ok(());
                }
                tally.report_if_due();
                // With an account, reads must be announced to the supervisor.
                if is_quick && !has_waited && account.is_none() {
                    has_waited = true;
                    deadline = Some(deadline_after(SHORT));
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
            deadline = Some(deadline_after(QUIET));
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
