//! The command among other programs of a shell: whatever its standard streams
//! are, it does not panic, and reports errors in a bounded text.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Bench, MESSAGEPACK, Ran, finish, speaker};

/// The plugin's behaviour where nothing else matters.
const PLAIN: &str = r#"
def source(push):
    for n in range(3):
        push(json.dumps({"message": {"n": n}, "meta": None}).encode())
def row(data): pass
def call(request): return b'{"state":true,"result":"' + b"x" * 20 + b'"}'
"#;

/// Returns a pipe whose reader has gone away.
fn closed() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

/// Returns a file on a full disk.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// Returns the command in each way that gives a result.
fn commands<'a>(plugin: &'a str, pipeline: &'a str) -> Vec<Vec<&'a str>> {
    vec![
        vec!["call", plugin, "f", "1"],
        vec!["call", plugin, "f", "--repeat", "3"],
        vec!["source", plugin, "s"],
        vec!["sink", plugin, "k"],
        vec!["sink", plugin, "k", "--ack"],
        vec!["run", pipeline],
        vec!["--help"],
        vec!["help", "source"],
        vec!["--version"],
    ]
}

fn pipeline(bench: &Bench, plugin: &str, more: &str) -> String {
    let path = bench.path().join("pipeline.toml");
    std::fs::write(&path, format!("plugins = [{plugin:?}]\n[source]\nsymbol = 's'\n{more}")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Runs the command with these streams, and lines for a sink.
fn run_with(bench: &Bench, arguments: &[&str], stdout: Stdio, stderr: Stdio, lines: &[u8]) -> Ran {
    let mut command = bench.command(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr).spawn().unwrap();
    // The command may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(lines);
    finish(child)
}

#[test]
fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is_one() {
    let bench = Bench::new();
    let plugin = speaker(&bench, "b'handshake'", PLAIN);
    let pipeline = pipeline(&bench, plugin.to_str().unwrap(), "");
    for arguments in commands(plugin.to_str().unwrap(), &pipeline) {
        let ran = run_with(&bench, &arguments, closed(), Stdio::piped(), b"{}\n");
        assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
        assert!(!ran.stderr.contains("panicked") && !ran.stderr.contains("cannot"), "{arguments:?}: {ran:?}");
        let ran = run_with(&bench, &arguments, full(), Stdio::piped(), b"{}\n");
        assert_eq!(ran.code, Some(1), "{arguments:?}: {ran:?}");
        let told = "ekuiper-plugin: cannot write the result to stdout: No space left on device";
        assert!(ran.stderr.contains(told) && !ran.stderr.contains("panicked"), "{arguments:?}: {ran:?}");
        bench.assert_nothing_is_left();
    }
}

#[test]
fn a_source_without_a_row_ends_with_the_reader_of_stdout() {
    let bench = Bench::new();
    for body in ["def source(push): stopped.wait()", "def source(push): push(b'null'); stopped.wait()"] {
        let plugin = speaker(&bench, "b'handshake'", body);
        let pipeline = pipeline(&bench, plugin.to_str().unwrap(), "");
        for arguments in [
            vec!["source", plugin.to_str().unwrap(), "s"],
            vec!["source", plugin.to_str().unwrap(), "s", "--count", "3", "--timeout", "1h"],
            vec!["run", &pipeline],
        ] {
            let ran = run_with(&bench, &arguments, closed(), Stdio::piped(), b"");
            let has_failed = arguments[0] == "run" && ran.stderr.contains("\"errors\":1");
            assert_eq!(ran.code, Some(i32::from(has_failed)), "{arguments:?}: {ran:?}");
            bench.assert_nothing_is_left();
        }
        std::fs::remove_dir_all(plugin).unwrap();
    }
}

#[test]
fn a_stderr_that_is_closed_or_full_changes_nothing() {
    let bench = Bench::new();
    let plugin = speaker(
        &bench,
        "b'handshake'",
        &PLAIN.replace("def row(data): pass", "def row(data): print('x' * 100); return b'{\"error\":\"no\"}'"),
    );
    let plugin = plugin.to_str().unwrap();
    let pipeline = pipeline(&bench, plugin, "[sink]\nsymbol = 'k'\nrequire_ack = true\n");
    for stderr in [closed, full] {
        let cases = [
            (vec!["call", plugin, "f", "1", "--log-level", "trace"], 0),
            (vec!["call", plugin, "g", "1"], 1),
            (vec!["call", plugin, "f", "no json"], 2),
            (vec!["call", plugin], 2),
            (vec!["source", plugin, "s", "--log-level", "debug"], 0),
            (vec!["sink", plugin, "k", "--ack"], 1),
            (vec!["run", &pipeline], 1),
        ];
        for (arguments, code) in cases {
            let ran = run_with(&bench, &arguments, Stdio::piped(), stderr(), b"{}\n{}\n");
            assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
            bench.assert_nothing_is_left();
        }
    }
}

#[test]
fn streams_that_are_not_there_at_all_change_nothing() {
    let bench = Bench::new();
    let plugin = speaker(&bench, "b'handshake'", PLAIN);
    for arguments in commands(plugin.to_str().unwrap(), &pipeline(&bench, plugin.to_str().unwrap(), "")) {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "exec \"$@\" <&- >&- 2>&-", "sh", env!("CARGO_BIN_EXE_ekuiper-plugin")]);
        command.args(&arguments).env("TMPDIR", bench.path().join("tmp"));
        let ran = finish(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        assert_eq!(ran.code, Some(0), "{arguments:?}");
        bench.assert_nothing_is_left();
    }
}

#[test]
fn arguments_that_are_not_json_are_usage_errors_in_bounded_words() {
    let bench = Bench::new();
    // Nothing is started for them.
    let plugin = bench.script("touch started; sleep 600");
    let path = plugin.to_str().unwrap();
    let long = format!("[{}", "1,".repeat(50_000));
    for (arguments, told) in [
        (["call", path, "f", "hello"], "argument 1 is not JSON: expected value at line 1 column 1 in hello"),
        (
            ["call", path, "f", &long],
            "argument 1 is not JSON: EOF while parsing a value at line 1 column 100001 in …1,1",
        ),
        (
            ["call", path, "f", "it's"],
            r#"argument 1 is not JSON: expected value at line 1 column 1 in it's; text needs quotes: '"it'\''s"'"#,
        ),
        (["call", path, "f", ""], r#"argument 1 is not JSON: EOF while parsing a value at line 1 column 0 in ; text"#),
        (
            ["call", path, "f", "2026-11-25"],
            "argument 1 is not JSON: trailing characters at line 1 column 5 in 2026-11-25; text needs quotes: '\"2026",
        ),
        (
            ["call", path, "f", "{a:1}"],
            "argument 1 is not JSON: key must be a string at line 1 column 2 in {a:1}; the shell removed the double \
             quotes: put single quotes around the value, as in '{\"a\":1}'",
        ),
        (
            ["source", path, "f", "--config={a:1}"],
            "--config is not JSON: key must be a string at line 1 column 2 in {a:1}; the shell removed the double quotes",
        ),
        (["source", path, "f", "--config=["], "--config is not JSON: EOF while parsing a list at line 1 column 1 in ["),
        (["source", path, "f", "--config=7"], "--config must be a JSON object, for example {\"interval\":10}; it is 7"),
        (["sink", path, "f", "--config=x"], "--config is not JSON: expected value at line 1 column 1 in x"),
        (["sink", path, "f", "--config=[]"], "--config must be a JSON object"),
    ] {
        let error = bench.fails(2, &arguments);
        assert!(error.starts_with(told) && error.len() < 300, "{error}");
    }
    assert!(!plugin.join("started").exists());
    // With a byte order mark, from a file inserted by the shell.
    let error = bench.fails(1, &["source", path, "no", "--config", "\u{feff}{}"]);
    assert!(error.starts_with("there is no source no"), "{error}");
}

/// Feeds these bytes to a sink with acknowledgements; returns the command's
/// output and exit code.
fn fed(bench: &Bench, plugin: &Path, lines: &[u8]) -> (Option<i32>, String, String) {
    let arguments = ["sink", plugin.to_str().unwrap(), "k", "--ack"];
    let Ran { code, stdout, stderr } = run_with(bench, &arguments, Stdio::piped(), Stdio::piped(), lines);
    (code, stdout, stderr)
}

/// Returns a text in other encodings, with and without a byte order mark, in
/// both byte orders, with their names.
fn encoded(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let mut encoded = Vec::new();
    for text in [text.to_owned(), format!("\u{feff}{text}")] {
        let (pairs, fours) = (text.encode_utf16(), text.chars().map(u32::from));
        encoded.push(("UTF-16", pairs.clone().flat_map(u16::to_le_bytes).collect()));
        encoded.push(("UTF-16", pairs.flat_map(u16::to_be_bytes).collect()));
        encoded.push(("UTF-32", fours.clone().flat_map(u32::to_le_bytes).collect()));
        encoded.push(("UTF-32", fours.flat_map(u32::to_be_bytes).collect()));
    }
    encoded
}

#[test]
fn an_input_of_a_byte_order_mark_alone_is_empty() {
    let bench = Bench::new();
    let plugin = speaker(&bench, "b'handshake'", PLAIN);
    for lines in ["", "\u{feff}", "\u{feff}\n", "\u{feff}\r\n\r\n \n", "\n\u{feff}  \n\u{feff}\n"] {
        let (code, stdout, stderr) = fed(&bench, &plugin, lines.as_bytes());
        let nothing = "{\"acked\":0,\"delivered\":0,\"failed\":0,\"sent\":0,\"unknown\":0}\n";
        let own: Vec<_> = stderr.lines().filter(|line| !line.starts_with('[')).collect();
        assert_eq!((code, stdout.as_str(), own), (Some(0), nothing, vec![]), "{lines:?}");
    }
    bench.assert_nothing_is_left();
}

#[test]
fn control_characters_of_inputs_do_not_reach_the_terminal() {
    const CLEAR: &str = "\u{1b}[2J\u{9b}1m\u{7}\u{8}\u{202e}";
    const TOLD: &str = r"\u{1b}[2J\u{9b}1m\u{7}\u{8}\u{202e}";
    let bench = Bench::new();
    let body = r#"
def source(push):
    push(json.dumps({"error": said}).encode())
def row(data):
    print('log' + said[:-6], flush=True)
    return json.dumps({"error": said}).encode()
def call(request): return json.dumps({"state": False, "result": said}).encode()
said = "\x1b[2J\x9b1m\x07\x08\u202e\nekuiper-plugin: forged\u2028ekuiper-plugin: forged"
"#;
    let plugin = speaker(&bench, "b'handshake'", body);
    let path = plugin.to_str().unwrap();
    let bad_key = pipeline(&bench, path, "\"\\u001b[2J\\u009b1m\\u0007\\b\\u202e\" = 1\n");
    let option = format!("--{CLEAR}");
    let config = format!("--config={CLEAR}");
    for (arguments, lines, told) in [
        (vec!["call", path, "f", CLEAR], "", TOLD),
        (vec!["call", path, "f", "1"], "", TOLD),
        (vec!["call", path, CLEAR], "", TOLD),
        (vec!["call", CLEAR, "f"], "", TOLD),
        // The option parser omits whole escape sequences from its quotes.
        (vec!["call", path, "f", &option], "", r"\u{7}\u{8}"),
        (vec![CLEAR], "", r"\u{7}\u{8}"),
        (vec!["source", path, "s"], "", TOLD),
        (vec!["source", path, "s", &config], "", TOLD),
        (vec!["source", path, "s", "--transport", CLEAR], "", TOLD),
        (vec!["sink", path, "k", "--ack"], "{}\n", TOLD),
        (vec!["sink", path, "k"], CLEAR, TOLD),
        (vec!["run", CLEAR], "", TOLD),
        (vec!["run", &bad_key], "", TOLD),
    ] {
        let ran = run_with(&bench, &arguments, Stdio::piped(), Stdio::piped(), lines.as_bytes());
        assert!(ran.code.is_some_and(|code| code > 0), "{ran:?}");
        let is_bad = |character: char| character != '\n' && ekuiper_core::printable::is_unprintable(character);
        assert!(!ran.stderr.contains("\nekuiper-plugin: forged"), "{ran:?}");
        assert!(!ran.stderr.contains(is_bad) && ran.stderr.contains(told), "{arguments:?}: {:?}", ran.stderr);
    }
    // A line ending within an argument is part of the sentence.
    let error = bench.fails(2, &["call", path, "f", "{\"a\":\n\tb}"]);
    assert_eq!(error, r#"argument 1 is not JSON: expected value at line 2 column 2 in {"a":\n\tb}"#);
    bench.assert_nothing_is_left();
}

#[test]
fn integers_of_more_than_64_bits_lose_no_digits_in_silence() {
    let bench = Bench::new();
    let body = "
def row(data): print('row', data.decode(), flush=True)
def call(request):
    if b'Validate' in request: return b'{\"state\":true,\"result\":\"\"}'
    return b'{\"state\":true,\"result\":18446744073709551615}'
";
    let plugin = speaker(&bench, "b'handshake'", body);
    let path = plugin.to_str().unwrap();
    let long = "18446744073709551616";
    for (arguments, what) in [
        (["call", path, "f", long], "argument 1"),
        (["call", path, "f", "[{\"a\":18446744073709551616}]"], "argument 1"),
        (["source", path, "s", "--config={\"a\":18446744073709551616}"], "--config"),
    ] {
        let told = format!(
            "{what} contains {long}, an integer of more than 64 bits: write it as a string, or as a float with .0"
        );
        assert_eq!(bench.fails(2, &arguments), told);
    }
    let ran = bench.run(&["call", path, "f", "18446744073709551615", "-9223372036854775808", "1e30"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "18446744073709551615\n"), "{ran:?}");
    // A sink gets the text unchanged.
    let (code, _, stderr) = fed(&bench, &plugin, format!("{{\"a\":{long}}}\n").as_bytes());
    assert_eq!(code, Some(0));
    assert!(stderr.contains(&format!("row {{\"a\":{long}}}")), "{stderr}");
    bench.assert_nothing_is_left();
}

#[test]
fn lines_that_are_wrong_are_told_with_their_number_and_cut() {
    let bench = Bench::new();
    let plugin = speaker(&bench, "b'handshake'", PLAIN);
    let acked = |count: u64| {
        format!("{{\"acked\":{count},\"delivered\":{count},\"failed\":0,\"sent\":{count},\"unknown\":0}}\n")
    };
    let long = [&b"{}\n{\"a\":\""[..], &vec![b'x'; 5 << 20], b"\x01\"}\n"].concat();
    let longer = [&b"{}\n\""[..], &vec![b'x'; 70 << 20], b"\"\n"].concat();
    for (lines, told) in [
        (&b"{}\n{\"a\":\n"[..], "line 2 of stdin is not JSON: EOF while parsing a value at column 5, in {\"a\":"),
        (b"{}\n\n \n{\"a\":\"\xff\"}\n", "line 4 of stdin is not UTF-8: byte 0xff at column 7, in {\"a\":\""),
        (b"{}\nx\n", "line 2 of stdin is not JSON: expected value at column 1, in x"),
        (b"{}\n1e999\n", "line 2 of stdin is not JSON: number out of range at column 5, in 1e999"),
        // A NUL within stdin does not make it UTF-16.
        (b"{}\n\"\0\"\n{}\n", "line 2 of stdin is not JSON: control character"),
        (b"{}\n\0\n", "line 2 of stdin is not JSON: expected value at column 1"),
        (&long, "line 2 of stdin is not JSON: control character"),
        (&longer, "line 2 of stdin is longer than a message may be (67108864 bytes); it begins with \"xxxx"),
        (b"{}\n{\"a\":1}}\n", "line 2 of stdin is not JSON: trailing characters at column 8, in {\"a\":1}}"),
    ] {
        let (code, stdout, stderr) = fed(&bench, &plugin, lines);
        assert!(stderr.starts_with(&format!("ekuiper-plugin: {told}")), "{stderr:.300}");
        assert!(stderr.len() < 300, "{} bytes: {stderr:.300}", stderr.len());
        assert_eq!((code, stdout), (Some(1), acked(1)), "{told}");
    }
    // One that is just as long as a message may be.
    let whole = [&b"\""[..], &vec![b'x'; (64 << 20) - 2], b"\"\r\n"].concat();
    assert_eq!(fed(&bench, &plugin, &whole).0, Some(0));
    for (encoding, text) in encoded("{\"a\":1}\n") {
        let (code, stdout, stderr) = fed(&bench, &plugin, &text);
        assert_eq!((code, stdout), (Some(1), acked(0)));
        let told = format!("ekuiper-plugin: stdin is not JSON lines: it is {encoding}, not UTF-8: save it as UTF-8");
        // The plugin may complain that nothing was sent to it.
        assert!(stderr.lines().any(|line| line.starts_with(&told)), "{text:x?}: {stderr}");
    }
    // Byte order marks of concatenated files, Windows' line endings, no line
    // ending.
    let (code, stdout, stderr) =
        fed(&bench, &plugin, b"\xef\xbb\xbf{\"a\":1}\r\n\r\n\xef\xbb\xbf{\"a\":2}\r\n{\"a\":3}");
    assert_eq!((code, stdout), (Some(0), acked(3)), "{stderr}");
    bench.assert_nothing_is_left();
}

#[test]
fn files_with_a_byte_order_mark_are_read_and_others_are_told() {
    let bench = Bench::new();
    let plugin = speaker(&bench, "b'handshake'", PLAIN);
    let name = plugin.file_name().unwrap().to_str().unwrap();
    let manifest = plugin.join(format!("{name}.json"));
    let pipeline = pipeline(&bench, plugin.to_str().unwrap(), "");
    for path in [&manifest, Path::new(&pipeline)] {
        let text = std::fs::read_to_string(path).unwrap();
        std::fs::write(path, format!("\u{feff}{text}")).unwrap();
        let ran = bench.run(&["run", &pipeline]);
        assert_eq!((ran.code, ran.stdout.lines().count()), (Some(0), 3), "{ran:?}");
        for (encoding, text) in encoded(&text) {
            std::fs::write(path, text).unwrap();
            let error = bench.fails(1, &["run", &pipeline]);
            assert!(error.contains(&format!("it is {encoding}, not UTF-8: save it as UTF-8")), "{error}");
            assert!(error.contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
        }
        std::fs::write(path, [text.as_bytes(), b"\n# \xe4"].concat()).unwrap();
        let error = bench.fails(1, &["run", &pipeline]);
        assert!(error.contains("byte 0xe4 at line ") && error.contains("is not UTF-8"), "{error}");
        std::fs::write(path, text).unwrap();
    }
}

#[test]
fn bytes_are_base64_text_in_both_codecs() {
    let bench = Bench::new();
    // `bytes` in MessagePack: a result, and a row with meta.
    let body = r#"
def source(push):
    for n in range(2):
        push(b"\x82\xa7message\x82\xa1n" + bytes([n]) + b"\xa4jpeg\x91\xc4\x02\xff\xd8" + b"\xa4meta\x81\xa3key\xc4\x01\x00")
def row(data): pass
def call(request): return b"" if b"Validate" in request else b"\x82\xa5state\xc3\xa6result\x92\xc4\x03\x00\x01\x02\xcf" + b"\xff" * 8
"#;
    let body = body.replace("return b\"\" if", "return b\"\\x82\\xa5state\\xc3\\xa6result\\xa0\" if");
    let plugin = speaker(&bench, MESSAGEPACK, &body);
    let path = plugin.to_str().unwrap();
    let ran = bench.run(&["call", path, "f", "1"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "[\"AAEC\",18446744073709551615]\n"), "{ran:?}");
    let ran = bench.run(&["source", path, "s", "--meta"]);
    let row = |n: u8| json!({"message": {"n": n, "jpeg": ["/9g="]}, "meta": {"key": "AA=="}});
    let rows: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ran.code, rows), (Some(0), vec![row(0), row(1)]), "{}", ran.stderr);
    // Through functions and out again.
    let file = pipeline(&bench, path, "[[function]]\nsymbol = 'f'\nargs = ['jpeg']\noutput = 'thumb'\n");
    let ran = bench.run(&["run", &file]);
    let first: Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(first, json!({"n": 0, "jpeg": ["/9g="], "thumb": ["AAEC", u64::MAX]}));
    bench.assert_nothing_is_left();
}

/// Source that sends invalid data as fast as it is read.
const FLOOD: &str = "
def source(push):
    while not stopped.is_set():
        push(b'null')
";

#[test]
fn errors_without_end_are_folded_and_end_the_command() {
    let bench = Bench::new();
    let plugin = speaker(&bench, "b'handshake'", FLOOD);
    let plugin = plugin.to_str().unwrap();
    let pipeline = pipeline(&bench, plugin, "count = 3\n");
    for arguments in [["source", plugin, "s", "--count", "3"], ["run", &pipeline, "--count", "3", "--timeout=1h"]] {
        // By default, and with another limit.
        for (more, count) in [(&[][..], 1000), (&["--max-errors", "50000"][..], 50_000)] {
            let ran = bench.run(&[&arguments[..], more].concat());
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
            let told = format!("{count} consecutive errors without a row in between: --max-errors sets the limit");
            assert!(ran.stderr.contains(&told), "{ran:?}");
            // One line, repeated with counts at most once a second, and the
            // end.
            assert!(ran.stderr.contains("more like this)"), "{ran:?}");
            assert!(ran.stderr.len() < 20_000 && ran.stderr.lines().count() < 60, "{ran:?}");
        }
    }
    // Without a limit, the timeout ends it.
    let ran = bench.run(&["source", plugin, "s", "--count", "3", "--max-errors", "0", "--timeout", "300ms"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("source s gave 0 of 3 rows within 300ms"), "{ran:?}");
    let ran = bench.run(&["run", &pipeline, "--max-errors", "0", "--timeout", "300ms"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("source s gave 0 of 3 rows within 300ms"), "{ran:?}");
    bench.assert_nothing_is_left();
}

#[test]
fn a_time_ends_a_source_that_is_silent_and_one_that_goes_on() {
    let bench = Bench::new();
    let silent = speaker(&bench, "b'handshake'", "def source(push): stopped.wait()");
    let ran = bench.run(&["source", silent.to_str().unwrap(), "s", "--timeout", "100ms"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "", ""));
    let ran = bench.run(&["source", silent.to_str().unwrap(), "s", "--timeout", "100ms", "--count", "1"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let bench = Bench::new();
    let body = "
def source(push):
    while not stopped.is_set():
        push(b'{\"message\":{}}')
";
    let endless = speaker(&bench, "b'handshake'", body);
    let ran = bench.run(&["source", endless.to_str().unwrap(), "s", "--timeout", "100ms"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert!(ran.stdout.starts_with("{}\n"), "{:.100}", ran.stdout);
    bench.assert_nothing_is_left();
}

#[test]
fn what_a_plugin_prints_is_shown_with_its_name_and_once() {
    let bench = Bench::new();
    let body = r#"
def source(push):
    print("source prints", flush=True)
    push(b'{"message":{}}')
def row(data):
    print("row", data.decode(), flush=True)
def call(request):
    print("call prints", flush=True)
    return b'{"state":true,"result":7}'
"#;
    let plugin = speaker(&bench, "b'handshake'", body);
    let path = plugin.to_str().unwrap();
    let name = plugin.file_name().unwrap().to_str().unwrap();
    let (code, stdout, stderr) = fed(&bench, &plugin, b"{\"a\":1}\n{\"a\":2}\n");
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "{\"acked\":2,\"delivered\":2,\"failed\":0,\"sent\":2,\"unknown\":0}\n")
    );
    assert_eq!(stderr, format!("[{name}] row {{\"a\":1}}\n[{name}] row {{\"a\":2}}\n"));
    let ran = bench.run(&["source", path, "s"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr), ("{}\n", format!("[{name}] source prints\n")));
    // At the level info the lines are not shown twice; at the level error not
    // at all.
    let ran = bench.run(&["call", path, "f", "--log-level", "info"]);
    assert_eq!(ran.stdout, "7\n");
    assert!(ran.stderr.matches("call prints").count() >= 1, "{ran:?}");
    assert!(
        ran.stderr.lines().filter(|line| line.contains("call prints")).all(|line| line.starts_with('[')),
        "{ran:?}"
    );
    let ran = bench.run(&["source", path, "s", "--log-level", "error"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("{}\n", ""));
    // A plugin that does not start reports the reason once.
    let bench = Bench::new();
    let broken = speaker(&bench, "b'handshake'", "raise RuntimeError('it is broken')");
    let error = bench.fails(1, &["source", broken.to_str().unwrap(), "s"]);
    assert_eq!(error.matches("RuntimeError: it is broken").count(), 1, "{error}");
}

#[test]
fn a_signal_ends_each_command_in_order_in_the_middle_of_its_work() {
    let bench = Bench::new();
    let body = "
def source(push):
    print('ready', flush=True)
    stopped.wait()
def row(data): print('ready', flush=True)
def call(request):
    if b'Validate' in request: return b'{\"state\":true,\"result\":\"\"}'
    print('ready', flush=True)
    time.sleep(600)
";
    let plugin = speaker(&bench, "b'handshake'", body);
    let path = plugin.to_str().unwrap();
    let pipeline = pipeline(&bench, path, "");
    let commands =
        [vec!["call", path, "f"], vec!["source", path, "s"], vec!["sink", path, "k"], vec!["run", &pipeline]];
    for arguments in commands {
        for signal in heard_signals() {
            let ran = interrupted(&bench, &arguments, b"{}\n", signal);
            assert_eq!(ran.code, Some(130), "{arguments:?}: {}", ran.stderr);
            // The expected report.
            match arguments[0] {
                "sink" => {
                    assert!(ran.stdout.contains("\"acked\":0,") && ran.stdout.contains("\"sent\":1,"), "{ran:?}")
                }
                "run" => assert!(ran.stderr.contains("\"read\":0"), "{ran:?}"),
                _ => assert_eq!(ran.stdout, ""),
            }
            bench.assert_nothing_is_left();
        }
    }
}

#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    let bench = Bench::new();
    let plugin = speaker(&bench, "b'handshake'", "def source(push): stopped.wait()");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_ekuiper-plugin")]);
    command.args(["source", plugin.to_str().unwrap(), "s", "--log-level", "debug"]);
    command.env("TMPDIR", bench.path().join("tmp")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    await_text(child.stderr.as_mut().unwrap(), "plugin started");
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_eq!(ignored & 1, 1, "SIGHUP is not ignored any more: {ignored:x}");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(finish(child).code, Some(130));
    bench.assert_nothing_is_left();
}

/// Reads until this text has arrived.
fn await_text(from: &mut impl Read, text: &str) {
    let (mut read, mut piece) = (Vec::new(), [0; 4096]);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !String::from_utf8_lossy(&read).contains(text) {
        assert!(std::time::Instant::now() < deadline);
        match from.read(&mut piece).unwrap() {
            0 => panic!("it ended: {}", String::from_utf8_lossy(&read)),
            count => read.extend_from_slice(&piece[..count]),
        }
    }
}

/// The signals that end a command, but for those that were ignored when this
/// test was started, as by `nohup`: the command leaves them ignored.
fn heard_signals() -> impl Iterator<Item = Signal> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    let all = [Signal::INT, Signal::TERM, Signal::HUP];
    all.into_iter().filter(move |signal| ignored & (1 << (signal.as_raw() - 1)) == 0)
}

/// Starts it with these lines on a stdin that stays open, signals it once its
/// plugin is ready; what it did, with all of stderr.
fn interrupted(bench: &Bench, arguments: &[&str], lines: &[u8], signal: Signal) -> Ran {
    let (stdin, mut typed) = std::io::pipe().unwrap();
    typed.write_all(lines).unwrap();
    let mut command = bench.command(arguments);
    command.args(["--recv-timeout", "120s"]);
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    await_text(&mut stderr, "ready");
    kill_process(Pid::from_child(&child), signal).unwrap();
    let reader = std::thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = stderr.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    });
    let mut ran = finish(child);
    drop(typed);
    ran.stderr = reader.join().unwrap();
    ran
}

#[test]
fn what_fails_because_of_a_signal_is_of_unknown_outcome_and_not_failed() {
    let bench = Bench::new();
    let body = "
def source(push):
    push(b'{\"message\":{\"a\":1}}')
    stopped.wait()
def row(data):
    print('ready', flush=True)
    time.sleep(600)
def call(request):
    if b'Validate' in request: return b'{\"state\":true,\"result\":\"\"}'
    print('ready', flush=True)
    time.sleep(600)
";
    let plugin = speaker(&bench, "b'handshake'", body);
    let path = plugin.to_str().unwrap();
    let acked = pipeline(&bench, path, "[sink]\nsymbol = 'k'\nrequire_ack = true\n");
    let calling = bench.path().join("calling.toml");
    std::fs::copy(&acked, &calling).unwrap();
    let text = std::fs::read_to_string(&acked).unwrap();
    let text = text
        .replace("[sink]\nsymbol = 'k'\nrequire_ack = true", "[[function]]\nsymbol = 'f'\nargs = ['a']\noutput = 'b'");
    std::fs::write(&calling, text).unwrap();
    let row = "interrupted: the outcome of 1 of 1 rows is unknown";
    let cases = [
        (
            vec!["sink", path, "k", "--ack"],
            "interrupted: the outcome of 1 of 1 messages to sink k is unknown, and the rest of stdin was not sent",
        ),
        (vec!["run", &acked], row),
        (vec!["run", calling.to_str().unwrap()], row),
    ];
    for (arguments, told) in cases {
        for signal in heard_signals() {
            let ran = interrupted(&bench, &arguments, b"{}\n{}\n", signal);
            assert_eq!(ran.code, Some(130), "{arguments:?}: {ran:?}");
            let own: Vec<_> = ran.stderr.lines().filter_map(|line| line.strip_prefix("ekuiper-plugin: ")).collect();
            assert_eq!(own, [told], "{arguments:?}: {ran:?}");
            let counts = if arguments[0] == "sink" { &ran.stdout } else { &ran.stderr };
            assert!(counts.contains("\"failed\":0,"), "{arguments:?}: {ran:?}");
            bench.assert_nothing_is_left();
        }
    }
}

#[test]
fn an_exit_code_of_1_has_a_closing_sentence() {
    let bench = Bench::new();
    let body = r#"
def source(push):
    push(b'{"message":{"a":1}}')
    for _ in range(9):
        push(b'null')
    stopped.wait()
def row(data): return b'{"error":"no room"}'
"#;
    let plugin = speaker(&bench, "b'handshake'", body);
    let path = plugin.to_str().unwrap();
    let acked = pipeline(&bench, path, "count = 1\n[sink]\nsymbol = 'k'\nrequire_ack = true\n");
    let lines = b"{}\n".repeat(400);
    for (arguments, told) in [
        (vec!["sink", path, "k", "--ack"], "400 of 400 messages to sink k failed"),
        (vec!["run", &acked], "1 of 1 rows failed"),
        (vec!["source", path, "s", "--timeout", "2s"], "source s ended with 9 errors after its last row"),
    ] {
        let ran = run_with(
            &bench,
            &[&arguments[..], &["--log-level", "error"]].concat(),
            Stdio::piped(),
            Stdio::piped(),
            &lines,
        );
        assert_eq!(ran.code, Some(1), "{arguments:?}: {ran:?}");
        assert_eq!(ran.stderr.lines().last(), Some(&*format!("ekuiper-plugin: {told}")), "{ran:?}");
        // Equal errors of several lines are reported once.
        let same = ran.stderr.lines().filter(|line| line.contains("sink k: no room")).count();
        assert!(same < 60, "{ran:?}");
        bench.assert_nothing_is_left();
    }
}

#[test]
fn a_sink_with_acks_goes_on_after_a_crash_of_its_plugin() {
    let bench = Bench::new();
    let body = "
def row(data):
    if b'crash' in data:
        os._exit(9)
";
    let plugin = speaker(&bench, "b'handshake'", body);
    let (code, stdout, stderr) = fed(&bench, &plugin, b"{}\n\"crash\"\n{}\n{}\n");
    assert_eq!(
        (code, stdout.as_str()),
        (Some(1), "{\"acked\":3,\"delivered\":3,\"failed\":0,\"sent\":4,\"unknown\":1}\n"),
        "{stderr}"
    );
    assert!(stderr.contains("line 2: ") && stderr.contains("outcome unknown"), "{stderr}");
    assert_eq!(
        stderr.lines().last(),
        Some("ekuiper-plugin: the outcome of 1 of 4 messages to sink k is unknown"),
        "{stderr}"
    );
    bench.assert_nothing_is_left();
}
