//! A function runs on a thread of its own.
use std::rc::Rc;

use ekuiper_sdk::prelude::*;

fn main() {
    let shared = Rc::new(7);
    let _ = Plugin::new("p").function("seven", move || *shared);
}
