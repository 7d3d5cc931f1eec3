//! What a symbol is given to work with.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ekuiper_core::message::{FunctionMeta, Meta, encode_ack, encode_source_error, encode_tuple};
use ekuiper_core::transport::TransportError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{AckMode, Error, Result};

/// Where a symbol's messages go: a channel, or a test.
pub(crate) trait Outlet: Send + Sync {
    /// Sends, waiting as long as it takes.
    fn send(&self, message: &[u8]) -> Result<(), TransportError>;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Hook = Box<dyn FnOnce() + Send>;

/// What a source is given: its place in the rule, its way out, its end.
pub struct SourceContext {
    meta: Meta,
    outlet: Box<dyn Outlet>,
    buffer: Mutex<Vec<u8>>,
    stop: Mutex<Stop>,
    stopped: Condvar,
}

#[derive(Default)]
struct Stop {
    stopped: bool,
    hooks: Vec<Hook>,
}

impl SourceContext {
    pub(crate) fn new(meta: Meta, outlet: Box<dyn Outlet>) -> Self {
        Self { meta, outlet, buffer: Mutex::default(), stop: Mutex::default(), stopped: Condvar::new() }
    }

    /// The rule's id.
    pub fn rule_id(&self) -> &str {
        &self.meta.rule_id
    }

    /// The operator's id within the rule.
    pub fn op_id(&self) -> &str {
        &self.meta.op_id
    }

    /// The operator's instance.
    pub fn instance_id(&self) -> i64 {
        self.meta.instance_id
    }

    /// Sends a tuple. Waits while the engine is slower than the source.
    ///
    /// # Errors
    /// [`Error::Stopped`]: return from `open`. [`Error::Message`]: the record
    /// cannot be written as JSON. [`Error::Transport`]: it is too long.
    pub fn emit(&self, message: &impl Serialize) -> Result<(), Error> {
        self.emit_any(message, None::<&()>)
    }

    /// Sends a tuple with facts about it.
    ///
    /// # Errors
    /// As [`SourceContext::emit`].
    pub fn emit_with_meta(&self, message: &impl Serialize, meta: &impl Serialize) -> Result<(), Error> {
        self.emit_any(message, Some(meta))
    }

    fn emit_any(&self, message: &impl Serialize, meta: Option<&impl Serialize>) -> Result<(), Error> {
        let mut buffer = lock(&self.buffer);
        buffer.clear();
        encode_tuple(&mut buffer, message, meta)?;
        self.send(&buffer)
    }

    /// Reports an error. The source may go on after it.
    ///
    /// # Errors
    /// As [`SourceContext::emit`].
    pub fn emit_error(&self, text: &str) -> Result<(), Error> {
        self.send(&encode_source_error(text))
    }

    fn send(&self, message: &[u8]) -> Result<(), Error> {
        if self.is_stopped() {
            return Err(Error::Stopped);
        }
        self.outlet.send(message).map_err(|source| match source {
            TransportError::Closed => Error::Stopped,
            source => Error::Transport { what: "the tuple was not sent".into(), source },
        })
    }

    /// Waits; false, at once, when the source is stopped.
    pub fn sleep(&self, duration: Duration) -> bool {
        let deadline = Instant::now().checked_add(duration);
        let mut stop = lock(&self.stop);
        while !stop.stopped {
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => duration,
            };
            if left.is_zero() {
                return true;
            }
            stop = self.stopped.wait_timeout(stop, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// Whether the source has been stopped.
    pub fn is_stopped(&self) -> bool {
        lock(&self.stop).stopped
    }

    /// Registers what unblocks a source that waits in its own I/O. It is
    /// called once, when the source is stopped; at once if it already is.
    pub fn on_stop(&self, hook: impl FnOnce() + Send + 'static) {
        let mut stop = lock(&self.stop);
        if stop.stopped {
            drop(stop);
            hook();
        } else {
            stop.hooks.push(Box::new(hook));
        }
    }

    pub(crate) fn stop(&self) {
        let mut stop = lock(&self.stop);
        stop.stopped = true;
        let hooks = std::mem::take(&mut stop.hooks);
        drop(stop);
        self.stopped.notify_all();
        hooks.into_iter().for_each(|hook| hook());
    }
}

/// What a sink is given: its place in the rule, and a way to acknowledge.
pub struct SinkContext {
    meta: Meta,
    /// Absent where the engine does not ask for acknowledgements.
    outlet: Option<Box<dyn Outlet>>,
    mode: AckMode,
    /// Messages that were given to the sink and not acknowledged yet.
    owed: AtomicU64,
    acked: AtomicBool,
}

impl SinkContext {
    pub(crate) fn new(meta: Meta, outlet: Option<Box<dyn Outlet>>, mode: AckMode) -> Self {
        Self { meta, outlet, mode, owed: AtomicU64::new(0), acked: AtomicBool::new(false) }
    }

    /// The rule's id.
    pub fn rule_id(&self) -> &str {
        &self.meta.rule_id
    }

    /// The operator's id within the rule.
    pub fn op_id(&self) -> &str {
        &self.meta.op_id
    }

    /// The operator's instance.
    pub fn instance_id(&self) -> i64 {
        self.meta.instance_id
    }

    /// The rows of a message: a JSON object, or an array of objects.
    ///
    /// # Errors
    /// It is neither, or a row is no `T`.
    pub fn rows<T: DeserializeOwned>(&self, data: &[u8]) -> Result<Vec<T>> {
        if data.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
            return Ok(serde_json::from_slice(data)?);
        }
        Ok(vec![serde_json::from_slice(data)?])
    }

    /// Acknowledges a message. Does nothing where the engine has not asked
    /// for it.
    ///
    /// # Errors
    /// [`Error::Transport`] when it cannot be sent.
    pub fn ack_ok(&self) -> Result<(), Error> {
        self.ack(Ok(()))
    }

    /// Refuses a message. Does nothing where the engine has not asked for
    /// acknowledgements.
    ///
    /// # Errors
    /// As [`SinkContext::ack_ok`].
    pub fn ack_error(&self, text: &str) -> Result<(), Error> {
        self.ack(Err(text))
    }

    fn ack(&self, outcome: Result<(), &str>) -> Result<(), Error> {
        let Some(outlet) = &self.outlet else { return Ok(()) };
        let owed = self.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, |owed| owed.checked_sub(1));
        if owed.is_err() {
            tracing::warn!("a surplus acknowledgement was dropped: each message is acknowledged once");
            return Ok(());
        }
        self.acked.store(true, Ordering::Release);
        outlet
            .send(&encode_ack(outcome))
            .map_err(|source| Error::Transport { what: "the acknowledgement was not sent".into(), source })
    }

    /// A message is about to be given to the sink.
    pub(crate) fn begin(&self) {
        self.owed.fetch_add(1, Ordering::AcqRel);
        self.acked.store(false, Ordering::Release);
    }

    /// The sink has taken it, or not.
    pub(crate) fn end(&self, outcome: &Result<()>) {
        if let Err(error) = outcome {
            tracing::error!(%error, "the sink did not take a message");
        }
        let by_hand = self.mode == AckMode::Manual || self.acked.load(Ordering::Acquire);
        if by_hand || self.outlet.is_none() {
            return;
        }
        let acked = match outcome {
            Ok(()) => self.ack(Ok(())),
            Err(error) => self.ack(Err(&error.to_string())),
        };
        if let Err(error) = acked {
            tracing::error!(%error, "a message was not acknowledged");
        }
    }
}

/// What a function is given: the call's place in the rule.
#[derive(Clone, Debug, Default)]
pub struct FunctionContext {
    pub(crate) meta: FunctionMeta,
}

impl FunctionContext {
    /// The rule's id.
    pub fn rule_id(&self) -> &str {
        &self.meta.rule_id
    }

    /// The operator's id within the rule.
    pub fn op_id(&self) -> &str {
        &self.meta.op_id
    }

    /// The operator's instance.
    pub fn instance_id(&self) -> i64 {
        self.meta.instance_id
    }

    /// The call's place within the rule.
    pub fn func_id(&self) -> i64 {
        self.meta.func_id
    }
}
