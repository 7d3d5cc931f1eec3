//! `serve`: more requests at once than it handles.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::Write;
use std::net::TcpStream;

use support::Bench;
use support::served::Server;

/// Requests that are handled at the same time.
const MOST: usize = 256;

/// An upload that goes on for as long as its connection.
fn begin_upload(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let form = "--b\r\nContent-Disposition: form-data; name=\"uploadFile\"; filename=\"a.zip\"\r\n\r\n";
    let head = format!(
        "POST /config/uploads HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000000\r\n\
         Content-Type: multipart/form-data; boundary=b\r\n\r\n{form}",
        server.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[test]
fn requests_beyond_the_limit_are_refused_until_others_are_done() {
    let bench = Bench::new();
    let server = Server::start(&bench);
    let uploads: Vec<_> = (0..MOST).map(|_| begin_upload(&server)).collect();
    let said = server.wait_for("/healthz", 503);
    assert!(said.contains("256 requests are being handled: try again when one of them is done"), "{said}");
    drop(uploads);
    assert_eq!(server.wait_for("/healthz", 200), "ok\n");
    server.end();
    bench.assert_nothing_is_left();
}
