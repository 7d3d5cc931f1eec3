//! Processes, threads and signals of a plugin's own on our module `ekuiper`:
//! forked children, handlers, debuggers, and what may keep the plugin's end.

// The support reads features of the SDK's that this crate has not.
#![allow(clippy::unwrap_used, unexpected_cfgs, reason = "only tests are here")]

#[path = "../../sdk/tests/support/mod.rs"]
mod support;

use std::process::Command;

use ekuiper_core::message::CallKind;
use ekuiper_interop::tools;
use rustix::process::Signal;
use serde_json::{Value, json};

use support::plugin::meta;
use support::{Plugin, drain, journal, watchdog};

fn start(settings: &[(&str, &str)]) -> Plugin {
    let settings = [settings, &[("PYTHONDONTWRITEBYTECODE", "1")]].concat();
    Plugin::start_as(&settings, |launch| {
        let mut command = Command::new(tools::our_python());
        command.arg("-u").arg(tools::root().join("interop/plugins/processes/main.py")).arg(launch);
        command
    })
}

/// What each of these calls says, the plugin being alive in the end.
fn answers(plugin: &mut Plugin, symbol: &str, args: &[&str]) -> Vec<Result<Value, String>> {
    let mut channel = plugin.start_function(symbol);
    let answers = args.iter().map(|arg| channel.call(CallKind::Exec, &json!([arg]))).collect();
    let mut alive = plugin.start_function("square_of");
    assert_eq!(alive.call(CallKind::Exec, &json!([7])), Ok(json!(49)), "the plugin goes on");
    answers
}

/// Each way to start a child; `fork` is the one whose child has all that the
/// plugin has.
const METHODS: [&str; 3] = ["fork", "spawn", "forkserver"];

#[test]
fn a_signal_to_a_child_is_the_childs() {
    let _watchdog = watchdog();
    let mut plugin = start(&[]);
    assert_eq!(answers(&mut plugin, "terminated", &METHODS), vec![Ok(json!(-15)); 3]);
    assert_eq!(answers(&mut plugin, "forked", &["SIGTERM", "SIGINT"]), [Ok(json!(-15)), Ok(json!(-2))]);
    assert_eq!(answers(&mut plugin, "handled", &["SIGTERM", "SIGINT"]), [Ok(json!(9)), Ok(json!(9))]);
    assert_eq!(answers(&mut plugin, "before_exec", &["preexec_fn"]), [Ok(json!(-15))]);
    plugin.signal(Signal::TERM);
    plugin.assert_exit_0();
}

#[test]
fn a_childs_exit_code_is_its_own() {
    let _watchdog = watchdog();
    let mut plugin = start(&[]);
    for codes in answers(&mut plugin, "exit_codes", &METHODS) {
        assert_eq!(codes, Ok(json!([0, 3, 1])));
    }
    for squares in answers(&mut plugin, "pooled", &METHODS) {
        assert_eq!(squares, Ok(json!([0, 1, 4, 9, 16])));
    }
}

#[test]
fn a_child_that_leaves_a_symbols_code_ends_and_says_nothing_on_the_plugins_channels() {
    let _watchdog = watchdog();
    let mut plugin = start(&[]);
    for _ in 0..3 {
        let codes = answers(&mut plugin, "forked", &["returns", "raises", "exits"]);
        assert_eq!(codes, [Ok(json!(0)), Ok(json!(1)), Ok(json!(5))]);
    }
    plugin.log.wait_for(&["ValueError: in the child"]);
    let (pull, answer) = plugin.start_source("family", &meta("r1", "s"), json!({}));
    assert_eq!(answer, "ok");
    let text = "a forked child has no channel of its own: hand its rows to the plugin's process, which emits them";
    assert_eq!(drain(&*pull).unwrap()["message"], json!({ "child": text, "ended": 0 }));
}

#[test]
fn a_handler_of_the_programs_own_is_called_in_the_plugin_and_in_its_children() {
    let _watchdog = watchdog();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("journal");
    let mut plugin = start(&[("settings", "handler"), ("journal", file.to_str().unwrap())]);
    assert_eq!(answers(&mut plugin, "inherited", &["SIGTERM"]), [Ok(json!(9))]);
    plugin.signal(Signal::TERM);
    plugin.assert_exit_0();
    assert_eq!(journal(&file), ["handler", "after the start", "atexit"]);
}

#[test]
fn symbols_run_on_threads_that_python_and_debuggers_know() {
    let _watchdog = watchdog();
    let mut plugin = start(&[]);
    assert_eq!(answers(&mut plugin, "thread", &["x"]), [Ok(json!([true, "thread", true, false]))]);
    let seen = answers(&mut plugin, "seen", &["x", "x"]).pop().unwrap();
    assert_eq!(seen, Ok(json!(["call", "line", "profile", "return"])));
}

#[test]
fn what_ends_other_programs_is_an_error_of_the_call() {
    let _watchdog = watchdog();
    let mut plugin = start(&[]);
    let what = ["SystemExit", "KeyboardInterrupt", "MemoryError", "GeneratorExit", "BaseException", "RecursionError"];
    let errors = answers(&mut plugin, "raised", &what);
    for (what, error) in what.iter().zip(errors) {
        assert!(error.clone().unwrap_err().starts_with(what), "{what}: {error:?}");
    }
    let huge = answers(&mut plugin, "raised", &["huge"]).pop().unwrap().unwrap_err();
    assert!(huge.contains("the integer has more than 64 bits: send it as a text or a float"), "{huge}");
}

/// Without this the watchdog ends such a plugin, after its grace time and
/// without the handlers of `atexit`.
#[test]
fn a_thread_that_is_no_daemon_does_not_keep_the_plugin() {
    let _watchdog = watchdog();
    for (settings, warned) in [("", false), ("executor", false), ("thread", true), ("thread executor", true)] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("journal");
        let mut plugin = start(&[("settings", settings), ("journal", file.to_str().unwrap())]);
        let _echo = plugin.start_function("square_of");
        plugin.signal(Signal::TERM);
        plugin.assert_exit_0();
        assert_eq!(journal(&file), ["after the start", "atexit"], "{settings}");
        if warned {
            plugin.log.wait_for(&["the plugin exits although threads are still running (", "forever"]);
        } else {
            assert!(!plugin.log.text().contains("without its threads"), "{settings}");
        }
    }
}
