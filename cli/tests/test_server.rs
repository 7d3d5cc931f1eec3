//! `attach --serve`: the requests of eKuiper's plugin test server.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ekuiper_conformance::wait_until;
use serde_json::{Value, json};
use support::Bench;
use support::attached::{Attached, Plugin, assert_no_sockets};

/// Maximum time of an answer before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
struct Server {
    attached: Attached,
    address: String,
    argument: String,
}

impl Server {
    fn start(bench: &Bench) -> Self {
        let mut attached = Attached::start(bench, "mirror", &["--serve", "127.0.0.1:0"]);
        let line = attached.expect("serving POST");
        let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
        let argument = attached.argument();
        Self { attached, address, argument }
    }

    /// Sends bytes; returns the status and the body of the answer.
    fn ask(&self, request: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = String::new();
        // A server that refuses early may not read everything.
        let _ = stream.write_all(request);
        let _ = stream.read_to_string(&mut answer);
        let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}")).parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    fn post(&self, path: &str, body: &str) -> (u16, String) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        );
        self.ask(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
    }

    fn start_symbol(&self, kind: &str, symbol: &str, config: &Value) -> (u16, String) {
        self.post("/symbol/start", &control(kind, symbol, config))
    }

    fn stop_symbol(&self, kind: &str, symbol: &str) -> (u16, String) {
        self.post("/symbol/stop", &control(kind, symbol, &json!({})))
    }
}

/// The body that upstream's guide shows.
fn control(kind: &str, symbol: &str, config: &Value) -> String {
    let meta = json!({ "ruleId": "rule1", "opId": "op1", "instanceId": 1 });
    json!({ "symbolName": symbol, "meta": meta, "pluginType": kind, "config": config }).to_string()
}

#[test]
fn symbols_start_and_stop_as_with_upstreams_plugin_test_server() {
    let bench = Bench::new();
    let mut server = Server::start(&bench);
    let ok = (200, "ok".to_owned());
    let early = server.start_symbol("source", "random", &json!({}));
    assert_eq!(early, (400, "plugin mirror has not come: start it first\n".into()));
    let plugin = Plugin::mirror(&server.argument);
    server.attached.expect("has come");

    assert_eq!(server.start_symbol("source", "random", &json!({ "interval": 1 })), ok);
    let row = server.attached.row();
    assert_eq!((&row["source"], row["message"]["count"].is_u64()), (&json!("random"), true), "{row}");
    let twice = server.start_symbol("source", "random", &json!({}));
    assert_eq!(twice, (400, "source random is started already: stop it first\n".into()));
    assert_eq!(server.stop_symbol("source", "random"), ok);
    let again = server.stop_symbol("source", "random");
    assert_eq!(again, (400, "source random is not started\n".into()));

    assert_eq!(server.start_symbol("func", "revert", &json!({})), ok);
    let mut results = Vec::new();
    while results.len() < 2 {
        let row = server.attached.row();
        results.extend((row["function"] == "revert").then(|| row["result"].clone()));
    }
    assert_eq!(results, ["evlewt", "nevele"]);
    assert_eq!(server.stop_symbol("func", "revert"), ok);

    let path = bench.path().join("rows");
    for ack in [false, true] {
        let config = json!({ "path": path, "requireAck": ack });
        assert_eq!(server.start_symbol("sink", "file", &config), ok);
        let two = "{\"count\":5,\"name\":\"hello\"}\n{\"count\":10,\"name\":\"world\"}\n";
        wait_until("the sink has two rows", || std::fs::read_to_string(&path).is_ok_and(|rows| rows.starts_with(two)));
        assert_eq!(server.stop_symbol("sink", "file"), ok);
        let _ = std::fs::remove_file(&path);
    }

    // A symbol that is stopped can be started at once.
    assert_eq!(server.start_symbol("source", "random", &json!({ "interval": 1 })), ok);
    server.attached.interrupt();
    let (code, _, told) = server.attached.finish();
    assert_eq!(code, Some(130), "{told}");
    assert!(plugin.is_alive());
    drop(plugin);
    assert_no_sockets(&bench);
}

#[test]
fn what_the_plugin_refuses_is_the_answer() {
    let bench = Bench::new();
    let mut server = Server::start(&bench);
    let _plugin = Plugin::mirror(&server.argument);
    server.attached.expect("has come");
    for (kind, symbol, config, words) in [
        ("source", "nothing", json!({}), "nothing"),
        ("func", "nothing", json!({}), "nothing"),
        ("sink", "file", json!({}), "path"),
        ("source", "a/b", json!({}), "a/b"),
    ] {
        let (status, body) = server.start_symbol(kind, symbol, &config);
        assert!(status == 400 && body.contains(words) && body.matches('\n').count() == 1, "{status} {body}");
        let (status, body) = server.stop_symbol(kind, symbol);
        assert!(status == 400 && body.contains("is not started"), "what was refused is not started: {body}");
    }
}

#[test]
fn requests_that_make_no_sense_get_one_sentence() {
    let bench = Bench::new();
    let server = Server::start(&bench);
    let good = control("source", "random", &json!({}));
    for (body, words) in [
        ("", "it is empty"),
        ("nonsense", "expected"),
        ("{", "EOF"),
        ("[]", "invalid"),
        ("{}", "symbolName"),
        (r#"{"symbolName":"x","pluginType":"rule"}"#, "rule"),
        (r#"{"symbolName":"","pluginType":"source"}"#, "symbolName is empty"),
        (r#"{"symbolName":7,"pluginType":"source"}"#, "7"),
        ("{\"symbolName\":\"\u{1b}[2J\",\"pluginType\":\"source\",\"config\":7}", "7"),
    ] {
        for path in ["/symbol/start", "/symbol/stop"] {
            let (status, answer) = server.post(path, body);
            assert!(status == 400 && answer.contains(words), "{body:?}: {status} {answer}");
            let is_one = answer.matches('\n').count() == 1 && !answer.contains('\u{1b}') && answer.len() < 600;
            assert!(is_one, "{answer:?}");
        }
    }
    let (status, answer) = server.post("/symbol/pause", &good);
    assert!(status == 404 && answer.contains("/symbol/start"), "{answer}");
    let (status, answer) = server.ask(b"GET /symbol/start HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(status == 405 && answer.contains("takes POST"), "{answer}");
    // Claimed, and sent.
    let huge = b"POST /symbol/start HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1099511627776\r\n\r\n{";
    assert_eq!(server.ask(huge).0, 413);
    assert_eq!(server.post("/symbol/start", &"x".repeat(2 << 20)).0, 413);
    for origin in ["http://evil.example", "null", "http://127.0.0.1.evil.example"] {
        let head =
            format!("POST /symbol/start HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: {origin}\r\n");
        let request = format!("{head}Content-Length: {}\r\n\r\n{good}", good.len());
        assert_eq!(server.ask(request.as_bytes()).0, 403, "{origin}");
        let own = request.replace(origin, "http://localhost:8080");
        assert_eq!(server.ask(own.as_bytes()).0, 400, "it is the plugin that has not come");
    }
    // No HTTP.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(b"\0SP\0\0\x30\0\0\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    assert_eq!(server.post("/symbol/stop", &good).0, 400, "the server goes on");
    server.attached.interrupt();
    assert_eq!(server.attached.finish().0, Some(130));
}

#[test]
fn an_address_that_is_taken_is_an_error() {
    let bench = Bench::new();
    let server = Server::start(&bench);
    let bench = Bench::new();
    let said = bench.fails(1, &["attach", "other", "--serve", &server.address]);
    assert!(said.starts_with(&format!("cannot listen at {}: give --serve another address", server.address)), "{said}");
    let said = bench.fails(2, &["attach", "other", "--serve", &server.address, "call", "f"]);
    assert!(said.starts_with("attach needs one thing to do"), "{said}");
    let ran = bench.run(&["attach", "other", "--serve", "nowhere"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
}
