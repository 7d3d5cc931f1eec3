//! `ekuiper-plugin check` beside the engine: what it calls an error the engine
//! refuses, and what passes is installed and runs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ekuiper_interop::tools;
use serde_json::{Value, json};
use zip::write::SimpleFileOptions;

use crate::describe::has_page;
use ekuiper_interop::engine::kuiperd::{Engine, Site};
use ekuiper_interop::engine::package;

/// An entry: its name, Unix mode and content. A name that ends with a slash is a
/// folder's.
type Entry<'a> = (&'a str, u32, &'a [u8]);

fn write(zip: &Path, entries: &[Entry<'_>]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(zip).unwrap());
    for (name, mode, content) in entries {
        let options = SimpleFileOptions::default().unix_permissions(*mode);
        match name.ends_with('/') {
            true => zip.add_directory(*name, options).unwrap(),
            false => zip.start_file(*name, options).unwrap(),
        }
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
}

/// Checks a zip; returns the areas of the errors.
fn check(python: &Path, zip: &Path, arguments: &[&str]) -> Vec<Value> {
    let output = Command::new(tools::ekuiper_plugin())
        .args(["check", "--json"])
        .arg(zip)
        .arg("--python-bin")
        .arg(python)
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let errors: Vec<_> =
        lines.iter().filter(|line| line["level"] == "error").map(|line| line["area"].clone()).collect();
    let summary = lines.last().unwrap_or_else(|| panic!("no report: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(summary["errors"], errors.len(), "{text}");
    assert_eq!(output.status.code(), Some(i32::from(!errors.is_empty())), "{text}");
    errors
}

#[test]
fn what_the_check_calls_an_error_is_refused() {
    let Some(site) = Site::new() else { return };
    let engine = Engine::start(&site);
    let script: &[u8] = b"#!/bin/sh\nexec sleep 600\n";
    let good = json!({ "version": "v1", "language": "go", "executable": "run", "functions": ["f"] });
    let with = |field: &str, value: Value| {
        let mut manifest = good.clone();
        manifest[field] = value;
        manifest.to_string().into_bytes()
    };
    let plain = good.to_string().into_bytes();
    let marked = [b"\xef\xbb\xbf", plain.as_slice()].concat();
    let run: Entry = ("run", 0o755, script);
    let long = format!("{}.json", "p".repeat(100));
    // The area of the error, the manifest's name and content, and more entries.
    let cases: Vec<(&str, &str, Vec<u8>, Vec<Entry>)> = vec![
        ("manifest", "rust.json", with("language", "rust".into()), vec![run]),
        ("manifest", "named.json", with("name", "other".into()), vec![run]),
        ("manifest", "dotted.json", with("executable", "./run".into()), vec![run]),
        ("manifest", "versioned.json", with("version", 1.into()), vec![run]),
        ("manifest", "empty.json", with("functions", json!([])), vec![run]),
        ("manifest", "marked.json", marked, vec![run]),
        ("manifest", "broken.json", b"{".to_vec(), vec![run]),
        ("manifest", &long, plain.clone(), vec![run]),
        ("files", "source.json", with("sources", json!(["s"])), vec![run]),
        ("archive", "./raw.json", plain.clone(), vec![run]),
        ("archive", "deep.json", plain.clone(), vec![run, ("a/b/c", 0o644, b"")]),
        ("archive", "outside.json", plain.clone(), vec![run, ("../x", 0o644, b"")]),
        ("archive", "absolute.json", plain.clone(), vec![run, ("/x", 0o644, b"")]),
        ("archive", "closed.json", plain.clone(), vec![("run", 0o644, script)]),
        ("archive", "folder/folder.json", plain.clone(), vec![("folder/run", 0o755, script)]),
        ("program", "absent.json", plain.clone(), vec![]),
        ("program", "windows.json", plain.clone(), vec![("run", 0o755, b"MZ\x90\0")]),
        ("program", "text.json", plain.clone(), vec![("run", 0o755, b"hello")]),
        ("program", "returns.json", plain.clone(), vec![("run", 0o755, b"#!/bin/sh\r\n")]),
        ("install", "syntax.json", plain.clone(), vec![run, ("install.sh", 0o644, b"if true; then\n")]),
        ("install", "failing.json", plain, vec![run, ("install.sh", 0o644, b"exit 7\n")]),
    ];
    for (area, manifest, content, entries) in cases {
        let name = manifest.trim_end_matches(".json").rsplit('/').next().unwrap();
        let zip = site.path(&format!("{name}.zip"));
        write(&zip, &[&[(manifest, 0o644, content.as_slice())], entries.as_slice()].concat());
        let errors = check(&tools::python(), &zip, &["--no-start", "--install"]);
        assert_eq!(errors.first().and_then(Value::as_str), Some(area), "{name}: {errors:?}");
        let refusal = engine.try_install(name).expect_err("the engine takes what the check refuses");
        println!("{name}: {}", refusal.trim());
    }
    let none = site.path("none.zip");
    fs::write(&none, "hello").unwrap();
    assert_eq!(check(&tools::python(), &none, &[]), ["archive"]);
    engine.try_install("none").expect_err("a text is no zip");
    engine.kill();
    site.wait_for_nobody();
}

#[test]
fn a_description_that_the_check_refuses_breaks_the_engine_s_list_of_functions() {
    let Some(site) = Site::new() else { return };
    let engine = Engine::start(&site);
    if !has_page(&engine) {
        return;
    }
    let functions = || serde_json::from_str::<Value>(&engine.ask("GET", "/metadata/functions", None));
    assert!(!functions().unwrap().to_string().contains("\"echo\""));
    let program = fs::read(tools::mirror()).unwrap();
    let example = tools::root().join("examples/mirror");
    let manifest = fs::read(example.join("mirror.json")).unwrap();
    let yaml = fs::read(example.join("sources/random.yaml")).unwrap();
    let zip = |description: &[u8]| {
        let zip = site.path("mirror.zip");
        write(
            &zip,
            &[
                ("mirror.json", 0o644, &manifest),
                ("mirror", 0o755, &program),
                ("sources/random.yaml", 0o644, &yaml),
                ("functions/echo.json", 0o644, description),
            ],
        );
        check(&tools::python(), &zip, &[])
    };
    assert!(zip(b"{\"about\":{},\"functions\":[{\"name\":\"echo\"}]}").is_empty());
    engine.install_mirror();
    assert!(functions().unwrap().to_string().contains("\"echo\""));
    engine.delete_mirror();
    assert_eq!(zip(b"{\"about\":{},\"functions\":[}"), ["files"]);
    engine.install_mirror();
    assert!(functions().is_err(), "the list is as good as before");
    engine.kill();
    site.wait_for_nobody();
}

fn is_installed(site: &Site, python: &Path, name: &str) {
    let zip = site.path(&format!("{name}.zip"));
    assert!(check(python, &zip, &[]).is_empty(), "{name} is good");
    let engine = Engine::start(site);
    engine.install(name);
    engine.remove(name);
    engine.stop();
    site.wait_for_nobody();
}

#[test]
fn a_rust_plugin_that_passes_is_installed() {
    let Some(site) = Site::new() else { return };
    is_installed(&site, &tools::python(), "mirror");
}

#[test]
fn a_plugin_on_the_official_sdk_that_passes_is_installed() {
    let Some(site) = Site::python(tools::python) else { return };
    is_installed(&site, &tools::python(), "pysam");
}

#[test]
fn a_plugin_on_our_module_that_passes_is_installed() {
    let python: fn() -> PathBuf = tools::our_python;
    let Some(site) = Site::python(python) else { return };
    package::write_trio(&site.path("trio.zip"));
    is_installed(&site, &python(), "trio");
}
