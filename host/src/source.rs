//! Reading from a plugin's source.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::message::{Control, SourceMessage, SymbolKind, Tuple};
use ekuiper_core::transport::{Deadline, Endpoint, Pull, PullEvent, TransportError};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::dependents::Dependent;
use crate::error::transport_error;
use crate::plugin::Plugin;
use crate::process::EXIT_GRACE;
use crate::running::Running;
use crate::site::Claim;
use crate::target::{Target, target_setters};
use crate::{Error, Result};

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
        let target = self.target;
        let control = Control::source(&target.symbol, target.meta.clone(), &self.datasource, target.config()?);
        let running = self.plugin?.running()?;
        let what = || format!("{} (plugin {})", target.describe(), running.name);
        let address = running.folder.data(&target.meta).map_err(|source| Error::Message { what: what(), source })?;
        let claim = running.site.claim(address, what())?;
        let endpoint = Endpoint::Listen(claim.address.clone());
        let pull = running.site.transport.pull(&endpoint, &running.site.options.transport());
        let inlet = Arc::new(Inlet {
            pull: pull.map_err(transport_error(what()))?,
            connected: AtomicBool::new(false),
            process_ended: AtomicBool::new(false),
        });
        running.depends(&(inlet.clone() as Arc<dyn Dependent>));
        running.start_symbol(&control)?;
        Ok(Source {
            running,
            control,
            inlet,
            buffer: Vec::new(),
            over: false,
            stopped: false,
            _claim: claim,
            record: PhantomData,
        })
    }
}

/// The receiving end of a data channel.
struct Inlet {
    pull: Box<dyn Pull>,
    connected: AtomicBool,
    process_ended: AtomicBool,
}

impl Dependent for Inlet {
    fn process_ended(&self) {
        self.process_ended.store(true, Ordering::SeqCst);
        // What a connection still holds is delivered, its end then follows.
        if !self.connected.load(Ordering::SeqCst) {
            self.pull.close();
        }
    }

    fn close(&self) {
        self.pull.close();
    }
}

/// A source that runs: an iterator over its tuples and errors.
///
/// It ends when the source has ended by itself, or was closed. A record that
/// cannot be read, and an error that the source reports, are items; it goes on
/// after them. Dropping it stops the source.
pub struct Source<M = Value> {
    running: Arc<Running>,
    control: Control,
    inlet: Arc<Inlet>,
    buffer: Vec<u8>,
    over: bool,
    stopped: bool,
    _claim: Claim,
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
    /// [`Error::Exited`] when the plugin died.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<Tuple<M>>> {
        self.advance(Some(Instant::now() + patience)).map_err(|error| match error {
            Error::Transport { source: TransportError::Timeout, what } => {
                Error::Timeout { plugin: self.running.name.clone(), what, after: patience }
            }
            error => error,
        })
    }

    fn advance(&mut self, deadline: Deadline) -> Result<Option<Tuple<M>>> {
        loop {
            if self.over {
                return Ok(None);
            }
            match self.inlet.pull.receive(&mut self.buffer, deadline) {
                Ok(PullEvent::Message(_)) => return self.decode().map(Some),
                Ok(PullEvent::Connected(_)) => self.inlet.connected.store(true, Ordering::SeqCst),
                Ok(PullEvent::Disconnected(_)) => {
                    self.over = true;
                    return self.end();
                }
                Err(TransportError::Closed) => {
                    self.over = true;
                    return match self.inlet.process_ended.load(Ordering::SeqCst) {
                        true => self.end(),
                        false => Ok(None),
                    };
                }
                Err(error) => return Err(transport_error(self.what())(error)),
            }
        }
    }

    fn decode(&self) -> Result<Tuple<M>> {
        match SourceMessage::decode(&self.buffer) {
            Ok(SourceMessage::Tuple(tuple)) => Ok(tuple),
            Ok(SourceMessage::Error(text)) => Err(Error::Source { symbol: self.control.symbol_name.clone(), text }),
            Err(source) => Err(Error::Message { what: self.what(), source }),
        }
    }

    /// The source has ended: by itself, unless its process has.
    fn end(&self) -> Result<Option<Tuple<M>>> {
        match self.running.process.wait(EXIT_GRACE) {
            None => Ok(None),
            Some(exit) => Err(Error::Exited { plugin: self.running.name.clone(), exit }),
        }
    }
}

impl<M> Source<M> {
    /// Stops the source.
    ///
    /// # Errors
    /// The plugin did not carry out the stop.
    pub fn close(mut self) -> Result<()> {
        self.stop()
    }

    /// A handle that ends the iteration from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.inlet.clone())
    }

    fn what(&self) -> String {
        format!("source {} of plugin {}", self.control.symbol_name, self.running.name)
    }

    /// Drops what still comes, until the connection ends. One that there never
    /// was has ended.
    fn has_ended(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while !self.over {
            let connected = self.inlet.connected.load(Ordering::SeqCst);
            match self.inlet.pull.receive(&mut self.buffer, Some(if connected { deadline } else { Instant::now() })) {
                Ok(PullEvent::Connected(_)) => self.inlet.connected.store(true, Ordering::SeqCst),
                Ok(PullEvent::Message(_)) if Instant::now() < deadline => {}
                Ok(PullEvent::Message(_)) => return false,
                Ok(PullEvent::Disconnected(_)) | Err(TransportError::Closed) => self.over = true,
                Err(_) => return !connected,
            }
        }
        true
    }

    fn stop(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        let (running, control) = (self.running.clone(), self.control.clone());
        let stopped = running.stop_symbol(&control, |patience| self.has_ended(patience));
        self.inlet.pull.close();
        stopped
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
        if let Err(error) = self.stop() {
            tracing::warn!(%error, "a source was not stopped");
        }
    }
}

/// Ends the iteration over a [`Source`] from another thread.
#[derive(Clone)]
pub struct Stopper(Arc<Inlet>);

impl Stopper {
    /// The iteration ends; what the source has still sent is dropped.
    pub fn stop(&self) {
        self.0.pull.close();
    }
}
