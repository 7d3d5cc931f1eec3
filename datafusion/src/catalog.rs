//! The plugins of a host, registered in a DataFusion session.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::plan_datafusion_err;
use datafusion::logical_expr::async_udf::AsyncScalarUDF;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::prelude::SessionContext;
use ekuiper_host::description::FunctionDescription;
use ekuiper_host::{Chain, Host, Package};

use crate::aggregate::PluginAggregate;
use crate::external_table::PluginTables;
use crate::function::{PluginFunction, SlowFunction};
use crate::named_sources::NamedSources;
use crate::untyped::UntypedFunction;
use crate::{Declaration, OnRefusal, Result};

/// The file type of `CREATE EXTERNAL TABLE … STORED AS PLUGIN`.
const FILE_TYPE: &str = "PLUGIN";

/// The plugins of a host as functions and tables of SQL.
///
/// - Each function of a plugin is a function of SQL: with the types of its
///   [`Declaration`] if there is one, or else of its plugin's description.
/// - `CREATE EXTERNAL TABLE t (…) STORED AS PLUGIN LOCATION 'random' OPTIONS (…)`
///   makes a table of a source or a sink.
/// - A source without a table of that name is a table itself, with its default
///   configuration and the columns of its first rows.
pub struct PluginCatalog {
    host: Arc<Host>,
    declarations: Vec<Declaration>,
    slow: HashSet<String>,
    on_refusal: OnRefusal,
    processes: usize,
}

impl PluginCatalog {
    /// A catalog of all plugins of the host.
    pub fn new(host: impl Into<Arc<Host>>) -> Self {
        Self {
            host: host.into(),
            declarations: Vec::new(),
            slow: HashSet::new(),
            on_refusal: OnRefusal::default(),
            processes: 1,
        }
    }

    /// Declares a function's types, in place of those in its description. A
    /// later declaration of the same function replaces an earlier one.
    #[must_use]
    pub fn declare(mut self, declaration: Declaration) -> Self {
        self.declarations.push(declaration);
        self
    }

    /// Declares a function slow: no thread of the query waits for its calls, and
    /// up to 1,024 rows of it are in flight.
    #[must_use]
    pub fn slow(mut self, function: impl Into<String>) -> Self {
        self.slow.insert(function.into());
        self
    }

    /// Sets what a row that a function refuses does to the query.
    #[must_use]
    pub fn on_refusal(mut self, on_refusal: OnRefusal) -> Self {
        self.on_refusal = on_refusal;
        self
    }

    /// Sets the number of processes that execute a function which is described
    /// as parallel. Default: 1.
    #[must_use]
    pub fn processes(mut self, processes: usize) -> Self {
        self.processes = processes.max(1);
        self
    }

    /// Registers the functions and tables in a session. Blocks: each plugin is
    /// started, for its description.
    ///
    /// A function whose types are unknown, or whose plugin cannot be started, is
    /// registered too: a query that uses it fails and says why.
    ///
    /// # Errors
    /// The session has no default catalog.
    pub fn register_all(&self, ctx: &SessionContext) -> Result<()> {
        for package in self.host.packages() {
            self.register_functions(ctx, &package);
        }
        let tables = Arc::new(PluginTables { host: self.host.clone() });
        ctx.state_ref().write().table_factories_mut().insert(FILE_TYPE.to_owned(), tables.clone());
        let state = ctx.state();
        let defaults = &state.config_options().catalog;
        let missing = || plan_datafusion_err!("the session has no catalog {:?}", defaults.default_catalog);
        let catalog = ctx.catalog(&defaults.default_catalog).ok_or_else(missing)?;
        let schema = catalog.schema(&defaults.default_schema).ok_or_else(missing)?;
        catalog.register_schema(&defaults.default_schema, Arc::new(NamedSources::new(schema, tables)))?;
        Ok(())
    }

    fn register_functions(&self, ctx: &SessionContext, package: &Package) {
        let described = self.host.description(&package.name);
        for name in &package.manifest.functions {
            let declared = self.declarations.iter().rev().find(|declared| declared.name == *name).cloned();
            let declared = declared.map_or_else(
                || match &described {
                    Ok(Some(plugin)) => described_as(name, plugin.functions.iter().find(|one| one.name == *name)),
                    Ok(None) => Err(unknown(name, "its plugin does not describe it")),
                    Err(error) => Err(Chain(error).to_string()),
                },
                Ok,
            );
            match declared {
                Ok(declared) => self.register(ctx, declared),
                Err(reason) => ctx.register_udf(UntypedFunction::new(name.clone(), reason).into()),
            }
        }
    }

    fn register(&self, ctx: &SessionContext, declared: Declaration) {
        let host = self.host.clone();
        if declared.is_aggregate {
            ctx.register_udaf(AggregateUDF::from(PluginAggregate::new(host, declared)));
            return;
        }
        let is_slow = self.slow.contains(&declared.name);
        let function = PluginFunction::new(host, declared, self.on_refusal, self.processes);
        ctx.register_udf(match is_slow {
            true => AsyncScalarUDF::new(Arc::new(SlowFunction::new(function))).into_scalar_udf(),
            false => ScalarUDF::from(function),
        });
    }
}

fn described_as(name: &str, described: Option<&FunctionDescription>) -> Result<Declaration, String> {
    let described = described.ok_or_else(|| unknown(name, "its plugin does not describe it"))?;
    Declaration::described(described).ok_or_else(|| unknown(name, &format!("its result is {}", described.result)))
}

fn unknown(name: &str, why: &str) -> String {
    format!(
        "the type of the function {name} is unknown, as {why}: declare it, for example as \"{name}(string) string\""
    )
}
