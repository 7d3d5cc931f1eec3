//! A new plugin in Python, from an empty folder to its package.
//! `cli/tests/new.rs` has the same way in Rust.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ekuiper_interop::guard::Watchdog;
use ekuiper_interop::tools;
use serde_json::Value;

/// Makes a plugin in Python in `folder`.
fn new(folder: &Path, name: &str, kinds: &[&str]) -> PathBuf {
    let mut new = Command::new(tools::ekuiper_plugin());
    new.args(["new", name, "--language", "python"]).args(kinds.iter().flat_map(|kind| ["--kind", kind]));
    text(&new.current_dir(folder).output().unwrap());
    folder.join(name)
}

/// Runs a line of a shell in the plugin's folder, where `python` is one with our
/// module.
fn shell(folder: &Path, line: &str) -> String {
    let own = tools::ekuiper_plugin();
    let folders = [own.parent().unwrap().to_owned(), tools::our_python().parent().unwrap().to_owned()];
    let path = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect::<Vec<_>>();
    let path = std::env::join_paths(folders.into_iter().chain(path)).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", line]).current_dir(folder).env("PATH", path);
    text(&shell.output().unwrap())
}

/// What a command printed, when it worked.
fn text(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    std::fs::write(file, text.replace(from, to)).unwrap();
}

/// The commands of the README of a plugin.
fn commands(folder: &Path) -> Vec<String> {
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

#[test]
fn a_plugin_in_python_goes_the_way_that_its_readme_says() {
    let _watchdog = Watchdog::start();
    let bench = tempfile::tempdir().unwrap();
    let name = format!("newcomer-{}", std::process::id());
    let folder = new(bench.path(), &name, &["function", "source", "sink"]);
    let identifier = name.replace('-', "_");
    edit(&folder.join(format!("{identifier}.py")), "value * 2", "value * 3");
    edit(&folder.join(format!("tests/test_{identifier}.py")), "== 42", "== 63");
    let lines = PathBuf::from(format!("/tmp/{name}.jsonl"));
    let said: Vec<_> = commands(&folder).iter().map(|line| shell(&folder, line)).collect();
    let printed = said.concat();
    assert!(printed.contains("6 passed"), "{printed}");
    assert!(printed.contains("\n63.0\n{\"number\":1}\n{\"number\":2}\n{\"number\":3}\n{\"acked\":1,"), "{printed}");
    assert_eq!(std::fs::read_to_string(&lines).unwrap(), "{\"a\": 1}\n");
    std::fs::remove_file(lines).unwrap();
    assert!(printed.contains("\nok: 0 errors, 0 warnings, "), "{printed}");
    let report = printed.lines().find(|line| line.starts_with("{\"entries\":")).unwrap();
    let report: Value = serde_json::from_str(report).unwrap();
    let entries: Vec<_> = report["entries"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for wanted in [format!("{name}.json"), format!("{identifier}.py"), format!("sources/{identifier}_ticks.yaml")] {
        assert!(entries.contains(&&*wanted), "{wanted}: {entries:?}");
    }
    assert_eq!(shell(bench.path(), &format!("ekuiper-plugin call {name}/{name}.zip {identifier}_double 7")), "21.0\n");
    // A helper beside the script is no other plugin.
    std::fs::write(folder.join("helper.py"), "").unwrap();
    assert_eq!(shell(&folder, &format!("ekuiper-plugin call . {identifier}_double 7")), "21.0\n");
}

#[test]
fn a_plugin_of_each_kind_passes_its_tests() {
    let _watchdog = Watchdog::start();
    let bench = tempfile::tempdir().unwrap();
    for kind in ["function", "source", "sink"] {
        let folder = new(bench.path(), &format!("only-{kind}"), &[kind]);
        let said = shell(&folder, "python -W error -m pytest -p no:cacheprovider");
        assert!(said.contains("2 passed"), "{said}");
        let described = shell(&folder, &format!("python only_{kind}.py --describe"));
        let described: Value = serde_json::from_str(&described).unwrap();
        let symbols = described[format!("{kind}s")].as_array().unwrap();
        assert!(symbols.len() == 1 && symbols[0]["doc"].as_str().is_some_and(|doc| doc.len() > 10), "{described}");
    }
}

/// What an interpreter lacks is said, with what to do.
#[test]
fn a_python_without_the_module_is_said() {
    let _watchdog = Watchdog::start();
    let bench = tempfile::tempdir().unwrap();
    let folder = new(bench.path(), "lonely", &[]);
    let zip = bench.path().join("lonely.zip");
    shell(&folder, &format!("ekuiper-plugin package . -o {}", zip.display()));
    // An interpreter with nothing but Python's own library.
    let bare = bench.path().join("bare");
    text(&Command::new(tools::python()).args(["-m", "venv", "--without-pip"]).arg(&bare).output().unwrap());
    for (python, wanted) in [
        (bare.join("bin/python"), ["No module named 'ekuiper'", "install the module ekuiper into this Python"]),
        (tools::python(), ["this Python has the official package of that name", "which lacks it: install the module"]),
    ] {
        for path in [&folder, &zip] {
            let mut call = Command::new(tools::ekuiper_plugin());
            call.args(["call".as_ref(), path.as_os_str()]).args(["lonely_double", "1", "--python-bin"]).arg(&python);
            let output = call.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            let wanted = wanted.into_iter().chain(["by --python-bin"]);
            wanted.for_each(|wanted| assert!(said.contains(wanted), "{wanted}: {said}"));
        }
    }
}
