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
//! The modules, from the engine's side down; each uses those below it:
//!
//! | module | holds |
//! |---|---|
//! | `arrow59` | columns as record batches |
//! | `c_data` | columns of any Arrow library |
//! | [`metrics`] | the figures of plugins and symbols for Prometheus |
//! | [`host`](Host), `catalog` | the host, and which plugin serves a symbol |
//! | `function`, `source`, `sink` | the handles of an engine, for threads and for tasks, and their part in each process |
//! | `plugin` | the life of one plugin: `lifecycle` decides, `worker` carries out; `startup`, `running`: one process of it |
//! | `site` | what all plugins of a host share |
//! | `channel` | commands and their answers, idle reading, and the sockets whose waits end with a process |
//! | `plugin_log` | what plugins write |
//! | `plugin_options` | what an engine decides about one plugin's processes |
//! | `process`, `program` | how processes are started, and ended when the host is gone; program files |
//! | `background` | threads for what may block, for callers that must not |
//! | `transports` | the transports that are built in |
//! | `health` | what is counted of each symbol |
//! | `error`, `status`, `event_stream`, `options`, `target`, `sync`, `counted` | used by all of them |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unnameable_types)]

#[cfg(feature = "arrow59")]
pub mod arrow59;
mod background;
mod blocking;
#[cfg(feature = "c-data")]
pub mod c_data;
mod catalog;
mod channel;
mod counted;
mod error;
mod event_stream;
mod function;
mod health;
mod host;
pub mod metrics;
mod options;
mod plugin;
mod plugin_log;
mod plugin_options;
mod process;
mod program;
mod sink;
mod site;
mod source;
mod status;
mod sync;
mod target;
mod transports;

pub use background::Task;
pub use catalog::Package;
pub use ekuiper_core::address::Address;
pub use ekuiper_core::codec::{Bytes, Error as CodecError, Format};
/// What plugins say about themselves.
pub use ekuiper_core::description;
pub use ekuiper_core::manifest::{Language, Manifest};
pub use ekuiper_core::message::{ArgWriter, Arguments, FunctionMeta, Meta, RawTuple, SymbolKind, Tuple};
pub use ekuiper_core::restart::RestartPolicy;
pub use ekuiper_core::transport::TransportError;
pub use ekuiper_core::{Chain, Error as MessageError};
pub use error::{Error, ErrorDelivery, ErrorKind, Reason, Result, Subject};
pub use event_stream::EventStream;
pub use function::many::ManyError;
pub use function::options::CallOptions;
pub use function::pending::{PendingCall, PendingColumns};
pub use function::pool::{FunctionPool, FunctionPoolBuilder, PooledCall, PooledColumns};
pub use function::{Function, FunctionStopper};
pub use health::{LastError, Latency, SymbolErrors, SymbolHealth, SymbolTotals};
pub use host::{Host, HostBuilder, Problem, Rescan};
pub use plugin_log::{LogLevel, LogLine, NoSuchLevel};
pub use plugin_options::PluginOptions;
pub use process::Exit;
pub use process::command::{check_python, python_advice};
pub use process::guarded::GuardedProcess;
pub use process::own_folder::remove_socket_folders;
pub use program::search::default_python;
pub use sink::async_sink::AsyncSink;
pub use sink::pending::PendingAck;
pub use sink::tally::Delivery;
pub use sink::{Sink, SinkBuilder, SinkStopper};
pub use source::async_source::AsyncSource;
pub use source::{Source, SourceBuilder, Stopper};
pub use status::{Event, EventKind, MemberStatus, MemberTotals, PluginState, Status, Traffic};

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
