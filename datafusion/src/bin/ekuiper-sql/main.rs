//! `ekuiper-sql`: SQL on the plugins of a folder.

mod output;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement};
use ekuiper_datafusion::{Declaration, OnRefusal, PluginCatalog};
use ekuiper_host::{Chain, Host};
use futures::StreamExt;
use tokio::signal::unix::{SignalKind, signal};

use output::{Format, Output};

/// Runs SQL on the plugins of a folder.
///
/// Each function of a plugin is a function of SQL, and each source a table:
/// SELECT revert(name) FROM random LIMIT 3. CREATE EXTERNAL TABLE t (...) STORED
/// AS PLUGIN LOCATION 'file' OPTIONS (...) makes a table of a source with a
/// configuration, or of a sink, into which INSERT writes.
#[derive(Parser)]
#[command(name = "ekuiper-sql", version)]
struct Arguments {
    /// The folder with a folder for each plugin.
    #[arg(long, value_name = "DIR")]
    plugins: PathBuf,
    /// Declares a function without a description, such as 'revert(string) string'.
    #[arg(long, value_name = "DECLARATION")]
    function: Vec<String>,
    /// Makes many calls of this function at once, as its calls take long.
    #[arg(long, value_name = "FUNCTION")]
    slow: Vec<String>,
    /// Makes the result of a row NULL where a function refuses it.
    #[arg(long)]
    refused_as_null: bool,
    /// Number of processes for each function that is described as parallel.
    #[arg(long, value_name = "N", default_value_t = 1)]
    processes: usize,
    /// The form of the rows.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// One statement or several, with a semicolon between two.
    sql: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ekuiper-sql: {}", Chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let declarations = arguments.function.iter().map(|text| Declaration::parse(text));
    let declarations = declarations.collect::<Result<Vec<_>, _>>()?;
    let statements = DFParser::parse_sql(&arguments.sql)?;
    let host = Arc::new(Host::builder().plugins_dir(&arguments.plugins).build()?);
    for problem in host.problems() {
        eprintln!("ekuiper-sql: {problem}");
    }
    let ctx = SessionContext::new_with_config(SessionConfig::new().with_information_schema(true));
    let mut catalog = PluginCatalog::new(host.clone()).processes(arguments.processes);
    if arguments.refused_as_null {
        catalog = catalog.on_refusal(OnRefusal::Null);
    }
    catalog = declarations.into_iter().fold(catalog, PluginCatalog::declare);
    catalog = arguments.slow.iter().fold(catalog, PluginCatalog::slow);
    let registered = catalog.register_all(&ctx);
    let outcome = registered.map_err(Into::into).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(until_signal(execute_all(&ctx, statements, arguments.output)))
    });
    host.shutdown();
    outcome
}

/// Runs the statements until SIGINT or SIGTERM.
async fn until_signal(
    statements: impl Future<Output = Result<(), DataFusionError>>,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        done = statements => Ok(done.map(|()| ExitCode::SUCCESS)?),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

async fn execute_all(
    ctx: &SessionContext,
    statements: impl IntoIterator<Item = Statement>,
    format: Format,
) -> Result<(), DataFusionError> {
    for statement in statements {
        let plan = ctx.state().statement_to_plan(statement).await?;
        let frame = ctx.execute_logical_plan(plan).await?;
        let plan = frame.create_physical_plan().await.map_err(in_words)?;
        let is_endless = !has_end(&*plan);
        let rows = execute_stream(plan, ctx.task_ctx())?;
        match write(rows, Output::new(format, is_endless)).await {
            // The reader, such as `head`, has what it wants.
            Err(DataFusionError::IoError(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
    Ok(())
}

/// Whether the rows of a plan end, by a LIMIT or because those it reads do.
fn has_end(plan: &dyn ExecutionPlan) -> bool {
    let is_limited = plan.fetch().is_some() || matches!(&plan.children()[..], [input] if has_end(&***input));
    is_limited || !plan.boundedness().is_unbounded()
}

/// Says what to write in place of a query that needs all rows of a source
/// without an end; DataFusion's own text has its whole plan.
fn in_words(error: DataFusionError) -> DataFusionError {
    match error.to_string().contains("pipeline breaking") {
        true => DataFusionError::Plan(
            "this query needs all rows, but a source of it has no end: read a part, as FROM (SELECT * FROM random \
             LIMIT 100), or make a table with OPTIONS ('endless' 'false') of a source that ends"
                .to_owned(),
        ),
        false => error,
    }
}

async fn write(mut rows: SendableRecordBatchStream, mut output: Output) -> Result<(), DataFusionError> {
    while let Some(batch) = rows.next().await {
        output.write(batch?)?;
    }
    output.finish()
}
