//! `serve`: connections that ask for nothing, or are too many.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;

use support::Bench;
use support::served::{Server, package};

/// A time that no test takes.
const LONG: &str = "1h";

fn start(bench: &Bench, arguments: &[&str]) -> Server {
    Server::start_with(bench, &[&["--listen", "127.0.0.1:0"], arguments].concat(), &[])
}

/// Reads one answer whose body is `ok`, of a connection that goes on. Returns
/// false if the connection ends before.
fn read_ok(stream: &mut TcpStream) -> bool {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\nok\n") {
        match stream.read(&mut byte) {
            Ok(1) => answer.push(byte[0]),
            Ok(_) => return false,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return false,
            Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&answer)),
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
    true
}

/// Tries again what comes too late on a machine that is busy.
fn retry<T>(attempt: impl FnMut() -> Option<T>) -> T {
    let mut attempts = std::iter::repeat_with(attempt).take(100);
    attempts.find_map(|attempt| attempt).expect("each of 100 attempts came too late")
}

/// Waits until the server ends a connection, which says nothing more. If that
/// hangs, the time of the read is over.
fn is_ended(stream: &mut TcpStream) {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    assert_eq!(String::from_utf8_lossy(&said), "");
}

const ASKS: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn a_connection_that_asks_for_nothing_is_ended() {
    let bench = Bench::new();
    let server = start(&bench, &["--head-timeout", "300ms"]);
    let mut silent = server.connect();
    let mut half = server.connect();
    half.write_all(&ASKS[..ASKS.len() - 2]).unwrap();
    let mut dripping = server.connect();
    let mut drips = dripping.try_clone().unwrap();
    let dripping_thread = std::thread::spawn(move || {
        let _ = drips.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ");
        while drips.write_all(b"x").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    let mut idle = retry(|| {
        let mut stream = server.connect();
        // Several requests at once, which are answered one after the other.
        let _ = stream.write_all(&ASKS.repeat(3));
        (0..3).all(|_| read_ok(&mut stream)).then_some(stream)
    });
    for stream in [&mut silent, &mut half, &mut dripping, &mut idle] {
        is_ended(stream);
    }
    dripping_thread.join().unwrap();
    server.end();
    bench.assert_nothing_is_left();
}

/// The bound is one of what comes before a request.
#[test]
fn a_request_may_take_longer_than_its_head() {
    let bench = Bench::new();
    let server = start(&bench, &[]);
    assert_eq!(server.ask("POST", "/plugins/portables", &package(&bench, "v1"), "").0, 201);
    server.end();
    let server = start(&bench, &["--head-timeout", "100ms"]);
    let answer = retry(|| {
        let mut stream = server.connect();
        let path = "/sources/random?count=50&config=%7B%22interval%22:10%7D";
        let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        Some(answer).filter(|answer| answer.starts_with("HTTP/1.1"))
    });
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
    assert_eq!(answer.matches("\"count\":").count(), 50);
    server.end();
}

#[test]
fn connections_that_ask_for_nothing_make_room_for_those_that_ask() {
    let bench = Bench::new();
    let server = start(&bench, &["--head-timeout", LONG, "--connections", "4"]);
    let mut idle = server.connect();
    idle.write_all(ASKS).unwrap();
    assert!(read_ok(&mut idle));
    let mut silent: Vec<_> = (0..100).map(|_| server.connect()).collect();
    assert_eq!(server.ask("GET", "/healthz", "", ""), (200, "ok\n".into()));
    is_ended(&mut idle);
    silent[..90].iter_mut().for_each(is_ended);
    // The last ones are still there: they have been so for the shortest time.
    let last = silent.last_mut().unwrap();
    last.write_all(ASKS).unwrap();
    assert!(read_ok(last));
    drop(silent);

    // Those whose answers go on are not ended, and another one waits.
    let follow = |_| {
        let mut stream = server.connect();
        write!(stream, "GET /logs?follow=1 HTTP/1.1\r\nHost: {}\r\n\r\n", server.address).unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "HTTP/1.1 200 OK");
        lines
    };
    let mut following: Vec<_> = (0..4).map(follow).collect();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.ask("GET", "/healthz", "", ""));
        drop(following.pop());
        assert_eq!(waiting.join().unwrap(), (200, "ok\n".into()));
    });
    let said = server.end();
    assert!(!said.contains("requests were still under way"), "{said}");
    for lines in following {
        // Each has come to its proper end.
        assert_eq!(lines.map(Result::unwrap).filter(|line| line == "0").count(), 1);
    }
    bench.assert_nothing_is_left();
}

#[test]
fn half_a_request_is_none_when_the_server_ends() {
    let bench = Bench::new();
    let server = start(&bench, &["--head-timeout", LONG]);
    let mut stream = server.connect();
    stream.write_all(&ASKS[..10]).unwrap();
    // It has come once a later connection is answered.
    assert_eq!(server.ask("GET", "/healthz", "", ""), (200, "ok\n".into()));
    let said = server.end();
    assert!(!said.contains("requests were still under way"), "{said}");
    is_ended(&mut stream);
    bench.assert_nothing_is_left();
}

#[test]
fn bounds_that_make_no_sense_are_refused() {
    let bench = Bench::new();
    for (option, value, said) in [
        ("--connections", "0", "a whole number from 1 to 1000000"),
        ("--connections", "-1", "a whole number from 1 to 1000000"),
        ("--head-timeout", "0", "it must be longer than zero"),
        ("--package-size", "1 GB", "a number of bytes, or a text such as \"256 MiB\""),
        ("--package-size", "0", "it must be more than zero: no package has no bytes"),
        ("--package-size", "0 GiB", "it must be more than zero: no package has no bytes"),
        ("--python-bin", "/nope", "/nope does not exist: install Python 3, or name the interpreter"),
        ("--python-bin", "no-such-python", "no-such-python was not found: install Python 3"),
        ("--python-bin", "python3 -u", "takes a program's name or path, without arguments"),
        ("--python-bin", "/", "/ is a folder, not a program: install Python 3"),
    ] {
        let ran = bench.run(&["serve", option, value]);
        assert!(ran.code == Some(2) && ran.stderr.contains(said), "{ran:?}");
    }
}

#[cfg(feature = "https")]
mod tls {
    use super::*;

    use std::path::Path;
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

    /// A file of `tests/tls/make.sh`.
    fn file(name: &str) -> String {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name).display().to_string()
    }

    fn client() -> Arc<ClientConfig> {
        let mut authorities = RootCertStore::empty();
        authorities.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(ekuiper_manager::tls::provider());
        let config = config.with_safe_default_protocol_versions().unwrap();
        config.with_root_certificates(authorities).with_no_client_auth().into()
    }

    #[test]
    fn a_handshake_that_does_not_end_is_ended() {
        let bench = Bench::new();
        let (certificate, key) = (file("server.pem"), file("server.key"));
        let arguments = ["--head-timeout", "300ms", "--tls-cert", &certificate, "--tls-key", &key];
        let server = start(&bench, &arguments);
        let mut silent = server.connect();
        let mut half = server.connect();
        // The beginning of a record that is to have more.
        half.write_all(&[22, 3, 1, 1, 0, 1]).unwrap();
        let config = client();
        let name = ServerName::try_from("localhost").unwrap();
        let connect = || {
            let connection = ClientConnection::new(config.clone(), name.clone()).unwrap();
            let mut stream = StreamOwned::new(connection, server.connect());
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).ok()?;
            }
            Some(stream)
        };
        let mut without_request = retry(connect);
        let mut with_request = retry(|| {
            let mut stream = connect()?;
            let mut answer = [0; 15];
            stream.write_all(ASKS).and_then(|()| stream.read_exact(&mut answer)).ok()?;
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
            Some(stream)
        });
        for stream in [&mut silent, &mut half, &mut without_request.sock, &mut with_request.sock] {
            let error = stream.read_to_end(&mut Vec::new()).err().map(|error| error.kind());
            assert!(matches!(error, None | Some(ErrorKind::ConnectionReset)), "{error:?}");
        }
        server.end();
        bench.assert_nothing_is_left();
    }
}
