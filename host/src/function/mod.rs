//! Calling a plugin's function.

pub(crate) mod batch;

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
use crate::target::default_rule;
use crate::{Error, Result};
use batch::{PendingCall, Pipeline};

/// The longest request buffer that is kept for the next call, in bytes.
const KEEP: usize = 1 << 20;

/// A function of a plugin. Cheap to clone; calls of one function are carried
/// out one after the other, whoever makes them.
#[derive(Clone)]
pub struct Function(Arc<Inner>);

struct Inner {
    plugin: Arc<Plugin>,
    symbol: Arc<str>,
    meta: FunctionMeta,
    encoded_meta: EncodedMeta,
    /// The channel that the last call went to.
    current: Mutex<Option<Peer>>,
    buffer: Mutex<Vec<u8>>,
    pipeline: Arc<Pipeline>,
}

/// A function in one process of its plugin.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) running: Arc<Running>,
    pub(crate) channel: Arc<Channel>,
}

impl Peer {
    pub(crate) fn format(&self) -> Format {
        self.running.format(SymbolKind::Function)
    }

    pub(crate) fn takes_batches(&self) -> bool {
        self.running.has(Feature::Batch)
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function").field("symbol", &self.0.symbol).field("meta", &self.0.meta).finish_non_exhaustive()
    }
}

impl Function {
    pub(crate) fn new(plugin: Arc<Plugin>, symbol: &str) -> Result<Self> {
        plugin.function(symbol, Instant::now() + plugin.site.options.init_timeout)?;
        // The official Go SDK executes nothing without a rule and an operator.
        let meta = FunctionMeta { rule_id: default_rule(), op_id: symbol.to_owned(), ..FunctionMeta::default() };
        Ok(Self::for_place(plugin, symbol.into(), meta))
    }

    fn for_place(plugin: Arc<Plugin>, symbol: Arc<str>, meta: FunctionMeta) -> Self {
        let encoded_meta = EncodedMeta::from(&meta);
        let (current, buffer, pipeline) = Default::default();
        Self(Arc::new(Inner { plugin, symbol, meta, encoded_meta, current, buffer, pipeline }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.symbol
    }

    /// The same function, called for this place in a rule. Default: a rule
    /// named after this process, with an operator of the function's name.
    pub fn with_meta(self, meta: FunctionMeta) -> Self {
        Self::for_place(self.0.plugin.clone(), self.0.symbol.clone(), meta)
    }

    /// Calls it: `revert.call::<String>(("hello",))`.
    ///
    /// # Errors
    /// [`Error::Function`] with the function's own words, or that there is no
    /// answer: [`Error::Timeout`], [`Error::OutcomeUnknown`] and others.
    pub fn call<R: DeserializeOwned>(&self, args: impl Arguments) -> Result<R> {
        self.ask(CallKind::Exec, &args, Some(&self.0.encoded_meta))
    }

    /// Calls it for many rows of arguments: an outcome for each, in order, with
    /// the function's own words where it failed.
    ///
    /// A plugin of ours gets many rows with each message, and computes while
    /// the next message is written; another gets a call for each.
    ///
    /// # Errors
    /// As [`Function::call`], when there is no answer; rows may have been
    /// computed all the same.
    pub fn call_many<R, A>(&self, rows: impl IntoIterator<Item = A>) -> Result<Vec<Result<R, String>>>
    where
        R: DeserializeOwned + Send + 'static,
        A: Arguments,
    {
        batch::call_many(self, rows.into_iter())
    }

    /// Calls it, and does not wait for the result: [`PendingCall::wait`] does.
    ///
    /// To a plugin of ours, the first such call goes out at once, and those
    /// that are made while it is under way go out together. Another plugin
    /// gets one call after the other.
    ///
    /// # Errors
    /// The arguments cannot be written, or the call cannot be sent: it is not
    /// carried out then.
    pub fn call_async<R: DeserializeOwned>(&self, args: impl Arguments) -> Result<PendingCall<R>> {
        batch::call_async(self, &args)
    }

    /// Asks whether it takes these arguments; plugins check at least their
    /// number.
    ///
    /// # Errors
    /// As [`Function::call`].
    pub fn validate(&self, args: impl Arguments) -> Result<()> {
        self.ask::<serde::de::IgnoredAny>(CallKind::Validate, &args, None).map(|_| ())
    }

    /// Asks whether it takes all values of a window at once.
    ///
    /// # Errors
    /// As [`Function::call`].
    pub fn is_aggregate(&self) -> Result<bool> {
        self.ask(CallKind::IsAggregate, &(), None)
    }

    fn ask<R: DeserializeOwned>(&self, kind: CallKind, args: &impl Arguments, meta: Option<&EncodedMeta>) -> Result<R> {
        let what = || self.what(kind);
        let message = |source| Error::Message { what: what(), source };
        let options = &self.0.plugin.site.options;
        let now = Instant::now();
        let (send_by, answer_by) = (now + options.send_timeout, now + options.recv_timeout);
        let mut request = std::mem::take(&mut *lock(&self.0.buffer));
        let asked = loop {
            let peer = match self.peer(send_by) {
                Ok(peer) => peer,
                Err(error) => break Err(error),
            };
            let format = peer.format();
            request.clear();
            if let Err(source) = encode_call(format, &mut request, kind, args, meta) {
                break Err(message(source));
            }
            self.0.plugin.counters.calls.add(1);
            match peer.channel.exchange(&request, send_by, answer_by, |reply| decode_reply::<R>(format, reply)) {
                Ok(reply) => break Ok(reply),
                // Nothing was sent: the next process gets it.
                Err(Failure::ProcessEnded) if peer.running.is_over() => self.forget(),
                // The same, once it is started again.
                Err(Failure::Lost) if Instant::now() < send_by => {}
                Err(failure) => break Err(peer.running.explain(failure, what(), options.recv_timeout)),
            }
        };
        if request.capacity() <= KEEP {
            *lock(&self.0.buffer) = request;
        }
        let reply = asked?;
        self.0.plugin.counters.answers.add(1);
        match reply {
            Ok(Outcome::Ok(result)) => Ok(result),
            Ok(Err(text)) => Err(self.failed(text)),
            Err(source) => Err(message(source)),
        }
    }

    /// The function in the process that runs; waits for one after a crash.
    pub(crate) fn peer(&self, deadline: Instant) -> Result<Peer> {
        let mut current = lock(&self.0.current);
        if let Some(peer) = current.as_ref().filter(|peer| peer.channel.is_usable()) {
            return Ok(peer.clone());
        }
        *current = None;
        drop(current);
        let (running, channel) = self.0.plugin.function(&self.0.symbol, deadline)?;
        let peer = Peer { running, channel };
        *lock(&self.0.current) = Some(peer.clone());
        Ok(peer)
    }

    /// The process that runs may be another one.
    fn forget(&self) {
        *lock(&self.0.current) = None;
    }

    pub(crate) fn plugin(&self) -> &Plugin {
        &self.0.plugin
    }

    pub(crate) fn encoded_meta(&self) -> &EncodedMeta {
        &self.0.encoded_meta
    }

    pub(crate) fn pipeline(&self) -> &Arc<Pipeline> {
        &self.0.pipeline
    }

    pub(crate) fn what(&self, kind: CallKind) -> String {
        format!("{kind:?} of function {}", self.0.symbol)
    }

    /// The function's own error.
    pub(crate) fn failed(&self, text: String) -> Error {
        Error::Function {
            symbol: self.0.symbol.to_string(),
            text: crate::printable::lines(text.trim_end()).into_owned(),
        }
    }
}
