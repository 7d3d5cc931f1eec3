//! What plugins on the official Go SDK need of a host, shown on one that
//! behaves like them. It answers `start` only once the symbol's channel is
//! connected, so a caller that waits for that answer must accept connections
//! meanwhile; and it executes no function without a rule and an operator.
//!
//! The plugin's process is this test's own executable, started again.

#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::address::SocketFolder;
use ekuiper_core::launch::LaunchOptions;
use ekuiper_core::message::{Command, CommandKind, Control, HANDSHAKE, SymbolKind};
use ekuiper_core::transport::{
    ConnectionId, Deadline, Endpoint, Options, Pull, PullEvent, Request, Transport, TransportError,
};
use ekuiper_host::Host;
use ekuiper_transport_uds::UdsTransport;
use serde_json::{Value, json};

/// File in which the script that starts the plugin stores the launch argument.
const LAUNCH: &str = "EKUIPER_TEST_LAUNCH";

/// Maximum wait of the plugin for a connection. The host waits for the answer
/// to `start`, far longer.
const CONNECT: Duration = Duration::from_secs(10);

fn soon() -> Deadline {
    Some(Instant::now() + CONNECT)
}

#[test]
fn a_function_starts() {
    let (_folder, host) = host();
    let double = host.function("double").unwrap();
    assert_eq!(double.call::<i64>((21,)).unwrap(), 42);
}

#[test]
fn a_source_starts_and_loses_nothing() {
    let (_folder, host) = host();
    let mut source = host.source("numbers").open().unwrap();
    let mut numbers = Vec::new();
    while let Some(tuple) = source.next_within(CONNECT).unwrap() {
        numbers.push(tuple.message["n"].as_i64().unwrap());
    }
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
}

#[test]
fn a_sink_starts_with_and_without_acks() {
    for require_ack in [true, false] {
        let (_folder, host) = host();
        let sink = host.sink("hole").require_ack(require_ack).open().unwrap();
        for n in 0..100 {
            sink.send(&json!({ "n": n })).unwrap();
        }
        sink.close().unwrap();
    }
}

/// Creates a host with the one plugin, and the folder that holds everything.
fn host() -> (tempfile::TempDir, Host) {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("dialer");
    std::fs::create_dir(&plugin).unwrap();
    let manifest = json!({
        "version": "1", "language": "go", "executable": "run",
        "functions": ["double"], "sources": ["numbers"], "sinks": ["hole"],
    });
    std::fs::write(plugin.join("dialer.json"), manifest.to_string()).unwrap();
    let this = std::env::current_exe().unwrap();
    let script = format!("#!/bin/sh\n{LAUNCH}=\"$1\" exec '{}' --exact --ignored the_plugin\n", this.display());
    std::fs::write(plugin.join("run"), script).unwrap();
    std::fs::set_permissions(plugin.join("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let host = Host::builder().plugin(plugin).ipc_dir(folder.path()).build().unwrap();
    (folder, host)
}

#[test]
#[ignore = "the plugin's process, started by the tests above"]
fn the_plugin() {
    let Ok(launch) = std::env::var(LAUNCH) else { return };
    let folder = LaunchOptions::parse(&launch).unwrap().ipc_dir.unwrap();
    let folder = SocketFolder::new(folder);
    let control = UdsTransport::new().request(&folder.control("dialer").unwrap(), &Options::default()).unwrap();
    let sinks = Sinks::default();
    let started = serve(&*control, &|command| {
        let Command { kind, control } = Command::decode(command).unwrap();
        let started = match kind {
            CommandKind::Start => start(folder.path(), control, &sinks),
            CommandKind::Stop => {
                sinks.lock().unwrap().drain(..).for_each(|sink| sink.close());
                Ok(())
            }
        };
        started.map_or_else(|error| error.to_string(), |()| "ok".into()).into_bytes()
    });
    // The host is gone, and the plugin ends with its symbols.
    started.unwrap_err();
}

/// Completes the handshake, then answers until the host is gone.
fn serve(request: &dyn Request, answer: &dyn Fn(&[u8]) -> Vec<u8>) -> Result<(), TransportError> {
    let connection = request.connect(soon())?;
    request.send(connection, HANDSHAKE, None)?;
    serve_on(request, connection, answer)
}

fn serve_on(
    request: &dyn Request,
    connection: ConnectionId,
    answer: &dyn Fn(&[u8]) -> Vec<u8>,
) -> Result<(), TransportError> {
    let mut command = Vec::new();
    loop {
        request.receive(&mut command, None)?;
        request.send(connection, &answer(&command), None)?;
    }
}

/// Running sinks; a stop closes them.
type Sinks = Mutex<Vec<Arc<dyn Pull>>>;

/// Waits until the symbol's channel is connected, including the peer's header.
fn start(folder: &Path, control: Control, sinks: &Sinks) -> Result<(), TransportError> {
    let (transport, options) = (UdsTransport::new(), Options::default());
    let folder = SocketFolder::new(folder);
    match control.plugin_type {
        SymbolKind::Function => {
            let request = transport.request(&folder.function(&control.symbol_name).unwrap(), &options)?;
            let connection = request.connect(soon())?;
            std::thread::spawn(move || {
                request.send(connection, HANDSHAKE, None).unwrap();
                serve_on(&*request, connection, &|call| {
                    double(&serde_json::from_slice(call).unwrap()).to_string().into_bytes()
                })
            });
        }
        SymbolKind::Source => {
            let push = transport.push(&Endpoint::Dial(folder.data(&control.meta).unwrap()), &options)?;
            push.connect(soon())?;
            std::thread::spawn(move || {
                for n in 0..1000 {
                    push.send(json!({ "message": { "n": n }, "meta": null }).to_string().as_bytes(), None).unwrap();
                }
                push.flush(soon())
            });
        }
        SymbolKind::Sink => {
            let requires_ack = control.requires_ack();
            let pull = transport.pull(&Endpoint::Listen(folder.data(&control.meta).unwrap()), &options)?;
            let pull: Arc<dyn Pull> = pull.into();
            sinks.lock().unwrap().push(pull.clone());
            let acks = transport.push(&Endpoint::Dial(folder.ack(&control.meta).unwrap()), &options)?;
            acks.connect(soon())?;
            std::thread::spawn(move || {
                let mut message = Vec::new();
                while let Ok(event) = pull.receive(&mut message, None) {
                    if requires_ack && matches!(event, PullEvent::Message(_)) {
                        acks.send(b"{}", None).unwrap();
                    }
                }
            });
        }
    }
    Ok(())
}

/// The Go SDK's `parseFuncContextArgs`, and a function.
fn double(call: &Value) -> Value {
    let meta: Value = serde_json::from_str(call["arg"][1].as_str().unwrap()).unwrap();
    if meta["ruleId"] == "" || meta["opId"] == "" {
        return json!({ "state": false, "result": format!("invalid arg {meta}, ruleId, opId are required") });
    }
    json!({ "state": true, "result": call["arg"][0].as_i64().map(|n| 2 * n) })
}
