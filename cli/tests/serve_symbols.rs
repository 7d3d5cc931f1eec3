//! Functions, sources and sinks by requests to `serve`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use ekuiper_conformance::wait_until;
use serde_json::{Value, json};
use support::Bench;
use support::served::{Server, package};

const LINES: &str = "Content-Type: application/x-ndjson\r\n";

fn serve(bench: &Bench) -> Server {
    let server = Server::start(bench);
    let (status, said) = server.ask("POST", "/plugins/portables", &package(bench, "v1"), "");
    assert_eq!(status, 201, "{said}");
    server
}

/// The lines of a body that came in chunks.
fn lines(body: &str) -> Vec<Value> {
    body.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(|line: &Value| line.is_object()).collect()
}

/// The symbols of `mirror` that are open, but functions.
fn open(server: &Server) -> Vec<Value> {
    let symbols = server.json("/plugins")[0]["symbols"].as_array().unwrap().clone();
    symbols.into_iter().filter(|symbol| symbol["kind"] != "function").collect()
}

#[test]
fn a_function_is_called_once_or_for_each_line() {
    let bench = Bench::new();
    let server = serve(&bench);
    let call = |name: &str, body: &str| server.ask("POST", &format!("/functions/{name}"), body, "");
    assert_eq!(call("revert", r#"["hello"]"#), (200, "\"olleh\"\n".to_owned()));
    for (name, body, status, said) in [
        ("nope", "[]", 404, "there is no function nope: the plugins serve average, echo, revert"),
        ("revert", "7", 400, "the arguments are to be a JSON array"),
        ("revert", "[7]", 422, "function revert: invalid argument 1"),
        ("revert?time=1", "[]", 400, "is none of timeout"),
        ("revert?timeout=x", "[]", 400, "timeout is to be a whole number"),
        ("revert?timeout=0", "[]", 400, "timeout is to be at least 1"),
    ] {
        let (found, text) = call(name, body);
        assert_eq!(found, status, "{text}");
        assert!(text.contains(said), "{text}");
    }
    let rows: String = (0..5000).map(|n| format!("[\"{n}a\"]\n")).collect();
    let (status, answers) = server.ask("POST", "/functions/revert", &format!("{rows}[7]\nx\n7\n\n[\"end\"]"), LINES);
    assert_eq!(status, 200);
    let answers = lines(&answers);
    assert_eq!(answers.len(), 5004);
    for (n, answer) in answers[..5000].iter().enumerate() {
        let expected: String = format!("{n}a").chars().rev().collect();
        assert_eq!(*answer, json!({ "result": expected }));
    }
    for (answer, said) in answers[5000..].iter().zip(["invalid argument 1", "is not JSON", "no JSON array"]) {
        assert!(answer["error"].as_str().unwrap().contains(said), "{answer}");
    }
    assert_eq!(answers[5003], json!({ "result": "dne" }));
    server.end();
}

/// As curl sends a body, unless it is told otherwise.
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

#[test]
fn lines_without_their_ends_are_refused_with_what_to_do() {
    let bench = Bench::new();
    let server = serve(&bench);
    let hint = "use --data-binary and -H 'content-type: application/x-ndjson'";
    for body in ["[\"a\"][\"b\"]", "[\"a\"]\n[\"b\"]", "a"] {
        let (status, text) = server.ask("POST", "/functions/revert", body, FORM);
        assert!(status == 400 && text.contains(hint), "{text}");
        let (status, text) = server.ask("POST", "/functions/revert", body, "");
        assert!(status == 400 && !text.contains(hint), "{text}");
    }
    assert_eq!(server.ask("POST", "/functions/revert", "[\"ab\"]", FORM), (200, "\"ba\"\n".into()));
    let file = bench.path().join("rows");
    let path = format!("/sinks/file?config=%7B%22path%22:%22{}%22%7D", file.display());
    let (status, text) = server.ask("POST", &path, "{\"n\":1}{\"n\":2}", FORM);
    assert!(status == 200 && text.contains(hint) && text.contains("\"state\":\"failed\""), "{text}");
    let (_, text) = server.ask("POST", &path, "{\"n\":1}{\"n\":2}", LINES);
    assert!(text.contains("\"state\":\"failed\"") && !text.contains(hint), "{text}");
    server.end();
}

#[test]
fn a_symbol_of_another_kind_is_told_where_it_is_served() {
    let bench = Bench::new();
    let server = serve(&bench);
    let config = "%7B%22interval%22:%22x%22%7D";
    for (method, path, said) in [
        ("GET", "/sources/lines", "there is no source lines: lines is a sink of plugin mirror: POST /sinks/lines"),
        ("GET", "/sources/echo", "there is no source echo: echo is a function of plugin mirror: POST /functions/echo"),
        ("POST", "/sinks/random", "there is no sink random: random is a source of plugin mirror: GET /sources/random"),
        ("POST", "/functions/file", "there is no function file: file is a sink of plugin mirror: POST /sinks/file"),
        ("GET", &format!("/sources/lines?config={config}"), "lines is a sink of plugin mirror"),
        ("GET", "/sources/nope", "there is no source nope: the plugins serve random"),
        ("POST", "/sinks/nope", "there is no sink nope: the plugins serve file, lines"),
    ] {
        let (status, text) = server.ask(method, path, "[]", "");
        assert_eq!(status, 404, "{text}");
        assert!(text.contains(said), "{text}");
    }
    server.end();
}

/// curl waits for the word before it sends a large body, for a second.
#[test]
fn who_waits_for_the_word_to_send_lines_gets_it() {
    let bench = Bench::new();
    let server = serve(&bench);
    let sink = format!("/sinks/file?config=%7B%22path%22:%22{}%22%7D", bench.path().join("rows").display());
    for (path, line) in [("/functions/echo", "[1]"), ("/functions/echo?ordered=false", "[1]"), (&sink, "{\"n\":1}")] {
        let mut stream = server.connect();
        let length = line.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{LINES}Content-Length: {length}\r\n");
        stream.write_all(format!("{head}Expect: 100-continue\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
        assert_eq!(answer.next().unwrap(), "HTTP/1.1 100 Continue", "{path}");
        stream.write_all(line.as_bytes()).unwrap();
        let lines: Vec<_> = answer.collect();
        assert!(lines.iter().any(|line| line == "HTTP/1.1 200 OK"), "{path}: {lines:?}");
        assert_eq!(lines.iter().filter(|line| line.starts_with('{')).count(), 1, "{path}: {lines:?}");
    }
    server.end();
}

/// `HEAD` asks for what `GET` would answer, and for nothing that takes part in it.
#[test]
fn a_source_is_not_opened_to_ask_for_its_head() {
    let bench = Bench::new();
    let server = serve(&bench);
    let before = server.json("/plugins")[0]["totals"].clone();
    for (path, status) in [("/sources/random", 200), ("/sources/nope", 404), ("/sources/random?count=x", 400)] {
        let (found, body) = server.ask("HEAD", path, "", "");
        assert_eq!((found, body.as_str()), (status, ""), "{path}");
    }
    assert_eq!(server.json("/plugins")[0]["totals"], before);
    server.end();
}

#[test]
fn a_source_is_read_until_the_reader_goes() {
    let bench = Bench::new();
    let server = serve(&bench);
    let path = "/sources/random?count=3&config=%7B%22interval%22:1%7D";
    let (status, body) = server.ask("GET", path, "", "");
    assert_eq!(status, 200, "{body}");
    let counts: Vec<_> = lines(&body).iter().map(|line| line["message"]["count"].clone()).collect();
    assert_eq!(counts, [1, 2, 3]);
    let (status, body) = server.ask("GET", path, "", "Accept: text/event-stream\r\n");
    assert_eq!((status, body.matches("data: {\"message\":{\"count\":").count()), (200, 3), "{body}");
    for (path, status, said) in [
        ("/sources/nope", 404, "nope"),
        ("/sources/random?config=7", 400, "config is to be a JSON object"),
        ("/sources/random?key=nope", 400, "nope"),
        ("/sources/random?config=%7B%22interval%22:%22x%22%7D", 422, "invalid config field interval"),
        ("/sources/random?rows=1", 400, "is none of datasource, config, key, count"),
    ] {
        let (found, text) = server.ask("GET", path, "", "");
        assert_eq!(found, status, "{text}");
        assert!(text.contains(said), "{text}");
    }
    let mut rows = server.follow("/sources/random", "");
    rows.find(|row| row.contains("\"count\":2")).unwrap();
    assert_eq!(open(&server).len(), 1);
    drop(rows);
    wait_until("the source is closed", || open(&server).is_empty());
    // One that is open when the server ends does not hold it up.
    let mut rows = server.follow("/sources/random", "");
    rows.find(|row| row.contains("\"count\":2")).unwrap();
    let said = server.end();
    assert!(!said.contains("requests were still under way"), "{said}");
}

#[test]
fn a_sink_is_fed_and_tells_of_each_row() {
    let bench = Bench::new();
    let server = serve(&bench);
    let file = bench.path().join("rows");
    let path = format!("/sinks/file?config=%7B%22path%22:%22{}%22%7D", file.display());
    let (status, body) = server.ask("POST", &path, "{\"n\":1}\n[{\"n\":2},{\"n\":3}]\n7\nx\n{\"n\":4}\n", "");
    assert_eq!(status, 200, "{body}");
    let states: Vec<_> = lines(&body).iter().map(|row| row["state"].clone()).collect();
    assert_eq!(states, ["acked", "acked", "failed", "failed", "acked"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n{\"n\":4}\n");
    let (status, text) = server.ask("POST", "/sinks/file", "{}\n", "");
    assert_eq!(status, 422, "{text}");
    assert!(text.contains("missing field `path`"), "{text}");
    // A client that goes in the middle of its rows.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000\r\n\r\n", server.address);
    stream.write_all(format!("{head}{{\"n\":5}}\n{{\"n\":6}}").as_bytes()).unwrap();
    let mut answer = BufReader::new(stream);
    while !{
        let mut line = String::new();
        assert_ne!(answer.read_line(&mut line).unwrap(), 0, "the answer ends");
        line.contains("acked")
    } {}
    assert_eq!(open(&server).len(), 1);
    drop(answer);
    wait_until("the sink is closed", || open(&server).is_empty());
    // What may be half a line is no row.
    assert!(std::fs::read_to_string(&file).unwrap().ends_with("{\"n\":4}\n{\"n\":5}\n"));
    // One that is open when the server ends does not hold it up.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(format!("{head}{{\"n\":6}}\n").as_bytes()).unwrap();
    wait_until("the sink is open", || open(&server).len() == 1);
    let said = server.end();
    assert!(!said.contains("requests were still under way"), "{said}");
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Sends lines as long as they are taken, in a thread; returns the lines of the
/// answer, once more than `enough` have come and the server was ended.
fn send_until_the_end(server: Server, path: &str, line: &'static str, enough: usize) -> Vec<Value> {
    let stream = TcpStream::connect(&server.address).unwrap();
    let mut sender = stream.try_clone().unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\n{LINES}Content-Length: 1000000000\r\n\r\n", server.address);
    let sending = std::thread::spawn(move || {
        let lines = line.repeat(100);
        let _ = sender.write_all(head.as_bytes());
        while sender.write_all(lines.as_bytes()).is_ok() {}
    });
    let mut server = Some(server);
    let mut ending = None;
    let mut text = String::new();
    let mut answer = BufReader::new(stream);
    while answer.read_line(&mut text).is_ok_and(|count| count > 0) {
        if text.len() > enough * line.len()
            && let Some(server) = server.take()
        {
            ending = Some(std::thread::spawn(move || server.end()));
        }
    }
    let said = ending.unwrap().join().unwrap();
    assert!(!said.contains("requests were still under way"), "{said}");
    sending.join().unwrap();
    // The answer has come to its end.
    assert!(text.ends_with("\r\n0\r\n\r\n"), "{}", &text[text.len().saturating_sub(200)..]);
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    lines(&without_chunks(body))
}

/// The content of a body in chunks.
fn without_chunks(body: &str) -> String {
    let (mut rest, mut content) = (body, String::new());
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        content.push_str(&after[..length]);
        rest = &after[length + 2..];
    }
    content
}

#[test]
fn rows_that_were_taken_are_answered_when_the_server_ends() {
    let bench = Bench::new();
    let file = bench.path().join("rows");
    let path = format!("/sinks/file?config=%7B%22path%22:%22{}%22%7D", file.display());
    let mut answers = send_until_the_end(serve(&bench), &path, "{\"n\":1}\n", 500);
    // Who reads it knows which lines were not taken.
    let end = |taken: &[Value]| json!({ "error": format!("the server is ending; nothing after line {} was taken", taken.len()) });
    let last = answers.pop();
    assert_eq!(last, Some(end(&answers)));
    assert!(answers.iter().all(|answer| answer["state"] == "acked"), "{:?}", answers.last());
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), answers.len(), "each row has its state");
    let other = Bench::new();
    let mut answers = send_until_the_end(serve(&other), "/functions/revert", "[\"ab\"]\n", 500);
    let last = answers.pop();
    assert_eq!(last, Some(end(&answers)));
    assert!(answers.iter().all(|answer| answer["result"] == "ba"), "{:?}", answers.last());
}
