//! Tests of requests and replies, in both codecs.

use serde_json::{Value, json};

use super::*;
use crate::codec::Format::{Json, MessagePack};

const EXEC: &[u8] =
    br#"{"func":"Exec","arg":["a",[1,2],"{\"ruleId\":\"r\",\"opId\":\"o\",\"instanceId\":1,\"funcId\":3}"]}"#;

fn meta() -> FunctionMeta {
    FunctionMeta { rule_id: "r".into(), op_id: "o".into(), instance_id: 1, func_id: 3 }
}

fn texts(call: &Call<'_>) -> Vec<Value> {
    call.args.all().unwrap().iter().map(|arg| arg.read().unwrap()).collect()
}

#[test]
fn an_engines_request_is_read() {
    let call = Call::decode(Json, EXEC).unwrap();
    assert_eq!(call.kind, CallKind::Exec);
    assert_eq!(texts(&call), [json!("a"), json!([1, 2])]);
    assert_eq!(call.meta().unwrap(), meta());
    let call = Call::decode(Json, br#"{"func":"IsAggregate","arg":null}"#).unwrap();
    assert_eq!((call.kind, texts(&call).len()), (CallKind::IsAggregate, 0));
    let call = Call::decode(Json, br#"{"func":"Validate","arg":[{"node":1},{"node":2}]}"#).unwrap();
    assert_eq!((call.kind, texts(&call).len()), (CallKind::Validate, 2));
}

#[test]
fn our_request_is_the_engines() {
    let meta = EncodedMeta::from(&meta());
    let mut buffer = Vec::new();
    encode_call(Json, &mut buffer, CallKind::Exec, &("a", [1, 2]), Some(&meta)).unwrap();
    assert_eq!(std::str::from_utf8(&buffer), std::str::from_utf8(EXEC));
    buffer.clear();
    encode_call(Json, &mut buffer, CallKind::IsAggregate, &(), None).unwrap();
    assert_eq!(buffer, br#"{"func":"IsAggregate","arg":null}"#);
    buffer.clear();
    encode_call(Json, &mut buffer, CallKind::Exec, &(), Some(&meta)).unwrap();
    assert!(texts(&Call::decode(Json, &buffer).unwrap()).is_empty());
}

#[test]
fn both_formats_carry_the_same_request() {
    let encoded = EncodedMeta::from(&meta());
    let many: Vec<_> = (0..20).collect();
    for format in [Json, MessagePack] {
        for kind in [CallKind::Exec, CallKind::Validate] {
            let mut buffer = b"x".to_vec();
            let context = (kind == CallKind::Exec).then_some(&encoded);
            encode_call(format, &mut buffer, kind, &many, context).unwrap();
            let call = Call::decode(format, &buffer[1..]).unwrap();
            assert_eq!((call.kind, call.args.all().unwrap().len()), (kind, 20), "{format:?}");
            assert_eq!(call.meta().unwrap(), if kind == CallKind::Exec { meta() } else { Default::default() });
            let cut_off = Call::decode(format, &buffer[1..buffer.len() - 1]);
            assert!(cut_off.is_err() || cut_off.unwrap().args.all().is_err(), "cut off");
        }
        let mut buffer = b"x".to_vec();
        assert!(encode_call(format, &mut buffer, CallKind::Exec, &(1, f64::NAN), Some(&encoded)).is_err());
        assert_eq!(buffer, b"x");
    }
}

#[test]
fn arguments_are_read_as_their_types() {
    let encoded = EncodedMeta::from(&meta());
    for format in [Json, MessagePack] {
        let mut buffer = Vec::new();
        encode_call(format, &mut buffer, CallKind::Exec, &("a", 2.5), Some(&encoded)).unwrap();
        let call = Call::decode(format, &buffer).unwrap();
        let mut args = call.args.clone();
        assert_eq!(args.read::<String>().unwrap().unwrap(), "a");
        assert!(!args.clone().is_over(), "one is left");
        assert_eq!(args.read::<f64>().unwrap(), Some(2.5));
        assert!(args.is_over());
        let mut args = call.args.clone();
        args.read::<String>().unwrap();
        assert!(args.read::<bool>().is_err());
        let mut args = call.args.clone();
        (0..2).for_each(|_| drop(args.read::<Value>().unwrap()));
        // In JSON the context follows, and is recognised as such.
        assert!(!matches!(args.read::<Value>(), Ok(Some(_))) || !args.is_over(), "there is no third");
    }
}

/// The results of functions that read the request's arguments all at once, one
/// by one, or as two of their types.
fn outcome(call: &Call<'_>) -> [Option<Vec<Value>>; 3] {
    let all = || call.args.all().ok()?.iter().map(|arg| arg.read().ok()).collect();
    let one_by_one = || {
        let (mut args, mut read) = (call.args.clone(), Vec::new());
        while let Some(value) = args.read::<Value>().ok()? {
            read.push(value);
        }
        // The context was read as an argument.
        assert!(args.is_over() || read.pop().is_some() || all() == Some(vec![]));
        Some(read)
    };
    let two = || {
        let mut args = call.args.clone();
        let read = vec![args.read::<String>().ok()??.into(), args.read::<Value>().ok()??];
        args.is_over().then_some(read)
    };
    [all(), one_by_one(), two()]
}

#[test]
fn reading_an_exec_once_finds_what_reading_it_twice_does() {
    let outcome = |call: Result<Call<'_>, ()>| {
        let call = call.ok()?;
        let outcome = outcome(&call);
        (outcome != [None, None, None]).then(|| (call.kind, outcome, call.meta().ok()))
    };
    let check = |bytes: &[u8]| {
        let once = Call::decode(Json, bytes).map_err(drop);
        let twice = Call::decode_json(bytes).map_err(drop);
        assert_eq!(outcome(once), outcome(twice), "{}", String::from_utf8_lossy(bytes));
    };
    for tail in
        [&b""[..], b",\"more\":[{}]}", b" , \"m\" : 1 } ", b",\"arg\":[]}", b",\"func\":\"Exec\"}", b"]}", b"}}"]
    {
        let whole = [EXEC.strip_suffix(b"}").unwrap(), if tail.is_empty() { b"}" } else { tail }].concat();
        check(&whole);
        for place in 0..whole.len() {
            check(&whole[..place]);
            for byte in *b"\"\\[]{},: 0\x00\xff" {
                let mut other = whole.clone();
                other[place] = byte;
                check(&other);
                other.insert(place, byte);
                check(&other);
            }
        }
    }
}

#[test]
fn a_number_keeps_its_last_bit() {
    let number = 1_844_674_407.309_151_4;
    for format in [Json, MessagePack] {
        let mut buffer = Vec::new();
        encode_result(format, &mut buffer, &number).unwrap();
        assert_eq!(decode_reply::<f64>(format, &buffer).unwrap(), Ok(number));
        assert_eq!(decode_reply::<Value>(format, &buffer).unwrap(), Ok(number.into()));
    }
}

#[test]
fn an_exec_without_its_context_says_so() {
    for bytes in
        [&br#"{"func":"Exec","arg":[]}"#[..], br#"{"func":"Exec","arg":null}"#, br#"{"func":"Exec","arg":["no json"]}"#]
    {
        assert!(matches!(Call::decode(Json, bytes).unwrap().meta(), Err(Error::MissingContext)));
    }
    assert!(Call::decode(Json, br#"{"func":"Destroy","arg":[]}"#).is_err());
    assert!(Call::decode(Json, br#"{"func":"Exec","arg":{}}"#).is_err());
    assert!(Call::decode(Json, br#"["Validate",[1]]"#).is_err());
}

#[test]
fn replies_survive() {
    for format in [Json, MessagePack] {
        let mut buffer = Vec::new();
        encode_result(format, &mut buffer, "olleh").unwrap();
        assert_eq!(decode_reply::<String>(format, &buffer).unwrap(), Ok("olleh".into()));
        assert!(decode_reply::<u8>(format, &buffer).is_err());
        assert!(decode_reply::<Value>(format, &buffer[..buffer.len() - 1]).is_err());
        buffer.clear();
        encode_error(format, &mut buffer, "no\n\"way\"");
        assert_eq!(decode_reply::<u8>(format, &buffer).unwrap(), Err("no\n\"way\"".into()));
        assert!(decode_reply::<()>(format, b"handshake").is_err());
    }
    let mut buffer = Vec::new();
    encode_result(Json, &mut buffer, "olleh").unwrap();
    assert_eq!(buffer, br#"{"state":true,"result":"olleh"}"#);
    assert_eq!(decode_reply::<()>(Json, br#"{"state":true}"#).unwrap(), Ok(()));
    assert_eq!(decode_reply::<u8>(Json, br#" {"result": 7, "state":true}"#).unwrap(), Ok(7));
    assert_eq!(decode_reply::<()>(Json, br#"{"state":false,"result":{}}"#).unwrap(), Err("{}".into()));
    assert!(decode_reply::<u8>(Json, b"[true,5]").is_err());
    assert!(decode_reply::<u8>(Json, br#"{"state":true,"result":5}}"#).is_err());
}

#[test]
fn fault_17_nan_is_an_error_in_a_result_and_in_an_argument() {
    for format in [Json, MessagePack] {
        let mut buffer = b"before".to_vec();
        let error = crate::Chain(&encode_result(format, &mut buffer, &f64::NAN).unwrap_err()).to_string();
        assert!(error.contains("NaN"), "{error}");
        assert_eq!(buffer, b"before");
        assert!(encode_call(format, &mut buffer, CallKind::Exec, &[f64::INFINITY], None).is_err());
    }
}
