//! The commands with a correct plugin: `examples/mirror`, built as a user would
//! build it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Bench, Ran, example, finish, liar, write_program};

impl Ran {
    /// Returns the output of a successful command as JSON lines.
    fn lines(&self) -> Vec<Value> {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn call_prints_the_result() {
    let bench = Bench::new();
    let mirror = example("mirror");
    assert_eq!(bench.run(&["call", &mirror, "revert", "\"hello\""]).lines(), [json!("olleh")]);
    let value = r#"{"a":[1,null,"ü"],"b":-2.5}"#;
    assert_eq!(bench.run(&["call", &mirror, "echo", value]).stdout, format!("{value}\n"));
    assert_eq!(bench.run(&["call", &mirror, "average", "[1,2,6]"]).lines(), [json!(3.0)]);
    assert_eq!(bench.run(&["call", &mirror, "echo", "-7"]).lines(), [json!(-7)]);
    bench.assert_nothing_is_left();
}

#[test]
fn call_measures() {
    let bench = Bench::new();
    let lines = bench.run(&["call", &example("mirror"), "revert", "\"hello\"", "--repeat", "100"]).lines();
    let [measured] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!(measured["calls"], 100);
    for field in ["seconds", "per_second", "p50_us", "p99_us"] {
        assert!(measured[field].as_f64().unwrap() > 0.0, "{measured}");
    }
    assert!(measured["p99_us"].as_f64() >= measured["p50_us"].as_f64());
}

#[test]
#[cfg(feature = "bench")]
fn bench_measures_what_is_built_in() {
    let bench = Bench::new();
    let json = bench.path().join("bench.json");
    let subjects = ["--only", "calls", "--only", "sources", "--only", "start"];
    let ran = bench.run(&[&["bench", "--quick", "--json", json.to_str().unwrap()][..], &subjects].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("## Function calls") && ran.stdout.contains("| uds "), "{ran:?}");
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let peers: Vec<_> = report["peers"].as_array().unwrap().iter().map(|peer| peer["name"].as_str().unwrap()).collect();
    assert_eq!(peers[..3], ["raw", "raw-best", "uds"]);
    assert_eq!(report["failures"], json!([]));
    let ran = bench.run(&["bench", "--quick", "--only", "speed"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("'speed' for '--only <SUBJECT>': there are calls"), "{ran:?}");
    bench.assert_nothing_is_left();
}

#[test]
fn source_prints_tuples() {
    let bench = Bench::new();
    let mirror = example("mirror");
    let config = r#"{"interval":1}"#;
    let lines = bench.run(&["source", &mirror, "random", "--count", "5", "--config", config]).lines();
    assert_eq!(lines.iter().map(|row| row["count"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    // A source that ends by itself; with meta.
    let config = r#"{"interval":1,"count":2}"#;
    let lines = bench.run(&["source", &mirror, "random", "--meta", "--config", config]).lines();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["message"]["count"], 2);
    assert!(lines[1].as_object().unwrap().contains_key("meta"));
    bench.assert_nothing_is_left();
}

#[test]
fn source_ends_with_its_reader_and_with_an_interrupt() {
    let bench = Bench::new();
    for interrupt in [false, true] {
        let arguments = ["source", &example("mirror"), "random", "--config", r#"{"interval":1}"#];
        let mut child = bench.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.starts_with("{\"count\":1,"), "{line}");
        if interrupt {
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
            // Read on, or the pipe ends the command first.
            std::io::copy(&mut output, &mut std::io::sink()).unwrap();
        }
        drop(output);
        let ran = finish(child);
        assert_eq!(ran.code, Some(if interrupt { 130 } else { 0 }), "{ran:?}");
        bench.assert_nothing_is_left();
    }
}

#[test]
fn sink_counts_what_became_of_each_line() {
    let bench = Bench::new();
    let path = bench.path().join("rows.jsonl");
    let config = json!({ "path": path }).to_string();
    for (acks, acked) in [(true, 2), (false, 0)] {
        let mut arguments = vec!["sink", "", "file", "--config", &config];
        let mirror = example("mirror");
        arguments[1] = &mirror;
        arguments.extend(acks.then_some("--ack"));
        let mut command = bench.command(&arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"{\"a\":1}\n\n{\"a\":2}\n").unwrap();
        assert_eq!(
            finish(child).lines(),
            [json!({ "sent": 2, "delivered": 2, "acked": acked, "failed": 0, "unknown": 0 })]
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":2}\n");
        std::fs::remove_file(&path).unwrap();
    }
    bench.assert_nothing_is_left();
}

/// Creates a pipe of one page that nobody reads, with both ends: a sink that
/// writes to it collects no more than the first short rows.
fn pipe(bench: &Bench) -> (String, File) {
    let path = bench.path().join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let end = File::options().read(true).write(true).open(&path).unwrap();
    fcntl_setpipe_size(&end, 4096).unwrap();
    (path.display().to_string(), end)
}

/// Feeds the sink `file` this many rows that are longer than the pipe.
fn feed(bench: &Bench, path: &str, options: &[&str], rows: usize) -> Child {
    let (mirror, config) = (example("mirror"), json!({ "path": path }).to_string());
    let mut command = bench.command(&[&["sink", &mirror, "file", "--config", &config][..], options].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    (0..rows).for_each(|_| writeln!(input, "{}", json!({ "filler": "x".repeat(5000) })).unwrap());
    child
}

#[test]
fn a_sink_that_is_slower_than_its_rows_come_gets_them_all() {
    let bench = Bench::new();
    let (path, end) = pipe(&bench);
    let child = feed(&bench, &path, &[], 40);
    let mut rows = BufReader::new(end).lines();
    // Longer than anything that gives up after a second.
    std::thread::sleep(Duration::from_millis(2500));
    (0..40).for_each(|_| assert!(rows.next().unwrap().unwrap().len() > 5000));
    let ran = finish(child);
    assert_eq!(ran.lines(), [json!({ "sent": 40, "delivered": 40, "acked": 0, "failed": 0, "unknown": 0 })]);
    assert!(ran.stderr.contains("waiting until the sink has collected "), "{ran:?}");
    bench.assert_nothing_is_left();
}

#[test]
fn what_a_sink_does_not_collect_is_said_with_its_number() {
    let bench = Bench::new();
    let (path, end) = pipe(&bench);
    let child = feed(&bench, &path, &["--drain-stall", "300ms"], 20);
    // The sink collects these, and what fits into buffers.
    let mut rows = BufReader::new(end).lines();
    (0..3).for_each(|_| assert!(rows.next().unwrap().unwrap().len() > 5000));
    let ran = finish(child);
    let counts: Value = serde_json::from_str(&ran.stdout).unwrap();
    let delivered = counts["delivered"].as_u64().unwrap();
    assert!(ran.code == Some(1) && counts["sent"] == 20 && (3..20).contains(&delivered), "{ran:?}");
    let text = format!(
        "{} of 20 messages to sink file are not known to have been collected: it made no progress for 300ms",
        20 - delivered
    );
    assert!(ran.stderr.contains(&text), "{ran:?}");
    bench.assert_nothing_is_left();
}

#[test]
fn an_interrupt_ends_the_wait_for_a_sink_and_says_what_it_has_cost() {
    let bench = Bench::new();
    let (path, _end) = pipe(&bench);
    let mut child = feed(&bench, &path, &["--drain-stall", "1h"], 20);
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let waiting = |line: &str| line.contains("waiting until the sink has collected 20 more of 20 messages");
    assert!(stderr.any(|line| waiting(&line.unwrap())));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let said: Vec<String> = stderr.map(Result::unwrap).collect();
    assert!(
        said.iter().any(|line| line.contains("interrupted: the outcome of 20 of 20 messages to sink file is unknown")),
        "{said:?}"
    );
    let ran = finish(child);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(130), "{\"acked\":0,\"delivered\":0,\"failed\":0,\"sent\":20,\"unknown\":20}\n")
    );
    bench.assert_nothing_is_left();
}

#[test]
fn the_end_of_a_pipeline_waits_for_its_sink_and_says_what_was_not_collected() {
    let bench = Bench::new();
    let (path, end) = pipe(&bench);
    let file = bench.path().join("slow.toml");
    let mirror = example("mirror");
    // Rows of some 50 bytes: about 80 of them fit into the pipe.
    let pipeline = format!(
        "plugins = [{mirror:?}]\n[source]\nsymbol = 'random'\ncount = 200\nconfig = {{ interval = 1 }}\n\
         [sink]\nsymbol = 'file'\nconfig = {{ path = {path:?} }}\n"
    );
    std::fs::write(&file, pipeline).unwrap();
    let summary = |ran: &Ran| -> Value {
        serde_json::from_str(ran.stderr.lines().find(|line| line.starts_with('{')).unwrap()).unwrap()
    };
    let ran = bench.run(&["run", file.to_str().unwrap(), "--drain-stall", "300ms"]);
    let (counts, delivered) = (summary(&ran), summary(&ran)["delivered"].as_u64().unwrap());
    assert_eq!((ran.code, &counts["sent"]), (Some(1), &json!(200)), "{ran:?}");
    assert!(delivered < 200, "{counts}");
    let text = format!("{} of 200 messages to sink file are not known to have been collected", 200 - delivered);
    assert!(ran.stderr.contains(&text), "{ran:?}");

    let reader = std::thread::spawn(move || std::io::copy(&mut { end }, &mut std::io::sink()));
    let ran = bench.run(&["run", file.to_str().unwrap()]);
    assert_eq!((ran.code, &summary(&ran)["delivered"]), (Some(0), &json!(200)), "{ran:?}");
    bench.assert_nothing_is_left();
    // Both ends of the pipe end with the test.
    drop(reader);
}

#[test]
fn a_line_that_is_not_json_ends_the_sink_with_its_place() {
    let bench = Bench::new();
    let config = json!({ "path": bench.path().join("rows.jsonl") }).to_string();
    let mut command = bench.command(&["sink", &example("mirror"), "file", "--ack", "--config", &config]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"{\"a\":1}\n{\"a\":\n{\"a\":3}\n").unwrap();
    let ran = finish(child);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(ran.stdout, "{\"acked\":1,\"delivered\":1,\"failed\":0,\"sent\":1,\"unknown\":0}\n");
    assert!(ran.stderr.contains("line 2 of stdin is not JSON"), "{ran:?}");
    bench.assert_nothing_is_left();
}

#[test]
fn the_quickstart_runs() {
    let bench = Bench::new();
    let ran = bench.run(&["run", &example("quickstart.toml"), "--count", "5"]);
    let rows = ran.lines();
    assert_eq!(rows.len(), 5, "{ran:?}");
    for (row, count) in rows.iter().zip(1..) {
        let name = row["name"].as_str().unwrap();
        assert_eq!(row["count"], count);
        assert_eq!(row["echoed"], count);
        assert_eq!(row["reversed"], name.chars().rev().collect::<String>());
    }
    let summary: Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
    for (field, value) in [
        ("read", 5),
        ("calls", 10),
        ("sent", 5),
        ("unknown", 0),
        ("errors", 0),
        ("delivered", 5),
        ("acked", 5),
        ("failed", 0),
    ] {
        assert_eq!(summary[field], value, "{summary}");
    }
    let symbols: Vec<_> = summary["latency"].as_object().unwrap().iter().collect();
    assert_eq!(symbols.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["echo", "file", "revert"]);
    for (_, times) in symbols {
        let [p50, p99] = ["p50_us", "p99_us"].map(|part| times[part].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p99, "{summary}");
    }
    bench.assert_nothing_is_left();
}

#[test]
fn a_pipeline_ends_with_an_interrupt_and_says_how_far_it_came() {
    let bench = Bench::new();
    let file = bench.path().join("endless.toml");
    let mirror = example("mirror");
    std::fs::write(
        &file,
        format!("plugins = [{mirror:?}]\n[source]\nsymbol = 'random'\nconfig = {{ interval = 1 }}\n"),
    )
    .unwrap();
    let mut command = bench.command(&["run", file.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut output, &mut rest).unwrap();
    let ran = finish(child);
    assert_eq!(ran.code, Some(130), "{ran:?}");
    let summary: Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(summary["read"].as_u64().unwrap(), 1 + rest.lines().count() as u64, "{summary}");
    bench.assert_nothing_is_left();
}

#[test]
fn a_pipeline_goes_on_after_a_crash() {
    let bench = Bench::new();
    let file = bench.path().join("endless.toml");
    let mirror = example("mirror");
    let text = format!(
        "plugins = [{mirror:?}]\n[source]\nsymbol = 'random'\ncount = 500\nconfig = {{ interval = 1 }}\n\
         [[function]]\nsymbol = 'revert'\nargs = ['name']\noutput = 'x'\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut command = bench.command(&["run", file.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    kill_process(bench.plugin_process("mirror"), Signal::KILL).unwrap();
    std::io::copy(&mut output, &mut std::io::sink()).unwrap();
    let ran = finish(child);
    assert!(ran.stderr.contains("plugin mirror crashed (signal 9)"), "{ran:?}");
    assert!(ran.stderr.contains("plugin mirror was restored after"), "{ran:?}");
    // A call that was in flight may follow, as a failed row.
    let summary = ran.stderr.lines().find(|line| line.starts_with('{')).unwrap();
    let summary: Value = serde_json::from_str(summary).unwrap();
    assert_eq!((&summary["read"], &summary["crashes"]), (&json!(500), &json!(1)), "{summary}");
    bench.assert_nothing_is_left();
}

#[test]
fn rows_that_a_function_refuses_are_counted_and_the_rest_goes_on() {
    let bench = Bench::new();
    let file = bench.path().join("mixed.toml");
    let mirror = example("mirror");
    let text = format!(
        "plugins = [{mirror:?}]\n[source]\nsymbol = 'random'\ncount = 3\nconfig = {{ interval = 1 }}\n\
         [[function]]\nsymbol = 'revert'\nargs = ['count']\noutput = 'x'\n"
    );
    std::fs::write(&file, text).unwrap();
    let ran = bench.run(&["run", file.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(ran.stderr.matches("function revert: invalid argument 1").count(), 3, "{ran:?}");
    let mut last = ran.stderr.lines().rev();
    assert_eq!(last.next(), Some("ekuiper-plugin: 3 of 3 rows failed"), "{ran:?}");
    let summary: Value = serde_json::from_str(last.next().unwrap()).unwrap();
    assert_eq!((&summary["read"], &summary["failed"]), (&json!(3), &json!(3)));
    bench.assert_nothing_is_left();
}

/// A function that answers every call with 7.
const SEVEN: &str = "threading.Thread(target=channel, args=(folder + '/func_f.ipc', b'handshake', \
                     lambda call: b'{\"state\":true,\"result\":7}'), daemon=True).start(); return b'ok'";

#[test]
fn a_conda_plugin_runs_in_its_environment_and_leaves_no_child() {
    let bench = Bench::new();
    let folder = liar(&bench, "b'handshake'", SEVEN);
    let name = folder.file_name().unwrap().to_str().unwrap();
    let manifest = json!({ "language": "python", "executable": format!("{name}.py"), "virtualEnvType": "conda",
                           "env": "myenv", "functions": ["f"] });
    std::fs::write(folder.join(format!("{name}.json")), manifest.to_string()).unwrap();
    // Like conda, the wrapper stays, with the interpreter as its child.
    let programs = bench.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    write_program(
        &programs.join("conda"),
        b"#!/bin/sh\necho \"$*\" >\"$0.log\"\nshift 3\nshift\npython3 \"$@\"\nexit $?\n",
    );
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = bench.command(&["call", folder.to_str().unwrap(), "f"]);
    let ran = finish(command.env("PATH", path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    assert_eq!(ran.lines(), [json!(7)]);
    let log = std::fs::read_to_string(programs.join("conda.log")).unwrap();
    let script = folder.join(format!("{name}.py"));
    let expected = format!("run -n myenv python {} {{\"sendTimeout\":1000", script.canonicalize().unwrap().display());
    assert!(log.starts_with(&expected), "{log}");
    bench.assert_nothing_is_left();
}
