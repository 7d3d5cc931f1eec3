//! The options of single plugins, from a file.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::Bench;
use support::served::{Server, package_that};

/// Writes options of one plugin; returns the file.
fn file(bench: &Bench, plugin: &str, options: &str) -> PathBuf {
    let path = bench.path().join("options.toml");
    fs::write(&path, format!("[{plugin}]\n{options}\n")).unwrap();
    path
}

/// Calls a function of a plugin with the options of a file, which must fail.
fn fails(bench: &Bench, options: &Path, plugin: &Path) -> String {
    bench.fails(1, &["call", &plugin.display().to_string(), "f", "--plugin-options", &options.display().to_string()])
}

#[test]
fn a_command_runs_a_plugin_with_its_options() {
    let bench = Bench::new();
    let plugin = bench.script("ulimit -n; ulimit -d; nproc; echo \"$OWN|$CARGO_MANIFEST_DIR\"; pwd -P; exit 3");
    let name = plugin.file_name().unwrap().to_string_lossy().into_owned();
    fs::create_dir(bench.path().join("work")).unwrap();
    let options = "env = { OWN = 'x y', PATH = '/usr/bin:/bin' }\nclear_env = true\ndir = 'work'\n\
                   memory = '256 MiB'\ndescriptors = 77\nprocessors = 1";
    let said = fails(&bench, &file(&bench, &name, options), &plugin);
    let work = bench.path().join("work").canonicalize().unwrap();
    let lines = format!("77\n  262144\n  1\n  x y|\n  {}", work.display());
    assert!(said.ends_with(&lines), "{said}");
    // Another plugin has none of them.
    let said = fails(&bench, &file(&bench, "other", options), &plugin);
    assert!(said.contains("unlimited") && !said.contains("x y|"), "{said}");
}

#[test]
fn options_that_cannot_be_are_said() {
    let bench = Bench::new();
    let plugin = bench.script("exit 3");
    let name = plugin.file_name().unwrap().to_string_lossy().into_owned();
    let sum = "0".repeat(64);
    for (options, said) in [
        ("sha256 = '1'", format!("the options of plugin {name}: \"1\" is no SHA-256")),
        ("memroy = 1", format!("{}/options.toml, line 2, column 1: unknown field `memroy`", bench.path().display())),
        (&format!("sha256 = '{sum}'"), format!("plugin {name}: {}/run has the SHA-256 ", plugin.display())),
        (
            "descriptors = 9000000000000000000",
            format!("the options of plugin {name}: it cannot limit descriptors to 9"),
        ),
        ("dir = 'gone'", format!("plugin {name}: ")),
    ] {
        let found = fails(&bench, &file(&bench, &name, options), &plugin);
        assert!(found.starts_with(&said), "{found}");
    }
    let missing = bench.path().join("missing.toml");
    assert!(fails(&bench, &missing, &plugin).starts_with(&format!("cannot read {}", missing.display())));
}

/// They are the plugin's, over its updates and restarts of the server.
#[test]
fn serve_keeps_them_over_updates() {
    let bench = Bench::new();
    let options = file(&bench, "mirror", "descriptors = 77").display().to_string();
    let arguments = ["--listen", "127.0.0.1:0", "--plugin-options", &options];
    let [first, second] =
        ["v1", "v2"].map(|version| package_that(&bench, version, &format!("echo {version} $(ulimit -n)")));
    let lines = |server: &Server, line: &str| server.ask("GET", "/logs", "", "").1.matches(line).count();
    let server = Server::start_with(&bench, &arguments, &[]);
    assert_eq!(server.ask("POST", "/plugins/portables", &first, "").0, 201);
    ekuiper_conformance::wait_until("the first runs", || lines(&server, "\"v1 77\"") == 1);
    // Its trial, and then itself.
    assert_eq!(server.ask("PUT", "/plugins/portables/mirror", &second, "").0, 200);
    ekuiper_conformance::wait_until("the second runs", || lines(&server, "\"v2 77\"") == 2);
    server.end();
    let server = Server::start_with(&bench, &arguments, &[]);
    ekuiper_conformance::wait_until("it runs again", || lines(&server, "\"v2 77\"") == 1);
    server.end();
    bench.assert_nothing_is_left();
}
