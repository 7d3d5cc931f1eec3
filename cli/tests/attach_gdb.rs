//! `attach` with a plugin that gdb holds at a breakpoint. Skipped, loudly, where
//! there is no gdb that can run a program.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::Bench;
use support::attached::{Attached, Plugin};

/// Returns whether gdb is there, and may trace.
fn has_gdb() -> bool {
    let probe = Command::new("gdb").args(["-q", "-batch", "-ex", "run", "--args", "true"]).output();
    probe.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("exited normally"))
}

/// Builds the plugin `mirror` with line numbers; returns its program, and the
/// place of what its function `revert` does.
fn mirror() -> (PathBuf, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let build = Command::new(env!("CARGO")).args(["build", "--quiet", "--package", "mirror"]).status();
    assert!(build.unwrap().success());
    let source = std::fs::read_to_string(root.join("examples/mirror/src/main.rs")).unwrap();
    let line = source.lines().position(|line| line.contains("text.chars().rev()")).unwrap() + 1;
    (root.join("target/debug/mirror"), format!("mirror/src/main.rs:{line}"))
}

#[test]
fn a_call_waits_while_gdb_holds_the_function_at_a_breakpoint() {
    if !has_gdb() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: attach under gdb: there is no gdb here that can run a program");
        return;
    }
    let bench = Bench::new();
    let (program, place) = mirror();
    let go_on = bench.path().join("go on");
    let mut call = Attached::start(&bench, "mirror", &["call", "revert", "\"abc\""]);
    let mut gdb = Command::new("gdb");
    gdb.args(["-q", "-batch", "-ex", "set breakpoint pending off", "-ex"]).arg(format!("break {place}"));
    gdb.args(["-ex", "run", "-ex"]).arg(format!("shell until test -e '{}'; do sleep 0.05; done", go_on.display()));
    gdb.args(["-ex", "continue", "--args"]).arg(program).arg(call.argument());
    let _gdb = Plugin::start(&mut gdb);
    call.expect("is stopped");
    std::fs::write(&go_on, "").unwrap();
    let (code, output, told) = call.finish();
    assert_eq!((code, output.as_str()), (Some(0), "\"cba\""), "{told}");
}
