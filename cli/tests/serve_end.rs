//! `serve`: requests that are under way when it ends.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;
#[path = "support/unsteady.rs"]
mod unsteady;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use ekuiper_conformance::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::Bench;
use support::served::{Server, package, package_of};

#[test]
fn plugin() {
    if let Ok(argument) = std::env::var(unsteady::ARGUMENT) {
        let _ = unsteady::run(argument);
    }
}

const LINES: &str = "Content-Type: application/x-ndjson\r\n";

/// Sends a request whose body has so many bytes, and this as its beginning.
fn begin(server: &Server, request: &str, headers: &str, length: usize, body: &str) -> TcpStream {
    let mut stream = server.connect();
    let head = format!("{request} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: {length}\r\n\r\n", server.address);
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    stream
}

/// Reads an answer to its proper end; returns its status, and its body without
/// the lines of its chunks.
fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {text:?}")).parse().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    if !head.contains("chunked") {
        return (status, body.to_owned());
    }
    assert!(body.ends_with("0\r\n\r\n"), "{text}");
    (status, unsteady::text(body).into_iter().map(|line| line.to_owned() + "\n").collect())
}

/// The sentence of a refusal.
fn sentence(body: &str) -> String {
    let refusal: Value = serde_json::from_str(body).unwrap();
    refusal["message"].as_str().unwrap().to_owned()
}

/// Number of symbols that are in use.
fn in_use(server: &Server, name: &str) -> usize {
    let plugins = server.json("/plugins");
    plugins[0]["symbols"].as_array().unwrap().iter().filter(|symbol| symbol["name"] == name).count()
}

#[test]
fn each_request_is_answered_when_the_server_ends() {
    let bench = Bench::new();
    let server = unsteady::serve(&bench, &[]);
    let part = "--b\r\nContent-Disposition: form-data; name=\"uploadFile\"; filename=\"a.zip\"\r\n\r\nx";
    let form = "Content-Type: multipart/form-data; boundary=b\r\n";
    let nothing = "the server is ending, and nothing was done: not all of the body has come";
    let refused = [
        (begin(&server, "POST /functions/echo", "", 100, "[1"), nothing),
        (begin(&server, "POST /plugins/portables", "", 100, "{"), nothing),
        (begin(&server, "PUT /metadata/sources/telling/confKeys/k", "", 100, "{"), nothing),
        (
            begin(&server, "POST /config/uploads", form, 1000, part),
            "the server is ending, and nothing was uploaded: not all of the form has come",
        ),
        // It goes on for as long as it is not cancelled.
        (
            begin(&server, "POST /functions/late", "", 2, "[]"),
            "the server is ending, and the outcome of the call is unknown",
        ),
    ];
    wait_until("the call is under way", || {
        let totals = server.json("/plugins")[0]["totals"].clone();
        totals.as_array().unwrap().iter().any(|symbol| symbol["name"] == "late" && symbol["rows_out"] == 1)
    });
    let lines = begin(&server, "POST /functions/late", LINES, 100, "[]\n[]\n[");
    let calls = begin(&server, "POST /functions/late?ordered=false", LINES, 100, "[]\n[");
    let mut source = server.follow("/sources/flooding", "");
    let mut events = server.follow("/sources/flooding", "Accept: text/event-stream\r\n");
    let rows = begin(&server, "POST /sinks/stuck", "", 100, "{}\n{}\n{");
    for lines in [&mut source, &mut events] {
        lines.find(|line| line.contains("number")).unwrap();
    }
    wait_until("the sink is open", || in_use(&server, "stuck") == 1);
    // Read to their ends: who reads nothing is not told anything.
    let read = |lines: Box<dyn Iterator<Item = String> + Send>| std::thread::spawn(move || lines.collect::<Vec<_>>());
    let (source, events) = (read(Box::new(source)), read(Box::new(events)));
    let said = server.end();
    assert!(said.contains("requests were still under way after 2s: they are refused"), "{said}");

    for (stream, expected) in refused {
        let (status, body) = answer(stream);
        assert_eq!((status, sentence(&body).as_str()), (503, expected));
    }
    let ending = "the server is ending";
    let (status, body) = answer(lines);
    let objects: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let unknown = json!({ "error": format!("{ending}, and the outcome of the call is unknown") });
    let not_taken = json!({ "error": format!("{ending}; nothing after line 2 was taken") });
    assert_eq!((status, objects.len(), &objects[2]), (200, 3, &not_taken), "{body}");
    let fates = [unknown, json!({ "error": format!("{ending}, and the call was not sent") })];
    assert!(objects[..2].iter().all(|line| fates.contains(line)), "{body}");
    let (status, body) = answer(calls);
    assert!(status == 200 && body.lines().count() == 2 && body.contains(ending), "{body}");
    let source = source.join().unwrap();
    let (last, rest) = source[..source.len() - 2].split_last().unwrap();
    assert!(last.is_empty() && rest.last().unwrap() == &json!({ "error": ending }).to_string(), "{:?}", rest.last());
    let events = events.join().unwrap();
    let data = format!("data: {}", json!({ "error": ending }));
    assert!(events.contains(&data) && !events.iter().any(|line| line == "event: end"), "{:?}", events.last());
    // What was sent may have been collected.
    let (status, body) = answer(rows);
    let objects: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(status, 200, "{body}");
    for (row, object) in (1..).zip(&objects[..2]) {
        assert_eq!((&object["row"], &object["state"]), (&json!(row), &json!("unknown")), "{body}");
    }
    assert!(objects[2..].contains(&not_taken), "{body}");
    assert!(objects[2..].iter().all(|object| object["row"] == Value::Null), "{body}");
    bench.assert_nothing_is_left();
}

/// The trial of a version that does not complete its handshake.
#[test]
fn a_start_under_way_is_given_up_when_the_server_ends() {
    let bench = Bench::new();
    let begun = bench.path().join("begun");
    let v1 = package(&bench, "v1");
    let hanging = package_of(&bench, "v2", &format!("touch '{}'; exec sleep 1000", begun.display()), &["echo"]);
    for (method, path) in [("POST", "/plugins/portables"), ("PUT", "/plugins/portables/mirror")] {
        let server = Server::start(&bench);
        if method == "PUT" {
            assert_eq!(server.ask("POST", "/plugins/portables", &v1, "").0, 201);
        }
        let request = begin(&server, &format!("{method} {path}"), "", hanging.len(), &hanging);
        wait_until("it has begun", || begun.exists());
        fs::remove_file(&begun).unwrap();
        let said = server.end();
        // It did not take the time that requests have.
        assert!(!said.contains("requests were still under way"), "{method}: {said}");
        let (status, body) = answer(request);
        assert_eq!(status, 503, "{method}: {body}");
        assert!(sentence(&body).contains("the manager is ending: nothing was changed"), "{method}: {body}");
        let audit = fs::read_to_string(bench.path().join("plugins/audit.jsonl")).unwrap();
        let last: Value = serde_json::from_str(audit.lines().last().unwrap()).unwrap();
        assert_eq!(last["error"], "the manager is ending: nothing was changed", "{method}: {audit}");
        let kept = fs::read_dir(bench.path().join("plugins/versions")).unwrap().count();
        assert_eq!(kept, usize::from(method == "PUT"), "{method}");
    }
    // The version before is the installed one.
    let server = Server::start(&bench);
    assert_eq!(server.json("/plugins/portables/mirror")["version"], "v1");
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn a_second_signal_ends_it_at_once_and_leaves_no_socket() {
    let bench = Bench::new();
    let server = unsteady::serve(&bench, &[]);
    let call = begin(&server, "POST /functions/late", "", 2, "[]");
    wait_until("the call is under way", || in_use(&server, "late") == 1);
    let process = Pid::from_raw(server.id().try_into().unwrap()).unwrap();
    // Until there is somebody to hear it: the two may be one.
    wait_until("it has ended", || {
        kill_process(process, Signal::INT).is_err()
            || !Path::new("/proc").join(server.id().to_string()).join("exe").exists()
    });
    let (code, said) = server.finish();
    assert_eq!(code, Some(130), "{said}");
    assert!(!said.contains("requests were still under way"), "{said}");
    drop(call);
    bench.assert_nothing_is_left();
}

/// A sink is drained no longer than the server has time, also if its client has
/// gone.
#[test]
fn a_sink_that_collects_nothing_does_not_hold_up_the_end() {
    let bench = Bench::new();
    for goes in [false, true] {
        let server = unsteady::serve(&bench, &["--drain-stall", "1h", "--drain-timeout", "1h"]);
        let rows = begin(&server, "POST /sinks/stuck", "", 3, "{}\n");
        // A client that goes before that takes its row with it.
        wait_until("the row is sent", || server.json("/plugins")[0]["totals"][0]["rows_out"] == 1);
        let rows = (!goes).then_some(rows);
        // The server knows that it has gone once later requests are answered.
        (0..3).for_each(|_| assert_eq!(in_use(&server, "stuck"), 1));
        server.end();
        if let Some(rows) = rows {
            let (_, body) = answer(rows);
            assert!(body.contains("the server is ending"), "{body}");
        }
        fs::remove_dir_all(bench.path().join("plugins")).unwrap();
    }
    bench.assert_nothing_is_left();
}
