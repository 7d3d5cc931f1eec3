//! `serve` beyond this machine: a token, and TLS.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use serde_json::{Value, json};
use support::Bench;
use support::served::{Server, package};

#[test]
fn whoever_has_the_token_is_served_and_nobody_else() {
    let bench = Bench::new();
    let body = package(&bench, "v1");
    let zip = bench.path().join("v1.zip").display().to_string();
    let file = bench.path().join("token").display().to_string();
    let arguments = ["--listen", "0.0.0.0:0", "--token-file", &file];
    let server = Server::start_with(&bench, &arguments, &[]);
    let token = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    let portables = "/plugins/portables";
    for (method, path) in [
        ("GET", portables),
        ("POST", portables),
        ("DELETE", "/plugins/portables/mirror"),
        ("POST", "/config/uploads"),
        ("GET", "/metrics"),
        ("GET", "/logs?follow=1"),
        ("GET", "/metadata/sources"),
        ("GET", "/"),
        ("GET", "/nothing"),
        ("GET", "//healthz"),
        ("GET", "/healthz/../plugins/portables"),
        ("OPTIONS", portables),
    ] {
        let (wrong, basic) = (format!("Bearer {}0", &token[1..]), format!("Basic {token}"));
        for given in [None, Some(""), Some("Bearer "), Some(&token[1..]), Some(&wrong), Some(&basic)] {
            let header = given.map_or(String::new(), |given| format!("Authorization: {given}\r\n"));
            let (status, answer) = server.ask(method, path, &body, &header);
            assert_eq!(status, 401, "{method} {path} {given:?}: {answer}");
            let error: Value = serde_json::from_str(&answer).unwrap();
            let text = "the request carries no token that is known here: send it as Authorization: Bearer TOKEN";
            assert_eq!(error, json!({ "error": 1000, "message": text }), "{method} {path}");
        }
    }
    // Who only asks whether it lives needs none.
    assert_eq!(server.ask("GET", "/healthz", "", "").0, 200);
    // Nor does the page, which asks for it.
    let (status, page) = server.ask("GET", "/", "", "Accept: text/html\r\n");
    assert!(status == 200 && page.contains("page/page.js"), "{status}: {page}");
    assert_eq!(server.ask("GET", "/page/page.js", "", "").0, 200);
    assert_eq!(server.ask("POST", "/page/page.js", "", "").0, 401);
    // With it, this machine may have any name, and a page any origin.
    let header = format!("Authorization: Bearer {token}\r\n");
    let elsewhere = format!("{header}Host: gateway.example\r\nOrigin: https://gateway.example\r\n");
    assert_eq!(server.ask("GET", portables, "", &elsewhere), (200, "[]\n".into()));

    // The commands that speak to it.
    let engine = server.address.replace("0.0.0.0", "127.0.0.1");
    let ran = bench.run(&["deploy", &zip, "--engine", &engine]);
    let said = "the engine wants a token: pass --token-file or --token";
    assert!(ran.code == Some(1) && ran.stderr.trim_end().ends_with(said), "{ran:?}");
    let ran = bench.run(&["deploy", &zip, "--engine", &engine, "--token-file", &file]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = bench.run(&["logs", "--engine", &engine, "--token-file", &file]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = bench.run(&["remove", "mirror", "--engine", &engine, "--token", &format!("Bearer {token}")]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(server.ask("GET", portables, "", &header), (200, "[]\n".into()));
    // What has followed the line that it serves.
    let said = server.end();
    assert_eq!(said.matches(&token).count(), 1, "{said}");
    assert!(said.contains("can be read on their way"), "{said}");

    // It is made once, and a file that is there is taken as it is.
    let server = Server::start_with(&bench, &["--listen", "127.0.0.1:0", "--token-file", &file], &[]);
    assert_eq!(server.ask("GET", portables, "", &header).0, 200);
    assert_eq!(server.ask("GET", portables, "", "").0, 401);
    assert!(!server.end().contains(&token));
    bench.assert_nothing_is_left();
}

#[test]
fn the_document_says_where_a_token_is_needed() {
    let bench = Bench::new();
    let file = bench.path().join("token").display().to_string();
    std::fs::write(&file, "0123456789abcdef").unwrap();
    let server = Server::start_with(&bench, &["--listen", "127.0.0.1:0", "--token-file", &file], &[]);
    let (status, document) = server.ask("GET", "/openapi.json", "", "Authorization: Bearer 0123456789abcdef\r\n");
    assert_eq!(status, 200, "{document}");
    let document: Value = serde_json::from_str(&document).unwrap();
    let scheme = &document["components"]["securitySchemes"]["token"];
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&json!("http"), &json!("bearer")));
    assert_eq!(document["security"], json!([{ "token": [] }, {}]));
    let mut open = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let asked: Vec<_> = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
        for (method, operation) in operations.as_object().unwrap() {
            let is_open = operation["security"] == json!([]);
            assert_eq!(operation["responses"]["401"].is_object(), !is_open, "{method} {path}");
            let (status, _) = server.ask(&method.to_uppercase(), &asked.join("/"), "", "");
            assert_eq!(status == 401, !is_open, "{method} {path}: {status}");
            open.extend(is_open.then_some(path.as_str()));
        }
    }
    assert_eq!(open, ["/healthz", "/page/{file}", "/readyz"]);
    server.end();
}

#[test]
fn an_address_of_all_and_a_token_that_is_none_are_refused() {
    let bench = Bench::new();
    let plugins = bench.path().join("plugins").display().to_string();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let said = bench.fails(2, &["serve", "--plugins", &plugins, "--listen", address]);
        assert!(
            said.contains("can be reached from other machines") && said.contains("pass --token-file FILE"),
            "{said}"
        );
    }
    let token = bench.path().join("token");
    for (content, problem) in
        [("", "is empty"), ("short", "has 5 characters"), ("a b c d e f g h i j", "other characters")]
    {
        std::fs::write(&token, content).unwrap();
        let file = token.display().to_string();
        let said = bench.fails(1, &["serve", "--plugins", &plugins, "--listen", "0.0.0.0:0", "--token-file", &file]);
        assert!(said.contains(problem), "{said}");
        assert_eq!(std::fs::read_to_string(&token).unwrap(), content);
    }
    assert!(!bench.path().join("plugins").exists());
    let absent = bench.path().join("absent").display().to_string();
    let said = bench.fails(1, &["remove", "p", "--engine", "127.0.0.1:9", "--token-file", &absent]);
    assert_eq!(said, format!("{absent} is not there"));
}

#[cfg(feature = "https")]
mod tls {
    use super::*;

    use std::io::Read;
    use std::net::TcpStream;
    use std::path::Path;

    use support::finish;

    /// A file of `tests/tls/make.sh`.
    fn file(name: &str) -> String {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name).display().to_string()
    }

    #[test]
    fn requests_and_commands_are_served_by_https() {
        let bench = Bench::new();
        package(&bench, "v1");
        let zip = bench.path().join("v1.zip").display().to_string();
        let token = bench.path().join("token").display().to_string();
        let (certificate, key) = (file("server.pem"), file("server.key"));
        let arguments =
            ["--listen", "127.0.0.1:0", "--token-file", &token, "--tls-cert", &certificate, "--tls-key", &key];
        let server = Server::start_with(&bench, &arguments, &[]);
        // Those that do not speak TLS, or nothing at all, are in nobody's way.
        let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
        let mut plain = TcpStream::connect(&server.address).unwrap();
        std::io::Write::write_all(&mut plain, b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

        let url = format!("https://{}", server.address.replace("127.0.0.1", "localhost"));
        let command = |arguments: &[&str], authorities: &str| {
            let arguments = [arguments, &["--engine", &url, "--token-file", &token]].concat();
            let mut command = bench.command(&arguments);
            command.env("SSL_CERT_FILE", file(authorities)).env("SSL_CERT_DIR", "");
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            finish(command.spawn().unwrap())
        };
        let ran = command(&["deploy", &zip], "ca.pem");
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let said: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
        assert_eq!((&said["engine"], &said["status"]), (&json!(url), &json!("running")));
        assert_eq!(command(&["logs"], "ca.pem").code, Some(0));
        let ran = command(&["remove", "mirror"], "other-name.pem");
        let why = "its certificate is from no authority that this machine trusts";
        assert!(ran.code == Some(1) && ran.stderr.contains(why), "{ran:?}");
        let ran = bench.run(&["remove", "mirror", "--engine", &server.address]);
        assert!(ran.code == Some(1) && ran.stderr.contains("cannot ask for the version"), "{ran:?}");
        assert_eq!(command(&["remove", "mirror"], "ca.pem").code, Some(0));
        drop(silent);
        assert!(!server.end().contains("on their way"));
        bench.assert_nothing_is_left();
    }

    #[test]
    fn certificates_and_keys_that_cannot_be_used_are_told() {
        let bench = Bench::new();
        let path = |name: &str| bench.path().join(name).display().to_string();
        std::fs::write(path("text"), "no PEM").unwrap();
        std::fs::write(path("broken"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        std::fs::write(path("half"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
        let (certificate, key) = (file("server.pem"), file("server.key"));
        for (certificate, key, said) in [
            (&path("absent"), &key, "absent cannot be read: No such file"),
            (&certificate, &path("absent"), "absent cannot be read: No such file"),
            (&path("text"), &key, "text has no certificate in PEM"),
            (&certificate, &path("text"), "text has no private key in PEM"),
            (&key, &key, "server.key has no certificate in PEM"),
            (&certificate, &certificate, "server.pem has no private key in PEM"),
            (&path("half"), &key, "half has a certificate that cannot be read"),
            (&path("broken"), &key, "broken is no certificate that can be used"),
            (&certificate, &file("other.key"), "other.key is not the private key of the certificate"),
        ] {
            let text =
                bench.fails(1, &["serve", "--plugins", &path("plugins"), "--tls-cert", certificate, "--tls-key", key]);
            assert!(text.contains(said), "{said}: {text}");
        }
        let one = bench.run(&["serve", "--plugins", &path("plugins"), "--tls-cert", &certificate]);
        assert_eq!(one.code, Some(2), "{one:?}");
        assert!(!bench.path().join("plugins").exists());
    }
}
