//! Path of a call to the process that serves its function, and of the answer
//! back.

use ekuiper_core::buffer::trim;
use ekuiper_core::instant::later;
use ekuiper_transport_ipc::wait::deadline_after;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::codec::Format;
use ekuiper_core::message::{
    Arguments, CallKind, EncodedMeta, Feature, FunctionMeta, Meta, Outcome, SymbolKind, decode_reply, encode_call,
    end_columns_call, is_columns,
};
use ekuiper_core::transport::TransportError;
use serde::de::DeserializeOwned;

use crate::channel::LOOK_PAUSE;
use crate::channel::{Channel, Failure};
use crate::error::transport_error;
use crate::health::ledger::{Counted, Ledger};
use crate::health::vitals::Place;
use crate::plugin::Plugin;
use crate::plugin::running::Running;
use crate::plugin::uses::FunctionUse;
use crate::site::Holder;
use crate::sync::lock;
use crate::{Error, Result, Subject};

/// A function called for one rule, operator and instance, across all processes
/// of its plugin.
pub(crate) struct FunctionRoute {
    pub(super) plugin: Arc<Plugin>,
    pub(super) symbol: Arc<str>,
    pub(super) meta: FunctionMeta,
    pub(super) encoded_meta: EncodedMeta,
    current: Mutex<Current>,
    buffer: Mutex<Vec<u8>>,
    pub(super) counted: Arc<Counted>,
    /// Memory of answers whose columns are in use.
    #[cfg(any(feature = "arrow59", feature = "c-data"))]
    pub(super) memory: ekuiper_core::columns::MessageMemory,
    /// Given up once its waits are ended from elsewhere.
    holder: Holder,
    usage: FunctionUse,
}

/// Connection of the last call.
struct Current {
    connection: FunctionConnection,
    /// Another process may serve now.
    is_forgotten: bool,
}

/// A function in one process of its plugin.
#[derive(Clone)]
pub(super) struct FunctionConnection {
    pub(super) running: Arc<Running>,
    pub(super) channel: Arc<Channel>,
}

/// Returns the number of a new batch. No other batch of this process has it, so
/// that a late cancel hits no other.
pub(super) fn next_batch() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

impl FunctionConnection {
    pub(super) fn format(&self) -> Format {
        self.running.format(SymbolKind::Function)
    }

    pub(super) fn takes_batches(&self) -> bool {
        self.running.has(Feature::Batch)
    }

    pub(super) fn takes_columns(&self) -> bool {
        self.running.has(Feature::Columns)
    }
}

/// Returns the place at which calls of a function are counted.
pub(super) fn place(symbol: &str, meta: &FunctionMeta) -> Place {
    let FunctionMeta { rule_id, op_id, instance_id, .. } = meta.clone();
    let meta = Meta { rule_id, op_id, instance_id };
    Place { kind: SymbolKind::Function, name: symbol.to_owned(), meta }
}

/// Returns the columns of an answer, or the function's error.
pub(super) fn columns_of(format: Format, reply: &[u8]) -> ekuiper_core::Result<Outcome<&[u8]>> {
    if is_columns(reply) {
        return Ok(Ok(reply));
    }
    Ok(match decode_reply::<serde::de::IgnoredAny>(format, reply)? {
        Err(text) => Err(text),
        Ok(_) => Err("the plugin answered without columns".into()),
    })
}

impl FunctionRoute {
    /// Starts the function, and its plugin.
    pub(super) fn open(plugin: Arc<Plugin>, symbol: &str, meta: FunctionMeta) -> Result<Self> {
        let ledger = plugin.ledger.clone();
        Self::open_counted(plugin, symbol, meta, &ledger)
    }

    /// [Opens](FunctionRoute::open) a function whose calls its pool counts.
    pub(super) fn open_uncounted(plugin: Arc<Plugin>, symbol: &str, meta: FunctionMeta) -> Result<Self> {
        Self::open_counted(plugin, symbol, meta, &Arc::default())
    }

    fn open_counted(plugin: Arc<Plugin>, symbol: &str, meta: FunctionMeta, ledger: &Arc<Ledger>) -> Result<Self> {
        let deadline = deadline_after(plugin.site.options.init_timeout);
        let symbol: Arc<str> = symbol.into();
        // Before it is started: an update does not drop it from then on.
        let usage = FunctionUse::new(plugin.clone(), symbol.clone());
        let (running, channel) = plugin.function(&symbol, &Holder::default(), deadline)?;
        Ok(Self::new(plugin, symbol, meta, FunctionConnection { running, channel }, ledger, usage))
    }

    fn new(
        plugin: Arc<Plugin>,
        symbol: Arc<str>,
        meta: FunctionMeta,
        connection: FunctionConnection,
        ledger: &Arc<Ledger>,
        usage: FunctionUse,
    ) -> Self {
        let encoded_meta = EncodedMeta::from(&meta);
        let current = Mutex::new(Current { connection, is_forgotten: false });
        Self {
            encoded_meta,
            current,
            buffer: Mutex::default(),
            counted: ledger.function(place(&symbol, &meta), plugin.all_restarts()),
            #[cfg(any(feature = "arrow59", feature = "c-data"))]
            memory: ekuiper_core::columns::MessageMemory::default(),
            holder: Holder::default(),
            plugin,
            symbol,
            meta,
            usage,
        }
    }

    /// Returns the same function with another rule, operator and instance.
    pub(super) fn with_meta(&self, meta: FunctionMeta) -> Self {
        let (plugin, usage) = (self.plugin.clone(), self.usage.clone());
        Self::new(plugin, self.symbol.clone(), meta, self.latest(), &self.plugin.ledger, usage)
    }

    /// Ends every wait of a thread for the function, or for its plugin.
    pub(super) fn stop(&self) {
        self.holder.give_up();
        self.plugin.wake_holders();
    }

    /// Makes a call, and waits for its answer.
    pub(super) fn call<R: DeserializeOwned>(&self, args: &impl Arguments) -> Result<R> {
        self.ask(CallKind::Exec, args, Some(&self.encoded_meta))
    }

    pub(super) fn ask<R: DeserializeOwned>(
        &self,
        kind: CallKind,
        args: &impl Arguments,
        meta: Option<&EncodedMeta>,
    ) -> Result<R> {
        let now = Instant::now();
        let call = self.counted.begin(1, now);
        let encode = |connection: &FunctionConnection, request: &mut Vec<u8>| {
            encode_call(connection.format(), request, kind, args, meta).map_err(|source| self.unsent(kind, source))
        };
        let outcome = self.exchange(now, kind, encode, |format, reply| decode_reply(format, reply));
        call.end(&outcome);
        outcome
    }

    /// Makes a call with columns, which `write` writes, and whose first row has
    /// this number; waits for its answer, whose columns `read` reads; it may take
    /// their buffer. Counts as one call.
    pub(super) fn call_columns<R>(
        &self,
        first: usize,
        write: impl Fn(&mut Vec<u8>) -> ekuiper_core::Result<()>,
        read: impl Fn(&mut Vec<u8>) -> ekuiper_core::Result<R>,
    ) -> Result<R> {
        let kind = CallKind::Columns;
        let now = Instant::now();
        let call = self.counted.begin(1, now);
        let encode = |connection: &FunctionConnection, request: &mut Vec<u8>| {
            if !connection.takes_columns() {
                return Err(self.no_columns());
            }
            write(request).map_err(|source| self.unsent(kind, source))?;
            end_columns_call(connection.format(), request, 0, first as u64, &self.encoded_meta);
            Ok(())
        };
        let outcome = self.exchange(now, kind, encode, |format, reply| match columns_of(format, reply)? {
            Ok(_) => read(reply).map(Ok),
            Err(text) => Ok(Err(text)),
        });
        call.end(&outcome);
        outcome
    }

    fn exchange<R>(
        &self,
        now: Instant,
        kind: CallKind,
        encode: impl Fn(&FunctionConnection, &mut Vec<u8>) -> Result<()>,
        read: impl Fn(Format, &mut Vec<u8>) -> ekuiper_core::Result<Outcome<R>>,
    ) -> Result<R> {
        let what = || self.what(kind);
        let options = &self.plugin.site.options;
        let send_by = later(now, options.send_timeout);
        let mut now = now;
        let mut request = std::mem::take(&mut *lock(&self.buffer));
        let asked = loop {
            let connection = match self.usable() {
                Some(connection) => connection,
                None => match self.connection(send_by) {
                    // It may have been started first, which is no time of the answer's.
                    Ok(connection) => {
                        now = Instant::now();
                        connection
                    }
                    Err(error) => break Err(error),
                },
            };
            let format = connection.format();
            request.clear();
            if let Err(error) = encode(&connection, &mut request) {
                break Err(error);
            }
            let is_stopped = || self.holder.check().is_err();
            let stop = Some((now + LOOK_PAUSE, &is_stopped as &dyn Fn() -> bool));
            let answer_by = later(now, options.recv_timeout);
            let read = |reply: &mut Vec<u8>| read(format, reply);
            match connection.channel.exchange_unless(&request, [send_by, answer_by], stop, read) {
                Ok(reply) => break Ok(reply),
                Err(Failure::Timeout | Failure::NotReady(_)) if is_stopped() => break Err(Error::Stopped),
                // Nothing was sent: retry with the next process.
                Err(Failure::ProcessEnded) if connection.running.is_over() => self.forget(),
                // Nothing was sent: retry once the function is restarted.
                Err(Failure::Lost) if Instant::now() < send_by => {}
                Err(failure) => break Err(connection.running.explain(failure, what(), options.recv_timeout)),
            }
        };
        trim(&mut request);
        *lock(&self.buffer) = request;
        match asked? {
            Ok(Outcome::Ok(result)) => Ok(result),
            Ok(Err(text)) => Err(self.failed(text)),
            Err(source) => Err(self.unread(kind, source)),
        }
    }

    /// Returns the function's connection in the serving process; after a crash,
    /// waits for the next one.
    pub(super) fn connection(&self, deadline: Instant) -> Result<FunctionConnection> {
        if let Some(connection) = self.usable() {
            return Ok(connection);
        }
        let (running, channel) = self.plugin.function(&self.symbol, &self.holder, deadline)?;
        let connection = FunctionConnection { running, channel };
        *lock(&self.current) = Current { connection: connection.clone(), is_forgotten: false };
        Ok(connection)
    }

    /// Returns the connection of the last call, if the next one can use it as
    /// it is.
    pub(super) fn usable(&self) -> Option<FunctionConnection> {
        let current = lock(&self.current);
        let is_usable = !current.is_forgotten && current.connection.channel.is_usable();
        is_usable.then(|| current.connection.clone())
    }

    /// Returns the connection of the last call.
    pub(super) fn latest(&self) -> FunctionConnection {
        lock(&self.current).connection.clone()
    }

    /// Discards the connection: another process may serve now.
    fn forget(&self) {
        lock(&self.current).is_forgotten = true;
    }

    pub(super) fn what(&self, kind: CallKind) -> Subject {
        Subject::from(format!("the {kind} of function {}", self.symbol)).about(self.plugin.name(), Some(&self.symbol))
    }

    /// Returns the error of arguments that cannot be encoded.
    pub(super) fn unsent(&self, kind: CallKind, source: ekuiper_core::Error) -> Error {
        Error::Message { what: self.what(kind).not_sent(), source: source.into() }
    }

    /// Returns the error of a call whose message alone is longer than the limit.
    pub(super) fn too_long(&self, length: usize) -> Error {
        let (length, max) = (length as u64, self.plugin.site.options.max_message as u64);
        let what = self.what(CallKind::Exec).not_sent();
        let words = format!("plugin {}: {what}", self.plugin.name());
        transport_error(what.in_words(words))(TransportError::TooLong { length, max })
    }

    /// Returns the error of an answer that cannot be decoded.
    pub(super) fn unread(&self, kind: CallKind, source: ekuiper_core::Error) -> Error {
        Error::Message { what: self.what(kind).answered(), source: source.into() }
    }

    /// Returns the error of a call whose deadline has passed.
    pub(super) fn expired(&self, after: Duration, is_sent: bool) -> Error {
        let plugin = self.plugin.name().to_owned();
        if is_sent {
            return Error::Timeout { plugin, what: self.what(CallKind::Exec), after };
        }
        Error::Expired { plugin, symbol: self.symbol.to_string(), after }
    }

    /// Returns the error of columns for a plugin that takes none.
    pub(super) fn no_columns(&self) -> Error {
        Error::NoColumns { plugin: self.plugin.name().to_owned(), symbol: self.symbol.to_string() }
    }

    /// Returns the error of a call that finds no room among those that wait.
    pub(super) fn queue_full(&self) -> Error {
        let plugin = self.plugin.name().to_owned();
        Error::QueueFull { plugin, symbol: self.symbol.to_string(), limit: self.plugin.site.options.call_queue }
    }

    /// Returns the error that the function reported.
    pub(super) fn failed(&self, text: String) -> Error {
        Error::Function {
            plugin: self.plugin.name().to_owned(),
            symbol: self.symbol.to_string(),
            text: text.trim_end().to_owned(),
        }
    }
}
