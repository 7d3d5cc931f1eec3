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
//!         // A wrong field is named: "config field interval: invalid type: …"
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
//! Beside the executable lies its manifest, `mirror.json`; eKuiper takes no
//! other word for a native executable than `go`:
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
//! - A panic in a symbol is an error with the panic's text, never a dead
//!   plugin (not where the plugin is built with `panic = "abort"`).
//! - `close` runs after `open` has returned. A symbol that does not end within
//!   [`Plugin::stop_timeout`] is given up, with an error to the engine: that
//!   instance is refused until it has ended, all others go on.
//! - SIGTERM, Ctrl-C, the death of the process that started the plugin, and a
//!   host that stays away close all symbols in order, sources first, within
//!   2.4 s; the exit code is 0.
//! - A handshake is sent once per connection, nothing while idle, and an
//!   answer goes to the connection that asked, or nowhere.
//! - An error's text reaches the engine, with its causes, at most 16 KiB of it.
//!
//! # Surviving crashes
//!
//! What a panic is not (an abort, a fault in C code, the kernel's out-of-memory
//! killer) ends a process, and a stock eKuiper starts no plugin again for its
//! functions, nor for the rules that run. [`Plugin::supervised`] cures that
//! from the plugin's side:
//!
//! ```no_run
//! # use ekuiper_sdk::prelude::*;
//! # fn main() -> ExitCode {
//! Plugin::new("mirror")
//!     .function("revert", |text: String| text.chars().rev().collect::<String>())
//!     .idempotent("revert")
//!     .supervised()
//!     .run()
//! # }
//! ```
//!
//! - The process that the engine starts is a guard of under 1 MiB that runs no
//!   symbol; it starts the same executable once more, as the worker, which
//!   does, and has the symbols' channels itself: they are as fast as ever.
//! - When the worker dies, the next one has all live symbols again; the engine
//!   sees a reconnect. A source begins anew, with its engine's configuration.
//! - A call or an acknowledged message that died with a worker is answered
//!   with the error "outcome unknown", and never executed again, so that a
//!   poisonous record costs one crash; functions declared
//!   [idempotent](Plugin::idempotent) are executed once more.
//! - A start or a stop that was under way is answered with an error.
//! - After five crashes in a minute the guard ends, with exit code 1 and the
//!   reason in the log: a crash loop is not hidden.
//! - Under a host that starts plugins again by itself, and says so by the
//!   launch option `supervises`, there is no guard.
//!
//! # Logs
//!
//! [`tracing`]'s events go to stderr, which hosts collect. What a symbol logs
//! carries its name, rule, operator and instance; on threads of your own, enter
//! [`SourceContext::span`]. The host chooses the level (`info` by default). A
//! subscriber that `main` sets before [`Plugin::run`] is left alone.
//!
//! # Features
//!
//! `uds` (default) is pure Rust; `nng` carries the same wire on libnng; `zeromq`
//! is another wire, which only our host speaks. The host chooses by its launch
//! option `transport`; one that is not built in is replaced by one that is of
//! the same wire, with a line in the log. Without such a one the plugin ends.
//!
//! # What lives where
//!
//! [`Plugin`], the builder; [`Source`], [`Sink`] and [`Function`], what an
//! author implements; the contexts, what they are given; `closure` and
//! `output`, closures as functions; [`raw`], what they are underneath; `runtime`, the process that serves an
//! engine, or the two that do; [`testing`], the same symbols without one.

mod closure;
mod config;
mod context;
mod error;
mod output;
mod plugin;
pub mod raw;
mod runtime;
mod symbol;
pub mod testing;

pub use closure::IntoFunction;
pub use config::Config;
pub use context::{FunctionContext, SinkContext, SourceContext, StopHook};
pub use ekuiper_core::codec::Bytes;
pub use ekuiper_core::message::{FunctionMeta, Tuple};
pub use error::{BoxError, Error, Result};
pub use output::{Json, Output};
pub use plugin::Plugin;
pub use serde_json::{Value, json};
pub use symbol::{AckMode, Function, Sink, Source};
/// The log, so that a plugin needs no dependency of its own for it.
pub use tracing;

/// What most plugins need.
pub mod prelude {
    pub use std::process::ExitCode;

    pub use crate::{
        AckMode, Bytes, Config, Function, FunctionContext, Json, Plugin, Result, Sink, SinkContext, Source,
        SourceContext, Value, json, tracing,
    };
}
