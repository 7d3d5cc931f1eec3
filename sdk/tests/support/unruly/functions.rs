//! Functions that misbehave.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use ekuiper_sdk::prelude::*;

pub(crate) fn add(plugin: Plugin) -> Plugin {
    plugin
        .function("echo", |value: Value| value)
        .function("repeat", |text: String, times: usize| text.repeat(times))
        .function("divide", |a: f64, b: f64| a / b)
        .function("boom", |text: String| -> String { panic!("{text}") })
        .function("slow", |release: PathBuf| {
            crate::wait_for(&release);
            "done"
        })
        .function("say", |text: String| tracing::warn!("{text}"))
        .function("cross", Cross)
        .function("lethal", lethal)
        .function("lethal_twice", describe(lethal).idempotent())
        .aggregate("count", |values: Vec<Value>| values.len())
}

/// A function that records its execution, and ends the process the first `times`
/// times. Returns the number of executions.
fn lethal(file: PathBuf, times: usize) -> Result<usize> {
    File::options().create(true).append(true).open(&file)?.write_all(b"executed\n")?;
    let count = std::fs::read_to_string(&file)?.lines().count();
    if count <= times {
        std::process::abort();
    }
    Ok(count)
}

/// A function that panics in every method.
struct Cross;

impl Function for Cross {
    fn validate(&mut self, _args: &[Value]) -> Result<()> {
        panic!("boom in validate")
    }

    fn exec(&mut self, _args: &[Value], ctx: &FunctionContext) -> Result<Value> {
        Ok(json!([ctx.rule_id(), ctx.op_id(), ctx.instance_id(), ctx.func_id()]))
    }

    fn is_aggregate(&self) -> bool {
        panic!("boom in is_aggregate")
    }
}
