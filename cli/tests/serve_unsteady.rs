//! Requests to `serve` for symbols that err, are late, crash, or send more than
//! is read.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;
#[path = "support/unsteady.rs"]
mod unsteady;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use ekuiper_conformance::wait_until;
use serde_json::{Value, json};
use support::Bench;
use support::served::Server;
use unsteady::text;

#[test]
fn plugin() {
    if let Ok(argument) = std::env::var(unsteady::ARGUMENT) {
        let _ = unsteady::run(argument);
    }
}

const EVENTS: &str = "Accept: text/event-stream\r\n";
const LINES: &str = "Content-Type: application/x-ndjson\r\n";

/// The lines of a body that came in chunks.
fn lines(body: &str) -> Vec<Value> {
    body.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(|line: &Value| line.is_object()).collect()
}

/// Number of tuples that were read of the source `flooding` in use.
fn tuples(server: &Server) -> u64 {
    let symbols = server.json("/plugins")[0]["symbols"].clone();
    let source = symbols.as_array().unwrap().iter().find(|symbol| symbol["name"] == "flooding");
    source.map_or(0, |source| source["rows_in"].as_u64().unwrap())
}

#[test]
fn a_tuple_is_told_from_an_error_whatever_it_contains() {
    let bench = Bench::new();
    let server = unsteady::serve(&bench, &[]);
    let (status, body) = server.ask("GET", "/sources/telling?datasource=a%2Fb", "", "");
    assert_eq!(status, 200, "{body}");
    let error = json!({ "error": "source telling: the broker is away" });
    let tuples = [
        json!({ "message": { "error": "a field of a row" }, "meta": null }),
        json!({ "message": { "datasource": "a/b", "config": { "datasource": "a/b" } }, "meta": { "topic": "a" } }),
    ];
    assert_eq!(lines(&body), [&tuples[0], &error, &tuples[1]].map(Clone::clone));
    // The same objects as events, and one more that says that the source has ended.
    let (status, body) = server.ask("GET", "/sources/telling?datasource=a%2Fb", "", EVENTS);
    assert_eq!(status, 200, "{body}");
    let data = |line: &Value| format!("data: {line}");
    let [first, error, second] = [&tuples[0], &error, &tuples[1]].map(data);
    assert_eq!(text(&body), ["id: 0", &first, &error, &second, "event: end", "data: {}"]);
    server.end();
    bench.assert_nothing_is_left();
}

/// A browser that has lost its stream asks for it again by itself.
#[test]
fn a_browser_does_not_begin_a_source_again() {
    let bench = Bench::new();
    let server = unsteady::serve(&bench, &[]);
    let again = format!("{EVENTS}Last-Event-ID: 0\r\n");
    let (status, body) = server.ask("GET", "/sources/telling", "", &again);
    assert_eq!((status, body.as_str()), (204, ""));
    assert_eq!(server.json("/plugins")[0]["symbols"], json!([]));
    // A source that goes on has no end that is said when the server ends.
    let mut events = server.follow("/sources/flooding", EVENTS);
    assert_eq!(events.find(|line| line == "id: 0").as_deref(), Some("id: 0"));
    events.find(|line| line.starts_with("data: ")).unwrap();
    let rest = std::thread::spawn(move || events.filter(|line| line == "event: end").count());
    server.end();
    assert_eq!(rest.join().unwrap(), 0);
    bench.assert_nothing_is_left();
}

#[test]
fn a_source_is_opened_with_its_topic_and_the_settings_of_a_key() {
    let bench = Bench::new();
    let server = unsteady::serve(&bench, &[]);
    let set = |key: &str, fields: &str| {
        let (status, said) = server.ask("PUT", &format!("/metadata/sources/telling/confKeys/{key}"), fields, "");
        assert_eq!(status, 200, "{said}");
    };
    set("default", r#"{"broker":"a","qos":0}"#);
    set("fast", r#"{"qos":2}"#);
    let given = |query: &str| {
        let (status, body) = server.ask("GET", &format!("/sources/telling?{query}"), "", "");
        assert_eq!(status, 200, "{body}");
        lines(&body)[2]["message"].clone()
    };
    // The host adds the topic to the settings, as the engine does.
    let expected = |datasource: &str, mut config: Value| {
        if !datasource.is_empty() {
            config["datasource"] = json!(datasource);
        }
        json!({ "datasource": datasource, "config": config })
    };
    assert_eq!(given(""), expected("", json!({ "broker": "a", "qos": 0 })));
    assert_eq!(given("key=fast&datasource=t"), expected("t", json!({ "broker": "a", "qos": 2 })));
    let own = "key=fast&config=%7B%22qos%22:1,%22more%22:%5B%5D%7D&datasource=%E2%82%AC+1";
    assert_eq!(given(own), expected("€ 1", json!({ "broker": "a", "qos": 1, "more": [] })));
    for query in ["key=none", "key=..%2Ffast", "key="] {
        let (status, said) = server.ask("GET", &format!("/sources/telling?{query}"), "", "");
        assert!(status == 400 && !said.contains('\u{1b}'), "{query}: {status} {said}");
    }
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn a_late_call_is_given_up() {
    let bench = Bench::new();
    let server = unsteady::serve(&bench, &[]);
    let (status, said) = server.ask("POST", "/functions/late?timeout=1", "[]", "");
    assert_eq!(status, 504, "{said}");
    assert!(said.contains("function late") && said.contains("1ms"), "{said}");
    let (status, body) = server.ask("POST", "/functions/late?timeout=1", "[]\n[]\n", LINES);
    assert_eq!(status, 200, "{body}");
    let answers = lines(&body);
    assert!(answers.len() == 2 && answers.iter().all(|answer| answer["error"].is_string()), "{body}");
    // The call was given up by the plugin, too, which goes on.
    assert_eq!(server.ask("POST", "/functions/echo", "[1]", ""), (200, "1\n".into()));
    assert_eq!(server.json("/plugins")[0]["crashes"], 0);
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn a_crash_is_told_to_those_whom_it_concerns() {
    let bench = Bench::new();
    let server = unsteady::serve(&bench, &[]);
    let (status, said) = server.ask("POST", "/functions/crash", "[]", "");
    assert_eq!(status, 502, "{said}");
    assert!(said.contains("plugin unsteady") && said.contains("exit code 3"), "{said}");
    // The next call is one to the next process.
    assert_eq!(server.ask("POST", "/functions/echo", "[1]", ""), (200, "1\n".into()));

    // A row that was taken by the process that crashed, and one that follows.
    let (status, body) = server.ask("POST", "/sinks/crashing", "{\"n\":1}\n{\"n\":2}\n", "");
    assert_eq!(status, 200, "{body}");
    let answers = lines(&body);
    assert_eq!(answers[0], json!({ "row": 1, "state": "acked" }), "{body}");
    assert_eq!((&answers[1]["row"], &answers[1]["state"]), (&json!(2), &json!("unknown")), "{body}");
    assert!(answers[1]["error"].as_str().unwrap().contains("exit code 3"), "{body}");

    // A plugin that cannot be started again.
    server.wait_for("/readyz", 200);
    let described = server.json("/plugins/portables/unsteady");
    std::fs::remove_file(described["executable"].as_str().unwrap()).unwrap();
    assert_eq!(server.ask("POST", "/functions/crash", "[]", "").0, 502);
    for (method, path, body) in
        [("POST", "/functions/echo", "[1]"), ("GET", "/sources/telling", ""), ("POST", "/sinks/crashing", "{}\n")]
    {
        let (status, said) = server.ask(method, path, body, "");
        assert_eq!(status, 503, "{path}: {said}");
        assert!(said.contains("plugin unsteady") && said.contains("its executable "), "{path}: {said}");
    }
    assert_eq!(server.ask("GET", "/healthz", "", ""), (200, "ok\n".into()));
    server.end();
    bench.assert_nothing_is_left();
}

/// Tuples of 4 KiB that are read, or are in the buffers of this machine, while a
/// client does not read.
const BUFFERED: u64 = 32 << 10;

#[test]
fn a_client_that_does_not_read_holds_up_its_own_source_alone() {
    let bench = Bench::new();
    let server = unsteady::serve(&bench, &[]);
    let mut slow = server.connect();
    write!(slow, "GET /sources/flooding HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut slow = BufReader::new(slow).lines().map(Result::unwrap);
    assert_eq!(slow.next().unwrap(), "HTTP/1.1 200 OK");
    // Everything is full once no more is read of the source; others go on.
    let mut before = 0;
    wait_until("no more is read of the source", || {
        assert_eq!(server.ask("POST", "/functions/echo", "[1]", ""), (200, "1\n".into()));
        let (_, body) = server.ask("GET", "/sources/telling", "", "");
        assert_eq!(lines(&body).len(), 3, "{body}");
        let now = tuples(&server);
        assert!(now < BUFFERED, "{now} tuples were read, of which its client has read none");
        std::mem::replace(&mut before, now) == now && now > 0
    });
    let (status, body) = server.ask("GET", "/sources/flooding?count=1000", "", "");
    assert_eq!((status, lines(&body).len()), (200, 1000));
    // What was held up is there, in its order, and what follows.
    let numbers = slow.filter_map(|line| serde_json::from_str::<Value>(&line).ok()?["message"]["number"].as_u64());
    let wanted = before + 1000;
    assert!(numbers.take(wanted as usize).eq(0..wanted));
    server.end();
    bench.assert_nothing_is_left();
}

/// Answers at the same time that may have no end of their own.
const PLACES: usize = 256;

#[test]
fn answers_beyond_the_limit_are_refused_until_others_end() {
    let bench = Bench::new();
    let server = unsteady::serve(&bench, &["--connections", "1000"]);
    let begin = |_| {
        let mut stream = server.connect();
        let head = "POST /functions/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000";
        write!(stream, "{head}\r\n{LINES}\r\n[1]\n").unwrap();
        let mut answer = BufReader::new(stream);
        let mut line = String::new();
        while !line.contains("result") {
            line.clear();
            assert_ne!(answer.read_line(&mut line).unwrap(), 0, "the answer ends");
        }
        answer
    };
    let mut begun: Vec<BufReader<TcpStream>> = (0..PLACES).map(begin).collect();
    for (method, path, body) in
        [("POST", "/functions/echo", "[1]\n"), ("GET", "/sources/telling", ""), ("POST", "/sinks/crashing", "{}\n")]
    {
        let (status, said) = server.ask(method, path, body, LINES);
        assert_eq!(status, 503, "{path}: {said}");
        assert!(said.contains("256 sources, sinks and functions are in use by requests: try again later"), "{said}");
    }
    // A single call has an end.
    assert_eq!(server.ask("POST", "/functions/echo", "[1]", ""), (200, "1\n".into()));
    begun.truncate(PLACES - 1);
    let mut said = String::new();
    wait_until("there is a place", || {
        let (status, body) = server.ask("GET", "/sources/telling", "", "");
        said = body;
        status == 200
    });
    assert_eq!(lines(&said).len(), 3, "{said}");
    drop(begun);
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn an_upload_that_is_too_large_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let server = Server::start_with(&bench, &["--listen", "127.0.0.1:0", "--package-size", "1 MiB"], &[]);
    let part = "--b\r\nContent-Disposition: form-data; name=\"uploadFile\"; filename=\"a.zip\"\r\n\r\n";
    let head = |length: &str| {
        format!(
            "POST /config/uploads HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n\
             Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
    };
    let answer = |stream: &mut TcpStream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let said = "upload error: cannot fetch the upload: it is larger than 1 MiB, which is the limit";
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains(said), "{answer}");
    };
    // Before anything of it is sent.
    let mut stream = server.connect();
    stream.write_all(head("Content-Length: 2000000").as_bytes()).unwrap();
    answer(&mut stream);
    // As soon as more has come, while the client goes on with it.
    let mut stream = server.connect();
    stream.write_all(head("Transfer-Encoding: chunked").as_bytes()).unwrap();
    let chunk = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    stream.write_all(&chunk(part.as_bytes())).unwrap();
    for _ in 0..32 {
        stream.write_all(&chunk(&[0; 64 << 10])).unwrap();
    }
    answer(&mut stream);
    for folder in ["uploads", "downloads"] {
        let left = std::fs::read_dir(bench.path().join("plugins").join(folder)).unwrap();
        assert_eq!(left.count(), 0, "{folder}");
    }
    // One that is as large as it may be.
    let body = [part.as_bytes(), &[0; 1 << 20], b"\r\n--b--\r\n"].concat();
    let (status, said) =
        server.ask_bytes("POST", "/config/uploads", &body, "Content-Type: multipart/form-data; boundary=b\r\n");
    assert_eq!(status, 201, "{said}");
    assert_eq!(std::fs::metadata(said).unwrap().len(), 1 << 20);
    server.end();
    bench.assert_nothing_is_left();
}
