//! Both proofs for a few seconds, so that they themselves keep working; what
//! they prove takes `cargo xtask chaos` and `cargo xtask soak`.
#![allow(clippy::unwrap_used)] // these are tests

use std::path::Path;
use std::process::{Command, Output};

/// Whatever the machine is busy with meanwhile.
const WATCHDOG: std::time::Duration = std::time::Duration::from_secs(240);

fn prove(arguments: &[&str]) -> Output {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/python/bin/python");
    assert!(python.exists(), "there is no {}: run `cargo xtask test`, which sets it up", python.display());
    let (alive, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if ended.recv_timeout(WATCHDOG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("the proof hangs");
            std::process::exit(101);
        }
    });
    let output = Command::new(env!("CARGO_BIN_EXE_chaos")).args(arguments).output().unwrap();
    drop(alive);
    watchdog.join().unwrap();
    output
}

#[test]
fn no_promise_is_broken_for_a_few_seconds() {
    let output = prove(&["chaos", "--seconds", "16", "--seed", "1"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    for what in ["kills", "restarts", "answers", "acks", "tuples"] {
        assert!(figures[what].as_u64().unwrap() > 0, "{what}: {text}");
    }
    assert_eq!(figures["violations"], 0);
}

#[test]
fn a_soak_of_a_few_seconds_leaves_nothing() {
    let output = prove(&["soak", "--seconds", "12"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let figures: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    for what in ["calls", "acks", "tuples"] {
        assert!(figures[what].as_u64().unwrap() > 0, "{what}: {text}");
    }
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}
