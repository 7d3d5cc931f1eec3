//! Plugins in zips, as eKuiper installs them: every command takes one, and a bad
//! one is an error that leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ekuiper_manager::archive::Contents;
use support::{Bench, example, finish, speaker};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// A zip of `examples/mirror`.
fn mirror(bench: &Bench) -> PathBuf {
    // Builds it, beside the command's own program.
    assert_eq!(bench.run(&["call", &example("mirror"), "echo", "1"]).code, Some(0));
    let program = Path::new(env!("CARGO_BIN_EXE_ekuiper-plugin")).parent().unwrap().with_file_name("release/mirror");
    let mut contents = Contents::new();
    contents.add_file("mirror", program, true).unwrap();
    contents.add_file("mirror.json", Path::new(&example("mirror")).join("mirror.json"), false).unwrap();
    let zip = bench.path().join("some name.zip");
    contents.write(&zip).unwrap();
    zip
}

/// Names and contents.
type Entries<'a> = &'a [(&'a str, &'a [u8])];

/// A zip of these entries, with any names.
fn zip(bench: &Bench, entries: Entries<'_>) -> String {
    let path = bench.path().join("bad.zip");
    let mut zip = ZipWriter::new(File::create(&path).unwrap());
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_command_takes_a_zip() {
    let bench = Bench::new();
    let zip = mirror(&bench);
    let zip = zip.to_str().unwrap();
    assert_eq!(bench.run(&["call", zip, "revert", "\"hello\""]).stdout, "\"olleh\"\n");
    let ran = bench.run(&["source", zip, "random", "--config", r#"{"interval":1}"#, "--count", "2"]);
    assert_eq!((ran.code, ran.stdout.lines().count()), (Some(0), 2), "{ran:?}");
    let pipeline = bench.path().join("pipeline.toml");
    let text = format!("plugins = [{zip:?}]\n[source]\nsymbol = \"random\"\nconfig = {{ interval = 1 }}\n");
    std::fs::write(&pipeline, text).unwrap();
    let ran = bench.run(&["run", pipeline.to_str().unwrap(), "--count", "2"]);
    assert_eq!((ran.code, ran.stdout.lines().count()), (Some(0), 2), "{ran:?}");
    bench.assert_nothing_is_left();
}

#[test]
fn what_a_killed_command_leaves_is_removed_by_the_next() {
    let bench = Bench::new();
    let zip = mirror(&bench);
    let zip = zip.to_str().unwrap();
    let mut command = bench.command(&["source", zip, "random", "--config", r#"{"interval":1}"#]);
    let mut killed = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(killed.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(!first.is_empty());
    killed.kill().unwrap();
    killed.wait().unwrap();
    bench.wait_for_processes();
    assert!(std::fs::read_dir(bench.path().join("tmp")).unwrap().count() > 0, "a killed command cannot tidy up");
    assert_eq!(bench.run(&["call", zip, "echo", "1"]).code, Some(0));
    bench.assert_nothing_is_left();
}

#[test]
fn a_bad_zip_is_one_error() {
    let manifest = br#"{"language":"go","executable":"run","functions":["f"]}"#;
    let cases: [(Entries<'_>, &str); 7] = [
        (&[], "has no manifest: NAME.json must be at its root"),
        (&[("p/p.json", manifest), ("p/run", b"")], "zip the folder's content instead of the folder"),
        (&[("p.json", manifest), ("q.json", manifest)], "2 files that may be the manifest: p.json, q.json"),
        (&[("p.json", b"{")], "the manifest is not valid"),
        (&[("p.json", manifest)], "does not exist"),
        (&[("p.json", manifest), ("run/x", b""), ("run", b"")], "lies in run, which is a file"),
        (&[("p.json", br#"{"language":"go","executable":"../run","functions":["f"]}"#)], "inside the plugin's folder"),
    ];
    for (entries, wanted) in cases {
        let bench = Bench::new();
        let error = bench.fails(1, &["call", &zip(&bench, entries), "f", "1"]);
        assert!(error.contains(wanted), "{error}");
    }
    let bench = Bench::new();
    let path = bench.path().join("none.zip");
    std::fs::write(&path, "hello").unwrap();
    let error = bench.fails(1, &["call", path.to_str().unwrap(), "f", "1"]);
    assert!(error.contains("none.zip is not a zip, or it is damaged: "), "{error}");
}

#[test]
fn what_a_killed_watch_leaves_is_removed_by_the_next_command() {
    let bench = Bench::new();
    let body = "def call(request): return b'{\"state\":true,\"result\":1}'\n";
    let plugin = speaker(&bench, "b'handshake'", body);
    let path = plugin.to_str().unwrap();
    let zip = bench.path().join("some.zip");
    let zip = zip.to_str().unwrap();
    assert_eq!(bench.run(&["package", path, "-o", zip]).code, Some(0));
    let folders = || {
        let left = std::fs::read_dir(bench.path().join("tmp")).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let is_ours = |name: &String| name.starts_with("ekuiper-unpacked-") || name.starts_with("ekuiper-watch-");
        left.filter(is_ours).collect::<Vec<_>>()
    };
    let killed = [vec!["watch", path, "f", "1"], vec!["call", zip, "f", "-"]];
    for arguments in killed {
        let mut command = bench.command(&arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"[]\n").unwrap();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        bench.wait_for_processes();
        assert_eq!(folders().len(), 1, "{arguments:?}");
    }
    assert_eq!(bench.run(&["call", zip, "f", "1"]).code, Some(0));
    assert_eq!(folders(), [""; 0]);
}

#[test]
fn a_temporary_folder_that_cannot_be_made_is_told_with_its_place() {
    let bench = Bench::new();
    let plugin = speaker(&bench, "b'handshake'", "");
    let path = plugin.to_str().unwrap();
    let zip = bench.path().join("some.zip");
    let zip = zip.to_str().unwrap();
    assert_eq!(bench.run(&["package", path, "-o", zip]).code, Some(0));
    let none = bench.path().join("none");
    let sockets = bench.path().join("tmp");
    for arguments in [["call", zip, "f", "1"], ["watch", path, "f", "1"]] {
        let mut command = bench.command(&arguments);
        command.args(["--ipc-dir", sockets.to_str().unwrap()]).env("TMPDIR", &none);
        let ran = finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let told =
            format!("ekuiper-plugin: cannot make a temporary folder in {}: TMPDIR names another", none.display());
        assert!(ran.stderr.starts_with(&told), "{ran:?}");
        assert_eq!(ran.code, Some(1), "{ran:?}");
    }
}
