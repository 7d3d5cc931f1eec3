//! `serve`: changes that meet its users, its end, or the end of its folder.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::{BufRead, BufReader, Write};

use ekuiper_conformance::wait_until;
use support::Bench;
use support::served::{Server, package, package_of};

#[test]
fn a_function_that_no_request_calls_may_be_gone_with_the_next_version() {
    let bench = Bench::new();
    let [v1, v3] = ["v1", "v3"].map(|version| package(&bench, version));
    let v2 = package_of(&bench, "v2", ":", &["revert"]);
    let server = Server::start(&bench);
    let update = |package: &str| server.ask("PUT", "/plugins/portables/mirror", package, "");
    assert_eq!(server.ask("POST", "/plugins/portables", &v1, "").0, 201);
    assert_eq!(server.ask("POST", "/functions/echo", "[1]", ""), (200, "1\n".into()));
    assert_eq!(server.ask("POST", "/functions/revert", "[\"ab\"]", ""), (200, "\"ba\"\n".into()));
    assert_eq!(update(&v2), (200, "portable plugin mirror is updated".into()));
    let (status, said) = server.ask("POST", "/functions/echo", "[1]", "");
    assert!(status == 404 && said.contains("there is no function echo: the plugins serve revert"), "{said}");
    assert_eq!(server.ask("POST", "/functions/revert", "[\"ab\"]", ""), (200, "\"ba\"\n".into()));

    // One that is called stays.
    assert_eq!(update(&v3).0, 200);
    let mut calls = server.connect();
    let head = "POST /functions/echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n";
    let length = "Transfer-Encoding: chunked\r\n\r\n4\r\n[1]\n\r\n";
    calls.write_all(format!("{head}{length}").as_bytes()).unwrap();
    let mut answers = BufReader::new(calls.try_clone().unwrap()).lines().map(Result::unwrap);
    answers.find(|line| line.contains("result")).unwrap();
    let (status, said) = update(&v2);
    assert!(status == 400 && said.contains("lacks symbols in use: function echo"), "{said}");
    calls.write_all(b"4\r\n[2]\n\r\n0\r\n\r\n").unwrap();
    assert_eq!(answers.find(|line| line.contains("result")).unwrap(), "{\"result\":2}");
    drop((calls, answers));
    wait_until("the request is over", || update(&v2).0 == 200);
    server.end();
    bench.assert_nothing_is_left();
}
