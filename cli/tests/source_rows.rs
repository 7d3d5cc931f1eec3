//! Rows are passed on as the bytes that came: by `source`, each in one line, and by
//! `sink`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::Write;
use std::process::Stdio;

use support::{Bench, MESSAGEPACK, finish, speaker};

#[test]
fn a_row_in_json_is_printed_unchanged_and_in_one_line() {
    let bench = Bench::new();
    let body = r#"
def source(push):
    push(b'{"message":{"b":1.0,"a":1e400,"a":-0,"n":123456789012345678901234567890,"\\u0061":"\\/"},"meta":null}')
    push(b'{"meta": {"k": [1 ,2]}, "message": {\n\t"a": "\\n"\r\n}}')
    push(b'{"message":[1,]}')
    push(b'{"message":"\xff"}')
    push(b'"{\\"error\\":\\"it fails\\"}"')
    push(b'{"message":null}')
    push(b'{"message":7}')
"#;
    let plugin = speaker(&bench, "b'handshake'", body);
    let path = plugin.to_str().unwrap();
    let ran = bench.run(&["source", path, "s", "--count", "3"]);
    let rows = "{\"b\":1.0,\"a\":1e400,\"a\":-0,\"n\":123456789012345678901234567890,\"\\u0061\":\"\\/\"}\n\
                { \t\"a\": \"\\n\"  }\n7\n";
    assert_eq!((ran.code, &*ran.stdout), (Some(0), rows), "{ran:?}");
    // Two that are no JSON, one that the source reported, one without a record.
    assert_eq!(ran.stderr.lines().count(), 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("it fails"), "{}", ran.stderr);
    let ran = bench.run(&["source", path, "s", "--count", "2", "--meta"]);
    let second = ran.stdout.lines().nth(1).unwrap();
    assert_eq!(second, r#"{"message":{ 	"a": "\n"  },"meta":{"k": [1 ,2]}}"#);
    assert!(ran.stdout.lines().next().unwrap().ends_with(r#""\/"},"meta":null}"#), "{ran:?}");
    bench.assert_nothing_is_left();
}

#[test]
fn a_row_in_messagepack_that_cannot_be_read_is_told_and_the_next_goes_on() {
    let bench = Bench::new();
    let body = r#"
def source(push):
    push(b'\x82\xa7message\x81\xa1a\x01\xa4meta\xc0')
    push(b'\x81\xa7message' + b'\x91' * 200 + b'\xc0')
    push(b'\x81\xa7message')
    push(b'\x81\xa5error\xa8it fails')
    push(b'\x81\xa7message\x82\xa1b\xc4\x02\x00\xff\x05\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00')
"#;
    let plugin = speaker(&bench, MESSAGEPACK, body);
    let ran = bench.run(&["source", plugin.to_str().unwrap(), "s", "--count", "2", "--codec", "messagepack"]);
    assert_eq!((ran.code, &*ran.stdout), (Some(0), "{\"a\":1}\n{\"b\":\"AP8=\",\"5\":1.5}\n"), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("source s sent a row that cannot be read: "), "{}", ran.stderr);
    bench.assert_nothing_is_left();
}

#[test]
fn a_sink_gets_each_line_unchanged_with_either_codec() {
    let lines = [
        r#"{"z":1.0,"a":1e3,"a":-0,"n":123456789012345678901234567890,"\u0061":"\/\ud83d\ude00"}"#,
        "{ \"a\" : [ 1 ,2 ] }\t\r",
        "[0.10,\"\u{fc}\"]",
        "7",
    ];
    let lines = lines.join("\n");
    for (hello, options) in [("b'handshake'", &[][..]), (MESSAGEPACK, &["--ack"])] {
        let bench = Bench::new();
        let taken = bench.path().join("taken");
        let body = format!("def row(data):\n    with open({taken:?}, 'ab') as f: f.write(data + b'\\n')\n");
        let plugin = speaker(&bench, hello, &body);
        let mut command = bench.command(&["sink", plugin.to_str().unwrap(), "k"]);
        command.args(options).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let ran = finish(child);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(std::fs::read_to_string(&taken).unwrap(), lines.replace('\r', "") + "\n");
    }
}
