//! `package`: the zip that eKuiper installs.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ekuiper_manager::archive::{Archive, Limits};
use serde_json::{Value, json};
use support::{Bench, example};

/// Names and modes of the entries of a zip.
fn entries(zip: &Path) -> Vec<(String, u32)> {
    let archive = Archive::open(zip, Limits::default()).unwrap();
    archive.entries().iter().map(|entry| (entry.name.clone(), entry.mode.unwrap())).collect()
}

fn package(bench: &Bench, folder: &str, more: &[&str]) -> (PathBuf, Value, String) {
    let zip = bench.path().join("made.zip");
    let ran = bench.run(&[&["package", folder, "-o", zip.to_str().unwrap()], more].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    bench.assert_nothing_is_left();
    (zip, serde_json::from_str(&ran.stdout).unwrap(), ran.stderr)
}

#[test]
fn a_rust_plugin_brings_its_files_for_ekuiper() {
    let bench = Bench::new();
    let (zip, report, told) = package(&bench, &example("mirror"), &["--target", "native"]);
    assert_eq!((&report["name"], &report["target"]), (&json!("mirror"), &json!("native")));
    let found = entries(&zip);
    for (name, mode) in [
        ("functions", 0o755),
        ("functions/revert.json", 0o644),
        ("mirror", 0o755),
        ("mirror.json", 0o644),
        ("sources", 0o755),
        ("sources/random.json", 0o644),
        ("sources/random.yaml", 0o644),
    ] {
        assert!(found.contains(&(name.to_owned(), mode)), "{name}: {found:?}");
    }
    assert!(told.contains("sink file: eKuiper has a sink of this name"), "{told}");
    // What is in the folder beside that is the project's, not the plugin's.
    assert!(!found.iter().any(|(name, _)| name.starts_with("src") || name == "Cargo.toml"), "{found:?}");
    let ran = bench.run(&["call", zip.to_str().unwrap(), "revert", "\"hello\""]);
    assert_eq!(ran.stdout, "\"olleh\"\n", "{ran:?}");
    let first = fs::read(&zip).unwrap();
    let (zip, ..) = package(&bench, &example("mirror"), &["--target", "native", "--no-build"]);
    assert!(fs::read(zip).unwrap() == first, "the same plugin is another zip");
}

/// On a terminal: a first build takes a while.
#[test]
fn a_build_shows_how_far_it_is() {
    let bench = Bench::new();
    let (example, zip) = (example("mirror"), bench.path().join("made.zip"));
    let terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let mut command = Command::new("python3");
    command.args(["-c", terminal, env!("CARGO_BIN_EXE_ekuiper-plugin"), "package", &example, "--target", "native"]);
    command.args(["-o", zip.to_str().unwrap()]);
    command.env("TMPDIR", bench.path().join("tmp")).env("TERM", "xterm-256color").env_remove("NO_COLOR");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && zip.is_file(), "{shown}");
    assert!(shown.contains("1 crate built, "), "{shown}");
}

#[test]
fn another_plugin_brings_its_folder_and_what_ekuiper_demands() {
    let bench = Bench::new();
    let manifest = r#"{"version":"v1","language":"executable","executable":"bin/run","sources":["s","t"]}"#;
    let folder = bench.plugin("native", manifest);
    for name in ["bin", "lib/deep", ".git", "target/x", "sources"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    support::write_program(&folder.join("bin/run"), b"#!/bin/sh\n");
    for name in ["lib/deep/data", ".git/config", "target/x/y", "old.zip", "sources/s.yaml"] {
        fs::write(folder.join(name), "default: {a: 1}\n").unwrap();
    }
    let (zip, report, told) = package(&bench, folder.to_str().unwrap(), &[]);
    let names: Vec<_> = entries(&zip).into_iter().map(|(name, _)| name).collect();
    let wanted = [
        "bin",
        "bin/run",
        "lib",
        "lib/deep",
        "lib/deep/data",
        "native.json",
        "sources",
        "sources/s.yaml",
        "sources/t.yaml",
    ];
    assert_eq!(names, wanted);
    assert_eq!(report["target"], Value::Null);
    assert!(told.contains("sources/t.yaml is added, empty") && !told.contains("sources/s.yaml"), "{told}");
    assert!(told.contains(r#"says "language": "go""#), "{told}");
    let into = bench.path().join("into");
    Archive::open(&zip, Limits::default()).unwrap().unpack(&into, |_| true).unwrap();
    let written: Value = serde_json::from_slice(&fs::read(into.join("native.json")).unwrap()).unwrap();
    assert_eq!((&written["language"], &written["executable"]), (&json!("go"), &json!("bin/run")));
    assert_eq!(fs::read_to_string(into.join("sources/s.yaml")).unwrap(), "default: {a: 1}\n");
}

#[test]
fn what_cannot_be_packaged_is_said() {
    let bench = Bench::new();
    let folder = bench.plugin("p", r#"{"language":"go","executable":"run","functions":["f"]}"#);
    let path = folder.to_str().unwrap();
    let zip = bench.path().join("p.zip");
    let zip = zip.to_str().unwrap();
    let error = bench.fails(1, &["package", path, "-o", zip]);
    assert!(error.contains("run"), "{error}");
    support::write_program(&folder.join("run"), b"#!/bin/sh\n");
    let error = bench.fails(1, &["package", path, "-o", zip, "--target", "arm64"]);
    assert!(error.contains("is no Cargo project: there is nothing to build for arm64"), "{error}");
    let error = bench.fails(2, &["package", path, "-o", zip, "--target", "pdp11"]);
    assert!(error.contains("there is no target \"pdp11\""), "{error}");
    let error = bench.fails(1, &["package", &example("mirror"), "-o", zip, "--target", "no-such-target"]);
    assert!(error.contains("run `rustup target add no-such-target`"), "{error}");
    let error = bench.fails(1, &["package", path, "-o", "/nowhere/p.zip"]);
    assert!(error.starts_with("cannot write /nowhere/p.zip: "), "{error}");
    std::os::unix::fs::symlink("/etc", folder.join("etc")).unwrap();
    let error = bench.fails(1, &["package", path, "-o", zip]);
    assert!(error.contains("etc is a link to a folder"), "{error}");
    assert!(!Path::new(zip).exists(), "half a package is left");
}

/// An engine would install it, and could not start the symbols.
#[test]
fn a_manifest_that_contradicts_its_plugin_is_not_packaged() {
    let bench = Bench::new();
    let folder = bench.plugin("p", "{}");
    let (path, zip) = (folder.to_str().unwrap(), bench.path().join("p.zip"));
    let package = ["package", path, "-o", zip.to_str().unwrap()];
    let describe = |description: Value| {
        let text = format!("#!/bin/sh\n[ \"$1\" = --describe ] && echo '{description}' && exit 0\nexit 5\n");
        support::write_program(&folder.join("run"), text.as_bytes());
    };
    let manifest = json!({ "version": "v1", "language": "go", "executable": "run", "functions": ["f"] });
    fs::write(folder.join("p.json"), manifest.to_string()).unwrap();

    describe(json!({ "format": 1, "name": "p", "functions": [{ "name": "g" }] }));
    let error = bench.fails(1, &package);
    assert!(error.contains("p cannot be packaged: function f: is in the manifest, and the plugin does not"), "{error}");
    assert!(error.ends_with("; correct the manifest, or build the plugin again; `ekuiper-plugin check` says more"));
    describe(json!({ "format": 1, "name": "q", "functions": [{ "name": "f" }] }));
    let error = bench.fails(1, &package);
    assert!(error.contains("p cannot be packaged: p: the program calls itself \"q\""), "{error}");
    assert!(!zip.exists());

    describe(json!({ "format": 1, "name": "p", "functions": [{ "name": "f" }, { "name": "g" }] }));
    let ran = bench.run(&package);
    assert!(ran.code == Some(0) && zip.exists(), "{ran:?}");
    assert!(ran.stderr.contains("warning: function g: is served by the plugin, and not in the manifest"), "{ran:?}");
}

/// A plugin in Python in an environment of its own is asked for its description
/// there, as the host would start it; where that is not, it is packaged without.
#[test]
fn a_plugin_with_an_environment_describes_itself_in_it() {
    let bench = Bench::new();
    let mirror = example("mirror");
    let program = Path::new(env!("CARGO_BIN_EXE_ekuiper-plugin")).parent().unwrap().with_file_name("release/mirror");
    assert!(bench.run(&["call", &mirror, "echo", "1"]).code == Some(0) && program.is_file());
    let script = |name: &str| {
        format!(
            "import os, subprocess, sys\nassert os.environ['OWN'] == '1' and sys.argv[1:] == ['--describe']\n\
             described = subprocess.check_output([{program:?}, '--describe'], text=True)\n\
             print(described.replace('\"mirror\"', '\"{name}\"'))\n"
        )
    };
    let wrapper = |words: &str| format!("#!/bin/sh\n{words}export OWN=1\nexec \"$@\"\n");
    let tools = bench.path().join("tools");
    fs::create_dir(&tools).unwrap();
    support::write_program(&tools.join("conda"), wrapper("shift 3\n").as_bytes());
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    for (name, environment, paths) in [
        ("venv", r#""venv","env":"mine""#, [&*path, &path]),
        ("conda", r#""conda","env":"mine""#, [&path, "/usr/bin:/bin"]),
    ] {
        let manifest = format!(
            r#"{{"version":"v1","language":"python","executable":"x.py","virtualEnvType":{environment},"functions":["revert"]}}"#
        );
        let folder = bench.plugin(name, &manifest);
        fs::write(folder.join("x.py"), script(name)).unwrap();
        fs::create_dir_all(folder.join("mine/bin")).unwrap();
        support::write_program(&folder.join("mine/bin/python"), wrapper("set -- python3 \"$@\"\n").as_bytes());
        for path in paths {
            let zip = bench.path().join("made.zip");
            let mut command = bench.command(&["package", folder.to_str().unwrap(), "-o", zip.to_str().unwrap()]);
            let child = command.env("PATH", path).stdout(std::process::Stdio::piped());
            let ran = support::finish(child.stderr(std::process::Stdio::piped()).spawn().unwrap());
            assert_eq!(ran.code, Some(0), "{ran:?}");
            let is_described = entries(&zip).iter().any(|(name, _)| name == "functions/revert.json");
            let is_there = path.contains("tools");
            assert_eq!(is_described, is_there, "{name}: {ran:?}");
            assert_eq!(ran.stderr.contains("is not asked for its description: "), !is_there, "{ran:?}");
        }
    }
    bench.assert_nothing_is_left();
}
