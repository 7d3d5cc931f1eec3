//! A plugin with columns, for tests of them.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ekuiper_sdk::columns::arrow_array::cast::AsArray;
use ekuiper_sdk::columns::arrow_array::types::Float64Type;
use ekuiper_sdk::columns::arrow_array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use ekuiper_sdk::prelude::*;

fn main() -> ExitCode {
    Plugin::new("columns")
        .version("v1.0.0")
        .columnar("double", describe(|x: &Float64Array| -> Float64Array { x.unary(|x| x * 2.0) }).arguments(["x"]))
        .columnar("label", |names: &StringArray, numbers: &Int64Array, ctx: &FunctionContext| -> Result<StringArray> {
            let label =
                |name: Option<&str>, number: Option<i64>| Some(format!("{} {}: {}", ctx.rule_id(), name?, number?));
            Ok(names.iter().zip(numbers).map(|(name, number)| label(name, number)).collect())
        })
        .columnar("same", |column: &ArrayRef| column.clone())
        .columnar("batch_of", |column: &ArrayRef| Int64Array::from(vec![column.len() as i64; column.len()]))
        .columnar("half_of_them", |column: &ArrayRef| column.slice(0, column.len() / 2))
        .columnar("refuse", |_: &ArrayRef| Err::<ArrayRef, _>("not today"))
        .columnar("panic", |_: &ArrayRef| -> ArrayRef { panic!("boom") })
        .columnar("wide", |column: &ArrayRef| StringArray::from(vec!["x".repeat(2000); column.len()]))
        .columnar("crash", |_: &ArrayRef| -> ArrayRef { std::process::abort() })
        .columnar("until_cancelled", until_cancelled)
        .columnar("crash_once", |path: &StringArray| -> StringArray {
            if std::fs::File::create_new(path.value(0)).is_ok() {
                std::process::abort();
            }
            path.clone()
        })
        .columnar("meet", meet)
        .function("triple", |x: f64| x * 3.0)
        .function("add", |a: Option<i64>, b: Option<i64>| Some(a? + b?))
        .function("upper", |text: String| text.to_uppercase())
        .function("below_ten", |x: i64| if x < 10 { Ok(x) } else { Err(format!("{x} is not below ten")) })
        .function("anything", Anything)
        .source("batches", Batches::default)
        .source("ramp", || Ramp)
        .source("rows", || Rows)
        .sink("totals", Totals::default)
        .sink("lines", Lines::default)
        .run()
}

/// A function by its trait: gives its first argument back.
struct Anything;

impl Function for Anything {
    fn exec(&mut self, args: &[Value], _: &FunctionContext) -> Result<Value> {
        args.first().cloned().ok_or_else(|| "nothing was given".into())
    }
}

/// Emits three batches: each has its number, numbers and names.
#[derive(Default)]
struct Batches {
    rows: usize,
}

/// Waits until it is cancelled, which it writes to a file.
fn until_cancelled(path: &StringArray, ctx: &FunctionContext) -> Result<StringArray> {
    let path = path.value(0).into();
    add_line(&path, "begun")?;
    while !ctx.is_cancelled() {
        std::thread::sleep(Duration::from_millis(1));
    }
    add_line(&path, "cancelled")?;
    Err("cancelled".into())
}

/// Waits until two processes have left a file in a folder.
fn meet(folder: &StringArray) -> Result<StringArray> {
    let place = std::path::Path::new(folder.value(0));
    std::fs::write(place.join(std::process::id().to_string()), "")?;
    while std::fs::read_dir(place)?.count() < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(folder.clone())
}

fn numbered(batch: i64, rows: usize) -> Result<RecordBatch> {
    let columns: [(&str, ArrayRef); 3] = [
        ("batch", Arc::new(Int64Array::from(vec![batch; rows]))),
        ("x", Arc::new(Float64Array::from_iter((0..rows).map(|row| (row % 10 != 3).then_some(row as f64))))),
        ("name", Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("row {row}"))))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

impl Source for Batches {
    fn configure(&mut self, _: &str, config: &Config) -> Result<()> {
        self.rows = config.field("rows")?;
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        for batch in 0..3 {
            ctx.emit_batch(&numbered(batch, self.rows)?)?;
        }
        ctx.emit_error("no fourth")?;
        while ctx.sleep(std::time::Duration::from_secs(1)) {}
        Ok(())
    }
}

/// Emits numbers, a thousand in a batch.
struct Ramp;

impl Source for Ramp {
    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        (0..).try_for_each(|batch| Ok(ctx.emit_batch(&numbered(batch, 1000)?)?))
    }
}

/// Emits rows only.
struct Rows;

impl Source for Rows {
    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        (0..100).try_for_each(|row| ctx.emit(&json!({ "row": row, "name": format!("row {row}") })))?;
        Ok(())
    }
}

/// Writes the sum of `x` and the number of rows of each message to a file.
#[derive(Default)]
struct Totals {
    path: PathBuf,
}

impl Sink for Totals {
    fn describe() -> SinkDescription {
        SinkDescription::new().columnar()
    }

    fn configure(&mut self, config: &Config) -> Result<()> {
        self.path = config.field("path")?;
        Ok(())
    }

    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
        let batch = ctx.batch(data)?;
        let x = batch.column_by_name("x").ok_or("there is no x")?;
        let x = x.as_primitive_opt::<Float64Type>().ok_or_else(|| format!("x is a column of {}", x.data_type()))?;
        let total: f64 = x.iter().flatten().sum();
        // Rows can be had of either.
        let rows = ctx.rows::<Value>(data)?;
        add_line(&self.path, format_args!("{} rows, {}: {total}", batch.num_rows(), rows[0]["name"]))
    }
}

/// Writes what it is given to a file.
#[derive(Default)]
struct Lines {
    path: PathBuf,
}

impl Sink for Lines {
    fn configure(&mut self, config: &Config) -> Result<()> {
        self.path = config.field("path")?;
        Ok(())
    }

    fn collect(&mut self, _: &SinkContext, data: &[u8]) -> Result<()> {
        add_line(&self.path, String::from_utf8_lossy(data))
    }
}

fn add_line(path: &PathBuf, line: impl std::fmt::Display) -> Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(writeln!(file, "{line}")?)
}
