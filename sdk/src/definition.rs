//! Definitions of plugins, as their processes run them. `plugin` has their
//! builder.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ekuiper_core::message::{Hello, SymbolKind};

use crate::raw_function::RawFunction;
use crate::{Sink, Source};

pub(crate) type SourceFactory = Arc<dyn Fn() -> Box<dyn Source> + Send + Sync>;
pub(crate) type SinkFactory = Arc<dyn Fn() -> Box<dyn Sink> + Send + Sync>;
pub(crate) type SharedFunction = Arc<Mutex<Box<dyn RawFunction>>>;

/// The code that a symbol's thread runs.
type Run = Box<dyn FnOnce() + Send>;

/// Spawns a symbol's thread under a name.
pub(crate) type Spawn = Arc<dyn Fn(&str, Run) -> io::Result<()> + Send + Sync>;

/// A plugin's name, its symbols, its limits and its processes.
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) sources: BTreeMap<String, SourceFactory>,
    pub(crate) sinks: BTreeMap<String, SinkFactory>,
    pub(crate) functions: BTreeMap<String, SharedFunction>,
    /// The functions that may be retried once after a crash.
    pub(crate) idempotent: BTreeSet<String>,
    pub(crate) limits: Limits,
    pub(crate) supervised: bool,
    /// The worker's command line, where it differs from this process's.
    pub(crate) worker: Option<Vec<String>>,
    pub(crate) spawn: Spawn,
    /// The author's first mistake, reported when the plugin runs.
    pub(crate) mistake: Option<String>,
}

/// The timeouts and sizes of a plugin.
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

impl Definition {
    /// A plugin without symbols.
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
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

    /// The author's mistake, if there is one.
    pub(crate) fn mistake(&self) -> Option<String> {
        let empty = self.sources.is_empty() && self.sinks.is_empty() && self.functions.is_empty();
        let stray = self.idempotent.iter().find(|name| !self.functions.contains_key(*name));
        let stray =
            stray.map(|name| format!("{name:?} is declared idempotent, but no function of that name was added"));
        self.mistake.clone().or_else(|| empty.then(|| "no source, sink or function was added".into())).or(stray)
    }

    /// The plugin's hello, for a host that asks for one.
    pub(crate) fn hello(&self) -> Hello {
        let mut hello = Hello::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        for kind in SymbolKind::ALL {
            self.names(kind).into_iter().for_each(|name| hello.serves(kind, name));
        }
        hello
    }

    /// The names of the plugin's symbols of one kind.
    pub(crate) fn names(&self, kind: SymbolKind) -> Vec<&str> {
        match kind {
            SymbolKind::Source => self.sources.keys().map(String::as_str).collect(),
            SymbolKind::Sink => self.sinks.keys().map(String::as_str).collect(),
            SymbolKind::Function => self.functions.keys().map(String::as_str).collect(),
        }
    }
}
