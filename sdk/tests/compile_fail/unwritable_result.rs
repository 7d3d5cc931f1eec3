//! A result must be writable as JSON.
use ekuiper_sdk::prelude::*;

struct Point;

fn main() {
    let _ = Plugin::new("p").function("point", |_x: f64| Point);
}
