//! A plugin's source, or sink, as a table.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{exec_datafusion_err, plan_err};
use datafusion::datasource::TableType;
use datafusion::datasource::sink::DataSinkExec;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use ekuiper_host::Host;

use crate::options::TableOptions;
use crate::reading::Reading;
use crate::sink::PluginSink;

/// What is behind a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Source,
    Sink,
}

/// A plugin's source, which is read, or a sink, into which rows are inserted.
pub(crate) struct PluginTable {
    pub(crate) host: Arc<Host>,
    pub(crate) kind: Kind,
    pub(crate) symbol: String,
    pub(crate) schema: SchemaRef,
    pub(crate) options: TableOptions,
}

impl fmt::Debug for PluginTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, symbol, .. } = self;
        f.debug_struct("PluginTable").field("kind", kind).field("symbol", symbol).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for PluginTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.kind == Kind::Sink {
            return plan_err!("{} is a sink: it is written to with INSERT INTO, and cannot be read", self.symbol);
        }
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => self.schema.clone(),
        };
        let stream = SourceStream {
            host: self.host.clone(),
            symbol: self.symbol.clone(),
            schema: schema.clone(),
            options: self.options.clone(),
        };
        // With a limit, the rows end.
        let is_endless = self.options.is_endless && limit.is_none();
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(stream)], None, [], is_endless, limit)?))
    }

    async fn insert_into(
        &self,
        _: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        how: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.kind == Kind::Source {
            return plan_err!("{} is a source: it is read with SELECT, and cannot be written to", self.symbol);
        }
        if how != InsertOp::Append {
            return plan_err!("{} is a sink: rows are added with INSERT INTO, and none are replaced", self.symbol);
        }
        let sink = PluginSink {
            host: self.host.clone(),
            symbol: self.symbol.clone(),
            schema: self.schema.clone(),
            options: self.options.clone(),
        };
        Ok(Arc::new(DataSinkExec::new(input, Arc::new(sink), None)))
    }
}

/// The rows of a source, which runs while they are read.
struct SourceStream {
    host: Arc<Host>,
    symbol: String,
    /// The columns that the query reads.
    schema: SchemaRef,
    options: TableOptions,
}

impl fmt::Debug for SourceStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceStream").field("symbol", &self.symbol).finish_non_exhaustive()
    }
}

impl PartitionStream for SourceStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = self.schema.clone();
        let reading = Reading::start(&self.host, &self.symbol, &self.options, move |batch| fitted(&batch, &schema));
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), reading))
    }
}

/// Returns the batch with the table's columns, in their types: a column that the
/// rows do not have is NULL, and further ones are left out.
fn fitted(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
        Some(column) => cast(column, field.data_type()).map_err(|error| {
            exec_datafusion_err!("the column {} is declared as {}: {error}", field.name(), field.data_type())
        }),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns.collect::<Result<_>>()?, &options)?)
}
