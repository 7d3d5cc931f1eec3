//! A source as a stream.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use ekuiper_core::message::Tuple;
use ekuiper_transport_ipc::wait::deadline_after;
use futures_core::Stream;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Source, Stopper};
use crate::background::Task;
use crate::blocking;
use crate::channel::idle_reader::Timer;
use crate::sync::InARow;
use crate::{Error, Result};

/// A running source as a stream of its tuples and errors: what [`Source`] is
/// for threads, for tasks of any runtime. The host wakes them.
///
/// Dropping it, or a future of it, at any point loses no tuple of another
/// handle, and never blocks.
pub struct AsyncSource<M = Value> {
    source: Source<M>,
    /// Tuples of a chunk whose future was dropped, or is in progress.
    chunk: VecDeque<Tuple<M>>,
    /// The error that ended the last chunk.
    failure: Option<Error>,
    /// Tuples since the last wait.
    in_a_row: InARow,
}

// Nothing of it is pinned.
impl<M> Unpin for AsyncSource<M> {}

impl<M> AsyncSource<M> {
    pub(super) fn new(source: Source<M>) -> Self {
        Self { source, chunk: VecDeque::new(), failure: None, in_a_row: InARow::default() }
    }

    /// Stops the source. It is stopped whether or not the future is awaited.
    ///
    /// # Errors
    /// The plugin did not carry out the stop.
    pub fn close(self) -> Task<Result<()>> {
        self.source.close_async()
    }

    /// Returns a handle that ends the stream from elsewhere.
    pub fn stopper(&self) -> Stopper {
        self.source.stopper()
    }
}

impl<M: DeserializeOwned> AsyncSource<M> {
    /// Returns the next tuples, at most `max_rows`, as soon as there are so
    /// many or `max_wait` is over: then those that have arrived by then, or
    /// none. `Ok(None)` once the source has ended. If the future is dropped,
    /// the next one begins with the tuples that it had.
    ///
    /// # Errors
    /// As [`Source::next_within`], but for its time-out. Tuples that arrived
    /// before the error are returned first.
    pub async fn next_chunk(&mut self, max_rows: usize, max_wait: Duration) -> Result<Option<Vec<Tuple<M>>>> {
        let until = deadline_after(max_wait);
        let mut timer = None;
        poll_fn(|context| self.poll_chunk(context, max_rows.max(1), until, &mut timer)).await
    }

    /// Returns the next tuple. After many without a wait, other tasks of the
    /// executor have a turn first.
    fn poll_source(&mut self, context: &Context<'_>) -> Poll<Result<Option<Tuple<M>>>> {
        ready!(self.in_a_row.poll_turn(context));
        self.in_a_row.count(blocking::forbidden(|| self.source.poll(context)))
    }

    fn poll_chunk(
        &mut self,
        context: &Context<'_>,
        max_rows: usize,
        until: Instant,
        timer: &mut Option<(Waker, Timer)>,
    ) -> Poll<Result<Option<Vec<Tuple<M>>>>> {
        while self.failure.is_none() && self.chunk.len() < max_rows {
            match self.poll_source(context) {
                Poll::Ready(Ok(Some(tuple))) => self.chunk.push_back(tuple),
                Poll::Ready(Ok(None)) if self.chunk.is_empty() => return Poll::Ready(Ok(None)),
                Poll::Ready(Ok(None)) => break,
                Poll::Ready(Err(error)) => self.failure = Some(error),
                Poll::Pending if Instant::now() >= until => break,
                Poll::Pending => {
                    if timer.as_ref().is_none_or(|(waker, _)| !waker.will_wake(context.waker())) {
                        let idle_reader = &self.source.session.plugin.site.idle_reader;
                        let waker = context.waker().clone();
                        *timer = Some((waker.clone(), idle_reader.wake_at(until, waker)));
                    }
                    return Poll::Pending;
                }
            }
        }
        if self.chunk.is_empty()
            && let Some(error) = self.failure.take()
        {
            return Poll::Ready(Err(error));
        }
        let rest = self.chunk.split_off(max_rows.min(self.chunk.len()));
        Poll::Ready(Ok(Some(std::mem::replace(&mut self.chunk, rest).into())))
    }
}

impl<M: DeserializeOwned> Stream for AsyncSource<M> {
    type Item = Result<Tuple<M>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(tuple) = self.chunk.pop_front() {
            return Poll::Ready(Some(Ok(tuple)));
        }
        match self.failure.take() {
            Some(error) => Poll::Ready(Some(Err(error))),
            None => self.poll_source(context).map(Result::transpose),
        }
    }
}
