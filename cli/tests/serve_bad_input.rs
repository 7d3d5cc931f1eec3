//! `serve`: what is refused, in a sentence and with nothing changed on disk.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use ekuiper_manager::archive::{Archive, Contents, Limits};
use serde_json::{Value, json};
use support::Bench;
use support::raw_zip::{self, Entry};
use support::served::{Server, package};

/// Everything in the folder but the record of changes, with sizes.
fn files(root: &Path) -> BTreeMap<PathBuf, u64> {
    fn add(folder: &Path, found: &mut BTreeMap<PathBuf, u64>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                add(&entry.path(), found);
            }
            found.insert(entry.path(), if metadata.is_file() { metadata.len() } else { 0 });
        }
    }
    let mut found = BTreeMap::new();
    add(root, &mut found);
    found.retain(|path, _| !path.ends_with("audit.jsonl"));
    found
}

fn post(server: &Server, body: &Value) -> (u16, String) {
    server.ask("POST", "/plugins/portables", &body.to_string(), "")
}

/// Returns an error's text, which is one sentence of printable letters.
fn sentence(body: &str) -> String {
    let error: Value = serde_json::from_str(body).unwrap_or_else(|problem| panic!("{problem}: {body}"));
    assert!(error["error"].is_u64(), "{body}");
    let text = error["message"].as_str().unwrap().to_owned();
    // What a script wrote follows in lines of its own.
    assert!(!text.split(" wrote:\n").next().unwrap().contains(char::is_control), "{text:?}");
    assert!(text.len() < 6_000, "{} bytes", text.len());
    text
}

/// Contents of the package of `mirror`, which is in the bench's folder.
fn contents(bench: &Bench) -> Contents {
    let folder = bench.path().join("unpacked");
    if !folder.exists() {
        let mut archive = Archive::open(bench.path().join("v1.zip"), Limits::default()).unwrap();
        archive.unpack(&folder, |_| true).unwrap();
    }
    let mut contents = Contents::new();
    for (name, is_executable) in [("mirror.json", false), ("run", true), ("sources/random.yaml", false)] {
        contents.add_file(name, folder.join(name), is_executable).unwrap();
    }
    contents
}

#[test]
fn bad_packages_are_refused_and_change_nothing() {
    let bench = Bench::new();
    let good: Value = serde_json::from_str(&package(&bench, "v1")).unwrap();
    let path = |name: &str| bench.path().join(format!("{name}.zip"));
    let write = |name: &str, change: &dyn Fn(&mut Contents)| {
        let mut contents = contents(&bench);
        change(&mut contents);
        contents.write(&path(name)).unwrap();
    };
    let scripted = |name: &str, script: &str| {
        write(name, &|contents| contents.add_bytes("install.sh", script, true).unwrap());
    };
    raw_zip::write_million(&path("million"));
    let manifest = Entry::file("mirror.json", b"{}");
    let zeros = raw_zip::deflated_zeros(3 << 30);
    let bomb = Entry { method: 8, stored: &zeros, announced: 3 << 30, ..Entry::file("zeros", b"") };
    raw_zip::write(&path("bomb"), &[manifest, bomb]);
    raw_zip::write(&path("liar"), &[manifest, Entry { announced: 100, ..bomb }]);
    raw_zip::write(&path("out"), &[manifest, Entry::file("../out", b"")]);
    raw_zip::write(&path("absolute"), &[manifest, Entry::file("/tmp/out", b"")]);
    raw_zip::write(&path("link"), &[manifest, Entry { mode: 0o120_777, ..Entry::file("link", b"/etc/passwd") }]);
    raw_zip::write(&path("none"), &[Entry::file("mirror.py", b"")]);
    raw_zip::write(&path("two"), &[manifest, Entry::file("other.json", b"{}")]);
    raw_zip::write(&path("other"), &[Entry::file("other.json", b"{}")]);
    std::fs::write(path("text"), "this is no zip").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let long = format!("{}../out", "long/".repeat(400));
    let longest = format!("{}/x", "n".repeat(60_000));
    raw_zip::write(&path("long"), &[manifest, Entry::file(&long, b"")]);
    raw_zip::write(&path("longest"), &[manifest, Entry::file(&longest, b"")]);
    let many: Vec<_> = (0..10_000).map(|number| format!("{}{number}.json", "m".repeat(200))).collect();
    raw_zip::write(&path("many"), &many.iter().map(|name| Entry::file(name, b"")).collect::<Vec<_>>());
    scripted("fails", "echo it is broken >&2\nexit 3");
    scripted("prints", "head -c 1G /dev/zero");
    scripted("blank", "printf '\\033[2J\\007'; exit 1");
    let server = Server::start(&bench);
    let installed = bench.path().join("plugins");
    let is_installed = |state: &str| state == "v1 is installed";
    for state in ["nothing is installed", "v1 is installed"] {
        if is_installed(state) {
            assert_eq!(post(&server, &good).0, 201);
        }
        let before = files(&installed);
        let send = |body: &Value| match is_installed(state) {
            true => server.ask("PUT", "/plugins/portables/mirror", &body.to_string(), ""),
            false => post(&server, body),
        };
        for (name, said) in [
            ("million", "million.zip is no zip, or its list of entries is longer than that of 20000, the limit"),
            ("bomb", "bomb.zip is larger than 2048 MiB, unpacked, which is the limit"),
            ("liar", "zeros cannot be unpacked"),
            ("out", "entry ../out leads out of the plugin's folder"),
            ("absolute", "entry /tmp/out is an absolute path"),
            ("link", "entry link is a symbolic link"),
            ("long", "long/… (2006 bytes) leads out of the plugin's folder"),
            ("longest", "nnn… (60002 bytes) has a name of 60002 bytes: 2048 at most"),
            ("many", "many.zip has 10000 files that may be the manifest: mmm"),
            ("none", "none.zip has no manifest: NAME.json must be at its root"),
            ("two", "two.zip has 2 files that may be the manifest: mirror.json, other.json"),
            ("other", "the package is that of plugin other, not of mirror"),
            ("text", "text.zip is not a zip, or it is damaged"),
            ("absent", "cannot read "),
            ("fails", "plugin mirror: install.sh has failed (exit status: 3) and wrote:\nit is broken"),
            ("prints", "plugin mirror: install.sh has written more than 16 MiB, and was killed; it wrote:\n"),
            ("blank", "plugin mirror: install.sh has failed (exit status: 1) and wrote:"),
        ] {
            let body = json!({ "name": "mirror", "file": format!("file://{}", path(name).display()) });
            let (status, answer) = send(&body);
            assert_eq!(status, 400, "{state}, {name}: {answer}");
            assert!(sentence(&answer).contains(said), "{state}, {name}: {answer}");
            assert_eq!(files(&installed), before, "{state}, {name}");
        }
        for (name, said) in [("pipe", "it is not a plain file"), ("absent", "No such file or directory")] {
            let mut body = json!({ "name": "mirror", "file": format!("file://{}", path(name).display()) });
            for sha256 in [Value::Null, json!("0".repeat(64))] {
                body["sha256"] = sha256;
                let (status, answer) = send(&body);
                assert_eq!(status, 400, "{state}, {name}: {answer}");
                let text = sentence(&answer);
                assert!(text.contains("cannot read ") && text.contains(said), "{state}, {name}: {answer}");
            }
        }
        let none = "is no checksum: it has 64 hexadecimal digits";
        let zeros = "0".repeat(64);
        for (sha256, said) in [
            (zeros.as_str(), "v1.zip has the SHA-256 "),
            ("00", none),
            ("", none),
            (&zeros.replace('0', "g"), none),
            (&"0".repeat(100_000), none),
            ("not hexadecimal \u{1b}", none),
        ] {
            let mut body = good.clone();
            body["sha256"] = json!(sha256);
            let (status, answer) = send(&body);
            assert_eq!(status, 400);
            assert!(sentence(&answer).contains(said) && answer.len() < 1000, "{answer}");
            assert_eq!(files(&installed), before, "{sha256}");
            // Before anything is fetched.
            body["file"] = json!("http://127.0.0.1:1/x.zip");
            let text = sentence(&send(&body).1);
            assert_eq!(text.contains(none), said == none, "{text}");
        }
    }
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn bad_names_are_refused_and_change_nothing() {
    let bench = Bench::new();
    let good: Value = serde_json::from_str(&package(&bench, "v1")).unwrap();
    let server = Server::start(&bench);
    let before = files(&bench.path().join("plugins"));
    let long = "n".repeat(300);
    for (name, encoded) in [
        ("a/b", "a%2Fb"),
        ("../x", "..%2Fx"),
        ("a b", "a%20b"),
        ("a\u{1b}[2Jb", "a%1B%5B2Jb"),
        ("a\nb", "a%0Ab"),
        ("a\u{0}b", "a%00b"),
        (".hidden", ".hidden"),
        ("\u{202e}x", "%E2%80%AEx"),
        (&long, &long),
    ] {
        let mut body = good.clone();
        body["name"] = json!(name);
        let (status, answer) = post(&server, &body);
        assert_eq!(status, 400, "{name:?}");
        assert!(sentence(&answer).contains("cannot be a plugin's name"), "{name:?}: {answer}");
        let path = format!("/plugins/portables/{encoded}");
        for (method, path, body, expected) in [
            ("PUT", path.clone(), body.to_string(), 400),
            ("DELETE", path.clone(), String::new(), 400),
            ("GET", path.clone(), String::new(), 404),
            ("GET", format!("{path}/status"), String::new(), 404),
            ("DELETE", format!("/config/uploads/{encoded}"), String::new(), 400),
        ] {
            let (status, answer) = server.ask(method, &path, &body, "");
            assert_eq!(status, expected, "{method} {name:?}: {answer}");
            sentence(&answer);
        }
        // As the name of a file that is uploaded, which may have a space; a header
        // cannot have all.
        if !name.contains(['\n', '\0', ' ']) {
            let form = format!(
                "--b\r\nContent-Disposition: form-data; name=\"uploadFile\"; filename=\"{name}\"\r\n\r\nx\r\n--b--\r\n"
            );
            let kind = "Content-Type: multipart/form-data; boundary=b\r\n";
            let (status, answer) = server.ask("POST", "/config/uploads", &form, kind);
            assert_eq!(status, 400, "{name:?}: {answer}");
            sentence(&answer);
        }
        assert_eq!(files(&bench.path().join("plugins")), before, "{name:?}");
    }
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn what_is_no_url_of_a_package_is_said_without_its_secrets() {
    let bench = Bench::new();
    let server = Server::start(&bench);
    let scheme = "its scheme is not supported: write file://, http:// or https://";
    for (file, said) in [
        ("javascript:alert(1)", format!("invalid uri javascript:alert(1): {scheme}")),
        ("data:application/zip;base64,UEs=.zip", format!("invalid uri data:application/zip;base64,UEs=.zip: {scheme}")),
        ("ftp://user:secret@h/p.zip?token=secret", format!("invalid uri ftp://…@h/p.zip?…: {scheme}")),
        ("http://user:secret@h/p.tar?token=secret", "invalid uri http://…@h/p.tar?…: it is no .zip, and".into()),
        ("http://user:sec/secret@h/p.zip", "invalid uri http://…@h/p.zip: it is no address".into()),
        ("http:/user:secret@h/p.zip", "invalid uri http:/…@h/p.zip: it is no address".into()),
        ("user:secret@h/p.zip", format!("invalid uri user:…@h/p.zip: {scheme}")),
        ("http://u:secret@127.0.0.1:1/p.zip", "cannot fetch http://…@127.0.0.1:1/p.zip: ".into()),
        ("http://127.0.0.1:1/p.zip?token=secret", "cannot fetch http://127.0.0.1:1/p.zip?…: ".into()),
        ("http://127.0.0.1:1/p.zip#secret", "cannot fetch http://127.0.0.1:1/p.zip?…: ".into()),
        ("file:/p.zip", "invalid uri file:/p.zip: a path begins with a slash: write file:///PATH".into()),
        ("file:///p?q.zip", "cannot read /p?q.zip: No such file".into()),
    ] {
        let (status, answer) = post(&server, &json!({ "name": "mirror", "file": file }));
        assert_eq!(status, 400, "{file}: {answer}");
        let text = sentence(&answer);
        assert!(text.contains(&said) && !text.contains("secret"), "{file}: {text}");
    }
    let said = server.end();
    let record = std::fs::read_to_string(bench.path().join("plugins/audit.jsonl")).unwrap();
    assert!(record.contains("http://…@127.0.0.1:1/p.zip") && !record.contains("secret"), "{record}");
    assert!(!said.contains("secret"), "{said}");
    bench.assert_nothing_is_left();
}

/// A file's name need not be the plugin's.
#[test]
fn a_file_is_uploaded_under_its_own_name_and_installed_from_there() {
    let bench = Bench::new();
    package(&bench, "v1");
    let zip = std::fs::read(bench.path().join("v1.zip")).unwrap();
    let server = Server::start(&bench);
    let upload = |name: &str| {
        let head = format!("--b\r\nContent-Disposition: form-data; name=\"uploadFile\"; filename=\"{name}\"\r\n\r\n");
        let form = [head.as_bytes(), &zip, b"\r\n--b--\r\n"].concat();
        server.ask_bytes("POST", "/config/uploads", &form, "Content-Type: multipart/form-data; boundary=b\r\n")
    };
    let (status, path) = upload("a new (2) ü.zip");
    assert!(status == 201 && path.ends_with("/uploads/a new (2) ü.zip"), "{path}");
    let body = json!({ "name": "mirror", "file": format!("file://{path}") });
    assert_eq!(post(&server, &body), (201, "portable plugin mirror is created".into()));
    assert_eq!(server.json("/config/uploads"), json!([]));
    for name in ["a%20b.zip", "a\\\\b.zip", ".zip", ""] {
        let (status, answer) = upload(name);
        assert_eq!(status, 400, "{name}: {answer}");
        assert!(sentence(&answer).contains("a file cannot be uploaded as \""), "{name}: {answer}");
    }
    server.end();
    bench.assert_nothing_is_left();
}

/// A body of which no more comes, and one whose chunks are none.
const BROKEN: [(&str, &str); 2] =
    [("Content-Length: 100", ""), ("Transfer-Encoding: chunked", "no length of a chunk\r\n")];

fn in_chunk(head: &str, text: &str) -> String {
    match head.contains("chunked") {
        true => format!("{:x}\r\n{text}\r\n", text.len()),
        false => text.to_owned(),
    }
}

#[test]
fn a_body_that_breaks_off_is_not_taken_for_a_whole_one() {
    let bench = Bench::new();
    let good = package(&bench, "v1");
    let server = Server::start(&bench);
    assert_eq!(server.ask("POST", "/plugins/portables", &good, "").0, 201);
    let form = "--b\r\nContent-Disposition: form-data; name=\"uploadFile\"; filename=\"a.zip\"\r\n\r\nPK";
    for (length, rest) in BROKEN {
        for (method, path, kind, body) in [
            ("PUT", "/plugins/portables/mirror", "application/json", "{}"),
            ("POST", "/functions/revert", "application/json", "[\"ab\"]"),
            ("PUT", "/metadata/sources/random/confKeys/k", "application/json", "{}"),
            ("POST", "/config/uploads", "multipart/form-data; boundary=b", form),
        ] {
            let head =
                format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{length}\r\n\r\n");
            let (status, answer) = server.break_off(&format!("{head}{}{rest}", in_chunk(length, body)));
            assert_eq!(status, 400, "{path}: {answer}");
            let text = sentence(answer.split_once("\r\n\r\n").unwrap().1);
            assert!(text.contains("broke off"), "{path}: {text}");
        }
    }
    assert_eq!(server.json("/config/uploads"), json!([]));
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn lines_that_break_off_have_an_answer_that_ends_with_an_error() {
    let bench = Bench::new();
    let good = package(&bench, "v1");
    let server = Server::start(&bench);
    assert_eq!(server.ask("POST", "/plugins/portables", &good, "").0, 201);
    let file = bench.path().join("rows");
    let sink = format!("/sinks/file?config=%7B%22path%22:%22{}%22%7D", file.display());
    let text = "the body broke off: the connection was closed, or its length or chunks are wrong; nothing after line 2 was taken";
    for (length, rest) in BROKEN {
        for (path, sent, first, last) in [
            ("/functions/revert", "[\"ab\"]\n[\"c\"]\n[7", json!({ "result": "ba" }), json!({ "error": text })),
            (
                "/functions/revert?ordered=false",
                "[\"ab\"]\n[\"c\"]\n[7",
                json!({ "result": "ba", "row": 1 }),
                json!({ "error": text, "row": 3 }),
            ),
            (&sink, "{\"n\":1}\n{\"n\":2}\n{}", json!({ "row": 1, "state": "acked" }), json!({ "error": text })),
        ] {
            let kind = "Content-Type: application/x-ndjson";
            let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n{length}\r\n\r\n");
            let (status, answer) = server.break_off(&format!("{head}{}{rest}", in_chunk(length, sent)));
            assert_eq!(status, 200, "{path}: {answer}");
            let lines: Vec<Value> = answer.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            let lines: Vec<_> = lines.iter().filter(|line| line.is_object()).collect();
            assert!(lines.len() == 3 && lines.contains(&&first), "{path}: {answer}");
            assert!(lines.contains(&&last), "{path}: {answer}");
        }
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{\"n\":1}\n{\"n\":2}\n".repeat(2));
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn two_installations_of_one_plugin_at_once_are_one() {
    let bench = Bench::new();
    package(&bench, "v1");
    let mut slow = contents(&bench);
    slow.add_bytes("install.sh", "echo > \"$1/begun\"\nwhile ! test -e \"$1/go\"; do sleep 0.05; done", true).unwrap();
    let zip = bench.path().join("slow.zip");
    slow.write(&zip).unwrap();
    let body = json!({
        "name": "mirror", "file": format!("file://{}", zip.display()), "shellParas": [bench.path()],
    });
    let server = Server::start(&bench);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| post(&server, &body));
        ekuiper_conformance::wait_until("install.sh has begun", || bench.path().join("begun").exists());
        let (status, answer) = post(&server, &body);
        assert_eq!(status, 400);
        assert!(sentence(&answer).contains("plugin mirror is being installed, updated or removed"), "{answer}");
        std::fs::write(bench.path().join("go"), "").unwrap();
        assert_eq!(first.join().unwrap(), (201, "portable plugin mirror is created".into()));
    });
    server.end();
    bench.assert_nothing_is_left();
}

/// In a file system of its own, of 4 MiB.
#[test]
fn a_full_disk_is_said_and_changes_nothing() {
    let isolated = ["--map-root-user", "--mount"];
    let can = Command::new("unshare").args(isolated).arg("true").status();
    if !can.is_ok_and(|status| status.success()) {
        // Past the capture of the test's output.
        let _ = writeln!(std::io::stderr(), "SKIPPED: a full disk: this user cannot mount (unshare --map-root-user)");
        return;
    }
    let bench = Bench::new();
    let good: Value = serde_json::from_str(&package(&bench, "v1")).unwrap();
    let mut large = contents(&bench);
    let mut state = 1u32;
    let noise = (0..6 << 20).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    large.add_bytes("noise", noise.collect::<Vec<_>>(), false).unwrap();
    let zip = bench.path().join("large.zip");
    large.write(&zip).unwrap();
    let plugins = bench.path().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    let script = "mount -t tmpfs -o size=4m,mode=0755 tmpfs \"$0\" && exec \"$@\"";
    let wrapper = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, &plugins.display().to_string()];
    let server = Server::start_in(&bench, &wrapper);
    // As it is in there.
    let installed =
        Path::new("/proc").join(server.id().to_string()).join("root").join(plugins.strip_prefix("/").unwrap());
    let before = files(&installed);
    let body = json!({ "name": "mirror", "file": format!("file://{}", zip.display()) });
    let (status, answer) = post(&server, &body);
    assert_eq!(status, 500);
    let text = sentence(&answer);
    assert!(text.contains("cannot write ") && text.contains("No space left on device"), "{text}");
    assert_eq!(files(&installed), before);
    let form = [
        b"--b\r\nContent-Disposition: form-data; name=\"uploadFile\"; filename=\"large.zip\"\r\n\r\n",
        std::fs::read(&zip).unwrap().as_slice(),
        b"\r\n--b--\r\n",
    ]
    .concat();
    let (status, answer) =
        server.ask_bytes("POST", "/config/uploads", &form, "Content-Type: multipart/form-data; boundary=b\r\n");
    assert_eq!(status, 500);
    assert!(sentence(&answer).contains("No space left on device"), "{answer}");
    assert_eq!(files(&installed), before);
    // There is room for this one.
    assert_eq!(post(&server, &good).0, 201);
    let before = files(&installed);
    let (status, answer) = server.ask("PUT", "/plugins/portables/mirror", &body.to_string(), "");
    assert_eq!(status, 500);
    assert!(sentence(&answer).contains("No space left on device"), "{answer}");
    assert_eq!(files(&installed), before);
    assert_eq!(server.json("/plugins/portables/mirror/status")["status"], "running");
    // A folder is packed first.
    let folder = bench.path().join("unpacked");
    std::fs::copy(&zip, folder.join("noise")).unwrap();
    let body = json!({ "file": format!("file://{}/", folder.display()) });
    let (status, answer) = server.ask("PUT", "/plugins/portables/mirror", &body.to_string(), "");
    assert_eq!(status, 500);
    assert!(sentence(&answer).contains("No space left on device"), "{answer}");
    assert_eq!(files(&installed), before);
    // Settings take the rest of it.
    let fill = installed.join("downloads/fill");
    let mut file = std::fs::File::create(&fill).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let before = files(&installed);
    let setting = "/metadata/sources/random/confKeys/k";
    let (status, answer) = server.ask("PUT", setting, "{\"seed\":4}", "");
    assert_eq!(status, 500);
    assert!(sentence(&answer).contains("No space left on device"), "{answer}");
    assert_eq!(files(&installed), before);
    drop(file);
    std::fs::remove_file(&fill).unwrap();
    let said = server.end();
    assert!(!said.contains("ZipWriter"), "{said}");
    bench.assert_nothing_is_left();
}
