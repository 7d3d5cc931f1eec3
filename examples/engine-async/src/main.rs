//! A small engine on tokio. Each of its rules is a task that reads a plugin's
//! source, calls a plugin's function for every row, and writes to a plugin's
//! sink with acknowledgements; Ctrl-C stops them in order.
//!
//! ```sh
//! cargo build --release && cp target/release/mirror examples/mirror
//! cargo run --release -p engine-async -- examples/mirror /tmp/rows 3
//! ```

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ekuiper_host::{AsyncSink, AsyncSource, Chain, Host, Result};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plugin, output, rules] = arguments.as_slice() else { return usage() };
    let Ok(rules) = rules.parse() else { return usage() };
    match run(plugin, output, rules).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engine-async: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: engine-async PLUGIN_FOLDER OUTPUT_PREFIX RULES");
    ExitCode::from(2)
}

async fn run(plugin: &str, output: &str, rules: usize) -> Result<()> {
    let host = Arc::new(Host::builder().plugin(plugin).build()?);
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for number in 1..=rules {
        let (host, stopped) = (host.clone(), stopped.clone());
        let (rule, path) = (format!("rule{number}"), format!("{output}{number}.jsonl"));
        tasks.spawn(async move {
            let rows = run_rule(&host, &rule, &path, stopped).await?;
            Ok((rule, rows))
        });
    }
    let mut outcome = Ok(());
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(Ok(Ok((rule, rows)))) => println!("{rule}: {rows} rows"),
                Some(Ok(Err(error))) => outcome = Err(error),
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
                None => break,
            },
            _ = tokio::signal::ctrl_c() => drop(stop.send(true)),
        }
    }
    // It waits for the plugins to end.
    let _ = spawn_blocking(move || host.shutdown()).await;
    outcome
}

/// Runs a rule until its source ends or it is told to stop. Returns the number
/// of rows.
async fn run_rule(host: &Host, rule: &str, path: &str, mut stopped: watch::Receiver<bool>) -> Result<u64> {
    let revert = host.function_async("revert").await?;
    let source = host.source("random").rule(rule).config(json!({ "interval": 10, "count": 100 }));
    let mut source: AsyncSource<Value> = source.open_async().await?;
    let sink = host.sink("file").rule(rule).config(json!({ "path": path })).require_ack(true);
    let mut sink: AsyncSink = sink.open_async().await?;
    let mut rows = 0;
    loop {
        let tuple = tokio::select! {
            tuple = source.next() => tuple,
            _ = stopped.changed() => None,
        };
        let Some(tuple) = tuple else { break };
        let mut row = tuple?.message;
        // A call that takes longer is given up; its answer disturbs no other.
        let reversed = revert.call_async::<String>((&row["name"],))?;
        if let Ok(reversed) = tokio::time::timeout(Duration::from_secs(1), reversed).await {
            row["reversed"] = reversed?.into();
        }
        // Waits while the sink has too many rows to acknowledge.
        sink.feed(row).await?;
        rows += 1;
    }
    source.close().await?;
    SinkExt::<Value>::flush(&mut sink).await?;
    sink.close().await?;
    Ok(rows)
}
