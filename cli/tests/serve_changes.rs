//! `serve`: changes that meet its users, its end, or the end of its folder.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use ekuiper_conformance::wait_until;
use serde_json::{Value, json};
use support::served::{Server, package, package_of};
use support::{Bench, served};

/// The lines of the record of changes.
fn audit(bench: &Bench) -> Vec<Value> {
    let text = fs::read_to_string(bench.path().join("plugins/audit.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

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

/// Sends rows for as long as they are taken, while a change is made; returns the
/// lines of the answer.
fn rows_during(server: &Server, path: &str, change: impl FnOnce()) -> Vec<Value> {
    let mut stream = server.connect();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000000000\r\n\r\n", server.address);
    stream.write_all(head.as_bytes()).unwrap();
    let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let rows = "{\"n\":1}\n".repeat(100);
            loop {
                if is_over.load(Ordering::SeqCst) || stream.write_all(rows.as_bytes()).is_err() {
                    break;
                }
            }
            let _ = stream.shutdown(Shutdown::Write);
        });
        let mut change = Some(change);
        let mut answers = Vec::new();
        for line in lines.filter(|line| line.starts_with('{')) {
            answers.push(serde_json::from_str(&line).unwrap());
            if answers.len() == 500 {
                change.take().unwrap()();
                is_over.store(true, Ordering::SeqCst);
            }
        }
        is_over.store(true, Ordering::SeqCst);
        answers
    })
}

#[test]
fn a_row_that_was_not_sent_is_not_one_whose_outcome_is_unknown() {
    let bench = Bench::new();
    let [v1, v2] = ["v1", "v2"].map(|version| package(&bench, version));
    let server = Server::start(&bench);
    assert_eq!(server.ask("POST", "/plugins/portables", &v1, "").0, 201);
    let file = bench.path().join("rows");
    let path = format!("/sinks/file?config=%7B%22path%22:%22{}%22%7D", file.display());
    let update = || assert_eq!(server.ask("PUT", "/plugins/portables/mirror", &v2, "").0, 200);
    let mut updated = rows_during(&server, &path, update);
    // It goes on in the new version, until its body breaks off.
    let broken_off = updated.pop().unwrap();
    let taken = updated.len();
    assert!(
        updated.iter().all(|row| row["state"] == "acked"),
        "{:?}",
        updated.iter().find(|row| row["state"] != "acked")
    );
    let error = broken_off["error"].as_str().unwrap();
    assert!(error.ends_with(&format!("; nothing after line {taken} was taken")), "{error}");

    let delete = || assert_eq!(server.ask("DELETE", "/plugins/portables/mirror?users=stop", "", "").0, 200);
    let mut answers = rows_during(&server, &path, delete);
    let last = answers.pop().unwrap();
    let sent = answers.len();
    // One error for all rows that were not sent.
    let error = json!({ "error": format!("the plugin was removed or stopped; nothing after line {sent} was taken") });
    assert_eq!(last, error, "{:?}", answers.last());
    assert!(
        answers.iter().all(|row| row["state"] == "acked"),
        "{:?}",
        answers.iter().find(|row| row["state"] != "acked")
    );
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), taken + sent);
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn an_installation_is_stopped_and_undone_when_the_server_ends() {
    let bench = Bench::new();
    let begun = bench.path().join("begun");
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/mirror.zip", hanging.local_addr().unwrap());
    let begins = format!("touch '{}'; exec sleep 1000", begun.display());
    let start = package_of(&bench, "start", &begins, &["echo"]);
    let script = bench.path().join("script.zip");
    served::with_script(&bench, &begins).write(&script).unwrap();
    let script = json!({ "name": "mirror", "file": format!("file://{}", script.display()) }).to_string();
    let fetch = json!({ "name": "mirror", "file": url }).to_string();
    for (what, body) in [("its script", script), ("its start", start), ("its fetch", fetch)] {
        let server = Server::start_with(&bench, &["--listen", "127.0.0.1:0", "--allow-private-addresses"], &[]);
        let (folder, address) = (bench.path().join("plugins"), server.address.clone());
        let mut request = server.connect();
        let length = body.len();
        let head = format!("POST /plugins/portables HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n");
        request.write_all(format!("{head}{body}").as_bytes()).unwrap();
        // Held until the end.
        let fetched = (what == "its fetch").then(|| hanging.accept().unwrap());
        if fetched.is_none() {
            wait_until("it has begun", || begun.exists());
            fs::remove_file(&begun).unwrap();
        }
        // What may not be kept does not count.
        assert_eq!(server.ask("GET", "/readyz", "", ""), (200, "ready\n".into()), "{what}");
        server.end();
        let answer = BufReader::new(request).lines().map_while(Result::ok).collect::<Vec<_>>().join("\n");
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("the manager is ending"), "{what}: {answer}");
        for left in ["versions", "downloads", "plugins"] {
            assert!(is_empty(&folder.join(left)), "{what}: {left}");
        }
        let line = audit(&bench).pop().unwrap();
        let facts = (&line["action"], &line["plugin"], &line["version"], &line["error"]);
        let error = json!("the manager is ending: nothing was changed");
        assert_eq!(facts, (&json!("install"), &json!("mirror"), &Value::Null, &error), "{what}");
        fs::remove_file(folder.join("audit.jsonl")).unwrap();
    }
    bench.assert_nothing_is_left();
}

/// Writes a package with a script, and returns the request to install it with
/// this parameter.
fn scripted(bench: &Bench, script: &str, parameter: &Path) -> String {
    let zip = bench.path().join("scripted.zip");
    served::with_script(bench, script).write(&zip).unwrap();
    fs::remove_dir_all(bench.path().join("plain")).unwrap();
    json!({ "name": "mirror", "file": format!("file://{}", zip.display()), "shellParas": [parameter] }).to_string()
}

#[test]
fn nothing_is_written_or_read_through_links_that_install_sh_has_made() {
    let bench = Bench::new();
    let outside = bench.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret.yaml"), "default: { secret: 1 }").unwrap();
    let server = Server::start(&bench);
    let install = |script: &str| server.ask("POST", "/plugins/portables", &scripted(&bench, script, &outside), "");
    let (status, said) = install("ln -s \"$1\" sources");
    assert_eq!(status, 400, "{said}");
    let text = "mirror/sources/random.yaml cannot be written: sources is a link, which is not followed";
    assert!(said.contains(text), "{said}");
    let own =
        "mkdir -p sources && ln -s \"$1/secret.yaml\" sources/random.yaml && ln -s \"$1\" ../../../settings/mirror";
    assert_eq!(install(own).0, 201);
    for (method, path, body) in [
        ("GET", "/metadata/sources/yaml/random", ""),
        ("PUT", "/metadata/sources/random/confKeys/k", "{}"),
        ("GET", "/sources/random?count=1", ""),
    ] {
        let (status, said) = server.ask(method, path, body, "");
        assert!(status >= 400 && said.contains(" is a link, which is not followed"), "{path}: {status} {said}");
        assert!(!said.contains("secret\\\""), "{path}: {said}");
    }
    // The link goes, and not what it leads to.
    assert_eq!(server.ask("DELETE", "/plugins/portables/mirror", "", "").0, 200);
    assert!(is_empty(&bench.path().join("plugins/settings")));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn what_install_sh_puts_beside_its_folder_does_not_stay() {
    let bench = Bench::new();
    let server = Server::start(&bench);
    let plugins = bench.path().join("plugins");
    let strews = "for name in versions/x versions/77 downloads/x plugins/x settings/x; do mkdir ../../../$name; done\n\
                  ln -s \"$1\" ../../../plugins/y; touch ../../x ../../../downloads/y; exit $(cat \"$1/code\")";
    for code in ["3", "0"] {
        fs::write(bench.path().join("code"), code).unwrap();
        let (status, said) = server.ask("POST", "/plugins/portables", &scripted(&bench, strews, bench.path()), "");
        assert_eq!(status, if code == "0" { 201 } else { 400 }, "{said}");
        let count = |folder: &str| fs::read_dir(plugins.join(folder)).unwrap().count();
        let own = usize::from(code == "0");
        let counts = ["versions", "plugins", "downloads", "settings"].map(count);
        assert_eq!(counts, [own, own, 0, 0], "{code}");
    }
    let said = server.end();
    assert!(said.contains("plugins/versions/x, which is none of the manager's files"), "{said}");
    bench.assert_nothing_is_left();
}

/// Files that cannot be removed: another file system lies on one of the folders.
#[test]
fn a_deletion_that_leaves_files_says_so_and_is_completed_at_the_next_start() {
    let isolated = ["unshare", "--map-root-user", "--mount"];
    let can = Command::new(isolated[0]).args(&isolated[1..]).arg("true").status();
    if !can.is_ok_and(|status| status.success()) {
        // Past the capture of the test's output.
        let _ =
            writeln!(std::io::stderr(), "SKIPPED: files that stay: this user cannot mount (unshare --map-root-user)");
        return;
    }
    let bench = Bench::new();
    let server = Server::start_in(&bench, &isolated);
    let holds = "mkdir -p a/held b && mount -t tmpfs tmpfs a/held && touch a/file a/held/file b/file";
    let install = scripted(&bench, holds, bench.path());
    assert_eq!(
        server.ask("POST", "/plugins/portables", &install, ""),
        (201, "portable plugin mirror is created".into())
    );
    let (status, said) = server.ask("DELETE", "/plugins/portables/mirror", "", "");
    assert_eq!(status, 500, "{said}");
    let folder = bench.path().join("plugins/versions/1/mirror");
    let left = format!("plugin mirror is removed, but not its files: {}/a/held stays", folder.display());
    assert!(said.contains(&left) && said.contains("busy"), "{said}");
    assert_eq!(
        audit(&bench).pop().unwrap()["error"].as_str().unwrap().split(':').next().unwrap(),
        "plugin mirror is removed, but not its files"
    );
    // It is removed, and what could be removed of it.
    assert_eq!(server.json("/plugins/portables"), json!([]));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    assert!(folder.join("a/held").exists() && !folder.join("a/file").exists());
    assert_eq!(server.ask("POST", "/functions/echo", "[1]", "").0, 404);
    // A later change does not take it for another's.
    assert_eq!(server.ask("POST", "/plugins/portables", &package(&bench, "v2"), "").0, 201);
    let said = server.end();
    assert!(!said.contains("none of the manager's files"), "{said}");
    let server = Server::start(&bench);
    let versions = bench.path().join("plugins/versions");
    assert!(!versions.join("1").exists() && versions.join("2/mirror/run").exists());
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn what_a_folder_lacks_is_said_as_its_user_names_it() {
    let bench = Bench::new();
    let server = Server::start(&bench);
    // As a Cargo project is before it is built.
    let folder = bench.path().join("mirror");
    fs::create_dir(&folder).unwrap();
    let manifest = json!({ "version": "v1", "language": "go", "executable": "mirror", "functions": ["echo"] });
    let body = json!({ "name": "mirror", "file": format!("file://{}/", folder.display()) }).to_string();
    for (manifest, said) in [
        (manifest.to_string(), format!("{}/mirror does not exist: build the plugin", folder.display())),
        ("{".into(), format!("{}/mirror.json", folder.display())),
    ] {
        fs::write(folder.join("mirror.json"), manifest).unwrap();
        let (status, answer) = server.ask("POST", "/plugins/portables", &body, "");
        assert_eq!(status, 400, "{answer}");
        assert!(answer.contains(&said) && !answer.contains("/plugins/versions/"), "{answer}");
    }
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn a_setting_is_recorded_without_a_version() {
    let bench = Bench::new();
    let v1 = package(&bench, "v1");
    let server = Server::start(&bench);
    assert_eq!(server.ask("POST", "/plugins/portables", &v1, "").0, 201);
    for method in ["PUT", "DELETE"] {
        assert_eq!(server.ask(method, "/metadata/sources/random/confKeys/k", "{}", "").0, 200);
    }
    let lines = audit(&bench);
    let recorded: Vec<_> = lines.iter().map(|line| (&line["action"], &line["version"], &line["error"])).collect();
    let none = Value::Null;
    let [install, set, unset, version] = ["install", "set", "unset", "v1"].map(|text| json!(text));
    assert_eq!(recorded, [(&install, &version, &none), (&set, &none, &none), (&unset, &none, &none)]);
    server.end();
}

#[test]
fn a_folder_that_is_gone_is_the_server_s_failure() {
    let bench = Bench::new();
    let v1 = package(&bench, "v1");
    let server = Server::start(&bench);
    assert_eq!(server.ask("POST", "/plugins/portables", &v1, "").0, 201);
    fs::remove_dir_all(bench.path().join("plugins")).unwrap();
    let form = "--b\r\nContent-Disposition: form-data; name=\"uploadFile\"; filename=\"a.zip\"\r\n\r\nx\r\n--b--\r\n";
    for (method, path, body) in [
        ("GET", "/plugins/portables", ""),
        ("GET", "/plugins/portables/mirror", ""),
        ("GET", "/plugins/portables/mirror/status", ""),
        ("POST", "/plugins/portables", &v1),
        ("PUT", "/plugins/portables/mirror", &v1),
        ("DELETE", "/plugins/portables/mirror", ""),
        ("GET", "/config/uploads", ""),
        ("POST", "/config/uploads", form),
        ("GET", "/metadata/functions", ""),
        ("GET", "/metadata/sources", ""),
        ("GET", "/metadata/sources/random", ""),
        ("GET", "/metadata/sources/yaml/random", ""),
        ("PUT", "/metadata/sources/random/confKeys/k", "{}"),
        ("DELETE", "/metadata/sources/random/confKeys/k", ""),
        ("GET", "/sources/random", ""),
        ("POST", "/sinks/lines", ""),
        ("GET", "/plugins", ""),
        ("GET", "/readyz", ""),
    ] {
        let kind = if path == "/config/uploads" { "Content-Type: multipart/form-data; boundary=b\r\n" } else { "" };
        let (status, answer) = server.ask(method, path, body, kind);
        assert_eq!(status, 500, "{method} {path}: {answer}");
        let error: Value = serde_json::from_str(&answer).unwrap();
        let text = error["message"].as_str().unwrap();
        assert!(text.contains("cannot use ") && text.contains("No such file or directory"), "{method} {path}: {text}");
    }
    // What runs goes on.
    assert_eq!(server.ask("POST", "/functions/echo", "[1]", ""), (200, "1\n".into()));
    server.end();
    bench.assert_nothing_is_left();
}
