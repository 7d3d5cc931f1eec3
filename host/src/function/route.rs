//! Path of a call to the process that serves its function, and of the answer
//! back.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use ekuiper_core::codec::Format;
use ekuiper_core::message::{
    Arguments, CallKind, EncodedMeta, Feature, FunctionMeta, Outcome, SymbolKind, decode_reply, encode_call,
};
use serde::de::DeserializeOwned;

use crate::channel::{Channel, Failure};
use crate::plugin::Plugin;
use crate::plugin::running::Running;
use crate::sync::lock;
use crate::{Error, Result};

/// Maximum size of a request buffer that is kept for the next call, in bytes.
const KEEP: usize = 1 << 20;

/// A function called for one rule, operator and instance, across all processes
/// of its plugin.
pub(crate) struct FunctionRoute {
    pub(super) plugin: Arc<Plugin>,
    pub(super) symbol: Arc<str>,
    pub(super) meta: FunctionMeta,
    pub(super) encoded_meta: EncodedMeta,
    /// Connection of the last call.
    current: Mutex<Option<FunctionConnection>>,
    buffer: Mutex<Vec<u8>>,
}

/// A function in one process of its plugin.
#[derive(Clone)]
pub(super) struct FunctionConnection {
    pub(super) running: Arc<Running>,
    pub(super) channel: Arc<Channel>,
}

impl FunctionConnection {
    pub(super) fn format(&self) -> Format {
        self.running.format(SymbolKind::Function)
    }

    pub(super) fn takes_batches(&self) -> bool {
        self.running.has(Feature::Batch)
    }
}

impl FunctionRoute {
    pub(super) fn new(plugin: Arc<Plugin>, symbol: Arc<str>, meta: FunctionMeta) -> Self {
        let encoded_meta = EncodedMeta::from(&meta);
        Self { plugin, symbol, meta, encoded_meta, current: Mutex::default(), buffer: Mutex::default() }
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
        let what = || self.what(kind);
        let message = |source| Error::Message { what: what(), source };
        let options = &self.plugin.site.options;
        let now = Instant::now();
        let (send_by, answer_by) = (now + options.send_timeout, now + options.recv_timeout);
        let mut request = std::mem::take(&mut *lock(&self.buffer));
        let asked = loop {
            let connection = match self.connection(send_by) {
                Ok(connection) => connection,
                Err(error) => break Err(error),
            };
            let format = connection.format();
            request.clear();
            if let Err(source) = encode_call(format, &mut request, kind, args, meta) {
                break Err(message(source));
            }
            self.plugin.counters.calls.add(1);
            match connection.channel.exchange(&request, send_by, answer_by, |reply| decode_reply::<R>(format, reply)) {
                Ok(reply) => break Ok(reply),
                // Nothing was sent: retry with the next process.
                Err(Failure::ProcessEnded) if connection.running.is_over() => self.forget(),
                // Nothing was sent: retry once the function is restarted.
                Err(Failure::Lost) if Instant::now() < send_by => {}
                Err(failure) => break Err(connection.running.explain(failure, what(), options.recv_timeout)),
            }
        };
        if request.capacity() <= KEEP {
            *lock(&self.buffer) = request;
        }
        let reply = asked?;
        self.plugin.counters.answers.add(1);
        match reply {
            Ok(Outcome::Ok(result)) => Ok(result),
            Ok(Err(text)) => Err(self.failed(text)),
            Err(source) => Err(message(source)),
        }
    }

    /// Returns the function's connection in the serving process; after a crash,
    /// waits for the next one.
    pub(super) fn connection(&self, deadline: Instant) -> Result<FunctionConnection> {
        let mut current = lock(&self.current);
        if let Some(connection) = current.as_ref().filter(|connection| connection.channel.is_usable()) {
            return Ok(connection.clone());
        }
        *current = None;
        drop(current);
        let (running, channel) = self.plugin.function(&self.symbol, deadline)?;
        let connection = FunctionConnection { running, channel };
        *lock(&self.current) = Some(connection.clone());
        Ok(connection)
    }

    /// Discards the connection: another process may serve now.
    fn forget(&self) {
        *lock(&self.current) = None;
    }

    pub(super) fn what(&self, kind: CallKind) -> String {
        format!("{kind:?} of function {}", self.symbol)
    }

    /// Returns the error that the function reported.
    pub(super) fn failed(&self, text: String) -> Error {
        Error::Function { symbol: self.symbol.to_string(), text: crate::printable::lines(text.trim_end()).into_owned() }
    }
}
