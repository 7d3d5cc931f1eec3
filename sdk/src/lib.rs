//! Write eKuiper portable plugins in Rust. A stock eKuiper runs them
//! unchanged, and so does `ekuiper-host`.
//!
//! A whole plugin, with a symbol of each kind:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use ekuiper_sdk::prelude::*;
//! use serde::Deserialize;
//!
//! fn main() -> ExitCode {
//!     Plugin::new("mirror")
//!         .source("counter", Counter::default)
//!         .sink("log", || Log)
//!         .function("echo", |value: Value| value)
//!         .function("revert", |text: String| text.chars().rev().collect::<String>())
//!         .function("divide", |a: i64, b: i64| a.checked_div(b).ok_or("division by zero"))
//!         .aggregate("average", |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64)
//!         .run()
//! }
//!
//! /// Emits a number at each interval.
//! #[derive(Default)]
//! struct Counter {
//!     settings: Settings,
//! }
//!
//! #[derive(Default, Deserialize)]
//! struct Settings {
//!     /// Milliseconds.
//!     interval: u64,
//! }
//!
//! impl Source for Counter {
//!     fn configure(&mut self, _datasource: &str, config: &Config) -> Result<()> {
//!         // A wrong field is named: "invalid config field interval: invalid type: …"
//!         self.settings = config.parse()?;
//!         Ok(())
//!     }
//!
//!     fn open(&mut self, ctx: &SourceContext) -> Result<()> {
//!         let mut n = 0;
//!         // False once it is stopped.
//!         while ctx.sleep(Duration::from_millis(self.settings.interval)) {
//!             n += 1;
//!             ctx.emit(&json!({ "n": n }))?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! /// Logs each row.
//! struct Log;
//!
//! impl Sink for Log {
//!     fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
//!         for row in ctx.rows::<Value>(data)? {
//!             tracing::info!(%row, "from rule {}", ctx.rule_id());
//!         }
//!         // The message is acknowledged, if the rule asks for that; an error
//!         // here would be its refusal.
//!         Ok(())
//!     }
//! }
//! ```
//!
//! The manifest `mirror.json` lies beside the executable. eKuiper accepts only
//! `go` as the language of a native executable:
//!
//! ```json
//! {
//!   "version": "v1.0.0",
//!   "language": "go",
//!   "executable": "mirror",
//!   "sources": ["counter"],
//!   "sinks": ["log"],
//!   "functions": ["echo", "revert", "divide", "average"]
//! }
//! ```
//!
//! # What an author can rely on
//!
//! - A panic in a symbol becomes an error with the panic's text and does not end
//!   the plugin, unless the plugin is built with `panic = "abort"`.
//! - `close` runs after `open` has returned. A symbol that does not end within
//!   [`Plugin::stop_timeout`] is abandoned, and the engine gets an error: starts
//!   of that instance are refused until it has ended; all others continue.
//! - SIGTERM, Ctrl-C, the death of the process that started the plugin, and a
//!   host that stays disconnected close all symbols in order, sources first,
//!   within 2.4 s; the exit code is 0.
//! - A handshake is sent once per connection and nothing is sent while idle. An
//!   answer goes to the connection that asked, or is dropped.
//! - An error's text reaches the engine with its causes, up to 16 KiB; [`Chain`]
//!   makes such a text.
//!
//! # Surviving crashes
//!
//! Crashes other than panics (an abort, a fault in C code, the kernel's
//! out-of-memory killer) end the process, and a stock eKuiper restarts a plugin
//! neither for its functions nor for running rules. [`Plugin::supervised`]
//! makes the plugin restart itself:
//!
//! ```no_run
//! # use ekuiper_sdk::prelude::*;
//! # fn main() -> ExitCode {
//! Plugin::new("mirror")
//!     .function("revert", describe(|text: String| text.chars().rev().collect::<String>()).idempotent())
//!     .supervised()
//!     .run()
//! # }
//! ```
//!
//! - The process that the engine starts is a supervisor of under 1 MiB that runs
//!   no symbol. It starts the same executable again as the worker, which runs
//!   the symbols and owns their channels: the data path has no extra hop.
//! - When the worker dies, the next worker starts all live symbols again; the
//!   engine sees a reconnect. A source starts over, with the engine's
//!   configuration.
//! - A call that was in flight, or a message that was not acknowledged, when a
//!   worker died is answered with the error "outcome unknown" and never
//!   executed again, so that a poisonous record costs one crash; functions
//!   declared [idempotent](description::Described::idempotent) are retried once.
//! - A start or a stop that was in flight is answered with an error.
//! - After five crashes in a minute the supervisor ends with exit code 1 and the
//!   reason in the log: a crash loop is not hidden.
//! - There is no supervisor under a host that restarts plugins itself, and says
//!   so by the launch option `supervises`.
//!
//! # Descriptions
//!
//! A plugin describes itself: `PLUGIN --describe` prints its symbols, their
//! types and their configuration as a line of JSON, and
//! [`Plugin::description`] returns it. A closure's types are known;
//! [`describe()`] adds names, texts and what an engine may do with calls;
//! [`Source::describe`] and [`Sink::describe`] give the fields of their
//! configuration, which is then checked at each start.
//!
//! # Logs
//!
//! [`tracing`]'s events go to stderr, which hosts collect. A symbol's events
//! carry its name, rule, operator and instance; on threads of your own, enter
//! [`SourceContext::span`]. The host chooses the level (`info` by default). A
//! subscriber that `main` sets before [`Plugin::run`] stays in place.
//!
//! # Features
//!
//! `uds` (default) is pure Rust; `nng` speaks the same wire protocol on libnng;
//! `zeromq` and `shm` (shared memory, on Linux) are different wire protocols,
//! which only `ekuiper-host` speaks. The host chooses by its launch option
//! `transport`, and shared memory for each symbol by itself where the plugin has
//! it too. A transport that is not built in is replaced by a built-in one with the same wire protocol, with a line in
//! the log; if there is none, the plugin ends.
//!
//! `arrow` adds [`columns`].
//!
//! `schemars` derives the [description] of a configuration from its type.
//!
//! # What lives where
//!
//! [`Plugin`] is the builder of a `definition`, which `runtime` runs: the process
//! that serves an engine, or the two of a supervised plugin. [`Source`], [`Sink`] and [`Function`] are the
//! traits that an author implements; the contexts are their connection to the
//! engine; `closure` and `output` make functions of closures; `raw_function` is
//! the interface beneath all functions, and [`raw`] its public part; [`testing`]
//! runs symbols without an engine.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unnameable_types)]
// Elsewhere no engine is served.
#![cfg_attr(not(unix), allow(dead_code))]

mod ack_mode;
mod arity;
mod cancel;
mod closure;
#[cfg(feature = "arrow")]
pub mod columns;
mod config;
mod configuration;
mod context;
mod definition;
pub mod description;
mod error;
mod invoke;
mod output;
mod panic;
mod plugin;
pub mod raw;
mod raw_function;
#[cfg(unix)]
mod runtime;
#[cfg(not(unix))]
#[path = "no_runtime.rs"]
mod runtime;
mod symbol;
pub mod testing;

pub use ack_mode::AckMode;
pub use config::Config;
pub use context::{FunctionContext, SinkContext, SourceContext, StopHook};
pub use description::describe;
pub use ekuiper_core::address::Address;
pub use ekuiper_core::codec::{Bytes, Error as CodecError};
pub use ekuiper_core::message::{FunctionMeta, Tuple};
pub use ekuiper_core::transport::TransportError;
pub use ekuiper_core::{Chain, Error as MessageError};
pub use error::{BoxError, Error, Result};
pub use output::{Json, Output};
pub use plugin::Plugin;
pub use raw_function::IntoFunction;
pub use serde_json::{Value, json};
pub use symbol::{Function, Sink, Source};
/// The logging crate, re-exported so that a plugin need not depend on it.
pub use tracing;

/// The types that most plugins need.
pub mod prelude {
    pub use std::process::ExitCode;

    pub use crate::description::{DataType, Field, SinkDescription, SourceDescription, Volatility};

    pub use crate::{
        AckMode, BoxError, Bytes, Chain, Config, Function, FunctionContext, Json, Plugin, Result, Sink, SinkContext,
        Source, SourceContext, Value, describe, json, tracing,
    };
}

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
