//! `/plugins` and `/readyz`: how the plugins fare.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ekuiper_core::{Chain, printable, with_cause};
use ekuiper_host::{Exit, Language, MemberStatus, Package, PluginState, Status, SymbolHealth, SymbolTotals};
use serde::Serialize;

use super::{Answer, Refusal, blocking, json, plain, status_of};
use crate::{Error, Manager};

/// A plugin and how it fares. Times are in seconds.
#[derive(Serialize)]
struct Fared {
    name: String,
    version: String,
    language: Language,
    /// Names of all its symbols.
    sources: Vec<String>,
    sinks: Vec<String>,
    functions: Vec<String>,
    state: PluginState,
    /// Time since the state was entered.
    since: f64,
    pid: Option<u32>,
    uptime: Option<f64>,
    /// Number of processes that were started.
    processes: u64,
    restarts: u64,
    crashes: u64,
    /// Resident memory of the process and its descendants, in bytes.
    resident: Option<u64>,
    last_exit: Option<Exit>,
    last_error: Option<Failure>,
    /// Figures of its symbols in use, one for each rule, operator and instance.
    symbols: Vec<SymbolHealth>,
    /// Figures of its symbols since it was installed, for all rules together.
    totals: Vec<SymbolTotals>,
    /// Further processes, of functions that are called in parallel.
    members: Vec<MemberStatus>,
}

/// An error and when it was, in seconds since 1970, UTC.
#[derive(Serialize)]
struct Failure {
    text: String,
    at: Option<f64>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Listed<'a> {
    Usable(Box<Fared>),
    /// It is installed, and its files are none of a plugin.
    Unusable {
        name: &'a str,
        state: &'static str,
        last_error: Failure,
    },
}

impl Fared {
    fn new(package: Package, status: Status) -> Self {
        let Package { name, manifest, .. } = package;
        let seconds = |time: Duration| time.as_secs_f64();
        let last_error = status.last_error.map(|error| Failure {
            text: error.text,
            at: error.at.duration_since(SystemTime::UNIX_EPOCH).ok().map(seconds),
        });
        Self {
            name,
            version: manifest.version,
            language: manifest.language,
            sources: manifest.sources,
            sinks: manifest.sinks,
            functions: manifest.functions,
            state: status.state,
            since: seconds(status.since),
            pid: status.pid,
            uptime: status.uptime.map(seconds),
            processes: status.generation,
            restarts: status.restarts,
            crashes: status.crashes,
            resident: status.resident,
            last_exit: status.last_exit,
            last_error,
            symbols: status.symbols,
            totals: status.totals,
            members: status.members,
        }
    }
}

/// Lists the plugins, sorted by name, then those that cannot be used.
pub(super) async fn list(State(manager): State<Arc<Manager>>) -> Answer {
    blocking(move || {
        let mut packages: BTreeMap<_, _> =
            manager.host().packages().into_iter().map(|package| (package.name.clone(), package)).collect();
        let plugins = manager.host().health();
        // A plugin that was removed in between is in one of both.
        let fared = plugins.into_iter().filter_map(|status| Some(Fared::new(packages.remove(&status.plugin)?, status)));
        let mut listed: Vec<_> = fared.map(|plugin| Listed::Usable(Box::new(plugin))).collect();
        for (name, problem) in manager.unusable().map_err(refused)? {
            let last_error = Failure { text: Chain(problem).to_string(), at: None };
            listed.push(Listed::Unusable { name, state: UNUSABLE, last_error });
        }
        json(&listed)
    })
    .await
}

/// The state of a plugin that is installed and cannot be used.
const UNUSABLE: &str = "unusable";

/// Tells whether all plugins run, and which do not.
pub(super) async fn ready(State(manager): State<Arc<Manager>>) -> Answer {
    blocking(move || {
        let mut away = Vec::new();
        let installed = manager.installed().map_err(refused)?;
        for status in manager.host().health() {
            // While it is updated, its old version or its new one serves.
            let serves = matches!(status.state, PluginState::Running | PluginState::Updating);
            // One that is being installed may not be kept.
            if serves || !installed.contains(&status.plugin) {
                continue;
            }
            let error = status.last_error.map(|error| error.text);
            away.push(line(&status.plugin, status.state.name(), error.as_deref()));
        }
        for (name, problem) in manager.unusable_of(&installed) {
            away.push(line(name, UNUSABLE, Some(&Chain(problem).to_string())));
        }
        match away.is_empty() {
            true => Ok("ready\n".into_response()),
            false => Ok(plain(StatusCode::SERVICE_UNAVAILABLE, away.concat())),
        }
    })
    .await
}

/// Returns a line about a plugin that does not run.
fn line(plugin: &str, state: &str, error: Option<&str>) -> String {
    let text = format!("plugin {plugin} is {state}");
    error.map_or(text.clone(), |error| with_cause(&text, &printable::one_line(error))) + "\n"
}

fn refused(problem: Error) -> Refusal {
    Refusal::new(status_of(&problem), Chain(&problem).to_string())
}
