//! `/plugins/portables`: installing, updating and removing plugins.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use ekuiper_core::Chain;
use ekuiper_core::printable::excerpt;
use ekuiper_host::{Language, Package, PluginState};
use serde::{Deserialize, Serialize};

use super::extract::{Path, Query};
use super::{Answer, Refusal, blocking, body, check_object, json, status_of};
use crate::manager::in_use;
use crate::origin::{self, before_query, scheme};
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
        let prefix = format!("describe portable plugin {} error", excerpt(&name));
        let package = find(&manager, &name, &prefix)?;
        let package = package.ok_or_else(|| Refusal::not_found(format!("{prefix}: not found")))?;
        json(&Described::from(package))
    })
    .await
}

pub(super) async fn status(State(manager): Managed, Path(name): Path<String>) -> Answer {
    blocking(move || {
        let prefix = format!("portable plugin {} not found", excerpt(&name));
        let package = find(&manager, &name, &prefix)?;
        let status = package.and_then(|package| manager.host().status(&package.name).ok());
        let status = status.ok_or_else(|| Refusal::not_found(format!("{prefix}: not found")))?;
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
    let (wanted, origin) = wanted(&manager, body, prefix, None).await?;
    blocking(move || {
        let package = manager.install(&origin, &wanted.options()).map_err(|problem| refused(prefix, &problem))?;
        Ok((StatusCode::CREATED, format!("portable plugin {} is created", package.name)).into_response())
    })
    .await
}

pub(super) async fn update(State(manager): Managed, Path(name): Path<String>, body: Body) -> Answer {
    let prefix = "portable plugin update command error";
    let (wanted, origin) = wanted(&manager, body, prefix, Some(&name)).await?;
    if wanted.name != name {
        let (path, body) = (excerpt(&name).into_owned(), excerpt(&wanted.name).into_owned());
        return Err(refused(prefix, &Error::TwoNames { path, body }));
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
        Err(Error::NotInstalled { known, .. }) => {
            let text = format!("{prefix}: portable plugin {} is not found: {known}", excerpt(&name));
            Err(Refusal::new(StatusCode::BAD_REQUEST, text))
        }
        Err(Error::InUse { plugin, users }) => {
            let text = format!("{prefix}: plugin {plugin} is in use, by {users}: end them first, or add ?users=stop");
            Err(Refusal::new(StatusCode::BAD_REQUEST, text))
        }
        Err(problem) => Err(refused(&prefix, &problem)),
    })
    .await
}

fn find(manager: &Manager, name: &str, prefix: &str) -> Result<Option<Package>, Refusal> {
    let plugins = manager.plugins().map_err(|problem| refused(prefix, &problem))?;
    Ok(plugins.into_iter().find(|package| package.name == name))
}

fn refused(prefix: &str, problem: &Error) -> Refusal {
    Refusal::new(status_of(problem), format!("{prefix}: {}", Chain(problem)))
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

/// Reads a request to install or update; `name` is that of the path, which the
/// body may leave out. The file must be a URL that ends in `.zip`, as the
/// engine's, or in a slash, which is a plugin's folder here.
async fn wanted(manager: &Manager, body: Body, prefix: &str, name: Option<&str>) -> Result<(Wanted, Origin), Refusal> {
    let bytes = body::read(manager, body).await?;
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, text);
    let undecoded = |problem: String| bad(format!("Invalid body: Error decoding the portable plugin json: {problem}"));
    // A list would pass for its fields, in their order.
    check_object(&bytes).map_err(|what| undecoded(format!("it is {what}, and no object")))?;
    let mut wanted: Wanted = serde_json::from_slice(&bytes).map_err(|problem| undecoded(problem.to_string()))?;
    if let Some(name) = name.filter(|_| wanted.name.is_empty()) {
        name.clone_into(&mut wanted.name);
    }
    if wanted.name.is_empty() {
        return Err(bad(format!("{prefix}: invalid name : should not be empty")));
    }
    let file = &wanted.file;
    let refused = |problem: &str| bad(format!("{prefix}: invalid uri {}: {problem}", origin::refused(file)));
    if let Some(problem) = problem(file) {
        return Err(refused(&problem));
    }
    let origin = Origin::parse(file).map_err(|problem| match problem {
        Error::Origin { problem, .. } => refused(&format!("it {problem}")),
        problem => refused(&Chain(&problem).to_string()),
    })?;
    Ok((wanted, origin))
}

/// Returns what keeps a text from being the URL of a package or folder, and what
/// to do about it.
fn problem(file: &str) -> Option<String> {
    let Some((scheme, rest)) = scheme(file) else {
        let is_zip = file.ends_with(".zip");
        return Some(match file {
            "" => "file is missing or empty: give the URL of a .zip, or file:///PATH/ for a plugin's folder".to_owned(),
            path if path.starts_with('/') && is_zip => format!("write file://{}", url_path(path)),
            path if path.starts_with('/') => {
                format!("write file://{}/ for a folder", url_path(path.trim_end_matches('/')))
            }
            _ => {
                "it is a relative path: write file:///, the whole path, and for a folder a slash at its end".to_owned()
            }
        });
    };
    let is_file = scheme.eq_ignore_ascii_case("file");
    if is_file && !rest.starts_with("///") {
        return Some("a path begins with a slash: write file:///PATH".to_owned());
    }
    if !is_file && !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Some("its scheme is not supported: write file://, http:// or https://".to_owned());
    }
    let is_zip = if is_file { file } else { before_query(file) }.ends_with(".zip");
    match is_zip || is_file && file.ends_with('/') {
        true => None,
        false if is_file => Some("it is no .zip: a folder's URL ends with a slash".to_owned()),
        false => Some("it is no .zip, and a folder is installed from file:/// alone".to_owned()),
    }
}

/// A path as it is written in a URL, with its percent signs and spaces escaped.
fn url_path(path: &str) -> String {
    excerpt(path).replace('%', "%25").replace(' ', "%20")
}
