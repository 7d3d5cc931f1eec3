//! What stands at a plugin's beginning: its manifest, its description and its
//! launch options.

use std::collections::HashSet;

use ekuiper_core::description::Description;
use ekuiper_core::launch::LaunchOptions;
use ekuiper_core::manifest::Manifest;
use ekuiper_core::message::SymbolKind;
use serde_json::Value;

use crate::messages::must_be_object;

/// Launch options are an object, and survive being passed on.
pub fn launch(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(options) = LaunchOptions::parse(text) else { return };
    must_be_object(data);
    let argument = options.to_argument().unwrap();
    assert_eq!(LaunchOptions::parse(&argument).unwrap(), options);
}

/// A description that is accepted survives being written, on one line; its files
/// stay in the plugin's folder, and those in JSON are JSON.
pub fn description(data: &[u8]) {
    let Ok(description) = Description::decode(data) else { return };
    must_be_object(data);
    let line = description.encode();
    assert!(!line.contains('\n'));
    assert_eq!(Description::decode(line.as_bytes()).unwrap(), description);
    for file in description.engine_files() {
        let (folder, name) = file.path.split_once('/').unwrap();
        assert!(["sources", "sinks", "functions"].contains(&folder) && !name.contains('/'), "{}", file.path);
        if name.ends_with(".json") {
            assert!(serde_json::from_str::<Value>(&file.content).is_ok(), "{}", file.content);
        }
    }
}

/// A manifest that is accepted can be carried out: its program is inside the
/// plugin's folder, each symbol is there once; and it survives being written.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(manifest) = Manifest::parse(text) else { return };
    let fields: Value = serde_json::from_str(text).unwrap();
    for (key, value) in fields.as_object().expect("it is an object") {
        let known = ["version", "language", "executable", "virtualEnvType", "env", "sources", "sinks", "functions"];
        assert!(known.contains(&key.as_str()) || manifest.other.get(key) == Some(value), "{key:?} is kept");
    }
    let executable = manifest.executable.as_str();
    assert!(!executable.starts_with('/') && !executable.split('/').any(|part| part == ".."));
    assert!(executable.split('/').any(|part| !part.is_empty() && part != "."), "it is not the folder itself");
    let mut count = 0;
    for kind in SymbolKind::ALL {
        let names: HashSet<_> = manifest.symbols(kind).iter().collect();
        assert_eq!(names.len(), manifest.symbols(kind).len());
        assert!(names.iter().all(|name| !name.is_empty()));
        count += names.len();
    }
    assert!(count > 0);
    let is_conda = || manifest.conda_env().is_some_and(|env| !env.is_empty());
    assert!(manifest.virtual_env_type.is_none() || manifest.is_venv() || is_conda());
    let written = serde_json::to_string(&manifest).unwrap();
    assert_eq!(Manifest::parse(&written).unwrap(), manifest);
}
