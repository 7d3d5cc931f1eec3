//! The manager: the settings of sources and sinks.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use ekuiper_host::{Chain, SymbolKind};
use ekuiper_interop::guard::{Watchdog, next};
use ekuiper_interop::managed::{builder, file, install, scratch, update};
use ekuiper_interop::packages;
use ekuiper_manager::{Error, Manager, Users};
use serde_json::{Map, Value, json};

const SOURCE: SymbolKind = SymbolKind::Source;
const SINK: SymbolKind = SymbolKind::Sink;

fn set(manager: &Manager, kind: SymbolKind, symbol: &str, key: &str, fields: Value) -> Result<(), String> {
    let Value::Object(fields) = fields else { unreachable!("an object is given") };
    manager.set_configuration(kind, symbol, key, fields).map_err(|error| Chain(&error).to_string())
}

fn settings(manager: &Manager, kind: SymbolKind, symbol: &str) -> Value {
    json!(manager.settings(kind, symbol).unwrap())
}

/// The first number of the rows of a source that is opened with a key.
fn first(manager: &Manager, key: Option<&str>) -> Value {
    let mut source = manager.source("random", key).unwrap().open().unwrap();
    next(&mut source).message
}

#[test]
fn settings_are_edited_used_and_kept_over_updates() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let [first_zip, second_zip] = ["v1", "v2"]
        .map(|version| file(packages::write(&packages::mirror(version), root.path(), &format!("{version}.zip"))));
    let manager = builder(root.path()).open().unwrap();
    install(&manager, &first_zip).unwrap();
    // The package's own, and none.
    assert_eq!(settings(&manager, SOURCE, "random"), json!({ "default": { "interval": 10 } }));
    assert_eq!(settings(&manager, SINK, "lines"), json!({}));

    set(&manager, SOURCE, "random", "default", json!({ "seed": 3 })).unwrap();
    set(&manager, SOURCE, "random", "fast", json!({ "interval": 1, "seed": 7 })).unwrap();
    let path = root.path().join("lines.jsonl");
    set(&manager, SINK, "lines", "here", json!({ "path": path })).unwrap();
    let all = json!({ "default": { "interval": 10, "seed": 3 }, "fast": { "interval": 1, "seed": 7 } });
    assert_eq!(settings(&manager, SOURCE, "random"), all);
    let fast = manager.configuration(SOURCE, "random", Some("fast")).unwrap();
    assert_eq!(Value::from(fast), json!({ "interval": 1, "seed": 7 }));
    // What a symbol is opened with decides what it sends.
    let row = |config: Value| -> Value {
        let mut source = manager.host().source("random").config(config).open().unwrap();
        next(&mut source).message
    };
    let [of_default, of_fast] = [3, 7].map(|seed| row(json!({ "interval": 1, "seed": seed })));
    assert_ne!(of_default, of_fast);
    assert_eq!((first(&manager, None), first(&manager, Some("fast"))), (of_default, of_fast.clone()));
    let sink = manager.sink("lines", Some("here")).unwrap().open().unwrap();
    sink.send(&json!({ "a": 1 })).unwrap();
    sink.close().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n");

    // They are those of the plugin, not of a version or a process.
    update(&manager, &second_zip).unwrap();
    assert_eq!(settings(&manager, SOURCE, "random"), all);
    drop(manager);
    let manager = builder(root.path()).open().unwrap();
    assert_eq!(settings(&manager, SOURCE, "random"), all);
    assert_eq!(first(&manager, Some("fast")), of_fast);
    assert!(manager.remove_configuration(SOURCE, "random", "default").unwrap());
    assert!(manager.remove_configuration(SOURCE, "random", "fast").unwrap());
    assert!(!manager.remove_configuration(SOURCE, "random", "fast").unwrap());
    assert_eq!(settings(&manager, SOURCE, "random"), json!({ "default": { "interval": 10 } }));
    let record = fs::read_to_string(root.path().join("managed/audit.jsonl")).unwrap();
    assert_eq!(record.matches("\"action\":\"set\"").count(), 3, "{record}");

    // They go with it.
    manager.remove("mirror", Users::Keep).unwrap();
    assert!(matches!(manager.settings(SINK, "lines"), Err(Error::NoSymbol { .. })));
    assert_eq!(fs::read_dir(root.path().join("managed/settings")).unwrap().count(), 0);
    install(&manager, &first_zip).unwrap();
    assert_eq!(settings(&manager, SINK, "lines"), json!({}));
}

#[test]
fn settings_that_do_not_fit_are_refused_and_change_nothing() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let manager = builder(root.path()).open().unwrap();
    install(&manager, &file(packages::write(&packages::mirror("v1"), root.path(), "1.zip"))).unwrap();
    set(&manager, SOURCE, "random", "k", json!({ "seed": 1 })).unwrap();
    let before = settings(&manager, SOURCE, "random");
    let misfit = "plugin mirror: configuration k does not fit source random: config field interval: invalid type: \
                  string \"soon\", expected int";
    for (kind, symbol, key, fields, said) in [
        (SOURCE, "random", "k", json!({ "interval": "soon" }), misfit),
        (SOURCE, "random", "default", json!({ "interval": 1.5 }), "does not fit source random: config field interval"),
        (
            SINK,
            "lines",
            "k",
            json!({ "path": 1 }),
            "does not fit sink lines: config field path: invalid type: integer `1`, expected string",
        ),
        (SOURCE, "none", "k", json!({}), "there is no source none: the plugins serve random"),
        (SOURCE, "../random", "k", json!({}), "there is no source ../random: "),
        (SINK, "random", "k", json!({}), "there is no sink random: "),
        (SOURCE, "random", "a b", json!({}), "\"a b\" cannot be the key of a configuration"),
        (SOURCE, "random", "../k", json!({}), "cannot be the key of a configuration"),
        (SOURCE, "random", "", json!({}), "it is empty"),
        (SINK, "lines", "k", json!({ "path": "x".repeat(5 << 20) }), "lines.yaml would be larger than 4 MiB"),
    ] {
        let text = set(&manager, kind, symbol, key, fields).unwrap_err();
        assert!(text.contains(said) && !text.contains('\n'), "{said}: {text}");
        assert_eq!(settings(&manager, SOURCE, "random"), before);
        assert_eq!(settings(&manager, SINK, "lines"), json!({}));
    }
    let unknown = manager.source("random", Some("slow")).map(drop).unwrap_err().to_string();
    assert_eq!(unknown, "source random has no configuration slow: it has default, k");
    assert_eq!(fs::read_dir(root.path().join("managed/downloads")).unwrap().count(), 0);
}

/// Many callers at once, and what they set is there, all of it.
#[test]
fn settings_are_changed_one_after_the_other() {
    let _watchdog = Watchdog::start();
    let root = scratch();
    let manager = builder(root.path()).open().unwrap();
    install(&manager, &file(packages::write(&packages::mirror("v1"), root.path(), "1.zip"))).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                // Never half of a file.
                manager.settings(SOURCE, "random").unwrap();
            }
        });
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let manager = &manager;
                scope.spawn(move || {
                    for number in 0..10 {
                        let fields = Map::from_iter([("seed".to_owned(), json!(number))]);
                        manager.set_configuration(SOURCE, "random", &format!("w{writer}-{number}"), fields).unwrap();
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        is_over.store(true, Ordering::SeqCst);
        reader.join().unwrap();
    });
    assert_eq!(manager.settings(SOURCE, "random").unwrap().len(), 41);
}
