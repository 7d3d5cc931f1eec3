//! `deploy`: a plugin into a running engine, and `remove`: out of it again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::manifest::Manifest;
use ekuiper_core::message::SymbolKind;
use ekuiper_core::printable;
use ekuiper_core::sync::lock;
use ekuiper_host::Package;
use ekuiper_manager::Scratch;
use serde_json::json;

use super::package;
use crate::args::{Common, Deploy, Remove};
use crate::check;
use crate::check::report::Report;
use crate::console;
use crate::engine::{Engine, Installation, Installed, RuleStatus};
use crate::error::{Error, Result, excerpt};
use crate::interrupt::{INTERRUPTED, Interrupt};
use crate::output;
use crate::progress::counted;

/// Interval of the look at the plugin's state.
const LOOK: Duration = Duration::from_millis(100);

/// Time that the command has to end in order after a signal, while it does not
/// wait for the engine.
const GRACE: Duration = Duration::from_secs(2);

/// A package to be installed.
struct Shipment {
    name: String,
    manifest: Manifest,
    file: PathBuf,
}

/// What a signal interrupts.
#[derive(Default)]
struct Stage {
    /// Where a package lies that was made for this.
    folder: Option<Scratch>,
    /// The plugin that the engine has been told to install.
    installing: Option<String>,
}

pub(super) fn deploy(common: &Common, arguments: &Deploy) -> Result<ExitCode> {
    let stage = Arc::<Mutex<Stage>>::default();
    let interrupted = stage.clone();
    let interrupt = Interrupt::watch(move || {
        std::thread::sleep(GRACE);
        // It waits for the engine.
        let Stage { folder, installing } = std::mem::take(&mut *lock(&interrupted));
        drop(folder);
        match installing {
            Some(name) => {
                console::tell(format_args!("interrupted: the engine goes on with the installation of {name}"))
            }
            None => console::tell(Error::Interrupted),
        }
        std::process::exit(INTERRUPTED.into());
    });
    let interrupt = interrupt.map_err(Error::Signals)?;
    let done = install(common, arguments, &interrupt, &stage);
    // Before a signal's thread can end the process.
    drop(lock(&stage).folder.take());
    done?;
    Ok(interrupt.exit_code())
}

fn install(common: &Common, arguments: &Deploy, interrupt: &Interrupt, stage: &Mutex<Stage>) -> Result<()> {
    // Before anything is built.
    let engine = Engine::at(&arguments.engine.url, arguments.engine.token.get()?)?;
    let shipment = ship(common, arguments, &engine, interrupt, stage)?;
    let Shipment { name, manifest, file } = &shipment;
    let plugins = engine.plugins()?;
    check_symbols(&engine, name, manifest, &plugins)?;
    let before = plugins.iter().find(|plugin| plugin.name == *name);
    let rules = match before {
        Some(before) => rules_on(&engine, before, manifest, arguments.force)?,
        None => Vec::new(),
    };
    let version = &manifest.version;
    let named = format!("{name} {version}");
    console::line(format_args!("uploading {} to {} …", named.trim_end(), engine.url()));
    let upload = upload_name(name)?;
    let place = match engine.upload(&upload, file, interrupt) {
        Err(_) if interrupt.is_set() => {
            engine.remove_upload(&upload);
            return Err(Error::Interrupted);
        }
        uploaded => uploaded?,
    };
    match before {
        Some(Installed { version: former, .. }) => {
            let is_older = is_older(version, former);
            let note = if is_older { ", which is older" } else { "" };
            console::line(format_args!("updating {name} from {former:?} to {version:?}{note} …"));
        }
        None => console::line(format_args!("installing {name} …")),
    }
    let former = before.and_then(|_| engine.installation(name));
    if interrupt.is_set() {
        engine.remove_upload(&upload);
        return Err(Error::Interrupted);
    }
    lock(stage).installing = Some(name.clone());
    if let Err(error) = engine.install(name, &place, &arguments.parameters, before.is_some()) {
        return Err(refused(&engine, name, &upload, former.as_ref(), before.is_some(), error));
    }
    if let Some(former) = former {
        remove_own_upload(&engine, name, &former);
    }
    let status = await_running(&engine, name, before.is_some(), common.init_timeout(), interrupt)?;
    let mut states = Vec::new();
    for rule in &rules {
        let is_stopped = || engine.rule(rule).is_ok_and(|rule| rule.status == STOPPED);
        if arguments.restart_rules && !is_stopped() {
            console::line(format_args!("restarting rule {} …", printable::excerpt(rule)));
            engine.restart(rule)?;
        }
        let state = engine.rule(rule)?;
        tell(&state);
        states.push(state);
    }
    output::line(json!({
        "engine": engine.url(), "name": name, "version": version,
        "was": before.map(|before| &before.version), "status": status,
        "rules": states.iter().map(|rule| json!({
            "id": rule.id, "status": rule.status, "message": rule.message, "exceptions": rule.exceptions,
        })).collect::<Vec<_>>(),
    }))?;
    Ok(())
}

/// The status of a rule that its user has stopped.
const STOPPED: &str = "stopped";

pub(super) fn remove(arguments: &Remove) -> Result<ExitCode> {
    // Nothing has to be put in order.
    Interrupt::watch(|| std::process::exit(INTERRUPTED.into())).map_err(Error::Signals)?;
    let name = &arguments.name;
    if !can_be_installed(name) {
        return Err(Error::NoPluginName { name: excerpt(format!("{name:?}").as_bytes(), 0) });
    }
    let engine = Engine::at(&arguments.engine.url, arguments.engine.token.get()?)?;
    let Some(installed) = engine.plugin(name)? else {
        let name = printable::excerpt(name).into_owned();
        return Err(Error::NotInstalled { url: engine.url().to_owned(), name });
    };
    let rules = rules_of(&engine, &installed)?;
    if !rules.is_empty() && !arguments.force {
        return Err(Error::InUse { name: name.clone(), rules });
    }
    let installation = engine.installation(name);
    engine.remove(name)?;
    if let Some(installation) = installation {
        remove_own_upload(&engine, name, &installation);
    }
    for rule in &rules {
        console::line(format_args!("rule {} used {name}, and fails from now on", printable::excerpt(rule)));
    }
    output::line(json!({ "engine": engine.url(), "removed": name, "rules": rules }))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether eKuiper may have installed a plugin of this name: it makes a folder
/// of that name.
fn can_be_installed(name: &str) -> bool {
    !["", ".", ".."].contains(&name)
        && name.len() <= 255
        && !name.contains(|letter: char| letter == '/' || letter.is_control())
}

/// Begins the name of each package that is uploaded for this plugin.
fn upload_prefix(plugin: &str) -> String {
    format!("{plugin}-deployed-")
}

/// A name of its own for each upload: the file of the version that is installed
/// stays until another one is, and two commands at once do not meet.
fn upload_name(plugin: &str) -> Result<String> {
    let unread = |source| Error::Read { path: "/dev/urandom".into(), source };
    let random = u64::from_be_bytes(crate::engine::random().map_err(unread)?);
    Ok(format!("{}{random:016x}.zip", upload_prefix(plugin)))
}

/// Removes the package that a plugin was installed from, if this command has
/// uploaded it.
fn remove_own_upload(engine: &Engine, plugin: &str, installation: &Installation) {
    if installation.upload.starts_with(&upload_prefix(plugin)) {
        engine.remove_upload(&installation.upload);
    }
}

/// Makes the package, unless PATH is one, and looks at its files as `check`
/// does: eKuiper removes the version before, before it refuses the next one.
fn ship(
    common: &Common,
    arguments: &Deploy,
    engine: &Engine,
    interrupt: &Interrupt,
    stage: &Mutex<Stage>,
) -> Result<Shipment> {
    let Deploy { path, options, .. } = arguments;
    let file = if path.is_file() {
        if let Some(target) = &options.target {
            return Err(Error::NothingToBuild { path: path.clone(), target: target.clone() });
        }
        path.clone()
    } else {
        let folder = Scratch::new("deploy")?;
        let file = folder.path().join("package.zip");
        lock(stage).folder = Some(folder);
        package::make(common, path, options, Some(&file))?;
        file
    };
    let action = "deployed";
    let mut report = Report::of(path);
    let checked = check::check_files(&file, interrupt, &mut report)?;
    if let Some((finding, more)) = report.first_error() {
        return Err(Error::Unfit { path: path.clone(), action, finding, more });
    }
    report.warnings(engine.may_be_an_image()).for_each(|warning| console::line(format_args!("warning: {warning}")));
    // What cannot be read is an error of the report.
    let Some((Package { name, manifest, .. }, processor)) = checked else {
        return Err(Error::Unfit { path: path.clone(), action, finding: "it cannot be read".into(), more: 0 });
    };
    let other = processor.filter(|processor| !runs_on(processor, engine.processor()));
    if let Some(program) = other {
        let advice = match path.is_file() {
            true => format!("package it with --target {}", engine.processor()),
            false => format!("pass --target {}", engine.processor()),
        };
        let (url, engine) = (engine.url().to_owned(), format!("linux/{}", engine.processor()));
        return Err(Error::OtherProcessor { url, engine, program, advice });
    }
    Ok(Shipment { name, manifest, file })
}

/// Whether a program for a processor runs on the engine's, which Go names.
fn runs_on(program: &str, engine: &str) -> bool {
    match engine {
        "amd64" | "arm64" => program == engine,
        "arm" => program == "arm/v7",
        _ => true,
    }
}

/// Refuses symbols that another plugin has: eKuiper lets the last one win.
fn check_symbols(engine: &Engine, name: &str, manifest: &Manifest, plugins: &[Installed]) -> Result<()> {
    for owner in plugins.iter().filter(|plugin| plugin.name != name) {
        for kind in SymbolKind::ALL {
            let taken = manifest.symbols(kind).iter().find(|symbol| owner.names(kind).contains(symbol));
            if let Some(symbol) = taken {
                return Err(Error::SymbolTaken {
                    url: engine.url().to_owned(),
                    kind,
                    symbol: symbol.clone(),
                    owner: printable::excerpt(&owner.name).into_owned(),
                });
            }
        }
    }
    Ok(())
}

/// Returns the rules that use the plugin which is installed. Refuses to take
/// away a symbol that one of them uses.
fn rules_on(engine: &Engine, before: &Installed, manifest: &Manifest, is_forced: bool) -> Result<Vec<String>> {
    let gone = |kind| {
        let names = before.names(kind).iter().filter(|name| !manifest.symbols(kind).contains(name));
        names.cloned().collect::<Vec<_>>()
    };
    let [sources, functions, sinks] = [SymbolKind::Source, SymbolKind::Function, SymbolKind::Sink].map(gone);
    let words = [("source", &sources), ("function", &functions), ("sink", &sinks)];
    let words = words.iter().flat_map(|(kind, names)| names.iter().map(move |name| format!("{kind} {name}")));
    let symbols = printable::excerpt(&words.collect::<Vec<_>>().join(", ")).into_owned();
    if !symbols.is_empty() {
        let rules = engine.rules_with(&sources, &functions, &sinks)?;
        if !rules.is_empty() && !is_forced {
            return Err(Error::SymbolGone { name: before.name.clone(), symbols, rules });
        }
        console::line(format_args!("{} no longer has {symbols}", before.name));
    }
    rules_of(engine, before)
}

/// Returns the rules that use a plugin.
fn rules_of(engine: &Engine, installed: &Installed) -> Result<Vec<String>> {
    let of = |kind| installed.names(kind);
    let mut rules = engine.rules_with(of(SymbolKind::Source), of(SymbolKind::Function), of(SymbolKind::Sink))?;
    // The engine itself counts those that have a source or sink of it, and for a
    // moment those that were deleted.
    for rule in engine.status(&installed.name)?.rules {
        if !rules.contains(&rule) && engine.has_rule(&rule)? {
            rules.push(rule);
        }
    }
    Ok(rules)
}

/// The error of an installation that the engine has refused. Its update removes
/// the former version first: that is installed again.
fn refused(
    engine: &Engine,
    name: &str,
    upload: &str,
    former: Option<&Installation>,
    is_update: bool,
    error: Error,
) -> Error {
    // Whatever else has happened, the engine may still be at work.
    if !matches!(error, Error::EngineRefuses { .. }) {
        return error;
    }
    engine.remove_upload(upload);
    if !is_update || engine.plugin(name).is_ok_and(|plugin| plugin.is_some()) {
        return error;
    }
    let is_restored = former.is_some_and(|former| engine.install_again(former).is_ok());
    let (url, name) = (engine.url().to_owned(), name.to_owned());
    Error::NotUpdated { url, name, is_restored, source: Box::new(error) }
}

/// Whether a version is lower than another, as far as both are numbers.
fn is_older(version: &str, than: &str) -> bool {
    let numbers = |version: &str| {
        let version = version.strip_prefix('v').unwrap_or(version);
        version.split('.').map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<_>>>()
    };
    numbers(version).zip(numbers(than)).is_some_and(|(version, than)| version < than)
}

/// What eKuiper may report of an updated plugin for good: how the process ended
/// that it has killed for the update, noticed after the next one's start.
const FORMER_END: &str = "signal: killed";

/// Waits until the engine has started the plugin.
fn await_running(
    engine: &Engine,
    name: &str,
    is_update: bool,
    patience: Duration,
    interrupt: &Interrupt,
) -> Result<String> {
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
            _ if interrupt.is_set() => return Err(Error::Interrupted),
            _ => interrupt.wait(LOOK),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_older("v1.9.0", "v1.10.0") && is_older("1.0", "v1.0.1"));
        for (version, than) in [("v1.10.0", "v1.9.0"), ("v1", "v1"), ("", "v1"), ("v1-rc1", "v2"), ("v2", "next")] {
            assert!(!is_older(version, than), "{version} {than}");
        }
    }

    #[test]
    fn names_that_ekuiper_makes_a_folder_of_are_told_from_others() {
        assert!(can_be_installed("mirror") && can_be_installed("a b ü"));
        for name in ["", ".", "..", "../x", "a/b", "a\u{1b}[2J", &"x".repeat(300)] {
            assert!(!can_be_installed(name), "{name}");
        }
    }
}
