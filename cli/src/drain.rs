//! Closing a sink: waits until everything has been collected, with progress on
//! stderr.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_host::{Delivery, Sink, SinkStopper};

use crate::console;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::progress::{Progress, grouped};

/// Interval of the progress line on a terminal.
const LOOK: Duration = Duration::from_millis(100);

/// Delay and interval of the progress line where stderr is not a terminal.
const FIRST_LINE: Duration = Duration::from_secs(2);
const NEXT_LINE: Duration = Duration::from_secs(10);

/// Closes the sink. Returns its delivery counts, and the outcome.
pub(crate) fn close(sink: Sink, progress: &mut Progress) -> (Delivery, Result<()>) {
    let stopper = sink.stopper();
    let (done, closed) = channel();
    let closed = std::thread::scope(|scope| {
        scope.spawn(move || done.send(sink.close()));
        let mut line = Instant::now() + FIRST_LINE;
        loop {
            match closed.recv_timeout(LOOK) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("the sender ends with its outcome"),
            }
            let text = waiting(&stopper);
            if progress.is_visible() {
                progress.update(|_| text);
            } else if Instant::now() >= line {
                console::tell(text);
                line = Instant::now() + NEXT_LINE;
            }
        }
    });
    console::clear_counters();
    (stopper.delivery(), closed.map_err(Into::into))
}

/// Combines the failures of using the sink and of closing it. A second failure
/// is reported here, unless a signal caused it.
pub(crate) fn both(interrupt: &Interrupt, done: Result<()>, closed: Result<()>) -> Result<()> {
    if let (Err(_), Err(error), false) = (&done, &closed, interrupt.is_set()) {
        console::tell(Chain(error));
    }
    done.and(closed)
}

fn waiting(stopper: &SinkStopper) -> String {
    let delivery = stopper.delivery();
    if delivery.unknown() == 0 {
        return "waiting until the sink has stopped".into();
    }
    let (left, sent) = (grouped(delivery.unknown()), grouped(delivery.sent));
    format!("waiting until the sink has collected {left} more of {sent} messages")
}
