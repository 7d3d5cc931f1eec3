//! A value is no function.
use ekuiper_sdk::prelude::*;

fn main() {
    let _ = Plugin::new("p").function("seven", 7);
}
