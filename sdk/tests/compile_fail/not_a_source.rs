//! What `source` makes must be a `Source`.
use ekuiper_sdk::prelude::*;

fn main() {
    let _ = Plugin::new("p").source("numbers", || 7);
}
