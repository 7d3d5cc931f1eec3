//! Work that blocks, for tasks of a query.

use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;

/// Does blocking work in a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| exec_datafusion_err!("a thread of the query has ended: {error}"))?
}
