//! The manager: installing, updating and removing plugins while they are used,
//! and being killed in the middle of it.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ekuiper_host::PluginState;
use ekuiper_interop::guard::{Process, Watchdog, next, soon};
use ekuiper_interop::managed::{builder, file, files, install, scratch, update};
use ekuiper_interop::packages;
use ekuiper_interop::random::Random;
use ekuiper_manager::archive::{Contents, Limits};
use ekuiper_manager::{Error, InstallOptions, Origin, Users};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Variable with the folder of the manager that is to be killed.
const VICTIM: &str = "EKUIPER_TEST_VICTIM";

/// Variable that has it removed and installed, instead of updated.
const REMOVES: &str = "EKUIPER_TEST_REMOVES";

#[test]
fn a_plugin_is_installed_updated_under_load_and_removed() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let first = file(packages::write(&packages::mirror("v1"), root.path(), "1.zip"));
    let second = file(packages::write(&packages::mirror("v2"), root.path(), "2.zip"));
    let manager = builder(root.path()).open().unwrap();
    let empty = files(root.path());
    assert_eq!(install(&manager, &first).unwrap(), "v1");
    let refused = install(&manager, &second).unwrap_err();
    assert!(matches!(&refused, Error::Installed { version, .. } if version == "v1"), "{refused}");

    let function = manager.host().function("revert").unwrap();
    let mut source = manager.host().source("random").config(json!({ "interval": 1 })).open().unwrap();
    let is_over = AtomicBool::new(false);
    let calls = std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut calls = 0u64;
            while !is_over.load(Ordering::SeqCst) {
                assert_eq!(function.call::<String>(("abc",)).unwrap(), "cba");
                calls += 1;
            }
            calls
        });
        for _ in 0..3 {
            next(&mut source);
            assert_eq!(update(&manager, &second).unwrap(), "v2");
            next(&mut source);
            assert_eq!(update(&manager, &first).unwrap(), "v1");
        }
        is_over.store(true, Ordering::SeqCst);
        caller.join().unwrap()
    });
    assert!(calls > 0);
    assert_eq!(update(&manager, &second).unwrap(), "v2");

    let in_use = manager.remove("mirror", Users::Keep).unwrap_err().to_string();
    assert!(in_use.starts_with("plugin mirror is in use, by source random of rule "), "{in_use}");
    next(&mut source);
    manager.remove("mirror", Users::Stop).unwrap();
    assert!(matches!(manager.remove("mirror", Users::Keep), Err(Error::NotInstalled { .. })));
    assert_eq!(files(root.path()), empty);

    let record = std::fs::read_to_string(root.path().join("managed/audit.jsonl")).unwrap();
    let lines: Vec<Value> = record.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown: Vec<_> = lines.iter().map(|line| (line["action"].as_str().unwrap(), &line["version"])).collect();
    assert_eq!(shown.len(), 12);
    assert_eq!((shown[0], shown[1]), (("install", &json!("v1")), ("install", &Value::Null)));
    assert_eq!(lines[1]["error"], refused.to_string());
    drop(source);
}

#[test]
fn figures_are_those_of_the_symbols_in_use() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let manager = builder(root.path()).open().unwrap();
    install(&manager, &file(packages::write(&packages::mirror("v1"), root.path(), "1.zip"))).unwrap();
    let function = manager.host().function("revert").unwrap();
    for _ in 0..7 {
        assert_eq!(function.call::<String>(("abc",)).unwrap(), "cba");
    }
    assert!(function.call::<String>((1,)).is_err());
    let mut source = manager.host().source("random").rule("a\"b").config(json!({ "interval": 1 })).open().unwrap();
    next(&mut source);
    let text = ekuiper_host::metrics::text(manager.host());
    let value = |name: &str, labels: &[&str]| -> f64 {
        let mut lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with('{')) && labels.iter().all(|label| line.contains(label))
        });
        let line = lines.next().unwrap_or_else(|| panic!("no {name} with {labels:?} in {text}"));
        assert_eq!(lines.next(), None);
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let revert = "symbol=\"revert\"";
    assert_eq!(value("ekuiper_plugin_state", &["state=\"running\""]), 1.0);
    assert_eq!(value("ekuiper_plugin_state", &["state=\"broken\""]), 0.0);
    assert_eq!(value("ekuiper_plugin_restarts_total", &[]), 0.0);
    assert_eq!(value("ekuiper_plugin_info", &["version=\"v1\""]), 1.0);
    assert!(value("ekuiper_plugin_resident_bytes", &[]) > 1e5);
    assert_eq!(value("ekuiper_symbol_rows_out_total", &[revert]), 8.0);
    assert_eq!(value("ekuiper_symbol_errors_total", &[revert, "reason=\"symbol\""]), 1.0);
    let latency = |end: &str, labels: &[&str]| value(&format!("ekuiper_symbol_latency_seconds{end}"), labels);
    assert_eq!(latency("_bucket", &[revert, "le=\"+Inf\""]), latency("_count", &[revert]));
    assert!(latency("_sum", &[revert]) > 0.0);
    assert!(value("ekuiper_symbol_rows_in_total", &["kind=\"source\""]) >= 1.0);
    // Each metric is described once, before its values.
    let described: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert_eq!(described.iter().collect::<BTreeSet<_>>().len(), described.len());
}

#[test]
fn what_is_installed_is_there_again() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let first = file(packages::write(&packages::mirror("v1"), root.path(), "1.zip"));
    let manager = builder(root.path()).open().unwrap();
    install(&manager, &first).unwrap();
    assert!(matches!(builder(root.path()).open().map(drop), Err(Error::FolderInUse { .. })));
    drop(manager);
    let manager = builder(root.path()).open().unwrap();
    assert_eq!(manager.host().function("revert").unwrap().call::<String>(("abc",)).unwrap(), "cba");
    assert_eq!(manager.plugins().unwrap().len(), 1);
}

/// Each is refused, and nothing has changed.
#[test]
fn bad_packages_change_nothing() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let path = |name: &str| root.path().join(name);
    let write = |contents: &Contents, name: &str| packages::write(contents, root.path(), name);
    let manager = builder(root.path())
        .limits({
            let mut limits = Limits::default();
            limits.size = 1 << 20;
            limits
        })
        .script_timeout(Duration::from_millis(500))
        .open()
        .unwrap();
    let with_script = |script: &str| {
        let mut contents = packages::mirror("v2");
        contents.add_bytes("install.sh", script, true).unwrap();
        contents
    };
    let named = |name: &str| {
        let mut contents = Contents::new();
        contents.add_bytes(&format!("{name}.json"), packages::manifest("v2").to_string(), false).unwrap();
        contents.add_bytes("mirror", "#!/bin/sh\n", true).unwrap();
        contents
    };
    let mut two = packages::mirror("v2");
    two.add_bytes("other.json", "{}", false).unwrap();
    let mut large = packages::mirror("v2");
    large.add_bytes("zeros", vec![0; 2 << 20], false).unwrap();
    let mut broken = packages::mirror("v2");
    broken.add_bytes("mirror.json", "{", false).unwrap();
    std::fs::write(path("text.zip"), "this is no zip").unwrap();
    let long = "n".repeat(200);
    let cases: Vec<(PathBuf, &str)> = vec![
        (path("absent.zip"), "cannot read"),
        (path("text.zip"), "is not a zip, or it is damaged"),
        (write(&two, "two.zip"), "has 2 files that may be the manifest"),
        (write(&large, "large.zip"), "is larger than 1 MiB, unpacked"),
        (write(&broken, "broken.zip"), "mirror.json"),
        (write(&named("a b"), "space.zip"), "\"a b\" cannot be a plugin's name"),
        (write(&named(&long), "long.zip"), "is longer than 64 characters"),
        (write(&named(".hidden"), "hidden.zip"), "begins with a dot"),
        (
            write(&packages::with_program("v2", "#!/bin/sh\necho it is broken >&2\nexit 7\n"), "dies.zip"),
            "it is broken",
        ),
        (write(&packages::with_program("v2", "#!/no/such/program\n"), "unstartable.zip"), "/no/such/program"),
        (
            write(&with_script("echo it is broken\nexit 3"), "fails.zip"),
            "install.sh has failed (exit status: 3) and wrote:\nit is broken",
        ),
        (write(&with_script("sleep 1000"), "hangs.zip"), "install.sh has not ended after 500ms"),
        (write(&with_script("yes"), "floods.zip"), "install.sh has "),
    ];
    for state in ["nothing is installed", "v1 is installed"] {
        let is_installed = state.starts_with("v1");
        if is_installed {
            install(&manager, &file(write(&packages::mirror("v1"), "1.zip"))).unwrap();
        }
        let before = files(root.path());
        for (path, said) in &cases {
            let change = if is_installed { update } else { install };
            let error = change(&manager, &file(path.clone())).unwrap_err();
            let text = ekuiper_host::Chain(&error).to_string();
            assert!(text.contains(said), "{state}: {}: {text}", path.display());
            assert_eq!(files(root.path()), before, "{state}: {}", path.display());
        }
        let plugins: Vec<_> = manager.plugins().unwrap().into_iter().map(|package| package.manifest.version).collect();
        assert_eq!(plugins, if is_installed { vec!["v1".to_owned()] } else { vec![] });
    }
    assert_eq!(manager.host().function("revert").unwrap().call::<String>(("abc",)).unwrap(), "cba");
    // Asked for under another name, or with another checksum.
    let options = |name: Option<&str>, sha256: Option<&str>| InstallOptions {
        name: name.map(str::to_owned),
        sha256: sha256.map(str::to_owned),
        ..InstallOptions::default()
    };
    let good = file(path("1.zip"));
    let error = manager.install(&good, &options(Some("other"), None)).unwrap_err().to_string();
    assert!(error.contains("the package is that of plugin mirror, not of other"), "{error}");
    for (options, said) in [
        (options(Some("other"), None), "plugin other is not installed: installed are mirror"),
        (options(Some("../x"), None), "cannot be a plugin's name"),
        (options(None, Some(&"0".repeat(64))), "has the SHA-256 "),
        (options(None, Some("00")), "sha256 \"00\" is no checksum: it has 64 hexadecimal digits"),
    ] {
        let error = manager.update(&good, &options).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn two_changes_of_one_plugin_exclude_each_other() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let mut slow = packages::mirror("v1");
    slow.add_bytes("install.sh", "echo > \"$1/begun\"\nwhile ! test -e \"$1/go\"; do sleep 0.05; done", true).unwrap();
    let slow = file(packages::write(&slow, root.path(), "1.zip"));
    let manager = builder(root.path()).open().unwrap();
    let parameters = vec![root.path().display().to_string()];
    let options = InstallOptions { parameters, ..InstallOptions::default() };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| manager.install(&slow, &options).map(drop));
        let give_up = soon();
        while !root.path().join("begun").exists() {
            assert!(std::time::Instant::now() < give_up);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(matches!(install(&manager, &slow), Err(Error::Busy { .. })));
        assert!(matches!(manager.remove("mirror", Users::Stop), Err(Error::Busy { .. })));
        std::fs::write(root.path().join("go"), "").unwrap();
        first.join().unwrap().unwrap();
    });
}

/// A server that answers each request with the next of these answers.
fn server(answers: Vec<Vec<u8>>) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serve = move || {
        for answer in answers {
            let (mut connection, _) = listener.accept().unwrap();
            let _ = connection.read(&mut [0; 4096]);
            let _ = connection.write_all(&answer);
        }
    };
    (url, std::thread::spawn(serve))
}

#[test]
fn a_package_is_fetched_or_it_is_said_why_not() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let zip = std::fs::read(packages::write(&packages::mirror("v1"), root.path(), "1.zip")).unwrap();
    let ok = |body: &[u8], length: usize| {
        [format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n").as_bytes(), body].concat()
    };
    let to = |place: &str| format!("HTTP/1.1 302 Found\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n").into_bytes();
    let manager = builder(root.path()).fetch_size(1 << 20).fetch_timeout(Duration::from_secs(20)).open().unwrap();
    let before = files(root.path());
    for (answer, said) in [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(), "the server answers 404 Not Found"),
        (ok(&zip[..100], zip.len()), "cannot fetch"),
        (ok(&vec![0; 2 << 20], 2 << 20), "it is larger than 1 MiB, which is the limit"),
        (ok(b"no zip", 6), "is not a zip, or it is damaged"),
        (to("file:///etc/passwd"), "cannot fetch"),
        (b"rubbish\r\n\r\n".to_vec(), "cannot fetch"),
    ] {
        let (url, server) = server(vec![answer]);
        let error = install(&manager, &Origin::parse(&format!("{url}/p.zip")).unwrap()).unwrap_err();
        let text = ekuiper_host::Chain(&error).to_string();
        assert!(text.contains(said), "{said}: {text}");
        server.join().unwrap();
        assert_eq!(files(root.path()), before, "{said}");
    }
    let (url, server) = server(vec![ok(&zip, zip.len())]);
    assert_eq!(install(&manager, &Origin::parse(&url).unwrap()).unwrap(), "v1");
    server.join().unwrap();
    drop(manager);

    let careful = builder(root.path()).allow_private_addresses(false).open().unwrap();
    for host in ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0x7f.1", "2130706433"] {
        let error =
            update(&careful, &Origin::parse(&format!("http://{host}:9/p.zip")).unwrap()).unwrap_err().to_string();
        assert!(error.contains("cannot fetch") && !error.contains("refused"), "{host}: {error}");
    }
}

/// A server that announces more than is allowed, and sends nothing.
#[test]
fn a_package_that_is_announced_as_too_large_is_not_waited_for() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let manager = builder(root.path()).fetch_size(1 << 20).fetch_timeout(Duration::from_secs(20)).open().unwrap();
    let before = files(root.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/p.zip", listener.local_addr().unwrap());
    let answer = || {
        let (mut connection, _) = listener.accept().unwrap();
        let _ = connection.read(&mut [0; 4096]);
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1048577\r\n\r\n").unwrap();
        connection
    };
    std::thread::scope(|scope| {
        // Held until the fetch is refused.
        let silent = scope.spawn(answer);
        let error = install(&manager, &Origin::parse(&url).unwrap()).unwrap_err().to_string();
        assert!(error.ends_with(": it is larger than 1 MiB, which is the limit"), "{error}");
        assert_eq!(files(root.path()), before);
        drop(silent.join());
    });
}

/// Run by the next test, in a process of its own that is killed.
#[test]
#[ignore = "it runs until it is killed"]
fn changes_until_it_is_killed() {
    let Some(root) = std::env::var_os(VICTIM).map(PathBuf::from) else { return };
    let manager = builder(&root).open().unwrap();
    for version in [2, 1].into_iter().cycle() {
        let origin = file(root.join(format!("{version}.zip")));
        if std::env::var_os(REMOVES).is_some() {
            manager.remove("mirror", Users::Stop).unwrap();
            install(&manager, &origin).unwrap();
        } else {
            update(&manager, &origin).unwrap();
        }
    }
}

/// The version that is installed after the last change in the record.
fn recorded(root: &Path) -> Option<String> {
    let record = std::fs::read_to_string(root.join("managed/audit.jsonl")).unwrap();
    let mut lines = record.lines().rev().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let last = lines.find(|line| line["error"].is_null()).unwrap();
    (last["action"] != "remove").then(|| last["version"].as_str().unwrap().to_owned())
}

/// At each start there is one version, as a whole, or none, no file of another,
/// and the record says so.
#[test]
fn a_killed_manager_has_the_old_state_or_the_new_one() {
    const KILLS: u64 = 30;
    let _watchdog = Watchdog::start();
    let root = scratch();
    for version in [1, 2] {
        let mut contents = packages::mirror(&format!("v{version}"));
        for number in 0..50 {
            contents.add_bytes(&format!("data/{number}"), format!("v{version}"), false).unwrap();
        }
        packages::write(&contents, root.path(), &format!("{version}.zip"));
    }
    let mut random = Random(1);
    let mut seen = BTreeSet::new();
    install(&builder(root.path()).open().unwrap(), &file(root.path().join("1.zip"))).unwrap();
    for kill in 0..KILLS {
        let manager = builder(root.path()).open().unwrap();
        assert!(manager.problems().is_empty(), "{:?}", manager.problems());
        let plugins = manager.plugins().unwrap();
        let versions = std::fs::read_dir(root.path().join("managed/versions")).unwrap().count();
        assert_eq!(versions, plugins.len());
        let found = plugins.first().map(|package| {
            let version = package.manifest.version.clone();
            for number in 0..50 {
                let data = std::fs::read_to_string(package.folder.join(format!("data/{number}"))).unwrap();
                assert_eq!(data, version);
            }
            version
        });
        assert_eq!(recorded(root.path()), found);
        match &found {
            Some(_) => {
                assert_eq!(manager.host().function("revert").unwrap().call::<String>(("abc",)).unwrap(), "cba");
            }
            None => drop(install(&manager, &file(root.path().join("1.zip"))).unwrap()),
        }
        assert!(found.is_some() || kill % 2 == 0, "an update has removed the plugin");
        seen.insert(found);
        assert!(manager.host().status("mirror").is_ok_and(|status| status.state == PluginState::Running));
        drop(manager);
        let mut command = Command::new(std::env::current_exe().unwrap());
        if kill % 2 == 1 {
            command.env(REMOVES, "");
        }
        let mut victim = command
            .args(["--exact", "changes_until_it_is_killed", "--ignored"])
            .env(VICTIM, root.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(random.below(400)));
        let process = Process::of(victim.id());
        let plugins = process.children();
        process.signal(Signal::KILL);
        victim.wait().unwrap();
        // They go with it.
        plugins.iter().for_each(Process::ended);
    }
    assert!(seen.len() > 1, "always the same state: {seen:?}");
}
