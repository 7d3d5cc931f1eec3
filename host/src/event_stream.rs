//! Events of a host as a stream, for tasks.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use crate::status::Event;
use crate::sync::{lock, wake_tasks};

/// The [events](crate::Host::event_stream) of all plugins of a host, as a
/// stream. No thread waits for it. It ends when the host is dropped.
///
/// A stream that is not read misses the events that exceed its
/// [queue](crate::HostBuilder::event_queue), and [counts](EventStream::missed)
/// them.
#[derive(Debug)]
pub struct EventStream(Arc<EventQueue>);

/// Events that a stream has not read.
#[derive(Debug)]
pub(crate) struct EventQueue {
    state: Mutex<State>,
    /// Maximum number of events.
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    missed: u64,
    is_over: bool,
    waker: Option<Waker>,
}

impl EventStream {
    /// Creates a stream, and the queue to which its events are pushed.
    pub(crate) fn new(limit: usize) -> (Self, Arc<EventQueue>) {
        let queue = Arc::new(EventQueue { state: Mutex::default(), limit });
        (Self(queue.clone()), queue)
    }

    /// Returns how many events were missed so far because the queue was full.
    pub fn missed(&self) -> u64 {
        lock(&self.0.state).missed
    }
}

impl EventQueue {
    pub(crate) fn push(&self, event: &Event) {
        let mut state = lock(&self.state);
        if state.events.len() >= self.limit {
            state.missed += 1;
            return;
        }
        state.events.push_back(event.clone());
        wake(state);
    }

    /// Ends the stream after the events that it has.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.is_over = true;
        wake(state);
    }
}

fn wake(mut state: std::sync::MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    wake_tasks(waker);
}

impl Stream for EventStream {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut state = lock(&self.0.state);
        if let Some(event) = state.events.pop_front() {
            return Poll::Ready(Some(event));
        }
        if state.is_over {
            return Poll::Ready(None);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
