//! The view of `run`, on a real terminal: a pseudo-terminal of Python's.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::path::Path;
use std::process::Command;

use support::{Bench, speaker};

/// Runs a command on a terminal of its own, and does in turn what each step
/// says: waits for a text on the screen, or types or signals one. Prints what
/// came to the terminal, the last screen of the view, whether the terminal's
/// settings are as they were, and the exit code.
const TERMINAL: &str = r#"
import codecs, fcntl, json, os, pty, re, select, signal, struct, sys, termios, time
steps, env, argv = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
pid, master = pty.fork()
if pid == 0:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # The command is started once the terminal has its size.
    sys.stdin.readline()
    os.execvpe(argv[0], argv, {**os.environ, **env})
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
before = termios.tcgetattr(master)
os.write(master, b"\n")
seen, deadline = b"", time.monotonic() + 100
# The screen: the view writes text and moves the cursor, and other sequences
# change the look only.
decoder, pending, cells, row, column, view = codecs.getincrementaldecoder("utf-8")(), "", {}, 0, 0, ""
def screen():
    lines = ["".join(cells.get((y, x), " ") for x in range(120)).rstrip() for y in range(30)]
    return "\n".join(lines)
def show(piece):
    global pending, row, column, view
    pending += decoder.decode(piece)
    while pending:
        sequence = re.match(r"\x1b\[([0-9;?]*)([A-Za-z])", pending)
        if sequence:
            numbers, letter = sequence.groups()
            if letter == "H":
                row, column = (int(number) - 1 for number in (numbers or "1;1").split(";"))
            elif (numbers, letter) == ("?1049", "l"):
                view = screen()
                cells.clear()
            elif (numbers, letter) == ("?1049", "h"):
                cells.clear()
            pending = pending[sequence.end():]
        elif re.match(r"\x1b(\[[0-9;?]*)?$", pending):
            break
        else:
            letter, pending = pending[0], pending[1:]
            if letter == "\n":
                row += 1
            elif letter == "\r":
                column = 0
            else:
                cells[row, column] = letter
                column += 1
def read():
    global seen
    if time.monotonic() > deadline:
        os.kill(pid, signal.SIGKILL)
        sys.exit("it takes too long, and has shown %r" % seen)
    if select.select([master], [], [], 0.1)[0]:
        try:
            piece = os.read(master, 65536)
        except OSError:
            piece = b""
        seen += piece
        show(piece)
        return bool(piece)
    return True
for kind, text in steps:
    if kind == "await":
        while text not in screen():
            if not read(): sys.exit("it has ended without %r: %r" % (text, seen))
    elif kind == "type":
        try:
            os.write(master, text.encode())
        except OSError:
            pass # It has ended.
    elif kind == "hang up":
        os.close(master)
        status = os.waitpid(pid, 0)[1]
        print("\nVIEW\nSETTINGS gone EXIT", os.waitstatus_to_exitcode(status))
        sys.exit()
    elif kind == "signal":
        os.kill(pid, getattr(signal, text))
ended = False
while not ended:
    ended = not read()
    try:
        after = termios.tcgetattr(master)
    except termios.error:
        pass
    done, status = os.waitpid(pid, 0 if ended else os.WNOHANG)
    if done:
        ended = True
        after = termios.tcgetattr(master)
        while select.select([master], [], [], 0)[0] and read(): pass
sys.stdout.buffer.write(seen)
sys.stdout.flush()
print("\nVIEW\n" + view)
print("SETTINGS", "same" if after == before else "changed", "EXIT", os.waitstatus_to_exitcode(status))
"#;

/// A source without an end, a sink that says how many rows it has, and a
/// function.
const PLUGIN: &str = r#"
rows = 0
def source(push):
    number = 0
    while not stopped.is_set():
        number += 1
        push(b'{"message":{"a":%d}}' % number)
        time.sleep(0.01)
def row(data):
    global rows
    rows += 1
    if rows == 3: print("three rows\x1b[2J", flush=True)
def call(request):
    if b'Validate' in request: return b'{"state":true,"result":""}'
    return b'{"state":true,"result":1}'
"#;

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

fn pipeline(bench: &Bench, plugin: &Path, sink: &str) -> String {
    let file = bench.path().join("p.toml");
    let text = format!(
        "plugins = ['{}']\n[source]\nsymbol = 's'\n[[function]]\nsymbol = 'f'\nargs = ['a']\noutput = 'b'\n{sink}",
        plugin.display()
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Runs the pipeline on a terminal.
fn on_terminal(bench: &Bench, sink: &str, options: &[&str], env: &str, steps: &[(&str, &str)]) -> Shown {
    let plugin = speaker(bench, "b'handshake'", PLUGIN);
    let file = pipeline(bench, &plugin, sink);
    let mut command = Command::new("python3");
    command.args(["-c", TERMINAL, &serde_json::to_string(steps).unwrap(), env]);
    command.args([env!("CARGO_BIN_EXE_ekuiper-plugin"), "run", &file]).args(options);
    command.env("TMPDIR", bench.path().join("tmp")).env("TERM", "xterm-256color").env_remove("NO_COLOR");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let (rest, outcome) = text.rsplit_once("SETTINGS ").unwrap();
    let (sent, view) = rest.rsplit_once("\nVIEW\n").unwrap();
    Shown { sent: sent.to_owned(), view: view.to_owned(), outcome: outcome.trim().to_owned() }
}

/// What a command has shown on its terminal.
#[derive(Debug)]
struct Shown {
    /// All that came to the terminal.
    sent: String,
    /// The last screen of the view.
    view: String,
    /// Whether the settings are the same, and the exit code.
    outcome: String,
}

const SINK: &str = "[sink]\nsymbol = 'k'\n";

impl Shown {
    /// What was left on the ordinary screen.
    fn after_the_view(&self) -> &str {
        assert_eq!(self.sent.matches(ENTER).count(), 1, "{self:?}");
        self.sent.rsplit_once(LEAVE).unwrap_or_else(|| panic!("the view does not end: {self:?}")).1
    }
}

#[test]
fn the_view_shows_the_pipeline_and_each_way_to_end_it_restores_the_terminal() {
    let ends = [("type", "q"), ("type", "\u{3}"), ("signal", "SIGTERM"), ("signal", "SIGINT"), ("signal", "SIGHUP")];
    for end in ends {
        let bench = Bench::new();
        let seen = ["running", "MiB", "µs", "three rows", "█"].map(|part| ("await", part));
        let steps = [&seen[..], &[end]].concat();
        let shown = on_terminal(&bench, SINK, &[], "{}", &steps);
        for part in ["source", "function", "sink", "per second", "delivered", "messages"] {
            assert!(shown.view.contains(part), "{part}: {}", shown.view);
        }
        assert!(shown.view.contains("] three rows\\u{1b}[2J\n"), "{}", shown.view);
        let rest = shown.after_the_view();
        assert!(rest.contains("{\"acked\":0,") && rest.trim_end().ends_with('}'), "{end:?}: {rest:?}");
        assert_eq!(shown.outcome, "same EXIT 130", "{end:?}: {rest:?}");
        bench.assert_nothing_is_left();
    }
}

#[test]
fn rows_for_stdout_are_in_the_view() {
    let bench = Bench::new();
    let shown = on_terminal(&bench, "", &[], "{}", &[("await", "\"b\":1}"), ("type", "q")]);
    assert!(shown.view.contains("rows for stdout"), "{}", shown.view);
    // The last of them are there afterwards.
    let rows = shown.after_the_view().matches("{\"a\":").count();
    assert!((1..=10).contains(&rows), "{shown:?}");
    assert_eq!(shown.outcome, "same EXIT 130");
}

#[test]
fn without_a_view_the_terminal_has_the_rows() {
    for (options, env) in [(&["--no-view"][..], "{}"), (&[], r#"{"TERM":"dumb"}"#)] {
        let bench = Bench::new();
        let shown = on_terminal(&bench, "", options, env, &[("await", "{\"a\":3,\"b\":1}"), ("signal", "SIGINT")]);
        assert!(!shown.sent.contains(ENTER), "{shown:?}");
        assert_eq!(shown.outcome, "same EXIT 130");
    }
}

#[test]
fn no_color_is_respected() {
    for (env, is_colored) in [("{}", true), (r#"{"NO_COLOR":"1"}"#, false)] {
        let bench = Bench::new();
        let shown = on_terminal(&bench, SINK, &[], env, &[("await", "three rows"), ("type", "q")]);
        assert_eq!(shown.sent.contains("\u{1b}[38;5;"), is_colored, "{shown:?}");
    }
}

#[test]
fn a_failure_is_told_on_the_ordinary_screen() {
    let bench = Bench::new();
    // Its rows have no such field.
    let sink = "[[function]]\nsymbol = 'f'\nargs = ['missing']\noutput = 'c'\n";
    let shown = on_terminal(&bench, sink, &["--max-errors", "3"], "{}", &[]);
    let rest = shown.after_the_view();
    assert!(rest.contains("ekuiper-plugin: row 1 has no field missing, which function f takes"), "{rest:?}");
    assert!(rest.trim_end().contains("ekuiper-plugin: 3 consecutive errors without a row in between"), "{rest:?}");
    assert_eq!(shown.outcome, "same EXIT 1");
    bench.assert_nothing_is_left();
}

#[test]
fn a_second_signal_ends_it_at_once_and_restores_the_terminal() {
    let bench = Bench::new();
    // The rows that it has taken are waited for, until the second signal.
    let steps = [("await", "three rows"), ("type", "q"), ("type", "q"), ("signal", "SIGTERM")];
    let shown = on_terminal(&bench, SINK, &[], "{}", &steps);
    shown.after_the_view();
    assert_eq!(shown.outcome, "same EXIT 130");
    bench.assert_nothing_is_left();
}

#[test]
fn it_ends_when_its_terminal_goes_away() {
    let bench = Bench::new();
    let shown = on_terminal(&bench, SINK, &[], "{}", &[("await", "three rows"), ("hang up", "")]);
    assert_eq!(shown.outcome, "gone EXIT 130");
    bench.assert_nothing_is_left();
}
