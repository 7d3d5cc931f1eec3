//! Closures of columns as functions, and calls with columns.

use std::marker::PhantomData;
use std::sync::Arc;

use ekuiper_core::columns::arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use ekuiper_core::columns::arrow_buffer::Buffer;
use ekuiper_core::columns::arrow_schema::{DataType, Field as Named, Schema};
use ekuiper_core::columns::{Cells, ColumnWriter, decode, encode};
use ekuiper_core::message::{Args, ColumnsCall, FunctionMeta, encode_row, split_columns_call};
use serde::de::Error as _;
use serde_json::Value;

use super::column::{Column, ColumnOutput, described};
use crate::arity::{WithContext, call, for_each_arity};
use crate::cancel::Executing;
use crate::closure::{argument, arguments, count};
use crate::description::{Field, FunctionDescription};
use crate::error::text_of;
use crate::invoke::{Calls, answer_error};
use crate::output::Reply;
use crate::panic::catch_panic;
use crate::raw_function::{BoxedFunction, CANCELLED, RawFunction};
use crate::{BoxError, Bytes, Error, FunctionContext, Result};

/// A closure (or `fn`) that can be a plugin's columnar function: it takes up to
/// 12 arrays by reference, each of a type that implements [`Column`], and
/// returns an array with a value for each row, or a `Result` of one.
///
/// After its arguments a closure may take the call's context:
/// `|x: &Float64Array, ctx: &FunctionContext| …`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a plugin's columnar function",
    label = "not a function of columns that a plugin can serve",
    note = "a closure takes up to 12 arrays by reference, each with its type written down: `|x: &Float64Array, names: &StringArray| …`",
    note = "after these it may take `ctx: &FunctionContext`",
    note = "and returns an array with a value for each row, such as `Float64Array` or `ArrayRef`, or a `Result` of one",
    note = "a closure of single values, such as `|x: f64| …`, is added by `function`, and is called for columns too"
)]
pub trait IntoColumnar<Marker> {
    #[doc(hidden)]
    fn into_columnar(self) -> BoxedFunction;
}

struct Columnar<F, Signature> {
    function: F,
    signature: PhantomData<Signature>,
}

/// Returns the arrays of a call as the closure's types.
fn column<C: Column>(batch: &RecordBatch, position: usize) -> Result<&C, Error> {
    let array = batch.column(position);
    C::of(array).ok_or_else(|| {
        let expected = C::data_type().map_or_else(|| std::any::type_name::<C>().to_owned(), |of| of.to_string());
        let text = format!("invalid type: a column of {}, expected one of {expected}", array.data_type());
        Error::Argument { position: position + 1, field: String::new(), source: serde_json::Error::custom(text) }
    })
}

/// Makes a column of the value of a row's argument.
fn column_of_row(args: &Args<'_>, position: usize, data_type: Option<DataType>) -> Result<ArrayRef, Error> {
    let all = arguments(args)?;
    let mut writer = ColumnWriter::default();
    let wanted = data_type.unwrap_or(DataType::Null);
    let pushed = match wanted {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            writer.push(&argument::<Option<Bytes>>(&all[position], position + 1)?)
        }
        _ => writer.push(&argument::<Value>(&all[position], position + 1)?),
    };
    let misfit = |source| Error::Argument { position: position + 1, field: String::new(), source };
    pushed.map_err(misfit)?;
    if wanted == DataType::Null {
        return Ok(writer.finish());
    }
    writer.finish_as(&wanted).map_err(|error| match error {
        ekuiper_core::Error::Encode { source, .. } => misfit(source),
        other => other.into(),
    })
}

/// Returns a batch whose columns are the arguments of a call.
fn batch(columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let fields =
        columns.iter().enumerate().map(|(at, array)| Named::new(format!("{at}"), array.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

/// Checks that a column has a value for each row.
fn whole(column: ArrayRef, rows: usize) -> Result<ArrayRef> {
    let values = column.len();
    if values == rows {
        Ok(column)
    } else {
        Err(format!("the function returned {values} values for {rows} rows").into())
    }
}

macro_rules! closures {
    ($count:expr; $($name:ident $index:expr),*) => {
        closures!(@with fn($($name),*) -> Out, (), (_ctx), false; $count; $($name $index),*);
        closures!(@with WithContext<fn($($name),*) -> Out>, (&FunctionContext), (ctx), true; $count; $($name $index),*);
    };
    (
        @with $signature:ty, ($($extra:ty)?), ($ctx:ident), $needs_context:tt;
        $count:expr; $($name:ident $index:expr),*
    ) => {
        impl<Func, Out, $($name),*> IntoColumnar<$signature> for Func
        where
            Func: FnMut($(&$name,)* $($extra)?) -> Out + Send + 'static,
            Out: ColumnOutput + 'static,
            $($name: Column,)*
        {
            fn into_columnar(self) -> BoxedFunction {
                BoxedFunction::new(Columnar { function: self, signature: PhantomData::<$signature> })
            }
        }

        impl<Func, Out, $($name),*> RawFunction for Columnar<Func, $signature>
        where
            Func: FnMut($(&$name,)* $($extra)?) -> Out + Send,
            Out: ColumnOutput,
            $($name: Column,)*
        {
            fn validate(&mut self, args: &Args<'_>) -> Result<()> {
                Ok(count($count, args)?)
            }

            fn exec(&mut self, args: &mut Args<'_>, ctx: &FunctionContext, reply: &mut Reply<'_, '_>) -> Result<()> {
                count($count, args)?;
                let columns = vec![$(column_of_row(args, $index, $name::data_type())?),*];
                let result = self.exec_columns(&batch(columns, 1)?, ctx)?;
                reply.put(&Cells::new(&result)?.at(0))
            }

            #[allow(non_snake_case)]
            fn exec_columns(&mut self, batch: &RecordBatch, $ctx: &FunctionContext) -> Result<ArrayRef> {
                if batch.num_columns() != $count {
                    return Err(Error::ArgumentCount { expected: $count, got: batch.num_columns() }.into());
                }
                $(let $name = column::<$name>(batch, $index)?;)*
                let result = call!((self.function); $needs_context, $ctx; $($name),*).into_column()?;
                whole(result, batch.num_rows())
            }

            fn needs_context(&self) -> bool {
                $needs_context
            }

            fn is_aggregate(&self) -> bool {
                false
            }

            fn describe(&self) -> FunctionDescription {
                let arguments = [$($name::data_type()),*] as [Option<DataType>; $count];
                let arguments = arguments.map(|of| Field::new("", described(of.as_ref()).nullable()));
                let result = described(Out::data_type().as_ref()).nullable();
                FunctionDescription::new(arguments, result).columnar()
            }
        }
    };
}

for_each_arity!(closures);

/// Calls a function of rows with columns: each row is written as one of
/// MessagePack, which holds all values of columns. The results become a column of
/// the [described](RawFunction::describe) type, or of the type that they have.
///
/// # Errors
/// That of the first row that fails, with its number; or the results have no type
/// in common.
pub fn row_by_row(
    function: &mut (impl RawFunction + ?Sized),
    batch: &RecordBatch,
    ctx: &FunctionContext,
) -> Result<ArrayRef> {
    let columns = batch.columns().iter().map(|column| Cells::new(column)).collect::<Result<Vec<_>, _>>()?;
    let mut results = ColumnWriter::new(Some(&function.describe().result), batch.num_rows());
    let mut row = Vec::new();
    for at in 0..batch.num_rows() {
        if ctx.is_cancelled() {
            return Err(CANCELLED.into());
        }
        row.clear();
        let cells: Vec<_> = columns.iter().map(|column| column.at(at)).collect();
        encode_row(&mut row, &cells)?;
        let mut args = Args::of_row(&row)?;
        let done = function.exec(&mut args, ctx, &mut Reply::to_column(&mut results));
        done.map_err(|error| of_row(ctx, at, &*error))?;
    }
    whole(results.finish(), batch.num_rows())
}

/// The error of a call with columns, of which one row has failed.
#[cold]
pub(crate) fn of_row(ctx: &FunctionContext, row: usize, error: &(dyn std::error::Error + 'static)) -> BoxError {
    format!("row {}: {}", ctx.first_row + row as u64, text_of(error)).into()
}

/// Appends the answer to a call with columns, which may be an error or a panic's
/// text. The message is read where it lies, and keeps its memory.
pub(crate) fn answer(function: &mut dyn RawFunction, calls: &Calls, message: &mut Vec<u8>, reply: &mut Vec<u8>) {
    let start = reply.len();
    let format = calls.format;
    let needs_context = function.needs_context();
    let read = split_columns_call(format, message).and_then(|ColumnsCall { stream, number, call }| {
        let meta = if needs_context { call.meta()? } else { FunctionMeta::default() };
        Ok((stream, number, FunctionContext { meta, first_row: call.id, ..FunctionContext::default() }))
    });
    let answered = read.map_err(Into::into).and_then(|(length, number, mut ctx)| {
        // It ends before the answer is sent: the next call is sent after that.
        let executing = calls.cancelled.as_ref().filter(|_| number > 0).map(|cancelled| cancelled.begin(number));
        ctx.watch = executing.as_ref().map(Executing::watch).unwrap_or_default();
        if ctx.is_cancelled() {
            return Err(CANCELLED.into());
        }
        let bytes = Buffer::from_vec(std::mem::take(message));
        let done = catch_panic(|| {
            let rows = decode(&bytes.slice_with_length(0, length))?;
            let result = whole(function.exec_columns(&rows, &ctx)?, rows.num_rows())?;
            Ok(encode(reply, &batch(vec![result], rows.num_rows())?)?)
        });
        if let Ok(bytes) = bytes.into_vec() {
            *message = bytes;
        }
        done
    });
    if let Err(error) = answered {
        answer_error(format, reply, start, &error);
    }
}
