//! What a real engine's manager page reads, and `serve`, side by side.

use serde_json::{Value, json};

use crate::describe::{has_page, mirror};
use crate::rest::{Served, ask, with_prefix};
use ekuiper_interop::engine::kuiperd::{Engine, Site};

/// Leaves of a list what is the plugin's, once each: the engine lists its own
/// too, and functions twice.
fn of_plugin(body: &mut Value) {
    const NAMES: [&str; 6] = ["random", "lines", "revert", "echo", "average", "exceeds"];
    if let Some(list) = body.as_array_mut() {
        list.retain(|item| item["name"].as_str().is_some_and(|name| NAMES.contains(&name)));
        list.sort_by_key(|item| item["name"].as_str().unwrap_or_default().to_owned());
        list.dedup();
    }
}

#[test]
fn serve_has_the_settings_and_descriptions_that_the_engine_has() {
    const SOURCE: &str = "/metadata/sources/random";
    const SINK: &str = "/metadata/sinks/lines";
    const CONVERSION: &str = "Type conversion failed:random.";
    let Some(site) = Site::new() else { return };
    mirror(&site);
    let engine = Engine::start(&site);
    if !has_page(&engine) {
        return;
    }
    let served = Served::start(&site);
    let install = json!({ "name": "mirror", "file": "file://SITE/mirror.zip" }).to_string();
    let [source_yaml, sink_yaml] = ["/metadata/sources/yaml/random", "/metadata/sinks/yaml/lines"].map(str::to_owned);
    let key = |symbol: &str, key: &str| format!("{symbol}/confKeys/{key}");
    let none = String::new;
    // Where the words differ, the prefix of both.
    let requests = [
        ("GET", SOURCE.to_owned(), none(), Some("This plugin was not found:random")),
        ("POST", "/plugins/portables".into(), install.clone(), None),
        ("GET", "/metadata/functions".into(), none(), None),
        ("GET", "/metadata/sources".into(), none(), None),
        ("GET", "/metadata/sources?kind=lookup".into(), none(), None),
        ("GET", "/metadata/sinks".into(), none(), None),
        ("GET", SOURCE.into(), none(), None),
        ("GET", SINK.into(), none(), None),
        ("GET", "/metadata/sources/none".into(), none(), Some("This plugin was not found:none")),
        ("GET", "/metadata/sinks/none".into(), none(), Some("This plugin was not found:none")),
        ("GET", source_yaml.clone(), none(), None),
        ("GET", sink_yaml.clone(), none(), None),
        ("GET", "/metadata/sources/yaml/none".into(), none(), Some("This plugin was not found:sources.none")),
        ("GET", "/metadata/sinks/yaml/none".into(), none(), Some("This plugin was not found:sinks.none")),
        ("PUT", key(SOURCE, "fast"), r#"{"seed":1}"#.into(), None),
        ("PUT", key(SOURCE, "default"), r#"{"count":7}"#.into(), None),
        ("GET", source_yaml.clone(), none(), None),
        ("PUT", key(SOURCE, "FAST"), "{}".into(), None),
        ("PUT", key(SOURCE, "fast"), r#"{"count":2}"#.into(), None),
        ("GET", source_yaml.clone(), none(), None),
        ("PUT", key(SOURCE, "a%20b"), "{}".into(), Some("Invalid confKey: ")),
        ("DELETE", key(SOURCE, "a%20b"), none(), Some("Invalid confKey: ")),
        ("PUT", key(SOURCE, "bad"), "{".into(), Some(CONVERSION)),
        ("PUT", key(SOURCE, "bad"), "[1]".into(), Some(CONVERSION)),
        ("PUT", key(SOURCE, "bad"), none(), Some(CONVERSION)),
        ("PUT", key(SINK, "k"), r#"{"path":"/tmp/x"}"#.into(), None),
        ("GET", sink_yaml.clone(), none(), None),
        ("DELETE", key(SINK, "k"), none(), None),
        ("DELETE", key(SINK, "k"), none(), Some("Failed to write data to file:sinks.lines.sinks.lines.k is not found")),
        ("GET", sink_yaml, none(), None),
        ("DELETE", key("/metadata/sources/none", "k"), none(), Some("This plugin was not found:sources.none")),
        ("DELETE", key(SOURCE, "FAST"), none(), None),
        ("DELETE", key(SOURCE, "default"), none(), None),
        ("GET", source_yaml.clone(), none(), None),
        // They outlive an update.
        ("PUT", "/plugins/portables/mirror".into(), install, None),
        ("GET", source_yaml.clone(), none(), None),
        ("DELETE", "/plugins/portables/mirror".into(), none(), None),
        ("GET", source_yaml, none(), Some("This plugin was not found:sources.random")),
        ("GET", SOURCE.into(), none(), Some("This plugin was not found:random")),
    ];
    for (method, path, body, prefix) in requests {
        let place = site.path("").display().to_string();
        let mut of_engine = ask(engine.url(), method, &path, &body.replace("SITE", "/tmp"));
        let mut of_ours = ask(served.url(), method, &path, &body.replace("SITE", place.trim_end_matches('/')));
        for answer in [&mut of_engine, &mut of_ours] {
            of_plugin(answer.body_mut());
        }
        let cut = |answer| match prefix {
            Some(prefix) => with_prefix(answer, prefix),
            None => answer,
        };
        assert_eq!(cut(of_ours), cut(of_engine), "{method} {path} {body}");
    }
    drop(served);
    engine.stop();
}
