//! Supervised plugins: the cost of a crash, and the shutdown.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use ekuiper_core::message::{self, CallKind, CommandKind, Control, Meta};
use ekuiper_core::transport::{Endpoint, Options, Pull, Push, Transport, TransportError};
use ekuiper_transport_uds::UdsTransport;
use rustix::process::Signal;
use serde_json::{Value, json};

use support::build::unruly;
use support::channels::encoded;
use support::plugin::meta;
use support::processes::{freeze, lives, private_dirty, signal};
use support::{Asked, Channel, Plugin, drain, journal, soon, wait_until, watchdog};

/// The next message, of any connection.
fn next(pull: &dyn Pull) -> Value {
    loop {
        if let Some(message) = drain(pull) {
            return message;
        }
    }
}

/// The first message of a source that has started over.
fn begins(pull: &dyn Pull) -> Value {
    loop {
        let tuple = next(pull);
        if tuple["message"]["n"] == 0 {
            return tuple;
        }
    }
}

/// A running function, source and sink, and the engine's ends of their channels.
struct Busy {
    echo: Channel,
    tuples: Box<dyn Pull>,
    rows: Box<dyn Push>,
    acks: Box<dyn Pull>,
    journal: PathBuf,
}

impl Busy {
    fn start(plugin: &mut Plugin) -> Self {
        let journal = plugin.file("journal");
        let config = |name: &str| json!({ "journal": journal, "name": name, "requireAck": true });
        let echo = plugin.start_function("echo");
        let (rows, acks, answer) = plugin.start_sink("journal", &meta("r1", "out"), config("sink"));
        assert_eq!(answer, "ok");
        let (tuples, answer) = plugin.start_source("counter", &meta("r1", "in"), config("source"));
        assert_eq!(answer, "ok");
        let mut busy = Self { echo, tuples, rows, acks, journal };
        begins(&*busy.tuples);
        busy.assert_serves();
        busy
    }

    fn assert_serves(&mut self) {
        assert_eq!(self.echo.call(CallKind::Exec, &json!([1])), Ok(json!(1)));
        assert!(next(&*self.tuples)["message"]["n"].is_u64());
        assert_eq!(self.ask(json!({ "n": 1 })), json!({}));
    }

    /// Sends a row and returns its ack.
    fn ask(&self, row: Value) -> Value {
        self.rows.send(row.to_string().as_bytes(), soon()).unwrap();
        next(&*self.acks)
    }

    /// Waits until a new worker has restored all symbols.
    fn comes_back(&mut self) {
        self.echo.greeted_again();
        begins(&*self.tuples);
        self.assert_serves();
    }
}

fn start(control: Control) -> Vec<u8> {
    message::Command { kind: CommandKind::Start, control }.encode().unwrap()
}

fn source(symbol: &str, meta: &Meta, config: Value) -> Control {
    Control::source(symbol, meta.clone(), "topic", config.as_object().unwrap().clone())
}

#[test]
fn a_killed_worker_comes_back_with_all_that_is_live() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let mut busy = Busy::start(&mut plugin);
    for _ in 0..3 {
        let former = plugin.kill_worker();
        let begin = Instant::now();
        busy.comes_back();
        println!("all symbols are back after {:?}", begin.elapsed());
        assert_ne!(plugin.worker(), former);
        assert_eq!(plugin.zombies(), 0);
    }
    plugin.assert_alive();
    assert_eq!(plugin.control.handshakes, 1, "the engine sees nothing of it on the control channel");
    assert_eq!(journal(&busy.journal).iter().filter(|line| *line == "source open").count(), 4);
    plugin.log.wait_for(&["the worker has ended", "SIGKILL"]);
}

#[test]
fn what_was_stopped_or_has_ended_stays_so() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let journal_of = |name: &str| json!({ "journal": plugin.folder.path().join(name) });
    let (ended, stopped, live) = (journal_of("ended"), journal_of("stopped"), journal_of("live"));
    // It ends by itself.
    let (reports, answer) = plugin.start_source("reporter", &meta("r1", "ends"), ended);
    assert_eq!(answer, "ok");
    while drain(&*reports).is_some() {}
    let (_pull, answer) = plugin.start_source("counter", &meta("r1", "stops"), stopped);
    assert_eq!((answer.as_str(), plugin.stop_source("counter", &meta("r1", "stops")).as_str()), ("ok", "ok"));
    let (tuples, answer) = plugin.start_source("counter", &meta("r1", "lives"), live);
    assert_eq!(answer, "ok");
    begins(&*tuples);
    plugin.kill_worker();
    // It was started last.
    begins(&*tuples);
    assert!(matches!(reports.receive(&mut Vec::new(), Some(Instant::now())), Err(TransportError::Timeout)));
    let opened = |name| journal(&plugin.file(name)).iter().filter(|line| *line == "open").count();
    assert_eq!((opened("stopped"), opened("live")), (1, 2));
}

#[test]
fn a_poisonous_call_costs_one_crash() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let mut busy = Busy::start(&mut plugin);
    let mut lethal = plugin.start_function("lethal");
    let file = plugin.file("executed");
    let call = encoded(CallKind::Exec, &json!([file, 1]));
    let (answer, again) = lethal.call_stock(&call);
    let error = answer.unwrap_err();
    assert!(error.starts_with("outcome unknown"), "{error}");
    assert_eq!((again, journal(&file).len()), (1, 1), "it was sent again, and not executed again");
    busy.comes_back();
    // The next call of the same text is another call.
    assert_eq!(lethal.call_stock(&call), (Ok(json!(2)), 0));
    plugin.log.wait_for(&["the worker has ended", "SIGABRT"]);
}

#[test]
fn an_idempotent_call_is_executed_once_more() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let mut lethal = plugin.start_function("lethal_twice");
    let file = plugin.file("once");
    assert_eq!(lethal.call_stock(&encoded(CallKind::Exec, &json!([file, 1]))), (Ok(json!(2)), 1));
    let file = plugin.file("always");
    let (answer, again) = lethal.call_stock(&encoded(CallKind::Exec, &json!([file, 99])));
    assert!(answer.unwrap_err().starts_with("outcome unknown"));
    assert_eq!((again, journal(&file).len()), (2, 2));
}

#[test]
fn a_message_that_kills_is_acknowledged_as_failed() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let mut busy = Busy::start(&mut plugin);
    let ack = busy.ask(json!({ "n": 2, "abort": true }));
    assert!(ack["error"].as_str().unwrap().starts_with("outcome unknown"), "{ack}");
    busy.comes_back();
    let rows = |word| journal(&busy.journal).iter().filter(|line| *line == word).count();
    assert_eq!((rows("sink row 2"), rows("sink row 1")), (1, 2));
}

#[test]
fn a_message_that_nobody_has_read_is_acknowledged_as_failed() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let mut busy = Busy::start(&mut plugin);
    freeze(plugin.worker());
    busy.rows.send(br#"{"n":2}"#, soon()).unwrap();
    plugin.kill_worker();
    let ack = next(&*busy.acks);
    assert!(ack["error"].as_str().unwrap().starts_with("outcome unknown"), "{ack}");
    // And once only: this one's ack is its own.
    busy.comes_back();
    assert!(!journal(&busy.journal).contains(&"sink row 2".into()));
}

#[test]
fn a_start_that_kills_is_refused_and_not_repeated() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let mut busy = Busy::start(&mut plugin);
    let (_pull, answer) = plugin.start_source("counter", &meta("r2", "in"), json!({ "abort_in": "configure" }));
    assert!(answer.contains("worker ended") && answer.contains("start of source counter (r2/in/0)"), "{answer}");
    busy.comes_back();
    // A sink listens before its `open`.
    let (_push, _acks, answer) = plugin.start_sink("journal", &meta("r2", "out"), json!({ "abort_in": "open" }));
    assert!(answer.contains("start of sink journal (r2/out/0)"), "{answer}");
    busy.comes_back();
    assert!(!plugin.sockets().data(&meta("r2", "out")).unwrap().path().exists(), "its socket is left");
    plugin.assert_alive();
}

#[test]
fn a_crash_loop_ends_the_guard() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let _busy = Busy::start(&mut plugin);
    let from_now_on = plugin.file("from_now_on");
    let config = json!({ "abort_in": "open", "release": from_now_on });
    let (_pull, answer) = plugin.start_source("counter", &meta("r2", "in"), config);
    assert_eq!(answer, "ok");
    support::plugin::release(&from_now_on);
    plugin.kill_worker();
    assert_eq!(plugin.exit().code(), Some(1));
    plugin.log.wait_for(&["plugin unruly: its worker has crashed 5 times within 60s", "SIGABRT", "not started again"]);
    assert!(!plugin.sockets().data(&meta("r1", "out")).unwrap().path().exists(), "the sink's socket is left");
}

#[test]
fn a_message_that_the_last_worker_died_with_is_acknowledged_as_failed() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let mut busy = Busy::start(&mut plugin);
    for _ in 1..5 {
        plugin.kill_worker();
        busy.comes_back();
    }
    let ack = busy.ask(json!({ "n": 2, "abort": true }));
    assert!(ack["error"].as_str().unwrap().starts_with("outcome unknown"), "{ack}");
    assert_eq!(plugin.exit().code(), Some(1));
}

/// An update kills the supervisor and starts the next one immediately, while the
/// sink still has messages to collect.
#[test]
fn the_next_guard_starts_the_sink_while_the_former_worker_collects() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let meta = meta("r1", "out");
    let release = plugin.file("release");
    let config = json!({ "journal": plugin.file("journal"), "name": "former", "hang_in": "row 1", "release": release });
    let (rows, _acks, answer) = plugin.start_sink("journal", &meta, config);
    assert_eq!(answer, "ok");
    (0..3).for_each(|n| rows.send(format!("{{\"n\":{n}}}").as_bytes(), soon()).unwrap());
    wait_until("the sink is busy", || journal(&plugin.file("journal")).contains(&"former row 0".into()));
    let worker = plugin.worker();
    plugin.signal(Signal::KILL);
    plugin.exit();
    let mut next = plugin.next(&[("UNRULY_SUPERVISED", "1")]);
    let start = |plugin: &mut Plugin| {
        let config = json!({ "journal": plugin.file("journal"), "name": "next" });
        plugin.command(CommandKind::Start, Control::sink("journal", meta.clone(), config.as_object().unwrap().clone()))
    };
    assert_eq!(start(&mut next), "ok", "{}", next.log.text());
    support::plugin::release(&release);
    let data = Endpoint::Dial(next.sockets().data(&meta).unwrap());
    let rows = UdsTransport::new().push(&data, &Options::default()).unwrap();
    rows.send(br#"{"n":7}"#, soon()).unwrap();
    wait_until("the next one collects", || journal(&next.file("journal")).contains(&"next row 7".into()));
    wait_until("the former worker ends", || !lives(worker));
}

/// The engine waits for each acknowledgement for ever: only the worker of a killed
/// supervisor can send it.
#[test]
fn the_worker_of_a_killed_guard_acknowledges_as_failed_what_it_gives_up() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let config = json!({
        "journal": plugin.file("journal"), "name": "sink", "requireAck": true, "hang_in": "row 1",
        "release": plugin.file("never"),
    });
    let (rows, acks, answer) = plugin.start_sink("journal", &meta("r1", "out"), config);
    assert_eq!(answer, "ok");
    rows.send(br#"{"n":0}"#, soon()).unwrap();
    assert_eq!(next(&*acks), json!({}));
    [r#"{"n":1}"#, r#"{"n":2}"#].iter().for_each(|row| rows.send(row.as_bytes(), soon()).unwrap());
    wait_until("the sink is busy", || journal(&plugin.file("journal")).contains(&"sink row 1".into()));
    let worker = plugin.worker();
    plugin.signal(Signal::KILL);
    let reasons = [next(&*acks), next(&*acks)].map(|ack| ack["error"].as_str().unwrap().to_owned());
    assert!(reasons[0].starts_with("outcome unknown"), "{reasons:?}");
    assert!(reasons[1].starts_with("not collected"), "{reasons:?}");
    wait_until("the worker ends", || !lives(worker));
}

/// Each acknowledgement is in the account by itself, whatever the engine asks.
#[test]
fn a_supervised_sink_counts_no_acknowledgements() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let (sockets, rule) = (plugin.sockets(), meta("r1", "out"));
    let ack = Endpoint::Listen(sockets.ack(&rule).unwrap());
    let acks = UdsTransport::new().pull(&ack, &Options::default()).unwrap();
    let config = json!({ "requireAck": true }).as_object().unwrap().clone();
    let control = Control::sink("journal", rule.clone(), config).with_ack_counts(true);
    assert_eq!(plugin.command(CommandKind::Start, control), "ok");
    let data = Endpoint::Dial(sockets.data(&rule).unwrap());
    let rows = UdsTransport::new().push(&data, &Options::default()).unwrap();
    for n in 0..3 {
        rows.send(json!({ "n": n }).to_string().as_bytes(), soon()).unwrap();
        assert_eq!(next(&*acks), json!({}));
    }
}

/// An unsupervised plugin acknowledges as failed when it is stopped by a signal.
#[test]
fn a_plugin_without_a_guard_acknowledges_as_failed_what_it_gives_up() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let config = json!({
        "journal": plugin.file("journal"), "name": "sink", "requireAck": true, "hang_in": "row 0",
        "release": plugin.file("never"),
    });
    let (rows, acks, answer) = plugin.start_sink("journal", &meta("r1", "out"), config);
    assert_eq!(answer, "ok");
    rows.send(br#"{"n":0}"#, soon()).unwrap();
    wait_until("the sink is busy", || journal(&plugin.file("journal")).contains(&"sink row 0".into()));
    plugin.signal(Signal::TERM);
    let ack = next(&*acks);
    assert!(ack["error"].as_str().unwrap().starts_with("outcome unknown"), "{ack}");
    assert_eq!(plugin.exit().code(), Some(0));
}

#[test]
fn an_engine_that_waits_is_told_that_the_guard_gives_up() {
    let _watchdog = watchdog();
    let folder = tempfile::tempdir().unwrap();
    let hold = folder.path().join("hold");
    let mut plugin = Plugin::supervised(&[("UNRULY_HOLD", hold.to_str().unwrap())]);
    let _busy = Busy::start(&mut plugin);
    std::fs::write(&hold, "").unwrap();
    plugin.kill_worker();
    plugin.control.send(&start(source("counter", &meta("r2", "in"), json!({}))));
    for _ in 1..5 {
        plugin.kill_worker();
    }
    let Asked::Request(answer) = plugin.control.next() else { panic!("the engine waits in vain") };
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("the plugin is shutting down: its worker has crashed 5 times"), "{answer}");
    assert_eq!(plugin.exit().code(), Some(1));
}

#[test]
fn a_worker_that_cannot_begin_ends_the_guard() {
    let _watchdog = watchdog();
    let folder = tempfile::tempdir().unwrap();
    let launch = json!({ "ipcDir": folder.path() }).to_string();
    let mut command = Command::new(unruly());
    command.arg(launch).env("UNRULY_SUPERVISED", "1").env("UNRULY_STILLBORN", "3");
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let text = "plugin unruly: its worker ended before it was ready (exit status: 3)";
    assert!(stderr.lines().any(|line| line == text), "{stderr}");
}

#[test]
fn while_there_is_no_worker_stops_are_carried_out_and_starts_wait() {
    let _watchdog = watchdog();
    let folder = tempfile::tempdir().unwrap();
    let hold = folder.path().join("hold");
    let mut plugin = Plugin::supervised(&[("UNRULY_HOLD", hold.to_str().unwrap())]);
    let busy = Busy::start(&mut plugin);
    let data = plugin.sockets().data(&meta("r1", "out")).unwrap();
    std::fs::write(&hold, "").unwrap();
    plugin.kill_worker();
    assert!(data.path().exists());
    assert_eq!(plugin.stop_source("counter", &meta("r1", "in")), "ok");
    assert_eq!(plugin.stop_sink("journal", &meta("r1", "out")), "ok");
    assert!(!data.path().exists(), "the dead worker's socket is left");
    let Busy { mut echo, journal: file, .. } = busy;
    let config = json!({ "journal": file, "name": "late" });
    let late = Endpoint::Listen(plugin.sockets().data(&meta("r1", "late")).unwrap());
    let _tuples = UdsTransport::new().pull(&late, &Options::default()).unwrap();
    plugin.control.send(&start(source("counter", &meta("r1", "late"), config)));
    assert!(plugin.control.is_silent_for(std::time::Duration::from_millis(100)));
    std::fs::remove_file(&hold).unwrap();
    assert_eq!(plugin.control.next(), Asked::Request(b"ok".to_vec()));
    echo.greeted_again();
    wait_until("the late source opens", || journal(&file).contains(&"late open".into()));
    assert_eq!(journal(&file).iter().filter(|line| *line == "source open" || *line == "sink open").count(), 2);
}

#[test]
fn a_worker_that_hangs_as_a_whole_is_replaced() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[("UNRULY_START", "100"), ("UNRULY_STOP", "100")]);
    let mut busy = Busy::start(&mut plugin);
    freeze(plugin.worker());
    let (_pull, answer) = plugin.start_source("counter", &meta("r2", "in"), json!({}));
    assert!(answer.contains("worker ended"), "{answer}");
    busy.comes_back();
}

#[test]
fn the_guards_memory_is_small() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let mut busy = Busy::start(&mut plugin);
    plugin.kill_worker();
    busy.comes_back();
    let (supervisor, worker) = (private_dirty(plugin.supervisor()), private_dirty(plugin.worker()));
    println!("private memory: supervisor {supervisor} KiB, worker {worker} KiB");
    assert!(supervisor < 1024, "{supervisor} KiB");
}

/// Waits for the end of a plugin's worker, and asserts that it was orderly.
fn assert_ended(plugin: &Plugin, worker: i32, file: &std::path::Path) {
    wait_until("the worker ends", || !lives(worker));
    let lines = journal(file);
    let at = |line: &str| lines.iter().position(|other| other == line).unwrap_or_else(|| panic!("{line}: {lines:?}"));
    assert!(at("source close") < at("sink close"), "{lines:?}");
    assert!(!plugin.sockets().data(&meta("r1", "out")).unwrap().path().exists(), "{:?}", plugin.socket_files());
}

#[test]
fn the_worker_ends_with_a_killed_guard() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let busy = Busy::start(&mut plugin);
    let worker = plugin.worker();
    plugin.signal(Signal::KILL);
    plugin.exit();
    assert_ended(&plugin, worker, &busy.journal);
}

#[test]
fn a_stopped_worker_does_not_outlive_its_guard() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let _busy = Busy::start(&mut plugin);
    let worker = plugin.worker();
    freeze(worker);
    plugin.signal(Signal::TERM);
    plugin.assert_exit_0();
    assert!(!lives(worker));
    assert!(!plugin.sockets().data(&meta("r1", "out")).unwrap().path().exists(), "{:?}", plugin.socket_files());
}

#[test]
fn sigterm_and_ctrl_c_end_both_in_order() {
    let _watchdog = watchdog();
    for (ending, both) in [(Signal::TERM, false), (Signal::INT, false), (Signal::TERM, true)] {
        let mut plugin = Plugin::supervised(&[]);
        let busy = Busy::start(&mut plugin);
        let worker = plugin.worker();
        plugin.signal(ending);
        if both {
            // As a host does, which signals the whole group.
            signal(worker, ending);
        }
        plugin.assert_exit_0();
        assert_ended(&plugin, worker, &busy.journal);
    }
}

#[test]
fn a_worker_that_is_told_to_end_by_itself_does_so_in_order_and_comes_back() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::supervised(&[]);
    let mut busy = Busy::start(&mut plugin);
    signal(plugin.worker(), Signal::TERM);
    busy.comes_back();
    assert!(journal(&busy.journal).contains(&"sink close".into()));
    plugin.log.wait_for(&["the worker has ended (exit status: 0)"]);
}

#[test]
fn sigterm_ends_a_guard_that_waits_for_its_next_worker() {
    let _watchdog = watchdog();
    let folder = tempfile::tempdir().unwrap();
    let hold = folder.path().join("hold");
    let mut plugin = Plugin::supervised(&[("UNRULY_HOLD", hold.to_str().unwrap())]);
    let _busy = Busy::start(&mut plugin);
    std::fs::write(&hold, "").unwrap();
    let former = plugin.kill_worker();
    let worker = plugin.worker();
    assert_ne!(worker, former);
    plugin.signal(Signal::TERM);
    plugin.assert_exit_0();
    assert!(!lives(worker));
    assert!(!plugin.sockets().data(&meta("r1", "out")).unwrap().path().exists(), "{:?}", plugin.socket_files());
}

#[test]
fn both_end_with_their_engine() {
    let _watchdog = watchdog();
    // Its channel is gone.
    let mut plugin = Plugin::supervised(&[("UNRULY_ABSENCE", "300")]);
    let busy = Busy::start(&mut plugin);
    let worker = plugin.worker();
    plugin.control.reply.close();
    plugin.assert_exit_0();
    assert_ended(&plugin, worker, &busy.journal);

    // Its process is gone; this test goes on serving the channel.
    let mut plugin = Plugin::start_as(&[("UNRULY_SUPERVISED", "1")], |launch| {
        let mut command = Command::new("sh");
        command.args(["-c", r#""$0" "$1" & echo "child $!" >&2; wait"#]).arg(unruly()).arg(launch);
        command
    });
    let supervisor = plugin.log.wait_for(&["child "]).strip_prefix("child ").unwrap().parse().unwrap();
    let busy = Busy::start(&mut plugin);
    plugin.child.kill().unwrap();
    plugin.child.wait().unwrap();
    assert_eq!(plugin.control.next(), Asked::Gone);
    wait_until("the supervisor ends", || !lives(supervisor));
    assert_ended(&plugin, 0, &busy.journal);
}

/// A supervisor that is the first process of a container reaps orphans.
#[test]
fn a_guard_that_adopts_orphans_reaps_them_and_knows_how_its_worker_ended() {
    let _watchdog = watchdog();
    let options: &[&str] = match rustix::process::getuid().is_root() {
        true => &["-pf", "--mount-proc", "--kill-child"],
        false => &["-rpf", "--mount-proc", "--kill-child"],
    };
    if !Command::new("unshare").args(options).arg("true").output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: this user can have no namespace of processes");
        return;
    }
    let mut plugin = Plugin::start_as(&[("UNRULY_SUPERVISED", "1")], |launch| {
        let mut command = Command::new("unshare");
        command.args(options).args(["sh", "-c", r#"(sleep 0 &) ; exec "$0" "$1""#]).arg(unruly()).arg(launch);
        command
    });
    let mut busy = Busy::start(&mut plugin);
    let children = |pid: u32| -> Vec<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let lists =
            tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
        lists.collect::<String>().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    };
    let supervisor = children(plugin.child.id())[0];
    wait_until("its worker is its only child", || children(supervisor).len() == 1);
    let worker = i32::try_from(children(supervisor)[0]).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
    plugin.log.wait_for(&["the worker has ended (signal: 9 (SIGKILL))"]);
    busy.comes_back();
    wait_until("its next worker is its only child", || children(supervisor).len() == 1);
}

#[test]
fn a_host_that_supervises_needs_no_guard() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start_as(&[("UNRULY_SUPERVISED", "1")], |launch| {
        let mut launch: Value = serde_json::from_str(launch).unwrap();
        launch["supervises"] = true.into();
        let mut command = Command::new(unruly());
        command.arg(launch.to_string());
        command
    });
    let _busy = Busy::start(&mut plugin);
    assert_eq!(plugin.workers(), [] as [i32; 0]);
    plugin.signal(Signal::TERM);
    plugin.assert_exit_0();
}

#[test]
fn a_supervised_plugin_says_what_is_wrong_like_any_other() {
    let _watchdog = watchdog();
    let output = Command::new(unruly()).arg("--help").env("UNRULY_SUPERVISED", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let launch = json!({ "ipcDir": format!("/{}", "x".repeat(200)) }).to_string();
    let output = Command::new(unruly()).arg(launch).env("UNRULY_SUPERVISED", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("shorter socket folder"));
}
