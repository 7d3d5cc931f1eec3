//! The calls of a function that no thread waits for in the transport: gathered
//! while one message is in flight, and sent in their order.
//!
//! A pipeline is never waited for, and has no thread. It [goes
//! on](Pipeline::advance) whenever something has happened that it may wait for:
//! a call was made, an answer was read (by any thread that uses the channel, or
//! by the idle reader), the channel is free again, a time is over. What may
//! block (a crash to be explained, a function to be started again) is done by a
//! thread that lives no longer than that.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use ekuiper_core::exchange::NotReady;
use ekuiper_core::message::{Arguments, BatchWriter, CallKind, encode_call};
use ekuiper_core::transport::TransportError;

use super::command::{Command, Shape};
use super::route::{FunctionConnection, FunctionRoute};
use crate::channel::Failure;
use crate::channel::idle_reader::Timer;
use crate::sync::{lock, wait};
use crate::{Error, Result};

/// Minimum time between two checks of a thread that waits for a channel in use.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Interval of the check whether a connection has room for a command.
const ROOM_PAUSE: Duration = Duration::from_millis(1);

/// Maximum number of waits without busy-polling after busy-polling has not paid
/// off, as a power of two.
const MAX_SKIPS: u32 = 10;

pub(crate) struct Pipeline {
    pub(super) route: Arc<FunctionRoute>,
    queue: Mutex<Queue>,
    /// Notified when a command was sent or has an outcome.
    changed: Condvar,
    /// Number of requests to go on that were not met; the thread that makes the
    /// first goes on for all.
    turns: AtomicUsize,
    /// Goes on when woken.
    waker: Waker,
    spin: Spin,
}

#[derive(Default)]
struct Queue {
    /// Commands that were not sent.
    waiting: VecDeque<Arc<Command>>,
    in_flight: Option<Flight>,
    /// Buffer of the last command, reused by the next.
    buffer: Vec<u8>,
    /// A thread does what may block; nothing is sent meanwhile.
    is_recovering: bool,
    /// When the first waiting command must be sent, once that was tried, and
    /// the number of commands that waited then: they fail with it.
    send_by: Option<(Instant, usize)>,
    timer: Option<(Instant, Timer)>,
    /// Number of threads that wait for a change.
    threads: usize,
}

#[derive(Clone)]
struct Flight {
    command: Arc<Command>,
    connection: FunctionConnection,
    answer_by: Instant,
}

/// What needs a thread that may block.
enum Trouble {
    /// The function is to be connected again; nothing was sent.
    Connect,
    /// The first waiting command could not be sent.
    NotSent(FunctionConnection, Failure),
    /// A command was sent, and has no answer.
    NoAnswer(Flight, Failure),
}

/// Wakes a pipeline, unless it is gone.
struct GoOn(Weak<Pipeline>);

impl Wake for GoOn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(pipeline) = self.0.upgrade() {
            pipeline.advance();
        }
    }
}

impl Pipeline {
    pub(super) fn new(route: Arc<FunctionRoute>) -> Arc<Self> {
        Arc::new_cyclic(|own: &Weak<Self>| Self {
            route,
            queue: Mutex::default(),
            changed: Condvar::new(),
            turns: AtomicUsize::new(0),
            waker: Waker::from(Arc::new(GoOn(own.clone()))),
            spin: Spin::default(),
        })
    }

    /// Adds a call; returns its command, and its number in that.
    pub(super) fn add(self: &Arc<Self>, args: &impl Arguments) -> Result<(Arc<Command>, usize)> {
        let connection = self.route.latest();
        let shape = Shape::of(&connection);
        let mut queue = lock(&self.queue);
        let what = || self.route.what(if shape.is_batch { CallKind::Batch } else { CallKind::Exec });
        let wrong = |source: ekuiper_core::Error| Error::Message { what: what().not_sent(), source: source.into() };
        if let Some(last) = queue.waiting.back().filter(|last| last.shape == shape)
            && let Some(row) = last.add(args).transpose().map_err(wrong)?
        {
            return Ok((last.clone(), row));
        }
        let buffer = std::mem::take(&mut queue.buffer);
        let command = if shape.is_batch {
            let id = self.route.next_batch();
            let batch = BatchWriter::new(shape.format, buffer, id, &self.route.encoded_meta);
            let command = Command::batch(shape, id, batch, connection);
            command.add(args).transpose().map_err(wrong)?;
            command
        } else {
            let mut message = buffer;
            message.clear();
            encode_call(shape.format, &mut message, CallKind::Exec, args, Some(&self.route.encoded_meta))
                .map_err(wrong)?;
            Command::call(shape, message, connection)
        };
        let command = Arc::new(command);
        queue.waiting.push_back(command.clone());
        match queue.in_flight.clone() {
            // Nobody may wait for the answer that this call waits for.
            Some(flight) => {
                drop(queue);
                flight.connection.channel.attend();
            }
            None => {
                drop(queue);
                self.advance();
            }
        }
        Ok((command, 0))
    }

    /// Has the answer to this command read as soon as it is there.
    pub(super) fn attend(&self, command: &Arc<Command>) {
        let flight = lock(&self.queue).in_flight.clone();
        if let Some(flight) = flight.filter(|flight| Arc::ptr_eq(&flight.command, command)) {
            flight.connection.channel.attend();
        }
    }

    /// Waits until a command has its outcome.
    pub(super) fn wait(self: &Arc<Self>, command: &Command) {
        while !command.is_settled() {
            let queue = lock(&self.queue);
            match queue.in_flight.clone().filter(|flight| !flight.command.has_reply()) {
                Some(Flight { connection, answer_by, .. }) => {
                    drop(queue);
                    let until = answer_by.max(Instant::now() + LOOK_PAUSE);
                    connection.channel.settle_unless(until, answer_by, || command.is_settled());
                    self.advance();
                }
                None => self.await_change(queue, command),
            }
        }
    }

    /// Waits until another thread has sent a command, or has read an outcome.
    fn await_change(&self, mut queue: MutexGuard<'_, Queue>, command: &Command) {
        queue.threads += 1;
        while !command.is_settled() && queue.in_flight.as_ref().is_none_or(|flight| flight.command.has_reply()) {
            queue = wait(&self.changed, queue, None);
        }
        queue.threads -= 1;
    }

    /// Wakes the threads that wait for a change, if there are any.
    fn tell_change(&self, queue: MutexGuard<'_, Queue>) {
        if queue.threads > 0 {
            self.changed.notify_all();
        }
    }

    /// Busy-polls for the outcome of the only call in flight, if that has
    /// recently paid off.
    pub(super) fn spin(&self, command: &Arc<Command>) {
        let queue = lock(&self.queue);
        let Some(flight) = queue.in_flight.clone().filter(|_| queue.waiting.is_empty()) else { return };
        drop(queue);
        if Arc::ptr_eq(&flight.command, command) && command.is_one_call() {
            self.spin.until(self.route.plugin.site.options.spin, || {
                flight.connection.channel.look();
                command.is_settled()
            });
        }
    }

    /// Does what can be done now. Never blocks; may be called with locks of
    /// channels held.
    pub(super) fn advance(self: &Arc<Self>) {
        if self.turns.fetch_add(1, Ordering::SeqCst) > 0 {
            return;
        }
        let mut seen = 1;
        loop {
            while self.go_on() {}
            match self.turns.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Takes the next step; returns whether there may be another.
    fn go_on(self: &Arc<Self>) -> bool {
        let mut queue = lock(&self.queue);
        let now = Instant::now();
        let landed = match queue.in_flight.take() {
            None => None,
            Some(flight) => match flight.command.take_reply() {
                Some(reply) => Some((flight, reply)),
                None => {
                    let channel = (now >= flight.answer_by).then(|| flight.connection.channel.clone());
                    let answer_by = flight.answer_by;
                    queue.in_flight = Some(flight);
                    self.set_timer(&mut queue, answer_by);
                    drop(queue);
                    return channel.is_some_and(|channel| channel.try_expire(&self.waker));
                }
            },
        };
        // The next command is in flight while this one's answer is read.
        let sent = match &landed {
            // What has failed is explained first.
            Some((_, Err(_))) => {
                drop(queue);
                false
            }
            _ => self.send_next(queue),
        };
        match landed {
            None => return sent,
            Some((flight, Ok(reply))) => {
                let Flight { command, connection, .. } = flight;
                self.route.plugin.counters.answers.add(command.rows() as u64);
                command.land(&self.route, reply);
                connection.channel.look_again();
            }
            Some((flight, Err(failure))) => self.recover(Trouble::NoAnswer(flight, failure)),
        }
        self.tell_change(lock(&self.queue));
        true
    }

    /// Sends the first waiting command, if that is possible now.
    fn send_next(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) -> bool {
        if queue.is_recovering {
            return false;
        }
        let (command, message) = loop {
            let Some(command) = queue.waiting.front().cloned() else { return false };
            match command.seal() {
                Some(message) => break (command, message),
                // Every call of it was dropped.
                None => drop(queue.waiting.pop_front()),
            }
        };
        let options = &self.route.plugin.site.options;
        let waiting = queue.waiting.len();
        let (send_by, _) = *queue.send_by.get_or_insert_with(|| (Instant::now() + options.send_timeout, waiting));
        // Whatever happens to this one: no other thread sends.
        drop(queue);
        let Some(connection) = self.route.usable().filter(|usable| Shape::of(usable) == command.shape) else {
            command.put_back(message);
            self.recover(Trouble::Connect);
            return false;
        };
        let (sent, waker) = (command.clone(), self.waker.clone());
        let channel = Arc::downgrade(&connection.channel);
        let posted = connection.channel.try_post(&message, !command.shape.is_batch, &self.waker, move |reply| {
            sent.keep_reply(reply.map(std::mem::take));
            // The channel is in use by whoever has read the answer.
            match channel.upgrade() {
                Some(channel) => channel.wake_on_release(&waker),
                None => waker.wake_by_ref(),
            }
        });
        let mut queue = lock(&self.queue);
        match posted {
            Ok(true) => {
                self.route.plugin.counters.calls.add(command.rows() as u64);
                queue.waiting.pop_front();
                queue.send_by = None;
                queue.buffer = message;
                let answer_by = Instant::now() + options.recv_timeout;
                self.set_timer(&mut queue, answer_by);
                let is_awaited = !queue.waiting.is_empty() || command.has_waker();
                let channel = connection.channel.clone();
                queue.in_flight = Some(Flight { command, connection, answer_by });
                self.tell_change(queue);
                if is_awaited {
                    channel.attend();
                }
                true
            }
            Ok(false) => {
                command.put_back(message);
                if Instant::now() < send_by {
                    self.set_timer(&mut queue, send_by);
                } else {
                    drop(queue);
                    self.recover(Trouble::NotSent(connection, Failure::NotReady(NotReady::Busy)));
                }
                false
            }
            // Nothing tells when there is room again.
            Err(Failure::Transport(TransportError::Timeout)) if Instant::now() < send_by => {
                command.put_back(message);
                self.set_timer(&mut queue, Instant::now() + ROOM_PAUSE);
                false
            }
            Err(failure) => {
                command.put_back(message);
                drop(queue);
                self.recover(Trouble::NotSent(connection, failure));
                false
            }
        }
    }

    /// Goes on at this time, at the latest.
    fn set_timer(&self, queue: &mut Queue, at: Instant) {
        let is_due = |(set, _): &(Instant, Timer)| *set <= Instant::now();
        if queue.timer.as_ref().is_none_or(|timer| is_due(timer) || timer.0 > at) {
            let timer = self.route.plugin.site.idle_reader.wake_at(at, self.waker.clone());
            queue.timer = Some((at, timer));
        }
    }

    /// Has a thread do what may block.
    fn recover(self: &Arc<Self>, trouble: Trouble) {
        lock(&self.queue).is_recovering = true;
        let (pipeline, trouble) = (self.clone(), Arc::new(Mutex::new(Some(trouble))));
        let own = trouble.clone();
        let resolve = move || {
            if let Some(trouble) = lock(&own).take() {
                pipeline.resolve(trouble);
                pipeline.advance();
            }
        };
        let name = format!("{}-calls", self.route.symbol);
        if let Err(error) = std::thread::Builder::new().name(name).spawn(resolve) {
            tracing::warn!(function = &*self.route.symbol, %error, "cannot start a thread, so this one waits for the plugin");
            if let Some(trouble) = lock(&trouble).take() {
                self.resolve(trouble);
                // The caller goes on.
                self.turns.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn resolve(&self, trouble: Trouble) {
        let options = &self.route.plugin.site.options;
        match trouble {
            Trouble::NoAnswer(Flight { command, connection, .. }, failure) => {
                let what = self.route.what(command.shape.kind());
                command.fail(connection.running.explain(failure, what, options.recv_timeout));
                connection.channel.look_again();
            }
            Trouble::Connect => self.connect(),
            Trouble::NotSent(connection, failure) => {
                let is_over = match failure {
                    Failure::ProcessEnded => connection.running.is_over(),
                    Failure::Lost | Failure::NotReady(NotReady::NoPeer) => true,
                    _ => false,
                };
                if is_over {
                    self.connect();
                } else {
                    let what = self.route.what(CallKind::Exec);
                    self.fail_due(connection.running.explain(failure, what, options.send_timeout));
                }
            }
        }
        let mut queue = lock(&self.queue);
        queue.is_recovering = false;
        self.tell_change(queue);
    }

    /// Connects the function again, after a crash with the next process.
    fn connect(&self) {
        let send_by = lock(&self.queue).send_by.map(|(send_by, _)| send_by);
        let until = send_by.unwrap_or_else(|| Instant::now() + self.route.plugin.site.options.send_timeout);
        let connection = match self.route.connection(until) {
            Ok(connection) => connection,
            Err(error) => return self.fail_due(error),
        };
        let mut queue = lock(&self.queue);
        // Another version of the plugin, on another SDK, cannot read what was
        // encoded for the former one.
        let shape = Shape::of(&connection);
        let (kept, unreadable): (VecDeque<_>, VecDeque<_>) =
            queue.waiting.drain(..).partition(|command| command.shape == shape);
        queue.waiting = kept;
        drop(queue);
        for command in unreadable {
            let what = self.route.what(command.shape.kind());
            command.fail(command.origin.explain(Failure::ProcessEnded, what, Duration::ZERO));
        }
    }

    /// Fails the first waiting command, and those that have waited with it.
    fn fail_due(&self, error: Error) {
        let mut queue = lock(&self.queue);
        let due = queue.send_by.take().map_or(1, |(_, due)| due).min(queue.waiting.len());
        let commands: Vec<_> = queue.waiting.drain(..due).collect();
        drop(queue);
        for command in commands {
            command.fail(error.clone());
        }
    }
}

/// Decides whether busy-polling pays off.
#[derive(Default)]
struct Spin {
    /// Number of waits to come without busy-polling.
    skips: AtomicU32,
    /// Number of times in a row that it did not pay off.
    failures: AtomicU32,
}

impl Spin {
    fn until(&self, patience: Duration, mut done: impl FnMut() -> bool) {
        let skips = self.skips.load(Ordering::Relaxed);
        if skips > 0 {
            self.skips.store(skips - 1, Ordering::Relaxed);
            return;
        }
        let give_up = Instant::now() + patience;
        loop {
            if done() {
                self.failures.store(0, Ordering::Relaxed);
                return;
            }
            if Instant::now() >= give_up {
                break;
            }
            std::hint::spin_loop();
        }
        let failures = (self.failures.load(Ordering::Relaxed) + 1).min(MAX_SKIPS);
        self.failures.store(failures, Ordering::Relaxed);
        self.skips.store(1 << failures, Ordering::Relaxed);
    }
}
