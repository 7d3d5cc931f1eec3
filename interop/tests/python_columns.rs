//! A plugin in Python whose symbols take columns, under our host: NumPy's arrays
//! and plain buffers, in and out, beside rows.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use ekuiper_conformance::wait_until;
use ekuiper_host::arrow59::arrow_array::builder::StringDictionaryBuilder;
use ekuiper_host::arrow59::arrow_array::cast::AsArray;
use ekuiper_host::arrow59::arrow_array::types::{Float64Type, Int32Type, Int64Type};
use ekuiper_host::arrow59::arrow_array::*;
use ekuiper_host::arrow59::{batches, call_columns, call_columns_async, send_batch};
use ekuiper_host::{Error, Format, Host, HostBuilder};
use ekuiper_interop::columns::{batch, call, refusal};
use ekuiper_interop::guard::Watchdog;
use ekuiper_interop::tools;
use serde_json::{Value, json};

struct Site {
    host: Host,
    folder: tempfile::TempDir,
    _watchdog: Watchdog,
}

fn site(set: impl Fn(HostBuilder) -> HostBuilder) -> Site {
    let (folder, watchdog) = (tempfile::tempdir().unwrap(), Watchdog::start());
    let host = Host::builder()
        .plugin(tools::root().join("interop/plugins/pycolumns"))
        .ipc_dir(folder.path())
        .python_bin(tools::our_python().display().to_string());
    Site { host: set(host).build().unwrap(), folder, _watchdog: watchdog }
}

fn numbers(values: impl IntoIterator<Item = impl Into<Option<f64>>>) -> ArrayRef {
    Arc::new(values.into_iter().map(Into::into).collect::<Float64Array>())
}

#[test]
fn functions_of_columns_and_of_rows_take_both() {
    for format in [Format::Json, Format::MessagePack] {
        let Site { host, .. } = &site(|host| host.format(format));
        assert_eq!(&call(host, "double", [numbers([1.5, 2.0])]), &numbers([3.0, 4.0]));
        let ints: ArrayRef = Arc::new(Int32Array::from(vec![1, 3]));
        assert_eq!(call(host, "double", [ints.clone()]).as_primitive::<Int32Type>().values(), &[2, 6]);
        assert_eq!(&call(host, "typed", [ints.clone()]), &numbers([0.5, 1.5]));
        assert_eq!(&call(host, "masked", [numbers([Some(1.0), None])]), &numbers([Some(2.0), None]));
        assert_eq!(&call(host, "total", [numbers([1.0]), numbers([2.0])]), &numbers([3.0]));
        let mut words = StringDictionaryBuilder::<Int32Type>::new();
        words.extend([Some("a"), None, Some("a")]);
        let words: ArrayRef = Arc::new(words.finish());
        for column in [words.clone(), words.slice(1, 2), numbers([Some(1.0), None]).slice(1, 1), ints.slice(2, 0)] {
            assert_eq!(&call(host, "same", [column.clone()]), &column);
        }
        // What is kept of a message outlives it.
        for round in 1..20 {
            let sums = call(host, "keep", [numbers(vec![1.0; 1000])]);
            assert_eq!(sums.as_primitive::<Float64Type>().value(0), f64::from(round) * 1000.0);
        }

        // Rows.
        assert_eq!(host.function("double").unwrap().call::<f64>((21,)).unwrap(), 42.0);
        let many = host.function("typed").unwrap().call_many::<f64, _>((0..10).map(|n| (n,))).unwrap();
        assert!(many.into_iter().map(Result::unwrap).eq((0..10).map(|n| f64::from(n) / 2.0)));
        let masked = host.function("masked").unwrap();
        assert_eq!(masked.call::<Option<f64>>((Value::Null,)).unwrap(), None);

        // Functions of rows.
        assert_eq!(&call(host, "triple", [numbers([1.0, 2.5])]), &numbers([3.0, 7.5]));
        assert_eq!(&call(host, "triple", [ints]), &numbers([3.0, 9.0]));
        let long: ArrayRef = Arc::new(Int64Array::from_iter_values((0..100_000).map(|row| i64::from(row == 0))));
        let nulls = call(host, "below_ten", [long]);
        let nulls = nulls.as_primitive::<Int64Type>();
        assert_eq!((nulls.value(0), nulls.null_count()), (1, 99_999), "parts without a value have its type");

        // Errors.
        assert_eq!(
            refusal(host, "double", [numbers([Some(1.0), None])]),
            "argument 1 (x): row 1 is null, and numpy.ndarray has no nulls: take numpy.ma.MaskedArray"
        );
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        assert_eq!(refusal(host, "typed", [text]), "argument 1 (x): expected float64, got a column of Utf8");
        let two = [numbers([1.0]), numbers([1.0])];
        assert_eq!(refusal(host, "double", two), "double takes 1 argument (x), got 2");
        assert_eq!(refusal(host, "half_of_them", [numbers([1.0, 2.0])]), "the function returned 1 values for 2 rows");
        assert_eq!(refusal(host, "refuse", [numbers([1.0])]), "ValueError: not today");
        let whole: ArrayRef = Arc::new(Int64Array::from_iter_values((0..50_000).map(|row| row / 40_000 * 10)));
        assert_eq!(refusal(host, "below_ten", [whole]), "row 40000: ValueError: 10 is not below ten");
        let error = call_columns(&host.function("crash").unwrap(), &batch([numbers([1.0])])).unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
        assert_eq!(&call(host, "double", [numbers([1.5])]), &numbers([3.0]));
        host.shutdown();
    }
}

#[test]
fn long_batches_are_sent_in_parts() {
    let Site { host, .. } = &site(|host| host.max_message(64 << 10));
    let long = || (0..100_000).map(f64::from);
    assert_eq!(&call(host, "double", [numbers(long())]), &numbers(long().map(|x| x * 2.0)));
    let text = refusal(host, "wide", [numbers(vec![0.0; 100])]);
    assert!(text.contains("is longer than the limit of 65536"), "{text}");
    host.shutdown();
}

#[test]
fn sources_and_sinks_of_batches() {
    let Site { host, folder, .. } = &site(|host| host);
    for rows in [10, 100_000] {
        let source = host.source("ramp").config(json!({ "rows": rows })).columns().open().unwrap();
        let mut read = batches(source);
        let mut next = 0;
        while next < rows * 3 {
            let batch = read.next().unwrap().unwrap();
            let n = batch.column_by_name("n").unwrap().as_primitive::<Int64Type>().clone();
            assert_eq!(n.value(0), next);
            assert!(batch.column_by_name("name").unwrap().as_string::<i32>().value(0).starts_with("row "));
            if next % rows == 0 {
                assert!(batch.column_by_name("x").unwrap().is_null(3));
            }
            next += batch.num_rows() as i64;
        }
        let error = read.next().unwrap().unwrap_err();
        assert!(
            matches!(&error, Error::Source { text, .. } if text == "a batch cannot be sent: TypeError: column n: int is no column: use a NumPy array, an array of an Arrow library, a buffer, a list or an ekuiper.Column"),
            "{error}"
        );
        read.into_source().close().unwrap();
    }
    // The same source, read as rows.
    let mut source = host.source("ramp").config(json!({ "rows": 10 })).open().unwrap();
    assert_eq!(source.nth(3).unwrap().unwrap().message, json!({ "n": 3, "x": null, "name": "row 0" }));
    source.close().unwrap();
    // A source of rows, read as batches.
    let read = batches(host.source("rows").columns().open().unwrap());
    assert_eq!(read.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 10);

    let path = folder.path().join("totals");
    let sink = host.sink("totals").config(json!({ "path": path })).require_ack(true).open().unwrap();
    let x: ArrayRef = Arc::new(Float64Array::from_iter_values((0..4).map(f64::from)));
    let name: ArrayRef = Arc::new(StringArray::from_iter_values((0..4).map(|row| format!("row {row}"))));
    let named = RecordBatch::try_from_iter([("x", x), ("name", name)]).unwrap();
    send_batch(&sink, &named).unwrap();
    sink.send(&json!([{ "x": 1.5, "name": "a" }, { "x": 1, "name": "b" }])).unwrap();
    let error = send_batch(&sink, &batch([numbers([1.0])])).unwrap_err().to_string();
    assert!(error.contains("KeyError: 'x'"), "{error}");
    sink.close().unwrap();
    assert_eq!(lines(&path), ["4 rows, row 0: 6", "2 rows, a: 2.5"]);
    // A sink of rows gets rows.
    let path = folder.path().join("lines");
    let sink = host.sink("lines").config(json!({ "path": path })).require_ack(true).open().unwrap();
    send_batch(&sink, &named).unwrap();
    sink.send(&json!([{ "x": 1i64 << 40, "name": "größer" }, { "x": null }])).unwrap();
    sink.send_bytes(br#"{ "x": [] }"#).unwrap();
    sink.close().unwrap();
    let expected =
        ["{'x': 3.0, 'name': 'row 3'}", "{'name': 'größer', 'x': 1099511627776}", "{'x': None}", "{'x': []}"];
    assert_eq!(lines(&path)[3..], expected);
    host.shutdown();
}

#[test]
fn a_call_that_is_dropped_is_cancelled() {
    let Site { host, folder, .. } = &site(|host| host);
    let path = folder.path().join("lines");
    let column: ArrayRef = Arc::new(StringArray::from(vec![path.to_str().unwrap()]));
    let patient = host.function("until_cancelled").unwrap();
    let call = call_columns_async(&patient, &batch([column])).unwrap();
    wait_until("it has begun", || lines(&path) == ["begun"]);
    drop(call);
    wait_until("it has ended", || lines(&path) == ["begun", "cancelled"]);
    let pool = host.function_pool("double").size(2).open().unwrap();
    let long = || (0..200_000).map(f64::from);
    assert_eq!(&call_columns(&pool, &batch([numbers(long())])).unwrap(), &numbers(long().map(|x| x * 2.0)));
    host.shutdown();
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn the_description_says_what_takes_columns() {
    let Site { host, .. } = &site(|host| host);
    let description = host.description("pycolumns").unwrap().unwrap();
    let of = |name: &str| description.functions.iter().find(|function| function.name == name).unwrap().clone();
    assert!(of("double").columnar && !of("triple").columnar);
    assert_eq!(of("typed").arguments[0].data_type.to_string(), "float");
    assert!(description.sinks.iter().all(|sink| sink.rows && sink.columnar == (sink.name == "totals")));
    host.shutdown();
}
