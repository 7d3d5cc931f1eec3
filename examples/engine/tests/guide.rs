//! The examples of the host in the guide and the README, so that they are
//! compiled: `conformance/tests/guide.rs` finds each of them here.

#![allow(dead_code, reason = "it is only compiled")]

use std::error::Error;
use std::time::Duration;

use ekuiper_host::{CallOptions, Function, Host, Package, PluginOptions, Sink};

fn an_engine() -> Result<(), Box<dyn Error>> {
    use ekuiper_host::Host;
    use serde_json::json;

    let host = Host::builder().plugins_dir("plugins/portable").build()?;

    let revert = host.function("revert")?;
    let reversed: String = revert.call(("hello",))?;

    let source = host.source("random").rule("rule1").config(json!({ "interval": 10 })).open()?;
    let sink = host.sink("file").rule("rule1").require_ack(true).open()?;
    for tuple in source {
        sink.send(&tuple?.message)?;
    }
    drop(reversed);
    Ok(())
}

#[rustfmt::skip]
fn a_description(host: &Host) -> Result<(), Box<dyn Error>> {
    if let Some(description) = host.description("mirror")? {        // starts the plugin, unless it runs
        for function in &description.functions {
            println!("{}: {}", function.name, function.result);     // revert: string
        }
    }
    Ok(())
}

#[rustfmt::skip]
#[allow(unused_variables, reason = "an embedder shows it")]
fn the_end_of_a_sink(sink: Sink) -> Result<(), Box<dyn Error>> {
    let stopper = sink.stopper();                   // for another thread
    std::thread::spawn(move || loop {
        let delivery = stopper.delivery();          // sent, delivered, refused
        // … stopper.abandon() ends the wait
    });
    sink.close()?;
    Ok(())
}

#[rustfmt::skip]
fn a_plugin_in_a_debugger() -> Result<(), Box<dyn Error>> {
    let host = Host::builder().attach("mirror").init_timeout(Duration::from_secs(3600)).build()?;
    let revert = host.function("revert")?;      // waits until somebody starts the plugin
    drop(revert);
    Ok(())
}

#[rustfmt::skip]
fn options_of_a_plugin() -> Result<(), Box<dyn Error>> {
    let options = PluginOptions::new()
        .clear_env()                        // none of the host's variables
        .env("HOME", "/var/lib/mirror")
        .dir("/var/lib/mirror")             // working directory
        .memory(256 << 20)                  // bytes, of each process
        .descriptors(256)                   // open files and sockets, of each process
        .processors(1)                      // how many of the host's processors
        .sha256("9f86d081884c7d65…")        // of its executable
        .calls("lookup", CallOptions::new().answer_within(Duration::from_secs(1)))
        .processes("revert", 4);            // of a pool that is given no size
    let host = Host::builder().plugins_dir("plugins/portable").plugin_options("mirror", options).build()?;
    drop(host);
    Ok(())
}

fn an_update(host: &Host) -> Result<(), Box<dyn Error>> {
    host.update(Package::read("staging/mirror")?)?;
    Ok(())
}

fn many_calls(double: &Function, revert: &Function, words: &[&str]) -> Result<(), Box<dyn Error>> {
    let doubled: Vec<Result<f64, String>> = double.call_many((0..1000).map(|n| (f64::from(n),)))?;
    drop(doubled);

    let pending: Vec<_> = words.iter().map(|word| revert.call_async::<String>((word,))).collect::<Result<_, _>>()?;
    for call in pending {
        println!("{}", call.wait()?);
    }
    Ok(())
}

#[rustfmt::skip]
fn options_of_calls(host: &Host) -> Result<(), Box<dyn Error>> {
    let options = CallOptions::new()
        .deadline(Duration::from_secs(2))           // from the call to its result, with the wait for earlier calls
        .answer_within(Duration::from_millis(500))  // from the moment at which it is sent
        .idempotent(true);                          // it may be executed twice
    let lookup = host.function("lookup")?.with_options(options);
    drop(lookup);
    Ok(())
}

/// In place of arrow's.
#[derive(Default)]
struct StringBuilder(Vec<Option<String>>);

impl StringBuilder {
    fn new() -> Self {
        Self::default()
    }

    fn append_value(&mut self, text: &str) {
        self.0.push(Some(text.into()));
    }

    fn append_null(&mut self) {
        self.0.push(None);
    }
}

#[rustfmt::skip]
fn many_texts(upper: &Function, rows: Vec<(&str,)>) -> Result<(), Box<dyn Error>> {
    let mut names = StringBuilder::new();
    upper.call_many_into::<String, _>(rows, |_, outcome| match outcome {
        Ok(text) => names.append_value(text),
        Err(_) => names.append_null(),
    })?;
    Ok(())
}

#[rustfmt::skip]
fn a_pool(host: &Host, words: Vec<(&str,)>) -> Result<(), Box<dyn Error>> {
    let pool = host.function_pool("revert").size(4).open()?;    // or .open_async().await?
    let reversed: String = pool.call(("hello",))?;
    let call = pool.call_async::<String>(("hello",))?;          // a future; call.wait() blocks
    let results = pool.call_many::<String, _>(words.clone())?;  // in all processes at once
    pool.call_many_into::<String, _>(words, |row, outcome| println!("{row}: {outcome:?}"))?;
    drop((reversed, call, results));
    Ok(())
}

#[rustfmt::skip]
fn the_health_of_a_host(host: &Host) {
    for plugin in host.health() {
        println!("{}: {:?}, restarts {}, {:?} bytes", plugin.plugin, plugin.state, plugin.restarts, plugin.resident);
        for symbol in &plugin.symbols {
            let p99 = symbol.latency.as_ref().map(|latency| latency.quantile(0.99));
            println!("{} of {}: {} out, {} in, p99 {p99:?}", symbol.name, symbol.meta, symbol.rows_out, symbol.rows_in);
        }
    }
}
