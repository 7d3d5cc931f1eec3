//! Connections of processes other than the engine to a plugin's sockets.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Endpoint, Options, Transport};
use ekuiper_transport_uds::UdsTransport;
use serde_json::json;

use support::build::unruly;
use support::plugin::meta;
use support::{Plugin, journal, soon, wait_until, watchdog};

const FORGES: &str = "EKUIPER_TEST_FORGES";

/// The stranger's process, which sends rows to a sink repeatedly.
#[test]
fn stranger() {
    let Some(path) = std::env::var_os(FORGES) else { return };
    let address = Address::new(path).unwrap();
    loop {
        let push = UdsTransport::new().push(&Endpoint::Dial(address.clone()), &Options::default()).unwrap();
        let shortly = || Some(Instant::now() + Duration::from_millis(50));
        if push.connect(shortly()).is_ok() {
            let _ = push.send(br#"{"n":666}"#, shortly());
        }
    }
}

/// Killed when dropped.
struct Stranger(Child);

impl Stranger {
    fn forging(data: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "stranger"]).env(FORGES, data).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn rows_of_the_engine_only(mut plugin: Plugin) {
    let meta = meta("r1", "sink");
    let file = plugin.file("journal");
    let _stranger = Stranger::forging(plugin.sockets().data(&meta).unwrap().path());
    let (push, _acks, answer) = plugin.start_sink("journal", &meta, json!({ "journal": file, "name": "sink" }));
    assert_eq!(answer, "ok");
    plugin.log.wait_for(&["the connecting process is not the engine"]);
    for number in 1..=100 {
        push.send(json!({ "n": number }).to_string().as_bytes(), soon()).unwrap();
    }
    wait_until("the engine's rows are there", || journal(&file).contains(&"sink row 100".to_owned()));
    let lines = journal(&file);
    assert!(!lines.contains(&"sink row 666".to_owned()), "a stranger's row was taken: {lines:?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("sink row")).count(), 100);
}

#[test]
fn a_sink_takes_no_stranger_s_rows() {
    let _watchdog = watchdog();
    rows_of_the_engine_only(Plugin::start(&[]));
}

#[test]
fn a_supervised_sink_takes_no_stranger_s_rows() {
    let _watchdog = watchdog();
    rows_of_the_engine_only(Plugin::start(&[("UNRULY_SUPERVISED", "1")]));
}

/// A plugin started as from a shell, whose parent is not the engine.
#[test]
fn a_sink_that_somebody_else_has_started_takes_the_engine_s_rows() {
    let _watchdog = watchdog();
    rows_of_the_engine_only(Plugin::start_as(&[], |launch| {
        let mut command = Command::new("sh");
        command.args(["-c", "\"$0\" \"$1\"; exit $?"]).arg(unruly()).arg(launch);
        command
    }));
}

/// A process outside the plugin's pid namespace, which has no pid there.
#[test]
fn a_sink_in_a_pid_namespace_of_its_own_takes_no_stranger_s_rows() {
    let _watchdog = watchdog();
    let mut unshare = vec!["unshare", "--pid", "--fork", "--kill-child"];
    if !rustix::process::geteuid().is_root() {
        unshare.extend(["--user", "--map-root-user"]);
    }
    let made = Command::new(unshare[0]).args(&unshare[1..]).arg("true").output();
    if !made.is_ok_and(|made| made.status.success()) || !pidfds_have_inodes() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no pid namespace can be made here, or Linux is older than 6.9");
        return;
    }
    rows_of_the_engine_only(Plugin::start_as(&[], |launch| {
        let mut command = Command::new(unshare[0]);
        command.args(&unshare[1..]).arg(unruly()).arg(launch);
        command
    }));
}

fn pidfds_have_inodes() -> bool {
    let inode = |pid| {
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        rustix::fs::fstat(&pidfd).unwrap().st_ino
    };
    inode(rustix::process::getpid()) != inode(rustix::process::getppid().unwrap())
}
