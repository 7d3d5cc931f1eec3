//! Runs any symbol in this process, without sockets: the code of the author
//! runs as in production.
//!
//! ```
//! use ekuiper_sdk::prelude::*;
//! use ekuiper_sdk::testing;
//!
//! let mut revert = testing::function(|text: String| text.chars().rev().collect::<String>());
//! assert_eq!(revert.call::<String>(("hello",)), Ok("olleh".into()));
//! assert_eq!(revert.call::<String>((7,)), Err("argument 1: invalid type: integer `7`, expected a string at line 1 column 1".into()));
//!
//! struct Count;
//! impl Source for Count {
//!     fn open(&mut self, ctx: &SourceContext) -> Result<()> {
//!         for n in 0.. {
//!             ctx.emit(&json!({ "n": n }))?;
//!         }
//!         Ok(())
//!     }
//! }
//! let tuples = testing::source(Count).take(2)?;
//! assert_eq!(tuples[1].message, json!({ "n": 1 }));
//! # Ok::<(), ekuiper_sdk::BoxError>(())
//! ```

use std::sync::{Arc, mpsc};
use std::time::Duration;

use ekuiper_core::message::{
    CallKind, FunctionMeta, Meta, SourceMessage, Tuple, decode_ack, decode_reply, encode_call,
};
use ekuiper_core::transport::TransportError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::closure::{BoxedFunction, IntoFunction};
use crate::context::Outlet;
use crate::runtime::{guarded, testing_answer};
use crate::{BoxError, Config, Result, Sink, SinkContext, Source, SourceContext};

/// How long a source may take for its next tuple, and for its end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A function under test.
pub fn function<M>(function: impl IntoFunction<M>) -> FunctionTest {
    FunctionTest(function.into_function(false))
}

/// A function under test.
pub struct FunctionTest(BoxedFunction);

impl FunctionTest {
    /// Calls it, with a tuple of arguments.
    ///
    /// # Errors
    /// The function's text, as the engine gets it.
    pub fn call<R: DeserializeOwned>(&mut self, args: impl Serialize) -> Result<R, String> {
        self.ask(CallKind::Exec, args, Some(&FunctionMeta::default()))
    }

    /// Asks whether it takes these arguments.
    ///
    /// # Errors
    /// The function's text, as the engine gets it.
    pub fn validate(&mut self, args: impl Serialize) -> Result<(), String> {
        self.ask::<String>(CallKind::Validate, args, None).map(|_| ())
    }

    /// Whether it is an aggregate.
    pub fn is_aggregate(&mut self) -> bool {
        self.ask(CallKind::IsAggregate, (), None) == Ok(true)
    }

    fn ask<R: DeserializeOwned>(
        &mut self,
        kind: CallKind,
        args: impl Serialize,
        meta: Option<&FunctionMeta>,
    ) -> Result<R, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let args = match serde_json::to_value(args).map_err(|error| text(&error))? {
            Value::Array(args) => args,
            Value::Null => Vec::new(),
            other => vec![other],
        };
        let args: Vec<_> = args.iter().map(|arg| arg as _).collect();
        let (mut request, mut reply) = (Vec::new(), Vec::new());
        encode_call(&mut request, kind, &args, meta).map_err(|error| text(&error))?;
        testing_answer(&mut *self.0.0, &request, &mut reply);
        decode_reply(&reply).map_err(|error| text(&error))?
    }
}

/// A source under test.
pub fn source(source: impl Source + 'static) -> SourceTest {
    SourceTest { source: Box::new(source), datasource: String::new(), config: Config::default() }
}

/// A source under test.
pub struct SourceTest {
    source: Box<dyn Source>,
    datasource: String,
    config: Config,
}

impl SourceTest {
    /// The topic or the like.
    pub fn datasource(mut self, datasource: impl Into<String>) -> Self {
        self.datasource = datasource.into();
        self
    }

    /// The configuration; anything but a JSON object is an empty one.
    pub fn config(mut self, config: Value) -> Self {
        self.config = config.as_object().cloned().unwrap_or_default().into();
        self
    }

    /// Opens it, takes its first `count` tuples, or fewer when it is over
    /// before, and stops it.
    ///
    /// # Errors
    /// Of `configure` or `open`, one that it emitted, or that it hangs.
    pub fn take(self, count: usize) -> Result<Vec<Tuple>> {
        let Self { mut source, datasource, config } = self;
        guarded(|| source.configure(&datasource, &config))?;
        let (sender, emitted) = mpsc::sync_channel(0);
        let ctx = Arc::new(SourceContext::new(test_meta(), Box::new(Collected(sender))));
        let opened = ctx.clone();
        let (report, outcome) = mpsc::channel();
        std::thread::spawn(move || {
            let opened_outcome = guarded(|| source.open(&opened));
            let closed = guarded(|| source.close(&opened));
            let stopped = opened.is_stopped();
            drop(opened);
            let _ = report.send(if stopped { closed } else { opened_outcome.and(closed) });
        });
        let mut tuples = Vec::new();
        // Only the thread's context keeps the channel open.
        let stop = Arc::downgrade(&ctx);
        drop(ctx);
        while tuples.len() < count {
            match emitted.recv_timeout(PATIENCE) {
                Ok(message) => match SourceMessage::decode(&message)? {
                    SourceMessage::Tuple(tuple) => tuples.push(tuple),
                    SourceMessage::Error(text) => return Err(text.into()),
                },
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => return Err(BoxError::from("the source emits nothing")),
            }
        }
        if let Some(ctx) = stop.upgrade() {
            ctx.stop();
        }
        drop(emitted);
        outcome.recv_timeout(PATIENCE).map_err(|_| BoxError::from("the source does not stop"))??;
        Ok(tuples)
    }
}

struct Collected(mpsc::SyncSender<Vec<u8>>);

impl Outlet for Collected {
    fn send(&self, message: &[u8]) -> Result<(), TransportError> {
        self.0.send(message.to_vec()).map_err(|_| TransportError::Closed)
    }
}

/// A sink under test.
pub fn sink(sink: impl Sink + 'static) -> SinkTest {
    SinkTest { sink: Box::new(sink), config: Config::default(), require_ack: false }
}

/// A sink under test, not open yet.
pub struct SinkTest {
    sink: Box<dyn Sink>,
    config: Config,
    require_ack: bool,
}

impl SinkTest {
    /// The configuration; anything but a JSON object is an empty one.
    pub fn config(mut self, config: Value) -> Self {
        self.config = config.as_object().cloned().unwrap_or_default().into();
        self
    }

    /// Whether the engine asks for acknowledgements.
    pub fn require_ack(mut self, require_ack: bool) -> Self {
        self.require_ack = require_ack;
        self
    }

    /// Configures and opens it.
    ///
    /// # Errors
    /// The sink's.
    pub fn open(self) -> Result<OpenSink> {
        let Self { mut sink, config, require_ack } = self;
        guarded(|| sink.configure(&config))?;
        let (sender, acks) = mpsc::channel();
        let outlet: Option<Box<dyn Outlet>> = if require_ack { Some(Box::new(Acks(sender))) } else { None };
        let ctx = SinkContext::new(test_meta(), outlet, sink.ack_mode());
        guarded(|| sink.open(&ctx))?;
        Ok(OpenSink { sink, ctx, acks })
    }
}

struct Acks(mpsc::Sender<Vec<u8>>);

impl Outlet for Acks {
    fn send(&self, message: &[u8]) -> Result<(), TransportError> {
        self.0.send(message.to_vec()).map_err(|_| TransportError::Closed)
    }
}

/// An open sink under test.
pub struct OpenSink {
    sink: Box<dyn Sink>,
    ctx: SinkContext,
    acks: mpsc::Receiver<Vec<u8>>,
}

impl OpenSink {
    /// Gives it a message, a row or an array of rows.
    ///
    /// # Errors
    /// The sink's.
    pub fn send(&mut self, rows: &impl Serialize) -> Result<()> {
        let message = serde_json::to_vec(rows)?;
        self.ctx.begin();
        let outcome = guarded(|| self.sink.collect(&self.ctx, &message));
        self.ctx.end(&outcome);
        outcome
    }

    /// The acknowledgements since the last call, as the engine gets them.
    pub fn acks(&self) -> Vec<Result<(), String>> {
        self.acks.try_iter().filter_map(|ack| decode_ack(&ack).ok()).collect()
    }

    /// Closes it.
    ///
    /// # Errors
    /// The sink's.
    pub fn close(mut self) -> Result<()> {
        guarded(|| self.sink.close(&self.ctx))
    }
}

fn test_meta() -> Meta {
    Meta { rule_id: "test".into(), op_id: "test".into(), instance_id: 0 }
}
