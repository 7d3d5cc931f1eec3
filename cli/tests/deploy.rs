//! `deploy` and `remove` where no engine takes them; interop/tests/engine.rs has
//! what a real one does.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;

use support::Bench;

/// Answers each request with this text, until the test ends.
fn server(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 4096]);
            let _ = connection.write_all(answer.as_bytes());
        }
    });
    format!("http://{address}")
}

#[test]
fn an_engine_that_is_down_is_said_before_anything_is_built() {
    let bench = Bench::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    for arguments in [&["deploy", "no-such-plugin", "--engine", &url][..], &["remove", "p", "--engine", &url]] {
        let error = bench.fails(1, arguments);
        assert!(error.starts_with(&format!("cannot ask for the version at {url} ")), "{error}");
        assert!(error.contains("Connection refused"), "{error}");
    }
}

#[test]
fn what_is_no_engine_is_said() {
    let bench = Bench::new();
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    ] {
        let url = server(answer);
        let error = bench.fails(1, &["remove", "p", "--engine", &url]);
        assert!(error.contains(&format!("what answers at {url} is no eKuiper")), "{error}");
    }
    let url = server("SSH-2.0-OpenSSH_9.2\r\n");
    let error = bench.fails(1, &["remove", "p", "--engine", &url]);
    assert!(error.contains("cannot ask for the version"), "{error}");
    let url = server("HTTP/1.1 401 Unauthorized\r\ncontent-length: 12\r\nconnection: close\r\n\r\nno token\u{1b}[2J");
    let error = bench.fails(1, &["remove", "p", "--engine", &url]);
    assert!(error.contains("pass --token") && !error.contains('\u{1b}'), "{error}");
}

#[test]
fn addresses_that_are_none_are_wrong_invocations() {
    let bench = Bench::new();
    for url in ["https://127.0.0.1:9081", "ftp://x", "http://", "http://a b", "http://x/?y=1"] {
        let error = bench.fails(2, &["remove", "p", "--engine", url]);
        assert!(error.contains("http://HOST:PORT, without TLS"), "{error}");
    }
}
