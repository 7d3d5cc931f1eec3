//! `new`: a plugin from an empty folder to its package, and what it refuses.
//! `interop/tests/new_in_python.rs` has the same way in Python.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{Bench, Ran, finish};

/// Runs `new` in the bench's folder; returns what it reports.
fn new(bench: &Bench, arguments: &[&str]) -> Value {
    let ran = run(bench.command(&[&["new"], arguments].concat()).current_dir(bench.path()));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    bench.assert_nothing_is_left();
    serde_json::from_str(&ran.stdout).unwrap()
}

fn run(command: &mut Command) -> Ran {
    finish(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// Prepares a shell that builds a new plugin: with the dependencies of this
/// workspace, which are there already, in a target folder that all new plugins
/// share, and fast.
fn in_plugin(folder: &Path) -> Command {
    let lock = folder.join("Cargo.lock");
    if !lock.exists() {
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock"), lock).unwrap();
    }
    let own = Path::new(env!("CARGO_BIN_EXE_ekuiper-plugin")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new("sh");
    command.stdin(Stdio::null()).current_dir(folder).env("PATH", format!("{}:{path}", own.display()));
    command.env("CARGO_TARGET_DIR", own.parent().unwrap().join("plugins")).env("CARGO_INCREMENTAL", "0");
    for (setting, value) in [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("OPT_LEVEL", "0")] {
        command.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    command
}

/// Runs a line of a shell in the plugin's folder; returns what it prints. What
/// it builds takes its time, and has no deadline.
fn shell(folder: &Path, line: &str) -> String {
    let output = in_plugin(folder).args(["-e", "-c", line]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{line}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The commands of the README of a plugin.
fn commands(folder: &Path) -> Vec<String> {
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

#[test]
fn a_plugin_in_rust_goes_the_way_that_its_readme_says() {
    let bench = Bench::new();
    // Which must not become part of a workspace around it.
    fs::write(bench.path().join("Cargo.toml"), "[workspace]\n").unwrap();
    let name = bench.unique("newcomer-");
    let report = new(&bench, &[&name, "--kind", "source", "--kind", "function", "--kind", "sink"]);
    let folder = bench.path().join(&name);
    assert_eq!((&report["name"], &report["language"]), (&json!(name), &json!("rust")));
    assert_eq!(report["folder"], json!(folder.canonicalize().unwrap()));
    edit(&folder.join("src/function.rs"), "value * 2.0", "value * 3.0");
    edit(&folder.join("src/function.rs"), "Ok(42.0)", "Ok(63.0)");
    let (mut printed, lines) = (String::new(), PathBuf::from(format!("/tmp/{name}.jsonl")));
    for line in commands(&folder) {
        // A program for this machine needs no target to be installed.
        let package = line.starts_with("ekuiper-plugin package");
        let said = shell(&folder, &if package { format!("{line} --target native") } else { line });
        let last = said.lines().last().unwrap_or_default();
        // A program for this machine runs in fewer of eKuiper's images.
        assert!(!said.contains(" errors, ") || last.starts_with("ok: 0 errors, "), "{said}");
        printed.push_str(last);
        printed.push('\n');
        bench.assert_nothing_is_left();
    }
    let identifier = name.to_lowercase().replace('-', "_");
    assert!(printed.contains("\n63.0\n{\"number\":3}\n{\"acked\":1,"), "{printed}");
    assert!(printed.contains("\nok: 0 errors, "), "{printed}");
    assert_eq!(fs::read_to_string(&lines).unwrap(), "{\"a\":1}\n");
    fs::remove_file(lines).unwrap();
    let zip = folder.join(format!("{name}.zip"));
    let ran = bench.run(&["call", zip.to_str().unwrap(), &format!("{identifier}_double"), "7"]);
    assert_eq!(ran.stdout, "21.0\n", "{ran:?}");
    let built: toml::Table = fs::read_to_string(folder.join("Cargo.lock")).unwrap().parse().unwrap();
    let packages = built["package"].as_array().unwrap();
    assert!(packages.iter().any(|package| package["name"].as_str() == Some(&*name)), "not the plugin's own lock file");
}

#[test]
fn a_plugin_of_each_kind_is_clean() {
    let bench = Bench::new();
    // The longest name makes the longest lines.
    for (kind, name) in [("function", "f".repeat(36)), ("source", "s".repeat(36)), ("sink", "k".repeat(36))] {
        new(&bench, &[&name, "--kind", kind]);
        let folder = bench.path().join(&name);
        shell(&folder, "cargo fmt --check");
        shell(&folder, "cargo clippy --all-targets -- -D warnings");
    }
    new(&bench, &["plain"]);
    let files = |name: &str| fs::read_dir(bench.path().join(name).join("src")).unwrap().count();
    assert_eq!([files("plain"), files(&"f".repeat(36))], [2, 2], "a function is the default");
}

/// Each step of the workflows is one, and what it runs is no text that the shell
/// cannot read.
#[test]
fn the_workflows_are_well_formed() {
    let bench = Bench::new();
    for language in ["rust", "python"] {
        new(&bench, &[language, "--language", language]);
        let file = bench.path().join(language).join(".github/workflows/ci.yml");
        let workflow: Value = serde_saphyr::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let steps = workflow["jobs"]["plugin"]["steps"].as_array().unwrap();
        let lines: Vec<_> = steps.iter().filter_map(|step| step["run"].as_str()).collect();
        assert_eq!(lines.len() + steps.iter().filter(|step| step["uses"].is_string()).count(), steps.len());
        assert!(lines.iter().any(|line| line.starts_with("ekuiper-plugin package .")));
        let ran = run(Command::new("bash").args(["-n", "-c", &lines.join("\n")]));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{lines:?}");
    }
}

#[test]
fn what_is_there_is_not_overwritten() {
    let bench = Bench::new();
    let path = |name: &str| bench.path().join(name);
    fs::write(path("a-file"), "mine").unwrap();
    fs::create_dir(path("empty")).unwrap();
    fs::create_dir(path("full")).unwrap();
    fs::write(path("full/Cargo.toml"), "mine").unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    symlink("empty", path("link")).unwrap();
    for name in ["a-file", "empty", "full", "dangling", "link"] {
        for language in ["rust", "python"] {
            let given = path(name).to_str().unwrap().to_owned();
            let error = bench.fails(1, &["new", &given, "--language", language]);
            assert_eq!(error, format!("{given} is there already, and nothing is overwritten"));
        }
    }
    let given = path("dangling/").to_str().unwrap().to_owned();
    assert!(bench.fails(1, &["new", &given]).contains("is there already"));
    assert_eq!(
        fs::read_to_string(path("a-file")).unwrap() + &fs::read_to_string(path("full/Cargo.toml")).unwrap(),
        "minemine"
    );
    assert_eq!(fs::read_dir(path("empty")).unwrap().count(), 0);
    assert_eq!(fs::read_link(path("dangling")).unwrap(), Path::new("nowhere"));
    let error = bench.fails(1, &["new", path("a-file/below").to_str().unwrap()]);
    assert!(error.starts_with("cannot make ") && error.ends_with("a-file: File exists (os error 17)"), "{error}");
    // Folders above are made, and removed again if the plugin is not.
    new(&bench, &["a/b/deep", "--language", "python"]);
    assert!(path("a/b/deep/deep.py").is_file());
    let own = env!("CARGO_BIN_EXE_ekuiper-plugin");
    let full = format!("trap '' XFSZ; ulimit -f 0; exec {own} new c/d/e");
    let ran = run(Command::new("sh").args(["-c", &full]).current_dir(bench.path()));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("cannot make c/d/e: File too large"), "{ran:?}");
    let mut left: Vec<_> = fs::read_dir(bench.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["a", "a-file", "dangling", "empty", "full", "link", "tmp"]);
}

#[test]
fn a_name_that_cannot_be_a_plugins_is_said() {
    let bench = Bench::new();
    let long = "n".repeat(300);
    let odd = ["2fast", ".hidden", "übung", "a b", "a\u{1b}[2J", "a\nb", "mqtt", "abs", "sources", &long];
    let cases = odd.iter().flat_map(|name| [("rust", *name), ("python", *name)]);
    for (language, name) in cases.chain([
        ("rust", "match"),
        ("rust", "std"),
        ("rust", "test"),
        ("python", "lambda"),
        ("python", "json"),
        ("python", "ekuiper"),
    ]) {
        let given = format!("{}/{name}", bench.path().display());
        let error = bench.fails(2, &["new", &given, "--language", language]);
        assert!(error.contains(" cannot be a plugin's name: ") && error.contains("; a name has at most 36"), "{error}");
        assert!(!error.contains('\n') && error.len() < 400, "{error}");
    }
    assert!(bench.fails(2, &["new", "--", "-dash"]).contains("it begins with '-'"));
    for given in ["..", "/", ".", "a/.."] {
        assert!(bench.fails(2, &["new", given]).contains(" names no folder: "));
    }
    assert_eq!(bench.run(&["new", ""]).code, Some(2));
    assert_eq!(fs::read_dir(bench.path()).unwrap().count(), 1, "something was made");
}

#[test]
fn a_plugin_depends_on_the_sdk_that_is_named() {
    let bench = Bench::new();
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let sdk = checkout.join("sdk").canonicalize().unwrap();
    for (name, given) in [("own", None), ("named", Some(sdk.clone())), ("checkout", Some(checkout.to_owned()))] {
        let given = given.as_ref().map(|path| path.to_str().unwrap());
        new(&bench, &[&[name][..], &given.map_or(vec![], |path| vec!["--sdk", path])].concat());
        let file = fs::read_to_string(bench.path().join(name).join("Cargo.toml")).unwrap();
        let file: toml::Table = file.parse().unwrap();
        assert_eq!(file["dependencies"]["ekuiper-sdk"]["path"].as_str(), sdk.to_str());
    }
    // Elsewhere the workflow puts another checkout there.
    let folder = bench.path().join("named");
    let workflow = fs::read_to_string(folder.join(".github/workflows/ci.yml")).unwrap();
    let step = workflow.lines().find(|line| line.contains("sed -i")).unwrap().trim();
    shell(&folder, &format!("RUNNER_TEMP='/else where'; {step}"));
    let file: toml::Table = fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap();
    assert_eq!(file["dependencies"]["ekuiper-sdk"]["path"].as_str(), Some("/else where/ekuiper-plugins/sdk"));
    let path = bench.path().join("p");
    let path = path.to_str().unwrap();
    let error = bench.fails(1, &["new", path, "--sdk", "/nowhere"]);
    assert!(error.starts_with("/nowhere is not the crate ekuiper-sdk"), "{error}");
    let error = bench.fails(2, &["new", path, "--sdk", sdk.to_str().unwrap(), "--language", "python"]);
    assert!(error.contains("--sdk is for plugins in Rust"), "{error}");
    assert!(!Path::new(path).exists());
}
