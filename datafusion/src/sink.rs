//! Rows that a query inserts into a plugin's sink.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::datasource::sink::DataSink;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType};
use ekuiper_host::arrow59::send_batch;
use ekuiper_host::{Host, Sink};
use futures::StreamExt;
use serde_json::Value;

use crate::blocking::blocking;
use crate::error::external;
use crate::options::TableOptions;
use crate::reading::next_rule;

/// A plugin's sink, opened for one query.
pub(crate) struct PluginSink {
    pub(crate) host: Arc<Host>,
    pub(crate) symbol: String,
    pub(crate) schema: SchemaRef,
    pub(crate) options: TableOptions,
}

impl fmt::Debug for PluginSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginSink").field("symbol", &self.symbol).finish_non_exhaustive()
    }
}

impl DisplayAs for PluginSink {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PluginSink: {}", self.symbol)
    }
}

#[async_trait]
impl DataSink for PluginSink {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    async fn write_all(&self, mut rows: SendableRecordBatchStream, _: &Arc<TaskContext>) -> Result<u64> {
        let builder = self.host.sink(&self.symbol).rule(next_rule()).require_ack(self.options.has_acks);
        let builder = builder.config(Value::Object(self.options.config.clone()));
        let mut sink = blocking(move || builder.open().map_err(external)).await?;
        let most = self.options.rows_per_message;
        let mut count = 0;
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            count += batch.num_rows() as u64;
            sink = blocking(move || send(sink, &batch, most)).await?;
        }
        blocking(move || sink.close().map_err(external)).await?;
        Ok(count)
    }
}

/// Sends the rows, in messages of at most `most` rows.
fn send(sink: Sink, batch: &RecordBatch, most: Option<usize>) -> Result<Sink> {
    let most = most.unwrap_or(usize::MAX);
    let mut at = 0;
    while at < batch.num_rows() {
        let rows = most.min(batch.num_rows() - at);
        send_batch(&sink, &batch.slice(at, rows)).map_err(external)?;
        at += rows;
    }
    Ok(sink)
}
