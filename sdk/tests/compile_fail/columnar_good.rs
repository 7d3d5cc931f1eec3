//! Compiles: what the others get wrong is right here.
use ekuiper_sdk::columns::arrow_array::{ArrayRef, Float64Array, StringArray};
use ekuiper_sdk::prelude::*;

fn named(x: &Float64Array) -> Float64Array {
    x.clone()
}

fn main() {
    let factor = 2.0;
    let _ = Plugin::new("good")
        .columnar("named", named)
        .columnar("double", move |x: &Float64Array| -> Float64Array { x.unary(|x| x * factor) })
        .columnar("described", describe(|x: &ArrayRef| x.clone()).doc("The same."))
        .columnar("fallible", |_: &StringArray, _: &ArrayRef| Err::<StringArray, _>("never"))
        .columnar("placed", |x: &ArrayRef, _: &FunctionContext| -> Result<ArrayRef> { Ok(x.clone()) });
}
