//! What a plugin writes, as the engine's log has it.
#![allow(clippy::unwrap_used)] // these are tests, helpers included

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use ekuiper_host::{Host, HostBuilder, LogLevel, LogLine};
use support::logged::Logged;
use support::{Stage, wait_until};

/// The lines that the host has passed on.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<LogLine>>>);

impl Lines {
    fn of(builder: HostBuilder) -> (Self, HostBuilder) {
        let lines = Self::default();
        let own = lines.clone();
        (lines, builder.on_log_line(move |line| own.0.lock().unwrap().push(line.clone())))
    }

    fn all(&self) -> Vec<(LogLevel, String)> {
        self.0.lock().unwrap().iter().map(|line| (line.level, line.text.clone())).collect()
    }

    /// Returns the number of a plugin's own lines, and of those left out.
    fn counts(&self) -> (u64, u64) {
        let (mut passed, mut left_out) = (0, 0);
        for (level, text) in self.all() {
            match text.strip_suffix(" lines left out").or_else(|| text.strip_suffix(" line left out")) {
                Some(count) => {
                    assert_eq!(level, LogLevel::Warn);
                    left_out += count.replace(',', "").parse::<u64>().unwrap();
                }
                None => passed += 1,
            }
        }
        (passed, left_out)
    }
}

/// Starts the plugin `p`, which runs a script and then waits. Returns when it
/// has run.
fn start(stage: &Stage, script: &str, builder: HostBuilder) -> (Host, support::Puppet) {
    let folder = stage.script("p", &["f"], &format!("{script}\n: > \"$0.done\"\nexec sleep 1000"));
    let host = builder.plugin(folder).build().unwrap();
    let control = stage.start(&host);
    wait_until("the plugin has written everything", || stage.path().join("p/run.done").exists());
    (host, control)
}

#[test]
fn each_line_has_its_level_in_the_log_and_for_listeners() {
    let logged = Logged::at(tracing::Level::WARN);
    tracing::subscriber::set_global_default(logged.clone()).unwrap();
    let stage = Stage::new();
    let script = r#"
echo '2026-11-27T00:33:01.123456Z  WARN mirror: slow'
echo 'ERROR:root:broken' >&2
echo '{"level":"debug","msg":"detail"}'
printf '\033[31mtime="x" level=error\033[0m msg=red\n'
head -c 5000 /dev/zero | tr '\0' x; echo
printf 'forged\rline \033[2J'"#;
    let (lines, builder) = Lines::of(stage.builder());
    let (host, _control) = start(&stage, script, builder);
    let pid = host.pid("p").unwrap();
    host.shutdown();
    // The shutdown has waited for the last line.
    let long = format!("{}… (5,000 bytes)", "x".repeat(4096));
    let expected = [
        (LogLevel::Warn, "2026-11-27T00:33:01.123456Z  WARN mirror: slow"),
        (LogLevel::Error, "ERROR:root:broken"),
        (LogLevel::Debug, r#"{"level":"debug","msg":"detail"}"#),
        (LogLevel::Error, r#"time="x" level=error msg=red"#),
        (LogLevel::Info, &long),
        (LogLevel::Info, r"forged\rline \u{1b}[2J"),
    ];
    assert_eq!(lines.all(), expected.map(|(level, text)| (level, text.to_owned())));
    assert!(lines.0.lock().unwrap().iter().all(|line| line.plugin == "p" && line.pid == pid));
    let in_log = logged.messages();
    for (level, text) in expected {
        assert_eq!(in_log.iter().any(|message| message == text), level <= LogLevel::Warn, "{text}: {in_log:?}");
    }
}

#[test]
fn lines_beyond_the_rate_are_left_out_and_counted() {
    let stage = Stage::new();
    let (lines, builder) = Lines::of(stage.builder().log_rate(10));
    let (host, _control) = start(&stage, "seq 5000", builder);
    // Without any further line, and while the plugin runs.
    wait_until("all is told", || {
        let (passed, left_out) = lines.counts();
        passed + left_out == 5000
    });
    let (passed, left_out) = lines.counts();
    assert!(passed >= 10 && left_out > 0, "{passed} passed, {left_out} left out");
    host.shutdown();
    assert_eq!(lines.counts(), (passed, left_out));
}

/// Blocks whoever waits for it until it is opened.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn pass(&self) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |is_open| !*is_open).unwrap());
    }

    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

#[test]
fn a_log_that_blocks_holds_up_neither_the_plugin_nor_the_host() {
    let stage = Stage::new();
    let (gate, is_blocked) = (Arc::new(Gate::default()), Arc::new(AtomicBool::new(false)));
    let (own, blocks) = (gate.clone(), is_blocked.clone());
    let builder = stage.builder().log_rate(u64::MAX).on_log_line(move |_| {
        blocks.store(true, Ordering::SeqCst);
        own.pass();
    });
    let (lines, builder) = Lines::of(builder);
    // Far more than a pipe and the queue hold together.
    let (host, _control) = start(&stage, "seq 100000", builder);
    assert!(is_blocked.load(Ordering::SeqCst) && lines.all().is_empty());
    host.shutdown();
    gate.open();
    wait_until("all is told", || {
        let (passed, left_out) = lines.counts();
        passed + left_out == 100_000
    });
    assert!(lines.counts().1 > 0);
}

#[test]
fn a_listener_that_panics_costs_nobody_a_line() {
    let stage = Stage::new();
    let (lines, builder) = Lines::of(stage.builder().on_log_line(|line| assert_ne!(line.text, "1")));
    let (host, _control) = start(&stage, "seq 3", builder);
    host.shutdown();
    assert_eq!(lines.all().len(), 3);
}
