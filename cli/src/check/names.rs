//! Names of plugins and symbols that eKuiper cannot use: they become parts of
//! sockets' paths in `/tmp`, of files, and of SQL.

use ekuiper_core::address::SocketFolder;
use ekuiper_core::description::is_own;
use ekuiper_core::message::{Meta, SymbolKind};
use ekuiper_core::printable;
use ekuiper_host::Manifest;

use super::report::{Area, Level, Report};

/// Maximum length of a file's name, in bytes: the file systems' limit.
const LONGEST_FILE: usize = 255;

/// Checks the plugin's name and those of its symbols.
pub(super) fn check(plugin: &str, manifest: &Manifest, report: &mut Report) {
    let folder = SocketFolder::new("/tmp");
    if let Some(problem) = problem(plugin, || folder.control(plugin).map(drop)) {
        report.error(Area::Manifest, &named("plugin", plugin), problem, RENAME);
    }
    let symbols =
        || SymbolKind::ALL.into_iter().flat_map(|kind| manifest.symbols(kind).iter().map(move |name| (kind, name)));
    let mut hidden = Vec::new();
    for (kind, name) in symbols() {
        let subject = named(&kind.to_string(), name);
        // An operator's name is the symbol's and a number.
        let meta = Meta { rule_id: "rule".into(), op_id: format!("{name}_0"), ..Meta::default() };
        let usable = || match kind {
            SymbolKind::Function => folder.function(name).map(drop),
            SymbolKind::Sink => folder.ack(&meta).map(drop),
            // Named after its stream.
            SymbolKind::Source => Ok(()),
        };
        if let Some(problem) = problem(name, usable) {
            report.error(Area::Manifest, &subject, problem, RENAME);
        } else if kind == SymbolKind::Function && !is_identifier(name) {
            let text = "cannot be written in SQL as it is, only between backquotes";
            report.warning(Area::Manifest, &subject, text, "use letters, digits and underscores, and a letter first");
        }
        if is_own(kind, name) {
            hidden.push((kind, subject));
        }
    }
    // A plugin may have further symbols for other engines, but not only such.
    let level = if hidden.len() == symbols().count() { Level::Error } else { Level::Warning };
    for (kind, subject) in hidden {
        let text = format!("eKuiper has a {kind} of this name, which hides the plugin's");
        report.add(level, Area::Manifest, &subject, text, "serve it under another name");
    }
}

const RENAME: &str = "give it another name, in the plugin and in its manifest";

fn named(kind: &str, name: &str) -> String {
    const LONGEST: usize = 40;
    let short: String = name.chars().take(LONGEST).collect();
    let end = if short.len() < name.len() { "…" } else { "" };
    format!("{kind} {}{end}", printable::excerpt(&short))
}

fn problem(name: &str, usable: impl Fn() -> ekuiper_core::Result<()>) -> Option<String> {
    if name.contains(char::is_whitespace) {
        return Some("has a space in its name, with which neither SQL nor a rule can name it".into());
    }
    if name.contains(printable::is_unprintable) {
        return Some("has an unprintable character in its name".into());
    }
    if name.contains('/') {
        return Some("has a slash in its name, of which a socket and files are named".into());
    }
    if name.len() + ".yaml".len() > LONGEST_FILE {
        return Some(format!("has a name of {} bytes, which is too long for a socket and a file", name.len()));
    }
    usable().err().map(|_| {
        let length = name.len();
        format!(
            "has a name of {length} bytes, with which the path of its socket in /tmp is longer than the system allows"
        )
    })
}

fn is_identifier(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(functions: &[&str]) -> Vec<String> {
        let manifest = serde_json::json!({ "language": "go", "executable": "x", "functions": functions });
        let manifest = Manifest::parse(&manifest.to_string()).unwrap();
        let mut report = Report::default();
        check("p", &manifest, &mut report);
        report.lines()
    }

    #[test]
    fn names_that_no_rule_can_use_are_found() {
        assert!(found(&["revert", "_x1"]).is_empty());
        for name in ["a b", "a/b", "\u{202e}x", &"x".repeat(300), &"x".repeat(100), "\u{a0}"] {
            let found = found(&[name]);
            assert!(found.len() == 1 && found[0].starts_with("error: "), "{name}: {found:?}");
            assert!(found[0].len() < 250, "{found:?}");
        }
        assert!(found(&["a-b"])[0].starts_with("warning: "));
    }

    #[test]
    fn a_hidden_name_is_an_error_if_nothing_else_is_left() {
        assert!(found(&["abs"])[0].starts_with("error: "));
        assert!(found(&["abs", "mine"])[0].starts_with("warning: "));
    }
}
