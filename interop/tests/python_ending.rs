//! Sources in Python that end by themselves, under our host: their readers
//! learn of it, and nothing of them stays in the plugin.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Instant;

use ekuiper_host::{Error, Host, Source};
use ekuiper_interop::guard::{PATIENCE, Watchdog, soon};
use ekuiper_interop::tools;
use serde_json::json;

/// The plugin's sources, one for each way to write one.
const SOURCES: [&str; 5] = ["by_class", "by_generator", "by_asynchronous_generator", "by_hand", "by_asynchronous_hand"];

struct Site {
    host: Host,
    _folder: tempfile::TempDir,
    _watchdog: Watchdog,
}

fn site(transport: &str) -> Site {
    let (folder, watchdog) = (tempfile::tempdir().unwrap(), Watchdog::start());
    let plugin = folder.path().join("ending");
    std::fs::create_dir(&plugin).unwrap();
    for file in ["main.py", "ending.json"] {
        std::fs::copy(tools::root().join("interop/plugins/ending").join(file), plugin.join(file)).unwrap();
    }
    let host = Host::builder()
        .transport(transport)
        .plugin(plugin)
        .ipc_dir(folder.path())
        .python_bin(tools::our_python().display().to_string());
    Site { host: host.build().unwrap(), _folder: folder, _watchdog: watchdog }
}

impl Site {
    fn open(&self, symbol: &str, rows: usize, how: &str) -> Source {
        let source = self.host.source(symbol).rule("1").config(json!({ "rows": rows, "how": how }));
        source.open().unwrap()
    }
}

/// The rows and errors of a source, up to its end.
fn read(mut source: Source) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        match source.next_within(PATIENCE) {
            Ok(Some(tuple)) => lines.push(tuple.message.to_string()),
            Ok(None) => return lines,
            Err(error @ Error::Timeout { .. }) => panic!("it does not end after {lines:?}: {error}"),
            Err(error) => lines.push(error.to_string()),
        }
    }
}

fn every_reader_learns_of_the_end(transport: &str) {
    let site = site(transport);
    for symbol in SOURCES {
        for rows in [0, 2] {
            let numbers: Vec<_> = (0..rows).map(|number| format!(r#"{{"number":{number}}}"#)).collect();
            assert_eq!(read(site.open(symbol, rows, "returns")), numbers, "{symbol}");
            let mut lines = read(site.open(symbol, rows, "raises"));
            let error = lines.pop().unwrap_or_default();
            assert!(error.ends_with("OSError: the file is gone"), "{symbol}: {error}");
            assert_eq!(lines, numbers, "{symbol}");
        }
    }
    site.host.shutdown();
}

#[test]
fn a_source_that_ends_with_or_without_a_row_ends_for_its_reader() {
    every_reader_learns_of_the_end("uds");
}

#[test]
#[cfg(feature = "nng")]
fn a_source_that_ends_with_or_without_a_row_ends_for_its_reader_on_libnng() {
    every_reader_learns_of_the_end("nng");
}

#[test]
fn nothing_of_a_source_that_is_over_stays_in_the_plugin() {
    let site = site("uds");
    site.host.start("ending").unwrap();
    let pid = site.host.pid("ending").unwrap();
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    // The flusher's thread stays, one per process, from the first message on
    // that it had to flush: that may be in any round.
    let is_flusher = |thread: &PathBuf| {
        std::fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim_end() == "ekuiper-flush")
    };
    let threads = || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| thread.unwrap().path());
        threads.filter(|thread| !is_flusher(thread)).count()
    };
    let round = || {
        for symbol in SOURCES {
            read(site.open(symbol, 1, "returns"));
            read(site.open(symbol, 0, "returns"));
            read(site.open(symbol, 1, "raises"));
            site.open(symbol, 1_000_000, "returns").close().unwrap();
        }
    };
    round();
    let before = (descriptors(), threads());
    (0..5).for_each(|_| round());
    // The last source's thread may be about to end.
    let give_up = soon();
    loop {
        let now = (descriptors(), threads());
        if now.0 <= before.0 && now.1 <= before.1 {
            break;
        }
        assert!(Instant::now() < give_up, "after {before:?} descriptors and threads there are {now:?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    site.host.shutdown();
}
