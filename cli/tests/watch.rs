//! `watch`: edits take effect while the symbols go on, and lose no row.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Bench, finish, speaker};

struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    told: Lines<BufReader<ChildStderr>>,
}

impl Watching {
    fn start(bench: &Bench, arguments: &[&str]) -> Self {
        let mut command = bench.command(&[&["watch"], arguments, &["--debug"]].concat());
        // What all projects here need is built once.
        command.env("CARGO_TARGET_DIR", root().join("target/watched"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines, told }
    }

    /// The next result.
    fn next(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
    }

    /// Waits until the command says this.
    fn wait_until_it_says(&mut self, words: &str) {
        let said = self.told.find(|line| line.as_ref().unwrap().contains(words));
        said.unwrap_or_else(|| panic!("it never says {words:?}")).unwrap();
    }

    /// Ends it by Ctrl-C.
    fn interrupt(self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        // A reader that goes away would end it in another way.
        std::thread::spawn(|| self.lines.for_each(drop));
        std::thread::spawn(|| self.told.for_each(drop));
        let ran = finish(self.child);
        assert_eq!(ran.code, Some(130), "{ran:?}");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A copy of the example plugin, as a project of its own with this name.
fn project(bench: &Bench, name: &str) -> PathBuf {
    let folder = bench.path().join(name);
    fs::create_dir_all(folder.join("src")).unwrap();
    for file in fs::read_dir(root().join("examples/mirror/src")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.join("src").join(file.file_name())).unwrap();
    }
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let manifest = format!(
        "[package]\nname = {name:?}\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n\
         ekuiper-sdk = {{ path = {:?}, features = [\"schemars\"] }}\n\
         schemars = \"1\"\nserde = {{ version = \"1\", features = [\"derive\"] }}\n",
        root().join("sdk")
    );
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    folder
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {}", path.display());
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_function_is_called_again_after_each_edit_and_mistakes_keep_the_old_version() {
    let bench = Bench::new();
    let folder = project(&bench, "watched-function");
    let main = folder.join("src/main.rs");
    let mut watching = Watching::start(&bench, &[folder.to_str().unwrap(), "revert", "\"abc\""]);
    assert_eq!(watching.next(), json!("cba"));
    edit(&main, "text.chars()", "text.to_uppercase().chars()");
    assert_eq!(watching.next(), json!("CBA"));
    watching.wait_until_it_says("src/main.rs has changed");
    watching.wait_until_it_says("mirror is updated: ");
    edit(&main, "text.to_uppercase()", "text.to_uppercase(");
    watching.wait_until_it_says("the old version goes on: ");
    edit(&main, "text.to_uppercase(", "text.repeat(2)");
    assert_eq!(watching.next(), json!("cbacba"));
    watching.wait_until_it_says("mirror is updated: ");
    // The copies of former versions are gone.
    let folders = fs::read_dir(bench.path().join("tmp")).unwrap().map(|entry| entry.unwrap().path());
    let copies = folders.filter(|path| path.to_string_lossy().contains("ekuiper-watch-"));
    assert_eq!(copies.map(|folder| fs::read_dir(folder).unwrap().count()).collect::<Vec<_>>(), [1]);
    watching.interrupt();
    bench.assert_nothing_is_left();
}

#[test]
fn rows_go_on_through_an_edit() {
    let bench = Bench::new();
    let folder = project(&bench, "watched-pipeline");
    let rows = bench.path().join("rows.jsonl");
    let pipeline = bench.path().join("pipeline.toml");
    let text = format!(
        "plugins = [\"watched-pipeline\"]\n[source]\nsymbol = \"random\"\nconfig = {{ interval = 2 }}\n\
         [[function]]\nsymbol = \"revert\"\nargs = [\"name\"]\noutput = \"reversed\"\n\
         [sink]\nsymbol = \"file\"\nconfig = {{ path = {rows:?} }}\nrequire_ack = true\nprint = true\n"
    );
    fs::write(&pipeline, text).unwrap();
    let mut watching = Watching::start(&bench, &[pipeline.to_str().unwrap()]);
    let mut printed = vec![watching.next()];
    edit(&folder.join("src/main.rs"), "text.chars()", "text.to_uppercase().chars()");
    let is_new = |row: &Value| row["reversed"].as_str().unwrap().contains(char::is_uppercase);
    while !is_new(printed.last().unwrap()) {
        printed.push(watching.next());
    }
    for _ in 0..20 {
        printed.push(watching.next());
        assert!(is_new(printed.last().unwrap()), "the old version answers");
    }
    watching.wait_until_it_says("mirror is updated: ");
    watching.interrupt();
    // Each row that was printed is in the sink's file, once: none was lost, and
    // none was written twice.
    let written = fs::read_to_string(&rows).unwrap();
    let written: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(written.len() >= printed.len(), "{} of {}", written.len(), printed.len());
    assert_eq!(written[..printed.len()], printed[..], "rows are lost or doubled");
    bench.assert_nothing_is_left();
}

/// Waits for a file.
fn wait_for(path: &Path) {
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(300);
    while !path.exists() {
        assert!(std::time::Instant::now() < give_up, "there is no {}", path.display());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn ctrl_c_ends_a_build_at_once_and_leaves_nothing() {
    let bench = Bench::new();
    let folder = project(&bench, "watched-build");
    let (slow, begun) = (folder.join("slow"), bench.path().join("begun"));
    let script = format!(
        "fn main() {{\n    println!(\"cargo::rerun-if-changed=slow\");\n    if std::path::Path::new(\"slow\").exists() {{\n        \
         std::fs::write({begun:?}, \"\").unwrap();\n        std::thread::sleep(std::time::Duration::from_secs(1000));\n    \
         }}\n}}\n"
    );
    fs::write(folder.join("build.rs"), script).unwrap();
    fs::write(&slow, "").unwrap();
    let path = folder.to_str().unwrap();
    // While nothing runs yet.
    for arguments in [
        &["watch", path, "--debug"][..],
        &["check", path, "--debug"],
        &["package", path, "--target", "native"],
        &["call", path, "revert", "\"abc\"", "--debug"],
    ] {
        let mut command = bench.command(arguments);
        command.env("CARGO_TARGET_DIR", root().join("target/watched")).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        wait_for(&begun);
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let ran = finish(child);
        assert_eq!((ran.code, &*ran.stdout), (Some(130), ""), "{arguments:?}: {ran:?}");
        bench.assert_nothing_is_left();
        fs::remove_file(&begun).unwrap();
    }
    // While an old version runs.
    fs::remove_file(&slow).unwrap();
    let mut watching = Watching::start(&bench, &[path, "revert", "\"abc\""]);
    assert_eq!(watching.next(), json!("cba"));
    fs::write(&slow, "").unwrap();
    wait_for(&begun);
    watching.interrupt();
    bench.assert_nothing_is_left();
}

#[test]
fn what_cannot_go_on_waits_for_the_next_change() {
    let bench = Bench::new();
    let source = |body: &str| format!("def source(push):\n{body}\n");
    let rows = "    while not stopped.wait(0.01):\n        push(b'{\"message\":{\"v\":1}}')";
    let folder = speaker(&bench, "b'handshake'", &source(rows));
    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    let (script, manifest) = (folder.join(format!("{name}.py")), folder.join(format!("{name}.json")));
    let mut watching = Watching::start(&bench, &[folder.to_str().unwrap(), "s"]);
    assert_eq!(watching.next(), json!({ "v": 1 }));
    // A version without the symbol that is in use, and one of another name.
    edit(&manifest, "[\"s\"]", "[\"t\"]");
    watching.wait_until_it_says("the old version goes on: ");
    edit(&manifest, "[\"t\"]", "[\"s\"]");
    watching.wait_until_it_says(&format!("{name} is updated: "));
    fs::rename(&manifest, folder.join("other.json")).unwrap();
    watching.wait_until_it_says("is named other now: give it its name back");
    fs::rename(folder.join("other.json"), &manifest).unwrap();
    watching.wait_until_it_says(&format!("{name} is updated: "));
    // One that crashes again and again.
    edit(&script, rows, "    push(b'{\"message\":{\"v\":2}}')\n    os._exit(3)");
    watching.wait_until_it_says("it is read again after the next change");
    edit(&script, "    push(b'{\"message\":{\"v\":2}}')\n    os._exit(3)", &rows.replace("1}", "3}"));
    while watching.next() != json!({ "v": 3 }) {}
    watching.interrupt();
    bench.assert_nothing_is_left();
}
