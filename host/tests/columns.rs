//! Calls with columns to a plugin that answers what it should not.
#![cfg(feature = "arrow59")]
#![allow(clippy::unwrap_used)] // these are tests, helpers included

mod support;

use std::sync::Arc;

use ekuiper_core::codec::Format;
use ekuiper_core::columns::{decode, encode};
use ekuiper_core::message::{Feature, Hello, SymbolKind, encode_error, split_columns_call};
use ekuiper_host::arrow59::arrow_array::{ArrayRef, Float64Array, RecordBatch};
use ekuiper_host::arrow59::call_columns;
use ekuiper_host::{Chain, Error, Result};
use support::{Puppet, Stage};

fn batch(columns: usize, rows: usize) -> RecordBatch {
    let column = || Arc::new(Float64Array::from(vec![1.0; rows])) as ArrayRef;
    RecordBatch::try_from_iter((0..columns).map(|at| (format!("c{at}"), column()))).unwrap()
}

fn stream(columns: usize, rows: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    encode(&mut stream, &batch(columns, rows)).unwrap();
    stream
}

#[test]
fn an_answer_that_is_no_column_is_an_error_of_its_call() {
    let stage = Stage::new();
    let host = stage.builder().plugin(stage.plugin("p", &["f"])).build().unwrap();
    let (function, mut puppet, _control) = std::thread::scope(|scope| {
        let function = scope.spawn(|| host.function("f").unwrap());
        let mut control = Puppet::dial(&stage.sockets().control("p").unwrap());
        let mut hello = Hello::new("puppet", "1").with(Feature::Columns);
        hello.serves(SymbolKind::Source, "s");
        hello.serves(SymbolKind::Sink, "k");
        hello.serves(SymbolKind::Function, "f");
        control.say(&hello.encode());
        let puppet = stage.start_function(&mut control, "f");
        (function.join().unwrap(), puppet, control)
    });
    let mut call = |answer: &[u8]| -> Result<ArrayRef> {
        std::thread::scope(|scope| {
            let call = scope.spawn(|| call_columns(&function, &batch(2, 3)));
            let request = puppet.hear();
            // The codec of rows is JSON: the hello lists no other.
            let length = split_columns_call(Format::Json, &request).unwrap().stream;
            assert_eq!(decode(&request[..length].into()).unwrap(), batch(2, 3));
            puppet.say(answer);
            call.join().unwrap()
        })
    };
    assert_eq!(&call(&stream(1, 3)).unwrap(), batch(1, 3).column(0));
    let mut refused = |answer: &[u8], expected: &str| {
        let error = call(answer).unwrap_err();
        let text = Chain(&error).to_string();
        assert!(text.contains(expected), "{text}");
        error
    };
    refused(&stream(1, 2), "it has 1 columns of 2 rows, not one of 3");
    refused(&stream(2, 3), "it has 2 columns of 3 rows, not one of 3");
    let whole = stream(1, 3);
    refused(&whole[..whole.len() / 2], "the record batch is not valid");
    refused(b"\xff\xff\xff\xff", "the record batch is not valid: it is cut off");
    refused(b"\xff\xff\xff\xff\xff\xff\xff\xff", "the length of its metadata is wrong");
    refused(b"handshake, says the plugin", "the function's reply is not valid");
    refused(br#"{"state":true,"result":[1,2,3]}"#, "the plugin answered without columns");
    let mut answer = Vec::new();
    encode_error(Format::Json, &mut answer, "not today");
    assert!(matches!(refused(&answer, "not today"), Error::Function { .. }));
    assert!(call(&stream(1, 3)).is_ok(), "and it goes on");
}
