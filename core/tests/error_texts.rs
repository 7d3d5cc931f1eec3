//! Every error of this project displays what happened without its cause, which
//! is its `source()`: whoever shows an error shows the chain, and would show a
//! cause twice that the text has already.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn no_error_displays_its_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (mut count, mut wrong) = (0, Vec::new());
    for file in sources(root) {
        let text = fs::read_to_string(&file).unwrap();
        // Not in comments, and not here.
        for variant in text.split("#[error(").skip(1).filter(|_| text.contains("thiserror::Error")) {
            let Some((attribute, rest)) = split_attribute(variant) else { continue };
            let variant = rest.split("\n}\n").next().unwrap_or(rest);
            count += usize::from(has_cause(variant));
            if let Some(fault) = fault(attribute, variant) {
                wrong.push(format!("{}: #[error({attribute})] {fault}", file.strip_prefix(root).unwrap().display()));
            }
        }
    }
    assert!(count > 15, "only {count} errors with causes were found");
    assert!(wrong.is_empty(), "{} errors:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_displayed_source_is_found() {
    for (attribute, variant) in [
        (r#""cannot read {}: {source}", path.display()"#, "Read { path: PathBuf, source: io::Error },"),
        (r#""config: {}", reason(source)"#, "Config {\n source: Error,\n}"),
        (r#""cannot read stdin: {0}""#, "Stdin(#[source] io::Error),"),
        (r#""cannot read stdin""#, "Stdin(io::Error),"),
    ] {
        let whole = format!("{attribute})]\n{variant}");
        let (attribute, variant) = split_attribute(&whole).unwrap();
        assert!(fault(attribute, variant).is_some(), "{whole}");
    }
    for (attribute, variant) in [
        (r#""cannot read {}", path.display()"#, "Read { path: PathBuf, source: io::Error },"),
        ("transparent", "Host(#[from] ekuiper_host::Error),"),
        (r#""there is no source {0}""#, "NoSource(String),"),
        (r#""it has {}", crashed(source.is_some())"#, "Away { source: Option<Arc<Error>> },"),
    ] {
        assert_eq!(fault(attribute, variant), None, "{attribute} {variant}");
    }
}

/// All source files of the workspace, except builds and what was fetched.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !path.is_symlink() && !name.starts_with('.') && !["target", "tests"].contains(&&*name) {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    found
}

/// What is within the attribute's parentheses, and what follows.
fn split_attribute(text: &str) -> Option<(&str, &str)> {
    let end = text.find(")]")?;
    Some((text[..end].trim(), &text[end + 2..]))
}

fn has_cause(variant: &str) -> bool {
    ["source:", "#[source]", "#[from]"].iter().any(|sign| variant.contains(sign))
}

/// Why a variant with this `#[error(…)]` breaks the rule.
fn fault(attribute: &str, variant: &str) -> Option<&'static str> {
    if attribute == "transparent" {
        return None;
    }
    let arguments = attribute.rsplit('"').next().unwrap_or_default();
    let fields = variant.split_once('(').map(|(_, fields)| fields.split(')').next().unwrap_or_default());
    if !has_cause(variant) {
        let is_tuple = !variant.split('(').next().unwrap_or_default().contains(['{', ',']);
        let holds_error = fields.is_some_and(|field| field.ends_with("Error"));
        return (is_tuple && holds_error).then_some("has a cause that is not its source()");
    }
    // Whether there is a cause may be told.
    let arguments = arguments.replace("source.is_some()", "");
    let shows = attribute.contains("{source") || attribute.contains("{0") || arguments.contains("source");
    shows.then_some("displays its source()")
}
