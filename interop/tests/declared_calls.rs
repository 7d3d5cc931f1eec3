//! What is declared of functions, by their plugin or in the plugin's options,
//! acted on by the command: calls at the same time, and their time-outs.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ekuiper_conformance::wait_until;
use ekuiper_interop::guard::Watchdog;
use ekuiper_interop::managed::scratch;
use ekuiper_interop::plugins::Ledger;
use ekuiper_interop::{packages, tools};
use ekuiper_manager::archive::Contents;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Maximum time of an answer before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

const LINES: &str = "Content-Type: application/x-ndjson\r\n";

/// A running `serve` with the plugin `ledger`.
struct Server {
    root: tempfile::TempDir,
    process: Child,
    address: String,
}

impl Server {
    /// Starts it with these options of the plugin.
    fn start(options: &str) -> Self {
        let root = scratch();
        let file = root.path().join("options.toml");
        std::fs::write(&file, options).unwrap();
        let mut command = Command::new(tools::ekuiper_plugin());
        command.args(["serve", "--listen", "127.0.0.1:0", "--plugins"]).arg(root.path().join("managed"));
        command.arg("--ipc-dir").arg(root.path()).arg("--plugin-options").arg(file);
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("serving http://") {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it does not serve");
        }
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::stderr()));
        let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
        let server = Self { root, process, address };
        assert_eq!(server.install("POST", "/plugins/portables", "v1", tools::ledger()).0, 201);
        server
    }

    /// Installs a program as a version of `ledger`.
    fn install(&self, method: &str, path: &str, version: &str, program: &Path) -> (u16, String) {
        let functions = ["meet", "patient", "cancelled", "noted", "note", "filed", "held"];
        let manifest = json!({ "version": version, "language": "go", "executable": "run", "functions": functions });
        let mut contents = Contents::new();
        contents.add_bytes("ledger.json", manifest.to_string(), false).unwrap();
        contents.add_bytes("run", packages::script("", program), true).unwrap();
        let package = packages::write(&contents, self.root.path(), &format!("{version}.zip"));
        let request = json!({ "name": "ledger", "file": format!("file://{}", package.display()) });
        self.ask(method, path, &request.to_string(), "")
    }

    /// Sends a request; returns what its answer can be read from.
    fn begin(&self, method: &str, path: &str, body: &str, headers: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}", self.address);
        stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
        BufReader::new(stream)
    }

    fn ask(&self, method: &str, path: &str, body: &str, headers: &str) -> (u16, String) {
        let mut answer = String::new();
        self.begin(method, path, body, headers).read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    fn call(&self, function: &str, arguments: &Value) -> (u16, String) {
        self.ask("POST", &format!("/functions/{function}"), &arguments.to_string(), "")
    }

    fn result(&self, function: &str, arguments: &Value) -> Value {
        let (status, body) = self.call(function, arguments);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The answers to calls of these rows.
    fn lines(&self, path: &str, rows: &[Value]) -> Vec<Value> {
        let body: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let (status, answers) = self.ask("POST", path, &body, LINES);
        assert_eq!(status, 200, "{answers}");
        // They come in chunks, whose lengths are lines of their own.
        let line = |line: &str| serde_json::from_str(line).ok().filter(Value::is_object);
        answers.lines().filter_map(line).collect()
    }

    /// The number of further processes that execute functions.
    fn members(&self) -> usize {
        let (_, plugins) = self.ask("GET", "/plugins", "", "");
        let plugins: Value = serde_json::from_str(&plugins).unwrap();
        plugins[0]["members"].as_array().unwrap().len()
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.root.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}

/// Calls that only end when two of them are executed at the same time.
#[test]
fn requests_call_a_parallel_function_at_the_same_time() {
    let _watchdog = Watchdog::start();
    let server = Server::start("[ledger.functions.meet]\nprocesses = 2\n");
    let both = server.folder("both");
    let pids: BTreeSet<String> = std::thread::scope(|scope| {
        let calls = [(); 2].map(|()| scope.spawn(|| server.result("meet", &json!([both, 2]))));
        calls.map(|call| call.join().unwrap().to_string()).into_iter().collect()
    });
    assert_eq!(pids.len(), 2);

    // As rows of one request, in order and as they come.
    for path in ["/functions/meet", "/functions/meet?ordered=false"] {
        let lines = server.folder(if path.ends_with("false") { "unordered" } else { "lines" });
        let rows: Vec<_> = (0..10).map(|_| json!([lines, 2])).collect();
        let answers = server.lines(path, &rows);
        assert_eq!(answers.len(), 10);
        assert!(answers.iter().all(|answer| answer["result"].is_u64()), "{answers:?}");
        let rows: BTreeSet<_> = answers.iter().map(|answer| answer["row"].as_u64()).collect();
        assert_eq!(rows, if path.ends_with("false") { (1..=10).map(Some).collect() } else { [None].into() });
    }
    // They are the plugin's processes, and end with it.
    assert_eq!(server.members(), 1);
    let (_, figures) = server.ask("GET", "/metrics", "", "");
    for figure in ["members{plugin=\"ledger\"} 1", "processes_total{plugin=\"ledger\"} 2"] {
        assert!(figures.contains(&format!("\nekuiper_plugin_{figure}\n")), "{figures}");
    }
    assert_eq!(server.ask("DELETE", "/plugins/portables/ledger", "", "").0, 200);
}

#[test]
fn rows_are_answered_in_order_or_as_they_come() {
    let _watchdog = Watchdog::start();
    let server = Server::start("[ledger.functions.held]\nprocesses = 2\n");
    let [go, there] = ["go", "there"].map(|name| server.root.path().join(name));
    std::fs::write(&there, "").unwrap();
    // The first takes until the others are answered.
    let rows = format!("{}\n{}\n{}\n", json!([1, go]), json!([2, there]), json!([3]));
    let mut answers = server.begin("POST", "/functions/held?ordered=false", &rows, LINES).lines().map(Result::unwrap);
    let mut next = || {
        let mut rows = answers.by_ref().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        rows.find(|row| row.is_object()).unwrap()
    };
    let mut first = [next(), next()];
    first.sort_by_key(|answer| answer["row"].as_u64());
    assert_eq!(first[0], json!({ "row": 2, "result": 2 }));
    assert!(first[1]["error"].as_str().unwrap().contains("takes 2 arguments, got 1"), "{first:?}");
    std::fs::write(&go, "").unwrap();
    assert_eq!(next(), json!({ "row": 1, "result": 1 }));
    let ordered = server.lines("/functions/held", &(0..100).map(|n| json!([n, go])).collect::<Vec<_>>());
    assert_eq!(ordered, (0..100).map(|n| json!({ "result": n })).collect::<Vec<_>>());
    let (status, said) = server.ask("POST", "/functions/held?ordered=no", "[1,1]", "");
    assert_eq!((status, said.contains("ordered is to be true or false, not \\\"no\\\"")), (400, true), "{said}");
}

/// Of a function that is not declared parallel, one call follows the other, in
/// one process.
#[test]
fn other_functions_are_called_in_one_process() {
    let _watchdog = Watchdog::start();
    let server = Server::start("");
    let file = server.root.path().join("filed");
    let rows: Vec<_> = (0..300).map(|number| json!([number, file, 200])).collect();
    let answers = server.lines("/functions/filed", &rows);
    assert_eq!(answers, (0..300).map(|number| json!({ "result": number })).collect::<Vec<_>>());
    let filed = std::fs::read_to_string(&file).unwrap();
    let executed: Vec<_> = filed.lines().map(|line| line.split_once(' ').unwrap()).collect();
    let numbers: Vec<u64> = executed.iter().map(|(number, _)| number.parse().unwrap()).collect();
    assert_eq!(numbers, (0..300).collect::<Vec<_>>());
    assert_eq!(executed.iter().map(|(_, pid)| pid).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(server.members(), 0);
}

/// A call that takes too long fails, and its plugin is told; the next is
/// executed.
#[test]
fn a_late_call_fails_and_is_cancelled() {
    let _watchdog = Watchdog::start();
    let server = Server::start("[ledger.functions.patient]\ntimeout = '1s'\n");
    assert_eq!(server.result("patient", &json!([1, 0])), 1);
    let minute = 60_000_000;
    let (status, said) = server.call("patient", &json!([2, minute]));
    assert_eq!(status, 504, "{said}");
    assert!(said.contains("function patient") && said.contains("1s"), "{said}");
    wait_until("it is cancelled", || server.result("cancelled", &json!([0])) == json!([2]));
    assert_eq!(server.result("patient", &json!([3, 0])), 3);

    // Each row has the time for itself, those behind a late one too.
    let rows: Vec<_> = (10..20).map(|n| json!([n, if n == 14 { minute } else { 0 }])).collect();
    let answers = server.lines("/functions/patient", &rows);
    assert_eq!(answers.len(), 10);
    for (n, answer) in (10..20).zip(&answers) {
        match n {
            14 => assert!(answer["error"].as_str().unwrap().contains("within 1s"), "{answer}"),
            _ => assert_eq!(*answer, json!({ "result": n })),
        }
    }
    wait_until("it is cancelled", || server.result("cancelled", &json!([0])) == json!([2, 14]));

    // A request may say less, or more.
    let (status, said) = server.ask("POST", "/functions/patient?timeout=50", &json!([30, minute]).to_string(), "");
    assert_eq!((status, said.contains("50ms")), (504, true), "{said}");
    wait_until("it is cancelled", || server.result("cancelled", &json!([0])) == json!([2, 14, 30]));
    let rows: Vec<_> = (40..42).map(|n| json!([n, 1_200_000])).collect();
    let answers = server.lines("/functions/patient?timeout=60000", &rows);
    assert_eq!(answers, (40..42).map(|n| json!({ "result": n })).collect::<Vec<_>>());
}

/// The command without a server does the same.
#[test]
fn call_does_the_same_for_the_lines_of_stdin() {
    let _watchdog = Watchdog::start();
    let plugin = Ledger::new();
    let root = scratch();
    let options = root.path().join("options.toml");
    std::fs::write(&options, "[ledger.functions.meet]\nprocesses = 2\n[ledger.functions.patient]\ntimeout = '1s'\n")
        .unwrap();
    let call = |words: &[&str], rows: &str| {
        let mut command = Command::new(tools::ekuiper_plugin());
        command.arg("call").arg(plugin.folder()).args(words).arg("--plugin-options").arg(&options);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(rows.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), stdout, stderr)
    };
    let both = root.path().join("both");
    std::fs::create_dir(&both).unwrap();
    let (code, printed, said) = call(&["meet", "-"], &format!("{}\n", json!([both, 2])).repeat(20));
    assert_eq!((code, printed.lines().count()), (Some(0), 20), "{said}");

    let rows = "[1, 0]\n[2, 60000000]\n[3, 0]\n";
    let (code, printed, said) = call(&["patient", "-"], rows);
    assert_eq!((code, printed.as_str()), (Some(1), "1\n3\n"), "{said}");
    assert!(said.contains("line 2: ") && said.contains("within 1s"), "{said}");
    let (code, printed, said) = call(&["patient", "1", "60000000"], "");
    assert_eq!((code, printed.as_str()), (Some(1), ""), "{said}");
    assert!(said.contains("within 1s"), "{said}");
}

/// A version that declares nothing is called in one process again.
#[test]
fn an_update_changes_what_is_declared() {
    let _watchdog = Watchdog::start();
    let server = Server::start("");
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return;
    }
    let both = server.folder("both");
    let rows: Vec<_> = (0..4).map(|_| json!([both, 2])).collect();
    let answers = server.lines("/functions/meet", &rows);
    assert!(answers.iter().all(|answer| answer["result"].is_u64()), "{answers:?}");
    assert!(server.members() >= 1);
    let plain = tools::ledger();
    // The same program, which says nothing of its functions.
    let silent = server.root.path().join("silent");
    std::fs::write(&silent, packages::script("export LEDGER_SILENT=1", plain)).unwrap();
    std::fs::set_permissions(&silent, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(server.install("PUT", "/plugins/portables/ledger", "v2", &silent).0, 200);
    // Long before they would end because nobody calls them.
    let updated = Instant::now();
    wait_until("its further processes end", || server.members() == 0);
    assert!(updated.elapsed() < Duration::from_secs(45), "{:?}", updated.elapsed());
    let alone = server.folder("alone");
    let answers = server.lines("/functions/meet", &vec![json!([alone, 1]); 100]);
    assert_eq!(answers.iter().map(|answer| answer["result"].as_u64()).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(server.members(), 0);
}
