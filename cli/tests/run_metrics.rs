//! `run --metrics`: the figures of a pipeline's plugins, while it runs.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use support::served::Server;
use support::{Bench, example};

/// Writes a pipeline of `mirror` that goes on for this many rows.
fn pipeline(bench: &Bench, count: &str) -> String {
    let text = format!(
        "plugins = [{:?}]\n[source]\nsymbol = 'random'\nconfig = {{ interval = 1 }}\n{count}\n\
         [[function]]\nsymbol = 'revert'\nargs = ['name']\noutput = 'reversed'\n",
        std::fs::canonicalize(example("mirror")).unwrap()
    );
    let path = bench.path().join("pipeline.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Starts a pipeline, and waits until it says where its figures are.
fn start(bench: &Bench, count: &str) -> Server {
    let mut command = bench.command(&["run", &pipeline(bench, count), "--metrics", "127.0.0.1:0"]);
    command.stdout(Stdio::null());
    let running = Server::spawn(command);
    assert!(!running.address.ends_with(":0"), "{}", running.address);
    running
}

/// Returns an answer with its head.
fn get(running: &Server, path: &str, headers: &str) -> String {
    let mut stream = running.connect();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", running.address);
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_running_pipeline_has_figures_until_ctrl_c() {
    let bench = Bench::new();
    let running = start(&bench, "");
    let mut answer = String::new();
    ekuiper_conformance::wait_until("rows are counted", || {
        answer = get(&running, "/metrics", "");
        let calls = "ekuiper_symbol_rows_in_total{plugin=\"mirror\",kind=\"function\",symbol=\"revert\"} ";
        answer.lines().find_map(|line| line.strip_prefix(calls)).is_some_and(|calls| calls != "0")
    });
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(ekuiper_host::metrics::CONTENT_TYPE), "{answer}");
    assert!(answer.contains("ekuiper_plugin_state{plugin=\"mirror\",state=\"running\"} 1\n"), "{answer}");
    assert!(get(&running, "/plugins", "").starts_with("HTTP/1.1 404 "));
    assert!(get(&running, "/metrics", "Sec-Fetch-Site: cross-site\r\n").starts_with("HTTP/1.1 403 "));

    // One who only connects, and one who asks slowly, do not hold up the end.
    let _silent = TcpStream::connect(&running.address).unwrap();
    let mut slow = TcpStream::connect(&running.address).unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHo").unwrap();
    let address = running.address.clone();
    running.end();
    // Nobody listens there any more.
    drop(TcpListener::bind(address).unwrap());
    bench.assert_nothing_is_left();
}

#[test]
fn figures_end_with_the_run() {
    let bench = Bench::new();
    let running = start(&bench, "count = 50");
    let (code, said) = running.finish();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\"delivered\":50"), "{said}");
    bench.assert_nothing_is_left();
}

#[test]
fn an_address_that_cannot_be_is_refused_before_anything_starts() {
    let bench = Bench::new();
    let pipeline = pipeline(&bench, "count = 1");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let sentence = bench.fails(1, &["run", &pipeline, "--metrics", &address]);
    assert!(
        sentence.starts_with(&format!("cannot listen at {address}: give --metrics another address: ")),
        "{sentence}"
    );
    for open in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9083"] {
        let sentence = bench.fails(2, &["run", &pipeline, "--metrics", open]);
        assert!(
            sentence.starts_with(&format!("{open} can be reached from other machines: give --metrics")),
            "{sentence}"
        );
    }
}
