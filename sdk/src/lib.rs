//! Write eKuiper portable plugins in Rust. A stock eKuiper runs them
//! unchanged, and so does `ekuiper-host`.
//!
//! ```no_run
//! use ekuiper_sdk::prelude::*;
//!
//! fn main() -> ExitCode {
//!     Plugin::new("mirror")
//!         .function("echo", |value: Value| value)
//!         .function("revert", |text: String| text.chars().rev().collect::<String>())
//!         .aggregate("average", |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64)
//!         .run()
//! }
//! ```
//!
//! What lives where: [`Plugin`], the builder; [`Source`], [`Sink`] and
//! [`Function`], what an author implements; the contexts, what they are given;
//! `closure`, closures as functions; `runtime`, the process that serves an
//! engine; [`testing`], the same symbols without one.

mod closure;
mod config;
mod context;
mod error;
mod plugin;
mod runtime;
mod symbol;
pub mod testing;

pub use closure::{IntoFunction, Json, Output};
pub use config::Config;
pub use context::{FunctionContext, SinkContext, SourceContext};
pub use ekuiper_core::message::{FunctionMeta, Tuple};
pub use error::{BoxError, Error, Result};
pub use plugin::Plugin;
pub use serde_json::{Value, json};
pub use symbol::{AckMode, Function, Sink, Source};

/// What most plugins need.
pub mod prelude {
    pub use std::process::ExitCode;

    pub use crate::{
        AckMode, Config, Function, FunctionContext, Json, Plugin, Result, Sink, SinkContext, Source, SourceContext,
        Value, json,
    };
}
