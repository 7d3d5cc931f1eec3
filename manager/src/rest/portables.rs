//! `/plugins/portables`: installing, updating and removing plugins.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use ekuiper_core::Chain;
use ekuiper_core::printable::excerpt;
use ekuiper_host::{Language, Package, PluginState};
use serde::{Deserialize, Serialize};

use super::{Answer, Refusal, blocking, body, json};
use crate::manager::in_use;
use crate::{Error, InstallOptions, Manager, Origin, Users};

/// A request to install or update.
#[derive(Debug, Deserialize)]
struct Wanted {
    #[serde(default)]
    name: String,
    /// URL of the zip.
    #[serde(default)]
    file: String,
    /// Parameters of `install.sh`.
    #[serde(default, rename = "shellParas")]
    parameters: Vec<String>,
    /// SHA-256 of the zip, which the engine knows nothing of.
    sha256: Option<String>,
}

/// A plugin as the engine describes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    name: String,
    version: String,
    language: Language,
    executable: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_env_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<String>,
    sources: Option<Vec<String>>,
    sinks: Option<Vec<String>>,
    functions: Option<Vec<String>>,
}

impl From<Package> for Described {
    fn from(package: Package) -> Self {
        let Package { name, folder, manifest, .. } = package;
        // The engine has null for a field that the manifest lacks.
        let listed = |symbols: Vec<String>| (!symbols.is_empty()).then_some(symbols);
        Self {
            name,
            version: manifest.version,
            language: manifest.language,
            executable: folder.join(&manifest.executable).display().to_string(),
            virtual_env_type: manifest.virtual_env_type,
            env: manifest.env,
            sources: listed(manifest.sources),
            sinks: listed(manifest.sinks),
            functions: listed(manifest.functions),
        }
    }
}

/// A plugin's state.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PluginStatus {
    /// Number of sources and sinks in use, by rule.
    ref_count: BTreeMap<String, usize>,
    status: &'static str,
    err_msg: String,
}

/// How users of a plugin are treated that is to be deleted.
#[derive(Debug, Deserialize)]
pub(super) struct Removal {
    users: Option<String>,
}

type Managed = State<Arc<Manager>>;

pub(super) async fn list(State(manager): Managed) -> Answer {
    blocking(move || {
        let plugins = manager.plugins().map_err(|problem| refused("list portable plugins error", &problem))?;
        json(&plugins.into_iter().map(Described::from).collect::<Vec<_>>())
    })
    .await
}

pub(super) async fn show(State(manager): Managed, Path(name): Path<String>) -> Answer {
    blocking(move || {
        let package = find(&manager, &name);
        let package = package.ok_or_else(|| {
            Refusal::not_found(format!("describe portable plugin {} error: not found", excerpt(&name)))
        })?;
        json(&Described::from(package))
    })
    .await
}

pub(super) async fn status(State(manager): Managed, Path(name): Path<String>) -> Answer {
    blocking(move || {
        let status = find(&manager, &name).and_then(|package| manager.host().status(&package.name).ok());
        let status = status
            .ok_or_else(|| Refusal::not_found(format!("portable plugin {} not found: not found", excerpt(&name))))?;
        let mut ref_count = BTreeMap::new();
        for symbol in in_use(&status) {
            *ref_count.entry(symbol.meta.rule_id.clone()).or_default() += 1;
        }
        let exit = status.last_exit.map(|exit| exit.to_string()).unwrap_or_default();
        let (status, err_msg) = match status.state {
            PluginState::Running | PluginState::Updating => ("running", String::new()),
            PluginState::Starting => ("initializing", String::new()),
            PluginState::Idle | PluginState::Stopping | PluginState::Stopped => ("stop", String::new()),
            _ => ("error", exit),
        };
        // Not as JSON: the engine answers so.
        let mut answer = json(&PluginStatus { ref_count, status, err_msg })?;
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        Ok(answer)
    })
    .await
}

pub(super) async fn install(State(manager): Managed, body: Body) -> Answer {
    let prefix = "portable plugin create command error";
    let (wanted, origin) = wanted(body, prefix).await?;
    blocking(move || {
        let package = manager.install(&origin, &wanted.options()).map_err(|problem| refused(prefix, &problem))?;
        Ok((StatusCode::CREATED, format!("portable plugin {} is created", package.name)).into_response())
    })
    .await
}

pub(super) async fn update(State(manager): Managed, Path(name): Path<String>, body: Body) -> Answer {
    let prefix = "portable plugin update command error";
    let (wanted, origin) = wanted(body, prefix).await?;
    if wanted.name != name {
        return Err(refused(prefix, &Error::OtherPlugin { expected: name, found: wanted.name }));
    }
    blocking(move || {
        let package = manager.update(&origin, &wanted.options()).map_err(|problem| refused(prefix, &problem))?;
        Ok(format!("portable plugin {} is updated", package.name).into_response())
    })
    .await
}

pub(super) async fn remove(
    State(manager): Managed,
    Path(name): Path<String>,
    Query(removal): Query<Removal>,
) -> Answer {
    let prefix = format!("delete portable plugin {} error", excerpt(&name));
    let users = match removal.users.as_deref() {
        None | Some("keep") => Users::Keep,
        Some("stop") => Users::Stop,
        Some(_) => return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("{prefix}: users is to be keep or stop"))),
    };
    blocking(move || match manager.remove(&name, users) {
        Ok(()) => Ok(format!("portable plugin {name} is deleted").into_response()),
        Err(Error::NotInstalled { .. }) => {
            let text = format!("{prefix}: portable plugin {} is not found", excerpt(&name));
            Err(Refusal::new(StatusCode::BAD_REQUEST, text))
        }
        Err(problem) => Err(refused(&prefix, &problem)),
    })
    .await
}

fn find(manager: &Manager, name: &str) -> Option<Package> {
    manager.plugins().ok()?.into_iter().find(|package| package.name == name)
}

fn refused(prefix: &str, problem: &Error) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, format!("{prefix}: {}", Chain(problem)))
}

impl Wanted {
    fn options(&self) -> InstallOptions {
        InstallOptions {
            name: Some(self.name.clone()),
            sha256: self.sha256.clone(),
            parameters: self.parameters.clone(),
        }
    }
}

/// Reads a request to install or update. The file must be a URL that ends in
/// `.zip`, as the engine's, or in a slash, which is a plugin's folder here.
async fn wanted(body: Body, prefix: &str) -> Result<(Wanted, Origin), Refusal> {
    let bytes = body::read(body).await?;
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, text);
    // A list would pass for its fields, in their order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(bad("Invalid body: Error decoding the portable plugin json: it is a list, and no object".into()));
    }
    let wanted: Wanted = serde_json::from_slice(&bytes)
        .map_err(|problem| bad(format!("Invalid body: Error decoding the portable plugin json: {problem}")))?;
    if wanted.name.is_empty() {
        return Err(bad(format!("{prefix}: invalid name : should not be empty")));
    }
    let file = &wanted.file;
    let shown = excerpt(file);
    let is_folder = file.starts_with("file:///") && file.ends_with('/');
    if !file.contains("://") || !(file.ends_with(".zip") || is_folder) {
        return Err(bad(format!("{prefix}: invalid uri {shown}")));
    }
    let origin = Origin::parse(file).map_err(|problem| bad(format!("{prefix}: invalid uri {shown}: {problem}")))?;
    Ok((wanted, origin))
}
