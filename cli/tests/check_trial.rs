//! `check` of plugins that are started: what their symbols do wrong.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::checked::{Checked, check};
use support::{Bench, finish, speaker};

/// Symbols that do what they should, and a helper for those that do not.
const GOOD: &str = r#"
def is_a(command, verb, kind):
    command = json.loads(command) if command.startswith(b"{") else {}
    return command.get("cmd") == verb and json.loads(command["arg"])["pluginType"] == kind
def source(push):
    push(b'{"message":{"a":1}}')
    stopped.wait()
def row(data):
    return b'{}'
def call(request):
    request = json.loads(request)
    if request["func"] == "IsAggregate":
        return b'{"state":true,"result":false}'
    if request["func"] == "Validate":
        good = len(request["arg"]) == 1
        return json.dumps({"state": good, "result": "" if good else "it takes 1 argument"}).encode()
    return b'{"state":true,"result":1}'
"#;

/// A plugin with these symbols, and a file for its source. `more` comes after
/// them.
fn plugin(bench: &Bench, more: &str) -> PathBuf {
    let folder = speaker(bench, "b'handshake'", &format!("{GOOD}{more}"));
    fs::create_dir(folder.join("sources")).unwrap();
    fs::write(folder.join("sources/s.yaml"), "default: {}\n").unwrap();
    folder
}

/// Checks a plugin with these symbols, with short times.
fn with(more: &str) -> Checked {
    let bench = Bench::new();
    let plugin = plugin(&bench, more);
    check(&bench, &plugin, &["--recv-timeout", "1s", "--try-for", "10s"])
}

#[test]
fn a_plugin_whose_symbols_work_is_good() {
    let checked = with("");
    checked.is_good();
    let tried = "1 of 1 function, 1 of 1 source, 1 of 1 sink tried and found good";
    assert_eq!(checked.summary["facts"]["symbols"], tried, "{checked:?}");
    // It describes itself to nobody, and has no version.
    assert_eq!(checked.summary["notes"], 2, "{checked:?}");
}

#[test]
fn a_function_that_hangs_is_an_error() {
    let hangs = "
answers = call
def call(request):
    if b'Exec' in request: time.sleep(600)
    return answers(request)
";
    let checked = with(hangs);
    checked.only("error", "symbols", "cannot be called as f(\"sample\"): ");
    checked.has("error", "symbols", "did not answer within 1s");
}

#[test]
fn a_function_that_crashes_the_plugin_is_an_error() {
    let crashes = "
answers = call
def call(request):
    if b'Exec' in request: os._exit(7)
    return answers(request)
";
    with(crashes).has("error", "symbols", "cannot be called as f(\"sample\"): ");
}

#[test]
fn a_function_that_refuses_made_up_arguments_is_none_of_its_faults() {
    let refuses = "
answers = call
def call(request):
    if b'Exec' in request: return b'{\"state\":false,\"result\":\"not a colour\"}'
    return answers(request)
";
    let checked = with(refuses);
    checked.is_good();
    checked.has("note", "symbols", "answers made-up arguments with errors, f({\"a\":1}) with: ");
}

#[test]
fn a_source_that_never_stops_is_an_error() {
    let endless = "
served = serve
def serve(path, words, answer):
    def reply(command):
        if is_a(command, 'stop', 'source'): time.sleep(600)
        return answer(command)
    served(path, words, reply)
";
    with(endless).has("error", "symbols", "does not stop: ");
}

#[test]
fn a_source_s_errors_are_findings() {
    let fails = "
def source(push):
    push(b'{\"error\":\"no such topic\"}')
    stopped.wait()
";
    with(fails).only("error", "symbols", "reports an error: ");
    // A plugin cannot help it if its service is not here.
    let misses = fails.replace("no such topic", "dial tcp 127.0.0.1:1883: connect: connection refused");
    let checked = with(&misses);
    checked.only("warning", "symbols", "connection refused");
    assert_eq!(checked.code, Some(0));
    let silent = "
def source(push):
    stopped.wait()
";
    let bench = Bench::new();
    let plugin = plugin(&bench, silent);
    let checked = check(&bench, &plugin, &["--try-for", "100ms"]);
    checked.is_good();
    checked.has("note", "symbols", "gave no tuple within 100ms, and no error");
}

#[test]
fn a_sink_that_never_acknowledges_is_an_error() {
    with(
        "
def row(data):
    time.sleep(600)
",
    )
    .only("error", "symbols", "does not take a row with an acknowledgement: ");
}

#[test]
fn a_sink_that_refuses_a_row_is_a_warning() {
    with(
        "
def row(data):
    return b'{\"error\":\"no field id\"}'
",
    )
    .only("warning", "symbols", "refuses the row {\"count\":5,\"name\":\"hello\"}: no field id");
}

#[test]
fn a_symbol_that_the_plugin_refuses_is_an_error_and_a_sink_s_may_want_a_configuration() {
    let refuses = "
served = serve
def serve(path, words, answer):
    def reply(command):
        if is_a(command, 'start', 'KIND'): return b'it needs a url'
        return answer(command)
    served(path, words, reply)
";
    with(&refuses.replace("KIND", "source")).only("error", "symbols", "cannot be started: ");
    with(&refuses.replace("KIND", "sink")).only("warning", "symbols", "cannot be started without a configuration: ");
}

#[test]
fn processes_that_a_plugin_leaves_are_an_error_and_ended() {
    let bench = Bench::new();
    let daemon = bench.path().join("daemon");
    support::write_program(&daemon, b"#!/bin/sh\nsleep 600\n");
    let leaves = format!(
        "
import subprocess
subprocess.Popen([{daemon:?}], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"
    );
    let plugin = plugin(&bench, &leaves);
    // Nothing is left, which is asserted.
    check(&bench, &plugin, &[]).only("error", "end", "running when it ended");
}

#[test]
fn a_temporary_file_that_is_left_is_a_warning() {
    let bench = Bench::new();
    let file = bench.path().join("tmp/left-open");
    let plugin = plugin(&bench, &format!("\nleft = open({file:?}, 'w')\n"));
    let ran = bench.run(&["check", plugin.to_str().unwrap()]);
    assert!(ran.stdout.contains(&format!("warning: end: {}: is left after", file.display())), "{ran:?}");
    fs::remove_file(file).unwrap();
    bench.assert_nothing_is_left();
}

/// A native plugin that is this script, with the function `f`.
fn script(bench: &Bench, script: &str) -> PathBuf {
    let folder = bench.script(script);
    let name = folder.file_name().unwrap().to_str().unwrap();
    let manifest = r#"{"version":"v1","language":"go","executable":"run","functions":["f"]}"#;
    fs::write(folder.join(format!("{name}.json")), manifest).unwrap();
    folder
}

#[test]
fn a_plugin_that_fails_at_its_start_is_an_error_with_its_last_words() {
    let bench = Bench::new();
    let plugin = script(&bench, "echo \"thread 'main' panicked at src/main.rs:1\" >&2; exit 101");
    let checked = check(&bench, &plugin, &[]);
    checked.only("error", "start", "ended before its handshake (exit code 101)");
    checked.has("error", "start", "thread 'main' panicked at src/main.rs:1");
    let bench = Bench::new();
    let plugin = script(&bench, "[ \"$1\" = --describe ] || exec sleep 600");
    check(&bench, &plugin, &["--init-timeout", "300ms"]).only("error", "start", "handshake");
    let bench = Bench::new();
    let plugin = script(&bench, "true");
    let program = plugin.join("run");
    fs::set_permissions(program, fs::Permissions::from_mode(0o644)).unwrap();
    check(&bench, &plugin, &[]).only("error", "start", "is not executable: chmod +x");
}

/// A plugin that says this of itself, and is never started.
fn describing(bench: &Bench, description: &Value, manifest: &Value) -> Checked {
    let folder = script(bench, &format!("[ \"$1\" = --describe ] && echo '{description}' && exit 0\nexit 5"));
    let name = folder.file_name().unwrap().to_str().unwrap();
    fs::write(folder.join(format!("{name}.json")), manifest.to_string()).unwrap();
    check(bench, &folder, &[])
}

/// Checks a plugin whose function describes two arguments, and does this where
/// a call is not as it describes.
fn describing_function(wrong: &str) -> Checked {
    let bench = Bench::new();
    let function = format!(
        "
def call(request):
    request = json.loads(request)
    if request['func'] == 'IsAggregate': return b'{{\"state\":true,\"result\":false}}'
    if request['func'] == 'Validate': return b'{{\"state\":true,\"result\":\"\"}}'
    arguments = request['arg'][:-1]
    good = [type(argument).__name__ for argument in arguments] == ['str', 'int']
    if good: return b'{{\"state\":true,\"result\":1}}'
    {wrong}
"
    );
    let folder = plugin(&bench, &function);
    let name = folder.file_name().unwrap().to_str().unwrap();
    let arguments = json!([{ "name": "a", "type": "string" }, { "name": "b", "type": "int" }]);
    let description = json!({ "format": 1, "name": name, "sources": [{ "name": "s" }], "sinks": [{ "name": "k" }],
        "functions": [{ "name": "f", "arguments": arguments, "result": { "type": "int" } }] });
    let script = folder.join(format!("{name}.py"));
    let text = fs::read_to_string(&script).unwrap();
    let describe =
        format!("import sys\nif sys.argv[1] == '--describe':\n    print({:?}); sys.exit()\n", description.to_string());
    fs::write(&script, describe + &text).unwrap();
    check(&bench, &folder, &["--recv-timeout", "1s", "--try-for", "10s"])
}

#[test]
fn a_function_must_answer_calls_that_it_does_not_describe() {
    describing_function("return b'{\"state\":false,\"result\":\"no\"}'").is_good();
    let crashes = |when: &str| format!("if {when}: os._exit(7)\n    return b'{{\"state\":false,\"result\":\"no\"}}'");
    for (wrong, call) in [
        (crashes("arguments[0] is None"), "f(null, 2)"),
        (crashes("arguments[0] == 7"), "f(7, 2)"),
        (crashes("arguments[1:] == [None]"), "f(\"sample\", null)"),
        (crashes("len(arguments) == 3"), "f(\"sample\", 2, \"sample\")"),
        (crashes("len(arguments) == 1"), "f(\"sample\")"),
        ("time.sleep(600)".to_owned(), "f(null, 2)"),
    ] {
        let checked = describing_function(&wrong);
        checked.only_of("error", "symbols", &format!("does not answer when it is called as {call}: "));
    }
}

#[test]
fn a_description_that_says_something_else_than_the_manifest_is_found() {
    let bench = Bench::new();
    let manifest =
        json!({ "version": "v1", "language": "go", "executable": "run", "functions": ["f"], "sinks": ["k"] });
    let description = json!({ "format": 1, "name": "another", "version": "v2",
        "sources": [{ "name": "f" }, { "name": "extra" }] });
    let checked = describing(&bench, &description, &manifest);
    checked.has("error", "start", "the program calls itself \"another\"");
    checked.has("error", "symbols", "is in the manifest, and the plugin serves it as a source");
    checked.has("error", "symbols", "is in the manifest, and the plugin does not serve it");
    checked.has("warning", "symbols", "is served by the plugin, and not in the manifest");
    checked.has("warning", "manifest", "is \"v1\", and the program says \"v2\"");
    let bench = Bench::new();
    let later = json!({ "format": 99, "name": "x" });
    describing(&bench, &later, &manifest).has("error", "start", "its format is 99");
}

#[test]
fn a_configuration_that_its_source_does_not_take_is_found() {
    let bench = Bench::new();
    let folder = bench.plugin("p", r#"{"version":"v1","language":"go","executable":"run","sources":["s"]}"#);
    let fields = json!([{ "name": "interval", "type": "int", "optional": true }, { "name": "url", "type": "string" }]);
    let description = json!({ "format": 1, "name": "p",
        "sources": [{ "name": "s", "config": { "fields": fields, "exact": true } }] });
    let text = format!("#!/bin/sh\n[ \"$1\" = --describe ] && echo '{description}' && exit 0\nexit 5\n");
    support::write_program(&folder.join("run"), text.as_bytes());
    fs::create_dir(folder.join("sources")).unwrap();
    for (yaml, level, wanted) in [
        ("default: {interval: soon, url: x}\n", "error", "does not fit what the source takes: interval: "),
        ("default: {url: x, intervall: 5}\n", "warning", "did you mean \"interval\"?"),
    ] {
        fs::write(folder.join("sources/s.yaml"), yaml).unwrap();
        check(&bench, &folder, &[]).has(level, "files", wanted);
    }
}

#[test]
fn a_signal_ends_it_in_order() {
    let bench = Bench::new();
    let plugin = plugin(&bench, "\ndef call(request): time.sleep(600)\n");
    let mut command = bench.command(&["check", plugin.to_str().unwrap(), "--log-level", "debug"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("plugin started")));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(lines.last().as_deref(), Some("ekuiper-plugin: interrupted"));
    let ran = finish(child);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(130), ""));
    bench.assert_nothing_is_left();
}

#[test]
fn a_zip_is_tried_as_its_folder_is() {
    let bench = Bench::new();
    let plugin = plugin(&bench, "");
    let zip = bench.path().join("some.zip");
    let ran = bench.run(&["package", plugin.to_str().unwrap(), "-o", zip.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let checked = check(&bench, &zip, &[]);
    checked.is_good();
    assert_eq!(checked.summary["images"].as_array().map(Vec::len), Some(2), "{checked:?}");
    assert!(Path::new(&zip).is_file());
}
