//! The record of what was changed: one JSON line per change, whether or not it
//! succeeded.
//!
//! While a change is under way, a file of its own has what its line will say,
//! and what is on disk once the change is made. If the manager is killed
//! meanwhile, the next one writes the line.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use ekuiper_core::Chain;
use ekuiper_core::sync::lock;
use ekuiper_host::Package;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::beneath;
use crate::checksum::checksum;
use crate::error::{Error, Result};
use crate::store::{Store, failed};

/// Maximum size of the file of a change under way, in bytes: a request is not
/// larger.
const LARGEST: u64 = 4 << 20;

/// Size of one read, in bytes.
const PIECE: u64 = 64 << 10;

/// The record.
#[derive(Debug)]
pub(crate) struct Audit {
    file: Mutex<File>,
    /// Folder for the changes under way.
    changes: PathBuf,
    /// Number of the next one's file.
    next: AtomicU64,
}

/// A change under way. Every one is [finished](Entry::finish).
#[derive(Debug)]
#[must_use = "it is not recorded"]
pub(crate) struct Entry<'a> {
    audit: &'a Audit,
    path: PathBuf,
    action: &'static str,
    plugin: String,
    details: Value,
    begun: f64,
}

/// What is on disk once a change is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal<'a> {
    /// The plugin is installed, in the version of this number.
    Installed(u64),
    /// The plugin is not installed.
    Removed,
    /// The file is there, with this content.
    Written(&'a Path, &'a str),
}

impl Audit {
    /// Opens the record, and adds the lines of the changes in which a manager was
    /// killed.
    pub(crate) fn open(store: &Store) -> Result<Self> {
        let path = store.audit();
        let mut file = beneath::append(store.root(), &path).map_err(failed(&path))?;
        complete_line(&mut file).map_err(failed(&path))?;
        let audit = Self { file: Mutex::new(file), changes: store.changes(), next: AtomicU64::new(0) };
        let entries = fs::read_dir(&audit.changes).map_err(failed(&audit.changes))?;
        let mut left: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        left.sort();
        for path in left {
            if path.extension().is_some_and(|extension| extension == "json")
                && let Err(error) = audit.record_killed(store, &path)
            {
                tracing::warn!(%error, "cannot read {}", path.display());
            }
            if let Err((_, error)) = beneath::remove(store.root(), &path) {
                tracing::warn!(%error, "cannot remove {}", path.display());
            }
        }
        Ok(audit)
    }

    /// Begins a change.
    pub(crate) fn begin(&self, action: &'static str, plugin: &str, details: Value) -> Entry<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.changes.join(format!("{number}.json"));
        let entry = Entry { audit: self, path, action, plugin: plugin.to_owned(), details, begun: now() };
        entry.note(&Value::Null);
        entry
    }

    /// Adds the line of a change in which the manager was killed.
    fn record_killed(&self, store: &Store, path: &Path) -> io::Result<()> {
        let note: Value = serde_json::from_reader(beneath::open(store.root(), path)?.take(LARGEST))?;
        let plugin = note["plugin"].as_str().unwrap_or_default();
        let number = store.number(plugin);
        let goal = &note["goal"];
        let is_made = match goal {
            Value::Number(goal) => number.is_some() && goal.as_u64() == number,
            Value::String(_) => number.is_none(),
            goal => goal["file"].as_str().is_some_and(|file| {
                let found = beneath::open(store.root(), Path::new(file)).and_then(checksum);
                found.is_ok_and(|found| goal["sha256"] == found)
            }),
        };
        let version = number.map(|number| {
            let package = Package::read(store.version(number).join(plugin));
            package.map(|package| package.manifest.version).unwrap_or_default()
        });
        let error = (!is_made).then(|| {
            let found = match &version {
                _ if plugin.is_empty() => String::new(),
                Some(version) => format!(", and plugin {plugin} is installed in version {version:?}"),
                None => format!(", and plugin {plugin} is not installed"),
            };
            format!("the manager was killed before it was done: nothing was changed{found}")
        });
        // As in the line of a change that has come to its end.
        let version = version.filter(|_| is_made && goal.is_number());
        self.append(&note, json!(version), json!(error));
        Ok(())
    }

    /// Adds the line of a change with its plugin's version after it, and its
    /// error. That it cannot be written keeps no change from being made.
    fn append(&self, change: &Value, version: Value, error: Value) {
        let (action, plugin) = (&change["action"], &change["plugin"]);
        let line = json!({
            "unix_seconds": now(), "action": action, "plugin": plugin, "details": change["details"],
            "version": version, "error": error,
        });
        let mut file = lock(&self.file);
        let length = file.metadata().map(|metadata| metadata.len());
        if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
            // A part of a line is none.
            let _ = length.and_then(|length| file.set_len(length));
            tracing::error!(%error, "the audit line of {action} {plugin} cannot be written");
        }
    }
}

impl Entry<'_> {
    /// Names the plugin, where the package does.
    pub(crate) fn name(&mut self, plugin: &str) {
        plugin.clone_into(&mut self.plugin);
    }

    /// Says what is on disk once the change is made, before it is.
    pub(crate) fn aim(&self, goal: Goal<'_>) {
        self.note(&match goal {
            Goal::Installed(number) => json!(number),
            Goal::Removed => json!("removed"),
            // What is in memory can be read.
            Goal::Written(path, text) => json!({ "file": path, "sha256": checksum(text.as_bytes()).ok() }),
        });
    }

    /// Records the end of the change, with the plugin's version after it, if the
    /// change is one of that.
    pub(crate) fn finish(self, outcome: Result<Option<&str>, &Error>) {
        let (version, error) = match outcome {
            Ok(version) => (version, None),
            Err(error) => (None, Some(Chain(error).to_string())),
        };
        let change = json!({ "action": self.action, "plugin": self.plugin, "details": self.details });
        self.audit.append(&change, json!(version), json!(error));
        // One that was not written is not there.
        let _ = fs::remove_file(&self.path);
    }

    /// Writes what the next manager records if this one is killed. That it cannot
    /// be written keeps no change from being made.
    fn note(&self, goal: &Value) {
        let mut details = self.details.clone();
        details["begun_unix_seconds"] = json!(self.begun);
        let note = json!({ "action": self.action, "plugin": self.plugin, "details": details, "goal": goal });
        let write = || {
            let mut file = NamedTempFile::new_in(&self.audit.changes)?;
            file.write_all(note.to_string().as_bytes())?;
            file.persist(&self.path).map_err(|error| error.error)
        };
        if let Err(error) = write() {
            tracing::error!(%error, "cannot write {}, what is recorded if the manager is killed", self.path.display());
        }
    }
}

/// Removes a part of a line at the record's end.
fn complete_line(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(PIECE);
        let mut piece = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        Read::by_ref(file).take(end - start).read_to_end(&mut piece)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte == b'\n') {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < length { file.set_len(end) } else { Ok(()) }
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::forget;

    fn lines(store: &Store) -> Vec<Value> {
        let text = fs::read_to_string(store.audit()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn install(store: &Store, version: &str, audit: Option<&Audit>) {
        let new = store.begin("p").unwrap();
        fs::create_dir(new.folder()).unwrap();
        let manifest = json!({ "version": version, "language": "go", "executable": "p", "functions": ["f"] });
        fs::write(new.folder().join("p.json"), manifest.to_string()).unwrap();
        if let Some(audit) = audit {
            let mut entry = audit.begin("install", "", json!({ "origin": "o" }));
            entry.name("p");
            entry.aim(Goal::Installed(new.number()));
            forget(entry);
        }
        store.switch("p", new).unwrap();
    }

    #[test]
    fn the_next_manager_records_what_a_killed_one_was_doing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let audit = Audit::open(&store).unwrap();
        let check = |lines_expected: Value| {
            Audit::open(&store).unwrap();
            // Once.
            Audit::open(&store).unwrap();
            let mut found = lines(&store);
            for line in &mut found {
                assert!(line["details"]["begun_unix_seconds"].as_f64() <= line["unix_seconds"].as_f64());
                *line = json!([line["action"], line["plugin"], line["version"], line["error"]]);
            }
            assert_eq!(json!(found), lines_expected);
            fs::write(store.audit(), "").unwrap();
        };
        let killed = "the manager was killed before it was done: nothing was changed";
        forget(audit.begin("install", "", json!({})));
        check(json!([["install", "", null, killed]]));
        forget(audit.begin("install", "p", json!({})));
        check(json!([["install", "p", null, format!("{killed}, and plugin p is not installed")]]));
        install(&store, "v1", Some(&audit));
        check(json!([["install", "p", "v1", null]]));
        let entry = audit.begin("update", "p", json!({}));
        entry.aim(Goal::Installed(7));
        forget(entry);
        let entry = audit.begin("remove", "p", json!({}));
        entry.aim(Goal::Removed);
        forget(entry);
        let stays = format!("{killed}, and plugin p is installed in version \"v1\"");
        check(json!([["update", "p", null, stays], ["remove", "p", null, stays]]));
        let path = store.settings("p").join("sources/s.yaml");
        for text in ["{}", "{ }"] {
            let entry = audit.begin("set", "p", json!({}));
            entry.aim(Goal::Written(&path, text));
            forget(entry);
        }
        beneath::write_new(store.root(), &path, b"{}").unwrap();
        check(json!([["set", "p", null, null], ["set", "p", null, stays]]));
        let entry = audit.begin("remove", "p", json!({}));
        entry.aim(Goal::Removed);
        forget(entry);
        store.uninstall("p").unwrap().remove().unwrap();
        check(json!([["remove", "p", null, null]]));
    }

    #[test]
    fn a_change_that_has_come_to_its_end_is_recorded_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        install(&store, "v1", None);
        let audit = Audit::open(&store).unwrap();
        audit.begin("install", "p", json!({ "origin": "o" })).finish(Ok(Some("v1")));
        audit.begin("remove", "p", json!({})).finish(Err(&Error::Ending));
        Audit::open(&store).unwrap();
        let lines = lines(&store);
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["version"], &lines[0]["details"]), (&json!("v1"), &json!({ "origin": "o" })));
        assert_eq!(lines[1]["error"], Error::Ending.to_string());
        assert_eq!(fs::read_dir(store.changes()).unwrap().count(), 0);
    }

    #[test]
    fn a_part_of_a_line_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let long = "x".repeat(200_000);
        for (text, stays) in [
            ("", String::new()),
            ("{", String::new()),
            ("{}\n{", "{}\n".into()),
            (&format!("{{}}\n{long}"), "{}\n".into()),
            (&format!("{long}\n{long}"), format!("{long}\n")),
            (&long, String::new()),
            ("{}\n", "{}\n".into()),
        ] {
            fs::write(store.audit(), text).unwrap();
            Audit::open(&store).unwrap();
            assert!(fs::read_to_string(store.audit()).unwrap() == stays);
        }
    }
}
