//! The builder: which symbols a plugin has, and its limits.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ekuiper_core::message::{Hello, SymbolKind};

use crate::closure::{BoxedFunction, IntoFunction};
use crate::raw::RawFunction;
use crate::{Sink, Source, runtime};

pub(crate) type SourceFactory = Arc<dyn Fn() -> Box<dyn Source> + Send + Sync>;
pub(crate) type SinkFactory = Arc<dyn Fn() -> Box<dyn Sink> + Send + Sync>;
pub(crate) type SharedFunction = Arc<Mutex<Box<dyn RawFunction>>>;

/// What a symbol's thread runs.
type Run = Box<dyn FnOnce() + Send>;

/// Starts a symbol's thread, of this name.
pub(crate) type Spawn = Arc<dyn Fn(&str, Run) -> io::Result<()> + Send + Sync>;

/// A plugin: its name, its symbols, its limits.
///
/// The symbols' names are those of the plugin's manifest.
#[must_use = "it does nothing until it is run"]
pub struct Plugin {
    pub(crate) name: String,
    pub(crate) sources: BTreeMap<String, SourceFactory>,
    pub(crate) sinks: BTreeMap<String, SinkFactory>,
    pub(crate) functions: BTreeMap<String, SharedFunction>,
    /// Those of the functions that may be executed once more.
    pub(crate) idempotent: BTreeSet<String>,
    pub(crate) limits: Limits,
    pub(crate) supervised: bool,
    /// The worker's command line, where it is not this executable's own.
    pub(crate) worker: Option<Vec<String>>,
    pub(crate) spawn: Spawn,
    /// What the author did wrong; told by `run`.
    mistake: Option<String>,
}

/// How long and how much.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) start_timeout: Duration,
    pub(crate) stop_timeout: Duration,
    pub(crate) host_absence: Duration,
    pub(crate) max_message: usize,
    pub(crate) spin: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            start_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(3),
            host_absence: Duration::from_secs(10),
            max_message: ekuiper_core::transport::Options::default().max_message,
            spin: ekuiper_core::transport::Options::default().spin,
        }
    }
}

impl Plugin {
    /// A plugin without symbols. The name is the one of its manifest's file,
    /// and of the folder that it is installed in.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            sources: BTreeMap::new(),
            sinks: BTreeMap::new(),
            functions: BTreeMap::new(),
            idempotent: BTreeSet::new(),
            limits: Limits::default(),
            supervised: false,
            worker: None,
            spawn: Arc::new(|name, run| std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)),
            mistake: None,
        }
    }

    /// Adds a source; `make` makes one for each rule that uses it.
    pub fn source<S: Source + 'static>(
        mut self,
        name: impl Into<String>,
        make: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        self.check(SymbolKind::Source, &name, self.sources.contains_key(&name));
        self.sources.insert(name, Arc::new(move || Box::new(make())));
        self
    }

    /// Adds a sink; `make` makes one for each rule that uses it.
    pub fn sink<S: Sink + 'static>(
        mut self,
        name: impl Into<String>,
        make: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        self.check(SymbolKind::Sink, &name, self.sinks.contains_key(&name));
        self.sinks.insert(name, Arc::new(move || Box::new(make())));
        self
    }

    /// Adds a function: a closure, or a [`Function`](crate::Function).
    pub fn function<M>(self, name: impl Into<String>, function: impl IntoFunction<M>) -> Self {
        self.add_function(name.into(), function.into_function(false))
    }

    /// Adds an aggregate function: each argument is the array of a window's
    /// values.
    pub fn aggregate<M>(self, name: impl Into<String>, function: impl IntoFunction<M>) -> Self {
        self.add_function(name.into(), function.into_function(true))
    }

    fn add_function(mut self, name: String, function: BoxedFunction) -> Self {
        self.check(SymbolKind::Function, &name, self.functions.contains_key(&name));
        self.functions.insert(name, Arc::new(Mutex::new(function.0)));
        self
    }

    /// Declares a function idempotent: a call that may have been executed
    /// already, when a worker of a [supervised](Plugin::supervised) plugin
    /// died, is executed once more instead of answered with an error.
    pub fn idempotent(mut self, name: impl Into<String>) -> Self {
        self.idempotent.insert(name.into());
        self
    }

    /// Puts a guard process before the plugin, so that a crash costs a restart
    /// and not the rules, also under an engine that restarts nothing.
    ///
    /// The process that the engine starts is then the guard. It starts this
    /// executable once more, as the worker, which runs the symbols and has
    /// their channels; when that dies, it starts another within 100 ms, and in
    /// it whatever was live. A source begins anew. Repeated crashes make it
    /// wait longer and longer; after five within a minute it ends with exit
    /// code 1.
    ///
    /// A call that was executed when the worker died is answered with the
    /// error "outcome unknown", and not executed again, unless its function is
    /// [idempotent](Plugin::idempotent). So is a message that a sink had and
    /// had not acknowledged, where the engine asks for that.
    ///
    /// What `main` does before [`run`](Plugin::run) is done in both processes:
    /// load what is large in a source's or sink's constructor, or at a
    /// function's first call.
    pub fn supervised(mut self) -> Self {
        self.supervised = true;
        self
    }

    /// Makes the guard of a [supervised](Plugin::supervised) plugin start this
    /// command line, program and arguments, as its worker: for bindings of
    /// other languages, whose guard is a program of its own and has the same
    /// symbols in name only. The worker is supervised too, and runs.
    pub fn worker(mut self, command: Vec<String>) -> Self {
        self.worker = Some(command);
        self
    }

    /// Makes `spawn` start the threads that symbols run on, each of its symbol's
    /// name, instead of the SDK itself: for bindings of other languages, whose
    /// runtime wants to have made the threads that run its code. A thread that
    /// cannot be started refuses its symbol's start.
    pub fn spawn_with(
        mut self,
        spawn: impl Fn(&str, Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.spawn = Arc::new(spawn);
        self
    }

    /// How long a symbol's start may take (its construction, `configure`, and
    /// a sink's `open`). The engine's other starts and stops wait meanwhile.
    /// Default: 10 s.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.limits.start_timeout = timeout;
        self
    }

    /// How long a symbol's stop may take (the rest of `open` or `collect`, and
    /// `close`), before it is given up as hung. Default: 3 s, less than the
    /// 5 s that hosts wait.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.limits.stop_timeout = timeout;
        self
    }

    /// For how long the host may be gone from the control channel before the
    /// plugin ends itself. Default: 10 s.
    pub fn host_absence(mut self, absence: Duration) -> Self {
        self.limits.host_absence = absence;
        self
    }

    /// The longest message that is sent or taken, in bytes; what is longer is
    /// an error where it is sent. Default: 64 MiB. The Go engine's own limit
    /// may be lower.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.limits.max_message = bytes;
        self
    }

    /// For how long at most a function or a sink looks for its next message
    /// before it sleeps, where that has paid lately (`uds`); zero: never.
    /// Default: 20 µs.
    pub fn spin(mut self, spin: Duration) -> Self {
        self.limits.spin = spin;
        self
    }

    fn check(&mut self, kind: SymbolKind, name: &str, taken: bool) {
        let mistake = if name.is_empty() || name.contains(['/', '\0']) {
            format!("{kind} name {name:?} is empty, or contains a slash or a NUL")
        } else if taken {
            format!("{kind} {name:?} is added twice")
        } else {
            return;
        };
        self.mistake.get_or_insert(mistake);
    }

    /// What the author did wrong, if anything.
    pub(crate) fn mistake(&self) -> Option<String> {
        let empty = self.sources.is_empty() && self.sinks.is_empty() && self.functions.is_empty();
        let stray = self.idempotent.iter().find(|name| !self.functions.contains_key(*name));
        let stray = stray.map(|name| format!("{name:?} is declared idempotent and is no function"));
        self.mistake.clone().or_else(|| empty.then(|| "it has no source, sink or function".into())).or(stray)
    }

    /// What it says of itself to a host that asks.
    pub(crate) fn hello(&self) -> Hello {
        let mut hello = Hello::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        for kind in SymbolKind::ALL {
            self.names(kind).into_iter().for_each(|name| hello.serves(kind, name));
        }
        hello
    }

    /// The names of its symbols of one kind.
    pub(crate) fn names(&self, kind: SymbolKind) -> Vec<&str> {
        match kind {
            SymbolKind::Source => self.sources.keys().map(String::as_str).collect(),
            SymbolKind::Sink => self.sinks.keys().map(String::as_str).collect(),
            SymbolKind::Function => self.functions.keys().map(String::as_str).collect(),
        }
    }

    /// Serves the engine that started this process, until the engine ends, or
    /// ends it: return what this returns from `main`.
    ///
    /// The exit code is 0 after an orderly end (a signal, the engine's end), 1
    /// when the plugin cannot serve, and 2 when it was not started by an
    /// engine. Logs go to stderr.
    pub fn run(self) -> ExitCode {
        let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
        runtime::run(self, arguments.collect())
    }

    /// The same for a plugin that is a script, whose interpreter has arguments
    /// of its own: `arguments` are those that follow the script's name.
    pub fn run_with(self, arguments: Vec<String>) -> ExitCode {
        runtime::run(self, arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_found() {
        assert_eq!(Plugin::new("p").mistake().unwrap(), "it has no source, sink or function");
        let plugin = Plugin::new("p").function("f", || 1).aggregate("f", || 2);
        assert_eq!(plugin.mistake().unwrap(), "function \"f\" is added twice");
        let plugin = Plugin::new("p").function("a/b", || 1);
        assert_eq!(plugin.mistake().unwrap(), "function name \"a/b\" is empty, or contains a slash or a NUL");
        let plugin = Plugin::new("p").idempotent("g").function("f", || 1);
        assert_eq!(plugin.mistake().unwrap(), "\"g\" is declared idempotent and is no function");
        assert_eq!(Plugin::new("p").idempotent("f").function("f", || 1).mistake(), None);
    }
}
