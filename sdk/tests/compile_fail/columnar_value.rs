//! A columnar function takes arrays, by reference.
use ekuiper_sdk::prelude::*;

fn main() {
    let _ = Plugin::new("p").columnar("double", |x: f64| x * 2.0);
}
