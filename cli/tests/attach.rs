//! `attach`: plugins that the test starts, as a person does in a terminal or in
//! a debugger.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::path::PathBuf;

use ekuiper_conformance::wait_until;
use rustix::process::Signal;
use support::attached::{Attached, Plugin, assert_no_sockets, sockets};
use support::{Bench, speaker};

/// A plugin in Python whose function does what this says.
fn function(bench: &Bench, body: &str) -> (PathBuf, String) {
    let body = format!(
        "
def call(request):
    if b'Validate' in request: return b'{{\"state\":true,\"result\":\"\"}}'
    {body}
"
    );
    named(speaker(bench, "b'handshake'", &body))
}

fn named(folder: PathBuf) -> (PathBuf, String) {
    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    (folder, name)
}

#[test]
fn a_plugin_that_the_user_starts_is_called_read_and_fed_and_goes_on() {
    let bench = Bench::new();
    let mut call = Attached::start(&bench, "mirror", &["call", "revert", "\"abc\""]);
    let plugin = Plugin::mirror(&call.argument());
    let come = call.expect("plugin mirror has come");
    assert!(come.contains(&format!("(pid {})", plugin.0.id())) && come.contains("revert"), "{come}");
    let (code, output, told) = call.finish();
    assert_eq!((code, output.as_str()), (Some(0), "\"cba\""), "{told}");

    // The same process serves the next command, which finds it connecting.
    let source = Attached::start(&bench, "mirror", &["source", "random", "--config", "{\"interval\":1}", "-n", "3"]);
    let (code, output, told) = source.finish();
    assert_eq!((code, output.lines().count()), (Some(0), 3), "{told}");

    let path = bench.path().join("rows");
    let config = serde_json::json!({ "path": path }).to_string();
    let mut sink = Attached::start(&bench, "mirror", &["sink", "file", "--config", &config, "--ack"]);
    sink.send("{\"a\":1}");
    sink.send("{\"a\":2}");
    let (code, output, told) = sink.finish();
    assert_eq!(code, Some(0), "{told}");
    assert!(output.contains("\"acked\":2"), "{output}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "{\"a\":1}\n{\"a\":2}\n");
    assert!(plugin.is_alive(), "the plugin is not the command's to end");
    drop(plugin);
    assert_no_sockets(&bench);
}

#[test]
fn a_pipeline_runs_with_an_attached_plugin() {
    let bench = Bench::new();
    let stages = "[source]\nsymbol = 'random'\nconfig = { interval = 1 }\n\
                  [[function]]\nsymbol = 'revert'\nargs = ['name']\noutput = 'reversed'\n";
    let file = bench.path().join("pipeline.toml");
    std::fs::write(&file, format!("plugins = ['elsewhere/mirror']\n{stages}")).unwrap();
    let mut run = Attached::start(&bench, "mirror", &["run", file.to_str().unwrap(), "-n", "3"]);
    let plugin = Plugin::mirror(&run.argument());
    let row = run.row();
    let reversed: String = row["name"].as_str().unwrap().chars().rev().collect();
    assert_eq!(row["reversed"], reversed);
    let (code, _, told) = run.finish();
    assert_eq!(code, Some(0), "{told}");
    drop(plugin);
    assert_no_sockets(&bench);
}

#[test]
fn a_plugin_that_is_stopped_in_the_middle_of_a_call_has_all_the_time_it_needs() {
    let bench = Bench::new();
    let mut call = Attached::start(&bench, "mirror", &["call", "revert", "-"]);
    let plugin = Plugin::mirror(&call.argument());
    call.send("\"abc\"");
    assert_eq!(call.row(), "cba");
    plugin.signal(Signal::STOP);
    call.send("\"abcd\"");
    call.expect("is stopped");
    plugin.signal(Signal::CONT);
    assert_eq!(call.row(), "dcba");
    let (code, _, told) = call.finish();
    assert_eq!(code, Some(0), "{told}");
}

#[test]
fn a_call_that_is_not_answered_is_said_to_wait() {
    let bench = Bench::new();
    let (folder, name) = function(
        &bench,
        "
    while not os.path.exists('go on'): time.sleep(0.01)
    return b'{\"state\":true,\"result\":7}'",
    );
    let mut call = Attached::start(&bench, &name, &["call", "f"]);
    let _plugin = Plugin::python(&folder, &call.argument());
    call.expect("function f has not answered for 5s");
    std::fs::write(folder.join("go on"), "").unwrap();
    let (code, output, told) = call.finish();
    assert_eq!((code, output.as_str()), (Some(0), "7"), "{told}");
}

#[test]
fn a_call_whose_plugin_is_killed_is_made_again_in_the_next_one() {
    let bench = Bench::new();
    let (folder, name) = function(
        &bench,
        "
    if os.path.exists('killed'): return b'{\"state\":true,\"result\":7}'
    open('killed', 'w').close()
    time.sleep(600)",
    );
    let mut call = Attached::start(&bench, &name, &["call", "f"]);
    let argument = call.argument();
    let plugin = Plugin::python(&folder, &argument);
    wait_until("the plugin has it", || folder.join("killed").exists());
    plugin.kill();
    call.expect("has gone: waiting until you start it again");
    let next = Plugin::python(&folder, &argument);
    let (code, output, told) = call.finish();
    assert_eq!((code, output.as_str()), (Some(0), "7"), "{told}");
    assert!(told.contains("it is made again when the plugin is back"), "{told}");
    assert!(next.is_alive());
}

#[test]
fn a_source_and_a_sink_go_on_in_the_next_process() {
    let bench = Bench::new();
    let mut source = Attached::start(&bench, "mirror", &["source", "random", "--config", "{\"interval\":1}"]);
    let argument = source.argument();
    let plugin = Plugin::mirror(&argument);
    source.row();
    plugin.kill();
    source.expect("has gone");
    let plugin = Plugin::mirror(&argument);
    source.expect("is back");
    // Begins again.
    while source.row()["count"] != 1 {}
    source.interrupt();
    assert_eq!(source.finish().0, Some(130));
    drop(plugin);

    let path = bench.path().join("rows");
    let config = serde_json::json!({ "path": path }).to_string();
    let mut sink = Attached::start(&bench, "mirror", &["sink", "file", "--config", &config, "--ack"]);
    let argument = sink.argument();
    let plugin = Plugin::mirror(&argument);
    sink.expect("has come");
    sink.send("{\"a\":1}");
    wait_until("the plugin has it", || std::fs::read_to_string(&path).is_ok_and(|rows| rows == "{\"a\":1}\n"));
    plugin.kill();
    sink.expect("has gone");
    sink.send("{\"a\":2}");
    let _plugin = Plugin::mirror(&argument);
    sink.expect("is back");
    let (code, output, told) = sink.finish();
    assert_eq!(code, Some(0), "{told}");
    assert!(output.contains("\"delivered\":2"), "{output}");
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("{\"a\":2}\n"));
}

#[test]
fn an_interrupt_ends_every_wait() {
    let bench = Bench::new();
    let mut waiting = Attached::start(&bench, "mirror", &["call", "revert", "1"]);
    waiting.argument();
    waiting.interrupt();
    let (code, output, told) = waiting.finish();
    assert_eq!((code, output.as_str()), (Some(130), ""), "{told}");

    let mut source = Attached::start(&bench, "mirror", &["source", "random", "--config", "{\"interval\":1}"]);
    let plugin = Plugin::mirror(&source.argument());
    source.row();
    plugin.signal(Signal::STOP);
    source.expect("is stopped");
    source.interrupt();
    let (code, _, told) = source.finish();
    assert_eq!(code, Some(130), "{told}");
    plugin.signal(Signal::CONT);
    assert!(plugin.is_alive());

    // Waiting for it again.
    let mut source = Attached::start(&bench, "mirror", &["source", "random", "--config", "{\"interval\":1}"]);
    source.row();
    plugin.kill();
    source.expect("has gone");
    source.interrupt();
    assert_eq!(source.finish().0, Some(130));
    assert_no_sockets(&bench);
}

#[test]
fn a_wait_has_the_limit_that_the_user_sets() {
    let bench = Bench::new();
    let mut call = Attached::start(&bench, "mirror", &["--wait", "50ms", "call", "revert", "1"]);
    call.argument();
    let (code, _, told) = call.finish();
    assert_eq!(code, Some(1));
    assert!(
        told.ends_with("plugin mirror did not come within 50ms: it is started by you, and not by this command"),
        "{told}"
    );

    let mut source = Attached::start(&bench, "mirror", &["source", "random", "--wait", "10s"]);
    let plugin = Plugin::mirror(&source.argument());
    source.expect("has come");
    source.row();
    plugin.kill();
    let (code, _, told) = source.finish();
    assert_eq!(code, Some(1));
    assert!(
        told.ends_with("plugin mirror did not come within 10s: it is started by you, and not by this command"),
        "{told}"
    );
    assert_no_sockets(&bench);
}

#[test]
fn one_attach_at_a_time_waits_and_takes_over_what_a_killed_one_has_left() {
    let bench = Bench::new();
    let mut killed = Attached::start(&bench, "mirror", &["call", "revert", "\"abc\""]);
    killed.argument();
    killed.child.kill().unwrap();
    killed.finish();
    assert!(sockets(&bench).join("plugin_mirror.ipc").exists(), "its socket is left");

    let mut first = Attached::start(&bench, "mirror", &["call", "revert", "\"abc\""]);
    let argument = first.argument();
    let (code, _, told) = Attached::start(&bench, "mirror", &["call", "revert", "1"]).finish();
    assert_eq!(code, Some(1));
    assert!(told.contains("plugin mirror") && told.contains("attached") && told.lines().count() == 1, "{told}");
    let _plugin = Plugin::mirror(&argument);
    let (code, output, told) = first.finish();
    assert_eq!((code, output.as_str()), (Some(0), "\"cba\""), "{told}");
}

#[test]
fn a_second_plugin_of_the_name_waits_and_is_named() {
    let bench = Bench::new();
    let mut source = Attached::start(&bench, "mirror", &["source", "random", "--config", "{\"interval\":1}"]);
    let argument = source.argument();
    let plugin = Plugin::mirror(&argument);
    source.expect("has come");
    let second = Plugin::mirror(&argument);
    let said = source.expect("is not one of the plugin's");
    assert!(said.contains(&second.0.id().to_string()), "{said}");
    source.row();
    plugin.kill();
    let said = source.expect("is back");
    assert!(said.contains(&format!("(pid {})", second.0.id())), "{said}");
    source.interrupt();
    assert_eq!(source.finish().0, Some(130));
}

#[test]
fn what_speaks_another_protocol_is_an_error() {
    let bench = Bench::new();
    let (folder, name) = named(speaker(&bench, "b'handshake-2'", ""));
    let mut call = Attached::start(&bench, &name, &["call", "f"]);
    let _plugin = Plugin::python(&folder, &call.argument());
    let (code, _, told) = call.finish();
    assert_eq!(code, Some(1));
    assert!(
        told.ends_with("sent \"handshake-2\" instead of a handshake: it does not speak the portable-plugin protocol"),
        "{told}"
    );
    assert_eq!(std::fs::read_dir(sockets(&bench)).unwrap().count(), 0);
}

#[test]
fn a_symbol_that_the_plugin_does_not_have_is_its_own_error() {
    let bench = Bench::new();
    let mut call = Attached::start(&bench, "mirror", &["call", "nothing", "1"]);
    let plugin = Plugin::mirror(&call.argument());
    let (code, _, told) = call.finish();
    drop(plugin);
    assert_eq!(code, Some(1));
    assert!(told.lines().last().unwrap().contains("nothing"), "{told}");
    assert_no_sockets(&bench);
}

#[test]
fn what_is_no_name_is_said() {
    let bench = Bench::new();
    let long = "x".repeat(300);
    for (name, words) in [
        ("./mirror", "is a path"),
        ("examples/mirror", "is a path"),
        ("mirror.zip", "is a path"),
        ("a\u{1b}[2Jb", "control characters"),
        ("", "is empty"),
        (&long, "bytes"),
    ] {
        let said = bench.fails(2, &["attach", name, "call", "f"]);
        assert!(said.contains(words) && !said.contains('\u{1b}') && said.len() < 700, "{said}");
    }
    let said = bench.fails(2, &["attach", "mirror"]);
    assert!(said.contains("call, source, sink or run"), "{said}");
}
