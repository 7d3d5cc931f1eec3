//! `deploy`: a plugin into a running engine, and `remove`: out of it again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ekuiper_core::manifest::Manifest;
use ekuiper_core::printable;
use ekuiper_host::Package;
use serde_json::json;

use super::package::{self, Made};
use crate::args::{Common, Deploy, Remove};
use crate::console;
use crate::engine::{Engine, RuleStatus};
use crate::error::{Error, Result};
use crate::output;
use crate::plugin_path;
use crate::progress::counted;

/// Interval of the look at the plugin's state.
const LOOK: Duration = Duration::from_millis(100);

/// A package to be installed.
struct Shipment {
    name: String,
    manifest: Manifest,
    file: PathBuf,
    /// Where a package lies that was made for this.
    _folder: Option<tempfile::TempDir>,
}

pub(super) fn deploy(common: &Common, arguments: &Deploy) -> Result<ExitCode> {
    // Before anything is built.
    let engine = Engine::at(&arguments.engine.url, arguments.engine.token.as_deref())?;
    let shipment = ship(common, arguments)?;
    let name = &shipment.name;
    let before = engine.plugin(name)?;
    let Manifest { sources, functions, sinks, .. } = &shipment.manifest;
    let rules = if before.is_some() { engine.rules_with(sources, functions, sinks)? } else { Vec::new() };
    let upload = upload_name(name);
    console::line(format_args!("uploading {} to {} …", shipment.file.display(), engine.url()));
    let place = engine.upload(&upload, &shipment.file)?;
    let is_update = before.is_some();
    console::line(format_args!("{} {name} …", if is_update { "updating" } else { "installing" }));
    engine.install(name, place.trim(), &arguments.parameters, is_update)?;
    let state = await_running(&engine, name, is_update, common.init_timeout)?;
    if arguments.restart_rules {
        for rule in &rules {
            console::line(format_args!("restarting rule {} …", printable::excerpt(rule)));
            engine.restart(rule)?;
        }
    }
    let rules = rules.iter().map(|rule| engine.rule(rule)).collect::<Result<Vec<_>>>()?;
    rules.iter().for_each(tell);
    output::line(json!({
        "engine": engine.url(), "name": name, "version": shipment.manifest.version,
        "was": before.map(|before| before["version"].clone()), "status": state,
        "rules": rules.iter().map(|rule| json!({
            "id": rule.id, "status": rule.status, "message": rule.message, "exceptions": rule.exceptions,
        })).collect::<Vec<_>>(),
    }))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn remove(arguments: &Remove) -> Result<ExitCode> {
    let engine = Engine::at(&arguments.engine.url, arguments.engine.token.as_deref())?;
    let name = &arguments.name;
    if engine.plugin(name)?.is_none() {
        return Err(Error::NotInstalled { url: engine.url().to_owned(), name: name.clone() });
    }
    let rules = engine.status(name)?.rules;
    if !rules.is_empty() && !arguments.force {
        return Err(Error::InUse { name: name.clone(), rules });
    }
    engine.remove(name)?;
    engine.remove_upload(&upload_name(name));
    for rule in &rules {
        console::line(format_args!("rule {} used {name}, and fails from now on", printable::excerpt(rule)));
    }
    output::line(json!({ "engine": engine.url(), "removed": name, "rules": rules }))?;
    Ok(ExitCode::SUCCESS)
}

fn upload_name(plugin: &str) -> String {
    format!("{plugin}.zip")
}

/// Makes the package, unless PATH is one, whose content is checked then.
fn ship(common: &Common, arguments: &Deploy) -> Result<Shipment> {
    let Deploy { path, options, .. } = arguments;
    if path.is_file() {
        if let Some(target) = &options.target {
            return Err(Error::NothingToBuild { path: path.clone(), target: target.clone() });
        }
        let Package { name, manifest, .. } = Package::read(plugin_path::unpack(path)?.folder())?;
        return Ok(Shipment { name, manifest, file: path.clone(), _folder: None });
    }
    let folder = tempfile::Builder::new().prefix("ekuiper-deploy-").tempdir();
    let folder = folder.map_err(|source| Error::Read { path: std::env::temp_dir(), source })?;
    let Made { name, manifest, file, .. } =
        package::make(common, path, options, Some(&folder.path().join("package.zip")))?;
    Ok(Shipment { name, manifest, file, _folder: Some(folder) })
}

/// What eKuiper may report of an updated plugin for good: how the process ended
/// that it has killed for the update, noticed after the next one's start.
const FORMER_END: &str = "signal: killed";

/// Waits until the engine has started the plugin.
fn await_running(engine: &Engine, name: &str, is_update: bool, patience: Duration) -> Result<String> {
    let deadline = Instant::now().checked_add(patience);
    loop {
        let state = engine.status(name)?;
        let failed = |reason: String| Error::NotRunning { name: name.to_owned(), reason };
        match state.status.as_str() {
            "running" => return Ok(state.status),
            // The engine has answered the update: the next process has shaken
            // hands.
            "error" if is_update && state.error == FORMER_END => return Ok("running".into()),
            "error" => return Err(failed(printable::lines(&state.error).into_owned())),
            _ if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                return Err(failed(format!("it is {} after {patience:?}", state.status)));
            }
            _ => std::thread::sleep(LOOK),
        }
    }
}

/// Says how a rule is.
fn tell(rule: &RuleStatus) {
    let RuleStatus { id, status, message, exceptions } = rule;
    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
    let exceptions = match exceptions.last() {
        None => String::new(),
        Some(last) => format!("; {}, the last: {last}", counted(exceptions.len() as u64, "operator had an exception")),
    };
    console::line(format_args!("rule {} is {status}{message}{exceptions}", printable::excerpt(id)));
}
