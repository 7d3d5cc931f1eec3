//! An argument is read from the message, which is gone when the call returns.
use ekuiper_sdk::prelude::*;

fn main() {
    let _ = Plugin::new("p").function("length", |text: &str| text.len());
}
