//! What a sink owes the engine when its plugin shuts down first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_core::address::Address;
use ekuiper_core::message::encode_ack;
use ekuiper_core::transport::{Endpoint, Pull, PullEvent, TransportError};
use ekuiper_transport_ipc::wait::deadline_after;

use crate::SinkContext;
use crate::runtime::site::Site;
use crate::runtime::supervised::{Account, UNKNOWN_MESSAGE};

/// The maximum time spent counting discarded messages.
const COUNTING: Duration = Duration::from_millis(100);

/// The maximum wait for the engine to close its connection when asked.
const HANDING_OVER: Duration = Duration::from_millis(100);

/// The deadline for sending acknowledgements of discarded messages.
const REFUSING: Duration = Duration::from_millis(200);

/// The acknowledgement of a message that was received and not collected.
const NOT_COLLECTED: &str = "not collected: the plugin ended before the sink took this message";

/// The duties of a sink whose plugin shuts down while the engine continues, as
/// with an update: messages in flight, and acknowledgements for which the engine
/// waits.
pub(super) struct Handover {
    pub(super) site: Site,
    pub(super) ack: Address,
    pub(super) pull: Arc<dyn Pull>,
    pub(super) ctx: SinkContext,
    pub(super) account: Option<Arc<Account>>,
    pub(super) is_handed_over: AtomicBool,
}

impl Handover {
    /// Whether the plugin is shutting down.
    pub(super) fn is_ending(&self) -> bool {
        self.site.listening.is_over()
    }

    /// Asks the engine to send its next message to the plugin's next process.
    /// The best moment is while the engine waits for an acknowledgement: a
    /// message sent just as its connection ends may be lost (mangos does not
    /// resend it), and then the engine waits for ever.
    pub(super) fn hand_over(&self) {
        if !self.is_handed_over.swap(true, Ordering::AcqRel) {
            self.pull.hand_over(Some(deadline_after(HANDING_OVER)));
        }
    }

    /// Counts and logs the received messages that will not be collected, and
    /// acknowledges them and the sink's unacknowledged ones as failed. Returns
    /// false if another thread is receiving.
    pub(super) fn give_up(&self) -> bool {
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
    pub(super) fn refuse(&self, unread: u64) {
        let owed = self.ctx.give_up();
        if !self.ctx.requires_ack() || owed + unread == 0 {
            return;
        }
        for _ in 0..owed + unread {
            self.account.iter().for_each(|account| account.mark().acknowledging());
        }
        let of_each = [(owed, UNKNOWN_MESSAGE), (unread, NOT_COLLECTED)];
        match refuse(&self.site, &self.ack, &of_each, deadline_after(REFUSING)) {
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
pub(in crate::runtime) fn refuse(
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
