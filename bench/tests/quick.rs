//! Check that the benchmark works: one short round of everything, whose times
//! are not asserted.

#![cfg(feature = "uds")]
#![allow(clippy::unwrap_used)]

use std::path::Path;

use ekuiper_bench::reading::Reading;
use ekuiper_bench::{Options, built_in, run, subject};

/// Ends the process when the test hangs.
fn watchdog() {
    std::thread::spawn(|| {
        std::thread::sleep(std::time::Duration::from_secs(280));
        eprintln!("the benchmark hangs");
        std::process::exit(101);
    });
}

fn quick(only: &[&str]) -> Options {
    Options {
        rounds: 1,
        seconds: 0.05,
        quick: true,
        only: only.iter().map(|&name| name.to_owned()).collect(),
        peer: vec![],
        json: None,
        charts: None,
    }
}

#[test]
fn the_built_in_transports_are_measured() {
    watchdog();
    let (peers, skipped) = built_in(Path::new(env!("CARGO_BIN_EXE_bench-plugin")));
    let report = run(&quick(&[]), subject::all(), peers, skipped).unwrap();
    assert_eq!(report.failures, [] as [String; 0]);
    for case in report.subjects.iter().flat_map(|table| &table.cases) {
        // A case that the peer does not support has no line.
        let line = case.lines.iter().find(|line| line.peer == "uds");
        let figures = line.iter().flat_map(|line| &line.samples).flat_map(|sample| &sample.0);
        for (metric, value) in figures {
            assert!(value.is_finite() && *value >= 0.0, "{}: {metric:?} is {value}", case.label);
        }
    }
    let measured = |name: &str| {
        let table = report.subjects.iter().find(|table| table.name == name).unwrap();
        table.cases[0].lines.iter().map(|line| line.peer.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(measured("calls")[..3], ["raw", "raw-best", "uds"]);
    assert_eq!(measured("start")[0], "uds");
}

#[test]
fn a_subject_or_a_peer_that_there_is_not_is_refused() {
    let plugin = Path::new(env!("CARGO_BIN_EXE_bench-plugin"));
    let refused = |options: &Options| {
        let (peers, skipped) = built_in(plugin);
        run(options, subject::all(), peers, skipped).unwrap_err().to_string()
    };
    let error = refused(&quick(&["speed"]));
    assert!(error.starts_with("there is no subject speed: there are calls, sources"), "{error}");
    let error = refused(&Options { peer: vec!["pigeon".into()], ..quick(&[]) });
    assert!(error.starts_with("there is no peer pigeon"), "{error}");
}

#[test]
fn a_peer_that_fails_is_told_and_the_others_go_on() {
    let (peers, skipped) = built_in(Path::new("/bin/false"));
    let report = run(&quick(&["start", "calls"]), subject::all(), peers, skipped).unwrap();
    assert!(report.failures.iter().any(|text| text.starts_with("calls, a text of 128 B, raw failed: ")), "{report:?}");
    assert!(report.failures.iter().any(|text| text.starts_with("start, start, uds failed: ")), "{report:?}");
}

/// Under our host it goes as under a stock engine, which few have.
#[test]
fn the_plugin_of_frames_does_what_a_rule_wants() {
    watchdog();
    let name = ekuiper_bench::peer::frames::NAME;
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join(name);
    std::fs::create_dir(&own).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_bench-plugin"), own.join("bench-plugin")).unwrap();
    let manifest = serde_json::json!({
        "version": "v1.0.0", "language": "go", "executable": "bench-plugin",
        "sources": ["frames_source"], "sinks": ["frames_sink"], "functions": ["frames_echo"],
    });
    std::fs::write(own.join(format!("{name}.json")), manifest.to_string()).unwrap();
    let host = ekuiper_host::Host::builder().plugin(own).build().unwrap();
    let reading = Reading::of_size(ekuiper_bench::subject::SIZE);
    for _ in 0..3 {
        let note: String = host.function("frames_echo").unwrap().call((reading.note.as_str(),)).unwrap();
        assert_eq!(note, reading.note);
    }
    let sink = host.sink("frames_sink").rule("frames").require_ack(true).open().unwrap();
    for _ in 0..5 {
        sink.send(&reading).unwrap();
    }
    // They end with their channels, which a stock engine closes first.
    let mut source = host.source("frames_source").rule("frames").open_as::<Reading>().unwrap();
    assert_eq!(source.next().unwrap().unwrap().message, Reading::of_size(0));
}

#[cfg(feature = "peers")]
#[test]
fn the_whole_benchmark_writes_its_results() {
    watchdog();
    // It lies beside the benchmark, and may be an older one.
    let build = std::process::Command::new(env!("CARGO")).args(["build", "--quiet", "--package", "mirror"]).status();
    assert!(build.unwrap().success());
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("bench.json");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ekuiper-bench"))
        .args(["--quick", "--only", "calls", "--only", "sinks", "--only", "start", "--json"])
        .arg(&json)
        .arg("--charts")
        .arg(folder.path().join("charts"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("## Function calls") && text.contains("| grpc "), "{text}");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!((&json["rounds"], &json["reference"]), (&1.into(), &"uds".into()));
    assert!(folder.path().join("charts/sinks.svg").exists());
}
