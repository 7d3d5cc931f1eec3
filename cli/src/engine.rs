//! The REST interface of a running eKuiper, or of what works like it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::time::Duration;

use ekuiper_core::printable;
use serde_json::{Value, json};
use ureq::http::{Method, Request};
use ureq::{Agent, AsSendBody, SendBody};

use crate::error::{Error, Result};

/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Time for an answer. An installation runs `install.sh`, which may download
/// much.
const ANSWER: Duration = Duration::from_secs(600);

/// Maximum length of an answer, in bytes.
const LONGEST: u64 = 64 << 20;

/// Maximum length of a refusal that is shown, in characters.
const SHOWN: usize = 2000;

/// A running engine.
pub(crate) struct Engine {
    /// Begins with the scheme, and has no slash at its end.
    url: String,
    token: Option<String>,
    agent: Agent,
}

/// A plugin's state as the engine reports it.
pub(crate) struct PluginStatus {
    /// `initializing`, `running`, `error` or `stop`.
    pub(crate) status: String,
    pub(crate) error: String,
    /// The rules that use it now.
    pub(crate) rules: Vec<String>,
}

/// A rule that uses a plugin.
#[derive(Debug)]
pub(crate) struct RuleStatus {
    pub(crate) id: String,
    /// `running`, `stopped`, or an error's text.
    pub(crate) status: String,
    pub(crate) message: String,
    /// The latest exceptions, each with the operator that had it.
    pub(crate) exceptions: Vec<String>,
}

impl Engine {
    /// Connects to the engine at this URL, which may lack `http://`.
    ///
    /// # Errors
    /// Nothing answers there, or something that is no eKuiper.
    pub(crate) fn at(url: &str, token: Option<&str>) -> Result<Self> {
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let is_plain = |url: &str| {
            let host = url.strip_prefix("http://").filter(|rest| !rest.is_empty());
            host.is_some()
                && url.parse::<ureq::http::Uri>().is_ok_and(|uri| uri.host().is_some() && uri.query().is_none())
        };
        if !is_plain(&url) {
            return Err(Error::EngineUrl { url: printable::excerpt(&url).into_owned() });
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(ANSWER))
            .max_redirects(0)
            .build();
        let url = url.trim_end_matches('/').to_owned();
        let engine = Self { url, token: token.map(str::to_owned), agent: config.into() };
        let about = engine.json("ask for the version", Method::GET, "/");
        match about {
            Ok(Some(about)) if about.get("version").is_some() => Ok(engine),
            Err(error @ (Error::NoEngine { .. } | Error::EngineRefuses { .. })) => Err(error),
            _ => Err(Error::NotAnEngine { url: engine.url }),
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns what the engine has installed under this name.
    pub(crate) fn plugin(&self, name: &str) -> Result<Option<Value>> {
        self.json("ask for the plugin", Method::GET, &format!("/plugins/portables/{}", encoded(name)))
    }

    /// Returns the plugin's state.
    pub(crate) fn status(&self, name: &str) -> Result<PluginStatus> {
        let path = format!("/plugins/portables/{}/status", encoded(name));
        let status = self.json("ask for the plugin's status", Method::GET, &path)?.unwrap_or_default();
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        let rules = status["refCount"].as_object().into_iter().flatten();
        let rules = rules.filter(|(_, count)| count.as_i64() != Some(0)).map(|(rule, _)| rule.clone()).collect();
        Ok(PluginStatus { status: text("status"), error: text("errMsg"), rules })
    }

    /// Uploads a file under this name, and returns its path on the engine's
    /// machine.
    pub(crate) fn upload(&self, name: &str, file: &Path) -> Result<String> {
        let unreadable = |source| Error::Read { path: file.to_owned(), source };
        let content = File::open(file).map_err(unreadable)?;
        let length = content.metadata().map_err(unreadable)?.len();
        // Long enough that no zip contains it by chance.
        let boundary = format!("ekuiper-plugin-{:032x}", u128::from_be_bytes(random().map_err(unreadable)?));
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"uploadFile\"; filename=\"{name}\"\r\nContent-Type: application/zip\r\n\r\n"
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let length = head.len() as u64 + length + tail.len() as u64;
        let mut body = Cursor::new(head).chain(content).chain(Cursor::new(tail));
        let kind = format!("multipart/form-data; boundary={boundary}");
        let headers = [("content-type", kind), ("content-length", length.to_string())];
        let body = SendBody::from_reader(&mut body);
        self.good("upload the package", Method::POST, "/config/uploads", &headers, body)
    }

    /// Installs a plugin from a package on the engine's machine, or replaces
    /// the installed one.
    pub(crate) fn install(&self, name: &str, package: &str, parameters: &[String], is_update: bool) -> Result<String> {
        let mut body = json!({ "name": name, "file": format!("file://{}", encoded_path(package)) });
        if !parameters.is_empty() {
            body["shellParas"] = json!(parameters);
        }
        let body = body.to_string();
        let headers = [("content-type", "application/json".to_owned())];
        if is_update {
            let path = format!("/plugins/portables/{}", encoded(name));
            return self.good("update the plugin", Method::PUT, &path, &headers, body.as_str());
        }
        self.good("install the plugin", Method::POST, "/plugins/portables", &headers, body.as_str())
    }

    /// Removes a plugin.
    pub(crate) fn remove(&self, name: &str) -> Result<String> {
        let path = format!("/plugins/portables/{}", encoded(name));
        self.good("remove the plugin", Method::DELETE, &path, &[], ())
    }

    /// Removes an uploaded file; that there is none is no error.
    pub(crate) fn remove_upload(&self, name: &str) {
        let _ = self.good("remove the upload", Method::DELETE, &format!("/config/uploads/{}", encoded(name)), &[], ());
    }

    /// Starts a rule again.
    pub(crate) fn restart(&self, rule: &str) -> Result<String> {
        self.good("restart a rule", Method::POST, &format!("/rules/{}/restart", encoded(rule)), &[], ())
    }

    /// Returns the rules that name one of these symbols: a source's by its
    /// stream, a function's in their SQL, a sink's among their actions.
    pub(crate) fn rules_with(&self, sources: &[String], functions: &[String], sinks: &[String]) -> Result<Vec<String>> {
        let streams = self.json("list the streams", Method::GET, "/streams")?.unwrap_or_default();
        let mut of_plugin = Vec::new();
        for stream in streams.as_array().into_iter().flatten().filter_map(Value::as_str) {
            let path = format!("/streams/{}", encoded(stream));
            let described = self.json("ask for a stream", Method::GET, &path)?.unwrap_or_default();
            let kind = described["Options"]["type"].as_str().or(described["Options"]["TYPE"].as_str());
            if kind.is_some_and(|kind| sources.iter().any(|source| source.eq_ignore_ascii_case(kind))) {
                of_plugin.push(stream.to_owned());
            }
        }
        let rules = self.json("list the rules", Method::GET, "/rules")?.unwrap_or_default();
        let mut found = Vec::new();
        for id in rules.as_array().into_iter().flatten().filter_map(|rule| rule["id"].as_str()) {
            let path = format!("/rules/{}", encoded(id));
            let rule = self.json("ask for a rule", Method::GET, &path)?.unwrap_or_default();
            let sql = rule["sql"].as_str().unwrap_or_default();
            let actions = rule["actions"].as_array().into_iter().flatten().filter_map(Value::as_object);
            let uses_sink = actions.flat_map(|action| action.keys()).any(|action| sinks.contains(action));
            if uses_sink || names_one(sql, &of_plugin, false) || names_one(sql, functions, true) {
                found.push(id.to_owned());
            }
        }
        Ok(found)
    }

    /// Returns how a rule is.
    pub(crate) fn rule(&self, id: &str) -> Result<RuleStatus> {
        let path = format!("/rules/{}/status", encoded(id));
        let status = self.json("ask for a rule's status", Method::GET, &path)?.unwrap_or_default();
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        let mut exceptions = Vec::new();
        for (field, value) in status.as_object().into_iter().flatten() {
            if let (Some(operator), Some(exception)) = (field.strip_suffix("_last_exception"), value.as_str())
                && !exception.is_empty()
            {
                exceptions.push(format!("{operator}: {exception}"));
            }
        }
        Ok(RuleStatus { id: id.to_owned(), status: text("status"), message: text("message"), exceptions })
    }

    /// Returns a JSON answer; `None` for what does not exist.
    fn json(&self, action: &'static str, method: Method, path: &str) -> Result<Option<Value>> {
        let (status, text) = self.request(action, method, path, &[], ())?;
        match status {
            404 => Ok(None),
            200..300 => match serde_json::from_str(&text) {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(Error::NotAnEngine { url: self.url.clone() }),
            },
            _ => Err(self.refusal(action, status, &text)),
        }
    }

    /// Returns the text of a good answer.
    fn good(
        &self,
        action: &'static str,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: impl AsSendBody,
    ) -> Result<String> {
        let (status, text) = self.request(action, method, path, headers, body)?;
        if (200..300).contains(&status) { Ok(text) } else { Err(self.refusal(action, status, &text)) }
    }

    fn request(
        &self,
        action: &'static str,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: impl AsSendBody,
    ) -> Result<(u16, String)> {
        let failed = |source: ureq::Error| Error::NoEngine { url: self.url.clone(), action, source: Box::new(source) };
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        let request = request.body(body).map_err(|error| failed(error.into()))?;
        let mut answer = self.agent.run(request).map_err(failed)?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().with_config().limit(LONGEST).lossy_utf8(true).read_to_string().map_err(failed)?;
        Ok((status, text))
    }

    /// The error of a refusal: eKuiper's own words, and what to do.
    fn refusal(&self, action: &'static str, status: u16, text: &str) -> Error {
        let answer: Value = serde_json::from_str(text).unwrap_or_default();
        let message = answer["message"].as_str().unwrap_or(text).trim();
        let mut shown: String = printable::lines(message).chars().take(SHOWN).collect();
        if shown.is_empty() {
            shown = format!("HTTP status {status}");
        }
        let hint = match status {
            401 | 403 => "; the engine wants a token: pass --token",
            _ if message.contains("data/uploads") => "; the engine takes packages from its uploads only",
            _ => "",
        };
        Error::EngineRefuses { url: self.url.clone(), action, message: shown + hint }
    }
}

/// Whether a rule's SQL has one of these names as a word, in front of a
/// parenthesis if it is called.
fn names_one(sql: &str, names: &[String], is_called: bool) -> bool {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    let sql = sql.to_lowercase();
    names.iter().any(|name| {
        let name = name.to_lowercase();
        sql.match_indices(&name).any(|(start, found)| {
            let (before, after) = (&sql[..start], &sql[start + found.len()..]);
            let is_word = !before.ends_with(is_part) && !after.starts_with(is_part);
            is_word && (!is_called || after.trim_start().starts_with('('))
        })
    })
}

/// A part of a URL's path.
fn encoded(part: &str) -> String {
    let mut text = String::new();
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(byte.into()),
            // Writing to a text cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

fn encoded_path(path: &str) -> String {
    path.split('/').map(encoded).collect::<Vec<_>>().join("/")
}

fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_names_a_function_that_it_calls() {
        let names = ["revert".to_owned()];
        for sql in ["SELECT revert(name) FROM s", "select Revert (a)", "x+revert(1)"] {
            assert!(names_one(sql, &names, true), "{sql}");
        }
        for sql in ["SELECT revert FROM s", "SELECT reverted(a)", "SELECT unrevert(a)", "SELECT a AS revert, b(1)"] {
            assert!(!names_one(sql, &names, true), "{sql}");
        }
        assert!(names_one("SELECT * FROM revert", &names, false) && !names_one("SELECT * FROM reverts", &names, false));
    }

    #[test]
    fn paths_are_encoded() {
        assert_eq!(encoded("a b/ü?"), "a%20b%2F%C3%BC%3F");
        assert_eq!(encoded_path("/data/a b.zip"), "/data/a%20b.zip");
    }
}
