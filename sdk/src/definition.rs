//! Definitions of plugins, as their processes run them. `plugin` has their
//! builder.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ekuiper_core::message::{Hello, SymbolKind};
use ekuiper_core::sync::lock;

use crate::description::{
    Declared, Description, FunctionDescription, Language, Sdk, SinkDescription, SourceDescription,
};
use crate::error::text_of;
use crate::panic::catch_panic;
use crate::raw_function::{BoxedFunction, RawFunction};
use crate::{Result, Sink, Source, configuration};

pub(crate) type SourceFactory = Arc<dyn Fn() -> Box<dyn Source> + Send + Sync>;
pub(crate) type SinkFactory = Arc<dyn Fn() -> Box<dyn Sink> + Send + Sync>;
pub(crate) type SharedFunction = Arc<Mutex<Box<dyn RawFunction>>>;

/// A source: how an instance is made, and what its type says about it.
pub(crate) struct SourceDefinition {
    pub(crate) make: SourceFactory,
    pub(crate) describe: fn() -> SourceDescription,
}

/// A sink.
pub(crate) struct SinkDefinition {
    pub(crate) make: SinkFactory,
    pub(crate) describe: fn() -> SinkDescription,
}

/// A function.
pub(crate) struct FunctionDefinition {
    pub(crate) shared: SharedFunction,
    pub(crate) declared: Declared,
}

impl From<BoxedFunction> for FunctionDefinition {
    fn from(BoxedFunction { function, declared }: BoxedFunction) -> Self {
        Self { shared: Arc::new(Mutex::new(function)), declared }
    }
}

/// Describes a plugin whose symbols' types are unknown to the SDK.
type DescribedBy = Box<dyn Fn() -> Result<Description> + Send + Sync>;

/// The code that a symbol's thread runs.
type Run = Box<dyn FnOnce() + Send>;

/// Spawns a symbol's thread under a name.
pub(crate) type Spawn = Arc<dyn Fn(&str, Run) -> io::Result<()> + Send + Sync>;

/// A plugin's name, its symbols, its limits and its processes.
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) sources: BTreeMap<String, SourceDefinition>,
    pub(crate) sinks: BTreeMap<String, SinkDefinition>,
    pub(crate) functions: BTreeMap<String, FunctionDefinition>,
    pub(crate) described_by: Option<DescribedBy>,
    /// The description, once it was needed.
    described: OnceLock<Result<Arc<Description>, String>>,
    pub(crate) limits: Limits,
    pub(crate) supervised: bool,
    /// The worker's command line, where it differs from this process's.
    pub(crate) worker: Option<Vec<String>>,
    pub(crate) spawn: Spawn,
    /// The author's first mistake, reported when the plugin runs.
    pub(crate) mistake: Option<String>,
}

impl FunctionDefinition {
    /// The function's description.
    ///
    /// # Errors
    /// The author's mistake.
    fn describe(&self, name: &str) -> Result<FunctionDescription, String> {
        let function = lock(&self.shared);
        let mut described = function.describe();
        name.clone_into(&mut described.name);
        // Its failure is the answer to a call of it, and no mistake of the plugin.
        described.aggregate = catch_panic(|| Ok(function.is_aggregate())).unwrap_or(false);
        self.declared.add_to(&mut described).map_err(|mistake| format!("function {name:?} {mistake}"))?;
        Ok(described)
    }
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

/// A stock engine on an idle processor sends the next call or row 15 to 45 µs
/// after it has the answer to the last one. It is at the lower end where the
/// answer comes before its own threads block, so a plugin that blocks too soon
/// slows down both.
const SPIN: Duration = Duration::from_micros(50);

impl Default for Limits {
    fn default() -> Self {
        Self {
            start_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(3),
            host_absence: Duration::from_secs(10),
            max_message: ekuiper_core::transport::Options::default().max_message,
            spin: SPIN,
        }
    }
}

impl Definition {
    /// A plugin without symbols.
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            version: String::new(),
            sources: BTreeMap::new(),
            sinks: BTreeMap::new(),
            functions: BTreeMap::new(),
            described_by: None,
            described: OnceLock::new(),
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
        let misnamed = || {
            // Only names can be wrong: do not trace types at each start.
            let named = self.functions.iter().filter(|(_, function)| function.declared.names_arguments());
            named.filter_map(|(name, function)| function.describe(name).err()).next()
        };
        let mistake = self.mistake.clone();
        mistake.or_else(|| empty.then(|| "no source, sink or function was added".into())).or_else(misnamed)
    }

    /// The plugin's description.
    ///
    /// # Errors
    /// The author's mistake, or the failure of the code that describes the
    /// plugin.
    pub(crate) fn description(&self) -> Result<Arc<Description>, String> {
        self.described
            .get_or_init(|| {
                let described = catch_panic(|| match &self.described_by {
                    Some(describe) => describe(),
                    None => Ok(self.describe()?),
                });
                described.map(Arc::new).map_err(|error| text_of(&*error))
            })
            .clone()
    }

    fn describe(&self) -> Result<Description, String> {
        let sdk = Sdk::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        let mut description = Description::new(&self.name, Language::Rust, sdk);
        description.version.clone_from(&self.version);
        for (name, source) in &self.sources {
            let mut described = (source.describe)();
            described.name.clone_from(name);
            description.sources.push(described);
        }
        for (name, sink) in &self.sinks {
            let mut described = (sink.describe)();
            described.name.clone_from(name);
            description.sinks.push(described);
        }
        for (name, function) in &self.functions {
            description.functions.push(function.describe(name)?);
        }
        Ok(description)
    }

    /// What a source or sink says about its configuration.
    pub(crate) fn configuration(&self, kind: SymbolKind, symbol: &str) -> configuration::Described {
        let of_plugin = || self.description().ok().and_then(|plugin| plugin.config(kind, symbol).cloned());
        let of_type = || match kind {
            SymbolKind::Source => (self.sources.get(symbol)?.describe)().config,
            SymbolKind::Sink => (self.sinks.get(symbol)?.describe)().config,
            SymbolKind::Function => None,
        };
        let fields = match &self.described_by {
            Some(_) => of_plugin(),
            // Not the whole plugin's: functions may be busy.
            None => catch_panic(|| Ok(of_type())).unwrap_or_default(),
        };
        configuration::Described::new(kind, fields)
    }

    /// The plugin's hello, for a host that asks for one.
    pub(crate) fn hello(&self) -> Hello {
        let mut hello = Hello::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        for kind in SymbolKind::ALL {
            self.names(kind).into_iter().for_each(|name| hello.serves(kind, name));
        }
        match self.description() {
            Ok(description) => hello.description = Some(Box::new((*description).clone())),
            Err(error) => tracing::warn!(error, "the plugin cannot describe itself"),
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
