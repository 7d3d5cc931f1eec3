//! Calls that were sent to a process, and whose results are not wanted any more.
//! The plugin is told on the control channel, without waiting for anything.
//!
//! One command is in flight at a time; what is recorded meanwhile is sent
//! together. While a start or a stop uses the channel, cancels wait for its end.
//! They are no promise: where the channel fails, they are forgotten.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Wake, Waker};

use ekuiper_core::message::Cancel;

use super::Running;
use crate::channel::Channel;
use crate::sync::{Turns, lock};

pub(super) struct Cancels {
    control: Arc<Channel>,
    /// May be locked by a caller that holds any other lock.
    pending: Mutex<Pending>,
    turns: Turns,
    /// Posts what is pending.
    waker: Waker,
}

#[derive(Default)]
struct Pending {
    /// The cancelled calls that the plugin was not told of, by their function.
    /// The plugin executes one batch of a function at a time, so only those of
    /// the latest batch matter.
    calls: HashMap<Arc<str>, Calls>,
    /// The channel wakes the waker: when it is free, or when the plugin has
    /// answered.
    is_waiting: bool,
}

/// Cancelled calls of one batch.
struct Calls {
    batch: u64,
    /// `None`: all.
    rows: Option<Vec<u32>>,
}

impl Calls {
    fn merge(&mut self, rows: Option<Vec<u32>>) {
        self.rows = self.rows.take().zip(rows).map(|(mut known, rows)| {
            known.extend(rows);
            known
        });
    }
}

/// Waker that posts what is pending, unless its owner is gone.
struct PostOnWake(Weak<Cancels>);

impl Wake for PostOnWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(cancels) = self.0.upgrade() {
            lock(&cancels.pending).is_waiting = false;
            cancels.post();
        }
    }
}

impl Cancels {
    pub(super) fn new(control: Arc<Channel>) -> Arc<Self> {
        Arc::new_cyclic(|own: &Weak<Self>| Self {
            control,
            pending: Mutex::default(),
            turns: Turns::default(),
            waker: Waker::from(Arc::new(PostOnWake(own.clone()))),
        })
    }

    /// Records a cancelled row of a batch that is in flight, or all of them.
    fn note(&self, symbol: &Arc<str>, batch: u64, row: Option<u32>) {
        let mut pending = lock(&self.pending);
        let rows = row.map(|row| vec![row]);
        match pending.calls.entry(symbol.clone()) {
            Entry::Occupied(mut known) if known.get().batch == batch => known.get_mut().merge(rows),
            other => drop(other.insert_entry(Calls { batch, rows })),
        }
    }

    /// Tells the plugin what was recorded, now or as soon as possible. Never
    /// blocks.
    fn post(&self) {
        self.turns.take(|| while self.step() {});
    }

    /// Takes the next step; returns whether there may be another.
    fn step(&self) -> bool {
        let mut pending = lock(&self.pending);
        if pending.is_waiting || pending.calls.is_empty() {
            return false;
        }
        pending.is_waiting = true;
        let taken = std::mem::take(&mut pending.calls);
        drop(pending);
        let cancels = taken.iter().map(|(symbol, calls)| Cancel {
            symbol: symbol.to_string(),
            id: calls.batch,
            rows: calls.rows.clone(),
        });
        let command = Cancel::encode(&cancels.collect::<Vec<_>>());
        let (channel, waker) = (Arc::downgrade(&self.control), self.waker.clone());
        let posted = self.control.try_post(&command, false, &self.waker, move |_| {
            // The thread that has read the answer still holds the channel.
            match channel.upgrade() {
                Some(channel) => channel.wake_on_release(&waker),
                None => waker.wake_by_ref(),
            }
        });
        match posted {
            Ok(Some(_)) => self.control.arm_idle_reader(),
            Ok(None) => self.put_back(taken),
            Err(failure) => {
                tracing::debug!(?failure, "the plugin was not told of cancelled calls");
                lock(&self.pending).is_waiting = false;
                return true;
            }
        }
        // The waker may have been woken already; it takes the next step.
        false
    }

    /// Records again what could not be sent.
    fn put_back(&self, taken: HashMap<Arc<str>, Calls>) {
        let mut pending = lock(&self.pending);
        for (symbol, calls) in taken {
            match pending.calls.entry(symbol) {
                // A later batch.
                Entry::Occupied(known) if known.get().batch != calls.batch => {}
                Entry::Occupied(mut known) => known.get_mut().merge(calls.rows),
                Entry::Vacant(free) => drop(free.insert(calls)),
            }
        }
    }
}

impl Running {
    /// Records that the result of a row of a batch that is in flight, or of all,
    /// is not wanted any more. The plugin is told by
    /// [`post_cancels`](Running::post_cancels). May be called under any lock.
    pub(crate) fn note_cancel(&self, symbol: &Arc<str>, batch: u64, row: Option<u32>) {
        if let Some(cancels) = &self.cancels {
            cancels.note(symbol, batch, row);
        }
    }

    /// Tells the plugin which calls were cancelled, now or as soon as possible.
    /// Never blocks; to be called without a lock that a waker may take.
    pub(crate) fn post_cancels(&self) {
        if let Some(cancels) = &self.cancels {
            cancels.post();
        }
    }
}
