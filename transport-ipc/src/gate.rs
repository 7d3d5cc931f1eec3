//! A lock that can be waited for until a deadline, and that closing opens.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use ekuiper_core::transport::{Deadline, Result, TransportError};

use crate::wait::Closing;

/// Holds a value that one thread at a time may have. Where nobody else wants
/// it, passing costs no more than a mutex.
#[derive(Debug)]
pub struct Gate<T> {
    /// Never waited for, only tried.
    value: Mutex<T>,
    /// How many threads wait for it.
    waiting: AtomicUsize,
    /// Held by who is about to wait, so that no return is missed.
    queue: Mutex<()>,
    returned: Condvar,
}

impl<T> Gate<T> {
    /// A gate that nobody has passed.
    pub fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
            returned: Condvar::new(),
        }
    }

    /// The value, if nobody has it.
    pub fn try_enter(&self) -> Option<Entered<'_, T>> {
        let value = match self.value.try_lock() {
            Ok(value) => value,
            // Whoever panicked with it has left it to us as it was before.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Entered { gate: self, value: Some(value) })
    }

    /// The value, as soon as nobody has it.
    pub fn enter(&self, closing: &Closing, deadline: Deadline) -> Result<Entered<'_, T>> {
        closing.check()?;
        match self.try_enter() {
            Some(entered) => Ok(entered),
            None => self.wait(Some(closing), deadline),
        }
    }

    /// The same for whoever closes, and therefore does not mind a closing.
    pub fn enter_to_close(&self, deadline: Deadline) -> Result<Entered<'_, T>> {
        self.wait(None, deadline)
    }

    fn wait(&self, closing: Option<&Closing>, deadline: Deadline) -> Result<Entered<'_, T>> {
        let mut queue = self.queue();
        let _waiting = Waiting::begin(&self.waiting);
        loop {
            closing.map_or(Ok(()), Closing::check)?;
            if let Some(entered) = self.try_enter() {
                return Ok(entered);
            }
            queue = match deadline {
                None => self.returned.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(TransportError::Timeout);
                    }
                    self.returned.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn queue(&self) -> MutexGuard<'_, ()> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes everybody who waits look at `closing`.
    pub fn wake_all(&self) {
        drop(self.queue());
        self.returned.notify_all();
    }
}

/// Counts whoever waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        // With the fence of the return: either it sees that somebody waits, or
        // the next look sees that the value is back.
        fence(Ordering::SeqCst);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The value of a [`Gate`]; goes back when dropped.
pub struct Entered<'a, T> {
    gate: &'a Gate<T>,
    /// Present until the drop.
    value: Option<MutexGuard<'a, T>>,
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
        drop(self.value.take());
        fence(Ordering::SeqCst);
        if self.gate.waiting.load(Ordering::Relaxed) > 0 {
            drop(self.gate.queue());
            self.gate.returned.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ekuiper_core::address::Address;

    use super::*;

    fn closing() -> Closing {
        Closing::new(&Address::new("/tmp/gate").unwrap()).unwrap()
    }

    fn soon() -> Deadline {
        Some(Instant::now() + Duration::from_secs(30))
    }

    #[test]
    fn one_at_a_time_and_nobody_is_forgotten() {
        let (gate, closing) = (Gate::new(0u64), closing());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        let mut count = gate.enter(&closing, soon()).unwrap();
                        *count += 1;
                        if round % 100 == 0 {
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        assert_eq!(*gate.enter(&closing, soon()).unwrap(), 80_000);
    }

    #[test]
    fn waits_end_with_the_deadline_and_with_the_closing() {
        let (gate, closing) = (Gate::new(()), closing());
        let held = gate.try_enter().unwrap();
        assert!(gate.try_enter().is_none());
        let shortly = Instant::now() + Duration::from_millis(20);
        assert!(matches!(gate.enter(&closing, Some(shortly)), Err(TransportError::Timeout)));
        assert!(Instant::now() >= shortly);
        assert!(matches!(gate.enter(&closing, Some(shortly)), Err(TransportError::Timeout)), "a deadline in the past");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.enter(&closing, None).map(drop));
            closing.close();
            gate.wake_all();
            assert!(matches!(waiting.join().unwrap(), Err(TransportError::Closed)));
            let closer = scope.spawn(|| gate.enter_to_close(soon()).map(drop));
            drop(held);
            closer.join().unwrap().unwrap();
        });
        assert!(gate.try_enter().is_some());
    }

    #[test]
    fn a_panic_leaves_the_value_to_the_next() {
        let (gate, closing) = (Gate::new(7), closing());
        let panicked = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let _held = gate.try_enter().unwrap();
                    panic!("with the value");
                })
                .join()
        });
        assert!(panicked.is_err());
        assert_eq!(*gate.enter(&closing, soon()).unwrap(), 7);
    }
}
