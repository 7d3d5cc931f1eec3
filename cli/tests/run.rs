//! `run` with several sources, functions of every kind, windows, filters and
//! several sinks.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Bench, Ran, example, finish, speaker};

/// A plugin whose symbols do what files in its folder say. A source sends the
/// lines of `NAME.rows` (with the number of its instance, if it is not the
/// first), each a row, or one of: `!wait FILE` until it is there, `!error TEXT`,
/// `!crash`, `!stay` until it is stopped. A sink writes each message to
/// `NAME.taken`, and a function answers; both do what `NAME.how` says of the
/// message with this number, or of every one (`*`).
const STAGES: &str = r#"
plain_serve = serve
# What serves a function is chosen by its name.
call = None
def named(path): return os.path.basename(path).rsplit('_', 2)[1:]
def emit(path):
    name, instance = named(path[:-4])
    s, _ = dial(path, 0x50)
    def message(row): send(s, b'{"message":' + row + b'}')
    try:
        for line in open(name + (instance if instance != '0' else '') + '.rows', 'rb').read().split(b'\n'):
            word, _, rest = line.partition(b' ')
            if word == b'!wait':
                while not os.path.exists(rest): time.sleep(0.005)
            elif word == b'!error': send(s, b'{"error":"' + rest + b'"}')
            elif word == b'!crash': os._exit(3)
            elif word == b'!stay': stopped.wait()
            elif line: message(line.replace(b'\\N', b'\n'))
    except OSError: pass
    s.close()
numbers = {}
def how(name):
    numbers[name] = numbers.get(name, 0) + 1
    try: ways = json.load(open(name + '.how'))
    except OSError: return None
    return ways.get(str(numbers[name])) or ways.get('*')
def take(path, data):
    name = named(path[:-4])[0]
    way = how(name)
    if way == 'crash': os._exit(3)
    with open(name + '.taken', 'ab') as taken: taken.write(data + b'\n')
    if way == 'refuse': return b'{"error":"no room"}'
    if way == 'wait':
        with open('waits', 'w'): pass
        time.sleep(600)
    if way == 'break': raise SystemExit
def answer(name, request):
    call = json.loads(request)
    if call['func'] == 'IsAggregate': return b'{"state":true,"result":%s}' % (b'true' if name == 'total' else b'false')
    if call['func'] == 'Validate': return b'{"state":true,"result":""}'
    way = how(name)
    if way == 'fail': return b'{"state":false,"result":"it cannot be done"}'
    if way == 'crash': os._exit(3)
    if way in ('wait', 'note'):
        with open('waits', 'w'): pass
        if way == 'wait': time.sleep(600)
        way = None
    if way == 'slow':
        time.sleep(0.003)
        way = None
    if way: result = way
    elif name == 'total': result = json.dumps(sum(call['arg'][0]))
    elif name == 'is_even': result = json.dumps(call['arg'][0] % 2 == 0)
    # The arguments, as they came, without the context.
    else: result = json.dumps(request.partition(b'"arg":')[2].decode().partition('"{')[0].rstrip(','))
    return b'{"state":true,"result":' + result.encode() + b'}'
def serve(path, words, answers):
    name = os.path.basename(path)[5:-4]
    if 'func_' in path: answers = lambda request: answer(name, request)
    plain_serve(path, words, answers)
"#;

/// A plugin as described above, and a pipeline.
struct Stages {
    bench: Bench,
    plugin: PathBuf,
}

impl Stages {
    fn new(symbols: &str) -> Self {
        let bench = Bench::new();
        let plugin = speaker(&bench, "b'handshake'", STAGES);
        let name = plugin.file_name().unwrap().to_str().unwrap();
        let manifest = format!(r#"{{"language":"python","executable":"{name}.py",{symbols}}}"#);
        std::fs::write(plugin.join(format!("{name}.json")), manifest).unwrap();
        Self { bench, plugin }
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.plugin.join(name), text).unwrap();
        self
    }

    /// What a sink has taken.
    fn taken(&self, sink: &str) -> String {
        std::fs::read_to_string(self.plugin.join(format!("{sink}.taken"))).unwrap_or_default()
    }

    /// Writes the pipeline of these stages; returns its path.
    fn pipeline(&self, stages: &str) -> String {
        let path = self.bench.path().join("pipeline.toml");
        std::fs::write(&path, format!("plugins = [{:?}]\n{stages}", self.plugin)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn run(&self, stages: &str, options: &[&str]) -> Ran {
        let ran = self.bench.run(&[&["run", &*self.pipeline(stages)], options].concat());
        self.bench.wait_for_processes();
        self.bench.assert_nothing_is_left();
        ran
    }

    fn start(&self, stages: &str, options: &[&str]) -> Child {
        let mut command = self.bench.command(&[&["run", &*self.pipeline(stages)], options].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The plugin's process, if it runs.
    fn process(&self) -> Option<Pid> {
        let name = self.plugin.file_name().unwrap().to_str().unwrap();
        let script = format!("{name}.py");
        let runs = |entry: &std::fs::DirEntry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&script)
        };
        let entry = std::fs::read_dir("/proc").unwrap().flatten().find(runs)?;
        Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)
    }

    /// Waits until a symbol says so.
    fn wait_until_one_waits(&self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !self.plugin.join("waits").exists() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Two sources, three functions and three sinks.
fn stages() -> Stages {
    Stages::new(r#""sources":["a","b"],"functions":["say","is_even","total"],"sinks":["k","l"]"#)
}

/// Returns the summary, after checking what always holds.
fn summary(ran: &Ran) -> Value {
    let line = ran.stderr.lines().rev().find(|line| line.starts_with("{\"acked\""));
    let summary: Value = serde_json::from_str(line.unwrap_or_else(|| panic!("no summary: {ran:?}"))).unwrap();
    let count = |of: &Value, name: &str| of[name].as_u64().unwrap();
    let all = |name: &str| count(&summary, name);
    let states = ["delivered", "failed", "unknown"];
    let sum: u64 = states.iter().map(|state| all(state)).sum();
    assert_eq!(all("read"), sum + all("filtered"), "{ran:?}");
    let sources = summary["sources"].as_array().unwrap();
    assert_eq!(all("read"), sources.iter().map(|source| count(source, "read")).sum::<u64>(), "{ran:?}");
    for sink in summary["sinks"].as_array().unwrap() {
        assert_eq!(count(sink, "sent"), states.iter().map(|state| count(sink, state)).sum::<u64>(), "{ran:?}");
    }
    // Of unknown outcome are also the rows that a reader of stdout has missed.
    assert!(all("failed") + all("errors") == 0 || ran.code != Some(0), "{ran:?}");
    summary
}

/// Returns these counts of the summary.
fn counts<const N: usize>(of: &Value, names: [&str; N]) -> [u64; N] {
    names.map(|name| of[name].as_u64().unwrap_or_else(|| panic!("no {name}: {of}")))
}

/// Returns rows with a number `n`.
fn numbered(numbers: impl IntoIterator<Item = u64>) -> String {
    numbers.into_iter().map(|number| format!("{{\"n\":{number}}}\n")).collect()
}

const A: &str = "[[source]]\nsymbol = 'a'\n";
const B: &str = "[[source]]\nsymbol = 'b'\n";
const K: &str = "[[sink]]\nsymbol = 'k'\nrequire_ack = true\n";
const L: &str = "[[sink]]\nsymbol = 'l'\n";

#[test]
fn a_slow_source_holds_up_no_other_and_the_order_of_each_is_kept() {
    let stages = stages();
    stages.write("a.rows", numbered(0..2000)).write("b.rows", format!("!wait go\n{}", numbered(5000..5003)));
    let mut child = stages.start(&[A, B].concat(), &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let rows: Vec<String> = lines.by_ref().take(2000).map(Result::unwrap).collect();
    assert_eq!(rows.concat(), numbered(0..2000).replace('\n', ""));
    // Only now does the other one send.
    stages.write("go", "");
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(rest.concat(), numbered(5000..5003).replace('\n', ""));
    let ran = finish(child);
    let summary = summary(&ran);
    assert_eq!((ran.code, counts(&summary, ["read", "delivered"])), (Some(0), [2003, 2003]), "{ran:?}");
    assert_eq!(
        summary["sources"],
        json!([{"symbol": "a", "read": 2000, "errors": 0}, {"symbol": "b", "read": 3, "errors": 0}])
    );
}

#[test]
fn each_source_has_a_count_and_one_symbol_can_be_two_sources() {
    let stages = stages();
    stages.write("a.rows", numbered(0..9) + "!stay").write("a1.rows", numbered(10..19) + "!stay");
    let ran = stages.run(&format!("{A}count = 3\n{A}count = 2\n"), &[]);
    let mut rows: Vec<&str> = ran.stdout.lines().collect();
    rows.sort_unstable_by_key(|row| (row.len(), *row));
    assert_eq!((ran.code, rows.concat()), (Some(0), (numbered(0..3) + &numbered(10..12)).replace('\n', "")), "{ran:?}");
    let ran = stages.run(&format!("{A}count = 3\n{A}\n"), &["--count", "1"]);
    assert_eq!((ran.code, summary(&ran)["read"].as_u64()), (Some(0), Some(2)), "{ran:?}");
}

#[test]
fn a_source_that_cannot_go_on_ends_the_run_and_what_was_said_before_counts() {
    let stages = stages();
    stages.write("a.rows", numbered(0..5) + "!error e1\n!error e2\n!error e3\n!stay");
    stages.write("b.rows", numbered(10..13) + "!stay");
    let ran = stages.run(&[A, B].concat(), &["--max-errors", "3"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let last = "ekuiper-plugin: 3 consecutive errors without a row in between: --max-errors sets the limit";
    assert!(ran.stderr.lines().last().unwrap().starts_with(last), "{ran:?}");
    let all = summary(&ran);
    assert_eq!((&all["sources"][0]["read"], &all["errors"]), (&json!(5), &json!(3)), "{ran:?}");
    assert!(ran.stdout.contains(numbered(0..5).as_str()) || all["sources"][1]["read"] != 0, "{ran:?}");

    // A crash costs nothing that was read, and the other source goes on.
    stages.write("a.rows", numbered(0..5) + "!wait crash\n!crash").write("b.rows", numbered(10..13));
    let others = Stages::new(r#""sources":["c"]"#);
    others.write("c.rows", numbered(20..23) + "!wait go\n" + &numbered(23..26));
    let pipeline =
        format!("plugins = [{:?}, {:?}]\n{A}count = 5\n[[source]]\nsymbol = 'c'\n", stages.plugin, others.plugin);
    let path = stages.bench.path().join("two.toml");
    std::fs::write(&path, pipeline).unwrap();
    let mut command = stages.bench.command(&["run", path.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.by_ref().take(8).filter(|line| line.is_ok()).count(), 8);
    stages.write("crash", "");
    others.write("go", "");
    assert_eq!(lines.count(), 3);
    let ran = finish(child);
    assert_eq!(summary(&ran)["read"], 11, "{ran:?}");
}

/// In JSON, which nobody has reason to write like this.
const ODD: &str =
    r#"{ "z":1.0,"n":2,"big":123456789012345678901234567890,"e":1e400,"\u0061":"\/\ud83d\ude00", "n":-0 }"#;

#[test]
fn rows_are_the_bytes_that_came() {
    let stages = stages();
    stages.write("a.rows", format!("{ODD}\n[1.0, 2]\n1e400\n{{ \\N\"a\":\\N1}}\n"));
    let lines = format!("{ODD}\n[1.0, 2]\n1e400\n{{  \"a\": 1}}\n");
    let ran = stages.run(A, &[]);
    assert_eq!((ran.code, &ran.stdout), (Some(0), &lines), "{ran:?}");
    let ran = stages.run(&format!("{A}{K}{L}print = true\n"), &[]);
    assert_eq!((ran.code, &ran.stdout), (Some(0), &lines), "{ran:?}");
    for sink in ["k", "l"] {
        assert_eq!(stages.taken(sink), format!("{ODD}\n[1.0, 2]\n1e400\n{{ \n\"a\":\n1}}\n"));
    }
    // However deep it is, also with functions.
    let deep = format!("{{\"d\":{}{},\"n\":2}}\n", "[".repeat(100_000), "]".repeat(100_000));
    stages.write("a.rows", &deep);
    let ran = stages.run(&[A, EVEN].concat(), &[]);
    assert!(ran.code == Some(0) && ran.stdout == deep, "{:.300}", ran.stderr);
    // Invalid text is no row.
    stages.write("a.rows", b"{\"a\":\"\xff\"}\n{\"a\":01}\n{}\n");
    let ran = stages.run(A, &[]);
    assert_eq!((ran.code, ran.stdout.as_str(), &summary(&ran)["errors"]), (Some(1), "{}\n", &json!(2)), "{ran:?}");
}

#[test]
fn functions_get_fields_and_constants_as_they_are_and_leave_the_rest_alone() {
    let stages = stages();
    stages.write("a.rows", ODD);
    let function =
        |args: &str, output: &str| format!("[[function]]\nsymbol = 'say'\nargs = [{args}]\noutput = {output:?}\n");
    let said = |text: &str| Value::from(text).to_string();
    let all = "'e', 'a', 'n', 'big', 7, 'z', { value = 'text' }, { value = { b = [1.5] } }, true";
    let got = said(r#"[1e400,"\/\ud83d\ude00",-0,123456789012345678901234567890,7,1.0,"text",{"b":[1.5]},true"#);
    let ran = stages.run(&[A, &function(all, "said")].concat(), &[]);
    assert_eq!(ran.stdout, format!("{},\"said\":{got}}}\n", ODD.strip_suffix('}').unwrap()), "{ran:?}");
    // In the place of a field, of which the next function gets the new value;
    // and a name that must be escaped.
    let ran = stages.run(&[A, &function("'z'", "a"), &function("'a'", "\"ü")].concat(), &[]);
    let first = said("[1.0");
    let row = ODD.replace(r#""\/\ud83d\ude00""#, &first);
    let second = said(&format!("[{first}"));
    assert_eq!(ran.stdout, format!("{},\"\\\"ü\":{second}}}\n", row.strip_suffix('}').unwrap()), "{ran:?}");
    // A result as the plugin writes it.
    stages.write("say.how", json!({ "*": "{ \"x\":1e400,\"x\":[1.0] }" }).to_string());
    stages.write("a.rows", "{}\n{ }\n");
    let ran = stages.run(&[A, &function("", "r")].concat(), &[]);
    let result = "\"r\":{ \"x\":1e400,\"x\":[1.0] }}";
    assert_eq!(ran.stdout, format!("{{{result}\n{{ {result}\n"), "{ran:?}");
}

#[test]
fn errors_of_one_row_are_told_with_its_number_and_source() {
    let stages = stages();
    stages.write("a.rows", "{\"n\":1}\n[1]\n{}\n{\"\\ud800\":1}\n{\"n\":2}\n").write("b.rows", "7\n");
    stages.write("say.how", json!({ "2": "fail" }).to_string());
    let function = "[[function]]\nsymbol = 'say'\nargs = ['n']\noutput = 'x'\n";
    let ran = stages.run(&format!("[source]\nsymbol = 'a'\n{function}"), &[]);
    let own: Vec<&str> = ran.stderr.lines().filter_map(|line| line.strip_prefix("ekuiper-plugin: ")).collect();
    assert_eq!(own[0], "row 2 is no object, so it has no place for the result of function say", "{ran:?}");
    assert_eq!(own[1], "row 3 has no field n, which function say takes");
    assert!(own[2].starts_with("row 4 has a field whose name cannot be read: "), "{ran:?}");
    assert!(own[3].ends_with("function say: it cannot be done"), "{ran:?}");
    assert_eq!(own[4..], ["4 of 5 rows failed"]);
    let ran = stages.run(&[A, B, function].concat(), &[]);
    assert!(ran.stderr.contains("row 1 of source b is no object") && ran.stderr.contains("row 3 of source a has no"));
    assert_eq!(counts(&summary(&ran), ["read", "failed", "delivered"]), [6, 5, 1], "{ran:?}");
}

const EVEN: &str = "[[function]]\nsymbol = 'is_even'\nargs = ['n']\nfilter = true\n";

#[test]
fn a_filter_lets_pass_what_is_true() {
    let stages = stages();
    stages.write("a.rows", numbered(0..10));
    let ran = stages.run(&[A, EVEN, K, L].concat(), &[]);
    assert_eq!((ran.code, stages.taken("l")), (Some(0), numbered([0, 2, 4, 6, 8])), "{ran:?}");
    let summary_of_all = summary(&ran);
    assert_eq!(counts(&summary_of_all, ["read", "filtered", "delivered", "sent"]), [10, 5, 5, 5]);
    let function = json!([{"symbol": "is_even", "calls": 10, "failed": 0, "filtered": 5}]);
    assert_eq!(summary_of_all["functions"], function);
    // Anything but true and false is an error of the row.
    stages.write("is_even.how", json!({ "3": "1", "4": "null", "5": "\"true\"", "6": "fail" }).to_string());
    let ran = stages.run(&[A, EVEN].concat(), &[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), &*numbered([0, 6, 8])), "{ran:?}");
    assert_eq!(counts(&summary(&ran), ["filtered", "failed", "delivered", "calls"]), [3, 4, 3, 9], "{ran:?}");
    for (row, result) in [(3, "1"), (4, "null"), (5, "\"true\"")] {
        let told = format!("row {row}: filter is_even returned {result}, and not true or false");
        assert!(ran.stderr.contains(&told), "{ran:?}");
    }
}

const TOTAL: &str = "[[function]]\nsymbol = 'total'\nargs = ['n']\noutput = 'sum'\n";

/// Removes the times from a window's row.
fn timeless(line: &str) -> String {
    let mut row: Value = serde_json::from_str(line).unwrap();
    let [start, end] = counts(&row, ["start", "end"]);
    assert!(1_700_000_000_000 < start && start <= end, "{line}");
    let row = row.as_object_mut().unwrap();
    let (_, _) = (row.remove("start"), row.remove("end"));
    json!(row).to_string()
}

#[test]
fn aggregates_get_the_rows_of_a_window() {
    let stages = stages();
    // One of the rows has no such field.
    stages.write("a.rows", numbered(0..4) + "{}\n" + &numbered(4..11));
    let window = "[window]\ncount = 4\n";
    let list =
        "[[function]]\nsymbol = 'say'\naggregate = true\nargs = ['n', { value = 'x' }, 7, 'n']\noutput = 'said'\n";
    let after = "[[function]]\nsymbol = 'say'\naggregate = false\nargs = ['rows', 'sum', 1.0]\noutput = 'after'\n";
    let ran = stages.run(&[A, window, TOTAL, list, after].concat(), &[]);
    let rows: Vec<String> = ran.stdout.lines().map(timeless).collect();
    let row = |numbers: std::ops::Range<u64>| {
        let list = json!(numbers.clone().collect::<Vec<_>>());
        let count = numbers.clone().count();
        let (xs, sevens) = (json!(vec!["x"; count]), json!(vec![7; count]));
        let (sum, said) = (numbers.sum::<u64>(), format!("[{list},{xs},{sevens},{list}"));
        json!({ "rows": count, "sum": sum, "said": said, "after": format!("[{count},{sum},1.0") }).to_string()
    };
    // The last window has fewer.
    assert_eq!(rows, [row(0..4), row(4..8), row(8..11)], "{ran:?}");
    assert!(ran.stderr.contains("row 5 has no field n, which function total takes"), "{ran:?}");
    let all = summary(&ran);
    assert_eq!(counts(&all, ["read", "delivered", "failed", "windows", "calls"]), [12, 11, 1, 3, 9], "{ran:?}");
    // Functions before the first aggregate work on rows, filters of windows on
    // all their rows.
    stages.write("a.rows", numbered(0..20));
    let filter = EVEN.replace("'n'", "'sum'");
    let ran = stages.run(&[A, EVEN, "[window]\ncount = 3\n", TOTAL, &filter, K, L].concat(), &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let all = summary(&ran);
    assert_eq!(counts(&all, ["read", "delivered", "filtered", "windows", "sent"]), [20, 10, 10, 4, 10], "{ran:?}");
    assert_eq!(counts(&all["sinks"][0], ["sent", "acked"]), [4, 4]);
    // Errors of a window are told with its number, and are those of its rows.
    stages.write("total.how", json!({ "2": "fail", "3": "true" }).to_string());
    let filter = TOTAL.replace("output = 'sum'", "filter = true");
    let ran = stages.run(&[A, "[window]\ncount = 6\n", &filter].concat(), &[]);
    assert!(ran.stderr.contains("window 1: filter total returned 15, and not true or false"), "{ran:?}");
    assert_eq!(counts(&summary(&ran), ["read", "failed", "delivered"]), [20, 14, 6], "{ran:?}");
}

/// The time closes it, not the next row; and no window is empty.
#[test]
fn a_window_ends_with_its_time() {
    let stages = stages();
    stages.write("a.rows", numbered(1..3) + "!wait go\n" + &numbered(3..4) + "!wait end");
    stages.write("b.rows", "!wait end");
    let pipeline = [A, B, "[window]\ntime = '300ms'\n", TOTAL].concat();
    let mut child = stages.start(&pipeline, &["--timeout", "60s"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut seen = 0;
    let mut windows = Vec::new();
    // Rows may be parted by a window's end.
    while seen < 2 {
        let row: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
        seen += row["rows"].as_u64().unwrap();
        windows.push(row);
    }
    stages.write("go", "");
    windows.push(serde_json::from_str(&lines.next().unwrap()).unwrap());
    stages.write("end", "");
    assert_eq!(lines.next(), None);
    for window in &windows {
        let [start, end] = counts(window, ["start", "end"]);
        assert_eq!((start % 300, end - start), (0, 300), "{window}");
    }
    let sum: u64 = windows.iter().map(|window| window["sum"].as_u64().unwrap()).sum();
    let ran = finish(child);
    assert_eq!((ran.code, sum, &summary(&ran)["delivered"]), (Some(0), 1 + 2 + 3, &json!(3)), "{ran:?}");
}

#[test]
fn each_sink_gets_each_row_and_the_worst_state_counts() {
    let stages = stages();
    stages.write("a.rows", numbered(0..10));
    stages.write("k.how", json!({ "3": "refuse", "4": "refuse" }).to_string());
    let l = format!("{L}require_ack = true\nprint = true\n");
    stages.write("l.how", json!({ "4": "refuse", "8": "refuse" }).to_string());
    let ran = stages.run(&[A, K, &l].concat(), &[]);
    assert_eq!(
        (ran.code, stages.taken("k"), stages.taken("l")),
        (Some(1), numbered(0..10), numbered(0..10)),
        "{ran:?}"
    );
    let all = summary(&ran);
    assert_eq!(
        counts(&all, ["read", "delivered", "acked", "failed", "unknown", "sent"]),
        [10, 7, 7, 3, 0, 10],
        "{ran:?}"
    );
    for (sink, symbol) in all["sinks"].as_array().unwrap().iter().zip(["k", "l"]) {
        assert_eq!(sink["symbol"], symbol);
        assert_eq!(counts(sink, ["sent", "delivered", "failed", "unknown", "acked"]), [10, 8, 2, 0, 8], "{ran:?}");
    }
    // What that sink has taken is printed.
    assert_eq!(ran.stdout, numbered([0, 1, 2, 4, 5, 6, 8, 9]), "{ran:?}");
    assert_eq!(ran.stderr.lines().last(), Some("ekuiper-plugin: 3 of 10 rows failed"));
    // The rows of a window share the state of its row.
    let ran = stages.run(&[A, "[window]\ncount = 3\n", TOTAL, K, L].concat(), &[]);
    let all = summary(&ran);
    assert_eq!(counts(&all, ["read", "delivered", "failed", "unknown"]), [10, 6, 4, 0], "{ran:?}");
    assert_eq!(counts(&all["sinks"][1], ["sent", "failed"]), [4, 0], "{ran:?}");
}

#[test]
fn a_sink_that_breaks_is_opened_again_while_the_other_goes_on() {
    let stages = stages();
    stages.write("a.rows", numbered(0..10)).write("k.how", json!({ "5": "break" }).to_string());
    let ran = stages.run(&[A, K, L].concat(), &[]);
    assert!(ran.stderr.contains("sink k was opened again: its connection had ended"), "{ran:?}");
    assert_eq!(
        (ran.code, stages.taken("k"), stages.taken("l")),
        (Some(1), numbered(0..10), numbered(0..10)),
        "{ran:?}"
    );
    assert_eq!(counts(&summary(&ran), ["delivered", "failed", "unknown"]), [9, 0, 1], "{ran:?}");
    // For good: then the run ends.
    stages.write("k.how", json!({ "*": "break" }).to_string());
    let ran = stages.run(&[A, K, L].concat(), &[]);
    assert!(ran.stderr.lines().last().unwrap().starts_with("ekuiper-plugin: sink k breaks again and again"), "{ran:?}");
    let all = summary(&ran);
    assert_eq!(counts(&all, ["read", "unknown", "failed", "delivered"]), [6, 5, 1, 0], "{ran:?}");
}

/// Rows in flight, and those of an open window, are of unknown outcome.
#[test]
fn an_interrupt_ends_everything_and_every_row_is_counted() {
    let say = "[[function]]\nsymbol = 'say'\nargs = []\noutput = 'x'\n";
    for (more, told) in [
        ([say, "[window]\ncount = 100\n", TOTAL], "interrupted: the outcome of 7 of 7 rows is unknown"),
        ([EVEN, "", ""], "interrupted: the outcome of 1 of 5 rows is unknown"),
        ([K, L, "require_ack = true\n"], "interrupted: the outcome of 1 of 3 rows is unknown"),
    ] {
        let stages = stages();
        let (a, b) = (numbered([2, 4, 6, 8]) + "!stay", numbered([0, 1, 3]) + "!stay");
        stages.write("a.rows", a).write("b.rows", b);
        // A file tells that the rows are there.
        for (symbol, how) in
            [("say", json!({ "7": "note" })), ("is_even", json!({ "5": "wait" })), ("k", json!({ "3": "wait" }))]
        {
            stages.write(&format!("{symbol}.how"), how.to_string());
        }
        let child = stages.start(&[A, B, &more.concat()].concat(), &["--recv-timeout", "120s"]);
        stages.wait_until_one_waits();
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let ran = finish(child);
        assert_eq!(ran.code, Some(130), "{ran:?}");
        assert!(ran.stderr.contains(told), "{told}: {ran:?}");
        assert_eq!(summary(&ran)["failed"], 0, "{ran:?}");
        stages.bench.wait_for_processes();
        stages.bench.assert_nothing_is_left();
    }
}

/// A reader of stdout that goes away ends all sources, and is no failure.
#[test]
fn all_sources_end_with_the_reader_of_stdout() {
    for window in ["", "[window]\ncount = 2\n"] {
        let stages = stages();
        stages.write("a.rows", numbered(0..3) + "!stay").write("b.rows", "!stay");
        let total = if window.is_empty() { "" } else { TOTAL };
        let mut child = stages.start(&[A, B, window, total].concat(), &[]);
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut String::new()).unwrap();
        drop(stdout);
        let ran = finish(child);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        summary(&ran);
        stages.bench.wait_for_processes();
        stages.bench.assert_nothing_is_left();
    }
}

/// Numbers that look random, and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Whatever is killed when, each row is in one final state, and none is
/// delivered that a sink does not have.
#[test]
fn the_final_states_add_up_under_random_kills() {
    let mut random = Random(20);
    for round in 0..6 {
        let sources = Stages::new(r#""sources":["a","b"]"#);
        let functions = Stages::new(r#""functions":["is_even","total","say"]"#);
        let sinks = Stages::new(r#""sinks":["k","l"]"#);
        let rows = 50 + random.below(100);
        sources.write("a.rows", numbered(1..rows)).write("b.rows", numbered(1000..1000 + rows));
        // So that kills hit calls in flight.
        functions.write("is_even.how", json!({ "*": "slow" }).to_string());
        let acks = ["", "require_ack = true\n"][random.below(2) as usize];
        let (window, total) = if round % 2 == 0 { ("[window]\ncount = 7\n", TOTAL) } else { ("", "") };
        let pipeline = format!(
            "plugins = [{:?}, {:?}, {:?}]\n{A}{B}{EVEN}{window}{total}{K}{L}{acks}",
            sources.plugin, functions.plugin, sinks.plugin
        );
        let file = sources.bench.path().join("kills.toml");
        std::fs::write(&file, pipeline).unwrap();
        let mut command = sources.bench.command(&["run", file.to_str().unwrap(), "--log-level", "error"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stages = [&sources, &functions, &sinks];
        for _ in 0..random.below(4) + 1 {
            std::thread::sleep(Duration::from_millis(100 + random.below(300)));
            // It may have ended, or not have begun.
            let process = stages[[0, 1, 1, 2][random.below(4) as usize]].process();
            let _ = process.map(|process| kill_process(process, Signal::KILL));
        }
        // Only a command that has come so far hears signals.
        if random.below(3) == 0 && sinks.process().is_some() {
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        }
        let _ = child.stdout.as_mut().unwrap().read_to_end(&mut Vec::new());
        let ran = finish(child);
        stages.iter().for_each(|stages| stages.bench.wait_for_processes());
        stages.iter().for_each(|stages| stages.bench.assert_nothing_is_left());
        if !ran.stderr.contains("{\"acked\"") {
            // A symbol could not be opened: nothing was read yet.
            assert!(ran.code == Some(1) && ran.stderr.contains("ekuiper-plugin: "), "{ran:?}");
            continue;
        }
        let all = summary(&ran);
        let [delivered, sent] = counts(&all, ["delivered", "sent"]);
        assert!(delivered <= sent, "{ran:?}");
        for sink in all["sinks"].as_array().unwrap() {
            let taken = sinks.taken(sink["symbol"].as_str().unwrap());
            let [delivered, sent] = counts(sink, ["delivered", "sent"]);
            let taken: Vec<&str> = taken.lines().collect();
            let mut once = taken.clone();
            once.dedup();
            assert_eq!(once, taken, "a row was sent twice: {ran:?}");
            // What was only read by a process may be lost with it.
            let is_acked = sink["acked"].as_u64() > Some(0);
            assert!((!is_acked || delivered <= taken.len() as u64) && taken.len() as u64 <= sent, "{taken:?}: {ran:?}");
        }
    }
}

#[test]
fn pipelines_that_cannot_be() {
    let stages = stages();
    let function = |more: &str| format!("[[function]]\nsymbol = 'total'\nargs = ['n']\n{more}");
    let say = |more: &str| format!("[[function]]\nsymbol = 'say'\n{more}");
    let window = "[window]\ncount = 3\n";
    let long = "x".repeat(300);
    for (text, told) in [
        (
            function("aggregate = true\noutput = 'x'\n"),
            "line 5, column 10: function total is an aggregate, which works on windows: add a [window]",
        ),
        (window.to_owned(), "line 4, column 1: a window needs an aggregate: a function with aggregate = true"),
        (format!("{window}{EVEN}"), "line 4, column 1: a window needs an aggregate"),
        (
            format!("{window}{}", function("output = 'rows'\n")),
            "line 9, column 10: output rows is a field that the row of a window has already",
        ),
        (
            format!("{window}{TOTAL}{}", say("args = ['n']\noutput = 'x'\n")),
            "line 11, column 10: function say works on the row of a window, which has no field n there: only rows, start, end",
        ),
        (
            format!("{window}{}{TOTAL}", say("args = []\noutput = 'y'\naggregate = true\n"))
                .replace("'n'", &format!("'{long}'")),
            // Rows may have any field.
            "",
        ),
        (
            format!("{}{}", say("args = []\noutput = 'x'\n"), say("args = ['n']\noutput = 'x'\n")),
            "line 11, column 10: two functions have the output x, and nothing reads the first one's",
        ),
        (format!("{}{}", say("args = []\noutput = 'x'\n"), say("args = ['x']\noutput = 'x'\n")), ""),
        (
            say("args = []\n"),
            "line 5, column 10: function say needs an output, the field that gets its result, or filter",
        ),
        (
            say("args = []\noutput = 'x'\nfilter = true\n"),
            "line 5, column 10: function say has an output and is a filter",
        ),
        ("[window]\ncount = 3\ntime = '1s'\n".into(), "line 4, column 1: a window has a count or a time, not both"),
        ("[window]\n".into(), "line 4, column 1: a window needs a count of rows"),
        ("[window]\ncount = 0\n".into(), "line 5, column 9: count is 0: a window has at least 1 row"),
        ("[window]\ntime = '5 s'\n".into(), "line 5, column 8: time is \"5 s\": a number and ms, s, m or h"),
        ("[window]\nsize = 5\n".into(), "line 5, column 1: unknown field `size`, expected `count` or `time`"),
        ("[source]\nsymbol = 'b'\n".into(), "line 4, column 2: duplicate key: write [[source]] for each of several"),
        ("[[sink]]\nsymbol = 'k'\nsynbol = 'k'\n".into(), "line 6, column 1: unknown field `synbol`"),
        (format!("config = {{ a = {}{} }}\n", "[".repeat(10_000), "]".repeat(10_000)), "line 4, column "),
    ] {
        stages.write("a.rows", "{}\n");
        let path = stages.pipeline(&format!("[source]\nsymbol = 'a'\n{text}"));
        if told.is_empty() {
            let ran = stages.bench.run(&["run", &path]);
            assert!(ran.stderr.contains("{\"acked\""), "{ran:?}");
            continue;
        }
        let error = stages.bench.fails(1, &["run", &path]);
        assert!(error.starts_with(&format!("{path}, {told}")), "{error}\n{text}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    // What no plugin has, with names of any length.
    for (kind, rest) in [("source", ""), ("function", "args = []\noutput = 'x'\n"), ("sink", "")] {
        for name in ["nobody", &long] {
            let source = if kind == "source" { "" } else { A };
            let path = stages.pipeline(&format!("{source}[[{kind}]]\nsymbol = {name:?}\n{rest}"));
            let error = stages.bench.fails(1, &["run", &path]);
            assert!(error.contains(&format!("{kind} {name}")) && error.lines().count() == 1, "{error}");
        }
    }
}

/// Our SDK's plugins describe themselves, and speak MessagePack too.
#[test]
fn an_aggregate_is_what_the_plugin_says_unless_the_pipeline_does() {
    let bench = Bench::new();
    let file = bench.path().join("pipeline.toml");
    let mirror = example("mirror");
    let run = |more: &str, codec: &str| {
        let source = "[source]\nsymbol = 'random'\nconfig = { interval = 1, count = 5 }\n";
        std::fs::write(&file, format!("plugins = [{mirror:?}]\n{source}{more}")).unwrap();
        bench.run(&["run", file.to_str().unwrap(), "--no-build", "--codec", codec])
    };
    let average = "[[function]]\nsymbol = 'average'\nargs = ['count']\noutput = 'mean'\n";
    let echo = "[[function]]\nsymbol = 'echo'\nargs = ['count']\noutput = 'all'\n";
    let window = "[window]\ncount = 3\n";
    for codec in ["messagepack", "json"] {
        let ran = run(&[window, average].concat(), codec);
        let rows: Vec<String> = ran.stdout.lines().map(timeless).collect();
        assert_eq!(rows, [r#"{"mean":2.0,"rows":3}"#, r#"{"mean":4.5,"rows":2}"#], "{ran:?}");
        assert_eq!((ran.code, ran.stderr.lines().count()), (Some(0), 1), "{ran:?}");
        let ran = run(&[window, echo, "aggregate = true\n"].concat(), codec);
        assert_eq!(timeless(ran.stdout.lines().next().unwrap()), r#"{"all":[1,2,3],"rows":3}"#, "{ran:?}");
        let told =
            "ekuiper-plugin: function echo describes itself as no aggregate; it gets lists, since the pipeline says";
        assert!(ran.code == Some(0) && ran.stderr.starts_with(told), "{ran:?}");
        let ran = run(&[average, "aggregate = false\n"].concat(), codec);
        let told = "ekuiper-plugin: function average describes itself as an aggregate; it gets single values, since";
        assert!(ran.code == Some(1) && ran.stderr.starts_with(told), "{ran:?}");
        let error = run(average, codec).stderr;
        assert!(
            error.contains("line 6, column 10: function average is an aggregate, which works on windows"),
            "{error}"
        );
    }
    bench.assert_nothing_is_left();
}

#[test]
fn the_example_with_windows_runs() {
    let bench = Bench::new();
    let _ = example("mirror");
    let text = std::fs::read_to_string(example("windows.toml")).unwrap();
    let folder = bench.path().display();
    let text = text
        .replace("[\"mirror\"]", &format!("[{:?}]", example("mirror")))
        .replace("../../target/", &format!("{folder}/"));
    let file = bench.path().join("windows.toml");
    std::fs::write(&file, text).unwrap();
    let ran = bench.run(&["run", file.to_str().unwrap(), "--no-build"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let all = summary(&ran);
    let [read, delivered, filtered, windows, calls] =
        counts(&all, ["read", "delivered", "filtered", "windows", "calls"]);
    assert_eq!((read, delivered + filtered, calls), (90, 90, 90 + 2 * windows), "{ran:?}");
    assert!(filtered > 0 && windows == delivered.div_ceil(10), "{ran:?}");
    for (at, line) in ran.stdout.lines().enumerate() {
        let row: Value = serde_json::from_str(line).unwrap();
        assert!(row["mean"].as_f64().unwrap() > 200.0 && row["echoed"] == row["rows"], "{row}");
        assert!(row["rows"] == 10 || at as u64 + 1 == windows, "{row}");
    }
    for file in ["windows.jsonl", "windows.log"] {
        let lines = std::fs::read_to_string(bench.path().join(file)).unwrap();
        let rows =
            |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
        assert_eq!(rows(&lines), rows(&ran.stdout));
    }
    bench.assert_nothing_is_left();
}
