//! What an engine decides about a plugin's processes.
#![allow(clippy::unwrap_used)] // these are tests, helpers included

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ekuiper_host::{Error, Host, PluginOptions};
use sha2::{Digest, Sha256};
use support::{Stage, wait_until};

/// Starts the plugin `p`, whose script is this, with these options, and returns
/// what it has written.
fn written(script: &str, lines: usize, options: PluginOptions) -> Vec<String> {
    let stage = Stage::new();
    let folder = stage.script("p", &["f"], &format!("{script}\nexec /bin/sleep 1000"));
    let found = Arc::new(Mutex::new(Vec::new()));
    let own = found.clone();
    let builder = stage.builder().plugin(folder).plugin_options("p", options);
    let host = builder.on_log_line(move |line| own.lock().unwrap().push(line.text.clone())).build().unwrap();
    let _control = stage.start(&host);
    wait_until("it has written everything", || found.lock().unwrap().len() >= lines);
    host.shutdown();
    found.lock().unwrap().clone()
}

/// Tries to start the plugin `p` with these options, which must fail.
fn fails(stage: &Stage, folder: &Path, options: PluginOptions) -> Error {
    let host = stage.builder().plugin(folder).plugin_options("p", options).build().unwrap();
    host.start("p").unwrap_err()
}

#[test]
fn the_environment_is_the_hosts_with_changes_or_cleared() {
    let script = "echo \"$CARGO_MANIFEST_DIR|$OWN|$HOME\"";
    // Cargo sets one that no shell has.
    let inherited = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let options = PluginOptions::new().env("OWN", "x y").env("HOME", "/nowhere");
    assert_eq!(written(script, 1, options.clone()), [format!("{inherited}|x y|/nowhere")]);
    // A shell sets some by itself.
    let script =
        "echo \"$CARGO_MANIFEST_DIR|$OWN|$HOME\"; /usr/bin/env | /bin/grep -cv '^PWD=\\|^_=\\|^SHLVL=\\|^OLDPWD='";
    assert_eq!(written(script, 2, options.clear_env()), ["|x y|/nowhere", "2"]);
}

#[test]
fn the_working_directory_is_the_one_that_was_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    assert_eq!(written("pwd -P", 1, PluginOptions::new().dir(&path)), [path.display().to_string()]);
    let stage = Stage::new();
    let plugin = stage.script("p", &["f"], "exec sleep 1000");
    let error = fails(&stage, &plugin, PluginOptions::new().dir(path.join("gone")));
    let text = ekuiper_host::Chain(&error).to_string();
    assert!(text.contains(&path.join("gone").display().to_string()), "{text}");
}

#[test]
fn limits_hold_for_the_plugin_alone() {
    let options = PluginOptions::new().memory(512 << 20).descriptors(99).processors(1);
    let script = "ulimit -d; ulimit -n; ulimit -Hn; nproc; grep -c . /proc/self/status >/dev/null && echo good";
    assert_eq!(written(script, 5, options), ["524288", "99", "99", "1", "good"]);
    let own = rustix::process::getrlimit(rustix::process::Resource::Data);
    assert_eq!(own.current, None);
    // More processors than there are, are all.
    let all = std::thread::available_parallelism().unwrap().to_string();
    assert_eq!(written("nproc", 1, PluginOptions::new().processors(100_000)), [all]);
}

#[test]
fn a_limit_that_cannot_be_kept_is_an_error() {
    let stage = Stage::new();
    let folder = stage.script("p", &["f"], "exec sleep 1000");
    let error = fails(&stage, &folder, PluginOptions::new().descriptors(u64::MAX - 1));
    assert!(matches!(error, Error::PluginOption { .. }), "{error:?}");
    let text = error.to_string();
    let said = "the options of plugin p: it cannot limit descriptors to 18446744073709551614: Operation not permitted";
    assert!(text.starts_with(said) && text.contains("the host's own limit is "), "{text}");
    let none = stage.builder().plugin(&folder).plugin_options("p", PluginOptions::new().sha256("x")).build();
    assert!(matches!(none, Err(Error::PluginOption { .. })));
}

fn sum(path: &Path) -> String {
    Sha256::digest(std::fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02X}")).collect()
}

fn starts(host: &Host, stage: &Stage) {
    let _control = stage.start(host);
}

#[test]
fn a_program_with_another_checksum_is_not_started() {
    let stage = Stage::new();
    let folder = stage.script("p", &["f"], "exec sleep 1000");
    let (program, copy) = (folder.join("run"), folder.join("copy"));
    let options = PluginOptions::new().sha256(sum(&program));
    let host = stage.builder().plugin(&folder).plugin_options("p", options.clone()).build().unwrap();
    starts(&host, &stage);
    host.shutdown();
    drop(host);
    std::fs::write(&copy, "#!/bin/sh\nexec sleep 999\n").unwrap();
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::rename(&copy, &program).unwrap();
    let text = fails(&stage, &folder, options).to_string();
    let found = sum(&program).to_lowercase();
    let said = format!("plugin p: {} has the SHA-256 {found} and not ", program.canonicalize().unwrap().display());
    assert!(text.starts_with(&said), "{text}");
}

/// A restart checks again.
#[test]
fn a_program_that_is_replaced_while_it_runs_is_not_restarted() {
    let stage = Stage::new();
    let folder = stage.script("p", &["f"], "exec sleep 1000");
    let program = folder.join("run");
    let options = PluginOptions::new().sha256(sum(&program));
    let host = stage.builder().plugin(&folder).plugin_options("p", options).build().unwrap();
    starts(&host, &stage);
    std::fs::write(&program, "#!/bin/sh\nexec sleep 999\n").unwrap();
    support::kill(&host);
    wait_until("it is refused", || {
        let failed = host.start("p").err();
        failed.is_some_and(|error| ekuiper_host::Chain(&error).to_string().contains("has the SHA-256"))
    });
}

/// A program that is no script is executed from the file that was checked; its
/// name and its folder are the usual ones.
#[test]
fn a_native_program_is_executed_as_it_was_checked() {
    let stage = Stage::new();
    let folder = stage.script("p", &["f"], "");
    let program = folder.join("run");
    std::fs::copy("/bin/sleep", &program).unwrap();
    // The launch options are no time: it ends at once, which is a start.
    let options = PluginOptions::new().sha256(sum(&program));
    let error = fails(&stage, &folder, options);
    let text = error.to_string();
    assert!(matches!(error, Error::EarlyExit { .. }), "{text}");
    assert!(text.contains("invalid time interval"), "{text}");
    assert!(text.contains(&format!("{}: ", program.canonicalize().unwrap().display())), "{text}");
}
