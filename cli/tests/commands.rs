//! What the commands do with a good plugin: `examples/mirror`, built as a user
//! would have it built.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Bench, Ran, example, finish, liar, write_program};

impl Ran {
    /// Its output as JSON lines, of a command that succeeded.
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
    assert!(ran.code == Some(1) && ran.stderr.contains("there is no subject speed: there are calls"), "{ran:?}");
    bench.assert_nothing_is_left();
}

#[test]
fn source_prints_tuples() {
    let bench = Bench::new();
    let mirror = example("mirror");
    let config = r#"{"interval":1}"#;
    let lines = bench.run(&["source", &mirror, "random", "--count", "5", "--config", config]).lines();
    assert_eq!(lines.iter().map(|row| row["count"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    // One that ends by itself; with meta.
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
            // Read on, or the pipe ends it first.
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
        assert_eq!(finish(child).lines(), [json!({ "sent": 2, "delivered": 2, "acked": acked, "failed": 0 })]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":2}\n");
        std::fs::remove_file(&path).unwrap();
    }
    bench.assert_nothing_is_left();
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
    assert_eq!(ran.stdout, "{\"acked\":1,\"delivered\":1,\"failed\":0,\"sent\":1}\n");
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
    for (field, value) in [("read", 5), ("calls", 10), ("written", 5), ("acked", 5), ("failed", 0)] {
        assert_eq!(summary[field], value, "{summary}");
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
    assert!(ran.stderr.contains("plugin mirror serves again after"), "{ran:?}");
    let summary: Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
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
    assert_eq!(ran.stderr.matches("function revert: argument 1").count(), 3, "{ran:?}");
    let summary: Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
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
    // As conda does, it stays, with the interpreter as its child.
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
