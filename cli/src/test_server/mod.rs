//! What eKuiper's plugin test server does: symbols of an attached plugin that
//! requests start and stop. A source's tuples and a function's results go to
//! stdout; a sink gets made-up rows, a function made-up arguments.
//!
//! Symbols and their threads are here; [`http`] has the requests.

mod http;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use ekuiper_core::Chain;
use ekuiper_core::message::Control;
use ekuiper_core::sync::lock;
use ekuiper_host::{Error as Host, Function, FunctionMeta, Sink, Source, SymbolKind};
use serde_json::{Value, json};

use crate::console;
use crate::error::{Error, Result, excerpt};
use crate::output::{self, Reader};
use crate::session::Session;

/// Pause between two rows of a sink, or two calls of a function.
const PAUSE: Duration = Duration::from_secs(1);

/// Maximum wait of a start for the end of the same symbol, which was stopped.
const WHILE_ENDING: Duration = Duration::from_secs(10);

/// Interval of the look whether a source was stopped.
const LOOK: Duration = Duration::from_millis(100);

/// Serves requests until a signal comes, on a session whose plugin need not have
/// come yet.
pub(crate) fn run(session: &Session, name: &str, address: SocketAddr) -> Result<ExitCode> {
    let failed = |source| Error::Listen { address, option: "--serve", source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    if !address.ip().is_loopback() {
        console::tell(format_args!(
            "{address} can be reached from other machines, and whoever reaches it can start symbols"
        ));
    }
    let server = Arc::new(Symbols::new(session.host.clone(), name));
    http::serve(listener, server.clone())?;
    console::tell(format_args!("serving POST http://{address}/symbol/start and /symbol/stop"));
    let come = session.await_attached();
    let served = come.and_then(|()| {
        while !session.interrupt.is_set() {
            session.check()?;
            session.interrupt.wait(LOOK);
        }
        Ok(())
    });
    server.end();
    let _ = session.crashes();
    session.outcome(served)?;
    Ok(session.interrupt.exit_code())
}

/// The symbols that requests have started.
struct Symbols {
    host: Arc<ekuiper_host::Host>,
    plugin: String,
    /// Dropping a value stops the symbol.
    running: Mutex<HashMap<(&'static str, String), Sender<()>>>,
    /// Threads of symbols, which may have ended.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Symbols {
    fn new(host: Arc<ekuiper_host::Host>, plugin: &str) -> Self {
        Self { host, plugin: plugin.to_owned(), running: Mutex::default(), threads: Mutex::default() }
    }

    /// Starts a symbol, as the request says; returns what is wrong otherwise.
    fn start(&self, control: &Control) -> Result<(), String> {
        let key = key(control);
        let (kind, symbol) = (key.0, shown(&control.symbol_name));
        if self.host.pid(&self.plugin).is_none() {
            return Err(format!("plugin {} has not come: start it first", self.plugin));
        }
        let (stop, stopped) = mpsc::channel();
        {
            let mut running = lock(&self.running);
            if running.contains_key(&key) {
                return Err(format!("{kind} {symbol} is started already: stop it first"));
            }
            running.insert(key.clone(), stop);
        }
        let work = self.open(control).map_err(|error| Chain(&error).to_string()).and_then(|opened| {
            let subject = format!("{kind} {symbol}");
            let thread = std::thread::Builder::new().name(format!("{kind}-{symbol}"));
            let running = move || opened.run(&subject, &stopped);
            thread.spawn(running).map_err(|error| format!("cannot start a thread: {error}"))
        });
        let work = work.inspect_err(|_| _ = lock(&self.running).remove(&key))?;
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(work);
        Ok(())
    }

    /// Stops all symbols, and waits until their sockets are released. The host is
    /// shutting down, so nothing waits for the plugin.
    fn end(&self) {
        lock(&self.running).clear();
        let threads = std::mem::take(&mut *lock(&self.threads));
        threads.into_iter().for_each(|thread| _ = thread.join());
    }

    fn open(&self, control: &Control) -> ekuiper_host::Result<Opened> {
        let (host, symbol, meta) = (&self.host, &control.symbol_name, &control.meta);
        // The official Go SDK takes every instance for 0.
        let is_ours = host.description(&self.plugin)?.is_some();
        let instance = if is_ours { meta.instance_id } else { 0 };
        let config = Value::Object(control.config.clone().unwrap_or_default());
        Ok(match control.plugin_type {
            SymbolKind::Source => {
                let source = host.source(symbol).rule(&meta.rule_id).operator(&meta.op_id).instance(instance);
                Opened::Source(
                    source.datasource(control.datasource()).config(config).wait_for_place(WHILE_ENDING).open()?,
                )
            }
            SymbolKind::Sink => {
                let sink = host.sink(symbol).rule(&meta.rule_id).operator(&meta.op_id).instance(instance);
                Opened::Sink(
                    sink.config(config).require_ack(control.requires_ack()).wait_for_place(WHILE_ENDING).open()?,
                )
            }
            SymbolKind::Function => {
                let mut of = FunctionMeta::default();
                of.rule_id.clone_from(&meta.rule_id);
                of.op_id.clone_from(&meta.op_id);
                of.instance_id = instance;
                Opened::Function(host.function(symbol)?.with_meta(of))
            }
        })
    }

    /// Stops a symbol that a request has started; returns what is wrong
    /// otherwise.
    fn stop(&self, control: &Control) -> Result<(), String> {
        let (kind, symbol) = key(control);
        match lock(&self.running).remove(&(kind, symbol)) {
            Some(_stop) => Ok(()),
            None => Err(format!("{kind} {} is not started", shown(&control.symbol_name))),
        }
    }
}

/// A symbol is started once, for whatever rule.
fn key(control: &Control) -> (&'static str, String) {
    let kind = match control.plugin_type {
        SymbolKind::Source => "source",
        SymbolKind::Sink => "sink",
        SymbolKind::Function => "function",
    };
    (kind, control.symbol_name.clone())
}

fn shown(name: &str) -> String {
    excerpt(name.as_bytes(), 0)
}

/// A symbol that was started.
enum Opened {
    Source(Source),
    Sink(Sink),
    Function(Function),
}

impl Opened {
    /// Works until the symbol is stopped, or stdout has no reader.
    fn run(self, subject: &str, stopped: &Receiver<()>) {
        let failed = |error: &Host| console::tell(format_args!("{subject}: {}", Chain(error)));
        match self {
            Self::Source(source) => read(source, subject, stopped, failed),
            Self::Sink(sink) => {
                let rows = [json!({ "name": "hello", "count": 5 }), json!({ "name": "world", "count": 10 })];
                for row in rows.iter().cycle() {
                    if let Err(error) = sink.send(row) {
                        failed(&error);
                    }
                    if is_stopped(stopped, PAUSE) {
                        break;
                    }
                }
                if let Err(error) = sink.close() {
                    failed(&error);
                }
            }
            Self::Function(function) => {
                for argument in ["twelve", "eleven"].iter().cycle() {
                    match function.call::<Value>((argument,)) {
                        Ok(result) => {
                            let line = json!({ "function": function.name(), "result": result });
                            if !matches!(output::line(line), Ok(Reader::Reads)) {
                                return;
                            }
                        }
                        Err(Host::Stopped) => return,
                        Err(error) => failed(&error),
                    }
                    if is_stopped(stopped, PAUSE) {
                        return;
                    }
                }
            }
        }
    }
}

/// Prints a source's tuples.
fn read(mut source: Source, subject: &str, stopped: &Receiver<()>, failed: impl Fn(&Host)) {
    let name = subject.trim_start_matches("source ");
    while !is_stopped(stopped, Duration::ZERO) {
        match source.next_within(LOOK) {
            Ok(Some(tuple)) => {
                let line = json!({ "source": name, "message": tuple.message });
                if !matches!(output::line(line), Ok(Reader::Reads)) {
                    return;
                }
            }
            Ok(None) | Err(Host::Stopped) => return,
            Err(Host::Timeout { .. }) => {}
            Err(error) => failed(&error),
        }
    }
}

/// Waits for this time; returns whether the symbol is to stop.
fn is_stopped(stopped: &Receiver<()>, time: Duration) -> bool {
    !matches!(stopped.recv_timeout(time), Err(RecvTimeoutError::Timeout))
}
