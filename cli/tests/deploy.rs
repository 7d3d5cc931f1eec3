//! `deploy` and `remove` where no engine takes them; interop/tests/engine.rs has
//! what a real one does.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};
use support::raw_zip::{self, Entry};
use support::{Bench, finish, speaker};

/// What an engine is asked for: the method, the path, and the body.
type Asked = (String, String, Vec<u8>);

/// An engine that gives these answers; each request is told.
struct Server {
    url: String,
    asked: Receiver<Asked>,
}

impl Server {
    /// Answers each request until the test ends. A request without an answer is
    /// left waiting.
    fn new(answer: impl Fn(&str, &str) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tell, asked) = channel();
        std::thread::spawn(move || {
            let mut waiting = Vec::new();
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                // A client that has gone away sends half a request.
                let Some((method, path, body)) = request(&connection) else { continue };
                let answer = answer(&method, &path);
                let _ = tell.send((method, path, body));
                match answer {
                    Some(answer) => drop(connection.write_all(answer.as_bytes())),
                    None => waiting.push(connection),
                }
            }
        });
        Self { url, asked }
    }

    /// Gives all requests the same answer.
    fn always(answer: &'static str) -> Self {
        Self::new(move |_, _| Some(answer.to_owned()))
    }

    /// Works like eKuiper, but for these answers.
    fn engine(other: impl Fn(&str, &str) -> Option<Option<String>> + Send + Sync + 'static) -> Self {
        Self::new(move |method, path| other(method, path).unwrap_or_else(|| Some(eKuiper::answer(method, path))))
    }

    /// Waits until it is asked for this.
    fn wait_for(&self, method: &str, path: &str) -> Asked {
        self.asked.iter().find(|(asked, at, _)| asked == method && at.starts_with(path)).unwrap()
    }

    /// What it was asked for until now, but for questions.
    fn changes(&self) -> Vec<String> {
        let asked = self.asked.try_iter().filter(|(method, ..)| method != "GET");
        asked.map(|(method, path, _)| format!("{method} {path}")).collect()
    }
}

/// What an engine without rules and with the plugin `other` answers.
#[allow(non_camel_case_types)]
struct eKuiper;

impl eKuiper {
    fn answer(method: &str, path: &str) -> String {
        match (method, path) {
            ("GET", "/") => good(r#"{"version":"2.0","os":"linux","arch":"amd64"}"#),
            ("GET", "/plugins/portables") => good(r#"[{"name":"other","version":"v1","functions":["taken"]}]"#),
            ("GET", "/streams" | "/tables" | "/rules" | "/config/uploads") => good("[]"),
            ("POST", "/config/uploads") => good("/data/uploads/x.zip"),
            ("DELETE" | "POST", _) => good("done"),
            _ if path.ends_with("/status") => good(r#"{"refCount":{},"status":"running","errMsg":""}"#),
            _ => answer("404 Not Found", r#"{"error":1002,"message":"not found"}"#),
        }
    }
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn good(body: &str) -> String {
    answer("200 OK", body)
}

/// Reads a request.
fn request(connection: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(connection);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.to_lowercase().split_once("content-length:") {
            _ if line == "\r\n" => break,
            Some((_, value)) => length = value.trim().parse().ok()?,
            None => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = first.split(' ');
    Some((words.next()?.to_owned(), words.next()?.to_owned(), body))
}

/// Writes a zip, and returns its path.
fn zip(bench: &Bench, name: &str, entries: &[Entry<'_>]) -> String {
    let path = bench.path().join(format!("{name}.zip"));
    raw_zip::write(&path, entries);
    path.to_str().unwrap().to_owned()
}

/// A package with a script that does nothing, and this manifest.
fn package(bench: &Bench, name: &str, manifest: &str) -> String {
    let program = Entry { mode: 0o100_755, ..Entry::file("run", b"#!/bin/sh\n") };
    zip(bench, name, &[Entry::file(&format!("{name}.json"), manifest.as_bytes()), program])
}

/// A good one.
fn good_package(bench: &Bench) -> String {
    package(bench, "plain", r#"{"version":"v1","language":"go","executable":"run","functions":["plain"]}"#)
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
        let Server { url, .. } = Server::always(answer);
        let error = bench.fails(1, &["remove", "p", "--engine", &url]);
        assert!(error.contains(&format!("what answers at {url} is no eKuiper")), "{error}");
    }
    let Server { url, .. } = Server::always("SSH-2.0-OpenSSH_9.2\r\n");
    let error = bench.fails(1, &["remove", "p", "--engine", &url]);
    assert!(error.contains("cannot ask for the version"), "{error}");
    let Server { url, .. } =
        Server::always("HTTP/1.1 401 Unauthorized\r\ncontent-length: 12\r\nconnection: close\r\n\r\nno token\u{1b}[2J");
    let error = bench.fails(1, &["remove", "p", "--engine", &url]);
    assert!(error.contains("pass --token-file or --token") && !error.contains('\u{1b}'), "{error}");
    let Server { url, .. } = Server::always(
        "HTTP/1.1 302 Found\r\nlocation: http://x/\u{1b}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    );
    let error = bench.fails(1, &["remove", "p", "--engine", &url]);
    assert!(error.contains("cannot ask for the version") || error.contains("sends elsewhere"), "{error}");
    let Server { url, .. } =
        Server::always("HTTP/1.1 302 Found\r\nlocation: http://x/y\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let error = bench.fails(1, &["remove", "p", "--engine", &url]);
    assert!(
        error.contains("sends elsewhere, to http://x/y: give the address of the engine itself by --engine"),
        "{error}"
    );
    // The rest of a body that never ends is not read.
    let Server { url, .. } =
        Server::always("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\nconnection: close\r\n\r\n");
    let error = bench.fails(1, &["remove", "p", "--engine", &url]);
    assert!(error.contains("cannot ask for the version"), "{error}");
}

#[test]
fn what_answers_in_part_like_an_engine_is_none() {
    let bench = Bench::new();
    let path = good_package(&bench);
    for body in ["null", "[1]", "{}", "<html>", "\"x\""] {
        let server = Server::engine(move |_, path| path.starts_with("/plugins").then(|| Some(good(body))));
        let error = bench.fails(1, &["remove", "p", "--engine", &server.url]);
        assert!(error.contains("is no eKuiper"), "{body}: {error}");
        // A list of Go's that is empty may be null.
        let ran = bench.run(&["deploy", &path, "--engine", &server.url]);
        assert_eq!(ran.stderr.contains("uploading"), body == "null", "{body}: {ran:?}");
        assert!(ran.stderr.contains("is no eKuiper"), "{body}: {ran:?}");
    }
}

#[test]
fn an_engine_that_does_not_answer_in_time_is_given_up() {
    let (silent, dripping) =
        (Server::engine(|_, path| (path != "/").then_some(None)), TcpListener::bind("127.0.0.1:0"));
    let dripping = dripping.unwrap();
    let url = format!("http://{}", dripping.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut connection, _) = dripping.accept().unwrap();
        let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n");
        while connection.write_all(b" ").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
    let bench = Bench::new();
    let run = |url: &str| bench.command(&["remove", "p", "--engine", url]).stderr(Stdio::piped()).spawn().unwrap();
    for ran in [run(&silent.url), run(&url)].map(finish) {
        assert!(ran.code == Some(1) && ran.stderr.contains("timeout"), "{ran:?}");
    }
}

#[test]
fn addresses_that_are_none_are_wrong_invocations() {
    let bench = Bench::new();
    for (url, problem) in [
        ("ftp://x", "it is no URL"),
        ("http://", "it is no URL"),
        ("http://a b", "it is no URL"),
        ("http://x/?y=1", "it has more than"),
        ("http://x/#y", "it has more than"),
        ("127.0.0.1:99999", "its port is none"),
        ("http://x:0", "its port is none"),
        ("http://x:", "its port is none"),
        ("http://[::1]:x", "its port is none"),
        ("http://me:secret@x", "given by --token-file or --token"),
        ("me:secret@x:9081", "given by --token-file or --token"),
    ] {
        let error = bench.fails(2, &["remove", "p", "--engine", url]);
        assert!(error.contains(problem) && error.ends_with("write http://HOST:PORT"), "{url}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn an_address_may_have_a_path_and_lack_its_scheme() {
    let bench = Bench::new();
    let server = Server::new(|_, path| Some(eKuiper::answer("GET", path.strip_prefix("/a/b").unwrap_or("/none"))));
    let address = server.url.strip_prefix("http://").unwrap();
    for url in [format!("HTTP://{address}/a/b"), format!("{address}/a/b///")] {
        let error = bench.fails(1, &["remove", "p", "--engine", &url]);
        assert_eq!(error, format!("the engine at http://{address}/a/b has no plugin p"));
    }
}

#[test]
fn names_of_which_there_is_no_folder_are_wrong_invocations() {
    let bench = Bench::new();
    let long = "x".repeat(300);
    for name in ["", ".", "..", "../x", "a/b", "a\nb", "a\u{1b}[2J", &long] {
        let error = bench.fails(2, &["remove", name]);
        assert!(error.ends_with("cannot be an installed plugin's name: eKuiper makes a folder of it"), "{error}");
        assert!(!error.contains('\u{1b}') && error.len() < 200, "{error}");
    }
}

#[test]
fn a_package_that_ekuiper_would_refuse_is_not_sent() {
    let bench = Bench::new();
    let server = Server::engine(|_, _| None);
    let manifest =
        Entry::file("plain.json", br#"{"version":"v1","language":"go","executable":"run","functions":["f"]}"#);
    let run = || Entry { mode: 0o100_755, ..Entry::file("run", b"#!/bin/sh\n") };
    let link = Entry { mode: 0o120_777, ..Entry::file("link", b"/etc/passwd") };
    let zeros = raw_zip::zeros(80 << 20);
    let bomb = Entry { method: 8, announced: 3 << 30, ..Entry::file("zeros", &zeros) };
    let text = bench.path().join("text.zip");
    std::fs::write(&text, "hello").unwrap();
    let cases = [
        (zip(&bench, "a", &[manifest, run(), Entry::file("../x", b"")]), "entry ../x leads out of the plugin's folder"),
        (zip(&bench, "b", &[manifest, run(), Entry::file("/x", b"")]), "entry /x is an absolute path"),
        (zip(&bench, "c", &[manifest, run(), link]), "entry link is a symbolic link"),
        (zip(&bench, "d", &[manifest, run(), bomb]), "unpacked"),
        (zip(&bench, "e", &[run()]), "has no manifest"),
        (zip(&bench, "f", &[manifest, run(), Entry::file("x.json", b"{}")]), "has 2 files that may be the manifest"),
        (zip(&bench, "g", &[manifest]), "run: does not exist"),
        (zip(&bench, "h", &[manifest, run(), run()]), "lists an entry twice"),
        (text.to_str().unwrap().to_owned(), "is not a zip"),
        (package(&bench, "i", "{"), "i.json"),
        (package(&bench, "j", r#"{"language":"rust","executable":"run","functions":["f"]}"#), r#"language: is "rust""#),
        (package(&bench, "k", r#"{"language":"go","executable":"run","sources":["s"]}"#), "sources/s.yaml"),
        (
            package(&bench, "l", r#"{"name":"m","language":"go","executable":"run","functions":["f"]}"#),
            r#"name: is "m", but the file l.json"#,
        ),
        (
            package(&bench, "n", r#"{"language":"go","executable":"run","functions":["abs"]}"#),
            "function abs: eKuiper has",
        ),
        (
            package(&bench, &"o".repeat(120), r#"{"language":"go","executable":"run","functions":["f"]}"#),
            "has a name of 120 bytes",
        ),
    ];
    for (path, problem) in cases {
        let error = bench.fails(1, &["deploy", &path, "--engine", &server.url]);
        assert!(error.starts_with(&format!("{path} cannot be deployed: ")), "{error}");
        assert!(error.contains(problem) && error.matches(&path).count() == 1, "{path}: {error}");
        assert_eq!(server.changes(), [""; 0], "{path}");
    }
    // Nothing that could be unpacked at all.
    let error = bench.fails(1, &["deploy", "no-such.zip", "--engine", &server.url]);
    assert!(error.contains("no-such.zip"), "{error}");
}

#[test]
fn a_symbol_of_another_plugin_is_refused() {
    let bench = Bench::new();
    let server = Server::engine(|_, _| None);
    let path = package(&bench, "plain", r#"{"language":"go","executable":"run","functions":["f","taken"]}"#);
    let ran = bench.run(&["deploy", &path, "--engine", &server.url]);
    assert_eq!((ran.code, &*ran.stdout), (Some(1), ""), "{ran:?}");
    let expected = format!(
        "ekuiper-plugin: function taken is the plugin other's in the engine at {}, and an engine has each name only once: \
         give it another name, or remove other\n",
        server.url
    );
    assert!(ran.stderr.ends_with(&expected), "{ran:?}");
    assert_eq!(server.changes(), [""; 0]);
}

#[test]
fn a_program_for_another_processor_than_the_engine_s_is_refused() {
    let bench = Bench::new();
    let (own, other) = if cfg!(target_arch = "x86_64") { ("amd64", "arm64") } else { ("arm", "amd64") };
    let server = Server::engine(move |_, path| {
        (path == "/").then(|| Some(good(&format!(r#"{{"version":"2.0","os":"linux","arch":"{other}"}}"#))))
    });
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    // Its header is enough.
    let program = Entry { mode: 0o100_755, ..Entry::file("run", &program) };
    let manifest = br#"{"version":"v1","language":"go","executable":"run","functions":["f"]}"#;
    let path = zip(&bench, "plain", &[Entry::file("plain.json", manifest), program]);
    let ran = bench.run(&["deploy", &path, "--engine", &server.url]);
    assert_eq!((ran.code, &*ran.stdout), (Some(1), ""), "{ran:?}");
    let told = format!("runs on linux/{other}, and the program is built for {own}");
    assert!(
        ran.stderr.contains(&told) && ran.stderr.contains(&format!(": package it with --target {other}")),
        "{ran:?}"
    );
    // A program that needs glibc does not start in eKuiper's default image.
    assert!(ran.stderr.contains("warning: ") && ran.stderr.contains("default image"), "{ran:?}");
    assert_eq!(server.changes(), [""; 0]);
    // `serve` runs plugins where it runs itself.
    let about = format!(r#"{{"version":"0.1.0","os":"linux","arch":"{own}","manager":"ekuiper-manager"}}"#);
    let server = Server::engine(move |_, path| (path == "/").then(|| Some(good(&about))));
    let ran = bench.run(&["deploy", &path, "--engine", &server.url]);
    assert!(ran.stderr.contains("uploading") && !ran.stderr.contains("image"), "{ran:?}");
}

#[test]
fn an_installation_that_is_refused_leaves_no_upload() {
    let bench = Bench::new();
    let path = good_package(&bench);
    let server = Server::engine(|method, path| {
        let refusal = r#"{"error":1000,"message":"portable plugin create command error: no\u001b[2J"}"#;
        (method == "POST" && path == "/plugins/portables").then(|| Some(answer("400 Bad Request", refusal)))
    });
    let ran = bench.run(&["deploy", &path, "--engine", &server.url]);
    assert_eq!((ran.code, &*ran.stdout), (Some(1), ""), "{ran:?}");
    assert!(ran.stderr.contains("refuses to install the plugin: portable plugin create command error: no\\u{1b}[2J"));
    let changes = server.changes();
    assert_eq!(changes.len(), 3, "{changes:?}");
    assert_eq!(changes[..2], ["POST /config/uploads", "POST /plugins/portables"]);
    assert!(changes[2].starts_with("DELETE /config/uploads/plain-deployed-"), "{changes:?}");
    bench.assert_nothing_is_left();
}

/// Starts `deploy`, waits until the engine is asked for this, and sends Ctrl-C.
fn interrupted(bench: &Bench, server: &Server, path: &str, method: &str, asked: &str) -> String {
    let arguments = ["deploy", path, "--engine", &server.url];
    let child = bench.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    server.wait_for(method, asked);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ran = finish(child);
    assert_eq!((ran.code, &*ran.stdout), (Some(130), ""), "{ran:?}");
    bench.assert_nothing_is_left();
    ran.stderr
}

#[test]
fn ctrl_c_ends_it_whatever_the_engine_does() {
    let bench = Bench::new();
    let path = good_package(&bench);
    for (method, hangs) in [
        ("GET", "/plugins/portables"),
        ("POST", "/config/uploads"),
        ("POST", "/plugins/portables"),
        ("GET", "/plugins/portables/plain/status"),
    ] {
        let server = Server::engine(move |asked, path| (asked == method && path == hangs).then_some(None));
        let told = interrupted(&bench, &server, &path, method, hangs);
        let is_installing = (method, hangs) == ("POST", "/plugins/portables") || hangs.ends_with("/status");
        assert_eq!(told.contains("goes on with the installation of plain"), is_installing, "{hangs}: {told}");
    }
    // What was uploaded and is not installed is removed.
    let server = Server::engine(|method, path| {
        std::thread::sleep(std::time::Duration::from_millis(if path == "/config/uploads" { 300 } else { 0 }));
        (method == "GET" && path == "/data/export").then_some(None)
    });
    let arguments = ["deploy", &path, "--engine", &server.url];
    let child = bench.command(&arguments).stderr(Stdio::piped()).spawn().unwrap();
    server.wait_for("GET", "/plugins/portables");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(finish(child).code, Some(130));
    let changes = server.changes();
    assert!(!changes.iter().any(|change| change == "POST /plugins/portables"), "{changes:?}");
    let is_upload = |change: &&String| change.ends_with("/config/uploads");
    let is_removal = |change: &&String| change.starts_with("DELETE /config/uploads/plain-deployed-");
    assert!(changes.iter().filter(is_removal).count() >= changes.iter().filter(is_upload).count(), "{changes:?}");
}

#[test]
fn serve_takes_a_plugin_as_ekuiper_does() {
    let bench = Bench::new();
    let folder = speaker(&bench, "b'handshake'", "");
    let name = folder.file_name().unwrap().to_str().unwrap();
    let plugins = bench.path().join("plugins");
    let arguments = ["serve", "--plugins", plugins.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let mut serve = bench.command(&arguments).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut told = BufReader::new(serve.stderr.take().unwrap());
    told.read_line(&mut line).unwrap();
    std::thread::spawn(move || std::io::copy(&mut told, &mut std::io::sink()));
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().trim();
    for was in ["null", "\"\""] {
        let ran = bench.run(&["deploy", folder.to_str().unwrap(), "--engine", address]);
        assert!(ran.code == Some(0) && ran.stderr.contains("uploading"), "{ran:?}");
        let expected = format!(
            "{{\"engine\":\"http://{address}\",\"name\":\"{name}\",\"rules\":[],\"status\":\"running\",\"version\":\"\",\
             \"was\":{was}}}\n"
        );
        assert_eq!(ran.stdout, expected);
    }
    let ran = bench.run(&["remove", name, "--engine", address]);
    assert_eq!(
        ran.stdout,
        format!("{{\"engine\":\"http://{address}\",\"removed\":\"{name}\",\"rules\":[]}}\n"),
        "{ran:?}"
    );
    let error = bench.run(&["remove", name, "--engine", address]).stderr;
    assert!(error.contains(&format!("has no plugin {name}")), "{error}");
    kill_process(Pid::from_child(&serve), Signal::TERM).unwrap();
    finish(serve);
    bench.assert_nothing_is_left();
}
