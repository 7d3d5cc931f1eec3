//! A mutex whose waits end at a deadline, or when there is nothing left to wait
//! for. It protects values that may be held while the holder waits for another
//! process; a plain mutex is held for a few instructions only.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, TryLockError};
use std::task::Waker;
use std::time::Instant;

use ekuiper_core::sync::{lock, wait};
use ekuiper_core::transport::{Deadline, Result, TransportError};

use crate::wait::Closing;

/// A mutex whose `lock` takes a deadline. Without contention it costs no more
/// than a plain mutex.
#[derive(Debug, Default)]
pub struct DeadlineLock<T> {
    /// The value; this mutex is only tried, never waited for.
    value: Mutex<T>,
    /// The number of waiting threads and wakers.
    waiting: AtomicUsize,
    /// Held by a thread that is about to wait, so that it cannot miss a release.
    queue: Mutex<Queue>,
    returned: Condvar,
}

/// Who waits for a release.
#[derive(Debug, Default)]
struct Queue {
    threads: usize,
    tasks: Vec<Waker>,
}

/// The outcome of a wait for a lock, or for a condition that its holder may
/// meet.
pub enum Waited<'a, T> {
    /// The lock was acquired.
    Held(Held<'a, T>),
    /// The condition is met.
    Done,
    /// Neither happened by the deadline.
    Late,
}

impl<T> DeadlineLock<T> {
    /// Creates an unlocked mutex.
    pub fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
            returned: Condvar::new(),
        }
    }

    /// Acquires the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<Held<'_, T>> {
        let value = match self.value.try_lock() {
            Ok(value) => value,
            // A holder that panicked has left the value as it was before.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Held { lock: self, value: Some(value) })
    }

    /// Acquires the lock if it is free, and otherwise has `waker` woken once it
    /// is.
    pub fn try_lock_or_wake(&self, waker: &Waker) -> Option<Held<'_, T>> {
        if let Some(held) = self.try_lock() {
            return Some(held);
        }
        self.wake_on_release(waker);
        // It may have been released meanwhile; the waker is woken then.
        self.try_lock()
    }

    /// Has `waker` woken by the next release. Only a holder of the lock can
    /// know that there will be one.
    pub fn wake_on_release(&self, waker: &Waker) {
        let mut queue = self.queue();
        if !queue.tasks.iter().any(|other| other.will_wake(waker)) {
            queue.tasks.push(waker.clone());
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        // Pairs with the fence on release, as for a waiting thread.
        fence(Ordering::SeqCst);
    }

    /// Wakes the tasks that wait for a release, though the lock stays held: for
    /// a holder that has done what some of them wait for.
    pub fn wake_tasks(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.released();
        }
    }

    /// Acquires the lock; `None` when it is held by other threads until the
    /// deadline.
    pub fn lock(&self, deadline: impl Into<Deadline>) -> Option<Held<'_, T>> {
        if let Some(held) = self.try_lock() {
            return Some(held);
        }
        match self.wait(deadline.into(), || false) {
            Waited::Held(held) => Some(held),
            Waited::Done | Waited::Late => None,
        }
    }

    /// Acquires the lock, unless `done` becomes true first. The holder must
    /// call [`look_again`](Self::look_again) when that changes.
    pub fn lock_unless(&self, deadline: impl Into<Deadline>, mut done: impl FnMut() -> bool) -> Waited<'_, T> {
        if done() {
            return Waited::Done;
        }
        match self.try_lock() {
            Some(held) => Waited::Held(held),
            None => self.wait(deadline.into(), done),
        }
    }

    /// Acquires the lock, unless `closing` is closed first. The closing thread
    /// must call [`look_again`](Self::look_again).
    ///
    /// # Errors
    /// [`TransportError::Closed`], [`TransportError::Timeout`].
    pub fn lock_open(&self, closing: &Closing, deadline: Deadline) -> Result<Held<'_, T>> {
        closing.check()?;
        // The usual case, on the way of every message.
        if let Some(held) = self.try_lock() {
            return Ok(held);
        }
        match self.wait(deadline, || closing.check().is_err()) {
            Waited::Held(held) => Ok(held),
            Waited::Done => Err(TransportError::Closed),
            Waited::Late => Err(TransportError::Timeout),
        }
    }

    #[cold]
    fn wait(&self, deadline: Deadline, done: impl FnMut() -> bool) -> Waited<'_, T> {
        let mut queue = self.queue();
        queue.threads += 1;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fence on release: either the releasing thread sees
        // that a thread waits, or the next attempt here sees that the value is
        // free.
        fence(Ordering::SeqCst);
        let (mut queue, waited) = self.wait_in(queue, deadline, done);
        queue.threads -= 1;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        waited
    }

    fn wait_in<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue>,
        deadline: Deadline,
        mut done: impl FnMut() -> bool,
    ) -> (MutexGuard<'a, Queue>, Waited<'a, T>) {
        loop {
            if done() {
                // This thread may have been woken for the value: wake another
                // one.
                self.returned.notify_one();
                return (queue, Waited::Done);
            }
            if let Some(held) = self.try_lock() {
                return (queue, Waited::Held(held));
            }
            queue = match deadline {
                None => wait(&self.returned, queue, None),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return (queue, Waited::Late);
                    }
                    wait(&self.returned, queue, Some(left))
                }
            };
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    #[cold]
    fn released(&self) {
        let mut queue = self.queue();
        let tasks = std::mem::take(&mut queue.tasks);
        self.waiting.fetch_sub(tasks.len(), Ordering::Relaxed);
        let has_threads = queue.threads > 0;
        // No system call with the queue: whoever releases the lock next, which
        // may be a task, would wait for it.
        drop(queue);
        if has_threads {
            self.returned.notify_one();
        }
        tasks.into_iter().for_each(Waker::wake);
    }

    /// Wakes all waiting threads, so that they check their condition again.
    pub fn look_again(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            drop(self.queue());
            self.returned.notify_all();
        }
    }
}

/// A guard of a [`DeadlineLock`]'s value; unlocks on drop.
#[derive(Debug)]
pub struct Held<'a, T> {
    lock: &'a DeadlineLock<T>,
    /// Present until the drop.
    value: Option<MutexGuard<'a, T>>,
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("present until the drop")
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("present until the drop")
    }
}

impl<T> Drop for Held<'_, T> {
    #[inline]
    fn drop(&mut self) {
        drop(self.value.take());
        fence(Ordering::SeqCst);
        if self.lock.waiting.load(Ordering::Relaxed) > 0 {
            self.lock.released();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use ekuiper_core::address::Address;

    fn closing() -> Closing {
        Closing::new(&Address::new("/tmp/lock").unwrap()).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn one_at_a_time_and_nobody_waits_for_ever() {
        let turn = DeadlineLock::new(());
        let first = turn.lock(Instant::now()).unwrap();
        assert!(turn.lock(Instant::now() + Duration::from_millis(5)).is_none());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| turn.lock(soon()).is_some());
            drop(first);
            assert!(second.join().unwrap());
        });
        assert!(turn.lock(Instant::now()).is_some());
    }

    #[test]
    fn nobody_is_forgotten() {
        let count = DeadlineLock::new(0);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        *count.lock(soon()).unwrap() += 1;
                        if round % 100 == 0 {
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        assert_eq!(*count.lock(soon()).unwrap(), 120_000);
    }

    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn tasks_are_woken_by_a_release() {
        let turn = DeadlineLock::new(());
        let count = std::sync::Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let woken = || count.0.load(Ordering::SeqCst);
        drop(turn.try_lock_or_wake(&waker).unwrap());
        assert_eq!(woken(), 0, "it was free");
        let held = turn.try_lock().unwrap();
        assert!(turn.try_lock_or_wake(&waker).is_none());
        assert!(turn.try_lock_or_wake(&waker).is_none());
        assert_eq!(woken(), 0);
        drop(held);
        assert_eq!(woken(), 1, "once, though it asked twice");
        drop(turn.try_lock());
        assert_eq!(woken(), 1);
        assert_eq!(turn.waiting.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn no_task_is_forgotten() {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.unpark();
            }
        }
        let count = DeadlineLock::new(0);
        std::thread::scope(|scope| {
            for number in 0..4 {
                let count = &count;
                scope.spawn(move || {
                    let waker = Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
                    for _ in 0..20_000 {
                        let mut held = if number % 2 == 0 {
                            count.lock(soon()).unwrap()
                        } else {
                            loop {
                                if let Some(held) = count.try_lock_or_wake(&waker) {
                                    break held;
                                }
                                std::thread::park_timeout(Duration::from_secs(60));
                            }
                        };
                        *held += 1;
                    }
                });
            }
        });
        assert_eq!(*count.lock(soon()).unwrap(), 80_000);
    }

    #[test]
    fn whoever_waits_for_what_the_holder_does_need_not_have_the_lock() {
        let (turn, done) = (DeadlineLock::new(()), AtomicBool::new(false));
        let held = turn.lock(soon()).unwrap();
        std::thread::scope(|scope| {
            let waits: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| matches!(turn.lock_unless(soon(), || done.load(Ordering::SeqCst)), Waited::Done))
                })
                .collect();
            done.store(true, Ordering::SeqCst);
            turn.look_again();
            assert!(waits.into_iter().all(|wait| wait.join().unwrap()), "though the lock is held");
        });
        drop(held);
        // If one of them was woken for the value, the next one gets it.
        done.store(false, Ordering::SeqCst);
        let held = turn.lock(soon()).unwrap();
        std::thread::scope(|scope| {
            let waits: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| drop(turn.lock_unless(soon(), || done.load(Ordering::SeqCst)))))
                .collect();
            let last = scope.spawn(|| turn.lock(soon()).is_some());
            done.store(true, Ordering::SeqCst);
            drop(held);
            waits.into_iter().for_each(|wait| wait.join().unwrap());
            assert!(last.join().unwrap());
        });
    }

    #[test]
    fn waits_end_with_the_deadline_and_with_the_closing() {
        let (lock, closing) = (DeadlineLock::new(()), closing());
        let held = lock.try_lock().unwrap();
        assert!(lock.try_lock().is_none());
        let shortly = Instant::now() + Duration::from_millis(20);
        assert!(matches!(lock.lock_open(&closing, Some(shortly)), Err(TransportError::Timeout)));
        assert!(Instant::now() >= shortly);
        assert!(
            matches!(lock.lock_open(&closing, Some(shortly)), Err(TransportError::Timeout)),
            "a deadline in the past"
        );
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lock.lock_open(&closing, None).map(drop));
            closing.close();
            lock.look_again();
            assert!(matches!(waiting.join().unwrap(), Err(TransportError::Closed)));
            let closer = scope.spawn(|| lock.lock(soon()).map(drop));
            drop(held);
            closer.join().unwrap().unwrap();
        });
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn a_panic_leaves_the_value_to_the_next() {
        let (lock, closing) = (DeadlineLock::new(7), closing());
        let panicked = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let _held = lock.try_lock().unwrap();
                    panic!("with the value");
                })
                .join()
        });
        assert!(panicked.is_err());
        assert_eq!(*lock.lock_open(&closing, Some(soon())).unwrap(), 7);
    }
}
