//! `call PATH FUNCTION -`: rows of arguments from stdin.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::{Bench, Ran, example, finish, speaker};

/// A function that counts its calls, and fails, crashes or hangs where its
/// argument says so.
const COUNTER: &str = r#"
calls = 0
def call(request):
    global calls
    request = json.loads(request)
    args = request["arg"] if isinstance(request["arg"], list) else json.loads(request["arg"])
    if request["func"] == "Validate":
        good = len(args) < 3
        return json.dumps({"state": good, "result": "" if good else "at most 2 arguments"}).encode()
    calls += 1
    args = args[:-1]
    if args == ["crash"]: os._exit(7)
    if args == ["fail"]: return b'{"state":false,"result":"it fails"}'
    if args == ["hang"]:
        print("ready", flush=True)
        time.sleep(600)
    return json.dumps({"state": True, "result": [calls, args]}, separators=(",", ":")).encode()
"#;

fn counter(bench: &Bench) -> PathBuf {
    speaker(bench, "b'handshake'", COUNTER)
}

fn start(bench: &Bench, plugin: &str, function: &str) -> Child {
    let mut command = bench.command(&["call", plugin, function, "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Calls the function for these lines.
fn called(bench: &Bench, plugin: &str, function: &str, lines: &[u8]) -> Ran {
    let mut child = start(bench, plugin, function);
    let mut stdin = child.stdin.take().unwrap();
    let lines = lines.to_vec();
    let typing = std::thread::spawn(move || {
        let _ = stdin.write_all(&lines);
    });
    let ran = finish(child);
    typing.join().unwrap();
    bench.assert_nothing_is_left();
    ran
}

/// What the command said in its own name.
fn told(ran: &Ran) -> Vec<&str> {
    ran.stderr.lines().filter_map(|line| line.strip_prefix("ekuiper-plugin: ")).collect()
}

#[test]
fn rows_are_called_in_order_on_one_instance() {
    let bench = Bench::new();
    let plugin = counter(&bench);
    let lines = "[\"a\"]\n\n  \n[ 1 , {\"b\":[2]} ]\r\n[]\n\"text\"\n{\"c\":[3]}\n[[4]]\nnull";
    let ran = called(&bench, plugin.to_str().unwrap(), "f", lines.as_bytes());
    let answers = [
        r#"[1,["a"]]"#,
        r#"[2,[1,{"b":[2]}]]"#,
        "[3,[]]",
        r#"[4,["text"]]"#,
        r#"[5,[{"c":[3]}]]"#,
        "[6,[[4]]]",
        "[7,[null]]",
    ];
    assert_eq!((ran.code, &*ran.stderr), (Some(0), ""), "{ran:?}");
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), answers);
}

#[test]
fn a_function_and_an_aggregate_of_the_sdk_take_rows_in_both_codecs() {
    let bench = Bench::new();
    let mirror = example("mirror");
    for codec in ["json", "messagepack"] {
        let mut child = bench.command(&["call", &mirror, "average", "-", "--codec", codec]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"[[1,2,6]]\n[[]]\n").unwrap();
        let ran = finish(child);
        assert_eq!((ran.code, &*ran.stdout), (Some(0), "3.0\nnull\n"), "{ran:?}");
    }
    let many: Vec<_> = (0..20_000).map(|number| format!("row {number}")).collect();
    let lines: String = many.iter().map(|row| format!("[{row:?}]\n")).collect();
    let ran = called(&bench, &mirror, "revert", lines.as_bytes());
    let reversed: Vec<String> = many.iter().map(|row| format!("{:?}", row.chars().rev().collect::<String>())).collect();
    assert_eq!((ran.code, told(&ran)), (Some(0), vec![]), "{}", ran.stderr);
    assert!(ran.stdout.lines().eq(reversed.iter()), "{}", ran.stdout.lines().count());
    let ran = called(&bench, &mirror, "revert", b"");
    assert_eq!((ran.code, &*ran.stdout, told(&ran)), (Some(0), "", vec![]));
}

#[test]
fn a_row_that_fails_is_told_with_its_line_and_the_next_goes_on() {
    let bench = Bench::new();
    let plugin = counter(&bench);
    let lines: &[u8] =
        b"[1]\n[\"fail\"]\n[\"fail\"]\n[2\n\xff\n[1,2,3]\n[99999999999999999999]\n\xef\xbb\xbf[2]\n1 2\n[3]";
    let ran = called(&bench, plugin.to_str().unwrap(), "f", lines);
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), ["[1,[1]]", "[4,[2]]", "[5,[3]]"], "{ran:?}");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let told = told(&ran);
    let beginnings = [
        "line 2: ",
        "line 3: ",
        "line 4 of stdin is not JSON: ",
        "line 5 of stdin is not UTF-8: byte 0xff at column 1",
        "line 6: ",
        "line 7 of stdin contains 99999999999999999999, an integer of more than 64 bits",
        "line 9 of stdin is not JSON: ",
        "7 of 10 calls failed",
    ];
    assert_eq!(told.len(), beginnings.len(), "{told:#?}");
    for (line, beginning) in told.iter().zip(beginnings) {
        assert!(line.starts_with(beginning), "{line} for {beginning}");
    }
    assert!(told[0].contains("it fails") && told[1].contains("it fails"), "{told:#?}");
    assert!(told[4].contains("at most 2 arguments"), "{told:#?}");
}

#[test]
fn a_crash_costs_the_row_that_was_executed() {
    let bench = Bench::new();
    let plugin = counter(&bench);
    let lines = b"[1]\n[2]\n[\"crash\"]\n[3]\n[4]\n[5]\n";
    let ran = called(&bench, plugin.to_str().unwrap(), "f", lines);
    let answers: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(answers, ["[1,[1]]", "[2,[2]]", "[1,[3]]", "[2,[4]]", "[3,[5]]"], "{ran:?}");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let told = told(&ran);
    let unknown: Vec<_> = told.iter().filter(|line| line.starts_with("line ")).collect();
    assert_eq!(unknown.len(), 1, "{told:#?}");
    assert!(unknown[0].starts_with("line 3: ") && unknown[0].contains("outcome unknown"), "{told:#?}");
    assert_eq!(told.last(), Some(&"the outcome of 1 of 6 calls is unknown"), "{told:#?}");
}

#[test]
fn a_plugin_that_crashes_again_and_again_ends_the_command_with_the_line() {
    let bench = Bench::new();
    let plugin = counter(&bench);
    let ran = called(&bench, plugin.to_str().unwrap(), "f", &b"[\"crash\"]\n".repeat(50));
    assert_eq!((ran.code, &*ran.stdout), (Some(1), ""), "{ran:?}");
    let last = *told(&ran).last().unwrap();
    assert!(last.starts_with("line ") && last.contains(" of stdin and all lines after it were not called: "), "{last}");
}

#[test]
fn an_answer_is_shown_before_the_next_line_is_typed() {
    let bench = Bench::new();
    let plugin = counter(&bench);
    let mut child = start(&bench, plugin.to_str().unwrap(), "f");
    let mut stdin = child.stdin.take().unwrap();
    let answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, shown) = std::sync::mpsc::channel();
    std::thread::spawn(move || answers.map(Result::unwrap).try_for_each(|answer| sender.send(answer)));
    for (typed, answer) in [("[1]\n[2", "[1,[1]]"), ("]\n", "[2,[2]]"), ("[3]\n", "[3,[3]]")] {
        stdin.write_all(typed.as_bytes()).unwrap();
        assert_eq!(shown.recv_timeout(Duration::from_secs(60)).as_deref(), Ok(answer));
    }
    drop(stdin);
    assert!(shown.recv().is_err());
    assert_eq!(finish(child).code, Some(0));
}

/// What looks like UTF-16 within stdin is a bad line, and nothing is lost.
#[test]
fn a_line_with_a_nul_is_one_failed_row() {
    let bench = Bench::new();
    let plugin = example("mirror");
    let ran = called(&bench, &plugin, "echo", b"\"a\"\n\"b\"\n\"\0\"\n\0\n\"c\"\n");
    assert_eq!(ran.stdout, "\"a\"\n\"b\"\n\"c\"\n");
    let told = told(&ran);
    assert!(told[0].starts_with("line 3 of stdin is not JSON: control character"), "{told:#?}");
    assert!(told[1].starts_with("line 4 of stdin is not JSON: "), "{told:#?}");
    assert_eq!((ran.code, told[2..].len()), (Some(1), 1), "{told:#?}");
}

#[test]
fn a_line_that_is_too_long_is_one_failed_row() {
    let bench = Bench::new();
    let plugin = example("mirror");
    let text = |length: usize| [&b"[\""[..], &vec![b'a'; length], b"\"]\n"].concat();
    let lines = [&b"[\"before\"]\n"[..], &text(64 << 20), &text(32 << 20), b"[\"after\"]"].concat();
    let ran = called(&bench, &plugin, "echo", &lines);
    let answers: Vec<_> = ran.stdout.lines().map(str::len).collect();
    assert_eq!(answers, ["\"before\"".len(), (32 << 20) + 2, "\"after\"".len()]);
    let told = told(&ran);
    assert!(told[0].starts_with("line 2 of stdin is longer than a message may be (67108864 bytes)"), "{told:#?}");
    assert_eq!((ran.code, told.last()), (Some(1), Some(&"1 of 4 calls failed")), "{told:#?}");
}

#[test]
fn a_signal_ends_it_with_the_outcome_of_the_row_in_flight() {
    for (lines, costs) in [
        (
            &b"[\"hang\"]\n[1]\n[2]\n"[..],
            "the outcome of 1 of 1 calls is unknown, and the rest of stdin was not called",
        ),
        (b"[1]\n", "the rest of stdin was not called"),
    ] {
        let bench = Bench::new();
        let plugin = counter(&bench);
        let mut child = start(&bench, plugin.to_str().unwrap(), "f");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(lines).unwrap();
        let mut from = BufReader::new(child.stderr.take().unwrap());
        if lines.starts_with(b"[\"hang") {
            let mut line = String::new();
            from.read_line(&mut line).unwrap();
            assert!(line.contains("ready"), "{line}");
        } else {
            let mut answer = [0; 1];
            child.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
        }
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let mut stderr = String::new();
        from.read_to_string(&mut stderr).unwrap();
        let ran = finish(child);
        assert_eq!((ran.code, &*stderr), (Some(130), &*format!("ekuiper-plugin: interrupted: {costs}\n")));
        bench.assert_nothing_is_left();
        drop(stdin);
    }
}

#[test]
fn it_ends_with_the_reader_of_stdout() {
    // While it waits for a line, and while it waits for an answer.
    for lines in [&b"[1]\n"[..], b"[1]\n[\"hang\"]\n"] {
        let bench = Bench::new();
        let plugin = counter(&bench);
        let mut child = start(&bench, plugin.to_str().unwrap(), "f");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(lines).unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        answers.read_line(&mut String::new()).unwrap();
        drop(answers);
        let ran = finish(child);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(told(&ran), [""; 0], "{ran:?}");
        bench.assert_nothing_is_left();
        drop(stdin);
    }
}

#[test]
fn repeat_is_for_one_call() {
    let bench = Bench::new();
    let plugin = counter(&bench);
    let error = bench.fails(2, &["call", plugin.to_str().unwrap(), "f", "-", "--repeat", "2"]);
    assert!(error.contains("--repeat measures one call"), "{error}");
    let error = bench.fails(2, &["call", plugin.to_str().unwrap(), "f", "1", "-"]);
    assert!(error.starts_with("argument 2 is not JSON"), "{error}");
}
