//! Columns between our host and our SDK: functions, sources and sinks, with
//! record batches and with rows, on plugins that have columns and those that do
//! not.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ekuiper_conformance::wait_until;
use ekuiper_core::columns::c_data::{FFI_ArrowArray, FFI_ArrowSchema};
use ekuiper_core::columns::{decode, encode};
use ekuiper_host::arrow59::arrow_array::builder::StringDictionaryBuilder;
use ekuiper_host::arrow59::arrow_array::cast::AsArray;
use ekuiper_host::arrow59::arrow_array::types::{Float64Type, Int32Type};
use ekuiper_host::arrow59::arrow_array::*;
use ekuiper_host::arrow59::{PendingArray, batches, call_columns, call_columns_async, send_batch};
use ekuiper_host::{CallOptions, Chain, Error, Format, Host, HostBuilder, Result, Sink, c_data};
use ekuiper_interop::columns::{batch, call, refusal};
use ekuiper_interop::guard::Watchdog;
use ekuiper_interop::plugins::{Columns, Mirror};
use serde_json::{Value, json};

ekuiper_interop::over_each_transport_of_ours! {
    functions_of_columns_and_of_rows_take_both,
    batches_of_a_source_come_as_they_are,
    batches_are_sent_to_sinks,
    long_batches_are_sent_in_parts,
    a_crash_is_an_unknown_outcome_and_the_next_call_works,
    calls_have_deadlines_and_are_cancelled,
    an_idempotent_call_is_made_again,
    calls_are_futures,
    a_pool_computes_parts_at_the_same_time,
}

fn with_columns(transport: &str, set: impl Fn(HostBuilder) -> HostBuilder, test: impl Fn(&Columns, &Host)) {
    let _watchdog = Watchdog::start();
    let plugin = Columns::new();
    for format in [Format::Json, Format::MessagePack] {
        let builder = Host::builder().transport(transport).plugin(plugin.folder()).format(format);
        let host = set(builder).build().unwrap();
        test(&plugin, &host);
        host.shutdown();
    }
}

fn numbers(values: Vec<Option<f64>>) -> ArrayRef {
    Arc::new(Float64Array::from(values))
}

fn functions_of_columns_and_of_rows_take_both(transport: &str) {
    with_columns(
        transport,
        |builder| builder,
        |_, host| {
            let x = || numbers(vec![Some(1.0), None, Some(2.5)]);
            assert_eq!(&call(host, "double", [x()]), &numbers(vec![Some(2.0), None, Some(5.0)]));
            // A closure of values.
            let whole = || numbers(vec![Some(1.0), Some(2.5)]);
            assert_eq!(&call(host, "triple", [whole()]), &numbers(vec![Some(3.0), Some(7.5)]));
            let ints = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as ArrayRef;
            let sums = call(host, "add", [ints(vec![Some(1), None, Some(3)]), ints(vec![Some(10), Some(20), None])]);
            assert_eq!(&sums, &ints(vec![Some(11), None, None]));
            let small: ArrayRef = Arc::new(Int16Array::from(vec![1, 2]));
            assert_eq!(&call(host, "triple", [small]), &numbers(vec![Some(3.0), Some(6.0)]), "integers are numbers");
            let text = |values: &[&str]| Arc::new(StringArray::from_iter_values(values)) as ArrayRef;
            let view: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "longer than twelve bytes"]));
            assert_eq!(&call(host, "upper", [view]), &text(&["A", "LONGER THAN TWELVE BYTES"]));
            // By its trait.
            assert_eq!(&call(host, "anything", [ints(vec![Some(7), None])]), &ints(vec![Some(7), None]));
            // Two arguments and the context.
            let labels = call(host, "label", [text(&["a", "b"]), ints(vec![Some(1), None])]);
            let labels = labels.as_any().downcast_ref::<StringArray>().unwrap();
            assert!(labels.value(0).ends_with(" a: 1") && labels.is_null(1), "{labels:?}");
            // Every type that comes is given back.
            let mut words = StringDictionaryBuilder::<Int32Type>::new();
            words.extend(["a", "b", "a"].map(Some));
            let words: ArrayRef = Arc::new(words.finish());
            assert_eq!(&call(host, "same", [words.clone()]), &words);
            let empty = numbers(vec![]);
            assert_eq!(&call(host, "double", [empty.clone()]), &empty);

            // The same functions with rows.
            let double = host.function("double").unwrap();
            assert_eq!(double.call::<f64>((1.5,)).unwrap(), 3.0);
            assert_eq!(double.call::<Option<f64>>((Value::Null,)).unwrap(), None);
            let many = double.call_many::<f64, _>((0..100).map(|n| (f64::from(n),))).unwrap();
            assert!(many.into_iter().map(std::result::Result::unwrap).eq((0..100).map(|n| f64::from(n) * 2.0)));
            assert!(host.function("label").unwrap().call::<String>(("a", 7)).unwrap().ends_with(" a: 7"));

            // Errors.
            assert_eq!(
                refusal(host, "double", [ints(vec![Some(1)])]),
                "invalid argument 1: invalid type: a column of Int64, expected one of Float64"
            );
            assert_eq!(refusal(host, "double", [x(), x()]), "takes 1 argument, got 2");
            assert_eq!(refusal(host, "triple", [x(), x()]), "takes 1 argument, got 2");
            assert_eq!(refusal(host, "triple", [x()]), "row 1: invalid argument 1: invalid type: null, expected f64");
            assert_eq!(refusal(host, "below_ten", [ints(vec![Some(1), Some(12)])]), "row 1: 12 is not below ten");
            assert_eq!(refusal(host, "half_of_them", [x()]), "the function returned 1 values for 3 rows");
            assert_eq!(refusal(host, "refuse", [x()]), "not today");
            assert_eq!(refusal(host, "panic", [x()]), "panicked: boom");
            let error = double.call::<f64>(("a",)).unwrap_err().to_string();
            assert!(error.ends_with("invalid argument 1: texts cannot be a column of Float64"), "{error}");

            // As bytes.
            let mut stream = Vec::new();
            encode(&mut stream, &batch([x()])).unwrap();
            let answer = decode(&double.call_columns(&stream).unwrap().into()).unwrap();
            assert_eq!(answer.column(0), &numbers(vec![Some(2.0), None, Some(5.0)]));
            let error = Chain(&double.call_columns(b"{}").unwrap_err()).to_string();
            assert!(error.contains("they are no Arrow IPC stream"), "{error}");
            stream.truncate(stream.len() - 20);
            let error = double.call_columns(&stream).unwrap_err().to_string();
            assert!(error.contains("the record batch is not valid"), "{error}");
            assert_eq!(double.call::<f64>((4,)).unwrap(), 8.0, "and it goes on");
        },
    );
}

fn long_batches_are_sent_in_parts(transport: &str) {
    with_columns(
        transport,
        |builder| builder.max_message(64 << 10),
        |_, host| {
            let rows = 100_000;
            let long = Float64Array::from_iter_values((0..rows).map(f64::from));
            let doubled = call(host, "double", [Arc::new(long.clone()) as ArrayRef]);
            assert_eq!(&doubled, &(Arc::new(long.unary::<_, Float64Type>(|x| x * 2.0)) as ArrayRef));
            let parts = call(host, "batch_of", [Arc::new(long) as ArrayRef]);
            let parts = parts.as_any().downcast_ref::<Int64Array>().unwrap();
            assert!(parts.values().iter().all(|rows| *rows < 8192), "each part fits");
            let whole: ArrayRef = Arc::new(Int64Array::from_iter_values((0..50_000).map(|row| row / 40_000 * 10)));
            assert_eq!(refusal(host, "below_ten", [whole]), "row 40000: 10 is not below ten");
            // Their lengths differ: most are empty, and one fits alone.
            let texts = (0..2000).map(|row| if row % 1000 == 7 { "x".repeat(40_000) } else { String::new() });
            let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
            assert_eq!(&call(host, "same", [texts.clone()]), &texts);
            let too_long: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(70_000)]));
            let error = call_columns(&host.function("same").unwrap(), &batch([too_long])).unwrap_err();
            assert!(Chain(&error).to_string().contains("longer than the limit of 65536"), "{}", Chain(&error));
            // Its answer is longer than a message.
            let text = refusal(host, "wide", [numbers(vec![None; 100])]);
            assert!(text.contains("is longer than the limit of 65536"), "{text}");
        },
    );
}

fn a_crash_is_an_unknown_outcome_and_the_next_call_works(transport: &str) {
    with_columns(
        transport,
        |builder| builder,
        |_, host| {
            let crash = host.function("crash").unwrap();
            let error = call_columns(&crash, &batch([numbers(vec![None])])).unwrap_err();
            assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
            assert_eq!(&call(host, "double", [numbers(vec![Some(1.0)])]), &numbers(vec![Some(2.0)]));
        },
    );
}

fn texts(values: impl IntoIterator<Item = impl AsRef<str>>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn calls_have_deadlines_and_are_cancelled(transport: &str) {
    with_columns(
        transport,
        |builder| builder,
        |_, host| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("lines");
            let path_column = || batch([texts([path.to_str().unwrap()])]);
            let has = |expected: &[&str]| wait_until("its lines are there", || lines(&path) == expected);
            let patient = host.function("until_cancelled").unwrap();
            let soon = patient.clone().with_options(CallOptions::new().deadline(Duration::from_millis(50)));
            // A busy machine may not send it in time.
            let timed_out = |call: &dyn Fn() -> Error| loop {
                match call() {
                    Error::Timeout { .. } => break,
                    error => assert!(matches!(error, Error::Expired { .. }), "{error}"),
                }
            };
            timed_out(&|| call_columns(&soon, &path_column()).unwrap_err());
            has(&["begun", "cancelled"]);

            // A call that waits for another is not executed after its deadline.
            let pending = call_columns_async(&patient, &path_column()).unwrap();
            has(&["begun", "cancelled", "begun"]);
            let error = call_columns(&soon, &path_column()).unwrap_err();
            assert!(matches!(error, Error::Expired { .. }), "{error}");
            // One that is dropped is cancelled.
            drop(pending);
            has(&["begun", "cancelled", "begun", "cancelled"]);

            // Bytes have the same options.
            let mut stream = Vec::new();
            encode(&mut stream, &path_column()).unwrap();
            timed_out(&|| soon.call_columns(&stream).unwrap_err());
            drop(patient.call_columns_async(&stream).unwrap());

            let stopper = patient.stopper();
            let waiting = patient.clone();
            let begun = lines(&path).len();
            std::thread::scope(|scope| {
                let call = scope.spawn(|| call_columns(&waiting, &path_column()));
                wait_until("it has begun", || lines(&path).len() > begun);
                stopper.stop();
                let error = call.join().unwrap().unwrap_err();
                assert!(matches!(error, Error::Stopped), "{error}");
            });
            assert_eq!(&call(host, "double", [numbers(vec![Some(1.0)])]), &numbers(vec![Some(2.0)]));
        },
    );
}

fn an_idempotent_call_is_made_again(transport: &str) {
    with_columns(
        transport,
        |builder| builder,
        |_, host| {
            let folder = tempfile::tempdir().unwrap();
            let crash = host.function("crash_once").unwrap();
            let first = batch([texts([folder.path().join("a").to_str().unwrap()])]);
            let error = call_columns(&crash, &first).unwrap_err();
            assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
            let again = crash.with_options(CallOptions::new().idempotent(true));
            let second = batch([texts([folder.path().join("b").to_str().unwrap()])]);
            assert_eq!(&call_columns(&again, &second).unwrap(), second.column(0));
        },
    );
}

fn calls_are_futures(transport: &str) {
    with_columns(
        transport,
        |builder| builder.max_message(64 << 10),
        |_, host| {
            let double = host.function("double").unwrap();
            let long = |from: u32| numbers((0..20_000).map(|n| Some(f64::from(from + n))).collect());
            let calls: Vec<_> = (0..4).map(|call| call_columns_async(&double, &batch([long(call)])).unwrap()).collect();
            // Rows, beside columns.
            let row = double.call_async::<f64>((1.5,)).unwrap();
            let all = futures::executor::block_on(futures::future::join_all(calls));
            for (call, result) in all.into_iter().enumerate() {
                let expected: Vec<_> = (0..20_000).map(|n| Some(f64::from(call as u32 + n) * 2.0)).collect();
                assert_eq!(&result.unwrap(), &numbers(expected));
            }
            assert_eq!(row.wait().unwrap(), 3.0);
            let mut stream = Vec::new();
            encode(&mut stream, &batch([numbers(vec![Some(2.0)])])).unwrap();
            let answer = futures::executor::block_on(double.call_columns_async(&stream).unwrap()).unwrap();
            assert_eq!(decode(&answer.into()).unwrap().column(0), &numbers(vec![Some(4.0)]));
            let failed = call_columns_async(&host.function("refuse").unwrap(), &batch([long(0)])).unwrap();
            let error = futures::executor::block_on(failed).unwrap_err();
            assert!(matches!(&error, Error::Function { text, .. } if text == "not today"), "{error}");
            let too_long = batch([texts(["x".repeat(70_000)])]);
            let error = call_columns_async(&host.function("same").unwrap(), &too_long).unwrap_err();
            assert!(Chain(&error).to_string().contains("longer than the limit of 65536"), "{}", Chain(&error));
        },
    );
}

fn a_pool_computes_parts_at_the_same_time(transport: &str) {
    with_columns(
        transport,
        |builder| builder.max_message(64 << 10),
        |_, host| {
            let pool = host.function_pool("double").size(2).open().unwrap();
            let long = numbers((0..100_000).map(|n| Some(f64::from(n))).collect());
            let doubled = numbers((0..100_000).map(|n| Some(f64::from(n) * 2.0)).collect());
            assert_eq!(&call_columns(&pool, &batch([long.clone()])).unwrap(), &doubled);
            let call = call_columns_async(&pool, &batch([long])).unwrap();
            assert_eq!(&futures::executor::block_on(call).unwrap(), &doubled);
            let mut stream = Vec::new();
            encode(&mut stream, &batch([numbers(vec![Some(2.0)])])).unwrap();
            let answer = decode(&pool.call_columns(&stream).unwrap().into()).unwrap();
            assert_eq!(answer.column(0), &numbers(vec![Some(4.0)]));
            let error = pool.call_columns(b"[]").unwrap_err();
            assert!(Chain(&error).to_string().contains("they are no Arrow IPC stream"), "{}", Chain(&error));

            // Two parts that wait for each other.
            let folder = tempfile::tempdir().unwrap();
            let meet = host.function_pool("meet").size(2).open().unwrap();
            let path = folder.path().to_str().unwrap();
            let rows = texts(std::iter::repeat_n(path, 60_000 / path.len()));
            assert_eq!(&call_columns(&meet, &batch([rows.clone()])).unwrap(), &rows);

            let refuse = host.function_pool("refuse").size(2).open().unwrap();
            let error = call_columns(&refuse, &batch([numbers(vec![None])])).unwrap_err();
            assert!(matches!(&error, Error::Function { text, .. } if text == "not today"), "{error}");
            let crash = host.function_pool("crash_once").size(2).open().unwrap();
            let crash = crash.with_options(CallOptions::new().idempotent(true));
            let path = batch([texts([folder.path().join("crashed").to_str().unwrap()])]);
            assert_eq!(&call_columns(&crash, &path).unwrap(), path.column(0));
        },
    );
}

fn batches_of_a_source_come_as_they_are(transport: &str) {
    with_columns(
        transport,
        |builder| builder,
        |_, host| {
            for rows in [10, 200_000] {
                let config = json!({ "rows": rows });
                let source = host.source("batches").config(config.clone()).columns().open().unwrap();
                let mut read = batches(source);
                for number in 0..3 {
                    let mut count = 0;
                    while count < rows {
                        let batch = read.next().unwrap().unwrap();
                        let first: &Int64Array = batch.column(0).as_any().downcast_ref().unwrap();
                        assert_eq!(first.value(0), number);
                        let x: &Float64Array = batch.column(1).as_any().downcast_ref().unwrap();
                        assert_eq!((0..10).filter(|row| x.is_null(*row)).count(), 1);
                        let names: &StringArray =
                            batch.column_by_name("name").unwrap().as_any().downcast_ref().unwrap();
                        assert_eq!(names.value(0), format!("row {count}"));
                        count += batch.num_rows();
                    }
                }
                assert!(matches!(read.next(), Some(Err(Error::Source { text, .. })) if text == "no fourth"));
                read.into_source().close().unwrap();
            }
            // The same source, read as rows.
            let mut source = host.source("batches").config(json!({ "rows": 10 })).open().unwrap();
            let row = source.next().unwrap().unwrap().message;
            assert_eq!(row, json!({ "batch": 0, "x": 0.0, "name": "row 0" }));
            assert_eq!(source.nth(2).unwrap().unwrap().message, json!({ "batch": 0, "x": null, "name": "row 3" }));
            source.close().unwrap();
            // A source of rows, read as batches.
            for columns in [false, true] {
                let source = host.source("rows");
                let source = if columns { source.columns() } else { source };
                let read: Vec<_> = batches(source.open().unwrap()).map(Result::unwrap).collect();
                assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 100);
                let names: &StringArray = read[0].column_by_name("name").unwrap().as_any().downcast_ref().unwrap();
                assert_eq!(names.value(0), "row 0");
            }
            // To other readers it is an error.
            let mut source = host.source("batches").config(json!({ "rows": 10 })).columns().open().unwrap();
            assert!(matches!(source.next(), Some(Err(Error::Message { .. }))));
            source.close().unwrap();
        },
    );
}

/// The guide's example, run.
fn an_engine(host: &Host, sink: Sink, batch: RecordBatch) -> Result<ArrayRef> {
    let doubled = call_columns(&host.function("double")?, &batch)?;

    let source = host.source("ramp").columns().open()?;
    for batch in batches(source).take(3) {
        let batch = batch?;
        send_batch(&sink, &batch)?;
    }
    sink.close()?;
    Ok(doubled)
}

#[test]
fn the_guides_example_runs() {
    with_columns(
        "uds",
        |builder| builder,
        |_, host| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("lines");
            let sink = host.sink("lines").config(json!({ "path": path })).open().unwrap();
            let doubled = an_engine(host, sink, batch([numbers(vec![Some(1.5)])])).unwrap();
            assert_eq!(&doubled, &numbers(vec![Some(3.0)]));
            let rows = |line: &String| serde_json::from_str::<Vec<Value>>(line).unwrap().len();
            assert_eq!(lines(&path).iter().map(rows).sum::<usize>(), 3000);
        },
    );
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn batches_are_sent_to_sinks(transport: &str) {
    with_columns(
        transport,
        |builder| builder,
        |_, host| {
            let folder = tempfile::tempdir().unwrap();
            let named = |rows: usize| {
                let x: ArrayRef = Arc::new(Float64Array::from_iter_values((0..rows).map(|row| row as f64)));
                let name: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("row {row}"))));
                RecordBatch::try_from_iter([("x", x), ("name", name)]).unwrap()
            };
            for require_ack in [false, true] {
                let path = folder.path().join(format!("totals{require_ack}"));
                let config = json!({ "path": path });
                let sink = host.sink("totals").config(config).require_ack(require_ack).open().unwrap();
                send_batch(&sink, &named(4)).unwrap();
                sink.send(&json!([{ "x": 1.5, "name": "a" }, { "name": "b" }])).unwrap();
                let other = batch([numbers(vec![None])]);
                let sent = send_batch(&sink, &other);
                assert_eq!(sent.is_err(), require_ack, "there is no x");
                let mut stream = Vec::new();
                encode(&mut stream, &named(3)).unwrap();
                sink.send_columns(&stream).unwrap();
                send_batch(&sink, &named(100_000)).unwrap();
                let _ = sink.close();
                let lines = lines(&path);
                assert_eq!(lines[..3], [r#"4 rows, "row 0": 6"#, r#"2 rows, "a": 1.5"#, r#"3 rows, "row 0": 3"#]);
                let rows = lines[3..].iter().map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap());
                assert_eq!(rows.sum::<usize>(), 100_000);
            }
            // A sink of rows gets rows.
            let path = folder.path().join("lines");
            let sink = host.sink("lines").config(json!({ "path": path })).open().unwrap();
            send_batch(&sink, &named(2)).unwrap();
            let mut stream = Vec::new();
            encode(&mut stream, &named(1)).unwrap();
            let error = sink.send_columns(&stream).unwrap_err();
            assert!(matches!(error, Error::NoColumns { .. }), "{error}");
            sink.close().unwrap();
            assert_eq!(lines(&path), [r#"[{"x":0.0,"name":"row 0"},{"x":1.0,"name":"row 1"}]"#]);
        },
    );
}

/// What another Arrow library exports.
#[allow(unsafe_code)]
fn exported(array: &dyn Array) -> c_data::Column {
    let (mut array, mut schema) = ffi::to_ffi(&array.to_data()).unwrap();
    // SAFETY: structures of `arrow-array`.
    unsafe { c_data::Column::import((&raw mut array).cast(), (&raw mut schema).cast()) }.unwrap()
}

/// What another Arrow library imports.
#[allow(unsafe_code)]
fn imported(column: &c_data::Column) -> ArrayRef {
    let (mut array, mut schema) = column.export().unwrap();
    // SAFETY: structures of the interface.
    let (array, schema) = unsafe {
        (FFI_ArrowArray::from_raw((&raw mut array).cast()), FFI_ArrowSchema::from_raw((&raw mut schema).cast()))
    };
    // SAFETY: as above.
    make_array(unsafe { ffi::from_ffi(array, &schema) }.unwrap())
}

#[test]
fn any_arrow_library_calls_by_the_c_data_interface() {
    with_columns(
        "uds",
        |builder| builder,
        |_, host| {
            let long = || numbers((0..200_000).map(|n| (n % 7 > 0).then(|| f64::from(n))).collect());
            let batched = StructArray::from(batch([long()]));
            let column = exported(&batched);
            assert_eq!((column.len(), column.is_empty()), (200_000, false));
            let double = host.function("double").unwrap();
            let doubled = imported(&c_data::call_columns(&double, &column).unwrap());
            let expected: Float64Array = long().as_any().downcast_ref::<Float64Array>().unwrap().unary(|x| x * 2.0);
            assert_eq!(&doubled, &(Arc::new(expected) as ArrayRef));
            let pending = c_data::call_columns_async(&double, &column).unwrap();
            assert_eq!(&imported(&futures::executor::block_on(pending).unwrap()), &doubled);
            let sliced = imported(&c_data::call_columns(&double, &exported(&batched.slice(7, 3))).unwrap());
            assert_eq!(&sliced, &doubled.slice(7, 3));
            // No batches.
            let error = Chain(&c_data::call_columns(&double, &exported(&*long())).unwrap_err()).to_string();
            assert!(error.contains("a column of Float64 is no batch"), "{error}");
            let nulls = StructArray::new_null(batched.fields().clone(), 2);
            let error = Chain(&c_data::call_columns(&double, &exported(&nulls)).unwrap_err()).to_string();
            assert!(error.contains("a row is null"), "{error}");

            let source = host.source("batches").config(json!({ "rows": 10 })).columns().open().unwrap();
            let mut read = c_data::batches(source);
            for number in 0..3 {
                let batch: RecordBatch = imported(&read.next().unwrap().unwrap()).as_struct().into();
                let first: &Int64Array = batch.column(0).as_any().downcast_ref().unwrap();
                assert_eq!((first.value(0), batch.num_rows()), (number, 10));
            }
            assert!(matches!(read.next(), Some(Err(Error::Source { text, .. })) if text == "no fourth"));
            read.into_source().close().unwrap();

            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("totals");
            let sink = host.sink("totals").config(json!({ "path": path })).require_ack(true).open().unwrap();
            let name: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
            let named =
                RecordBatch::try_from_iter([("x", numbers(vec![Some(1.0), Some(2.0)])), ("name", name)]).unwrap();
            c_data::send_batch(&sink, &exported(&StructArray::from(named))).unwrap();
            assert!(c_data::send_batch(&sink, &exported(&*long())).is_err());
            sink.close().unwrap();
            assert_eq!(lines(&path), [r#"2 rows, "a": 3"#]);
        },
    );
    // What was imported is released by its last user.
    let kept = Arc::new(Float64Array::from(vec![1.0]));
    let column = exported(&*kept);
    let again = imported(&column.clone());
    drop(column);
    assert_eq!(again.as_primitive::<Float64Type>().values().as_ptr(), kept.values().as_ptr(), "no copy");
}

#[test]
fn a_plugin_without_columns_is_called_with_rows() {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = Host::builder().plugin(mirror.folder()).build().unwrap();
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["abc", "ü"]));
    let expected: ArrayRef = Arc::new(StringArray::from(vec!["cba", "ü"]));
    let revert = host.function("revert").unwrap();
    assert_eq!(&call_columns(&revert, &batch([texts.clone()])).unwrap(), &expected);
    let nulls: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    let error = call_columns(&revert, &batch([nulls])).unwrap_err().to_string();
    assert!(error.contains("row 1: invalid argument 1: invalid type: null"), "{error}");
    let mut stream = Vec::new();
    encode(&mut stream, &batch([texts])).unwrap();
    let error = revert.call_columns(&stream).unwrap_err();
    assert!(matches!(error, Error::NoColumns { .. }), "{error}");
    host.shutdown();
}

#[test]
fn a_plugin_without_columns_is_called_with_rows_as_a_future_too() {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = Host::builder().plugin(mirror.folder()).build().unwrap();
    let revert = host.function("revert").unwrap();
    let pool = host.function_pool("revert").size(2).open().unwrap();
    // More rows than are awaited at once.
    let texts = |of: fn(usize) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values((0..5000).map(of))) };
    let given = batch([texts(|row| format!("{row:04}-"))]);
    let expected = texts(|row| format!("{row:04}-").chars().rev().collect());
    let nulls: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    let nulls = batch([nulls]);
    let check = |call: &dyn Fn(&RecordBatch) -> Result<PendingArray>| {
        assert_eq!(&call(&given).unwrap().wait().unwrap(), &expected);
        assert_eq!(&futures::executor::block_on(call(&given).unwrap()).unwrap(), &expected);
        drop(call(&given).unwrap());
        let blocking = call(&nulls).unwrap().wait();
        for failed in [blocking, futures::executor::block_on(call(&nulls).unwrap())] {
            let error = failed.unwrap_err().to_string();
            assert!(error.contains("row 1: invalid argument 1: invalid type: null"), "{error}");
        }
        assert_eq!(call(&given.slice(0, 0)).unwrap().wait().unwrap().len(), 0);
    };
    check(&|batch| call_columns_async(&revert, batch));
    check(&|batch| call_columns_async(&pool, batch));
    let late = revert.clone().with_options(CallOptions::new().deadline(Duration::ZERO));
    let error = call_columns_async(&late, &given).unwrap().wait().unwrap_err();
    assert!(matches!(error, Error::Expired { .. } | Error::Timeout { .. }), "{error}");
    host.shutdown();
}

#[test]
fn the_description_says_what_takes_columns() {
    let _watchdog = Watchdog::start();
    let plugin = Columns::new();
    let host = Host::builder().plugin(plugin.folder()).build().unwrap();
    let description = host.description("columns").unwrap().unwrap();
    let of = |name: &str| description.functions.iter().find(|function| function.name == name).unwrap().clone();
    let double = of("double");
    assert!(double.columnar && !of("triple").columnar);
    assert_eq!((double.arguments[0].name.as_str(), double.result.to_string()), ("x", "float?".into()));
    assert_eq!(of("label").arguments[1].data_type.to_string(), "int?");
    assert!(description.sinks.iter().all(|sink| sink.columnar == (sink.name == "totals")));
    host.shutdown();
}
