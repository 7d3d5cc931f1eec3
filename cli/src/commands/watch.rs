//! `watch`: a plugin that is rebuilt and updated when its files change, while
//! its symbols go on.

use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ekuiper_core::{Chain, printable};
use ekuiper_host::SymbolKind;
use serde_json::{Value, json};

use super::{argument, object};
use crate::args::{Common, Watch};
use crate::console;
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
        Some(SymbolKind::Source) => read(&session, watch, &config, &updates),
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

/// Runs a pipeline whose plugins are watched. If a plugin keeps crashing, the
/// pipeline runs again once it is updated.
fn pipeline(common: &Common, watch: &Watch) -> Result<ExitCode> {
    let pipeline = Pipeline::read(&watch.path)?;
    let paths: Vec<&Path> = pipeline.plugins.iter().map(AsRef::as_ref).collect();
    let (session, updates) = Session::watch(common, &watch.build, &paths)?;
    loop {
        match super::run::execute(&session, &pipeline, &watch.limits, None) {
            Err(error) if error.is_final() && !session.interrupt.is_set() => {
                console::line(format_args!("{}: the pipeline runs again after the next change", Chain(&error)));
                if !has_update(&session, &updates) {
                    return Ok(session.interrupt.exit_code());
                }
            }
            done => return done,
        }
    }
}

/// Prints a source's rows. After its end, or a failure, it is read again once
/// the plugin is updated.
fn read(session: &Session, watch: &Watch, config: &Value, updates: &Receiver<String>) -> Result<()> {
    let symbol = watch.symbol.as_deref().unwrap_or_default();
    let begun = Instant::now();
    let open = || {
        let source = session.host.source(symbol).datasource(&watch.datasource).config(config.clone());
        Ok(Reading::new(source.open_as::<JsonText>()?, symbol, None, &watch.limits, &session.interrupt))
    };
    // Without a first version there is nothing to go on with.
    let mut reading = Ok(open()?);
    session.tell_what_happens()?;
    loop {
        let ended = match reading.and_then(print_rows) {
            Ok(Reader::HasGone) => return Ok(()),
            Ok(Reader::Reads) => format!("source {symbol} has ended"),
            Err(error) => Chain(&error).to_string(),
        };
        let is_over = watch.limits.timeout.is_some_and(|timeout| begun.elapsed() >= timeout);
        if is_over || session.interrupt.is_set() {
            return Ok(());
        }
        console::line(format_args!("{ended}: it is read again after the next change"));
        if !has_update(session, updates) {
            return Ok(());
        }
        reading = open();
    }
}

/// Prints the rows until the source's end, or until nobody reads them.
fn print_rows(mut reading: Reading<JsonText>) -> Result<Reader> {
    reading.ends_with_the_reader_of_stdout()?;
    while let Some(tuple) = reading.next()? {
        reading.errors.reset();
        if output::line(tuple.message)? == Reader::HasGone {
            return Ok(Reader::HasGone);
        }
    }
    Ok(if reading.has_no_reader() { Reader::HasGone } else { Reader::Reads })
}

/// Waits for an update; false if there will be none.
fn has_update(session: &Session, updates: &Receiver<String>) -> bool {
    loop {
        match updates.recv_timeout(LOOK) {
            Ok(_) => break,
            Err(RecvTimeoutError::Timeout) if !session.interrupt.is_set() => {}
            Err(_) => return false,
        }
    }
    // Those that came meanwhile are in effect as well.
    updates.try_iter().for_each(drop);
    true
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
        if !has_update(session, updates) {
            return Ok(());
        }
    }
}
