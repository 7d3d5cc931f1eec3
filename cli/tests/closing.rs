//! What `sink` and `run` count, print and return, in whatever way their plugin
//! takes, refuses, loses or ends.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Bench, Ran, finish, speaker};

/// Number of rows.
const ROWS: u64 = 12;

const FUNCTION: &str = "[[function]]\nsymbol = 'f'\nargs = ['how']\noutput = 'x'\n";

/// A plugin that serves this list of symbols only.
fn serving(bench: &Bench, body: &str, symbols: &str) -> PathBuf {
    let plugin = speaker(bench, "b'handshake'", body);
    let name = plugin.file_name().unwrap().to_str().unwrap();
    let manifest = format!(r#"{{"language":"python","executable":"{name}.py",{symbols}}}"#);
    std::fs::write(plugin.join(format!("{name}.json")), manifest).unwrap();
    plugin
}

/// A plugin whose source sends the rows in its file `source`.
fn source(bench: &Bench) -> PathBuf {
    let body = "
def source(push):
    with open('source') as rows:
        for row in rows:
            push(b'{\"message\":' + row.strip().encode() + b'}')
";
    serving(bench, body, r#""sources":["s"]"#)
}

/// A plugin whose sink notes each row that it takes in `rows`, and then does
/// what the row says, as does its function.
fn plugin(bench: &Bench) -> PathBuf {
    let body = "
def row(data):
    row = json.loads(data)
    how = row['how']
    if how == 'before': os._exit(3)
    with open('rows', 'a') as rows: rows.write('%d\\n' % row['row'])
    if how == 'refuse': return b'{\"error\":\"no room\"}'
    if how == 'garbage': return b'no acknowledgement'
    if how == 'crash': os._exit(3)
    if how == 'kill': os.kill(os.getpid(), signal.SIGKILL)
    # The connections end, the process does not.
    if how == 'break': raise SystemExit
    # The connections end, then the process.
    if how == 'end':
        threading.Timer(0.1, lambda: os._exit(0)).start()
        raise SystemExit
    if how == 'hang': time.sleep(600)
def call(request):
    if b'Validate' in request: return b'{\"state\":true,\"result\":\"\"}'
    how = json.loads(request)['arg'][0]
    if how == 'raise': return b'{\"state\":false,\"result\":\"it cannot be done\"}'
    if how == 'die': os._exit(3)
    return b'{\"state\":true,\"result\":1}'
";
    serving(bench, body, r#""sinks":["k"],"functions":["f"]"#)
}

/// Returns rows of which some are handled in this way.
fn rows(how: &str, which: impl Fn(u64) -> bool) -> Vec<u8> {
    let row = |row| json!({ "row": row, "how": if which(row) { how } else { "ok" } });
    (0..ROWS).flat_map(|number| format!("{}\n", row(number)).into_bytes()).collect()
}

fn sink(bench: &Bench, plugin: &Path, rows: &[u8], options: &[&str]) -> Ran {
    let mut command = bench.command(&[&["sink", plugin.to_str().unwrap(), "k"], options].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that ends before it has read everything has its reasons.
    let _ = child.stdin.take().unwrap().write_all(rows);
    finish(child)
}

/// Runs a pipeline with the function `f` before the sink, or without.
fn run(bench: &Bench, plugin: &Path, rows: &[u8], function: &str, acks: bool, options: &[&str]) -> Ran {
    let sources = Bench::new();
    let source = source(&sources);
    std::fs::write(source.join("source"), rows).unwrap();
    let file = bench.path().join("pipeline.toml");
    let pipeline = format!(
        "plugins = [{plugin:?}, {source:?}]\n[source]\nsymbol = 's'\n{function}[sink]\nsymbol = 'k'\nrequire_ack = {acks}\n"
    );
    std::fs::write(&file, pipeline).unwrap();
    bench.run(&[&["run", file.to_str().unwrap()], options].concat())
}

/// Returns the summary, after checking what always holds.
fn counts(bench: &Bench, plugin: &Path, ran: &Ran, acks: bool) -> HashMap<String, u64> {
    let summary = ran.stdout.lines().chain(ran.stderr.lines()).find(|line| line.starts_with("{\"acked\""));
    let summary: Value = serde_json::from_str(summary.unwrap_or_else(|| panic!("no summary: {ran:?}"))).unwrap();
    let whole = |(name, count): (&String, &Value)| Some((name.clone(), count.as_u64()?));
    let counts: HashMap<_, _> = summary.as_object().unwrap().iter().filter_map(whole).collect();
    let [sent, delivered, acked, failed, unknown] =
        ["sent", "delivered", "acked", "failed", "unknown"].map(|name| counts[name]);
    let read = counts.get("read").copied().unwrap_or(sent);
    assert_eq!(read, delivered + failed + unknown, "{ran:?}");
    assert_eq!(acked, if acks { delivered } else { 0 }, "{ran:?}");
    assert!(delivered + unknown <= sent && sent <= read, "{ran:?}");
    // What the sink itself says: no row was sent twice, and none is known to be
    // delivered that was not.
    let taken = std::fs::read_to_string(plugin.join("rows")).unwrap_or_default();
    let taken: Vec<u64> = taken.lines().map(|row| row.parse().unwrap()).collect();
    let mut once = taken.clone();
    once.dedup();
    assert_eq!(once, taken, "{ran:?}");
    let taken = taken.len() as u64;
    assert!(delivered <= taken && taken <= sent, "{taken} were taken: {ran:?}");
    // The exit code and the last words agree with the counts.
    let errors = counts.get("errors").copied().unwrap_or(0);
    let is_clean = failed + unknown + errors == 0 && read == ROWS;
    assert_eq!(ran.code, Some(i32::from(!is_clean)), "{ran:?}");
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(is_clean || last.starts_with("ekuiper-plugin: "), "{ran:?}");
    let _ = std::fs::remove_file(plugin.join("rows"));
    // The guard of a process that was killed ends a moment later.
    bench.wait_for_processes();
    bench.assert_nothing_is_left();
    counts
}

/// In whatever way a row is lost, each is in one of the counts.
#[test]
fn each_row_is_in_one_final_state() {
    let options = |how: &str| match how {
        "hang" => ["--recv-timeout", "1s", "--log-level", "error"],
        _ => ["--recv-timeout", "60s", "--log-level", "error"],
    };
    let sinks = |how: &str| {
        let bench = Bench::new();
        let plugin = plugin(&bench);
        for which in [|row| row == 0, |row| row == 5, |row| row + 1 == ROWS] {
            // Without acknowledgements this plugin tells nothing, and one that
            // hangs looks like one that is done.
            for acks in [true, false].into_iter().filter(|acks| *acks || how != "hang") {
                let options = [&options(how)[..], if acks { &["--ack"] } else { &[] }].concat();
                let ran = sink(&bench, &plugin, &rows(how, which), &options);
                counts(&bench, &plugin, &ran, acks);
            }
        }
        let ran = run(&bench, &plugin, &rows(how, |row| row == 5), "", true, &options(how));
        assert!(counts(&bench, &plugin, &ran, true)["read"] > 5, "{ran:?}");
    };
    let functions = |how: &str| {
        let bench = Bench::new();
        let plugin = plugin(&bench);
        let ran = run(&bench, &plugin, &rows(how, |row| row == 5), FUNCTION, false, &options(how));
        let counts = counts(&bench, &plugin, &ran, false);
        assert_eq!((counts["read"], counts["calls"]), (ROWS, ROWS - 1), "{ran:?}");
    };
    // Most of the time is waits.
    std::thread::scope(|scope| {
        for how in ["ok", "refuse", "garbage", "before", "crash", "kill", "break", "end", "hang"] {
            scope.spawn(move || sinks(how));
        }
        for how in ["raise", "die"] {
            scope.spawn(move || functions(how));
        }
    });
}

/// A sink whose connection ends, in a process that lives or ends in order, is
/// opened again, and gets every other row once.
#[test]
fn a_sink_with_acks_that_breaks_is_opened_again() {
    let bench = Bench::new();
    let plugin = plugin(&bench);
    for how in ["break", "end"] {
        let which = |row| row == 3 || row == 7;
        let sunk = || sink(&bench, &plugin, &rows(how, which), &["--ack"]);
        let piped = || run(&bench, &plugin, &rows(how, which), "", true, &[]);
        for command in [&sunk as &dyn Fn() -> Ran, &piped] {
            let ran = command();
            let counted = counts(&bench, &plugin, &ran, true);
            // In a process that is about to end, the next row may be lost too.
            let lost = if how == "end" { 2..=4 } else { 2..=2 };
            assert!(counted["sent"] == ROWS && lost.contains(&counted["unknown"]), "{ran:?}");
            assert!(ran.stderr.contains("sink k was opened again: its connection had ended"), "{ran:?}");
            let last = format!("ekuiper-plugin: the outcome of {} of {ROWS} ", counted["unknown"]);
            assert!(ran.stderr.lines().last().unwrap().starts_with(&last), "{ran:?}");
        }
    }
}

#[test]
fn a_sink_that_breaks_with_every_row_ends_the_command() {
    let bench = Bench::new();
    let plugin = plugin(&bench);
    let ran = sink(&bench, &plugin, &rows("break", |_| true), &["--ack"]);
    let counted = counts(&bench, &plugin, &ran, true);
    assert_eq!((counted["sent"], counted["unknown"]), (5, 5), "{ran:?}");
    let told = "ekuiper-plugin: line 6 of stdin and all lines after it were not sent: sink k breaks again and again: its \
                connection ends before it has acknowledged a message";
    assert_eq!(ran.stderr.lines().last(), Some(told), "{ran:?}");
    let ran = run(&bench, &plugin, &rows("break", |_| true), "", true, &[]);
    let counted = counts(&bench, &plugin, &ran, true);
    // The sixth row was read, and not sent.
    let [read, sent, unknown, failed] = ["read", "sent", "unknown", "failed"].map(|name| counted[name]);
    assert_eq!((read, sent, unknown, failed), (6, 5, 5, 1), "{ran:?}");
}

/// A line that was sent is not one that was not.
#[test]
fn a_line_without_an_acknowledgement_was_sent() {
    let bench = Bench::new();
    let plugin = plugin(&bench);
    let ran = sink(&bench, &plugin, &rows("hang", |row| row == 0), &["--ack", "--recv-timeout", "500ms"]);
    let counted = counts(&bench, &plugin, &ran, true);
    assert_eq!((counted["sent"], counted["unknown"], counted["failed"]), (1, 1, 0), "{ran:?}");
    let told =
        "ekuiper-plugin: the outcome of line 1 of stdin is unknown, and the lines after it were not sent: plugin ";
    assert!(ran.stderr.lines().last().unwrap().starts_with(told), "{ran:?}");
}

/// Errors of the source are no rows.
#[test]
fn what_a_source_reports_is_told_apart_from_its_rows() {
    let bench = Bench::new();
    let body = "
def source(push):
    push(b'{\"message\":{\"how\":1}}')
    push(b'{\"error\":\"it is empty\"}')
def row(data): pass
";
    let plugin = speaker(&bench, "b'handshake'", body);
    let file = bench.path().join("pipeline.toml");
    let pipeline = format!("plugins = [{plugin:?}]\n[source]\nsymbol = 's'\n[sink]\nsymbol = 'k'\n");
    std::fs::write(&file, pipeline).unwrap();
    let ran = bench.run(&["run", file.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(ran.stderr.lines().last(), Some("ekuiper-plugin: source s reported 1 error"), "{ran:?}");
    let counts = "\"errors\":1,\"failed\":0,";
    assert!(ran.stderr.contains(counts) && ran.stderr.contains("\"read\":1,"), "{ran:?}");
}

/// A command that is interrupted before its sink is open has a summary too.
#[test]
fn a_signal_before_the_sink_is_open_gives_a_summary() {
    let bench = Bench::new();
    let plugin = speaker(&bench, "b'handshake'", "def listen(path, acks): time.sleep(600)");
    let mut command = bench.command(&["sink", plugin.to_str().unwrap(), "k", "--log-level", "debug"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut lines = stderr.lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("plugin started")));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let told = lines.any(|line| line == "ekuiper-plugin: interrupted: nothing was sent");
    let ran = finish(child);
    let counts = "{\"acked\":0,\"delivered\":0,\"failed\":0,\"sent\":0,\"unknown\":0}\n";
    assert_eq!((ran.code, ran.stdout.as_str(), told), (Some(130), counts, true));
    bench.assert_nothing_is_left();
}
