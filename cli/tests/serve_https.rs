//! `serve`: packages that are fetched by https.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included
#![cfg(feature = "https")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use ekuiper_manager::tls;
use rustls::{ServerConnection, StreamOwned};
use serde_json::json;
use support::Bench;
use support::served::{Server, package};

/// Certificates of `tests/tls/make.sh`.
fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// What a server does with its only connection.
enum Does {
    /// Shows this certificate, and answers.
    Answers(&'static str, Vec<u8>),
    /// Answers without TLS.
    SpeaksPlainly,
    /// Says nothing until the other side ends the connection.
    Hangs,
}

/// Starts a server for one connection; returns its port.
fn server(does: Does) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        match does {
            Does::Answers(name, answer) => secure(stream, name, &answer),
            Does::SpeaksPlainly => {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
            }
            Does::Hangs => drop(stream.read_to_end(&mut Vec::new())),
        }
    };
    (port, std::thread::spawn(serve))
}

/// Answers over TLS, as far as the client goes along.
fn secure(stream: TcpStream, name: &str, answer: &[u8]) {
    let config = tls::server(&certificate(name), &certificate("server.key")).unwrap();
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    if stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
        let _ = stream.write_all(answer);
        stream.conn.send_close_notify();
        let _ = stream.flush();
        let _ = stream.sock.shutdown(Shutdown::Write);
    }
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn install(server: &Server, url: &str) -> (u16, String) {
    let body = json!({ "name": "mirror", "file": url }).to_string();
    server.ask("POST", "/plugins/portables", &body, "")
}

/// Starts `serve`, which trusts the authorities in this file alone.
fn start(bench: &Bench, authorities: &Path, more: &[&str]) -> Server {
    let authorities = authorities.display().to_string();
    let arguments = [&["--listen", "127.0.0.1:0"], more].concat();
    Server::start_with(bench, &arguments, &[("SSL_CERT_FILE", &authorities), ("SSL_CERT_DIR", "")])
}

#[test]
fn a_package_is_fetched_by_https_from_who_proves_to_be_asked() {
    let bench = Bench::new();
    package(&bench, "v1");
    let zip = std::fs::read(bench.path().join("v1.zip")).unwrap();
    let good = answer("200 OK", "", &zip);
    let served = start(&bench, &certificate("ca.pem"), &["--allow-private-addresses"]);
    let redirect = |to: &str| answer("302 Found", &format!("location: {to}\r\n"), b"");
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    plain.set_nonblocking(true).unwrap();
    let downgrade = redirect(&format!("http://{}/p.zip", plain.local_addr().unwrap()));
    for (does, host, said) in [
        (Does::Answers("expired.pem", good.clone()), "localhost", "its certificate has expired"),
        (Does::Answers("other-name.pem", good.clone()), "localhost", "its certificate is for another name"),
        (
            Does::Answers("server.pem", answer("404 Not Found", "", b"")),
            "localhost",
            "the server answers 404 Not Found",
        ),
        (Does::Answers("server.pem", downgrade), "localhost", "it redirects to an address without TLS"),
        (
            Does::Answers("server.pem", redirect("file:///etc/passwd")),
            "127.0.0.1",
            "it redirects to file:///etc/passwd, and only what begins with",
        ),
        (
            Does::Answers("server.pem", answer("200 OK", "", b"no zip")),
            "127.0.0.1",
            "p.zip is not a zip, or it is damaged",
        ),
        (Does::SpeaksPlainly, "localhost", "what answers there does not speak TLS"),
        (Does::Hangs, "127.0.0.1", "timeout: connect"),
    ] {
        let (port, handle) = server(does);
        let (status, body) = install(&served, &format!("https://{host}:{port}/p.zip"));
        assert_eq!(status, 400, "{body}");
        assert!(body.contains(said) && !body.trim_end().contains('\n'), "{said}: {body}");
        handle.join().unwrap();
        assert_eq!(served.json("/plugins/portables"), json!([]));
    }
    assert!(plain.accept().is_err(), "the redirection was followed");
    let (port, handle) = server(Does::Answers("server.pem", good.clone()));
    assert_eq!(install(&served, &format!("HTTPS://localhost:{port}/p.zip")).0, 201);
    handle.join().unwrap();
    served.end();

    // An authority that is not trusted.
    let served = start(&bench, &certificate("other-name.pem"), &["--allow-private-addresses"]);
    assert_eq!(served.ask("DELETE", "/plugins/portables/mirror", "", "").0, 200);
    let (port, handle) = server(Does::Answers("server.pem", good));
    let (status, body) = install(&served, &format!("https://localhost:{port}/p.zip"));
    assert_eq!(status, 400);
    assert!(body.contains("its certificate is from no authority that this machine trusts"), "{body}");
    handle.join().unwrap();
    let downloads = std::fs::read_dir(bench.path().join("plugins/downloads")).unwrap();
    assert_eq!(downloads.count(), 0);
    served.end();
    bench.assert_nothing_is_left();
}

#[test]
fn private_addresses_and_missing_authorities_are_said() {
    let bench = Bench::new();
    let served = start(&bench, &bench.path().join("none.pem"), &[]);
    let (status, body) = install(&served, "https://localhost:9/p.zip");
    assert_eq!(status, 400);
    assert!(body.contains("no certificates of authorities are found") && body.contains("none.pem"), "{body}");
    served.end();
    let served = start(&bench, &certificate("ca.pem"), &[]);
    for host in ["localhost", "127.0.0.1", "[::1]", "10.0.0.1"] {
        let (status, body) = install(&served, &format!("https://{host}:9/p.zip"));
        assert_eq!(status, 400);
        assert!(body.contains("is an address of this machine or of a private network"), "{body}");
    }
    served.end();
    bench.assert_nothing_is_left();
}
