//! The REST interface of a running eKuiper, or of what works like it.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::time::Duration;

use ekuiper_core::message::SymbolKind;
use ekuiper_core::printable;
use serde_json::{Value, json};
use ureq::http::{self, Method, Request, Uri};
use ureq::{Agent, AsSendBody, SendBody};

use crate::error::{Error, Result, excerpt};
use crate::interrupt::Interrupt;

/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Time for an answer to a question.
const ANSWER: Duration = Duration::from_secs(20);

/// Time for an upload, and for an installation, which runs `install.sh`, which
/// may download much.
const WORK: Duration = Duration::from_secs(600);

/// The uploaded files.
const UPLOADS: &str = "/config/uploads";

/// The plugins.
const PLUGINS: &str = "/plugins/portables";

/// Maximum length of an answer, in bytes.
const LONGEST: u64 = 64 << 20;

/// Maximum length of a refusal that is shown, in characters.
const SHOWN: usize = 2000;

/// What a request is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Engine,
    /// `ekuiper-plugin serve`, whose log no engine has.
    Serve,
}

impl Peer {
    pub(crate) fn with_article(self) -> &'static str {
        match self {
            Self::Engine => "an engine",
            Self::Serve => "`ekuiper-plugin serve`",
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Engine => "the engine",
            Self::Serve => "`ekuiper-plugin serve`",
        })
    }
}

/// A running engine.
pub(crate) struct Engine {
    peer: Peer,
    /// Begins with the scheme, and has no slash at its end.
    url: String,
    token: Option<String>,
    /// What it is called as Go does: `amd64`; empty if the engine does not say.
    processor: String,
    /// Plugins run where `serve` does, or what has mounted its routes.
    is_own: bool,
    agent: Agent,
}

/// What the engine has installed under a plugin's name.
pub(crate) struct Installed {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) symbols: [(SymbolKind, Vec<String>); 3],
}

impl Installed {
    /// Reads it from the engine's answer.
    fn parse(answer: &Value) -> Option<Self> {
        let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
        let names = |field: &str| {
            answer[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let symbols =
            [(SymbolKind::Source, "sources"), (SymbolKind::Sink, "sinks"), (SymbolKind::Function, "functions")];
        let symbols = symbols.map(|(kind, field)| (kind, names(field)));
        answer["name"].as_str()?;
        Some(Self { name: text("name"), version: text("version"), symbols })
    }

    /// The names of its symbols of a kind.
    pub(crate) fn names(&self, kind: SymbolKind) -> &[String] {
        self.symbols.iter().find(|(of, _)| *of == kind).map_or(&[], |(_, names)| names)
    }
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
    pub(crate) fn at(url: &str, token: Option<String>) -> Result<Self> {
        let mut engine = Self::unasked(Peer::Engine, url, token)?;
        let about = engine.json("ask for the version", Method::GET, "/");
        match about {
            Ok(Some(about)) if about.get("version").is_some() => {
                engine.processor = about["arch"].as_str().unwrap_or_default().to_owned();
                engine.is_own = about.get("manager").is_some();
                Ok(engine)
            }
            // What works like eKuiper may have nothing but the plugins.
            Ok(None) if matches!(engine.json("list the plugins", Method::GET, PLUGINS), Ok(Some(Value::Array(_)))) => {
                Ok(engine)
            }
            Ok(_) => Err(engine.is_none()),
            Err(error) => Err(error),
        }
    }

    /// The same, without asking what is there.
    pub(crate) fn unasked(peer: Peer, url: &str, token: Option<String>) -> Result<Self> {
        let url = address(peer, url)?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(ANSWER))
            .max_redirects(0);
        #[cfg(feature = "https")]
        let config = match url.starts_with("https:") {
            true => config.tls_config(ekuiper_manager::tls::client().map_err(|problem| Error::Tls { problem })?),
            false => config,
        };
        let config = config.build();
        Ok(Self { peer, url, token, processor: String::new(), is_own: false, agent: config.into() })
    }

    fn is_none(&self) -> Error {
        Error::NotAnEngine { url: self.url.clone() }
    }

    /// The processor of the engine's machine as Go calls it, `amd64`; empty if
    /// the engine does not say.
    pub(crate) fn processor(&self) -> &str {
        &self.processor
    }

    /// Whether plugins may run in one of eKuiper's images.
    pub(crate) fn may_be_an_image(&self) -> bool {
        !self.is_own
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns the plugins that the engine has installed.
    pub(crate) fn plugins(&self) -> Result<Vec<Installed>> {
        let plugins = self.list("list the plugins", PLUGINS)?;
        plugins.iter().map(|plugin| Installed::parse(plugin).ok_or_else(|| self.is_none())).collect()
    }

    /// Returns what the engine has installed under this name.
    pub(crate) fn plugin(&self, name: &str) -> Result<Option<Installed>> {
        let path = format!("/plugins/portables/{}", encoded(name));
        let Some(plugin) = self.json("ask for the plugin", Method::GET, &path)? else { return Ok(None) };
        Installed::parse(&plugin).map(Some).ok_or_else(|| self.is_none())
    }

    /// Returns what the engine was told to install the plugin, where it keeps
    /// that.
    pub(crate) fn installation(&self, name: &str) -> Option<Installation> {
        let export = self.json("ask for its data", Method::GET, "/data/export").ok()??;
        let body: Value = serde_json::from_str(export["portablePlugins"][name].as_str()?).ok()?;
        let upload = body["file"].as_str()?.rsplit('/').next()?;
        Some(Installation { upload: upload.to_owned(), body })
    }

    /// Installs a plugin as it was installed before.
    pub(crate) fn install_again(&self, installation: &Installation) -> Result<String> {
        self.post_plugin(&installation.body)
    }

    /// Returns the plugin's state.
    pub(crate) fn status(&self, name: &str) -> Result<PluginStatus> {
        let path = format!("/plugins/portables/{}/status", encoded(name));
        let status = self.json("ask for the plugin's status", Method::GET, &path)?;
        let status = status.ok_or_else(|| Error::NotInstalled {
            url: self.url.clone(),
            name: printable::excerpt(name).into_owned(),
        })?;
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        if text("status").is_empty() {
            return Err(self.is_none());
        }
        let rules = status["refCount"].as_object().into_iter().flatten();
        let rules = rules.filter(|(_, count)| count.as_i64() != Some(0)).map(|(rule, _)| rule.clone()).collect();
        Ok(PluginStatus { status: text("status"), error: text("errMsg"), rules })
    }

    /// Uploads a file under this name, and returns its path on the engine's
    /// machine. A signal ends that.
    pub(crate) fn upload(&self, name: &str, file: &Path, interrupt: &Interrupt) -> Result<String> {
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
        let content = Interruptible { content, interrupt };
        let mut body = Cursor::new(head).chain(content).chain(Cursor::new(tail));
        let kind = format!("multipart/form-data; boundary={boundary}");
        let headers = [("content-type", kind), ("content-length", length.to_string())];
        let body = SendBody::from_reader(&mut body);
        let path = self.good("upload the package", Method::POST, UPLOADS, &headers, body)?;
        Ok(path.trim().to_owned())
    }

    /// Installs a plugin from a package on the engine's machine, or replaces
    /// the installed one.
    pub(crate) fn install(&self, name: &str, package: &str, parameters: &[String], is_update: bool) -> Result<String> {
        let mut body = json!({ "name": name, "file": format!("file://{}", encoded_path(package)) });
        if !parameters.is_empty() {
            body["shellParas"] = json!(parameters);
        }
        if is_update {
            let path = format!("/plugins/portables/{}", encoded(name));
            let (headers, body) = (json_headers(), body.to_string());
            return self.good("update the plugin", Method::PUT, &path, &headers, body.as_str());
        }
        self.post_plugin(&body)
    }

    fn post_plugin(&self, body: &Value) -> Result<String> {
        let (headers, body) = (json_headers(), body.to_string());
        self.good("install the plugin", Method::POST, PLUGINS, &headers, body.as_str())
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

    /// Returns an answer that may go on for any time, as it comes. `None` for
    /// what is not there.
    pub(crate) fn stream(&self, action: &'static str, path: &str) -> Result<Option<impl Read + use<>>> {
        let request = self.authorized(Request::builder().method(Method::GET).uri(format!("{}{path}", self.url)));
        let request = request.body(()).map_err(|error| self.unreachable(action)(error.into()))?;
        let request = self.agent.configure_request(request).timeout_global(None).timeout_recv_response(Some(ANSWER));
        let mut answer = self.agent.run(request.build()).map_err(self.unreachable(action))?;
        self.check_place(&answer)?;
        let status = answer.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(Some(answer.into_body().into_reader()));
        }
        let text = answer.body_mut().with_config().limit(LONGEST).lossy_utf8(true).read_to_string();
        let text = text.map_err(self.unreachable(action))?;
        // Without the manager's own words, its route is not there.
        match status == 404 && serde_json::from_str::<Value>(&text).is_err() {
            true => Ok(None),
            false => Err(self.refusal(action, status, &text)),
        }
    }

    /// Starts a rule again.
    pub(crate) fn restart(&self, rule: &str) -> Result<String> {
        self.good("restart a rule", Method::POST, &format!("/rules/{}/restart", encoded(rule)), &[], ())
    }

    /// Returns the rules that name one of these symbols: a source's by its
    /// stream, a function's in their SQL, a sink's among their actions.
    pub(crate) fn rules_with(&self, sources: &[String], functions: &[String], sinks: &[String]) -> Result<Vec<String>> {
        let mut of_plugin = Vec::new();
        for (kind, all) in [("ask for a stream", "/streams"), ("ask for a table", "/tables")] {
            for stream in self.list("list the streams and tables", all)?.iter().filter_map(Value::as_str) {
                let described =
                    self.json(kind, Method::GET, &format!("{all}/{}", encoded(stream)))?.unwrap_or_default();
                let kind = described["Options"]["type"].as_str().or(described["Options"]["TYPE"].as_str());
                if kind.is_some_and(|kind| sources.iter().any(|source| source.eq_ignore_ascii_case(kind))) {
                    of_plugin.push(stream.to_owned());
                }
            }
        }
        let mut found = Vec::new();
        for id in self.list("list the rules", "/rules")?.iter().filter_map(|rule| rule["id"].as_str()) {
            let path = format!("/rules/{}", encoded(id));
            let rule = self.json("ask for a rule", Method::GET, &path)?.unwrap_or_default();
            let sql = rule["sql"].as_str().unwrap_or_default();
            let actions = rule["actions"].as_array().into_iter().flatten().filter_map(Value::as_object);
            let uses_sink = actions.flat_map(|action| action.keys()).any(|action| sinks.contains(action));
            let names_one = |sql: &str| names_one(sql, &of_plugin, false) || names_one(sql, functions, true);
            let is_symbol = |text: &str| sources.iter().chain(sinks).any(|symbol| symbol == text);
            // A rule may be a graph instead of SQL.
            if uses_sink || names_one(sql) || has_text(&rule["graph"], &|text| is_symbol(text) || names_one(text)) {
                found.push(id.to_owned());
            }
        }
        Ok(found)
    }

    /// Whether there is a rule of this name.
    pub(crate) fn has_rule(&self, id: &str) -> Result<bool> {
        Ok(self.json("ask for a rule", Method::GET, &format!("/rules/{}", encoded(id)))?.is_some())
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

    /// Returns a list; what does not exist is empty.
    fn list(&self, action: &'static str, path: &str) -> Result<Vec<Value>> {
        match self.json(action, Method::GET, path)? {
            // An empty list of Go's may be null.
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list),
            Some(_) => Err(self.is_none()),
        }
    }

    /// Returns a JSON answer; `None` for what does not exist.
    fn json(&self, action: &'static str, method: Method, path: &str) -> Result<Option<Value>> {
        let (status, text) = self.request(action, method, path, &[], ())?;
        match status {
            404 => Ok(None),
            200..300 => match serde_json::from_str(&text) {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(self.is_none()),
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
        let failed = self.unreachable(action);
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = self.authorized(request);
        let is_question = request.method_ref() == Some(&Method::GET);
        let request = request.body(body).map_err(|error| failed(error.into()))?;
        let patience = if is_question { ANSWER } else { WORK };
        let request = self.agent.configure_request(request).timeout_global(Some(patience)).build();
        let mut answer = self.agent.run(request).map_err(&failed)?;
        self.check_place(&answer)?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().with_config().limit(LONGEST).lossy_utf8(true).read_to_string().map_err(&failed)?;
        Ok((status, text))
    }

    fn authorized(&self, request: http::request::Builder) -> http::request::Builder {
        match &self.token {
            Some(token) => request.header("authorization", token),
            None => request,
        }
    }

    fn unreachable(&self, action: &'static str) -> impl Fn(ureq::Error) -> Error + use<'_> {
        move |source| {
            let url = self.url.clone();
            #[cfg(feature = "https")]
            if let Some(problem) = ekuiper_manager::tls::reason(&source) {
                return Error::NoTls { url, action, problem };
            }
            Error::NoEngine { peer: self.peer, url, action, source: Box::new(source) }
        }
    }

    /// Checks that an answer does not send elsewhere.
    fn check_place<T>(&self, answer: &http::Response<T>) -> Result<()> {
        if answer.status().is_redirection() {
            let to = answer.headers().get("location").map_or(&b"nowhere"[..], |location| location.as_bytes());
            return Err(Error::Redirected { peer: self.peer, url: self.url.clone(), to: excerpt(to, 0) });
        }
        Ok(())
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
            401 | 403 => &format!("; {} wants a token: pass --token-file or --token", self.peer),
            _ if message.contains("handshake") => {
                "; the plugin does not start there: `ekuiper-plugin check` tries it here, and what it wrote there is in \
                 the engine's log"
            }
            _ if message.contains("data/uploads") => "; the engine takes packages from its uploads only",
            _ => "",
        };
        Error::EngineRefuses { peer: self.peer, url: self.url.clone(), action, message: shown + hint }
    }
}

/// What the engine was told to install a plugin.
pub(crate) struct Installation {
    body: Value,
    /// The last part of the file's path.
    pub(crate) upload: String,
}

/// A file whose reading a signal ends.
struct Interruptible<'a> {
    content: File,
    interrupt: &'a Interrupt,
}

impl Read for Interruptible<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Of another kind than what is tried again.
        if self.interrupt.is_set() { Err(io::Error::other("interrupted")) } else { self.content.read(buffer) }
    }
}

fn json_headers() -> [(&'static str, String); 1] {
    [("content-type", "application/json".to_owned())]
}

/// The address that a user gives, with its scheme and without a slash at its
/// end.
fn address(peer: Peer, given: &str) -> Result<String> {
    let url = if given.contains("://") { given.to_owned() } else { format!("http://{given}") };
    let wrong = |problem| {
        // Whatever is in front of an @ may be secret.
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", &url));
        let shown = rest.rsplit_once('@').map_or(url.clone(), |(_, host)| format!("{scheme}://…@{host}"));
        Error::EngineUrl { peer, url: excerpt(shown.as_bytes(), 0), problem }
    };
    let none = "it is no URL";
    let uri: Uri = url.parse().map_err(|_| wrong(none))?;
    let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(|| wrong(none))?;
    let port = authority.as_str().rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
    match uri.scheme_str() {
        _ if authority.as_str().contains('@') => {
            Err(wrong("eKuiper knows no users: what it wants is given by --token-file or --token"))
        }
        Some("https") if cfg!(not(feature = "https")) => Err(wrong("this command has no TLS")),
        Some("http" | "https")
            if port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0)) || port.is_none() =>
        {
            match uri.query().is_some() || url.contains('#') {
                true => Err(wrong("it has more than a host, a port and a path")),
                false => {
                    let scheme = uri.scheme_str().unwrap_or("http");
                    Ok(format!("{scheme}://{authority}{}", uri.path().trim_end_matches('/')))
                }
            }
        }
        Some("http" | "https") => Err(wrong("its port is none")),
        _ => Err(wrong(none)),
    }
}

/// Whether a text somewhere in this JSON is one that is looked for.
fn has_text(json: &Value, is_it: &dyn Fn(&str) -> bool) -> bool {
    match json {
        Value::String(text) => is_it(text),
        Value::Array(items) => items.iter().any(|item| has_text(item, is_it)),
        Value::Object(fields) => fields.values().any(|field| has_text(field, is_it)),
        _ => false,
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
pub(crate) fn encoded(part: &str) -> String {
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

/// Random bytes.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    ekuiper_transport_ipc::platform::random(&mut bytes)?;
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
