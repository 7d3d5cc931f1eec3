//! Our host and our plugin `mirror`.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use ekuiper_host::{Chain, Error, Host, HostBuilder};
use ekuiper_interop::guard::{PATIENCE, Process, Watchdog, next, sockets_in};
use ekuiper_interop::plugins::Mirror;
use rustix::process::Signal;
use serde_json::{Value, json};

ekuiper_interop::over_each_transport_of_ours! {
    our_source,
    a_source_without_a_row_ends,
    our_sink,
    our_sink_with_ack,
    our_function,
    our_aggregate,
    what_a_symbol_refuses_has_its_text,
    odd_values_are_values_or_errors_and_the_channels_live_on,
    rules_and_instances_run_side_by_side,
    a_symbol_is_stopped_and_started_again,
    fault_08_a_killed_plugin_is_back,
    two_hosts_run_one_plugin_side_by_side,
    shutdown_leaves_nothing,
}

fn host(mirror: &Mirror, transport: &str) -> Host {
    builder(mirror, transport).build().unwrap()
}

fn builder(mirror: &Mirror, transport: &str) -> HostBuilder {
    // A folder of its own: the names in /tmp are always the same.
    Host::builder().transport(transport).plugin(mirror.folder()).ipc_dir(sockets(mirror))
}

fn sockets(mirror: &Mirror) -> std::path::PathBuf {
    mirror.scratch().join("s")
}

fn assert_clean(mirror: &Mirror) {
    assert_eq!(sockets_in(&sockets(mirror)), [] as [std::path::PathBuf; 0]);
}

fn our_source(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let source = host.source("random").rule("r1").config(json!({ "interval": 0, "count": 5000 }));
    let rows: Vec<_> = source.open().unwrap().map(|tuple| tuple.unwrap().message).collect();
    let counts: Vec<_> = rows.iter().map(|row| row["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, (1..=5000).collect::<Vec<_>>());
    host.shutdown();
    assert_clean(&mirror);
}

/// Whether it is read before it ends, or only then.
fn a_source_without_a_row_ends(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    for _ in 0..5 {
        let source = host.source("random").rule("r1").config(json!({ "count": 0 }));
        let mut source = source.open().unwrap();
        assert_eq!(source.next_within(PATIENCE).unwrap(), None);
        source.close().unwrap();
    }
    host.shutdown();
    assert_clean(&mirror);
}

fn our_sink(transport: &str) {
    sink(transport, false);
}

fn our_sink_with_ack(transport: &str) {
    sink(transport, true);
}

/// Each has a folder of its own, that nobody else can enter.
fn two_hosts_run_one_plugin_side_by_side(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = || Host::builder().transport(transport).plugin(mirror.folder()).build().unwrap();
    let hosts = [host(), host()];
    for host in &hosts {
        let revert = host.function("revert").unwrap();
        assert_eq!(revert.call::<String>(("ab",)).unwrap(), "ba");
    }
    assert_ne!(hosts[0].pid("mirror"), hosts[1].pid("mirror"));
    hosts[0].shutdown();
    assert_eq!(hosts[1].function("revert").unwrap().call::<String>(("ab",)).unwrap(), "ba");
}

fn odd_values_are_values_or_errors_and_the_channels_live_on(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    // The longest messages take their time where several tests send them.
    let host = builder(&mirror, transport).send_timeout(PATIENCE).recv_timeout(PATIENCE).build().unwrap();
    let echo = host.function("echo").unwrap();
    let lives = || assert_eq!(echo.call::<i64>((7,)).unwrap(), 7);
    let deep = |depth| (0..depth).fold(json!(1), |inner, _| json!([inner]));
    for value in
        [deep(100), json!("\u{0}\u{10ffff}\"\\"), json!(u64::MAX), json!(i64::MIN), json!(-0.1), json!({ "": {} })]
    {
        assert_eq!(echo.call::<Value>((&value,)).unwrap(), value);
    }
    // Deeper than JSON is read: an error on whichever side.
    echo.call::<Value>((deep(500),)).unwrap_err();
    lives();
    for number in [f64::NAN, f64::INFINITY] {
        let error = Chain(&echo.call::<Value>((number,)).unwrap_err()).to_string();
        assert!(error.contains("cannot encode"), "{error}");
    }
    lives();
    // As long as a message may be, and longer.
    let long = "x".repeat((64 << 20) - 1000);
    assert!(echo.call::<String>((&long,)).unwrap() == long);
    let error = Chain(&echo.call::<String>(("x".repeat(64 << 20),)).unwrap_err()).to_string();
    assert!(error.contains("longer than the limit"), "{error}");
    lives();

    let file = mirror.scratch().join("rows");
    let sink = host.sink("file").rule("r1").config(json!({ "path": file })).require_ack(true).open().unwrap();
    for bytes in [&b"\xff\xfe"[..], b"", b"{\"a\":", b"null"] {
        let refused = sink.send_bytes(bytes);
        assert!(matches!(refused, Ok(()) | Err(Error::Sink { .. })), "{refused:?}");
    }
    let error = Chain(&sink.send(&json!("x".repeat(65 << 20))).unwrap_err()).to_string();
    assert!(error.contains("longer than the limit"), "{error}");
    sink.send(&json!({ "n": 1 })).unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().ends_with("{\"n\":1}\n"));
    sink.close().unwrap();
    lives();
    host.shutdown();
    assert_clean(&mirror);
}

fn sink(transport: &str, require_ack: bool) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let file = mirror.scratch().join("rows");
    let sink = host.sink("file").rule("r1").config(json!({ "path": file })).require_ack(require_ack).open().unwrap();
    let mut sent = String::new();
    for number in 0..1000 {
        sink.send(&json!([{ "n": number }])).unwrap();
        sent += &format!("{{\"n\":{number}}}\n");
        if require_ack && number % 100 == 0 {
            assert!(std::fs::read_to_string(&file).unwrap() == sent, "it is written when it is acknowledged");
        }
    }
    // Without acks too: our sink has read what was sent when it has stopped.
    sink.close().unwrap();
    assert!(std::fs::read_to_string(&file).unwrap() == sent);
    host.shutdown();
    assert_clean(&mirror);
}

fn our_function(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let revert = host.function("revert").unwrap();
    assert!(!revert.is_aggregate().unwrap());
    revert.validate(("x",)).unwrap();
    for number in 0..1000 {
        let text = number.to_string();
        assert_eq!(revert.call::<String>((&text,)).unwrap(), text.chars().rev().collect::<String>());
    }
    let echo = host.function("echo").unwrap();
    for value in [json!(null), json!({ "a": [1, 2.5, "ü"] }), json!("x".repeat(3_000_000))] {
        assert!(echo.call::<Value>((&value,)).unwrap() == value);
    }
    host.shutdown();
    assert_clean(&mirror);
}

fn our_aggregate(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let average = host.function("average").unwrap();
    assert!(average.is_aggregate().unwrap());
    assert_eq!(average.call::<f64>(([1, 2, 6],)).unwrap(), 3.0);
    host.shutdown();
    assert_clean(&mirror);
}

fn what_a_symbol_refuses_has_its_text(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let revert = host.function("revert").unwrap();
    match revert.validate((1, 2)) {
        Err(Error::Function { text, .. }) => assert_eq!(text, "takes 1 argument, got 2"),
        other => panic!("{other:?}"),
    }
    match revert.call::<Value>((7,)) {
        Err(Error::Function { text, .. }) => assert!(text.contains("argument 1"), "{text}"),
        other => panic!("{other:?}"),
    }
    match host.sink("file").rule("r1").config(json!({ "path": "/no/such/folder/x" })).open().err() {
        Some(Error::Refused { text, .. }) => assert!(text.contains("/no/such/folder/x"), "{text}"),
        other => panic!("{other:?}"),
    }
    match host.source("random").rule("r1").config(json!({ "interval": "soon" })).open().err() {
        Some(Error::Refused { text, .. }) => assert!(text.contains("interval"), "{text}"),
        other => panic!("{other:?}"),
    }
    let file = mirror.scratch().join("rows");
    let sink = host.sink("file").rule("r1").config(json!({ "path": file })).require_ack(true).open().unwrap();
    assert!(matches!(sink.send_bytes(b"no JSON"), Err(Error::Sink { .. })));
    sink.send(&json!({})).unwrap();
    drop(sink);
    host.shutdown();
    assert_clean(&mirror);
}

fn rules_and_instances_run_side_by_side(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let open = |rule: &str, instance| {
        let config = json!({ "interval": 1, "seed": 7 });
        host.source("random").rule(rule).instance(instance).config(config).open().unwrap()
    };
    let mut sources = [open("r1", 0), open("r1", 1), open("r2", 0)];
    let files = ["one", "two"].map(|name| mirror.scratch().join(name));
    let sinks = [0, 1].map(|index| {
        let sink = host.sink("file").rule("r1").operator("out").instance(index as i64);
        sink.config(json!({ "path": files[index] })).require_ack(true).open().unwrap()
    });
    for number in 1..=50 {
        for source in &mut sources {
            let row = next(source).message;
            assert_eq!(row["count"], number, "each counts for itself");
            sinks.iter().for_each(|sink| sink.send(&row).unwrap());
        }
    }
    let [first, second, mut third] = sources;
    first.close().unwrap();
    assert_eq!(next(&mut third).message["count"], 51);
    drop((second, third, sinks));
    for file in files {
        assert_eq!(std::fs::read_to_string(file).unwrap().lines().count(), 150);
    }
    host.shutdown();
    assert_clean(&mirror);
}

fn a_symbol_is_stopped_and_started_again(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let file = mirror.scratch().join("rows");
    for round in 1..=20 {
        let mut source = host.source("random").rule("r1").config(json!({ "interval": 0 })).open().unwrap();
        assert_eq!(next(&mut source).message["count"], 1, "a new source counts anew");
        source.close().unwrap();
        let sink = host.sink("file").rule("r1").config(json!({ "path": file })).require_ack(true).open().unwrap();
        sink.send(&json!({ "round": round })).unwrap();
        sink.close().unwrap();
        // At once, with nothing between.
        host.source("random").rule("r1").open().unwrap().close().unwrap();
    }
    assert_eq!(std::fs::read_to_string(file).unwrap().lines().count(), 20);
    host.shutdown();
    assert_clean(&mirror);
}

/// Under the same handles, and nothing of the dead process is left.
fn fault_08_a_killed_plugin_is_back(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let mut source = host.source("random").rule("r1").config(json!({ "interval": 1 })).open().unwrap();
    let file = mirror.scratch().join("rows");
    let sink = host.sink("file").rule("r1").config(json!({ "path": file })).require_ack(true).open().unwrap();
    let echo = host.function("echo").unwrap();
    for _ in 0..3 {
        let former = host.pid("mirror").unwrap();
        while next(&mut source).message["count"] != 5 {}
        Process::of(former).signal(Signal::KILL);
        // It counts anew, after what the dead process had still sent.
        while next(&mut source).message["count"] != 1 {}
        assert_ne!(host.pid("mirror"), Some(former));
        sink.send(&json!({})).unwrap();
        assert_eq!(echo.call::<Value>((1,)).unwrap(), 1);
    }
    sink.close().unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "{}\n{}\n{}\n");
    drop(source);
    host.shutdown();
    assert_clean(&mirror);
}

fn shutdown_leaves_nothing(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let mut source = host.source("random").rule("r1").open().unwrap();
    let file = mirror.scratch().join("rows");
    let sink = host.sink("file").rule("r1").config(json!({ "path": file })).require_ack(true).open().unwrap();
    let echo = host.function("echo").unwrap();
    next(&mut source);
    sink.send(&json!({})).unwrap();
    assert_eq!(echo.call::<u8>((1,)).unwrap(), 1);
    let process = Process::of(host.pid("mirror").unwrap());
    host.shutdown();
    process.ended();
    // Again and again, however often it was used before.
    for _ in 0..2 {
        let sent = sink.send(&json!({}));
        assert!(matches!(sent, Err(Error::Stopped)), "{sent:?}");
        let called = echo.call::<u8>((1,));
        assert!(matches!(called, Err(Error::Stopped)), "{called:?}");
        let many = echo.call_many::<u8, _>([(1,)]).map_err(Error::from);
        assert!(matches!(many, Err(Error::Stopped)), "{many:?}");
    }
    drop((source, sink, echo, host));
    assert_clean(&mirror);
}
