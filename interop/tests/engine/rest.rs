//! The requests that a real engine answers, to it and to `serve`, side by side.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use ekuiper_interop::tools;
use serde_json::{Value, json};

use ekuiper_interop::engine::kuiperd::{Engine, PATIENCE, Site};

/// An answer, without what differs by nature.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    status: String,
    content_type: Option<String>,
    is_nosniff: bool,
    body: Value,
}

impl Answer {
    pub(crate) fn body_mut(&mut self) -> &mut Value {
        &mut self.body
    }
}

/// Sends a request, byte by byte the same to both.
pub(crate) fn ask(url: &str, method: &str, path: &str, body: &str) -> Answer {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let header = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_lowercase())
    };
    let mut body = serde_json::from_str(body).unwrap_or_else(|_| json!(body));
    // Each has its own folder.
    for plugin in body.as_array_mut().into_iter().flatten() {
        shorten(plugin);
    }
    shorten(&mut body);
    Answer {
        status: head.split(' ').nth(1).unwrap().to_owned(),
        content_type: header("content-type"),
        is_nosniff: header("x-content-type-options").is_some_and(|value| value == "nosniff"),
        body,
    }
}

fn shorten(plugin: &mut Value) {
    if let Some(executable) = plugin.get_mut("executable") {
        *executable = json!(executable.as_str().unwrap().rsplit('/').next());
    }
}

/// Cuts an error's message behind `prefix`, where each has its own words.
pub(crate) fn with_prefix(mut answer: Answer, prefix: &str) -> Answer {
    if let Some(message) = answer.body.get_mut("message") {
        assert!(message.as_str().unwrap().starts_with(prefix), "{message} does not begin with {prefix}");
        *message = json!(prefix);
    }
    answer
}

pub(crate) struct Served(Child, String);

impl Served {
    pub(crate) fn start(site: &Site) -> Self {
        let plugins = site.path("served");
        let mut child = Command::new(tools::ekuiper_plugin())
            .args(["serve", "--listen", "127.0.0.1:0", "--plugins"])
            .arg(plugins)
            .env("TMPDIR", site.path(""))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap_or_else(|| panic!("{line}")).split('/').next().unwrap();
        Self(child, format!("http://{address}"))
    }

    /// Where its REST interface is.
    pub(crate) fn url(&self) -> &str {
        &self.1
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn serve_answers_as_the_engine_does() {
    const CREATE: &str = "portable plugin create command error: ";
    const UPDATE: &str = "portable plugin update command error: ";
    let Some(site) = Site::new() else { return };
    let engine = Engine::start(&site);
    let served = Served::start(&site);
    std::fs::write(site.path("text.zip"), "no zip").unwrap();
    let all = "/plugins/portables";
    let mirror = "/plugins/portables/mirror";
    let install = |name: &str, file: &str| json!({ "name": name, "file": file }).to_string();
    let good = install("mirror", "file://SITE/mirror.zip");
    // Where the words differ, the prefix of both.
    let requests = [
        ("GET", all, String::new(), None),
        ("GET", mirror, String::new(), None),
        ("GET", "/plugins/portables/mirror/status", String::new(), None),
        (
            "DELETE",
            mirror,
            String::new(),
            Some("delete portable plugin mirror error: portable plugin mirror is not found"),
        ),
        ("POST", all, "{".into(), Some("Invalid body: Error decoding the portable plugin json: ")),
        ("POST", all, String::new(), Some("Invalid body: Error decoding the portable plugin json: ")),
        ("POST", all, install("", "file:///x.zip"), None),
        ("POST", all, install("mirror", ""), Some("portable plugin create command error: invalid uri ")),
        (
            "POST",
            all,
            json!({ "name": "mirror" }).to_string(),
            Some("portable plugin create command error: invalid uri "),
        ),
        ("POST", all, install("mirror", "/x.zip"), Some("portable plugin create command error: invalid uri /x.zip")),
        (
            "POST",
            all,
            install("mirror", "file:///x.tar"),
            Some("portable plugin create command error: invalid uri file:///x.tar"),
        ),
        (
            "POST",
            all,
            install("mirror", "ftp://x/x.zip"),
            Some("portable plugin create command error: invalid uri ftp://x/x.zip"),
        ),
        ("POST", all, install("mirror", "file:///absent.zip"), Some(CREATE)),
        ("POST", all, install("mirror", "file://SITE/text.zip"), Some(CREATE)),
        ("POST", all, install("other", "file://SITE/mirror.zip"), Some(CREATE)),
        ("POST", all, good.clone(), None),
        ("POST", all, good.clone(), Some(CREATE)),
        ("GET", all, String::new(), None),
        ("GET", mirror, String::new(), None),
        ("GET", "/plugins/portables/mirror/status", String::new(), None),
        ("PUT", mirror, good, None),
        ("PUT", "/plugins/portables/none", install("none", "file://SITE/mirror.zip"), Some(UPDATE)),
        ("DELETE", mirror, String::new(), None),
        (
            "DELETE",
            mirror,
            String::new(),
            Some("delete portable plugin mirror error: portable plugin mirror is not found"),
        ),
        ("GET", all, String::new(), None),
        ("GET", "/plugins/portables/", String::new(), None),
        ("GET", "/nothing", String::new(), None),
    ];
    for (method, path, body, prefix) in requests {
        let place = site.path("").display().to_string();
        let of_engine = ask(engine.url(), method, path, &body.replace("SITE", "/tmp"));
        let of_ours = ask(&served.1, method, path, &body.replace("SITE", place.trim_end_matches('/')));
        let cut = |answer| match prefix {
            Some(prefix) => with_prefix(answer, prefix),
            None => answer,
        };
        assert_eq!(cut(of_ours), cut(of_engine), "{method} {path} {body}");
    }
    drop(served);
    engine.stop();
}
