//! Requests to `serve` with something odd about them, and what it is told to do.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::fs;

use ekuiper_conformance::wait_until;
use serde_json::{Value, json};
use support::Bench;
use support::served::{Server, package};

/// Starts a server that has the plugin `mirror`.
fn serve(bench: &Bench) -> Server {
    let server = Server::start(bench);
    assert_eq!(server.ask("POST", "/plugins/portables", &package(bench, "v1"), "").0, 201);
    server
}

/// The sentence of a refusal.
fn sentence(body: &str) -> String {
    let refusal: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{body}"));
    refusal["message"].as_str().unwrap().to_owned()
}

/// Sends a request as it is; returns the status, and the body of the answer.
fn raw(server: &Server, request: &str) -> (u16, String) {
    let (status, answer) = server.send_raw(request);
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[test]
fn who_looks_whether_somebody_is_there_need_not_name_the_host() {
    let bench = Bench::new();
    let server = serve(&bench);
    for (path, said) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        assert_eq!(raw(&server, &format!("GET {path} HTTP/1.0\r\n\r\n")), (200, said.into()));
        let other = format!("GET {path} HTTP/1.0\r\nHost: elsewhere.example\r\n\r\n");
        assert_eq!(raw(&server, &other).0, 403, "{path}");
    }
    for path in ["/plugins", "/", "/healthz/x", "//healthz"] {
        let (status, body) = raw(&server, &format!("GET {path} HTTP/1.0\r\n\r\n"));
        assert_eq!(
            (status, sentence(&body).contains("the request names no host: send a header Host")),
            (403, true),
            "{body}"
        );
    }
    server.end();
}

#[test]
fn two_lengths_of_a_body_are_refused() {
    let bench = Bench::new();
    let server = serve(&bench);
    let head = "POST /functions/revert HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 6\r\n";
    for other in ["Content-Length: 7", "Content-Length: x", "Content-Length: 6, 7"] {
        let (status, body) = raw(&server, &format!("{head}{other}\r\n\r\n[\"ab\"]"));
        assert_eq!(status, 400, "{body}");
        assert!(sentence(&body).contains("Content-Length"), "{body}");
    }
    // One that is said twice is one.
    assert_eq!(raw(&server, &format!("{head}Content-Length: 6\r\n\r\n[\"ab\"]")), (200, "\"ba\"\n".into()));
    server.end();
}

#[test]
fn a_field_that_is_given_twice_is_refused() {
    let bench = Bench::new();
    let server = serve(&bench);
    let twice = "{\"seed\":1,\"seed\":2}";
    let file = json!(bench.path().join("rows")).to_string();
    let sink = format!("/sinks/file?config=%7B%22path%22:{}%7D", file.replace('"', "%22"));
    for (method, path, body, field) in [
        ("POST", "/plugins/portables", "{\"name\":\"a\",\"name\":\"b\"}", "duplicate field `name`"),
        ("PUT", "/metadata/sources/random/confKeys/k", twice, "the field \"seed\" is given twice"),
        ("PUT", "/metadata/sources/random/confKeys/k", "{\"a\":[{\"b\":1,\"b\":1}]}", "the field \"b\" is given twice"),
        ("POST", "/functions/echo", "[{\"a\":1,\"a\":2}]", "the field \"a\" is given twice"),
        ("GET", "/sources/random?config=%7B%22seed%22:1,%22seed%22:2%7D", "", "the field \"seed\" is given twice"),
    ] {
        let (status, body) = server.ask(method, path, body, "");
        assert_eq!((status, sentence(&body).contains(field)), (400, true), "{path}: {body}");
    }
    let (status, body) = server.ask("POST", &sink, "{\"a\":1}\n{\"a\":1,\"a\":2}\n{\"a\":3}\n", "");
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("the line cannot be taken: the field \\\"a\\\" is given twice"), "{body}");
    assert_eq!(fs::read_to_string(bench.path().join("rows")).unwrap(), "{\"a\":1}\n{\"a\":3}\n");
    server.end();
}

#[test]
fn names_that_are_empty_or_unknown_are_told() {
    let bench = Bench::new();
    let server = serve(&bench);
    for (path, status, said) in [
        ("/logs?plugin=", 400, "plugin is empty: name one, or leave it out for all"),
        ("/logs?plugin=none", 404, "there is no plugin none, and no line of it"),
        ("/sources/random?key=", 400, "source random has no configuration \"\": it has default alone"),
    ] {
        let (found, body) = server.ask("GET", path, "", "");
        assert_eq!((found, sentence(&body)), (status, said.into()), "{path}");
    }
    server.end();
}

#[test]
fn who_uses_a_plugin_that_is_deleted_is_told_how_and_why() {
    let bench = Bench::new();
    let server = serve(&bench);
    let mut tuples = server.follow("/sources/random?config=%7B%22interval%22:10%7D", "");
    tuples.find(|line| line.contains("count")).unwrap();
    let (status, body) = server.ask("DELETE", "/plugins/portables/mirror", "", "");
    let said = sentence(&body);
    assert_eq!(status, 400, "{body}");
    assert!(said.contains("plugin mirror is in use, by source random of rule "), "{said}");
    assert!(said.ends_with(": end them first, or add ?users=stop"), "{said}");
    assert_eq!(server.ask("DELETE", "/plugins/portables/mirror?users=stop", "", "").0, 200);
    let last = tuples.filter(|line| line.starts_with('{')).last().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&last).unwrap(), json!({ "error": "the plugin was removed or stopped" }));
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn what_a_plugin_lacks_is_said_with_what_to_do() {
    let bench = Bench::new();
    let server = Server::start(&bench);
    let folder = bench.path().join("snake");
    fs::create_dir(&folder).unwrap();
    let body = json!({ "name": "snake", "file": format!("file://{}/", folder.display()) }).to_string();
    // As `new` makes it.
    fs::write(folder.join("snake.py"), "import nowhere_at_all\n").unwrap();
    let (status, answer) = server.ask("POST", "/plugins/portables", &body, "");
    let said = sentence(&answer);
    assert_eq!(status, 400, "{said}");
    let wanted = "needs a file snake.json there, which `ekuiper-plugin package` writes for one that describes itself";
    assert!(said.contains(wanted), "{said}");
    let manifest = json!({ "language": "python", "executable": "snake.py", "functions": ["f"] });
    fs::write(folder.join("snake.json"), manifest.to_string()).unwrap();
    let (status, answer) = server.ask("POST", "/plugins/portables", &body, "");
    let said = sentence(&answer);
    assert_eq!(status, 400, "{said}");
    let wanted =
        "ended before its handshake (exit code 1): install the module nowhere_at_all into this Python, or name";
    assert!(said.contains(wanted), "{said}");
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn a_name_can_be_listened_at() {
    let bench = Bench::new();
    let server = Server::start_with(&bench, &["--listen", "localhost:0"], &[]);
    wait_until("it answers", || server.ask("GET", "/healthz", "", "").0 == 200);
    server.end();
    for (address, said) in [
        ("localhost", "an address and a port, as 127.0.0.1:9082, [::1]:9082 or localhost:9082"),
        ("no-such-name.invalid:1", "\"no-such-name.invalid\" has no address"),
    ] {
        let ran = bench.run(&["serve", "--listen", address]);
        assert!(ran.code == Some(2) && ran.stderr.contains(said), "{ran:?}");
    }
}
