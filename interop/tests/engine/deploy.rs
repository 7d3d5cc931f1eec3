//! Plugins that the command brings into the engine, and takes out again.

use std::process::{Command, Output};

use ekuiper_interop::tools;
use serde_json::{Value, json};

use crate::kuiperd::{Engine, Site, wait};

/// Runs the command on this engine.
fn command(engine: &Engine<'_>, arguments: &[&str]) -> Output {
    let mut command = Command::new(tools::ekuiper_plugin());
    command.args(arguments).args(["--engine", engine.url()]).output().unwrap()
}

fn good(engine: &Engine<'_>, arguments: &[&str]) -> Value {
    let output = command(engine, arguments);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(engine: &Engine<'_>, arguments: &[&str]) -> String {
    let output = command(engine, arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_plugin_is_deployed_updated_and_removed() {
    let Some(site) = Site::new() else { return };
    let engine = Engine::start(&site);
    let zip = site.path("mirror.zip");
    let zip = zip.to_str().unwrap();
    let deployed = good(&engine, &["deploy", zip]);
    assert_eq!((&deployed["status"], &deployed["was"]), (&json!("running"), &Value::Null), "{deployed}");

    engine.create_stream("steady");
    engine.create_rule("used", "SELECT count, name, revert(name) AS reversed FROM steady");
    site.wait_for_rows("used.jsonl", 3);
    assert!(refused(&engine, &["remove", "mirror"]).contains("rules use mirror: used; stop them first"));

    // The engine often reports the former process's end as the next one's.
    for round in 0..4 {
        let updated = good(&engine, &["deploy", zip, "--restart-rules"]);
        assert_eq!((&updated["status"], &updated["was"]), (&json!("running"), &json!("v0.1.0")), "{round}: {updated}");
        assert_eq!(updated["rules"][0]["id"], "used", "{updated}");
        assert_eq!(updated["rules"][0]["status"], "running", "{updated}");
        let before = site.rows("used.jsonl").len();
        site.wait_for_rows("used.jsonl", before + 3);
    }

    engine.tell_rule("used", "stop");
    engine.delete_rule("used");
    wait("the rule's end", || command(&engine, &["remove", "mirror"]).status.success().then_some(()));
    assert!(refused(&engine, &["remove", "mirror"]).contains("has no plugin mirror"));
    // Nothing of it is left among the engine's files, the upload neither.
    for folder in ["base/plugins/portable", "base/data/uploads"] {
        let left: Vec<_> = std::fs::read_dir(site.path(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    engine.stop();
}

#[test]
fn what_the_engine_refuses_is_told_in_its_words() {
    let Some(site) = Site::new() else { return };
    let engine = Engine::start(&site);
    let bad = site.path("bad.zip");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&bad).unwrap());
    let manifest = br#"{"version":"v1","language":"rust","executable":"run","functions":["f"]}"#;
    for (name, content) in [("bad.json", &manifest[..]), ("run", b"#!/bin/sh\n")] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut zip, content).unwrap();
    }
    zip.finish().unwrap();
    let error = refused(&engine, &["deploy", bad.to_str().unwrap()]);
    assert!(error.contains("refuses to install the plugin: portable plugin create command error"), "{error}");
    engine.stop();
}
