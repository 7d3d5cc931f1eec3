//! Thirteen arguments.
use ekuiper_sdk::prelude::*;

fn main() {
    let _ = Plugin::new("p").function(
        "many",
        |_: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8| 13,
    );
}
