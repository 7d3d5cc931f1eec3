//! `serve`: the figures for Prometheus, while plugins are used, updated, crash
//! and go.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use support::Bench;
use support::served::{Server, package, package_that};

const LINES: &str = "Content-Type: application/x-ndjson\r\n";

/// The values of `GET /metrics`, by name and labels.
fn scrape(server: &Server) -> BTreeMap<String, f64> {
    let (status, text) = server.ask("GET", "/metrics", "", "");
    assert_eq!(status, 200, "{text}");
    let value = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    text.lines().filter(|line| !line.starts_with('#')).map(value).collect()
}

/// Asserts that no counter is gone, or smaller than before.
fn assert_monotone(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) {
    let is_counter = |name: &str| ["_total{", "_bucket{", "_count{", "_sum{"].iter().any(|part| name.contains(part));
    for (name, value) in before.iter().filter(|(name, _)| is_counter(name)) {
        assert!(after.get(name).is_some_and(|now| now >= value), "{name}: {value}, then {:?}", after.get(name));
    }
}

fn symbol(kind: &str, name: &str) -> String {
    format!("{{plugin=\"mirror\",kind=\"{kind}\",symbol=\"{name}\"}}")
}

#[test]
fn counters_outlive_requests_updates_and_crashes() {
    let bench = Bench::new();
    let (first, second) = (package(&bench, "v1"), package(&bench, "v2"));
    let broken = package_that(&bench, "v3", "exit 1");
    let server = Server::start(&bench);
    assert_eq!(server.ask("POST", "/plugins/portables", &first, "").0, 201);
    let rows = bench.path().join("rows");
    let sink = format!("/sinks/file?config=%7B%22path%22:%22{}%22%7D", rows.display());
    let use_all = || {
        assert_eq!(server.ask("POST", "/functions/revert", r#"["abc"]"#, ""), (200, "\"cba\"\n".into()));
        assert_eq!(server.ask("POST", "/functions/revert", "[1]", "").0, 422);
        assert_eq!(server.ask("POST", "/functions/revert", "[\"a\"]\n[\"b\"]\n", LINES).0, 200);
        assert_eq!(server.ask("POST", &sink, "{\"a\":1}\n{\"a\":2}\n", LINES).0, 200);
        let config = "%7B%22interval%22:1%7D";
        assert_eq!(server.ask("GET", &format!("/sources/random?count=3&config={config}"), "", "").0, 200);
    };
    // Once nothing is open but what is kept.
    let idle = || {
        let mut figures = BTreeMap::new();
        ekuiper_conformance::wait_until("the handles are closed", || {
            figures = scrape(&server);
            let open = |kind, name| figures.get(&format!("ekuiper_symbol_open{}", symbol(kind, name)));
            open("sink", "file") == Some(&0.0) && open("source", "random") == Some(&0.0)
        });
        figures
    };
    let assert_used = |figures: &BTreeMap<String, f64>, times: f64| {
        let of =
            |name: &str, kind, symbol_name| figures[&format!("ekuiper_symbol_{name}{}", symbol(kind, symbol_name))];
        assert_eq!(of("rows_out_total", "function", "revert"), 4.0 * times, "{figures:#?}");
        assert_eq!(of("rows_in_total", "function", "revert"), 4.0 * times, "{figures:#?}");
        assert_eq!(of("latency_seconds_count", "function", "revert"), 4.0 * times, "{figures:#?}");
        assert_eq!(of("rows_in_total", "sink", "file"), 2.0 * times, "{figures:#?}");
        assert!(of("rows_in_total", "source", "random") >= 3.0 * times, "{figures:#?}");
    };

    use_all();
    let used = idle();
    assert_used(&used, 1.0);
    // The function is in use, and keeps nobody from removing its plugin.
    let plugins = server.json("/plugins");
    assert_eq!(plugins[0]["symbols"][0]["name"], "revert", "{plugins}");
    assert_eq!(plugins[0]["symbols"].as_array().unwrap().len(), 1, "{plugins}");

    assert_eq!(server.ask("PUT", "/plugins/portables/mirror", &broken, "").0, 400);
    assert_monotone(&used, &scrape(&server));
    assert_eq!(server.ask("PUT", "/plugins/portables/mirror", &second, "").0, 200);
    let updated = idle();
    assert_monotone(&used, &updated);
    assert_used(&updated, 1.0);
    assert_eq!(updated["ekuiper_plugin_info{plugin=\"mirror\",version=\"v2\"}"], 1.0);
    use_all();
    let again = idle();
    assert_monotone(&updated, &again);
    assert_used(&again, 2.0);

    let pid = server.json("/plugins")[0]["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    ekuiper_conformance::wait_until("the plugin is back", || {
        let now = scrape(&server);
        assert_monotone(&again, &now);
        now["ekuiper_plugin_restarts_total{plugin=\"mirror\"}"] == 1.0
    });
    use_all();
    assert_used(&idle(), 3.0);

    // What is removed is gone, and begins anew.
    assert_eq!(server.ask("DELETE", "/plugins/portables/mirror", "", "").0, 200);
    assert_eq!(scrape(&server), BTreeMap::new());
    assert_eq!(server.ask("POST", "/functions/revert", r#"["abc"]"#, "").0, 404);
    assert_eq!(server.ask("POST", "/plugins/portables", &first, "").0, 201);
    use_all();
    assert_used(&idle(), 1.0);
    server.end();
    bench.assert_nothing_is_left();
}

/// Two readers at once, while the plugin is called, updated, removed and
/// installed, crashes, and hangs.
#[test]
fn figures_are_there_whatever_happens() {
    let bench = Bench::new();
    let (first, second) = (package(&bench, "v1"), package(&bench, "v2"));
    // Longer than a busy machine may take between two steps.
    let server = Server::start_with(&bench, &["--listen", "127.0.0.1:0", "--recv-timeout", "60s"], &[]);
    let is_over = AtomicBool::new(false);
    let path = "/plugins/portables/mirror";
    let install = || assert_eq!(server.ask("POST", "/plugins/portables", &first, "").0, 201);
    let pid = || {
        let mut pid = None;
        ekuiper_conformance::wait_until("the plugin runs", || {
            pid = server.json("/plugins")[0]["pid"].as_i64().and_then(|pid| Pid::from_raw(pid.try_into().unwrap()));
            pid.is_some()
        });
        pid.unwrap()
    };
    let call = || server.ask("POST", "/functions/revert", r#"["abc"]"#, "");
    install();
    std::thread::scope(|scope| {
        let readers = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut scrapes = 0u64;
                while !is_over.load(Ordering::SeqCst) {
                    let figures = scrape(&server);
                    // Each plugin is in one state.
                    let states = figures.iter().filter(|(name, _)| name.starts_with("ekuiper_plugin_state{"));
                    let sum: f64 = states.map(|(_, value)| value).sum();
                    assert_eq!(sum, if figures.is_empty() { 0.0 } else { 1.0 }, "{figures:#?}");
                    scrapes += 1;
                }
                scrapes
            })
        });
        let caller = scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let (status, said) = call();
                assert!([200, 404, 502, 503, 504].contains(&status), "{status} {said}");
            }
        });
        for version in [&second, &first] {
            assert_eq!(server.ask("PUT", path, version, "").0, 200);
            // It may have ended already, with its restart.
            let _ = kill_process(pid(), Signal::KILL);
            assert_eq!(server.ask("DELETE", path, "", "").0, 200);
            install();
        }
        is_over.store(true, Ordering::SeqCst);
        caller.join().unwrap();
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
        // A plugin that hangs: its call waits, and is in the figures.
        let stopped = pid();
        kill_process(stopped, Signal::STOP).unwrap();
        let waiting = scope.spawn(|| server.ask("POST", "/functions/revert?timeout=60000", r#"["abc"]"#, ""));
        let queue = format!("ekuiper_symbol_queue{}", symbol("function", "revert"));
        ekuiper_conformance::wait_until("the call waits", || scrape(&server).get(&queue) == Some(&1.0));
        assert!(scrape(&server)[&format!("ekuiper_symbol_lag_seconds{}", symbol("function", "revert"))] > 0.0);
        kill_process(stopped, Signal::CONT).unwrap();
        assert_eq!(waiting.join().unwrap(), (200, "\"cba\"\n".into()));
    });
    server.end();
    bench.assert_nothing_is_left();
}

/// Prometheus' own check, where it is installed.
#[test]
fn prometheus_accepts_the_figures() {
    let bench = Bench::new();
    let first = package(&bench, "v1");
    let server = Server::start(&bench);
    assert_eq!(server.ask("POST", "/plugins/portables", &first, "").0, 201);
    assert_eq!(server.ask("POST", "/functions/revert", r#"["abc"]"#, ""), (200, "\"cba\"\n".into()));
    let (_, figures) = server.ask("GET", "/metrics", "", "");
    // Prometheus has these for itself, and renames others'.
    let is_reserved = |line: &&str| {
        ["{", ","]
            .iter()
            .any(|before| ["instance", "job"].iter().any(|name| line.contains(&format!("{before}{name}=\""))))
    };
    assert_eq!(figures.lines().find(is_reserved), None);
    let check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match check {
        Ok(mut check) => {
            check.stdin.take().unwrap().write_all(figures.as_bytes()).unwrap();
            let checked = check.wait_with_output().unwrap();
            assert!(checked.status.success() && checked.stderr.is_empty() && checked.stdout.is_empty(), "{checked:?}");
        }
        Err(error) => eprintln!("SKIPPED: the check of the figures by Prometheus: promtool: {error}"),
    }
    server.end();
    bench.assert_nothing_is_left();
}
