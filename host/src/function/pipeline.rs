//! The async calls of a function. One [`Command`] is in flight at a time; calls
//! made meanwhile are gathered in the next, and sent in their order.
//!
//! A pipeline has no thread, and does not block. It [advances](Pipeline::advance)
//! in the thread of each event that it may wait for: a call was made, an answer
//! was read (by any thread that uses the channel, or by the idle reader), the
//! channel is free again, a deadline has passed. What may block (to find out how
//! a process ended, to start a function again) is a [`Recovery`], for which a
//! thread is started; only where none can be started does the advancing one
//! block.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use ekuiper_core::buffer::trim;
use ekuiper_core::exchange::NotReady;
use ekuiper_core::message::{Arguments, BatchWriter, CallKind, encode_call, end_columns_call};
use ekuiper_core::transport::TransportError;
use ekuiper_transport_ipc::wait::deadline_after;

use super::command::{Command, Shape};
use super::options::{CallOptions, Due, Terms};
use super::route::{FunctionConnection, FunctionRoute, next_batch};
use super::spin::Spin;
use crate::blocking;
use crate::channel::idle_reader::Timer;
use crate::channel::{Failure, LOOK_PAUSE, PostNumber, ROOM_PAUSE};
use crate::sync::{Turns, lock, wait, wake_tasks};
use crate::{Error, Result};

pub(crate) struct Pipeline {
    pub(super) route: Arc<FunctionRoute>,
    queue: Mutex<Queue>,
    /// Notified when a command was sent or has an outcome.
    changed: Condvar,
    /// Of the threads that [advance](Pipeline::advance) it.
    turns: Turns,
    /// Advances the pipeline.
    waker: Waker,
    spin: Spin,
    /// Its waits can be [ended](Pipeline::stop) from elsewhere.
    has_stopper: AtomicBool,
    is_stopped: AtomicBool,
    /// Woken after each step: the pool that this belongs to. It makes the calls
    /// that could not be sent elsewhere, so those do not wait for a restart.
    observer: Option<Waker>,
}

#[derive(Default)]
struct Queue {
    /// Commands that were not sent.
    waiting: VecDeque<Arc<Command>>,
    in_flight: Option<Flight>,
    /// Buffer of the last command, reused by the next.
    buffer: Vec<u8>,
    /// A recovery is in progress; nothing is sent meanwhile.
    is_recovering: bool,
    /// When the first waiting command must be sent, once that was tried, and
    /// the number of commands that waited then: they fail with it.
    send_by: Option<(Instant, usize)>,
    timer: Option<(Instant, Timer)>,
    /// No deadline of a call is earlier. It may be that of a call that is over.
    first_due: Option<Instant>,
    /// Number of threads that wait for a change.
    threads: usize,
}

#[derive(Clone)]
struct Flight {
    command: Arc<Command>,
    connection: FunctionConnection,
    /// Number of its message on the channel.
    post: PostNumber,
    answer_by: Instant,
}

/// Why the pipeline needs a thread that may block.
enum Recovery {
    /// The function is to be connected again; nothing was sent.
    Connect,
    /// The first waiting command could not be sent.
    NotSent(FunctionConnection, Failure),
    /// A command was sent, and has no answer.
    NoAnswer(Flight, Failure),
}

/// Waker that advances a pipeline, unless it is gone. The pipeline holds it, so
/// the reference is weak.
struct AdvanceOnWake(Weak<Pipeline>);

impl Wake for AdvanceOnWake {
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
    pub(super) fn new(route: Arc<FunctionRoute>, observer: Option<Waker>) -> Arc<Self> {
        Arc::new_cyclic(|own: &Weak<Self>| Self {
            route,
            queue: Mutex::default(),
            changed: Condvar::new(),
            turns: Turns::default(),
            waker: Waker::from(Arc::new(AdvanceOnWake(own.clone()))),
            spin: Spin::default(),
            has_stopper: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            observer,
        })
    }

    /// Returns whether its waits can be ended from elsewhere.
    pub(super) fn has_stopper(&self) -> bool {
        self.has_stopper.load(Ordering::Relaxed)
    }

    /// Lets its waits be ended from elsewhere.
    pub(super) fn enable_stop(&self) {
        self.has_stopper.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::SeqCst)
    }

    /// Ends every wait, and refuses every later call.
    pub(super) fn stop(&self) {
        self.route.stop();
        let mut queue = lock(&self.queue);
        self.is_stopped.store(true, Ordering::SeqCst);
        let flight = queue.in_flight.clone();
        let commands: Vec<_> =
            queue.waiting.drain(..).chain(flight.iter().map(|flight| flight.command.clone())).collect();
        drop(queue);
        if let Some(flight) = &flight {
            flight.command.cancel();
        }
        commands.iter().for_each(|command| command.fail(Error::Stopped));
        self.tell_change(lock(&self.queue));
        if let Some(flight) = flight {
            flight.connection.channel.look_again();
            flight.connection.running.post_cancels();
        }
    }

    /// Takes the calls back that are not being sent, and were not: they fail.
    pub(super) fn withdraw(&self) {
        let mut queue = lock(&self.queue);
        let (kept, withdrawn): (VecDeque<_>, VecDeque<_>) =
            queue.waiting.drain(..).partition(|command| command.is_being_sent());
        queue.waiting = kept;
        if queue.waiting.is_empty() {
            queue.send_by = None;
        }
        drop(queue);
        withdrawn.iter().for_each(|command| command.fail(Error::Stopped));
        self.observer.iter().for_each(Waker::wake_by_ref);
    }

    /// Adds a call; returns its command, and its number in that.
    pub(super) fn add(self: &Arc<Self>, args: &impl Arguments, options: &CallOptions) -> Result<(Arc<Command>, usize)> {
        let added = self.try_add(args, options);
        added.map_err(|error| self.route.counted.begin(1, Instant::now()).fail(error))
    }

    fn try_add(self: &Arc<Self>, args: &impl Arguments, options: &CallOptions) -> Result<(Arc<Command>, usize)> {
        self.admit()?;
        self.add_admitted(args, Terms::of(options, &self.route.plugin.site.options), options.due())
    }

    /// Fails if too many calls wait.
    pub(super) fn admit(&self) -> Result<()> {
        let site = &self.route.plugin.site;
        let is_full = site.waiting_calls.load(Ordering::Relaxed) >= site.options.call_queue;
        if is_full { Err(self.route.queue_full()) } else { Ok(()) }
    }

    /// Adds a call, whatever waits.
    pub(super) fn add_admitted(
        self: &Arc<Self>,
        args: &impl Arguments,
        terms: Terms,
        due: Option<Due>,
    ) -> Result<(Arc<Command>, usize)> {
        let connection = self.route.latest();
        let shape = Shape::of(&connection);
        let mut queue = lock(&self.queue);
        if self.is_stopped() {
            return Err(Error::Stopped);
        }
        self.note_due(&mut queue, due);
        let wrong = |source| self.route.unsent(shape.kind, source);
        let max = self.route.plugin.site.options.max_message;
        if let Some(last) = queue.waiting.back().filter(|last| last.shape == shape && last.terms == terms)
            && let Some(row) = last.add(args, due).transpose().map_err(wrong)?
        {
            self.route.counted.made(1, last.since);
            return Ok((last.clone(), row));
        }
        let buffer = std::mem::take(&mut queue.buffer);
        let command = if shape.is_batch() {
            let id = next_batch();
            let mut batch = BatchWriter::new(shape.format, buffer, id, &self.route.encoded_meta);
            if let Err(length) = batch.row_within(args, max).map_err(wrong)? {
                return Ok(
                    self.refuse(Command::call(shape, terms, 0, Vec::new(), due, connection, &self.route), length)
                );
            }
            Command::batch(shape, terms, id, batch, connection, due, &self.route)
        } else {
            let mut message = buffer;
            message.clear();
            encode_call(shape.format, &mut message, CallKind::Exec, args, Some(&self.route.encoded_meta))
                .map_err(wrong)?;
            if message.len() > max {
                let length = message.len();
                return Ok(
                    self.refuse(Command::call(shape, terms, 0, Vec::new(), due, connection, &self.route), length)
                );
            }
            Command::call(shape, terms, 0, message, due, connection, &self.route)
        };
        Ok((self.enqueue(queue, command), 0))
    }

    /// Adds a call with columns, whatever waits. `write` appends the columns, whose
    /// first row has this number. An error is not counted: the columns may be sent
    /// in shorter parts.
    pub(super) fn add_columns(
        self: &Arc<Self>,
        first: usize,
        write: impl FnOnce(&mut Vec<u8>) -> ekuiper_core::Result<()>,
        terms: Terms,
        due: Option<Due>,
    ) -> Result<Arc<Command>> {
        let options = &self.route.plugin.site.options;
        let connection = self.route.latest();
        let shape = Shape::of_columns(&connection).ok_or_else(|| self.route.no_columns())?;
        let mut message = std::mem::take(&mut lock(&self.queue).buffer);
        message.clear();
        write(&mut message).map_err(|source| self.route.unsent(shape.kind, source))?;
        let id = next_batch();
        end_columns_call(shape.format, &mut message, id, first as u64, &self.route.encoded_meta);
        if message.len() > options.max_message {
            return Err(self.route.too_long(message.len()));
        }
        let mut queue = lock(&self.queue);
        if self.is_stopped() {
            return Err(Error::Stopped);
        }
        self.note_due(&mut queue, due);
        let command = Command::call(shape, terms, id, message, due, connection, &self.route);
        Ok(self.enqueue(queue, command))
    }

    /// Notes the deadline of a call.
    fn note_due(&self, queue: &mut Queue, due: Option<Due>) {
        if let Some(due) = due
            && queue.first_due.is_none_or(|first| due.at < first)
        {
            queue.first_due = Some(due.at);
            self.set_timer(queue, due.at);
        }
    }

    /// Has a command wait for its turn.
    fn enqueue(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>, command: Command) -> Arc<Command> {
        let command = Arc::new(command);
        self.route.counted.made(1, command.since);
        queue.waiting.push_back(command.clone());
        match queue.in_flight.clone() {
            // This call is sent after the answer, which nothing else may wait
            // for.
            Some(flight) => {
                drop(queue);
                flight.connection.channel.arm_idle_reader();
            }
            None => {
                drop(queue);
                self.advance();
            }
        }
        command
    }

    /// Fails a call whose message alone is longer than the limit.
    fn refuse(&self, command: Command, length: usize) -> (Arc<Command>, usize) {
        self.route.counted.made(1, command.since);
        command.fail(self.route.too_long(length));
        (Arc::new(command), 0)
    }

    /// Has the idle reader read the answer to this command, if that is in
    /// flight.
    pub(super) fn arm_idle_reader(&self, command: &Arc<Command>) {
        let flight = lock(&self.queue).in_flight.clone();
        if let Some(flight) = flight.filter(|flight| Arc::ptr_eq(&flight.command, command)) {
            flight.connection.channel.arm_idle_reader();
        }
    }

    /// Waits until a call has its outcome.
    pub(super) fn wait(self: &Arc<Self>, command: &Command, row: usize) {
        let due = command.due(row);
        while !command.is_over(row) {
            let queue = lock(&self.queue);
            match queue.in_flight.clone().filter(|flight| !flight.command.has_reply()) {
                Some(Flight { connection, post, answer_by, .. }) => {
                    drop(queue);
                    // The wait may have been ended from elsewhere.
                    let look = deadline_after(LOOK_PAUSE);
                    let until = due.map_or(look, |due| due.min(look));
                    connection.channel.settle_unless(post, until, answer_by, || command.is_over(row));
                    self.advance();
                }
                None => self.await_change(queue, command, row),
            }
        }
    }

    /// Waits until another thread has sent a command, or has read an outcome.
    fn await_change(&self, mut queue: MutexGuard<'_, Queue>, command: &Command, row: usize) {
        queue.threads += 1;
        while !command.is_over(row) && queue.in_flight.as_ref().is_none_or(|flight| flight.command.has_reply()) {
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

    /// Does what can be done now, without blocking. May be called by a thread
    /// that holds a channel: channels are only tried.
    pub(super) fn advance(self: &Arc<Self>) {
        self.turns.take(|| {
            blocking::forbidden(|| while self.step() {});
            self.observer.iter().for_each(Waker::wake_by_ref);
        });
    }

    /// Takes the next step; returns whether there may be another.
    fn step(self: &Arc<Self>) -> bool {
        let mut queue = lock(&self.queue);
        let now = Instant::now();
        if queue.first_due.is_some_and(|first| first <= now) {
            drop(queue);
            self.expire(now);
            return true;
        }
        let landed = match queue.in_flight.take() {
            None => None,
            Some(flight) => match flight.command.take_reply() {
                Some(reply) => Some((flight, reply)),
                None => {
                    let late = (now >= flight.answer_by).then(|| (flight.connection.channel.clone(), flight.post));
                    let answer_by = flight.answer_by;
                    queue.in_flight = Some(flight);
                    self.set_timer(&mut queue, answer_by);
                    drop(queue);
                    return late.is_some_and(|(channel, post)| channel.try_expire(Some(post), &self.waker));
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
                command.land(&self.route, reply);
                connection.channel.look_again();
            }
            Some((flight, Err(failure))) => {
                // After a timeout.
                flight.connection.running.post_cancels();
                self.recover(Recovery::NoAnswer(flight, failure));
            }
        }
        self.tell_change(lock(&self.queue));
        true
    }

    /// Fails the calls whose deadline has passed.
    fn expire(&self, now: Instant) {
        let mut queue = lock(&self.queue);
        let flight = queue.in_flight.clone();
        let in_flight = flight.iter().map(|flight| (&flight.command, true));
        let (mut wakers, mut first) = (Vec::new(), None);
        for (command, is_sent) in queue.waiting.iter().map(|command| (command, false)).chain(in_flight) {
            let (woken, next) = command.expire(now, &self.route, is_sent);
            wakers.extend(woken);
            first = first.into_iter().chain(next).min();
        }
        queue.first_due = first;
        if let Some(first) = first {
            self.set_timer(&mut queue, first);
        }
        self.tell_change(queue);
        wake_tasks(wakers);
        if let Some(flight) = flight {
            flight.connection.channel.look_again();
            flight.connection.running.post_cancels();
        }
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
        let (send_by, _) = *queue.send_by.get_or_insert_with(|| (deadline_after(options.send_timeout), waiting));
        // The command stays the first: only the thread that advances sends.
        drop(queue);
        let Some(connection) = self.route.usable().filter(|usable| command.shape.fits(usable)) else {
            command.put_back(message);
            self.recover(Recovery::Connect);
            return false;
        };
        let (sent, waker) = (command.clone(), self.waker.clone());
        let channel = Arc::downgrade(&connection.channel);
        let posted =
            connection.channel.try_post(&message, command.shape.kind == CallKind::Exec, &self.waker, move |reply| {
                sent.keep_reply(reply.map(std::mem::take));
                // The thread that has read the answer still holds the channel.
                match channel.upgrade() {
                    Some(channel) => channel.wake_on_release(&waker),
                    None => waker.wake_by_ref(),
                }
            });
        let mut queue = lock(&self.queue);
        match posted {
            Ok(Some(post)) => {
                // It may have been stopped meanwhile.
                if queue.waiting.front().is_some_and(|first| Arc::ptr_eq(first, &command)) {
                    queue.waiting.pop_front();
                }
                queue.send_by = None;
                queue.buffer = command.mark_sent(message, &connection.running).unwrap_or_default();
                trim(&mut queue.buffer);
                let answer_by = deadline_after(command.terms.patience(command.rows()));
                self.set_timer(&mut queue, answer_by);
                let is_awaited = !queue.waiting.is_empty() || command.has_waker() || self.observer.is_some();
                let FunctionConnection { running, channel } = connection.clone();
                queue.in_flight = Some(Flight { command, connection, post, answer_by });
                self.tell_change(queue);
                if is_awaited {
                    channel.arm_idle_reader();
                }
                // Calls may have been dropped while they were being sent.
                running.post_cancels();
                true
            }
            Ok(None) => {
                command.put_back(message);
                if Instant::now() < send_by {
                    self.set_timer(&mut queue, send_by);
                } else {
                    drop(queue);
                    self.recover(Recovery::NotSent(connection, Failure::NotReady(NotReady::Busy)));
                }
                false
            }
            // Nothing tells when there is room again.
            Err(Failure::Transport(TransportError::Timeout)) if Instant::now() < send_by => {
                command.put_back(message);
                self.set_timer(&mut queue, deadline_after(ROOM_PAUSE));
                false
            }
            Err(failure) => {
                command.put_back(message);
                drop(queue);
                self.recover(Recovery::NotSent(connection, failure));
                false
            }
        }
    }

    /// Has the pipeline advance at this time, at the latest.
    fn set_timer(&self, queue: &mut Queue, at: Instant) {
        let at = queue.first_due.map_or(at, |first| first.min(at));
        let is_due = |(set, _): &(Instant, Timer)| *set <= Instant::now();
        if queue.timer.as_ref().is_none_or(|timer| is_due(timer) || timer.0 > at) {
            let timer = self.route.plugin.site.idle_reader.wake_at(at, self.waker.clone());
            queue.timer = Some((at, timer));
        }
    }

    /// Has a thread do what may block: nothing is sent until then.
    fn recover(self: &Arc<Self>, recovery: Recovery) {
        lock(&self.queue).is_recovering = true;
        let pipeline = self.clone();
        self.route.plugin.site.background.run(move || {
            pipeline.resolve(recovery);
            // Where no thread can be started, `advance`, which has called this,
            // takes another step.
            pipeline.advance();
        });
    }

    /// Carries out a recovery; may block.
    fn resolve(&self, recovery: Recovery) {
        let options = &self.route.plugin.site.options;
        match recovery {
            Recovery::NoAnswer(Flight { command, connection, .. }, failure) => {
                let what = self.route.what(command.shape.kind);
                let is_lost = matches!(failure, Failure::OutcomeUnknown);
                let error = connection.running.explain(failure, what, command.terms.patience(command.rows()));
                match if is_lost { command.repeat(error, &self.route) } else { Err(error) } {
                    Ok(()) => lock(&self.queue).waiting.push_front(command),
                    Err(error) => command.fail(error),
                }
                connection.channel.look_again();
            }
            Recovery::Connect => self.connect(),
            Recovery::NotSent(connection, failure) => {
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
        let until = match &self.observer {
            Some(_) => Instant::now(),
            None => send_by.unwrap_or_else(|| deadline_after(self.route.plugin.site.options.send_timeout)),
        };
        let connection = match self.route.connection(until) {
            Ok(connection) => connection,
            Err(error) => return self.fail_due(error),
        };
        let mut queue = lock(&self.queue);
        // Another version of the plugin, on another SDK, cannot read what was
        // encoded for the former one.
        let (kept, unreadable): (VecDeque<_>, VecDeque<_>) =
            queue.waiting.drain(..).partition(|command| command.shape.fits(&connection));
        queue.waiting = kept;
        drop(queue);
        for command in unreadable {
            let what = self.route.what(command.shape.kind);
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
