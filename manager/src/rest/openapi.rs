//! `/openapi.json`: what the routes take and answer, for programs.

use std::sync::OnceLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// The document.
pub(super) async fn show() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| document().to_string());
    ([(header::CONTENT_TYPE, "application/json")], text.as_str()).into_response()
}

/// An operation of a route.
struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    /// The successful answer: its status, and its content by type.
    answer: (&'static str, Vec<(&'static str, Value)>),
    /// Further statuses: answers without a body, each with its description.
    others: &'static [(&'static str, &'static str)],
    /// The statuses of refusals.
    refusals: &'static [&'static str],
    /// Whether it is answered without a token, too, where the server has one.
    is_open: bool,
}

/// The beginnings of the engine's own paths, whose refusals have its content type.
const OF_ENGINE: [&str; 3] = ["/plugins/portables", "/config/", "/metadata/"];

/// The path whose answer may say that plugins are away.
const READY: &str = "/readyz";

const TEXT: &str = "text/plain";
const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
const EVENTS: &str = "text/event-stream";

fn get(path: &'static str, summary: &'static str, content: &[(&'static str, Value)]) -> Operation {
    Operation {
        method: "get",
        path,
        summary,
        parameters: Vec::new(),
        body: None,
        answer: ("200", content.to_vec()),
        others: &[],
        refusals: &[],
        is_open: false,
    }
}

fn change(method: &'static str, path: &'static str, summary: &'static str) -> Operation {
    let answer = ("200", vec![(TEXT, json!({ "type": "string" }))]);
    Operation { method, answer, refusals: &["400"], ..get(path, summary, &[]) }
}

impl Operation {
    fn query(mut self, name: &str, schema: &Value, description: &str) -> Self {
        let parameter = json!({ "name": name, "in": "query", "schema": schema, "description": description });
        self.parameters.push(parameter);
        self
    }

    fn takes(mut self, kind: &str, schema: &Value) -> Self {
        let body = self.body.get_or_insert_with(|| json!({ "required": true, "content": {} }));
        body["content"][kind] = json!({ "schema": schema });
        self
    }

    fn refuses(self, refusals: &'static [&'static str]) -> Self {
        Self { refusals, ..self }
    }

    fn open(self) -> Self {
        Self { is_open: true, ..self }
    }

    fn answers(self, status: &'static str, content: &[(&'static str, Value)]) -> Self {
        Self { answer: (status, content.to_vec()), ..self }
    }

    fn described(&self) -> Value {
        let of_path = self.path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let of_path = of_path.map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } })
        });
        let parameters: Vec<_> = of_path.chain(self.parameters.iter().cloned()).collect();
        let content = |content: &[(&str, Value)]| -> Map<_, _> {
            content.iter().map(|(kind, schema)| ((*kind).to_owned(), json!({ "schema": schema }))).collect()
        };
        let (status, answer) = &self.answer;
        let mut answers = json!({});
        answers[status] = match answer.is_empty() {
            true => json!({ "description": "done" }),
            false => json!({ "description": "done", "content": content(answer) }),
        };
        for (status, description) in self.others {
            answers[status] = json!({ "description": description });
        }
        let is_of_engine = OF_ENGINE.iter().any(|path| self.path.starts_with(path));
        // In any, the manager's folder may be gone.
        for status in self.refusals.iter().chain(&["500"]) {
            let name = if is_of_engine { "EngineRefusal" } else { "Refusal" };
            answers[status] = json!({ "$ref": format!("#/components/responses/{name}") });
        }
        // Any request may be one of another site's page, or one too many.
        for status in ["403", "503"] {
            answers[status] = json!({ "$ref": "#/components/responses/Refusal" });
        }
        if self.path == READY {
            answers["503"]["$ref"] = json!("#/components/responses/NotReady");
        }
        let mut described = json!({ "summary": self.summary, "parameters": parameters, "responses": answers });
        if self.is_open {
            described["security"] = json!([]);
        } else {
            described["responses"]["401"] = json!({ "$ref": "#/components/responses/NoToken" });
        }
        if let Some(body) = &self.body {
            described["requestBody"] = body.clone();
        }
        described
    }
}

/// All operations of the router.
fn operations() -> Vec<Operation> {
    let text = json!({ "type": "string" });
    let object = json!({ "type": "object" });
    let list = |items: &Value| json!({ "type": "array", "items": items });
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let wanted = reference("Wanted");
    let about = list(&reference("About"));
    let lines_of = |name: &str| {
        let text = format!("Lines, each a JSON object as #/components/schemas/{name} describes it");
        json!({ "type": "string", "description": text })
    };
    let events_of = |name: &str| {
        let text = format!("Events, whose data are objects as #/components/schemas/{name} describes them");
        json!({ "type": "string", "description": text })
    };
    let tuples = [(LINES, lines_of("TupleLine")), (EVENTS, events_of("TupleLine"))];
    let of_source = get("/sources/{name}", "The tuples of a source, as they come", &tuples)
        .query("datasource", &text, "The source's topic")
        .query("key", &text, "Key of its settings")
        .query("config", &text, "Further settings, as a JSON object")
        .query("count", &json!({ "type": "integer", "minimum": 0 }), "Number of tuples after which it ends");
    let head_of_source = Operation {
        method: "head",
        parameters: of_source.parameters.clone(),
        ..get("/sources/{name}", "What a source would be answered with, which is not opened", &tuples)
    };
    let mut all = vec![
        get(
            "/",
            "For a browser the page, and else version, system and processor",
            &[(JSON, object.clone()), ("text/html", text.clone())],
        ),
        get("/page/{file}", "A file of the page", &[("text/css", text.clone()), ("text/javascript", text.clone())])
            .refuses(&["404"])
            .open(),
        get("/openapi.json", "This document", &[(JSON, object.clone())]),
        get("/healthz", "Answers as long as requests are answered at all", &[(TEXT, text.clone())]).open(),
        get(READY, "Whether each plugin runs; else a line for each that does not", &[(TEXT, text.clone())]).open(),
        get("/metrics", "Figures for Prometheus", &[(TEXT, text.clone())]),
        get("/plugins", "How the plugins fare", &[(JSON, list(&reference("Plugin")))]),
        Operation { method: "post", ..get("/functions/{name}", "Calls a function, once or for each line", &[]) }
            .query("timeout", &json!({ "type": "integer", "minimum": 0 }), "Maximum time of the call, in milliseconds")
            .query("ordered", &json!({ "type": "boolean" }), "Whether lines are answered in their order")
            .takes(JSON, &json!({ "type": "array", "items": {} }))
            .takes(LINES, &text)
            .answers("200", &[(JSON, json!({})), (LINES, lines_of("CallLine"))])
            .refuses(&["400", "404", "408", "413", "422", "502", "503", "504"]),
        Operation {
            others: &[("204", "A browser has lost its stream of events: there is no rest of it")],
            ..of_source
        }
        .refuses(&["400", "404", "422", "502", "503", "504"]),
        head_of_source.refuses(&["400", "404"]),
        Operation { method: "post", ..get("/sinks/{name}", "Sends rows to a sink; answers what became of each", &[]) }
            .query("key", &text, "Key of its settings")
            .query("config", &text, "Further settings, as a JSON object")
            .takes(LINES, &text)
            .answers("200", &[(LINES, lines_of("RowLine"))])
            .refuses(&["400", "404", "422", "502", "503", "504"]),
        get(
            "/logs",
            "The last lines of the plugins, and those that follow",
            &[(LINES, lines_of("LogLine")), (EVENTS, events_of("LogLine"))],
        )
        .query("plugin", &text, "Lines of this plugin alone")
        .query("level", &json!({ "enum": ["error", "warn", "info", "debug", "trace"] }), "Lines from this level on")
        .query("lines", &json!({ "type": "integer", "minimum": 0 }), "Number of the last lines")
        .query("follow", &json!({ "enum": ["0", "1"] }), "Whether later lines follow")
        .refuses(&["400", "404", "503"]),
        get("/plugins/portables", "The installed plugins", &[(JSON, list(&reference("Installed")))]),
        change("post", "/plugins/portables", "Installs a plugin")
            .takes(JSON, &wanted)
            .answers("201", &[(TEXT, text.clone())])
            .refuses(&["400", "408", "413"]),
        get("/plugins/portables/{name}", "An installed plugin", &[(JSON, reference("Installed"))]).refuses(&["404"]),
        change("put", "/plugins/portables/{name}", "Updates a plugin: the old version serves until the new one works")
            .takes(JSON, &reference("WantedUpdate"))
            .refuses(&["400", "408", "413"]),
        change("delete", "/plugins/portables/{name}", "Removes a plugin").query(
            "users",
            &json!({ "enum": ["keep", "stop"] }),
            "Whether rules that use it are stopped; a used one is kept by default",
        ),
        get("/plugins/portables/{name}/status", "The state of a plugin, as JSON", &[(TEXT, text.clone())])
            .refuses(&["404"]),
        get("/config/uploads", "The paths of packages that were sent", &[(JSON, list(&text))]),
        change("post", "/config/uploads", "Sends a package; answers its path")
            .takes(
                "multipart/form-data",
                &json!({
                    "type": "object",
                    "properties": { "uploadFile": { "type": "string", "format": "binary" } },
                    "required": ["uploadFile"],
                }),
            )
            .answers("201", &[(TEXT, text.clone())])
            .refuses(&["400", "413"]),
        change("delete", "/config/uploads/{name}", "Removes a package that was sent"),
        get("/metadata/functions", "What the packages say of their functions", &[(JSON, list(&object))]),
        get("/metadata/sources", "What the packages say of their sources", &[(JSON, about.clone())])
            .query("kind", &text, "Which sources: none is for look-ups (`lookup`)")
            .refuses(&["400"]),
        get("/metadata/sinks", "What the packages say of their sinks", &[(JSON, about)]),
    ];
    for (shown, keys, key) in [
        ("/metadata/sources/{name}", "/metadata/sources/yaml/{name}", "/metadata/sources/{name}/confKeys/{key}"),
        ("/metadata/sinks/{name}", "/metadata/sinks/yaml/{name}", "/metadata/sinks/{name}/confKeys/{key}"),
    ] {
        all.extend([
            get(shown, "What its package says of a symbol", &[(JSON, object.clone())]).refuses(&["400"]),
            get(keys, "The settings of a symbol, by key", &[(JSON, object.clone())]).refuses(&["400"]),
            change("put", key, "Sets the fields of a key")
                .takes(JSON, &object)
                .answers("200", &[])
                .refuses(&["400", "408", "413"]),
            change("delete", key, "Removes what was set of a key").answers("200", &[]),
        ]);
    }
    all
}

/// Schema of a line: an object with these properties alone.
fn line(properties: Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn document() -> Value {
    let mut paths = json!({});
    for operation in operations() {
        paths[operation.path][operation.method] = operation.described();
    }
    let text = json!({ "type": "string" });
    let texts = json!({ "type": ["array", "null"], "items": text });
    let wanted = json!({
        "name": text,
        "file": { "type": "string", "description": "URL of a .zip, or of a folder, which ends in a slash" },
        "shellParas": { "type": "array", "items": text, "description": "Parameters of install.sh" },
        "sha256": { "type": ["string", "null"], "description": "Of the zip" },
    });
    let error = json!({ "schema": { "$ref": "#/components/schemas/Error" } });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ekuiper-plugin serve",
            "description": "Installs, updates, removes and watches over eKuiper portable plugins, and uses their symbols.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": paths,
        // It has no token where only this machine reaches it, unless it is given one.
        "security": [{ "token": [] }, {}],
        "components": {
            "schemas": {
                "Wanted": { "type": "object", "properties": wanted, "required": ["name", "file"] },
                "WantedUpdate": {
                    "description": "The name is that of the path, and may be left out",
                    "type": "object", "properties": wanted, "required": ["file"],
                },
                "Error": {
                    "type": "object",
                    "properties": {
                        "error": { "type": "integer", "description": "eKuiper's code" },
                        "message": { "type": "string", "description": "A sentence" },
                    },
                    "required": ["error", "message"],
                },
                "Installed": {
                    "type": "object",
                    "properties": {
                        "name": text, "version": text, "language": text, "executable": text,
                        "sources": texts, "sinks": texts, "functions": texts,
                    },
                    "required": ["name", "version", "language", "executable"],
                },
                "Plugin": {
                    "type": "object",
                    "properties": {
                        "name": text, "state": text, "pid": { "type": ["integer", "null"] },
                        "restarts": { "type": "integer" }, "crashes": { "type": "integer" },
                        "symbols": { "type": "array", "items": { "type": "object" } },
                        "members": { "type": "array", "items": { "type": "object" } },
                        "totals": { "type": "array", "items": { "type": "object" } },
                    },
                    "required": ["name", "state"],
                },
                "CallLine": {
                    "description": "The result of a call, or its error; without order, with the number of its line",
                    "oneOf": [
                        line(json!({ "result": {}, "row": { "type": "integer" } }), &["result"]),
                        line(json!({ "error": text, "row": { "type": "integer" } }), &["error"]),
                    ],
                },
                "TupleLine": {
                    "description": "A tuple, or an error of the source, which may go on",
                    "oneOf": [
                        line(json!({ "message": {}, "meta": {} }), &["message", "meta"]),
                        line(json!({ "error": text }), &["error"]),
                    ],
                },
                "RowLine": {
                    "description": "What became of the rows of a line, or without `row` an error: the body broke off, or the sink failed at its end",
                    "oneOf": [
                        line(json!({ "row": { "type": "integer" }, "state": { "const": "acked" } }), &["row", "state"]),
                        line(
                            json!({
                                "row": { "type": "integer" },
                                "state": { "enum": ["failed", "unknown"] },
                                "error": text,
                            }),
                            &["row", "state", "error"],
                        ),
                        line(json!({ "error": text }), &["error"]),
                    ],
                },
                "LogLine": line(
                    json!({
                        "unix_seconds": { "type": "number" }, "plugin": { "type": ["string", "null"] },
                        "pid": { "type": ["integer", "null"] }, "level": text, "line": text,
                    }),
                    &["unix_seconds", "plugin", "pid", "level", "line"],
                ),
                "About": {
                    "type": "object",
                    "properties": { "name": text, "type": text },
                    "required": ["name", "type"],
                },
            },
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "The token in the file of --token-file" },
            },
            "responses": {
                "NoToken": {
                    "description": "The server has a token, which the request does not carry",
                    "headers": { "WWW-Authenticate": { "schema": { "const": "Bearer" } } },
                    "content": { JSON: error },
                },
                "Refusal": { "description": "An error", "content": { JSON: error } },
                "EngineRefusal": {
                    "description": "An error as #/components/schemas/Error describes it, with the engine's content type",
                    "content": { TEXT: { "schema": text } },
                },
                "NotReady": {
                    "description": "A line for each plugin that does not run, or an error",
                    "content": { TEXT: { "schema": text }, JSON: error },
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The paths in the text of a module that adds routes.
    fn routes(source: &str) -> impl Iterator<Item = &str> {
        source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next())
    }

    #[test]
    fn each_route_is_described() {
        let routes: BTreeSet<_> = routes(include_str!("mod.rs")).chain(routes(include_str!("page.rs"))).collect();
        let described: BTreeSet<_> = operations().iter().map(|operation| operation.path).collect();
        assert_eq!(routes, described);
    }
}
