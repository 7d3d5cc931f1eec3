//! The examples of the host in the guide and the README, so that they are
//! compiled: `conformance/tests/guide.rs` finds each of them here.

#![allow(dead_code, reason = "it is only compiled")]

use std::error::Error;

use ekuiper_host::{Function, Host, Package, Sink};

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
