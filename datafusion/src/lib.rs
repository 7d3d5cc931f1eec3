//! SQL on eKuiper portable plugins, with DataFusion 55: functions and aggregates
//! of plugins in queries, sources as tables, sinks as targets of `INSERT`.
//!
//! ```no_run
//! use datafusion::prelude::SessionContext;
//! use ekuiper_datafusion::PluginCatalog;
//! use ekuiper_host::Host;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let host = Host::builder().plugins_dir("plugins/portable").build()?;
//! let ctx = SessionContext::new();
//! PluginCatalog::new(host).register_all(&ctx)?;
//! ctx.sql("SELECT revert(name) FROM random LIMIT 3").await?.show().await?;
//! # Ok(())
//! # }
//! ```

mod aggregate;
mod blocking;
mod catalog;
mod declaration;
mod error;
mod external_table;
mod function;
mod named_sources;
mod options;
mod reading;
mod sink;
mod table;
mod types;
mod untyped;

pub use catalog::PluginCatalog;
pub use declaration::Declaration;
pub use error::{Error, Result};
pub use function::OnRefusal;
