//! `CREATE EXTERNAL TABLE … STORED AS PLUGIN`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{plan_datafusion_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::CreateExternalTable;
use ekuiper_host::description::ConfigFields;
use ekuiper_host::{Host, SymbolKind};
use futures::StreamExt;

use crate::blocking::blocking;
use crate::error::external;
use crate::options::TableOptions;
use crate::reading::Reading;
use crate::table::{Kind, PluginTable};

/// Maximum time to wait for a source's first rows, of which the columns are
/// learnt.
const FIRST_ROWS: Duration = Duration::from_secs(10);

/// Makes tables of the sources and sinks of a host.
pub(crate) struct PluginTables {
    pub(crate) host: Arc<Host>,
}

impl fmt::Debug for PluginTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginTables").finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProviderFactory for PluginTables {
    async fn create(&self, _: &dyn Session, command: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        let [location] = &command.locations[..] else {
            return plan_err!("a table of a plugin has one LOCATION, the name of a source or sink");
        };
        if !command.order_exprs.is_empty() || !command.table_partition_cols.is_empty() {
            return plan_err!("a table of a plugin has neither WITH ORDER nor PARTITIONED BY");
        }
        let (kind, symbol, plugin) = self.find(location)?;
        let fields = self.config_fields(kind, symbol, plugin).await?;
        let options = TableOptions::read(&command.options, fields.as_ref())?;
        let declared: SchemaRef = Arc::new(command.schema.as_arrow().clone());
        if kind == Kind::Sink && declared.fields().is_empty() {
            return plan_err!(
                "the sink {symbol} needs columns: write CREATE EXTERNAL TABLE {} (name VARCHAR, …) STORED AS PLUGIN …",
                command.name
            );
        }
        let schema = match declared.fields().is_empty() {
            true => self.first_rows(symbol, &options).await?,
            false => declared,
        };
        Ok(Arc::new(PluginTable { host: self.host.clone(), kind, symbol: symbol.to_owned(), schema, options }))
    }
}

impl PluginTables {
    /// Whether a plugin has a source of this name.
    pub(crate) fn has_source(&self, name: &str) -> bool {
        self.plugin_of(Kind::Source, name).is_some()
    }

    /// A source with its default configuration, and the columns of its first
    /// rows.
    pub(crate) async fn source(&self, symbol: &str) -> Result<Arc<dyn TableProvider>> {
        let options = TableOptions::endless();
        let schema = self.first_rows(symbol, &options).await?;
        let symbol = symbol.to_owned();
        Ok(Arc::new(PluginTable { host: self.host.clone(), kind: Kind::Source, symbol, schema, options }))
    }

    fn plugin_of(&self, kind: Kind, symbol: &str) -> Option<String> {
        let packages = self.host.packages().into_iter();
        let owner = packages.filter(|package| {
            let symbols = match kind {
                Kind::Source => &package.manifest.sources,
                Kind::Sink => &package.manifest.sinks,
            };
            symbols.iter().any(|name| name == symbol)
        });
        owner.map(|package| package.name).next()
    }

    /// Finds what a location names: `random`, or, if a source and a sink have
    /// that name, `source:random` or `sink:random`.
    fn find<'a>(&self, location: &'a str) -> Result<(Kind, &'a str, String)> {
        let (kind, symbol) = match location.split_once(':') {
            Some(("source", symbol)) => (Some(Kind::Source), symbol),
            Some(("sink", symbol)) => (Some(Kind::Sink), symbol),
            _ => (None, location),
        };
        let owner = |wanted| (kind != Some(other(wanted))).then(|| self.plugin_of(wanted, symbol)).flatten();
        match (owner(Kind::Source), owner(Kind::Sink)) {
            (Some(plugin), None) => Ok((Kind::Source, symbol, plugin)),
            (None, Some(plugin)) => Ok((Kind::Sink, symbol, plugin)),
            (Some(_), Some(_)) => plan_err!(
                "{symbol} is a source and a sink: write LOCATION 'source:{symbol}' or LOCATION 'sink:{symbol}'"
            ),
            (None, None) => plan_err!("no plugin has a source or sink {symbol}"),
        }
    }

    /// The described fields of the configuration.
    async fn config_fields(&self, kind: Kind, symbol: &str, plugin: String) -> Result<Option<ConfigFields>> {
        let host = self.host.clone();
        let described = blocking(move || host.description(&plugin).map_err(external)).await?;
        let kind = match kind {
            Kind::Source => SymbolKind::Source,
            Kind::Sink => SymbolKind::Sink,
        };
        Ok(described.and_then(|described| described.config(kind, symbol).cloned()))
    }

    /// Runs a source until its first rows have come, and returns their columns.
    async fn first_rows(&self, symbol: &str, options: &TableOptions) -> Result<SchemaRef> {
        let mut reading = Reading::start(&self.host, symbol, options, Ok);
        let declare = || format!("write CREATE EXTERNAL TABLE {symbol} (name VARCHAR, …) STORED AS PLUGIN …");
        let first = tokio::time::timeout(FIRST_ROWS, reading.next()).await.map_err(|_| {
            plan_datafusion_err!("the source {symbol} has sent no row within {FIRST_ROWS:?}: {}", declare())
        })?;
        let Some(batch) = first.transpose()? else {
            return plan_err!("the source {symbol} has ended without a row: {}", declare());
        };
        let schema = batch.schema();
        // A later row may have a value where the first ones have none.
        let fields = schema.fields().iter().map(|field| match field.data_type() {
            DataType::Null => {
                plan_err!("the column {} of the source {symbol} is NULL in its first rows: {}", field.name(), declare())
            }
            _ => Ok(field.as_ref().clone().with_nullable(true)),
        });
        Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?)))
    }
}

fn other(kind: Kind) -> Kind {
    match kind {
        Kind::Source => Kind::Sink,
        Kind::Sink => Kind::Source,
    }
}
