//! Runs eKuiper portable plugins from a Rust engine: those in Rust, and those
//! of the official Python and Go SDKs, unchanged.
//!
//! ```no_run
//! use ekuiper_host::Host;
//! use serde_json::json;
//!
//! # fn main() -> ekuiper_host::Result<()> {
//! let host = Host::builder().plugins_dir("plugins/portable").build()?;
//!
//! let revert = host.function("revert")?;
//! let reversed: String = revert.call(("hello",))?;
//!
//! let source = host.source("random").rule("rule1").config(json!({ "interval": 10 })).open()?;
//! let sink = host.sink("file").rule("rule1").require_ack(true).open()?;
//! for tuple in source {
//!     sink.send(&tuple?.message)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What lives where: [`Host`] and its builder; `catalog`, which plugins there
//! are; `plugin`, one of them, whether it runs or not, and its update; `startup`, `command` and
//! `process`, how one is started and ended; `environment`, the one that a Python
//! plugin runs in; `guarded`, how any process is started here, `guard`, who ends
//! it when the host is gone, and `unstartable`, why one could not be started;
//! `running`, a running one; `scope`, the sockets of a process, whose waits end
//! with it;
//! `channel`, commands and their answers; `keeper`, the thread that reads idle
//! channels; `site`, what all plugins share; [`Function`], [`Source`] and
//! [`Sink`], the handles of an engine.

mod backlog;
mod calls;
mod catalog;
mod channel;
mod command;
mod drain;
mod environment;
mod error;
mod function;
mod group;
mod guard;
mod guarded;
mod host;
mod inlet;
mod keeper;
mod kin;
mod live;
mod options;
mod outlet;
mod own_folder;
mod peers;
mod plugin;
mod printable;
mod process;
mod running;
mod scope;
mod settle;
mod sink;
mod site;
mod source;
mod startup;
mod status;
mod tally;
mod target;
mod transports;
mod unstartable;

pub use calls::PendingCall;
pub use catalog::Package;
pub use ekuiper_core::Error as MessageError;
pub use ekuiper_core::codec::{Bytes, Format};
pub use ekuiper_core::manifest::{Language, Manifest};
pub use ekuiper_core::message::{Arguments, FunctionMeta, Meta, SymbolKind, Tuple};
pub use ekuiper_core::restart::RestartPolicy;
pub use ekuiper_core::transport::TransportError;
pub use error::{Error, Result};
pub use function::Function;
pub use guarded::GuardedProcess;
pub use host::{Host, HostBuilder};
pub use process::Exit;
pub use sink::{PendingAck, Sink, SinkBuilder, SinkStopper};
pub use source::{Source, SourceBuilder, Stopper};
pub use status::{Event, EventKind, LiveSymbol, PluginState, Status, Traffic};
pub use tally::Delivery;
