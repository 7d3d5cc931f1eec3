//! Times of any length: no timeout, pause or deadline that a user sets is too
//! long.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use ekuiper_host::{CallOptions, Host, Package, RestartPolicy};
use ekuiper_interop::guard::{Process, Watchdog};
use ekuiper_interop::plugins::{Ledger, Mirror};
use ekuiper_interop::tools;
use futures::executor::block_on;
use rustix::process::Signal;
use serde_json::{Value, json};

const MAX: Duration = Duration::MAX;

ekuiper_interop::over_each_transport! {
    every_time_may_be_the_longest,
}

/// A host all of whose times are the longest.
fn host(transport: &str, plugins: &[PathBuf]) -> Host {
    let mut restart = RestartPolicy::default();
    restart.first_pause = MAX;
    restart.max_pause = MAX;
    restart.stable_after = MAX;
    restart.break_window = MAX;
    restart.break_pause = MAX;
    restart.jitter = 0.0;
    let builder = Host::builder()
        .transport(transport)
        .init_timeout(MAX)
        .send_timeout(MAX)
        .recv_timeout(MAX)
        .grace(MAX)
        .drain_timeout(MAX)
        .drain_stall(MAX)
        .stall_timeout(MAX)
        .spin(MAX)
        .restart(restart);
    plugins.iter().fold(builder, |builder, folder| builder.plugin(folder)).build().unwrap()
}

fn every_time_may_be_the_longest(transport: &str) {
    let _watchdog = Watchdog::start();
    let (mirror, ledger) = (Mirror::new(), Ledger::new());
    let host = host(transport, &[mirror.folder(), ledger.folder()]);

    let note = host.function("note").unwrap();
    let options = CallOptions::default().deadline(MAX).answer_within(MAX).per_row(MAX);
    for note in [note.clone(), note.with_options(options)] {
        assert_eq!(note.call::<u64>((1,)).unwrap(), 1);
        assert_eq!(note.call_async::<u64>((2,)).unwrap().wait().unwrap(), 2);
        assert_eq!(block_on(note.call_async::<u64>((3,)).unwrap()).unwrap(), 3);
        let many = note.call_many::<u64, _>((0..10_u64).map(|number| (number,))).unwrap();
        assert!(many.into_iter().map(Result::unwrap).eq(0..10));
        note.validate((1,)).unwrap();
    }

    let source = || host.source("random").wait_for_place(MAX).config(json!({ "interval": 1 }));
    let mut blocking = source().open().unwrap();
    assert_eq!(blocking.next_within(MAX).unwrap().unwrap().message["count"], 1);
    drop(blocking);
    block_on(async {
        let mut stream = source().open_async::<Value>().await.unwrap();
        assert_eq!(stream.next_chunk(3, MAX).await.unwrap().unwrap().len(), 3);
        stream.close().await.unwrap();
    });

    let rows = mirror.scratch().join("rows");
    for require_ack in [true, false] {
        let sink = || host.sink("file").wait_for_place(MAX).config(json!({ "path": rows })).require_ack(require_ack);
        let blocking = sink().open().unwrap();
        blocking.send(&json!({})).unwrap();
        blocking.send_async(&json!({})).unwrap().wait().unwrap();
        blocking.flush(MAX).unwrap();
        blocking.close().unwrap();
        block_on(async {
            let mut sink = sink().open_async().await.unwrap();
            sink.post(&json!({})).await.unwrap().await.unwrap();
            futures::SinkExt::<&Value>::send(&mut sink, &json!({})).await.unwrap();
            sink.close().await.unwrap();
        });
    }

    // A first restart has no pause, and a second one would have the longest.
    let mut events = host.event_stream();
    for _ in 0..2 {
        Process::of(host.pid("ledger").unwrap()).signal(Signal::KILL);
        block_on(async {
            while let Some(event) = futures::StreamExt::next(&mut events).await {
                let is_next = |kind: &str| format!("{:?}", event.kind).starts_with(kind);
                if event.plugin == "ledger" && (is_next("Restored") || is_next("BackingOff")) {
                    break;
                }
            }
        });
        if host.pid("ledger").is_none() {
            break;
        }
    }
    host.reset("ledger").unwrap();
    assert_eq!(host.function("note").unwrap().call::<u64>((4,)).unwrap(), 4);
    host.update(Package::read(version(mirror.scratch())).unwrap()).unwrap();
    host.stop("mirror").unwrap();
    host.remove("ledger").unwrap();
    host.shutdown();
}

/// Another folder with the plugin `mirror`.
fn version(scratch: &Path) -> PathBuf {
    let folder = scratch.join("next/mirror");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(tools::root().join("examples/mirror/mirror.json"), folder.join("mirror.json")).unwrap();
    std::os::unix::fs::symlink(tools::mirror(), folder.join("mirror")).unwrap();
    folder
}

/// A deadline is made by `deadline_after`, or by `later` of another instant:
/// nothing else can add a time of any length to an instant.
#[test]
fn no_other_way_leads_to_a_deadline() {
    let mut files = Vec::new();
    for part in ["core", "transport-ipc", "transport-uds", "transport-nng", "sdk", "host"] {
        sources(&tools::root().join(part).join("src"), &mut files);
    }
    assert!(files.len() > 150, "{}", files.len());
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = (1..).zip(code.lines().map(str::trim)).filter(|(_, line)| !line.starts_with("//"));
        for (number, line) in lines {
            let adds = |what: &str| {
                line.match_indices(what).any(|(at, _)| {
                    let of = line[..at].chars().next_back();
                    // A constant has a bound.
                    let added = line[at + what.len()..].chars().next();
                    let is_whole = of.is_none_or(|before| !(before.is_alphanumeric() || before == '_'));
                    is_whole && added.is_some_and(|first| first.is_lowercase())
                })
            };
            let instants = ["now + ", "since + ", "deadline + ", "started + ", "until + "];
            if line.contains("Instant::now() + ") || instants.into_iter().any(adds) {
                found.push(format!("{}:{number}: {line}", file.display()));
            }
        }
    }
    assert_eq!(found, [] as [String; 0]);
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.to_string_lossy().ends_with("_tests.rs") {
            files.push(path);
        }
    }
}
