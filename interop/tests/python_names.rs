//! The public names of the official package and of ours, compared: nothing may
//! be missing, and what differs is known.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use ekuiper_interop::tools;
use serde_json::{Map, Value};

/// What differs, and why.
const KNOWN: &[(&str, &str)] = &[
    ("emit(meta)", "it has a default: a row without facts about it needs no second argument"),
    ("PluginConfig.__init__(sources)", "it has a default: a plugin need not have every kind of symbol"),
    ("PluginConfig.__init__(sinks)", "the same"),
    ("PluginConfig.__init__(functions)", "the same"),
    ("PluginConfig.__init__(supervised=)", "ours alone: the guard"),
    ("PluginConfig.__init__(version=)", "ours alone: a part of the plugin's description"),
    (".on_stop", "ours alone: what ends a source's wait"),
    (".sleep", "ours alone: a wait that a stop ends"),
    (".is_stopped", "ours alone: for a source that looks by itself"),
    (".is_cancelled", "ours alone: for a function whose call nobody waits for any more"),
    (".emit_batch", "ours alone: rows of a source as columns"),
    ("ack_err", "ours alone: the name that eKuiper's guide gives to ack_error"),
];

fn names(python: &Path) -> Map<String, Value> {
    let script = tools::root().join("interop/peers/public_names.py");
    let output = Command::new(python).arg(script).env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What one callable differs in from another.
fn differences(place: &str, official: &Value, ours: &Value) -> Vec<String> {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let (official, ours) = (list(official), list(ours));
    let mut found = Vec::new();
    for name in official.iter().filter(|name| !ours.contains(name)) {
        // A default more is no hindrance to anybody.
        let kind = if ours.contains(&format!("{name}=")) { "" } else { "missing: " };
        found.push(format!("{kind}{place}({name})"));
    }
    for name in &ours {
        let bare = name.trim_end_matches('=');
        if !official.iter().any(|official| official.trim_end_matches('=') == bare) {
            found.push(format!("{place}({name})"));
        }
    }
    found
}

#[test]
fn no_public_name_is_missing_and_what_differs_is_known() {
    let (official, ours) = (names(&tools::python()), names(&tools::our_python()));
    let mut missing = Vec::new();
    let mut differs = Vec::new();
    let mut compared = 0;
    for (module, named) in &official {
        for (name, what) in named.as_object().unwrap() {
            compared += 1;
            let Some(mine) = ours.get(module).and_then(|module| module.get(name)) else {
                missing.push(format!("{module}.{name}"));
                continue;
            };
            let kinds = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            if kinds(what) != kinds(mine) {
                missing.push(format!("{module}.{name}: {what} is {mine}"));
            }
            if what.get("function").is_some() {
                differs.extend(differences(name, &what["function"], &mine["function"]));
            }
            for (method, parameters) in what.get("class").and_then(Value::as_object).into_iter().flatten() {
                compared += 1;
                match mine["class"].get(method) {
                    None => missing.push(format!("{module}.{name}.{method}")),
                    Some(mine) => differs.extend(differences(&format!("{name}.{method}"), parameters, mine)),
                }
            }
            let more = mine.get("class").and_then(Value::as_object).into_iter().flatten().map(|(method, _)| method);
            differs.extend(
                more.filter(|method| what["class"].get(method).is_none()).map(|method| format!("{name}.{method}")),
            );
        }
    }
    let more: Vec<_> =
        ours["ekuiper"].as_object().unwrap().keys().filter(|name| official["ekuiper"].get(name).is_none()).collect();
    println!("{compared} names compared; missing: {missing:?}; ours alone in __all__: {more:?}");
    for difference in &differs {
        let known = KNOWN.iter().find(|(known, _)| difference.ends_with(known));
        println!("{difference}: {}", known.map_or("UNKNOWN", |(_, why)| why));
    }
    assert_eq!(missing, [] as [String; 0]);
    assert!(compared > 40, "{compared}");
    let unknown: Vec<_> =
        differs.iter().filter(|found| !KNOWN.iter().any(|(known, _)| found.ends_with(known))).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
