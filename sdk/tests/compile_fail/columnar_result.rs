//! A columnar function returns an array.
use ekuiper_sdk::columns::arrow_array::Float64Array;
use ekuiper_sdk::prelude::*;

fn main() {
    let _ = Plugin::new("p").columnar("sum", |x: &Float64Array| x.values().iter().sum::<f64>());
}
