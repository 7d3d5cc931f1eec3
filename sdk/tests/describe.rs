//! The plugin's description of itself, printed and in the hello, and what it
//! does with a configuration that does not fit.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

mod support;

use std::process::{Command, Output, Stdio};

use ekuiper_core::description::{DataType, Description};
use ekuiper_core::message::{Hello, SymbolKind};
use serde_json::{Value, json};

use support::build::unruly;
use support::plugin::meta;
use support::{Plugin, watchdog};

/// What the plugin does for `--describe`.
fn asked(settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(unruly());
    command.arg("--describe").envs(settings.iter().copied()).stdin(Stdio::null());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_plugin_prints_its_description_as_one_line() {
    let _watchdog = watchdog();
    for settings in [&[][..], &[("UNRULY_SUPERVISED", "1")]] {
        let output = asked(settings);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let line = text(&output.stdout);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let described = Description::decode(line.as_bytes()).unwrap();
        assert_eq!((described.name.as_str(), described.version.as_str()), ("unruly", "v1.2.3"));
        let value: Value = serde_json::from_str(&line).unwrap();
        let clamp = value["functions"].as_array().unwrap().iter().find(|function| function["name"] == "clamp");
        assert_eq!(
            clamp.unwrap(),
            &json!({"name": "clamp", "doc": "Limits a value.", "result": {"type": "float"}, "arguments": [
                {"name": "value", "type": "float"}, {"name": "low", "type": "float"}, {"name": "high", "type": "float?"},
            ]})
        );
        let strict = described.config(SymbolKind::Source, "strict").unwrap();
        assert_eq!(strict.fields[0].doc, "Where to publish.");
        assert_eq!(strict.fields[1].data_type.fields()[1].default, Some(json!(1883)));
        let count = described.functions.iter().find(|function| function.name == "count").unwrap();
        assert!(count.aggregate && count.arguments[0].data_type == DataType::list(DataType::Any));
        let twice = described.functions.iter().find(|function| function.name == "lethal_twice").unwrap();
        assert!(twice.idempotent && !twice.parallel);
        // The name, the arguments and nothing else are known of a trait's function.
        let cross = value["functions"].as_array().unwrap().iter().find(|function| function["name"] == "cross");
        assert_eq!(cross.unwrap()["variadic"], json!({"type": "any"}));
    }
}

#[test]
fn a_plugin_that_cannot_describe_itself_says_why() {
    let _watchdog = watchdog();
    for (settings, said) in [
        (("UNRULY_MISTAKE", "1"), "plugin unruly: function \"misnamed\" takes 3 arguments, but 1 is named"),
        (("UNRULY_UNDESCRIBABLE", "1"), "plugin unruly: panicked: no words for it"),
    ] {
        let output = asked(&[settings]);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()));
        assert!(text(&output.stderr).lines().any(|line| line.ends_with(said)), "{}", text(&output.stderr));
    }
}

#[test]
fn the_hello_carries_the_description() {
    let _watchdog = watchdog();
    let printed = Description::decode(&asked(&[]).stdout).unwrap();
    let start = |settings: &[(&str, &str)]| {
        Plugin::start_told(settings, json!({ "hello": 1 }), b"handshake {", |launch| {
            let mut command = Command::new(unruly());
            command.arg(launch);
            command
        })
    };
    for settings in [&[][..], &[("UNRULY_SUPERVISED", "1")]] {
        let plugin = start(settings);
        let hello = Hello::decode(&plugin.greeting).unwrap();
        assert_eq!(*hello.description.unwrap(), printed);
    }
    let plugin = start(&[("UNRULY_UNDESCRIBABLE", "1")]);
    let hello = Hello::decode(&plugin.greeting).unwrap();
    assert!(hello.description.is_none() && hello.symbols(SymbolKind::Function).contains(&"clamp".to_owned()));
    plugin.log.wait_for(&["cannot describe itself", "no words for it"]);
}

#[test]
fn a_configuration_that_does_not_fit_is_refused_before_it_is_read() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let cases = [
        (json!({}), "topic: missing field `topic`"),
        (json!({"topic": 7}), "topic: invalid type: integer `7`, expected string"),
        (
            json!({"topic": "a", "servers": [{"host": "h"}, {"host": "h", "port": "mqtt"}]}),
            "servers[1].port: invalid type: string \"mqtt\", expected int",
        ),
        (json!({"topc": "a"}), "topic: missing field `topic`; unknown config field \"topc\": did you mean \"topic\"?"),
    ];
    for (config, said) in cases {
        let said = format!("invalid config field {said}");
        let (_pull, answer) = plugin.start_source("strict", &meta("r1", "source"), config.clone());
        assert_eq!(answer, said, "{config}");
        let (_push, _acks, answer) = plugin.start_sink("strict", &meta("r1", "sink"), config.clone());
        assert_eq!(answer, said, "{config}");
    }
}

#[test]
fn unknown_fields_are_logged_but_not_the_engines_own() {
    let _watchdog = watchdog();
    let mut plugin = Plugin::start(&[]);
    let config = json!({"topic": "a", "intervall": 5, "format": "json", "strictValidation": false, "sendSingle": true});
    let (_push, _acks, answer) = plugin.start_sink("strict", &meta("r1", "sink"), config.clone());
    assert_eq!(answer, "ok");
    let line = plugin.log.wait_for(&["unknown config field \"intervall\""]);
    assert!(line.contains("did you mean \"interval\"?"), "{line}");
    let (_pull, answer) = plugin.start_source("strict", &meta("r1", "source"), config);
    assert_eq!(answer, "ok");
    plugin.log.wait_for(&["unknown config field \"sendSingle\""]);
    let said = plugin.log.text();
    let told = said.lines().filter(|line| line.contains("unknown config field")).count();
    // `strictValidation` is the engine's in a source only.
    assert_eq!(told, 4, "{said}");
}
