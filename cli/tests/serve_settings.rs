//! `serve`: what eKuiper's manager page reads, and the settings of symbols.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // these are tests, helpers included

mod support;

use serde_json::{Value, json};
use support::served::{Server, package};
use support::{Bench, speaker};

#[test]
fn symbols_are_described_and_their_settings_edited_by_requests() {
    let bench = Bench::new();
    let body = package(&bench, "v1");
    let server = Server::start(&bench);
    assert_eq!(server.json("/metadata/sources"), json!([]));
    assert_eq!(server.ask("POST", "/plugins/portables", &body, "").0, 201);
    let names = |path: &str| -> Vec<Value> {
        server.json(path).as_array().unwrap().iter().map(|symbol| symbol["name"].clone()).collect()
    };
    assert_eq!(names("/metadata/sources"), ["random"]);
    assert_eq!(names("/metadata/sources?kind=lookup"), Vec::<Value>::new());
    // The engine has a sink `file` of its own, which hides that of the plugin.
    assert_eq!(names("/metadata/sinks"), ["lines"]);
    assert_eq!(names("/metadata/functions"), ["average", "echo", "revert"]);
    let random = server.json("/metadata/sources/random");
    assert_eq!((&random["type"], &random["properties"]["default"][0]["name"]), (&json!("portable"), &json!("count")));

    let fast = "/metadata/sources/random/confKeys/fast";
    assert_eq!(server.ask("PUT", fast, r#"{"interval":1}"#, ""), (200, String::new()));
    let settings = json!({ "default": {}, "fast": { "interval": 1 } });
    assert_eq!(server.json("/metadata/sources/yaml/random"), settings);
    let bad = "/metadata/sources/random/confKeys/a%0Ab";
    let long = format!("{{\"note\":\"{}\"}}", "x".repeat(2 << 20));
    let misfit = "config field interval: invalid type: string \"soon\", expected int";
    let null = "config field interval: invalid type: null, expected int";
    let unknown = "unknown config field \"intervall\": did you mean \"interval\"? It has count, ";
    for (method, path, body, status, code, said) in [
        ("PUT", fast, r#"{"interval":"soon"}"#, 400, 5000, misfit),
        ("PUT", fast, r#"{"interval":null}"#, 400, 5000, null),
        ("PUT", fast, r#"{"intervall":7}"#, 400, 5000, unknown),
        (
            "PUT",
            fast,
            "null",
            400,
            5000,
            "Type conversion failed:random.the settings are to be a JSON object, not null",
        ),
        (
            "PUT",
            fast,
            "[1]",
            400,
            5000,
            "Type conversion failed:random.the settings are to be a JSON object, not a list",
        ),
        ("PUT", fast, r#"{"interval":"#, 400, 5000, "Type conversion failed:random."),
        ("PUT", fast, &long, 413, 1000, "has more than 1048576 bytes"),
        ("PUT", bad, "{}", 400, 1000, "Invalid confKey: "),
        (
            "PUT",
            "/metadata/sinks/random/confKeys/k",
            "{}",
            400,
            5000,
            "This plugin was not found:sinks.random: random is a source of plugin mirror",
        ),
        ("DELETE", "/metadata/sources/random/confKeys/k", "", 400, 5000, "k is not found: set are fast"),
        ("GET", "/metadata/sources/a%0Ab", "", 400, 5000, "This plugin was not found:a\\nb: the plugins serve random"),
        (
            "GET",
            "/metadata/sinks/yaml/a%2Fb",
            "",
            400,
            5000,
            "This plugin was not found:sinks.a/b: the plugins serve file, lines",
        ),
    ] {
        let (found, answer) = server.ask(method, path, body, "");
        assert_eq!(found, status, "{method} {path}: {answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let text = answer["message"].as_str().unwrap();
        assert!(text.contains(said) && !text.contains(char::is_control), "{method} {path}: {text}");
        assert_eq!(answer["error"], code, "{method} {path}: {text}");
        assert_eq!(server.json("/metadata/sources/yaml/random"), settings);
    }
    assert_eq!(server.ask("DELETE", fast, "", ""), (200, String::new()));
    assert_eq!(server.json("/metadata/sources/yaml/random"), json!({ "default": {} }));
    server.end();
    bench.assert_nothing_is_left();
}

#[test]
fn settings_of_a_plugin_that_says_nothing_of_them_are_taken_as_they_are() {
    let bench = Bench::new();
    let folder = speaker(&bench, "b'handshake'", "def call(request): return b''");
    std::fs::create_dir(folder.join("sources")).unwrap();
    std::fs::write(folder.join("sources/s.yaml"), "default: {}\n").unwrap();
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let server = Server::start(&bench);
    let body = json!({ "name": name, "file": format!("file://{}/", folder.display()) }).to_string();
    let (status, said) = server.ask("POST", "/plugins/portables", &body, "");
    assert_eq!(status, 201, "{said}");
    let key = "/metadata/sources/s/confKeys/k";
    assert_eq!(server.ask("PUT", key, r#"{"any":null}"#, ""), (200, String::new()));
    assert_eq!(server.json("/metadata/sources/yaml/s"), json!({ "default": {}, "k": { "any": null } }));
    server.end();
    bench.assert_nothing_is_left();
}
