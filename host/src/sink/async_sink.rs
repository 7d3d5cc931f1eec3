//! A sink for tasks.

use ekuiper_core::instant::later;
use ekuiper_transport_ipc::wait::deadline_after;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use ekuiper_core::transport::TransportError;
use serde::Serialize;

use super::acks::Acknowledged;
use super::connection::SinkConnection;
use super::message::Message;
use super::pending::PendingAck;
use super::sender::Attempt;
use super::sent::Sent;
use super::tally::Delivery;
use super::{Sink, SinkStopper};
use crate::background::Task;
use crate::blocking;
use crate::channel::ROOM_PAUSE;
use crate::channel::idle_reader::{Tended, Timer, Watch, Watched};
use crate::sync::{InARow, lock, wake_tasks};
use crate::{Error, Result};

/// A running sink for tasks of any runtime: what [`Sink`] is for threads. The
/// host wakes the tasks.
///
/// It is a [`futures` sink](futures_sink::Sink) of rows, or arrays of rows:
/// `ready` waits while the plugin takes nothing, or while the window of
/// unacknowledged messages is full; `flush` until everything was sent, and
/// acknowledged where the sink requires that; `close` until everything was
/// collected, and the sink was stopped. An error of `ready` or `flush` may be
/// that of an earlier message; the sink can be used further.
/// [`AsyncSink::post`] gives each message's outcome.
///
/// Dropping it never blocks: the host drains and stops the sink.
pub struct AsyncSink {
    /// Absent once the sink is being closed.
    sink: Option<Sink>,
    stopper: SinkStopper,
    /// The message that was not sent yet.
    queued: Option<Queued>,
    /// Messages sent through [`futures_sink::Sink`], in their order.
    acks: VecDeque<PendingAck>,
    closing: Option<Task<Result<()>>>,
    /// Messages since the last wait.
    in_a_row: InARow,
}

/// A message that was not sent yet.
struct Queued {
    message: Message,
    since: Instant,
    wait: Option<Wait>,
    /// A thread sends the message, since that may block, and has taken it.
    task: Option<Task<Result<Option<Sent>>>>,
}

/// Guards of what wakes the task.
struct Wait {
    _room: Option<Watch>,
    _timer: Timer,
}

/// Wakes a task when a connection has room.
struct Room {
    connection: Arc<dyn AsFd + Send + Sync>,
    task: Mutex<Option<Waker>>,
}

impl Watched for Room {
    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.connection.as_fd())
    }

    fn wants_room(&self) -> bool {
        true
    }

    fn uses(&self) -> u64 {
        0
    }

    fn tend(&self) -> Tended {
        let task = lock(&self.task).take();
        wake_tasks(task);
        Tended::Over
    }
}

impl Queued {
    fn new(message: Message) -> Self {
        Self { message, since: Instant::now(), wait: None, task: None }
    }
}

impl AsyncSink {
    pub(super) fn new(sink: Sink) -> Self {
        let stopper = sink.stopper();
        Self {
            sink: Some(sink),
            stopper,
            queued: None,
            acks: VecDeque::new(),
            closing: None,
            in_a_row: InARow::default(),
        }
    }

    /// Sends a row, or an array of rows, as soon as the plugin takes it; the
    /// result is the future of its acknowledgement, which is there at once for
    /// a sink without acknowledgements. If the future is dropped, the message
    /// is not sent, unless it was.
    ///
    /// # Errors
    /// As [`Sink::send_async`].
    pub async fn post(&mut self, rows: &(impl Serialize + ?Sized)) -> Result<PendingAck> {
        poll_fn(|context| self.poll_sendable(context)).await?;
        let message = self.encode(rows)?;
        let mut posting = Posting { sink: self, queued: Some(Queued::new(message)) };
        let sent = poll_fn(|context| posting.poll(context)).await?;
        Ok(sent.map_or_else(|| PendingAck::known(Ok(())), PendingAck::of))
    }

    /// Drains the sink, and stops it, as [`Sink::close`] does. It is done
    /// whether or not the future is awaited.
    ///
    /// # Errors
    /// As [`Sink::close`]; or a message that was accepted could not be sent.
    pub fn close(mut self) -> Task<Result<()>> {
        self.begin_close();
        self.closing.take().unwrap_or_else(|| Task::done(Ok(())))
    }

    /// Has a thread of the host send what was accepted, and close the sink.
    fn begin_close(&mut self) {
        let Some(mut sink) = self.sink.take() else { return };
        sink.closed = true;
        let (sender, queued) = (sink.sender.clone(), self.queued.take());
        let close = move || {
            let sent = match queued {
                None => Ok(()),
                Some(Queued { task: Some(task), .. }) => task.wait().map(|_| ()),
                Some(Queued { message, .. }) => sender.transmit_alone(&message).map(|_| ()),
            };
            let closed = sender.session.stop();
            sent.and(closed)
        };
        self.closing = Some(sink.session().close_later(close));
    }

    /// Returns the delivery counts so far.
    pub fn delivery(&self) -> Delivery {
        self.stopper.delivery()
    }

    /// Returns a handle that ends waits on this sink from elsewhere.
    pub fn stopper(&self) -> SinkStopper {
        self.stopper.clone()
    }

    fn open(&self) -> Result<&Sink> {
        self.sink.as_ref().ok_or(Error::Stopped)
    }

    fn encode(&self, rows: &(impl Serialize + ?Sized)) -> Result<Message> {
        let session = self.open()?.session();
        let mut message = Message::empty(Vec::new());
        message.encode(rows, session.format()).map_err(|source| session.unencodable(source))?;
        Ok(message)
    }

    /// Waits until the next message can be accepted. After many without a wait,
    /// other tasks of the executor have a turn first.
    fn poll_sendable(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.in_a_row.poll_turn(context));
        let polled = blocking::forbidden(|| self.poll_queued(context));
        self.in_a_row.count(polled)
    }

    /// Sends the message that was accepted and not sent.
    fn poll_queued(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let Some(mut queued) = self.queued.take() else { return Poll::Ready(Ok(())) };
        match self.poll_transmit(&mut queued, context) {
            Poll::Ready(sent) => {
                self.acks.extend(sent?.map(PendingAck::of));
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                self.queued = Some(queued);
                Poll::Pending
            }
        }
    }

    fn poll_transmit(&self, queued: &mut Queued, context: &mut Context<'_>) -> Poll<Result<Option<Sent>>> {
        let sink = match self.open() {
            Ok(sink) => sink,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let session = sink.session();
        let mut is_registered = false;
        loop {
            if let Some(task) = &mut queued.task {
                return Pin::new(task).poll(context);
            }
            if queued.wait.take().is_some() && session.is_stopped() {
                return Poll::Ready(Err(Error::Stopped));
            }
            let options = &session.plugin.site.options;
            match sink.sender.try_transmit(&queued.message) {
                Attempt::Sent(sent) => return Poll::Ready(Ok(sent)),
                Attempt::NoRoom(connection) => {
                    if queued.since.elapsed() >= options.send_timeout {
                        let problem = "it takes no message";
                        let error = TransportError::Timeout;
                        return Poll::Ready(Err(session.explain(&connection, error, problem, options.send_timeout)));
                    }
                    queued.wait =
                        Some(self.await_room(&connection, later(queued.since, options.send_timeout), context));
                    session.register_task(context.waker());
                    return if session.is_stopped() { Poll::Ready(Err(Error::Stopped)) } else { Poll::Pending };
                }
                Attempt::WindowFull(connection, number) => {
                    if queued.since.elapsed() >= options.recv_timeout {
                        let late = Acknowledged::Timeout(TransportError::Timeout);
                        return Poll::Ready(session.outcome(&connection, late, options.recv_timeout).map(|()| None));
                    }
                    let idle_reader = &session.plugin.site.idle_reader;
                    let timer = idle_reader.wake_at(later(queued.since, options.recv_timeout), context.waker().clone());
                    queued.wait = Some(Wait { _room: None, _timer: timer });
                    if is_registered {
                        return Poll::Pending;
                    }
                    // Before the last attempt, so that no acknowledgement is
                    // missed.
                    connection.acks.register_task(number, context.waker());
                    session.register_task(context.waker());
                    if session.is_stopped() {
                        return Poll::Ready(Err(Error::Stopped));
                    }
                    is_registered = true;
                }
                Attempt::MayBlock => {
                    let (sender, message) =
                        (sink.sender.clone(), std::mem::replace(&mut queued.message, Message::empty(Vec::new())));
                    let transmit = move || sender.transmit_alone(&message);
                    queued.task = Some(session.plugin.site.background.start(transmit));
                }
            }
        }
    }

    fn await_room(&self, connection: &SinkConnection, until: Instant, context: &Context<'_>) -> Wait {
        let idle_reader = &connection.running.site.idle_reader;
        let waker = context.waker();
        // What cannot be watched is looked at again and again.
        let room = connection.room().and_then(|room| {
            let room = Room { connection: room, task: Mutex::new(Some(waker.clone())) };
            idle_reader.watch(&"room for a message".into(), Arc::new(room)).ok()
        });
        let at = if room.is_some() { until } else { deadline_after(ROOM_PAUSE) };
        Wait { _room: room, _timer: idle_reader.wake_at(at, waker.clone()) }
    }

    /// Takes the outcomes of the oldest messages, as far as they are known.
    fn poll_known(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        while self.acks.front().is_some_and(PendingAck::is_known) {
            ready!(self.poll_first(context))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what was accepted, and takes the outcomes of all messages.
    fn poll_all(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_queued(context))?;
        while !self.acks.is_empty() {
            ready!(self.poll_first(context))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let Some(first) = self.acks.front_mut() else { return Poll::Ready(Ok(())) };
        let outcome = ready!(Pin::new(first).poll(context));
        self.acks.pop_front();
        Poll::Ready(outcome)
    }
}

impl Drop for AsyncSink {
    fn drop(&mut self) {
        if let Some(sink) = &self.sink {
            sink.session().mark_dropped();
            blocking::forbidden(|| self.begin_close());
        }
    }
}

/// A message that is sent by one future.
struct Posting<'a> {
    sink: &'a mut AsyncSink,
    queued: Option<Queued>,
}

impl Posting<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Sent>>> {
        let queued = self.queued.as_mut().expect("it is polled until it is sent");
        let sent = ready!(blocking::forbidden(|| self.sink.poll_transmit(queued, context)));
        self.queued = None;
        Poll::Ready(sent)
    }
}

impl Drop for Posting<'_> {
    /// A thread that sends the message cannot be told not to: the next message
    /// waits for it.
    fn drop(&mut self) {
        self.sink.queued = self.queued.take().filter(|queued| queued.task.is_some());
    }
}

impl<T: Serialize> futures_sink::Sink<T> for AsyncSink {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_known(context))?;
        self.poll_sendable(context)
    }

    /// # Errors
    /// The rows cannot be encoded.
    fn start_send(mut self: Pin<&mut Self>, rows: T) -> Result<()> {
        let message = self.encode(&rows)?;
        // Usually it is sent at once.
        match self.open()?.sender.try_transmit(&message) {
            Attempt::Sent(sent) => self.acks.extend(sent.map(PendingAck::of)),
            _ => self.queued = Some(Queued::new(message)),
        }
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_all(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        if self.closing.is_none() {
            ready!(self.poll_all(context))?;
        }
        self.begin_close();
        match &mut self.closing {
            Some(closing) => {
                let closed = ready!(Pin::new(closing).poll(context));
                self.closing = Some(Task::done(Ok(())));
                Poll::Ready(closed)
            }
            None => Poll::Ready(Ok(())),
        }
    }
}
