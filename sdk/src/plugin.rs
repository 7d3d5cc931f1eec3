//! The builder of a plugin: its symbols and its limits.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ekuiper_core::description::DESCRIBE;
use ekuiper_core::message::SymbolKind;

use crate::definition::{Definition, SinkDefinition, SourceDefinition};
use crate::description::Description;
use crate::raw_function::{BoxedFunction, IntoFunction};
use crate::{Result, Sink, Source, runtime};

/// A plugin: its name, its symbols and its limits.
///
/// The symbols' names are those in the plugin's manifest.
#[must_use = "a plugin does nothing until `run` is called"]
pub struct Plugin {
    definition: Definition,
}

impl Plugin {
    /// Creates a plugin without symbols. Its name is that of its manifest's
    /// file, and of the folder that it is installed in.
    pub fn new(name: impl Into<String>) -> Self {
        Self { definition: Definition::new(name.into()) }
    }

    /// Sets the version that the plugin's description and manifest have,
    /// normally `env!("CARGO_PKG_VERSION")`.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.definition.version = version.into();
        self
    }

    /// Adds a source; `make` creates an instance for each rule that uses it.
    pub fn source<S: Source + 'static>(
        mut self,
        name: impl Into<String>,
        make: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        self.check(SymbolKind::Source, &name, self.definition.sources.contains_key(&name));
        let make = Arc::new(move || Box::new(make()) as Box<dyn Source>);
        self.definition.sources.insert(name, SourceDefinition { make, describe: S::describe });
        self
    }

    /// Adds a sink; `make` creates an instance for each rule that uses it.
    pub fn sink<S: Sink + 'static>(
        mut self,
        name: impl Into<String>,
        make: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        self.check(SymbolKind::Sink, &name, self.definition.sinks.contains_key(&name));
        let make = Arc::new(move || Box::new(make()) as Box<dyn Sink>);
        self.definition.sinks.insert(name, SinkDefinition { make, describe: S::describe });
        self
    }

    /// Adds a function: a closure or a [`Function`](crate::Function), or one of
    /// these with a [description](crate::describe).
    pub fn function<M>(self, name: impl Into<String>, function: impl IntoFunction<M>) -> Self {
        self.add_function(name.into(), function.into_function(false))
    }

    /// Adds an aggregate function, each of whose arguments is the array of a
    /// window's values.
    pub fn aggregate<M>(self, name: impl Into<String>, function: impl IntoFunction<M>) -> Self {
        self.add_function(name.into(), function.into_function(true))
    }

    /// Adds a columnar function: a closure of arrays, which gets the rows of a
    /// batch at once: see [`columns`](crate::columns). Under an engine that
    /// sends rows it is called with arrays of one value.
    #[cfg(feature = "arrow")]
    pub fn columnar<M>(self, name: impl Into<String>, function: impl crate::columns::IntoColumnar<M>) -> Self {
        self.add_function(name.into(), function.into_columnar())
    }

    fn add_function(mut self, name: String, function: BoxedFunction) -> Self {
        self.check(SymbolKind::Function, &name, self.definition.functions.contains_key(&name));
        self.definition.functions.insert(name, function.into());
        self
    }

    /// Puts a supervisor process before the plugin, so that a crash costs a
    /// restart and not the rules, even under an engine that restarts nothing.
    ///
    /// The process that the engine starts is then the supervisor. It starts
    /// this executable again as the worker, which runs the symbols and owns
    /// their channels. When the worker dies, the supervisor starts another
    /// within 100 ms, and in it all live symbols. A source starts over. Each
    /// further crash lengthens the delay; after five within a minute the
    /// supervisor ends with exit code 1.
    ///
    /// A call that was in flight when the worker died is answered with the
    /// error "outcome unknown", and not executed again, unless its function is
    /// [idempotent](crate::description::Described::idempotent). A message that a sink had not
    /// acknowledged gets the same error as its acknowledgement, where the
    /// engine asks for acknowledgements.
    ///
    /// Code that `main` executes before [`run`](Plugin::run) runs in both
    /// processes: load large data in a source's or sink's constructor, or at a
    /// function's first call.
    pub fn supervised(mut self) -> Self {
        self.definition.supervised = true;
        self
    }

    /// Sets the command line, program and arguments, that the supervisor of a
    /// [supervised](Plugin::supervised) plugin starts as its worker: for
    /// language bindings whose supervisor is a separate program that declares
    /// the symbols' names only. The worker calls `supervised` and `run` too.
    pub fn worker(mut self, command: Vec<String>) -> Self {
        self.definition.worker = Some(command);
        self
    }

    /// Sets the function that spawns the threads of symbols, each named after
    /// its symbol: for language bindings whose runtime must create the threads
    /// that run its code. A thread that cannot be spawned refuses its symbol's
    /// start.
    pub fn spawn_with(
        mut self,
        spawn: impl Fn(&str, Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.definition.spawn = Arc::new(spawn);
        self
    }

    /// Sets the function that describes the plugin: for language bindings, whose
    /// symbols' types the SDK does not know. It is called once, when a host asks
    /// for the description or a symbol is configured.
    pub fn described_by(mut self, describe: impl Fn() -> Result<Description> + Send + Sync + 'static) -> Self {
        self.definition.described_by = Some(Box::new(describe));
        self
    }

    /// Sets the maximum duration of a symbol's start: its construction,
    /// `configure`, and a sink's `open`. The engine's other starts and stops
    /// wait meanwhile. Default: 10 s.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.definition.limits.start_timeout = timeout;
        self
    }

    /// Sets the maximum duration of a symbol's stop: the rest of `open` or
    /// `collect`, and `close`. A symbol that takes longer is abandoned as hung.
    /// Default: 3 s, less than the 5 s that hosts wait.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.definition.limits.stop_timeout = timeout;
        self
    }

    /// Sets the maximum time without a host on the control channel, after which
    /// the plugin ends itself. Default: 10 s.
    pub fn host_absence(mut self, absence: Duration) -> Self {
        self.definition.limits.host_absence = absence;
        self
    }

    /// Sets the maximum length of a message that is sent or received, in bytes.
    /// Sending a longer one is an error. Default: 64 MiB. The Go engine's own
    /// limit may be lower.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.definition.limits.max_message = bytes;
        self
    }

    /// Sets the maximum time that a function or a sink busy-polls for its next
    /// message before blocking, when recent busy-polling has paid off (`uds`
    /// and `shm`). A few times in a row it is up to 30 µs more, to meet an engine that
    /// is waking up. Zero disables busy-polling; more than 10 ms counts as that.
    /// Default: 50 µs, within which a stock engine sends the next message.
    pub fn spin(mut self, spin: Duration) -> Self {
        self.definition.limits.spin = spin;
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
        self.definition.mistake.get_or_insert(mistake);
    }

    /// Describes the plugin: its symbols, their types and their configuration.
    ///
    /// # Errors
    /// A mistake in the plugin's definition.
    pub fn description(&self) -> Result<Description> {
        if let Some(mistake) = self.definition.mistake() {
            return Err(mistake.into());
        }
        Ok((*self.definition.description()?).clone())
    }

    /// Serves the engine that started this process, until the engine ends or
    /// stops the plugin. Return the result from `main`.
    ///
    /// For the argument `--describe` it prints the plugin's
    /// [description](Plugin::description) as one line of JSON to stdout, and
    /// serves no engine.
    ///
    /// The exit code is 0 after an orderly end (a signal, the engine's end), 1
    /// when the plugin cannot serve, and 2 when it was not started by an engine,
    /// or cannot describe itself. Logs go to stderr.
    pub fn run(self) -> ExitCode {
        let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
        self.run_with(arguments.collect())
    }

    /// Runs as [`run`](Plugin::run) does, with explicit arguments: for a plugin
    /// that is a script, the arguments after the script's name.
    pub fn run_with(self, arguments: Vec<String>) -> ExitCode {
        if arguments == [DESCRIBE] {
            return print_description(&self.definition);
        }
        runtime::run(self.definition, arguments)
    }
}

/// Prints the plugin's description.
fn print_description(plugin: &Definition) -> ExitCode {
    let described = plugin.mistake().map_or_else(|| plugin.description(), Err);
    let printed = described.and_then(|description| {
        let mut stdout = io::stdout().lock();
        let line = format!("{}\n", description.encode());
        let written = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
        written.map_err(|error| format!("cannot write the description: {error}"))
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            let _ = writeln!(io::stderr(), "plugin {}: {text}", plugin.name);
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe;

    #[test]
    fn mistakes_are_found() {
        assert_eq!(Plugin::new("p").definition.mistake().unwrap(), "no source, sink or function was added");
        let plugin = Plugin::new("p").function("f", || 1).aggregate("f", || 2);
        assert_eq!(plugin.definition.mistake().unwrap(), "function \"f\" is added twice");
        let plugin = Plugin::new("p").function("a/b", || 1);
        assert_eq!(
            plugin.definition.mistake().unwrap(),
            "function name \"a/b\" is empty, or contains a slash or a NUL"
        );
        let named = |names: &[&str]| {
            let clamp = |value: f64, low: f64, high: f64| value.max(low).min(high);
            let plugin = Plugin::new("p").function("clamp", describe(clamp).arguments(names.iter().copied()));
            plugin.definition.mistake()
        };
        assert_eq!(named(&["value", "low", "high"]), None);
        assert_eq!(named(&["value"]).unwrap(), "function \"clamp\" takes 3 arguments, but 1 is named");
        assert_eq!(named(&["a", "b", "c", "d"]).unwrap(), "function \"clamp\" takes 3 arguments, but 4 are named");
    }
}
