//! A file of settings, as eKuiper has it: configurations by their keys, in YAML.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use serde_json::{Map, Value};

use crate::beneath;

/// Configurations by their keys. A stream or rule names a key as `CONF_KEY`;
/// `default` is what its fields are added to.
pub type Settings = BTreeMap<String, Map<String, Value>>;

/// Maximum size of a file, in bytes.
const LARGEST: u64 = 4 << 20;

/// Reads a text of settings; an empty one has no keys.
///
/// # Errors
/// What is wrong with it, as the rest of a sentence.
pub fn parse(bytes: &[u8]) -> Result<Settings, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let parsed: Value = match text.trim_start_matches('\u{feff}').trim() {
        "" => return Ok(Settings::new()),
        text => {
            serde_saphyr::from_str(text).map_err(|error| format!("is not YAML: {}", first_line(&error.to_string())))?
        }
    };
    let Value::Object(configurations) = parsed else {
        return Err(format!("must be a mapping of configurations, and is {}", described(&parsed)));
    };
    let fields = |(key, value): (String, Value)| match value {
        Value::Object(fields) => Ok((key, fields)),
        // An empty configuration is null.
        Value::Null => Ok((key, Map::new())),
        value => Err(format!("must have a mapping of fields under {key:?}, which is {}", described(&value))),
    };
    configurations.into_iter().map(fields).collect()
}

/// Reads a file of settings below the manager's folder; one that is not there
/// has no keys.
pub(super) fn read(root: &Path, path: &Path) -> Result<Settings, String> {
    match bytes(root, path) {
        Ok(bytes) if bytes.len() as u64 > LARGEST => Err(format!("is larger than {} MiB", LARGEST >> 20)),
        Ok(bytes) => parse(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Settings::new()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn bytes(root: &Path, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    beneath::open(root, path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns the text of settings: JSON, which is YAML too.
///
/// # Errors
/// It would be larger than a file may be.
pub(super) fn text(settings: &Settings) -> Result<String, String> {
    // Encoding maps of JSON cannot fail.
    let text = serde_json::to_string_pretty(settings).unwrap_or_default() + "\n";
    if text.len() as u64 > LARGEST {
        return Err(format!("would be larger than {} MiB", LARGEST >> 20));
    }
    Ok(text)
}

fn described(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
        Value::String(_) => "a text",
        _ => "a single value",
    }
}

fn first_line(text: &str) -> &str {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or(text).trim();
    line.strip_prefix("error: ").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_mappings_of_mappings() {
        let settings = parse(b"\xef\xbb\xbf# c\ndefault:\n  a: 1\n  b: [x]\nother:\n").unwrap();
        assert_eq!(json!(settings), json!({ "default": { "a": 1, "b": ["x"] }, "other": {} }));
        assert_eq!(parse(text(&settings).unwrap().as_bytes()), Ok(settings));
        assert_eq!(parse(b" \n"), Ok(Settings::new()));
        for (bad, said) in [
            (&b"- a\n"[..], "must be a mapping of configurations, and is a list"),
            (b"a: 1\n", "must have a mapping of fields under \"a\", which is a single value"),
            (b"a: [", "is not YAML: "),
            (b"\xff", "is not UTF-8"),
        ] {
            let text = parse(bad).unwrap_err();
            assert!(text.starts_with(said) && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn files_that_cannot_be_read_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.yaml");
        let read = |path: &Path| read(folder.path(), path);
        assert_eq!(read(&path), Ok(Settings::new()));
        std::fs::write(&path, vec![b' '; LARGEST as usize + 1]).unwrap();
        assert_eq!(read(&path).unwrap_err(), "is larger than 4 MiB");
        std::fs::create_dir(folder.path().join("f")).unwrap();
        assert_eq!(read(&folder.path().join("f")).unwrap_err(), "cannot be read: it is no plain file");
        let large = Settings::from([("k".into(), Map::from_iter([("f".into(), "x".repeat(5 << 20).into())]))]);
        assert_eq!(text(&large).unwrap_err(), "would be larger than 4 MiB");
    }
}
