//! The plugin as a process: its handshake, its log, and its end.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use ekuiper_core::message::CallKind;
use ekuiper_core::transport::{Endpoint, Options, Transport};
use ekuiper_transport_uds::UdsTransport;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use support::build::unruly;
use support::channels::Channel;
use support::plugin::{meta, release};
use support::{Asked, Plugin, drain, exit_of, journal, soon, wait_until, watchdog};

/// Starts two sources, a sink and a function, each with its journal's name.
fn busy(plugin: &mut Plugin) -> (Vec<Box<dyn std::any::Any>>, std::path::PathBuf) {
    let file = plugin.file("journal");
    let config = |name: &str| json!({ "journal": file, "name": name });
    let mut held: Vec<Box<dyn std::any::Any>> = Vec::new();
    let (push, acks, answer) = plugin.start_sink("journal", &meta("r1", "sink"), config("sink"));
    assert_eq!(answer, "ok");
    held.extend([Box::new(push) as Box<dyn std::any::Any>, Box::new(acks)]);
    for name in ["first", "second"] {
        let (pull, answer) = plugin.start_source("counter", &meta("r1", name), config(name));
        assert_eq!(answer, "ok");
        assert!(drain(&*pull).is_some());
        held.push(Box::new(pull));
    }
    held.push(Box::new(plugin.start_function("echo")));
    (held, file)
}

/// Sources end before the sink does, each in its order.
fn assert_orderly(lines: &[String]) {
    let at = |line: &str| lines.iter().position(|other| other == line).unwrap_or_else(|| panic!("{line}: {lines:?}"));
    for source in ["first", "second"] {
        assert!(at(&format!("{source} open")) < at(&format!("{source} close")));
        assert!(at(&format!("{source} close")) < at("sink close"));
    }
    assert_eq!(lines.iter().filter(|line| line.ends_with(" close")).count(), 3, "{lines:?}");
}

#[test]
fn sigterm_and_ctrl_c_close_all_symbols_in_order() {
    let _watchdog = watchdog();
    for signal in [Signal::TERM, Signal::INT] {
        let mut plugin = Plugin::start(&[]);
        let (_held, file) = busy(&mut plugin);
        plugin.signal(signal);
        plugin.assert_exit_0();
        assert_orderly(&journal(&file));
    }
}

#[test]
fn an_idle_plugin_ends_on_sigterm_too() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    plugin.signal(Signal::TERM);
    plugin.assert_exit_0();
    assert_eq!(plugin.control.next(), Asked::Gone);
}

#[test]
fn sigterm_ends_a_plugin_in_the_middle_of_anything() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let never = plugin.file("never");
    // A source that does not stop, a call that does not return, a sink that
    // does not take its message, and one that can close.
    let hanging = json!({ "hang_in": "open", "release": never });
    let (_tuples, answer) = plugin.start_source("counter", &meta("r1", "stuck"), hanging);
    assert_eq!(answer, "ok");
    let mut slow = plugin.start_function("slow");
    slow.send(&support::channels::encoded(CallKind::Exec, &json!([never])));
    let hanging = json!({ "hang_in": "row 1", "release": never, "journal": plugin.file("stuck") });
    let (push, _acks, answer) = plugin.start_sink("journal", &meta("r1", "stuck_sink"), hanging);
    assert_eq!(answer, "ok");
    push.send(br#"{"n":1}"#, soon()).unwrap();
    let stuck = plugin.file("stuck");
    wait_until("the sink hangs", || journal(&stuck).contains(&"row 1".into()));
    let (_held, file) = busy(&mut plugin);
    // And a start that does not end.
    let hanging = json!({ "hang_in": "configure", "release": never, "journal": plugin.file("starting") });
    let control =
        ekuiper_core::message::Control::sink("journal", meta("r1", "late"), hanging.as_object().unwrap().clone());
    let command = ekuiper_core::message::Command { kind: ekuiper_core::message::CommandKind::Start, control };
    plugin.control.send(&command.encode().unwrap());
    let starting = plugin.file("starting");
    wait_until("the start hangs", || journal(&starting).contains(&"configure".into()));
    plugin.signal(Signal::TERM);
    plugin.assert_exit_0();
    assert_orderly(&journal(&file));
    plugin.log.wait_for(&["command refused", "sink journal (r1/late/0) was not started: the plugin is shutting down"]);
    assert!(!plugin.log.text().contains("did not start within"));
}

#[test]
fn the_death_of_its_parent_ends_it_in_order() {
    let _watchdog = watchdog();
    // The shell is the plugin's parent; this test is not, and goes on serving
    // the control channel. `exec` keeps the stderr of the plugin open here.
    let mut plugin = Plugin::start_as(&[], |launch| {
        let mut command = Command::new("sh");
        command.args(["-c", r#""$0" "$1" & echo "child $!" >&2; wait"#]).arg(unruly()).arg(launch);
        command
    });
    let line = plugin.log.wait_for(&["child "]);
    let pid: i32 = line.strip_prefix("child ").unwrap().parse().unwrap();
    let (_held, file) = busy(&mut plugin);
    plugin.child.kill().unwrap();
    plugin.child.wait().unwrap();
    assert_eq!(plugin.control.next(), Asked::Gone);
    wait_until("the plugin ends", || match kill_process(Pid::from_raw(pid).unwrap(), Signal::CONT) {
        Err(_) => true,
        // An orphan whose new parent does not wait for it stays as a zombie.
        Ok(()) => std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z ")),
    });
    assert_orderly(&journal(&file));
}

#[test]
fn a_plugin_that_ends_tells_how_much_its_sinks_have_not_collected() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let go = plugin.file("go");
    // One hangs in a row, the other only has too much to do.
    let (hanging, _acks, answer) =
        plugin.start_sink("journal", &meta("r1", "hanging"), json!({ "hang_in": "row 1", "release": go }));
    assert_eq!(answer, "ok");
    let (slow, _acks, answer) = plugin.start_sink("journal", &meta("r1", "slow"), json!({}));
    assert_eq!(answer, "ok");
    for n in 0..7 {
        hanging.send(format!("{{\"n\":{n}}}").as_bytes(), soon()).unwrap();
    }
    for n in 0..100 {
        slow.send(format!("{{\"n\":{n},\"pause\":100}}").as_bytes(), soon()).unwrap();
    }
    plugin.signal(Signal::TERM);
    // Row 0 was collected, and row 1 never is.
    plugin.log.wait_for(&["ERROR", "op=\"hanging\"", "were not collected in time, and are lost", "messages=5"]);
    plugin.log.wait_for(&["ERROR", "op=\"slow\"", "were not collected in time, and are lost"]);
    plugin.assert_exit_0();
}

#[test]
fn a_host_that_stays_away_ends_it_in_order() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[("UNRULY_ABSENCE", "300")]);
    let (_held, file) = busy(&mut plugin);
    plugin.control.reply.close();
    plugin.assert_exit_0();
    assert_orderly(&journal(&file));
    plugin.log.wait_for(&["no host has been connected", "300ms"]);
}

#[test]
fn a_plugin_that_nobody_answers_says_where_it_waits_and_what_it_sees() {
    let _watchdog = watchdog();
    let folder = tempfile::tempdir().unwrap();
    let manifest = r#"{"language": "go", "executable": "unruly", "functions": ["echo"]}"#;
    std::fs::write(folder.path().join("unruled.json"), manifest).unwrap();
    for supervised in [false, true] {
        let mut child = Command::new(unruly())
            .arg(json!({ "ipcDir": folder.path() }).to_string())
            .envs(supervised.then_some(("UNRULY_SUPERVISED", "1")))
            .current_dir(folder.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let said = lines.into_iter().find(|line| line.contains("no engine listens")).unwrap();
        let address = folder.path().join("plugin_unruly.ipc");
        assert!(
            said.starts_with(&format!("plugin unruly: no engine listens at ipc://{}", address.display())),
            "{said}"
        );
        assert!(said.contains("The manifest beside the plugin is unruled.json"), "{said}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_host_that_was_never_there_ends_it() {
    let _watchdog = watchdog();
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(unruly())
        .arg(json!({ "ipcDir": folder.path() }).to_string())
        .env("UNRULY_ABSENCE", "100")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(exit_of(&mut child).code(), Some(0));
}

#[test]
fn a_host_that_comes_back_finds_its_symbols() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[("UNRULY_ABSENCE", "60000")]);
    let meta = meta("r1", "s");
    let (pull, answer) = plugin.start_source("counter", &meta, json!({}));
    assert_eq!(answer, "ok");
    plugin.control.reply.close();
    plugin.control = Channel::listen(&plugin.sockets().control("unruly").unwrap()).greeted();
    assert!(drain(&*pull).is_some());
    // Its data channel may come back too.
    pull.close();
    let data = Endpoint::Listen(plugin.sockets().data(&meta).unwrap());
    let pull = UdsTransport::new().pull(&data, &Options::default()).unwrap();
    assert!(drain(&*pull).is_some());
    assert_eq!(plugin.stop_source("counter", &meta), "ok");
}

#[test]
fn one_handshake_per_connection_and_none_while_idle() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let mut echo = plugin.start_function("echo");
    // The official SDKs send one after 5 s.
    assert!(echo.is_silent_for(Duration::from_millis(5500)));
    assert!(plugin.control.is_silent_for(Duration::from_millis(10)));
    assert_eq!(echo.call(CallKind::Exec, &json!([1])), Ok(json!(1)));
    plugin.assert_alive();
    assert_eq!((echo.handshakes, plugin.control.handshakes), (1, 1));
}

#[test]
fn an_answer_never_reaches_another_connection() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let mut slow = plugin.start_function("slow");
    let file = plugin.file("release");
    slow.send(&support::channels::encoded(CallKind::Exec, &json!([file])));
    slow.reply.close();
    let address = plugin.sockets().function("slow").unwrap();
    let again = Channel::listen(&address);
    release(&file);
    let mut again = again.greeted();
    assert_eq!(again.call(CallKind::Validate, &json!([1])), Ok(json!("")));
    assert_eq!(again.handshakes, 1);
}

#[test]
fn started_by_hand_it_says_what_it_is() {
    let _watchdog = watchdog();
    let wrong: [&[&str]; 6] = [&[], &["--help"], &["-h"], &["serve"], &["{\"sendTimeout\":"], &["{}", "{}"]];
    for arguments in wrong {
        let output = Command::new(unruly()).args(arguments).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("unruly is an eKuiper portable plugin: "), "{stderr}");
        assert!(stderr.contains("{\"sendTimeout\":1000}"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_socket_folder_that_is_too_deep_is_an_error() {
    let _watchdog = watchdog();
    let launch = json!({ "ipcDir": format!("/{}", "x".repeat(200)) }).to_string();
    let output = Command::new(unruly()).arg(launch).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("plugin unruly: socket path") && stderr.contains("shorter socket folder"), "{stderr}");
}

#[test]
fn the_log_names_the_symbol() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let mut say = plugin.start_function("say");
    say.call(CallKind::Exec, &json!(["good morning"])).unwrap();
    plugin.log.wait_for(&["WARN", "function{name=\"say\"}", "good morning"]);
    let (_pull, _) = plugin.start_source("counter", &meta("rule7", "op7"), json!({}));
    plugin.log.wait_for(&[
        "INFO",
        "kind=source name=\"counter\" rule=\"rule7\" op=\"op7\" instance=0",
        "counting for topic",
    ]);
    assert!(!plugin.log.text().contains('\x1b'), "no colours in a log that is a pipe");
}

#[test]
fn an_error_names_its_symbol_at_the_highest_level_too() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start_as(&[], |launch| {
        let mut command = Command::new(unruly());
        command.arg(launch.replace("debug", "error"));
        command
    });
    let (_pull, _) = plugin.start_source("counter", &meta("rule7", "op7"), json!({ "fail_in": "open" }));
    plugin.log.wait_for(&["ERROR", "name=\"counter\" rule=\"rule7\"", "open failed"]);
    assert!(!plugin.log.text().contains("DEBUG"));
}

#[test]
fn a_log_that_nobody_reads_harms_nothing() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start_as(&[("UNRULY_ABSENCE", "300")], |launch| {
        let mut command = Command::new("sh");
        // Its stderr is a pipe without a reader.
        command.args(["-c", r#"{ exec 3>&1; "$0" "$1" 2>&1 1>&3; } | true"#]).arg(unruly()).arg(launch);
        command
    });
    let (_held, file) = busy(&mut plugin);
    let (_, answer) = plugin.start_source("counter", &meta("r1", "bad"), json!({ "fail_in": "configure" }));
    assert_eq!(answer, "configure failed");
    plugin.assert_alive();
    plugin.child.kill().unwrap();
    // Its parent may be another shell, which lives as long as it does.
    plugin.control.reply.close();
    wait_until("it ends in order", || journal(&file).contains(&"sink close".into()));
    assert_orderly(&journal(&file));
}

#[test]
fn a_level_and_a_transport_that_are_not_known_are_told_and_replaced() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start_as(&[], |launch| {
        let mut launch: serde_json::Value = serde_json::from_str(launch).unwrap();
        launch["transport"] = "pigeon".into();
        launch["logLevel"] = "loud".into();
        let mut command = Command::new(unruly());
        command.arg(launch.to_string());
        command
    });
    plugin.log.wait_for(&["WARN", "transport pigeon is not built into this plugin, which uses "]);
    plugin.log.wait_for(&["WARN", "log level \"loud\" is not known"]);
    plugin.assert_alive();
}

/// A plugin without the requested wire protocol ends, since it would never connect.
#[test]
#[cfg(not(feature = "zeromq"))]
fn a_transport_of_another_wire_that_is_not_built_in_ends_the_plugin() {
    let _watchdog = watchdog();
    let ended = Command::new(unruly()).arg(r#"{"transport":"zeromq"}"#).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{text}");
    assert!(text.contains("transport zeromq is not built into this plugin"), "{text}");
    assert!(text.contains("build the plugin with its feature \"zeromq\""), "{text}");
}
