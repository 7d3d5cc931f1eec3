//! A plugin that counts its allocations, and tells how many there were.

use ekuiper_interop::allocations::{self, Counting};
use ekuiper_sdk::prelude::*;
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    Plugin::new("counting")
        .source("numbers", || Numbers)
        .sink("sum", Sum::default)
        .function("double", |x: f64| x * 2.0)
        // Takes a number and gives one: what it costs itself is what `double` costs.
        .function("allocations", |_: u8| allocations::count())
        .run()
}

#[derive(Serialize, Deserialize)]
struct Row {
    number: u64,
    half: f64,
    even: bool,
}

/// Emits rows without end.
struct Numbers;

impl Source for Numbers {
    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        for number in 0.. {
            ctx.emit(&Row { number, half: number as f64 / 2.0, even: number.is_multiple_of(2) })?;
        }
        Ok(())
    }
}

/// Reads each row, and refuses one that is not the next.
#[derive(Default)]
struct Sum {
    next: u64,
}

impl Sink for Sum {
    fn collect(&mut self, _ctx: &SinkContext, data: &[u8]) -> Result<()> {
        let row: Row = serde_json::from_slice(data)?;
        if row.number != self.next || row.even != row.number.is_multiple_of(2) {
            return Err(format!("row {} is not {}", row.number, self.next).into());
        }
        self.next += 1;
        Ok(())
    }
}
