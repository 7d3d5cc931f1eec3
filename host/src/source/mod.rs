//! Reading from a plugin's source.

pub(crate) mod async_source;
pub(crate) mod backlog;
#[cfg(any(feature = "arrow59", feature = "c-data"))]
#[cfg_attr(not(feature = "arrow59"), allow(unreachable_pub, reason = "arrow59 exports it"))]
pub(crate) mod batches;

mod connection;
mod session;

use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ekuiper_core::buffer::trim;
use ekuiper_core::codec::Format;
use ekuiper_core::message::{Control, RawTuple, SourceMessage, SymbolKind, Tuple};
use ekuiper_core::transport::Deadline;
use ekuiper_transport_ipc::wait::deadline_after;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::background::Task;
use crate::plugin::Plugin;
use crate::target::{Target, target_setters};
use crate::{Error, Result, blocking};
use async_source::AsyncSource;
use connection::{SourceConnection, Until};
use session::{Received, SourceSession};

/// Builder of a [`Source`].
#[must_use = "it does nothing until it is opened"]
pub struct SourceBuilder {
    plugin: Result<Arc<Plugin>>,
    target: Target,
    datasource: String,
    columns: bool,
}

impl SourceBuilder {
    pub(crate) fn new(plugin: Result<Arc<Plugin>>, symbol: &str) -> Self {
        Self { plugin, target: Target::new(SymbolKind::Source, symbol), datasource: String::new(), columns: false }
    }

    target_setters!();

    /// Sets what the source is to read: a topic, for example. Default: empty.
    pub fn datasource(mut self, datasource: impl Into<String>) -> Self {
        self.datasource = datasource.into();
        self
    }

    /// Asks for record batches as the source makes them, as Arrow IPC streams:
    /// [`RawTuple::columns`] of [`Source::next_raw`], or `arrow59::batches`. To
    /// every other reader of this source they are errors. A source that emits
    /// rows, and one that takes no notice of this, sends tuples as before.
    pub fn columns(mut self) -> Self {
        self.columns = true;
        self
    }

    /// Starts the source.
    ///
    /// # Errors
    /// No plugin serves it; the plugin cannot be started, or refuses; another
    /// channel has the same address, or another handle has the
    /// [place](Self::wait_for_place).
    pub fn open(self) -> Result<Source> {
        self.open_as()
    }

    /// Starts the source in a thread of the host, for a caller that must not
    /// block. Dropping the future stops the source, and ends every wait of the
    /// open: the next open at its [place](Self::wait_for_place) waits until it
    /// is stopped.
    ///
    /// # Errors
    /// As [`SourceBuilder::open`].
    pub fn open_async<M: DeserializeOwned + Send + 'static>(self) -> Task<Result<AsyncSource<M>>> {
        match self.session() {
            Ok(session) => {
                let opened = session.clone();
                let opening = session.plugin.site.openings.start(move || Source::open(opened).map(Source::into_async));
                opening.or_when_dropped(move || session.give_up_open())
            }
            Err(error) => Task::done(Err(error)),
        }
    }

    /// Starts the source, whose records are decoded as `M`.
    ///
    /// # Errors
    /// As [`SourceBuilder::open`].
    pub fn open_as<M: DeserializeOwned>(self) -> Result<Source<M>> {
        Source::open(self.session()?)
    }

    fn session(self) -> Result<Arc<SourceSession>> {
        let Self { plugin, target, datasource, columns } = self;
        let plugin = plugin?;
        let control = Control::source(&target.symbol, target.meta.clone(), &datasource, target.config(plugin.name())?);
        let control = control.with_columns(columns);
        Ok(SourceSession::new(plugin, target, control))
    }
}

/// A running source: an iterator over its tuples and errors.
///
/// The iterator ends when the source has ended or was [stopped](Stopper::stop).
/// When the host is shut down or the plugin is removed, [`Error::Stopped`] is
/// the last item. A record that
/// cannot be decoded, and an error that the source reports, are items, after
/// which the iterator continues. After a crash of the plugin it continues with
/// the next process; while the plugin is [broken](Error::Broken), that error is
/// an item.
///
/// A source that is not read blocks. A source on an official SDK can do so for
/// only a second; what it sends is queued meanwhile. When the queue is full,
/// [`Error::Overrun`] is an item, and the source is restarted.
///
/// Dropping it stops the source, without waiting for that.
pub struct Source<M = Value> {
    session: Arc<SourceSession>,
    /// The connection that is read.
    current: Option<Arc<SourceConnection>>,
    buffer: Vec<u8>,
    /// A time that has passed.
    opened: Instant,
    over: bool,
    closed: bool,
    record: PhantomData<fn() -> M>,
}

impl<M: DeserializeOwned> Source<M> {
    /// Returns the next tuple, waiting for at most `patience`; `Ok(None)` once
    /// the source has ended.
    ///
    /// # Errors
    /// [`Error::Timeout`] when there is none in time; [`Error::Source`] and
    /// [`Error::Message`] for an error that the source reported and a record
    /// that cannot be decoded; [`Error::Overrun`] at a gap, because nobody
    /// read; [`Error::Broken`] when the plugin keeps crashing;
    /// [`Error::NotRestored`] when this source was not restarted;
    /// [`Error::Stopped`], once, when the host is shut down or the plugin is
    /// removed.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<Tuple<M>>> {
        self.advance(Some(deadline_after(patience))).unwrap_or_else(|| Err(self.nothing_within(patience)))
    }

    fn nothing_within(&self, patience: Duration) -> Error {
        let what = self.session.what().in_words(self.session.target.describe());
        Error::Timeout { plugin: self.session.plugin.name().to_owned(), what, after: patience }
    }

    /// Receives the next tuple without decoding its record, waiting for at most
    /// `patience`; without a patience, for as long as it takes. With none at
    /// all (zero), no clock is read. Returns false once the source has ended.
    ///
    /// # Errors
    /// As [`Source::next_within`].
    pub fn next_raw(&mut self, raw: &mut RawTuple, patience: Option<Duration>) -> Result<bool> {
        if self.over {
            return Ok(false);
        }
        let deadline = patience.map(|patience| if patience.is_zero() { self.opened } else { deadline_after(patience) });
        trim(raw.buffer());
        let received = self.session.receive(&mut self.current, raw.buffer(), Until::Deadline(deadline));
        let found = self.take(received, |source, format| match raw.find(format) {
            Ok(None) => Ok(()),
            Ok(Some(text)) => Err(source.reported(text)),
            Err(error) => Err(source.unread(error)),
        });
        found.unwrap_or_else(|| Err(self.nothing_within(patience.unwrap_or_default()))).map(|found| found.is_some())
    }

    /// Returns the next tuple, or `None` when the deadline has passed.
    fn advance(&mut self, deadline: Deadline) -> Option<Result<Option<Tuple<M>>>> {
        if self.over {
            return Some(Ok(None));
        }
        let received = self.session.receive(&mut self.current, &mut self.buffer, Until::Deadline(deadline));
        self.take(received, Self::decode)
    }

    /// Returns the next tuple, or wakes the task when it may be there.
    fn poll(&mut self, context: &Context<'_>) -> Poll<Result<Option<Tuple<M>>>> {
        if self.over {
            return Poll::Ready(Ok(None));
        }
        let received = ready!(self.session.poll_receive(&mut self.current, &mut self.buffer, context));
        self.take(received, Self::decode).map_or(Poll::Pending, Poll::Ready)
    }

    /// Returns what was received, read by `read` if it is a message.
    fn take<T>(
        &mut self,
        received: Result<Received>,
        read: impl FnOnce(&mut Self, Format) -> Result<T>,
    ) -> Option<Result<Option<T>>> {
        Some(match received {
            Ok(Received::Message(format)) => {
                self.session.counted.read();
                read(self, format).map(Some).map_err(|error| self.counted(error))
            }
            Ok(Received::End) => {
                self.over = true;
                Ok(None)
            }
            Ok(Received::Nothing) => return None,
            Err(error) => {
                self.over = matches!(error, Error::Stopped);
                Err(self.counted(error))
            }
        })
    }

    /// Counts an error that is an item, and returns it.
    fn counted(&self, error: Error) -> Error {
        self.session.counted.failed(1, &error);
        error
    }

    fn decode(&mut self, format: Format) -> Result<Tuple<M>> {
        let decoded = match SourceMessage::decode(format, &self.buffer) {
            Ok(SourceMessage::Tuple(tuple)) => Ok(tuple),
            Ok(SourceMessage::Error(text)) => Err(self.reported(text)),
            Err(error) => Err(self.unread(error)),
        };
        trim(&mut self.buffer);
        decoded
    }

    /// Returns the error that the source has reported.
    fn reported(&self, text: String) -> Error {
        let symbol = self.session.control.symbol_name.clone();
        Error::Source { plugin: self.session.plugin.name().to_owned(), symbol, text }
    }

    /// Returns why a message cannot be read.
    fn unread(&self, source: ekuiper_core::Error) -> Error {
        Error::Message { what: self.session.what().answered(), source: source.into() }
    }
}

impl<M> Source<M> {
    fn open(session: Arc<SourceSession>) -> Result<Self> {
        session.open()?;
        let opened = Instant::now();
        Ok(Self { session, current: None, buffer: Vec::new(), opened, over: false, closed: false, record: PhantomData })
    }

    /// Stops the source.
    ///
    /// # Errors
    /// The plugin did not carry out the stop.
    pub fn close(mut self) -> Result<()> {
        self.closed = true;
        self.session.stop()
    }

    /// Returns the source as a stream.
    pub fn into_async(self) -> AsyncSource<M> {
        AsyncSource::new(self)
    }

    /// Stops the source in a thread of the host.
    fn close_async(mut self) -> Task<Result<()>> {
        self.closed = true;
        let session = self.session.clone();
        session.plugin.site.background.clone().start(move || session.stop())
    }

    /// Returns a handle that ends the iteration from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.session.clone())
    }
}

impl<M: DeserializeOwned> Iterator for Source<M> {
    type Item = Result<Tuple<M>>;

    fn next(&mut self) -> Option<Self::Item> {
        // Without a deadline, there is always an outcome.
        self.advance(None)?.transpose()
    }
}

impl<M> Drop for Source<M> {
    fn drop(&mut self) {
        if !self.closed {
            blocking::forbidden(|| self.session.stop_later());
        }
    }
}

/// Handle that ends the iteration over a [`Source`] from another thread.
#[derive(Clone)]
pub struct Stopper(Arc<SourceSession>);

impl Stopper {
    /// Ends the iteration; tuples not read yet are dropped.
    pub fn stop(&self) {
        self.0.end();
    }
}
