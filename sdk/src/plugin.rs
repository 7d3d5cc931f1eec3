//! The builder: which symbols a plugin has.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use crate::closure::{ErasedFunction, IntoFunction};
use crate::{Sink, Source, runtime};

pub(crate) type SourceFactory = Box<dyn Fn() -> Box<dyn Source> + Send + Sync>;
pub(crate) type SinkFactory = Box<dyn Fn() -> Box<dyn Sink> + Send + Sync>;
pub(crate) type SharedFunction = Arc<Mutex<Box<dyn ErasedFunction>>>;

/// A plugin: its name and its symbols.
#[must_use = "it does nothing until it is run"]
pub struct Plugin {
    pub(crate) name: String,
    pub(crate) sources: BTreeMap<String, SourceFactory>,
    pub(crate) sinks: BTreeMap<String, SinkFactory>,
    pub(crate) functions: BTreeMap<String, SharedFunction>,
    /// What the author did wrong; told by `run`.
    pub(crate) mistake: Option<String>,
}

impl Plugin {
    /// A plugin without symbols. The name is the one of its manifest.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            sources: BTreeMap::new(),
            sinks: BTreeMap::new(),
            functions: BTreeMap::new(),
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
        self.check("source", &name);
        if self.sources.insert(name.clone(), Box::new(move || Box::new(make()))).is_some() {
            self.twice("source", &name);
        }
        self
    }

    /// Adds a sink; `make` makes one for each rule that uses it.
    pub fn sink<S: Sink + 'static>(
        mut self,
        name: impl Into<String>,
        make: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        self.check("sink", &name);
        if self.sinks.insert(name.clone(), Box::new(move || Box::new(make()))).is_some() {
            self.twice("sink", &name);
        }
        self
    }

    /// Adds a function: a closure, or a [`Function`](crate::Function).
    pub fn function<M>(self, name: impl Into<String>, function: impl IntoFunction<M>) -> Self {
        self.add_function(name.into(), function.into_function(false).0)
    }

    /// Adds an aggregate function: each argument is the array of a window's
    /// values.
    pub fn aggregate<M>(self, name: impl Into<String>, function: impl IntoFunction<M>) -> Self {
        self.add_function(name.into(), function.into_function(true).0)
    }

    fn add_function(mut self, name: String, function: Box<dyn ErasedFunction>) -> Self {
        self.check("function", &name);
        if self.functions.insert(name.clone(), Arc::new(Mutex::new(function))).is_some() {
            self.twice("function", &name);
        }
        self
    }

    fn check(&mut self, kind: &str, name: &str) {
        if name.is_empty() || name.contains('/') {
            self.mistake.get_or_insert(format!("{kind} name {name:?} is empty or contains a slash"));
        }
    }

    fn twice(&mut self, kind: &str, name: &str) {
        self.mistake.get_or_insert(format!("{kind} {name:?} is added twice"));
    }

    /// Serves the engine that started this process, until it stops it.
    pub fn run(self) -> ExitCode {
        runtime::run(self)
    }
}
