//! A message in flight that is to be acknowledged.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use ekuiper_core::instant::later;

use super::sent::Sent;
use crate::background::Task;
use crate::blocking;
use crate::channel::idle_reader::Timer;
use crate::{Error, Result};

/// A message in flight: a future of its acknowledgement, which can also be
/// [waited for](PendingAck::wait). Dropping it discards the outcome.
///
/// The future fails with [`Error::Timeout`] when the sink has acknowledged
/// nothing for `recv_timeout`: the messages before this one do not count.
#[must_use = "the message may not have been taken"]
pub struct PendingAck(Pending);

enum Pending {
    Sent(Waiting),
    /// A thread finds out why there is no acknowledgement.
    Explaining(Task<Result<()>>),
    Known(Result<()>),
    /// The outcome was taken.
    Taken,
}

struct Waiting {
    sent: Sent,
    deadline: Option<AckDeadline>,
}

/// The deadline of the next acknowledgement of the sink, whichever message it
/// is for.
struct AckDeadline {
    /// Number of the messages that were acknowledged when it began.
    known: u64,
    until: Instant,
    waker: Waker,
    _timer: Timer,
}

impl PendingAck {
    pub(super) fn of(sent: Sent) -> Self {
        Self(Pending::Sent(Waiting { sent, deadline: None }))
    }

    pub(super) fn known(outcome: Result<()>) -> Self {
        Self(Pending::Known(outcome))
    }

    /// Blocks until the message is acknowledged.
    ///
    /// # Errors
    /// As [`Sink::send`](super::Sink::send).
    pub fn wait(mut self) -> Result<()> {
        match std::mem::replace(&mut self.0, Pending::Taken) {
            Pending::Sent(waiting) => waiting.sent.wait(),
            Pending::Explaining(task) => task.wait(),
            Pending::Known(outcome) => outcome,
            Pending::Taken => unreachable!("the outcome was taken by an earlier poll"),
        }
    }

    /// Returns whether the outcome is known, without waiting.
    pub(super) fn is_known(&self) -> bool {
        match &self.0 {
            Pending::Sent(waiting) => waiting.sent.connection.is_acknowledged(waiting.sent.number),
            Pending::Explaining(_) => false,
            Pending::Known(_) | Pending::Taken => true,
        }
    }
}

impl Waiting {
    /// Returns the outcome, or what finds it out.
    fn poll(&mut self, context: &Context<'_>) -> Poll<Pending> {
        let mut is_registered = false;
        loop {
            if let Some(outcome) = self.sent.try_outcome() {
                return Poll::Ready(match outcome {
                    Ok(outcome) => Pending::Known(outcome),
                    Err(explain) => Pending::Explaining(explain),
                });
            }
            if is_registered {
                return Poll::Pending;
            }
            // Before the last attempt, so that no acknowledgement is missed.
            self.sent.register_task(context.waker());
            is_registered = true;
            if let Some(error) = self.renew_deadline(context.waker()) {
                return Poll::Ready(Pending::Known(Err(error)));
            }
        }
    }

    /// Sets the deadline anew if the sink has acknowledged something since, and
    /// has the waker woken at it; returns the error if it has passed.
    fn renew_deadline(&mut self, waker: &Waker) -> Option<Error> {
        let site = &self.sent.session.plugin.site;
        let (now, known) = (Instant::now(), self.sent.connection.acks.known());
        let until = match &self.deadline {
            Some(deadline) if deadline.known == known && now >= deadline.until => {
                return Some(self.sent.give_up());
            }
            Some(deadline) if deadline.known == known && deadline.waker.will_wake(waker) => return None,
            Some(deadline) if deadline.known == known => deadline.until,
            _ => later(now, site.options.recv_timeout),
        };
        let timer = site.idle_reader.wake_at(until, waker.clone());
        self.deadline = Some(AckDeadline { known, until, waker: waker.clone(), _timer: timer });
        None
    }
}

impl Future for PendingAck {
    type Output = Result<()>;

    /// # Panics
    /// The future has completed before.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.0 {
                Pending::Sent(waiting) => match blocking::forbidden(|| waiting.poll(context)) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(next) => self.0 = next,
                },
                Pending::Explaining(task) => return Pin::new(task).poll(context),
                Pending::Known(_) => match std::mem::replace(&mut self.0, Pending::Taken) {
                    Pending::Known(outcome) => return Poll::Ready(outcome),
                    _ => unreachable!("it was known just now"),
                },
                Pending::Taken => panic!("a future was polled after it had completed"),
            }
        }
    }
}

impl Drop for PendingAck {
    fn drop(&mut self) {
        if let Pending::Sent(Waiting { sent, .. }) = &self.0 {
            sent.connection.forget(sent.number);
        }
    }
}
