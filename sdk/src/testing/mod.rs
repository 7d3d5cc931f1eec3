//! Tests of symbols in one process, without sockets. The author's code runs on
//! the same code paths as in production, and its messages are decoded as an
//! engine decodes them.
//!
//! ```
//! use ekuiper_sdk::prelude::*;
//! use ekuiper_sdk::testing;
//!
//! let mut revert = testing::function(|text: String| text.chars().rev().collect::<String>());
//! assert_eq!(revert.call::<String>(("hello",)), Ok("olleh".into()));
//! assert_eq!(revert.call::<String>((7,)), Err("invalid argument 1: invalid type: integer `7`, expected a string".into()));
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
//!
//! struct Positive;
//! impl Sink for Positive {
//!     fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
//!         for row in ctx.rows::<Value>(data)? {
//!             row["n"].as_u64().ok_or("n is not positive")?;
//!         }
//!         Ok(())
//!     }
//! }
//! let mut sink = testing::sink(Positive).require_ack(true).open()?;
//! sink.send(&json!({ "n": 1 }))?;
//! assert!(sink.send(&json!([{ "n": 2 }, { "n": -2 }])).is_err());
//! assert_eq!(sink.acks(), [Ok(()), Err("n is not positive".into())]);
//! # Ok::<(), ekuiper_sdk::BoxError>(())
//! ```

mod function;
mod meta;
mod sink;
mod source;

#[cfg(feature = "arrow")]
pub use function::columnar;
pub use function::{FunctionTest, aggregate, function};
pub use sink::{OpenSink, SinkTest, sink};
pub use source::{RunningSource, SourceTest, source};
