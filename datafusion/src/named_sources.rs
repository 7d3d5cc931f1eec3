//! Sources as tables of their own names, without `CREATE EXTERNAL TABLE`.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::error::Result;

use crate::external_table::PluginTables;

/// The tables of a schema, and behind them the sources of plugins: a name that
/// is no table is looked up as a source. The list of names has the tables alone,
/// because a source has no columns before it has run.
#[derive(Debug)]
pub(crate) struct NamedSources {
    tables: Arc<dyn SchemaProvider>,
    plugins: Arc<PluginTables>,
}

impl NamedSources {
    pub(crate) fn new(tables: Arc<dyn SchemaProvider>, plugins: Arc<PluginTables>) -> Self {
        Self { tables, plugins }
    }
}

#[async_trait]
impl SchemaProvider for NamedSources {
    fn table_names(&self) -> Vec<String> {
        self.tables.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match self.tables.table(name).await? {
            None if self.plugins.has_source(name) => Ok(Some(self.plugins.source(name).await?)),
            found => Ok(found),
        }
    }

    fn register_table(&self, name: String, table: Arc<dyn TableProvider>) -> Result<Option<Arc<dyn TableProvider>>> {
        self.tables.register_table(name, table)
    }

    fn deregister_table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        self.tables.deregister_table(name)
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.table_exist(name)
    }
}
