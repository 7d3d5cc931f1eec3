//! The supervisor of a supervised plugin in Python. `start` replaces the
//! interpreter by this program, which runs the script again as its worker. No
//! symbol runs here.

use std::process::ExitCode;

use ekuiper_sdk::description::Description;
use ekuiper_sdk::prelude::*;
use serde::Deserialize;

/// The plugin as `start` describes it in this program's first argument.
#[derive(Deserialize)]
struct PluginDescription {
    name: String,
    sources: Vec<String>,
    sinks: Vec<String>,
    functions: Vec<String>,
    /// The plugin's description of itself, if the host asked for it.
    description: Option<String>,
    /// The interpreter, its options, the script and the engine's argument.
    command: Vec<String>,
}

/// A placeholder for a symbol, of which only the name matters here.
struct Named;

fn elsewhere<T>() -> Result<T> {
    Err("symbols run in the worker".into())
}

impl Source for Named {
    fn open(&mut self, _: &SourceContext) -> Result<()> {
        elsewhere()
    }
}

impl Sink for Named {
    fn collect(&mut self, _: &SinkContext, _: &[u8]) -> Result<()> {
        elsewhere()
    }
}

impl Function for Named {
    fn exec(&mut self, _: &[Value], _: &FunctionContext) -> Result<Value> {
        elsewhere()
    }
}

/// Supervises the plugin that the first argument describes.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let description = arguments.next().and_then(|text| serde_json::from_str::<PluginDescription>(&text).ok());
    let Some(PluginDescription { name, sources, sinks, functions, description, command }) = description else {
        eprintln!("this is the supervisor of supervised plugins in Python: ekuiper.plugin.start runs it");
        return ExitCode::from(2);
    };
    let described = move || match &description {
        Some(text) => Ok(Description::decode(text.as_bytes())?),
        None => Err("the interpreter has not described the plugin".into()),
    };
    let mut plugin = Plugin::new(name).supervised().worker(command).described_by(described);
    for name in sources {
        plugin = plugin.source(name, || Named);
    }
    for name in sinks {
        plugin = plugin.sink(name, || Named);
    }
    for name in functions {
        plugin = plugin.function(name, Named);
    }
    plugin.run_with(arguments.collect())
}
