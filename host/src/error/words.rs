//! The parts of an error's text that depend on what it carries.

use std::path::Path;
use std::time::Duration;

use ekuiper_core::message::SymbolKind;
use ekuiper_core::printable::lines;

use crate::counted::counted;
use crate::process::exit::{Exit, LAST_WORDS};

/// Returns a symbol's error text, made printable. It may already begin with the
/// symbol's name.
pub(super) fn said(kind: SymbolKind, symbol: &str, text: &str) -> String {
    let (name, text) = (format!("{kind} {symbol}: "), lines(text.trim_end()));
    if text.starts_with(&name) { text.into_owned() } else { name + &text }
}

/// Describes what a sink has collected, when only messages are missing whose
/// sender was told so.
pub(super) fn collected_of(collected: u64, sent: u64) -> String {
    match sent.saturating_sub(collected) {
        0 => format!("everything ({})", counted(sent, "message")),
        unknown => {
            let sent = counted(sent, "message");
            format!("{collected} of {sent} ({unknown} of unknown outcome, as reported before)")
        }
    }
}

pub(super) fn in_use(wanted: &str, owner: &str, address: &str) -> String {
    if wanted == owner {
        return format!("{wanted} is open already: close it first, or open another instance");
    }
    format!("{wanted} and {owner} would both use {address}: rename one of them, or give the rules different ids")
}

pub(super) fn no_manifest(folder: &Path, name: &str, found: usize) -> String {
    let folder = folder.display();
    match found {
        0 => format!(
            "{folder} has no manifest: a plugin named {name} needs a file {name}.json there, which `ekuiper-plugin \
             package` writes for one that describes itself"
        ),
        found => format!(
            "{folder} has no manifest: none of its {found} JSON files is {name}.json, the manifest of a plugin named \
             {name}"
        ),
    }
}

pub(super) fn duplicate(name: &str, first: &Path, second: &Path) -> String {
    let (first, second) = (first.display(), second.display());
    if first.to_string() == second.to_string() {
        return format!("plugin {name} in {first} is given twice: leave one out");
    }
    format!(
        "plugin {name} is in two folders, {first} and {second}: leave one out, or give it another name \
         (its manifest's file, and what its program says)"
    )
}

/// Describes an end before the handshake: the likely cause, and the last
/// output.
pub(super) fn early(exit: &Exit, hint: &str) -> String {
    match (hint.is_empty(), exit.tail.is_empty()) {
        (true, true) => ", it wrote nothing".into(),
        (true, _) => tail(exit),
        (_, true) => format!(", it wrote nothing: {hint}"),
        _ => format!(": {hint}; it last wrote:\n{}", exit.tail),
    }
}

pub(super) fn tail(exit: &Exit) -> String {
    match exit.tail.as_str() {
        "" => format!(", it wrote nothing in its last {LAST_WORDS:?}"),
        tail => format!(", it last wrote:\n{tail}"),
    }
}

/// Describes a plugin that was not restarted, whose last restart has failed for
/// a reason that follows.
pub(super) fn crashed(exit: &Option<Exit>, has_reason: bool) -> String {
    let end = match exit {
        _ if has_reason => return "cannot be restarted".into(),
        Some(exit) => format!(" ({exit}){}", tail(exit)),
        None => String::new(),
    };
    format!("has not been restarted yet{end}")
}

/// Describes a plugin that is not restarted for a while.
pub(super) fn broken(pause: Duration, exit: &Option<Exit>, has_reason: bool) -> String {
    match has_reason {
        true => format!("cannot be restarted, which the host tries again after {pause:?}"),
        false => format!("keeps crashing: the host restarts it after {pause:?}{}", last(exit)),
    }
}

/// Returns why an executable that has been run before cannot be run.
pub(super) fn gone(reason: &str) -> &str {
    if reason.starts_with("does not exist") { "is gone: put it back, or remove the plugin" } else { reason }
}

fn last(exit: &Option<Exit>) -> String {
    exit.as_ref().map_or_else(String::new, |exit| match exit.tail.as_str() {
        "" => format!("; it last ended with {exit} and wrote nothing"),
        tail => format!("; it last ended with {exit} and wrote:\n{tail}"),
    })
}

pub(super) fn lost(exit: &Option<Exit>) -> String {
    match exit {
        Some(exit) => format!("it ended ({exit}){}", tail(exit)),
        None => "its connection ended".into(),
    }
}
