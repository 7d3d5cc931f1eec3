//! `serve`: a plugin's life by requests.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::path::Path;

use ekuiper_manager::archive::{Archive, Limits};
use serde_json::{Value, json};
use support::Bench;
use support::served::{Server, package};

#[test]
fn a_plugin_is_installed_updated_and_deleted_by_requests() {
    let bench = Bench::new();
    let [first, second] = ["v1", "v2"].map(|version| package(&bench, version));
    let server = Server::start(&bench);
    let portables = "/plugins/portables";
    let mirror = "/plugins/portables/mirror";
    assert_eq!(server.json(portables), json!([]));
    let created = server.ask("POST", portables, &first, "");
    assert_eq!(created, (201, "portable plugin mirror is created".into()));
    let (status, body) = server.ask("POST", portables, &first, "");
    let error = "portable plugin create command error: plugin mirror is installed already, in version \"v1\": update it instead";
    assert_eq!((status, serde_json::from_str(&body).unwrap()), (400, json!({ "error": 1000, "message": error })));
    let described = server.json(mirror);
    assert_eq!(server.json(portables), json!([described]));
    assert_eq!((&described["name"], &described["version"]), (&json!("mirror"), &json!("v1")));
    assert!(Path::new(described["executable"].as_str().unwrap()).is_file());
    assert_eq!(server.json(&format!("{mirror}/status")), json!({ "refCount": {}, "status": "running", "errMsg": "" }));
    let (status, figures) = server.ask("GET", "/metrics", "", "");
    assert_eq!(status, 200);
    assert!(figures.contains("ekuiper_plugin_state{plugin=\"mirror\",state=\"running\"} 1\n"), "{figures}");
    // The path has its name.
    let mut second: Value = serde_json::from_str(&second).unwrap();
    second.as_object_mut().unwrap().remove("name");
    let updated = server.ask("PUT", mirror, &second.to_string(), "");
    assert_eq!(updated, (200, "portable plugin mirror is updated".into()));
    assert_eq!(server.json(mirror)["version"], "v2");
    let (status, said) = server.ask("DELETE", "/plugins/portables/other", "", "");
    let known = "portable plugin other is not found: installed are mirror";
    assert!(status == 400 && said.contains(known), "{said}");
    let (status, said) = server.ask("PUT", "/plugins/portables/other", &second.to_string(), "");
    assert!(status == 400 && said.contains("plugin other is not installed: installed are mirror"), "{said}");

    // Another start has the same plugins.
    server.end();
    let server = Server::start(&bench);
    assert_eq!(server.json(mirror)["version"], "v2");
    // They are started, too.
    ekuiper_conformance::wait_until("the plugin runs", || {
        server.json(&format!("{mirror}/status"))["status"] == "running"
    });
    assert_eq!(server.ask("DELETE", mirror, "", ""), (200, "portable plugin mirror is deleted".into()));
    assert_eq!(server.json(portables), json!([]));
    server.end();
    bench.assert_nothing_is_left();
}

/// What is deployed to an engine can be deployed here.
#[test]
fn plugins_are_deployed_to_it() {
    let bench = Bench::new();
    for version in ["v1", "v2"] {
        package(&bench, version);
    }
    let server = Server::start(&bench);
    for version in ["v1", "v2"] {
        let zip = bench.path().join(format!("{version}.zip")).display().to_string();
        assert_eq!(server.json("/config/uploads"), json!([]));
        let ran = bench.run(&["deploy", &zip, "--engine", &server.address]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let said: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
        assert_eq!((&said["version"], &said["status"]), (&json!(version), &json!("running")));
        assert_eq!(server.json("/plugins/portables/mirror")["version"], version);
    }
    let ran = bench.run(&["remove", "mirror", "--engine", &server.address]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(server.json("/plugins/portables"), json!([]));
    let uploads = bench.path().join("plugins/uploads");
    assert_eq!(std::fs::read_dir(uploads).unwrap().count(), 0);
    server.end();
    bench.assert_nothing_is_left();
}

/// A folder is installed by a URL that ends in a slash.
#[test]
fn a_folder_is_installed_by_its_url() {
    let bench = Bench::new();
    package(&bench, "v1");
    let folder = bench.path().join("my plugin");
    let mut archive = Archive::open(bench.path().join("v1.zip"), Limits::default()).unwrap();
    archive.unpack(&folder, |_| true).unwrap();
    let server = Server::start(&bench);
    let url = format!("file://{}/", folder.display().to_string().replace(' ', "%20"));
    let body = json!({ "name": "mirror", "file": url }).to_string();
    let created = server.ask("POST", "/plugins/portables", &body, "");
    assert_eq!(created, (201, "portable plugin mirror is created".into()));
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(server.json("/plugins/portables/mirror")["version"], "v1");
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn bad_requests_change_nothing_and_are_answered_in_a_sentence() {
    let bench = Bench::new();
    let good = package(&bench, "v1");
    let server = Server::start(&bench);
    let portables = "/plugins/portables";
    let long = format!("{{\"name\":\"{}\"}}", "n".repeat(2 << 20));
    let other_name = good.replace("\"mirror\"", "\"other\"");
    let nameless = good.replace("\"name\":\"mirror\",", "").replace(",\"name\":\"mirror\"", "");
    assert!(!nameless.contains("name"), "{nameless}");
    for (method, path, body, headers, status, said) in [
        ("POST", portables, "", "", 400, "Invalid body: Error decoding the portable plugin json"),
        ("POST", portables, "[1]", "", 400, "Invalid body: Error decoding the portable plugin json"),
        ("POST", portables, r#"{"name":"","file":"file:///x.zip"}"#, "", 400, "invalid name : should not be empty"),
        ("POST", portables, r#"{"name":"mirror"}"#, "", 400, "command error: invalid uri : file is missing or empty"),
        ("POST", portables, r#"{"name":"mirror","file":"/x.zip"}"#, "", 400, "invalid uri /x.zip: write file:///x.zip"),
        (
            "POST",
            portables,
            r#"{"name":"mirror","file":"/my x"}"#,
            "",
            400,
            "/my x: write file:///my%20x/ for a folder",
        ),
        ("POST", portables, r#"{"name":"mirror","file":"my/x"}"#, "", 400, "my/x: it is a relative path: write"),
        ("POST", portables, r#"{"name":"mirror","file":"file://my/x/"}"#, "", 400, "x/: a path begins with a slash"),
        ("POST", portables, r#"{"name":"mirror","file":"file:///x.tar"}"#, "", 400, "x.tar: it is no .zip: a folder's"),
        ("POST", portables, r#"{"name":"mirror","file":"file:///absent/"}"#, "", 400, "cannot read /absent/"),
        ("POST", portables, r#"{"name":"mirror","file":"http://h/x/"}"#, "", 400, "http://h/x/: it is no .zip"),
        (
            "POST",
            portables,
            r#"{"name":"mirror","file":"ftp://h/x.zip"}"#,
            "",
            400,
            "x.zip: its scheme is not supported",
        ),
        ("POST", portables, r#"{"name":"mirror","file":"file:///absent.zip"}"#, "", 400, "cannot read /absent.zip"),
        ("POST", portables, r#"{"name":"mirror","file":"http://127.0.0.1:9/x.zip"}"#, "", 400, "a private network"),
        ("POST", portables, r#"{"name":"../x","file":"file:///x.zip"}"#, "", 400, "cannot be a plugin's name"),
        ("POST", portables, &other_name, "", 400, "the package is that of plugin mirror, not of other"),
        ("POST", portables, &long, "", 413, "has more than 1048576 bytes"),
        ("POST", portables, &good, "Origin: http://evil.example\r\n", 403, "a page of http://evil.example may not"),
        ("POST", portables, &good, "Origin: null\r\n", 403, "may not manage plugins here"),
        ("GET", portables, "", "Host: evil.example\r\n", 403, "ask for it by its address, or as localhost"),
        ("GET", "/metrics", "", "Sec-Fetch-Site: cross-site\r\n", 403, "may not look at plugins here"),
        ("POST", portables, r#"["mirror","file:///x.zip"]"#, "", 400, "it is a list, and no object"),
        ("POST", portables, "7", "", 400, "it is a single value, and no object"),
        ("PUT", "/plugins/portables/mirror", &good, "", 400, "plugin mirror is not installed: none is installed"),
        ("PUT", "/plugins/portables/other", &other_name, "", 400, "plugin other is not installed: none is installed"),
        ("PUT", "/plugins/portables/other", &nameless, "", 400, "plugin other is not installed: none is installed"),
        ("PUT", "/plugins/portables/other", &good, "", 400, "the path names plugin other, and the body plugin mirror"),
        ("DELETE", "/plugins/portables/mirror", "", "", 400, "portable plugin mirror is not found: none is installed"),
        ("DELETE", "/plugins/portables/mirror?users=x", "", "", 400, "users is to be keep or stop"),
        ("GET", "/plugins/portables/mirror", "", "", 404, "describe portable plugin mirror error: not found"),
        ("GET", "/plugins/portables/mirror/status", "", "", 404, "portable plugin mirror not found: not found"),
        ("GET", "/plugins/portables/a%2Fb%1b", "", "", 404, "describe portable plugin"),
        ("GET", "/nothing", "", "", 404, "404 page not found"),
    ] {
        let (found, answer) = server.ask(method, path, body, headers);
        assert_eq!(found, status, "{method} {path}: {answer}");
        assert!(answer.contains(said), "{method} {path}: {answer}");
        assert_eq!(server.json(portables), json!([]), "{method} {path}");
    }
    assert_eq!(server.end().matches("panicked").count(), 0);
    bench.assert_nothing_is_left();
}

/// On eKuiper's routes an error has eKuiper's content type, elsewhere that of JSON.
#[test]
fn refusals_have_one_form() {
    let bench = Bench::new();
    let server = Server::start(&bench);
    const TEXT: &str = "text/plain; charset=utf-8";
    const JSON: &str = "application/json";
    let form = "Content-Type: multipart/form-data\r\n";
    let methods = "is no method of this address";
    for (method, path, headers, status, kind, said) in [
        ("PATCH", "/plugins/portables/mirror", "", 405, TEXT, methods),
        ("POST", "/metadata/sources/random/confKeys/k", "", 405, TEXT, methods),
        ("PUT", "/functions/revert", "", 405, JSON, methods),
        ("GET", "/plugins/portables/%ff", "", 400, TEXT, "the path is not UTF-8"),
        ("GET", "/sources/%ff", "", 400, JSON, "the path is not UTF-8"),
        ("GET", "/metadata/sources?kind=a&kind=b", "", 400, TEXT, "the query "),
        ("DELETE", "/plugins/portables/x?users=a&users=b", "", 400, TEXT, "the query "),
        ("GET", "/logs?lines=1&lines=2", "", 400, JSON, "the query has \"lines\" more than once"),
        ("GET", "/sources/random?count=1&count=1", "", 400, JSON, "the query has \"count\" more than once"),
        ("POST", "/functions/a%0Ab", "", 404, JSON, "there is no function a\\nb: the plugins serve no function"),
        (
            "POST",
            "/config/uploads",
            "",
            400,
            TEXT,
            "upload error: the body is to be a form, multipart/form-data: curl -F ",
        ),
        (
            "POST",
            "/config/uploads",
            form,
            400,
            TEXT,
            "upload error: the body is to be a form, multipart/form-data: curl -F ",
        ),
        ("GET", "/sources/a b", "", 400, JSON, "percent-encoded"),
        ("GET", "/sources/a\u{1}", "", 400, JSON, "percent-encoded"),
        ("GET", "/sources/nope", "", 404, JSON, "there is no source nope"),
        ("GET", "/page/nope", "", 404, JSON, "the page has no file nope"),
        ("GET", "/logs?lines=x", "", 400, JSON, "lines is to be"),
        ("GET", "/plugins", "Sec-Fetch-Site: cross-site\r\n", 403, JSON, "a page of another site"),
        ("GET", "/plugins", "Host: evil.example\r\n", 403, JSON, "the host is"),
        ("POST", "/plugins/portables", "", 400, TEXT, "Invalid body: Error decoding the portable plugin json"),
    ] {
        let host = if headers.contains("Host: ") { "" } else { "Host: localhost\r\n" };
        let (found, answer) =
            server.send_raw(&format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}\r\n"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(found, status, "{method} {path}: {answer}");
        assert!(head.to_lowercase().contains(&format!("content-type: {kind}\r\n")), "{method} {path}: {answer}");
        let error: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{method} {path}: {answer}"));
        assert!(error["error"].is_u64(), "{method} {path}: {answer}");
        assert!(error["message"].as_str().unwrap().contains(said), "{method} {path}: {answer}");
        assert_eq!(head.to_lowercase().contains("\r\nallow: "), status == 405, "{method} {path}: {answer}");
    }
    server.end();
    bench.assert_nothing_is_left();
}

/// A page of another site can have its name lead here.
#[test]
fn a_request_must_name_this_machine() {
    let bench = Bench::new();
    let server = Server::start(&bench);
    let port = server.address.rsplit(':').next().unwrap();
    let path = "/healthz";
    let foreign = [&format!("http://evil.example:{port}{path}"), "http://evil@localhost/healthz"];
    for (path, hosts, status, said) in [
        (path, "Host: localhost\r\nHost: evil.example\r\n", 400, "2 headers Host"),
        (path, "Host: localhost\r\nHost: localhost\r\n", 400, "2 headers Host"),
        (foreign[0], "Host: localhost\r\n", 403, "as localhost"),
        (foreign[1], "Host: localhost\r\n", 403, "as localhost"),
        (path, "Host: evil@localhost\r\n", 403, "as localhost"),
        (path, "Host: localhost@evil\r\n", 403, "as localhost"),
        (path, "Host: \r\n", 403, "as localhost"),
        (path, "Host: LOCALHOST\r\n", 200, "ok"),
        (path, &format!("Host: LocalHost:{port}\r\n"), 200, "ok"),
        (path, "Host: [::1]\r\n", 200, "ok"),
        (&format!("http://localhost:{port}{path}"), "Host: localhost\r\n", 200, "ok"),
    ] {
        let (found, answer) = server.ask("GET", path, "", hosts);
        assert_eq!(found, status, "{path} {hosts}: {answer}");
        assert!(answer.contains(said), "{path} {hosts}: {answer}");
    }
    server.end();
}

#[test]
fn it_listens_to_this_machine_alone() {
    let bench = Bench::new();
    let said = bench.fails(2, &["serve", "--listen", "0.0.0.0:0"]);
    assert!(said.starts_with("0.0.0.0:0 can be reached from other machines"), "{said}");
    let plugins = bench.path().join("plugins").display().to_string();
    let server = Server::start(&bench);
    let page = format!("; the page is at http://{}/\n", server.address);
    assert!(server.said.ends_with(&page), "{}", server.said);
    let said = bench.run(&["serve", "--plugins", &plugins, "--listen", "127.0.0.1:0"]).stderr;
    assert!(said.contains("is used by another manager"), "{said}");
    server.end();
}
