//! A lock that can be waited for until a deadline, and that closing opens.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ekuiper_core::transport::{Deadline, Result, TransportError};

use crate::wait::Closing;

/// Holds a value that one thread at a time may have.
#[derive(Debug)]
pub struct Gate<T> {
    slot: Mutex<Slot<T>>,
    returned: Condvar,
}

#[derive(Debug)]
struct Slot<T> {
    /// Absent while somebody has it.
    value: Option<T>,
    waiting: usize,
}

impl<T> Gate<T> {
    /// A gate that nobody has passed.
    pub fn new(value: T) -> Self {
        Self { slot: Mutex::new(Slot { value: Some(value), waiting: 0 }), returned: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Slot<T>> {
        // The value is out of the slot while it is used: a panic cannot have
        // left the slot half changed.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value, as soon as nobody has it.
    pub fn enter(&self, closing: &Closing, deadline: Deadline) -> Result<Entered<'_, T>> {
        let mut slot = self.lock();
        loop {
            closing.check()?;
            if let Some(value) = slot.value.take() {
                return Ok(Entered { gate: self, value: Some(value) });
            }
            slot.waiting += 1;
            let timed_out;
            (slot, timed_out) = match deadline {
                None => (self.returned.wait(slot).unwrap_or_else(PoisonError::into_inner), false),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let (slot, _) = self.returned.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner);
                    (slot, Instant::now() >= deadline)
                }
            };
            slot.waiting -= 1;
            if timed_out && slot.value.is_none() {
                return Err(TransportError::Timeout);
            }
        }
    }

    /// Makes everybody who waits look at `closing`.
    pub fn wake_all(&self) {
        drop(self.lock());
        self.returned.notify_all();
    }
}

/// The value of a [`Gate`]; goes back when dropped.
pub struct Entered<'a, T> {
    gate: &'a Gate<T>,
    /// Present until the drop.
    value: Option<T>,
}

impl<T> Deref for Entered<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("present until the drop")
    }
}

impl<T> DerefMut for Entered<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("present until the drop")
    }
}

impl<T> Drop for Entered<'_, T> {
    fn drop(&mut self) {
        let mut slot = self.gate.lock();
        slot.value = self.value.take();
        if slot.waiting > 0 {
            drop(slot);
            self.gate.returned.notify_one();
        }
    }
}
