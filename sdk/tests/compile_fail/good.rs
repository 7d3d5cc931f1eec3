//! Compiles: what the others get wrong is right here.
use ekuiper_sdk::prelude::*;

fn named(text: String) -> String {
    text
}

fn main() {
    let prefix = String::from("> ");
    let _ = Plugin::new("good")
        .function("none", || 1)
        .function("named", named)
        .function("moves", move |text: String| format!("{prefix}{text}"))
        .function("fallible", |n: i64| if n > 0 { Ok(n) } else { Err("not positive") })
        .function("twelve", |_: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8| 12)
        .function("place", |ctx: &FunctionContext| ctx.func_id())
        .function("placed", |text: String, ctx: &FunctionContext| format!("{} {text}", ctx.rule_id()))
        .aggregate("placed_sum", |values: Vec<f64>, _: &FunctionContext| values.iter().sum::<f64>())
        .function("list", |values: Vec<Value>, _: Option<bool>| values.len())
        .aggregate("average", |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64);
}
