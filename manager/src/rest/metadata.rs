//! `/metadata`: what eKuiper's manager page reads of plugins' symbols, and the
//! settings of sources and sinks.
//!
//! The descriptions are files of the package, `sources/NAME.json`,
//! `sinks/NAME.json` and `functions/NAME.json`; the answers have their content
//! in the engine's other form.

use std::io::{BufReader, Read};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ekuiper_core::Chain;
use ekuiper_core::printable::{excerpt, some_of};
use ekuiper_host::SymbolKind;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Path, Query};
use super::{Answer, Refusal, blocking, body, check_object, json as answer, status_of, unique};
use crate::{Error, Manager, beneath};

/// eKuiper's code of what is wrong with settings.
const SETTINGS: u32 = 5000;

/// Maximum number of keys in an error.
const NAMED: usize = 10;

/// Maximum size of a description, in bytes.
const LARGEST: u64 = 4 << 20;

type Managed = State<Arc<Manager>>;

/// Which sources are listed.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    kind: Option<String>,
}

/// Lists what the files of all functions say.
pub(super) async fn functions(State(manager): Managed) -> Answer {
    blocking(move || {
        answer(&files(&manager, SymbolKind::Function)?.into_iter().map(|(_, file)| file).collect::<Vec<_>>())
    })
    .await
}

/// Lists the sources; none is one for look-ups.
pub(super) async fn sources(State(manager): Managed, Query(listed): Query<Listed>) -> Answer {
    let is_lookup = listed.kind.is_some_and(|kind| kind.eq_ignore_ascii_case("lookup"));
    blocking(move || if is_lookup { answer(&json!([])) } else { list(&manager, SymbolKind::Source) }).await
}

pub(super) async fn sinks(State(manager): Managed) -> Answer {
    blocking(move || list(&manager, SymbolKind::Sink)).await
}

pub(super) async fn source(State(manager): Managed, Path(name): Path<String>) -> Answer {
    blocking(move || show(&manager, SymbolKind::Source, &name)).await
}

pub(super) async fn sink(State(manager): Managed, Path(name): Path<String>) -> Answer {
    blocking(move || show(&manager, SymbolKind::Sink, &name)).await
}

pub(super) async fn source_settings(State(manager): Managed, Path(name): Path<String>) -> Answer {
    blocking(move || settings(&manager, SymbolKind::Source, &name)).await
}

pub(super) async fn sink_settings(State(manager): Managed, Path(name): Path<String>) -> Answer {
    blocking(move || settings(&manager, SymbolKind::Sink, &name)).await
}

pub(super) async fn set_source(State(manager): Managed, Path(place): Path<(String, String)>, body: Body) -> Answer {
    set(manager, SymbolKind::Source, place, body).await
}

pub(super) async fn set_sink(State(manager): Managed, Path(place): Path<(String, String)>, body: Body) -> Answer {
    set(manager, SymbolKind::Sink, place, body).await
}

pub(super) async fn unset_source(State(manager): Managed, Path(place): Path<(String, String)>) -> Answer {
    unset(manager, SymbolKind::Source, place).await
}

pub(super) async fn unset_sink(State(manager): Managed, Path(place): Path<(String, String)>) -> Answer {
    unset(manager, SymbolKind::Sink, place).await
}

async fn set(manager: Arc<Manager>, kind: SymbolKind, (symbol, key): (String, String), body: Body) -> Answer {
    let bytes = body::read(&manager, body).await?;
    let none = |problem: String| bad(format!("Type conversion failed:{}.{problem}", excerpt(&symbol)));
    check_object(&bytes).map_err(|what| none(format!("the settings are to be a JSON object, not {what}")))?;
    let fields = unique::object(&bytes).map_err(|problem| none(problem.to_string()))?;
    blocking(move || {
        let set = manager.set_configuration(kind, &symbol, &key, fields);
        set.map(|()| StatusCode::OK.into_response()).map_err(|problem| refused(kind, &symbol, &problem))
    })
    .await
}

async fn unset(manager: Arc<Manager>, kind: SymbolKind, (symbol, key): (String, String)) -> Answer {
    blocking(move || match manager.remove_configuration(kind, &symbol, &key) {
        Ok(true) => Ok(StatusCode::OK.into_response()),
        Ok(false) => {
            let set = manager.set_keys(kind, &symbol).map_err(|problem| refused(kind, &symbol, &problem))?;
            Err(missing(kind, &symbol, &key, &set))
        }
        Err(problem) => Err(refused(kind, &symbol, &problem)),
    })
    .await
}

/// The refusal of a key that was not set, in the engine's words.
fn missing(kind: SymbolKind, symbol: &str, key: &str, set: &[String]) -> Refusal {
    let place = place(kind, symbol);
    let set = match set.is_empty() {
        true => "none is set".to_owned(),
        false => format!("set are {}", some_of(set, NAMED)),
    };
    bad(format!("Failed to write data to file:{place}.{place}.{} is not found: {set}", excerpt(key)))
}

fn refused(kind: SymbolKind, symbol: &str, problem: &Error) -> Refusal {
    match problem {
        Error::NoSymbol { known, .. } => bad(format!("This plugin was not found:{}: {known}", place(kind, symbol))),
        Error::Key { .. } => Refusal::new(StatusCode::BAD_REQUEST, format!("Invalid confKey: {}", Chain(problem))),
        problem => Refusal { status: status_of(problem), ..bad(Chain(problem).to_string()) },
    }
}

/// A symbol as the engine names its settings.
fn place(kind: SymbolKind, symbol: &str) -> String {
    format!("{kind}s.{}", excerpt(symbol))
}

fn bad(text: String) -> Refusal {
    Refusal { code: SETTINGS, ..Refusal::new(StatusCode::BAD_REQUEST, text) }
}

fn settings(manager: &Manager, kind: SymbolKind, symbol: &str) -> Answer {
    answer(&manager.settings(kind, symbol).map_err(|problem| refused(kind, symbol, &problem))?)
}

fn list(manager: &Manager, kind: SymbolKind) -> Answer {
    let files = files(manager, kind)?
        .into_iter()
        .map(|(name, file)| json!({ "name": name, "about": about(&file["about"]), "type": "portable" }));
    answer(&files.collect::<Vec<_>>())
}

fn show(manager: &Manager, kind: SymbolKind, name: &str) -> Answer {
    let file = files(manager, kind)?.into_iter().find(|(of, _)| of == name);
    let Some((_, file)) = file else {
        let why = match manager.owner(kind, name) {
            Err(Error::NoSymbol { known, .. }) => known,
            Err(problem) => return Err(refused(kind, name, &problem)),
            Ok(package) => format!("plugin {} has no description of it", package.name),
        };
        return Err(bad(format!("This plugin was not found:{}: {why}", excerpt(name))));
    };
    let properties = match (&file["properties"], kind) {
        (Value::Object(keys), SymbolKind::Source) => {
            keys.iter().map(|(key, fields)| (key.clone(), self::fields(fields))).collect()
        }
        (_, SymbolKind::Source) => json!({}),
        (listed, _) => fields(listed),
    };
    let mut shown = json!({
        "about": about(&file["about"]), "libs": file["libs"], "properties": properties, "node": file["node"],
        "type": "portable",
    });
    if kind == SymbolKind::Source && !file["dataSource"].is_null() {
        shown["dataSource"] = file["dataSource"].clone();
    }
    answer(&shown)
}

/// Returns the descriptions of all symbols of a kind, by name. What does not
/// describe its symbol is left out.
fn files(manager: &Manager, kind: SymbolKind) -> Result<Vec<(String, Value)>, Refusal> {
    let plugins = manager.plugins();
    let plugins =
        plugins.map_err(|problem| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, Chain(&problem).to_string()))?;
    let mut found = Vec::new();
    for package in plugins {
        for symbol in package.manifest.symbols(kind).iter().filter(|symbol| !symbol.contains('/')) {
            let path = package.folder.join(format!("{kind}s/{symbol}.json"));
            let file = beneath::open(manager.store.root(), &path);
            let file = file.and_then(|file| Ok(serde_json::from_reader(BufReader::new(file.take(LARGEST)))?));
            let file: Value = file.unwrap_or_default();
            if file["about"].is_object() {
                found.push((symbol.clone(), file));
            }
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

/// What is said about a symbol, as the engine answers it.
fn about(about: &Value) -> Value {
    let author = |field: &str| text(&about["author"][field]);
    let author = match about["author"].is_object() {
        true => json!({
            "name": author("name"), "email": author("email"), "company": author("company"), "website": author("website"),
        }),
        false => Value::Null,
    };
    json!({
        "trial": is_true(&about["trial"]), "installed": true, "author": author,
        "helpUrl": languages(&about["helpUrl"]), "description": languages(&about["description"]),
    })
}

/// The fields of a configuration, as the engine answers them.
fn fields(listed: &Value) -> Value {
    let Value::Array(listed) = listed else { return Value::Null };
    listed.iter().filter(|field| field.is_object()).map(field).collect()
}

fn field(field: &Value) -> Value {
    let default = match &field["default"] {
        nested @ Value::Array(items) if items.iter().all(|item| item["name"].is_string()) => fields(nested),
        value => value.clone(),
    };
    json!({
        "exist": false, "name": text(&field["name"]), "default": default, "type": text(&field["type"]),
        "control": text(&field["control"]), "connection_related": is_true(&field["connection_related"]),
        "optional": is_true(&field["optional"]), "values": field["values"], "hint": languages(&field["hint"]),
        "label": languages(&field["label"]),
    })
}

/// A text in two languages, whose names the engine shortens.
fn languages(of: &Value) -> Value {
    match of.is_object() {
        true => json!({ "en": text(&of["en_US"]), "zh": text(&of["zh_CN"]) }),
        false => Value::Null,
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn is_true(value: &Value) -> bool {
    value.as_bool().unwrap_or_default()
}
