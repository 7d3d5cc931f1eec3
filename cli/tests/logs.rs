//! What plugins write, by `GET /logs` and the command `logs`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::Bench;
use support::served::{Server, package_that};

/// Lines of another logger each.
const WRITES: &str = "echo ERROR:root:broken; echo plain; echo '2026-01-02 12:00:00 WARNING slow' >&2";

/// Starts a server that runs `mirror`, which has written the lines.
fn serve(bench: &Bench) -> Server {
    let package = package_that(bench, "v1", WRITES);
    let server = Server::start(bench);
    let created = server.ask("POST", "/plugins/portables", &package, "");
    assert_eq!(created, (201, "portable plugin mirror is created".into()));
    ekuiper_conformance::wait_until("the lines are there", || lines(&server, "").len() == 3);
    server
}

fn lines(server: &Server, query: &str) -> Vec<Value> {
    let (status, body) = server.ask("GET", &format!("/logs{query}"), "", "");
    assert_eq!(status, 200, "{body}");
    body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn texts(server: &Server, query: &str) -> Vec<(String, String)> {
    let text = |line: &Value, field: &str| line[field].as_str().unwrap().to_owned();
    lines(server, query).iter().map(|line| (text(line, "level"), text(line, "line"))).collect()
}

#[test]
fn the_last_lines_are_there_with_their_levels() {
    let bench = Bench::new();
    let server = serve(&bench);
    let all = [("error", "ERROR:root:broken"), ("info", "plain"), ("warn", "2026-01-02 12:00:00 WARNING slow")]
        .map(|(level, text)| (level.to_owned(), text.to_owned()));
    assert_eq!(texts(&server, ""), all);
    assert_eq!(texts(&server, "?plugin=mirror&follow=0"), all);
    assert_eq!(texts(&server, "?level=warn"), [all[0].clone(), all[2].clone()]);
    assert_eq!(texts(&server, "?lines=1&level=info"), [all[2].clone()]);
    assert_eq!(texts(&server, "?lines=0"), []);
    let line = &lines(&server, "?lines=1")[0];
    assert_eq!(line["plugin"], "mirror");
    assert!(line["pid"].is_u64() && line["unix_seconds"].as_f64().unwrap() > 1.7e9, "{line}");
    for (query, status, said) in [
        ("?level=loud", 400, "level is to be error, warn, info, debug or trace, not"),
        ("?lines=-1", 400, "lines is to be a whole number"),
        ("?follow=maybe", 400, "follow is to be 1 or 0"),
        ("?x=1", 400, "is none of plugin, level, lines and follow"),
        ("?plugin=other", 404, "there is no plugin other, and no line of it"),
    ] {
        let (found, answer) = server.ask("GET", &format!("/logs{query}"), "", "");
        assert_eq!(found, status, "{query}: {answer}");
        assert!(answer.contains(said), "{query}: {answer}");
    }
    // A removed plugin's lines stay: they may say why it failed.
    assert_eq!(server.ask("DELETE", "/plugins/portables/mirror", "", "").0, 200);
    assert_eq!(texts(&server, "?plugin=mirror").len(), 3);
    server.end();
}

/// What is shown on the server's terminal is another question.
#[test]
fn a_plugin_s_information_is_kept_by_default() {
    let bench = Bench::new();
    let server = serve(&bench);
    let sink = format!("/sinks/lines?config=%7B%22path%22:%22{}%22%7D", bench.path().join("rows").display());
    assert_eq!(server.ask("POST", &sink, "{\"a\":1}\n", "").0, 200);
    let is_written = || texts(&server, "").iter().any(|(level, line)| level == "info" && line.contains("writing"));
    ekuiper_conformance::wait_until("the sink's line is there", is_written);
    let said = server.end();
    assert!(!said.contains("writing"), "{said}");
    bench.assert_nothing_is_left();
}

#[test]
fn later_lines_follow_until_the_server_ends() {
    let bench = Bench::new();
    let server = serve(&bench);
    let mut objects = server.follow("/logs?follow=1&lines=1&plugin=mirror", "").filter(|line| line.starts_with('{'));
    let mut events = server.follow("/logs?level=error", "Accept: text/event-stream\r\n");
    let last: Value = serde_json::from_str(&objects.next().unwrap()).unwrap();
    assert_eq!(last["level"], "warn");
    let id = events.find_map(|line| Some(line.strip_prefix("id: ")?.to_owned())).unwrap();
    let event = events.find_map(|line| Some(line.strip_prefix("data: ")?.to_owned())).unwrap();
    assert!(event.contains("ERROR:root:broken"), "{event}");
    // A browser that connects again has missed nothing, and has nothing twice.
    let again = format!("Accept: text/event-stream\r\nLast-Event-ID: {id}\r\n");
    let mut again = server.follow("/logs?level=error", &again);
    again.find(|line| line.starts_with(": ")).unwrap();

    let second = package_that(&bench, "v2", "echo ERROR:root:later");
    assert_eq!(server.ask("PUT", "/plugins/portables/mirror", &second, "").0, 200);
    let later = objects.next().unwrap();
    assert!(later.contains("ERROR:root:later"), "{later}");
    for events in [&mut events, &mut again] {
        let event = events.find(|line| line.starts_with("data: ")).unwrap();
        assert!(event.contains("ERROR:root:later"), "{event}");
    }
    let said = server.end();
    assert!(!said.contains("requests were still under way"), "{said}");
    assert!(events.all(|line| !line.starts_with("data: {") || line.contains("later")), "it has ended");
    bench.assert_nothing_is_left();
}

#[test]
fn the_command_prints_them_for_people_and_programs() {
    let bench = Bench::new();
    let server = serve(&bench);
    let logs = |arguments: &[&str]| {
        let ran = bench.run(&[&["logs", "--engine", &server.address], arguments].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.stdout
    };
    let shown = logs(&["mirror", "--level", "error"]);
    assert!(shown.ends_with("Z ERROR mirror: ERROR:root:broken\n") && shown.lines().count() == 1, "{shown}");
    assert_eq!(
        logs(&["--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>(),
        lines(&server, "")
    );
    assert_eq!(logs(&["-n", "2"]).lines().count(), 2);

    let arguments = ["logs", "mirror", "--follow", "--engine", &server.address];
    let mut command = bench.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut followed = BufReader::new(command.stdout.take().unwrap()).lines();
    for said in ["broken", "plain", "slow"] {
        assert!(followed.next().unwrap().unwrap().contains(said));
    }
    kill_process(Pid::from_child(&command), Signal::INT).unwrap();
    assert_eq!(command.wait().unwrap().code(), Some(130));
    // The server's end is the log's.
    let mut command = bench.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut followed = BufReader::new(command.stdout.take().unwrap());
    followed.read_line(&mut String::new()).unwrap();
    let address = server.address.clone();
    server.end();
    followed.read_to_string(&mut String::new()).unwrap();
    assert_eq!(command.wait().unwrap().code(), Some(0));

    let said = bench.fails(1, &["logs", "--engine", &address]);
    let start = format!("cannot read the log at http://{address} (is `ekuiper-plugin serve` running there");
    assert!(said.starts_with(&start) && !said.contains("engine"), "{said}");
}

/// Runs a command that must fail, beside the server; returns its sentence.
fn fails_beside(bench: &Bench, arguments: &[&str]) -> String {
    let ran = bench.run(arguments);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    ran.stderr
}

#[test]
fn what_has_no_log_says_so() {
    let bench = Bench::new();
    let server = serve(&bench);
    let said = fails_beside(&bench, &["logs", "other", "--engine", &server.address]);
    let refusal = format!("`ekuiper-plugin serve` at http://{} refuses to read the log: there is no", server.address);
    assert!(said.contains(&format!("{refusal} plugin other, and no line of it")), "{said}");
    let said = fails_beside(&bench, &["logs", "--engine", &format!("{}/elsewhere", server.address)]);
    assert!(said.contains("has no log to read: `ekuiper-plugin serve` has, at port 9082"), "{said}");
    server.end();
}
