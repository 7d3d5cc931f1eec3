//! Calls in batches under a small limit of messages: what does not fit fails
//! alone.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use ekuiper_host::{Error, Format, Host, PendingCall, Result};
use ekuiper_interop::guard::Watchdog;
use ekuiper_interop::plugins::{Ledger, OfficialPython};

ekuiper_interop::over_each_transport! {
    batches_are_no_longer_than_a_message_may_be,
    an_overlong_row_fails_alone,
    an_overlong_result_fails_alone,
    no_row_is_executed_twice_where_the_answer_is_full,
    an_overlong_row_for_an_official_plugin_fails_alone,
}

const LIMIT: usize = 4096;

fn with_ledger(transport: &str, test: impl Fn(&Host)) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    for format in [Format::Json, Format::MessagePack] {
        let builder = Host::builder().transport(transport).plugin(ledger.folder()).format(format);
        let host = builder.max_message(LIMIT).build().unwrap();
        test(&host);
        host.shutdown();
    }
}

/// The outcomes of calls made while another is executed: they are sent
/// together.
fn together<R: serde::de::DeserializeOwned>(
    make: impl Fn() -> Vec<PendingCall<R>>,
    gate: PendingCall<R>,
) -> Vec<Result<R>> {
    let calls = make();
    drop(gate.wait());
    calls.into_iter().map(PendingCall::wait).collect()
}

fn batches_are_no_longer_than_a_message_may_be(transport: &str) {
    with_ledger(transport, |host| {
        let note = host.function("note").unwrap();
        let many = note.call_many::<u64, _>((0..3000_u64).map(|number| (number,))).unwrap();
        assert!(many.into_iter().map(Result::unwrap).eq(0..3000));
        let mut rows = 0;
        note.call_many_into::<u64, _>((0..3000_u64).map(|number| (number,)), |row, result| {
            assert_eq!((row, *result.unwrap()), (rows, rows as u64));
            rows += 1;
        })
        .unwrap();
        assert_eq!(rows, 3000);
        let calls: Vec<_> = (0..3000_u64).map(|number| note.call_async::<u64>((number,)).unwrap()).collect();
        assert!(calls.into_iter().map(|call| call.wait().unwrap()).eq(0..3000));
    });
}

fn letters(row: usize) -> usize {
    if row % 10 == 3 { 5000 } else { row }
}

fn an_overlong_row_fails_alone(transport: &str) {
    with_ledger(transport, |host| {
        let length = host.function("length").unwrap();
        let rows = || (0..40).map(|row| ("x".repeat(letters(row)),));
        let check = |row: usize, outcome: std::result::Result<usize, String>| match outcome {
            Ok(length) => assert!(length == row && row % 10 != 3, "{row}"),
            Err(text) => {
                assert_eq!(row % 10, 3, "{text}");
                assert!(text.contains("longer than the limit of 4096"), "{text}");
            }
        };
        let many = length.call_many::<usize, _>(rows()).unwrap();
        assert_eq!(many.len(), 40);
        many.into_iter().enumerate().for_each(|(row, outcome)| check(row, outcome));
        let mut next = 0;
        length
            .call_many_into::<usize, _>(rows(), |row, outcome| {
                assert_eq!(row, next);
                next += 1;
                check(row, outcome.copied().map_err(str::to_owned));
            })
            .unwrap();
        assert_eq!(next, 40);
        let make = || rows().map(|row| length.call_async::<usize>(row).unwrap()).collect();
        let gate = length.call_async::<usize>(("gate",)).unwrap();
        for (row, outcome) in together(make, gate).into_iter().enumerate() {
            let text = |error: Error| format!("{error}: {}", std::error::Error::source(&error).unwrap());
            check(row, outcome.map_err(text));
        }
        // As a call on its own does.
        assert!(matches!(length.call::<usize>(("x".repeat(5000),)), Err(Error::Transport { .. })));
        assert_eq!(length.call::<usize>(("abc",)).unwrap(), 3);
    });
}

fn an_overlong_result_fails_alone(transport: &str) {
    with_ledger(transport, |host| {
        let text = host.function("text").unwrap();
        let check = |row: usize, outcome: std::result::Result<String, String>| match outcome {
            Ok(text) => assert!(text.len() == row && row % 10 != 3, "{row}"),
            Err(text) => {
                assert_eq!(row % 10, 3, "{text}");
                assert!(text.contains("longer than"), "{text}");
            }
        };
        let many = text.call_many::<String, _>((0..40).map(|row| (letters(row),))).unwrap();
        assert_eq!(many.len(), 40);
        many.into_iter().enumerate().for_each(|(row, outcome)| check(row, outcome));
        let make = || (0..40).map(|row| text.call_async::<String>((letters(row),)).unwrap()).collect();
        let gate = text.call_async::<String>((1,)).unwrap();
        for (row, outcome) in together(make, gate).into_iter().enumerate() {
            check(row, outcome.map_err(|error| error.to_string()));
        }
        assert!(text.call::<String>((5000,)).is_err());
        assert_eq!(text.call::<String>((3000,)).unwrap().len(), 3000);
    });
}

/// Each result would fit alone, and not all together.
fn no_row_is_executed_twice_where_the_answer_is_full(transport: &str) {
    with_ledger(transport, |host| {
        let counted = host.function("counted_text").unwrap();
        let many = counted.call_many::<String, _>((0..600).map(|_| (500,))).unwrap();
        assert_eq!(many.len(), 600);
        let kept = many.iter().filter(|outcome| outcome.as_ref().is_ok_and(|text| text.len() == 500)).count();
        let refused: Vec<_> = many.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        assert!(kept >= 6, "{kept}: those that fit are kept");
        assert!(
            refused.iter().all(|text| text.contains("not executed") || text.contains("longer than")),
            "{refused:?}"
        );
        let executed: u64 = host.function("texts").unwrap().call((0,)).unwrap();
        assert!(executed <= 600);
        let lost = refused.iter().filter(|text| !text.contains("not executed")).count();
        assert_eq!(executed as usize, kept + lost, "what was refused as not executed was not executed");
    });
}

fn an_overlong_row_for_an_official_plugin_fails_alone(transport: &str) {
    OfficialPython::run_with(
        transport,
        |builder| builder.max_message(LIMIT),
        |plugin, host| {
            let revert = host.function(&plugin.symbol("revert")).unwrap();
            let rows = || (0..5).map(|row| ("x".repeat(if row == 2 { 5000 } else { row }),));
            let many = revert.call_many::<String, _>(rows()).unwrap();
            for (row, outcome) in many.into_iter().enumerate() {
                assert_eq!(outcome.is_ok(), row != 2, "{outcome:?}");
            }
            let calls: Vec<_> = rows().map(|row| revert.call_async::<String>(row).unwrap()).collect();
            for (row, call) in calls.into_iter().enumerate() {
                let outcome = call.wait();
                assert_eq!(outcome.is_ok(), row != 2, "{outcome:?}");
            }
        },
    );
}
