//! The plugin with columns that the guide shows, so that it is compiled and run:
//! `conformance/tests/guide.rs` finds its parts here.

use std::sync::Arc;

use ekuiper_sdk::columns::arrow_array::cast::AsArray;
use ekuiper_sdk::columns::arrow_array::types::Float64Type;
use ekuiper_sdk::columns::arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use ekuiper_sdk::prelude::*;

#[rustfmt::skip]
fn main() -> ExitCode {
    Plugin::new("numbers")
        .columnar("double", |x: &Float64Array| -> Float64Array { x.unary(|x| x * 2.0) })
        .columnar("capitals", |texts: &StringArray| -> StringArray {
            texts.iter().map(|text| text.map(str::to_uppercase)).collect()
        })
        .function("area", |width: f64, height: f64| width * height)
        .source("ramp", Ramp::default)
        .sink("total", Total::default)
        .run()
}

#[derive(Default)]
struct Ramp {
    next: i64,
}

impl Source for Ramp {
    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        while !ctx.is_stopped() {
            let numbers = Int64Array::from_iter_values(self.next..self.next + 1000);
            self.next += 1000;
            ctx.emit_batch(&RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef)])?)?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Total {
    sum: f64,
}

impl Sink for Total {
    fn describe() -> SinkDescription {
        SinkDescription::new().doc("Logs the sum of x.").columnar()
    }

    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
        let batch = ctx.batch(data)?;
        let x = batch.column_by_name("x").ok_or("there is no column x")?;
        let x = x.as_primitive_opt::<Float64Type>().ok_or("x is no column of floats")?;
        self.sum += x.iter().flatten().sum::<f64>();
        tracing::info!("{} rows, the sum is {}", batch.num_rows(), self.sum);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ekuiper_sdk::testing;

    use super::*;

    #[test]
    fn functions_of_values_take_columns_too() -> Result<()> {
        let mut area = testing::function(|width: f64, height: f64| width * height);
        let column = |values: Vec<Option<f64>>| Arc::new(Float64Array::from(values)) as ArrayRef;
        let sides = |width, height| RecordBatch::try_from_iter([("w", column(width)), ("h", column(height))]);
        let areas = area.call_columns(&sides(vec![Some(2.0), Some(3.0)], vec![Some(4.0), Some(5.0)])?)?;
        assert_eq!(&areas, &column(vec![Some(8.0), Some(15.0)]));
        let error = area.call_columns(&sides(vec![Some(2.0), Some(3.0)], vec![Some(4.0), None])?).unwrap_err();
        assert_eq!(error, "row 1: invalid argument 2: invalid type: null, expected f64");
        Ok(())
    }

    #[test]
    fn the_sink_takes_both() -> Result<()> {
        let mut total = testing::sink(Total::default()).open()?;
        total.send(&json!([{ "x": 1.5 }, { "x": 2.0 }]))?;
        assert_eq!(total.send(&json!({ "y": 1 })).unwrap_err().to_string(), "there is no column x");
        Ok(())
    }

    #[test]
    fn the_source_sends_rows_to_a_reader_of_rows() -> Result<()> {
        let rows = testing::source(Ramp::default()).take(3)?;
        assert_eq!(
            rows.into_iter().map(|row| row.message).collect::<Vec<_>>(),
            [json!({ "n": 0 }), json!({ "n": 1 }), json!({ "n": 2 })]
        );
        Ok(())
    }
}
