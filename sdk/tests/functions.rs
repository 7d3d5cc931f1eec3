//! Functions over their channels.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod support;

use ekuiper_core::message::{CallKind, HANDSHAKE};
use serde_json::{Value, json};

use support::{Asked, Plugin, watchdog};

#[test]
fn calls_are_answered() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let mut repeat = plugin.start_function("repeat");
    let node = json!({ "Name": "a" });
    assert_eq!(repeat.call(CallKind::Validate, &json!([node, node])), Ok(json!("")));
    assert_eq!(repeat.call(CallKind::Validate, &json!([node])), Err("takes 2 arguments, got 1".into()));
    assert_eq!(repeat.call(CallKind::Exec, &json!(["ab", 2])), Ok(json!("abab")));
    assert_eq!(repeat.call(CallKind::IsAggregate, &json!([])), Ok(json!(false)));
    let mut count = plugin.start_function("count");
    assert_eq!(count.call(CallKind::IsAggregate, &json!([])), Ok(json!(true)));
    assert_eq!(count.call(CallKind::Exec, &json!([[1, "x", null]])), Ok(json!(3)));
    let mut cross = plugin.start_function("cross");
    assert_eq!(cross.call(CallKind::Exec, &json!([])), Ok(json!(["r1", "o1", 2, 3])));
}

#[test]
fn whatever_goes_wrong_is_an_answer_and_the_channel_lives() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[("UNRULY_MAX", "100000")]);
    let mut repeat = plugin.start_function("repeat");
    let refused = |answer: Result<Value, String>, text: &str| {
        let error = answer.unwrap_err();
        assert!(error.contains(text), "{error}");
    };
    refused(repeat.call_raw(b""), "the function's request is not valid");
    refused(repeat.call_raw(b"handshake"), "the function's request is not valid");
    refused(repeat.call_raw(b"{\"func\":\"Exec\",\"arg\":[\"\xff\"]}"), "the function's request is not valid");
    refused(repeat.call_raw(br#"{"func":"Destroy","arg":[]}"#), "unknown variant `Destroy`");
    refused(repeat.call_raw(br#"{"func":"Exec","arg":["a",1]}"#), "the function call has no context");
    refused(repeat.call_raw(br#"{"func":"Exec","arg":null}"#), "the function call has no context");
    refused(repeat.call(CallKind::Exec, &json!(["a"])), "takes 2 arguments, got 1");
    refused(
        repeat.call(CallKind::Exec, &json!(["a", "b"])),
        "invalid argument 2: invalid type: string \"b\", expected usize",
    );
    refused(
        repeat.call(CallKind::Exec, &json!([["a"], 1])),
        "invalid argument 1: invalid type: sequence, expected a string",
    );
    refused(
        repeat.call(CallKind::Exec, &json!(["a", 100_000])),
        "the answer of 100026 bytes is longer than the limit of 100000",
    );
    // An error that quotes all of its argument.
    let long = repeat.call(CallKind::Exec, &json!(["a", "b".repeat(90_000)])).unwrap_err();
    assert!(long.len() < 20_000 && long.contains("bytes in all"), "{} bytes", long.len());
    assert_eq!(repeat.call(CallKind::Exec, &json!(["a", 3])), Ok(json!("aaa")));

    let mut divide = plugin.start_function("divide");
    refused(divide.call(CallKind::Exec, &json!([0, 0])), "NaN is not a number");
    refused(divide.call(CallKind::Exec, &json!([1, 0])), "inf is not a number");
    assert_eq!(divide.call(CallKind::Exec, &json!([1, 2])), Ok(json!(0.5)));

    let mut boom = plugin.start_function("boom");
    assert_eq!(boom.call(CallKind::Exec, &json!(["ouch"])), Err("panicked: ouch".into()));
    assert_eq!(boom.call(CallKind::Validate, &json!([1])), Ok(json!("")));
    let mut cross = plugin.start_function("cross");
    assert_eq!(cross.call(CallKind::Validate, &json!([])), Err("panicked: boom in validate".into()));
    assert_eq!(cross.call(CallKind::IsAggregate, &json!([])), Err("panicked: boom in is_aggregate".into()));

    plugin.assert_alive();
    assert_eq!([repeat, divide, boom, cross].map(|channel| channel.handshakes), [1; 4]);
}

#[test]
fn a_command_that_is_too_long_costs_its_connection_only() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[("UNRULY_MAX", "100000")]);
    let mut echo = plugin.start_function("echo");
    // It hangs up at the length, which may be before all of it was sent.
    if echo.try_send(&support::channels::encoded(CallKind::Exec, &json!(["x".repeat(200_000)]))).is_ok() {
        assert_eq!(echo.next(), Asked::Gone);
    }
    assert_eq!(echo.next(), Asked::Request(HANDSHAKE.to_vec()));
    assert_eq!(echo.call(CallKind::Exec, &json!([1])), Ok(json!(1)));
}

#[test]
fn a_slow_call_holds_up_no_other_symbol() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let (mut slow, mut echo) = (plugin.start_function("slow"), plugin.start_function("echo"));
    let file = plugin.file("release");
    slow.send(&support::channels::encoded(CallKind::Exec, &json!([file])));
    assert_eq!(echo.call(CallKind::Exec, &json!([1])), Ok(json!(1)));
    plugin.assert_alive();
    support::plugin::release(&file);
    let Asked::Request(answer) = slow.next() else { panic!("no answer") };
    assert_eq!(answer, br#"{"state":true,"result":"done"}"#);
}
