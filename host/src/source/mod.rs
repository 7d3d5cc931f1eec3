//! Reading from a plugin's source.

pub(crate) mod backlog;
mod connection;
mod session;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_core::codec::Format;
use ekuiper_core::message::{Control, SourceMessage, SymbolKind, Tuple};
use ekuiper_core::transport::{Deadline, TransportError};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::plugin::Plugin;
use crate::target::{Target, target_setters};
use crate::{Error, Result};
use session::SourceSession;

/// A source that is about to be opened.
#[must_use = "it does nothing until it is opened"]
pub struct SourceBuilder {
    plugin: Result<Arc<Plugin>>,
    target: Target,
    datasource: String,
}

impl SourceBuilder {
    pub(crate) fn new(plugin: Result<Arc<Plugin>>, symbol: &str) -> Self {
        Self { plugin, target: Target::new(SymbolKind::Source, symbol), datasource: String::new() }
    }

    target_setters!();

    /// The topic or the like that the source is to read. Default: none.
    pub fn datasource(mut self, datasource: impl Into<String>) -> Self {
        self.datasource = datasource.into();
        self
    }

    /// Starts the source.
    ///
    /// # Errors
    /// No plugin serves it; the plugin cannot be started, or refuses; another
    /// channel has the same address.
    pub fn open(self) -> Result<Source> {
        self.open_as()
    }

    /// Starts the source; its records are read as `M`.
    ///
    /// # Errors
    /// As [`SourceBuilder::open`].
    pub fn open_as<M: DeserializeOwned>(self) -> Result<Source<M>> {
        let Self { plugin, target, datasource } = self;
        let plugin = plugin?;
        let control = Control::source(&target.symbol, target.meta.clone(), &datasource, target.config()?);
        let session = SourceSession::new(plugin.clone(), target, control);
        plugin.attach(session.clone())?;
        Ok(Source { session, buffer: Vec::new(), over: false, closed: false, record: PhantomData })
    }
}

/// A source that runs: an iterator over its tuples and errors.
///
/// It ends when the source has ended by itself, or was closed. A record that
/// cannot be read, and an error that the source reports, are items; it goes on
/// after them. When its plugin crashes it goes on with the next process; while
/// the plugin is [broken](Error::Broken), that is an item.
///
/// A source that is not read has to wait. One on an official SDK waits for a
/// second at most, and what it sends is kept for its reader meanwhile; when
/// that is too much, [`Error::Overrun`] is an item, and it is started again.
///
/// Dropping it stops the source.
pub struct Source<M = Value> {
    session: Arc<SourceSession>,
    buffer: Vec<u8>,
    over: bool,
    closed: bool,
    record: PhantomData<fn() -> M>,
}

impl<M: DeserializeOwned> Source<M> {
    /// The next tuple, waited for at most `patience`.
    ///
    /// `Ok(None)`: the source is over.
    ///
    /// # Errors
    /// [`Error::Timeout`] when none came; [`Error::Source`] and
    /// [`Error::Message`] for what the source reported or garbled;
    /// [`Error::Overrun`] after a gap: too little was read;
    /// [`Error::Broken`] when the plugin crashes again and again,
    /// [`Error::NotRestored`] when this source did not start again.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<Tuple<M>>> {
        self.advance(Some(Instant::now() + patience)).map_err(|error| match error {
            Error::Transport { source: TransportError::Timeout, .. } => {
                let what = self.session.target.describe();
                Error::Timeout { plugin: self.session.plugin.name().to_owned(), what, after: patience }
            }
            error => error,
        })
    }

    fn advance(&mut self, deadline: Deadline) -> Result<Option<Tuple<M>>> {
        if self.over {
            return Ok(None);
        }
        match self.session.receive(&mut self.buffer, deadline) {
            Ok(Some(format)) => {
                self.session.plugin.counters.messages_in.add(1);
                self.decode(format).map(Some)
            }
            Ok(None) => {
                self.over = true;
                Ok(None)
            }
            Err(error) => {
                self.over = matches!(error, Error::Stopped);
                Err(error)
            }
        }
    }

    fn decode(&self, format: Format) -> Result<Tuple<M>> {
        let symbol = || self.session.control.symbol_name.clone();
        match SourceMessage::decode(format, &self.buffer) {
            Ok(SourceMessage::Tuple(tuple)) => Ok(tuple),
            Ok(SourceMessage::Error(text)) => Err(Error::Source { symbol: symbol(), text }),
            Err(source) => Err(Error::Message { what: self.session.what(), source }),
        }
    }
}

impl<M> Source<M> {
    /// Stops the source.
    ///
    /// # Errors
    /// The plugin did not carry out the stop.
    pub fn close(mut self) -> Result<()> {
        self.closed = true;
        self.session.stop()
    }

    /// A handle that ends the iteration from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.session.clone())
    }
}

impl<M: DeserializeOwned> Iterator for Source<M> {
    type Item = Result<Tuple<M>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance(None).transpose()
    }
}

impl<M> Drop for Source<M> {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        if let Err(error) = self.session.stop() {
            tracing::warn!(%error, "a source was not stopped");
        }
    }
}

/// Ends the iteration over a [`Source`] from another thread.
#[derive(Clone)]
pub struct Stopper(Arc<SourceSession>);

impl Stopper {
    /// The iteration ends; what the source has still sent is dropped.
    pub fn stop(&self) {
        self.0.end();
    }
}
