//! An argument's type must be readable from JSON.
use ekuiper_sdk::prelude::*;

struct Point;

fn main() {
    let _ = Plugin::new("p").function("norm", |_point: Point| 1);
}
