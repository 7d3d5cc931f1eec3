//! `watch`: a plugin that is rebuilt and updated when its files change, while
//! its symbols go on.

use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use ekuiper_core::{Chain, printable};
use ekuiper_host::SymbolKind;
use serde_json::{Value, json};

use super::{argument, object};
use crate::args::{Common, Watch};
use crate::error::{Error, Result};
use crate::json_text::JsonText;
use crate::output::{self, Reader};
use crate::pipeline::Pipeline;
use crate::reading::Reading;
use crate::session::Session;

/// Interval of the look for the user's interrupt.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn run(common: &Common, watch: &Watch) -> Result<ExitCode> {
    let arguments = watch.arguments.iter().enumerate();
    let arguments = arguments.map(|(index, text)| argument(index + 1, text));
    let arguments = arguments.collect::<Result<Vec<Value>>>()?;
    let config = object("--config", &watch.config)?;
    if watch.path.extension().is_some_and(|extension| extension == "toml") && watch.path.is_file() {
        return pipeline(common, watch);
    }
    let (session, updates) = Session::watch(common, &watch.build, &[&watch.path])?;
    let watched = match kind(&session, watch)? {
        Some(SymbolKind::Source) => read(&session, watch, config),
        Some(SymbolKind::Function) => call(&session, watch, &arguments, &updates),
        Some(SymbolKind::Sink) => Err(Error::WatchedSink { symbol: watch.symbol.clone().unwrap_or_default() }),
        None => {
            session.host.start_all()?;
            session.tell_what_happens()?;
            while !session.interrupt.is_set() {
                session.interrupt.wait(Duration::from_secs(3600));
            }
            Ok(())
        }
    };
    let _ = session.crashes();
    session.outcome(watched)?;
    Ok(session.interrupt.exit_code())
}

/// Returns the kind of the symbol that the user names, if any.
fn kind(session: &Session, watch: &Watch) -> Result<Option<SymbolKind>> {
    let Some(symbol) = &watch.symbol else { return Ok(None) };
    let packages = session.host.packages();
    let has = |kind: SymbolKind| packages.iter().any(|package| package.manifest.symbols(kind).contains(symbol));
    match SymbolKind::ALL.into_iter().find(|kind| has(*kind)) {
        Some(kind) => Ok(Some(kind)),
        // The host says which functions there are.
        None => session.host.function(symbol).map(|_| None).map_err(Error::from),
    }
}

/// Runs a pipeline whose plugins are watched.
fn pipeline(common: &Common, watch: &Watch) -> Result<ExitCode> {
    let pipeline = Pipeline::read(&watch.path)?;
    let paths: Vec<&Path> = pipeline.plugins.iter().map(AsRef::as_ref).collect();
    let (session, _updates) = Session::watch(common, &watch.build, &paths)?;
    super::run::execute(&session, &pipeline, &watch.limits)
}

/// Prints a source's rows.
fn read(session: &Session, watch: &Watch, config: Value) -> Result<()> {
    let symbol = watch.symbol.as_deref().unwrap_or_default();
    let source = session.host.source(symbol).datasource(&watch.datasource).config(config);
    let source = source.open_as::<JsonText>()?;
    session.tell_what_happens()?;
    let mut reading = Reading::new(source, symbol, None, &watch.limits, &session.interrupt);
    reading.ends_with_the_reader_of_stdout()?;
    while let Some(tuple) = reading.next()? {
        reading.errors.reset();
        if output::line(tuple.message)? == Reader::HasGone {
            break;
        }
    }
    Ok(())
}

/// Calls a function, and again after each update.
fn call(session: &Session, watch: &Watch, arguments: &[Value], updates: &Receiver<String>) -> Result<()> {
    let symbol = watch.symbol.as_deref().unwrap_or_default();
    let function = session.host.function(symbol)?;
    session.tell_what_happens()?;
    loop {
        let result = function.validate(arguments).and_then(|()| function.call::<Value>(arguments));
        let printed = match result {
            Ok(result) => output::line(result)?,
            Err(_) if session.interrupt.is_set() => return Ok(()),
            // The next version may answer.
            Err(error) => output::line(json!({ "error": printable::lines(&Chain(&error).to_string()) }))?,
        };
        if printed == Reader::HasGone {
            return Ok(());
        }
        loop {
            match updates.recv_timeout(LOOK) {
                Ok(_) => break,
                Err(RecvTimeoutError::Timeout) if !session.interrupt.is_set() => {}
                Err(_) => return Ok(()),
            }
        }
    }
}
