//! The context comes after the arguments.
use ekuiper_sdk::prelude::*;

fn main() {
    let _ = Plugin::new("p").function("label", |ctx: &FunctionContext, text: String| format!("{} {text}", ctx.rule_id()));
}
