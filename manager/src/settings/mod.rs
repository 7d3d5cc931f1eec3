//! The settings of sources and sinks: configurations by their keys, which a user
//! edits and a stream or rule names as `CONF_KEY`.
//!
//! A package brings `sources/NAME.yaml` and `sinks/NAME.yaml`. What a user
//! changes is kept beside the package's files, so that it outlives updates, and
//! goes with the plugin. A key's fields there are added to the package's of the
//! same key, and replace those of the same name.

mod file;
mod given;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use ekuiper_core::printable;
use ekuiper_core::sync::lock;
use ekuiper_host::description::{ConfigFields, Description};
use ekuiper_host::{Package, SinkBuilder, SourceBuilder, SymbolKind};
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use crate::Manager;
use crate::audit::{Entry, Goal};
use crate::beneath;
use crate::error::{Error, Result};
use crate::store::failed;

pub use file::{Settings, parse};

/// Key of the configuration that others are added to.
const DEFAULT: &str = "default";

/// Maximum length of a key, in bytes.
const LONGEST: usize = 128;

/// Maximum number of names in an error.
const NAMED: usize = 10;

impl Manager {
    /// Returns the settings of a source or sink: the package's, and those that
    /// were [set](Self::set_configuration).
    ///
    /// # Errors
    /// [`Error::NoSymbol`], [`Error::Settings`].
    pub fn settings(&self, kind: SymbolKind, symbol: &str) -> Result<Settings> {
        let package = self.owner(kind, symbol)?;
        let mut settings = self.read(&package.folder.join(place(kind, symbol)))?;
        for (key, fields) in self.read(&self.edited(&package.name, kind, symbol))? {
            settings.entry(key).or_default().extend(fields);
        }
        Ok(settings)
    }

    /// Returns what a source or sink is opened with for a key, `CONF_KEY`: the
    /// fields of `default`, and those of the key.
    ///
    /// # Errors
    /// As [`Manager::settings`], and [`Error::NoKey`].
    pub fn configuration(&self, kind: SymbolKind, symbol: &str, key: Option<&str>) -> Result<Map<String, Value>> {
        combined(self.settings(kind, symbol)?, kind, symbol, key)
    }

    /// Returns the builder of a source with the configuration of a key; its
    /// `config` sets another one.
    ///
    /// # Errors
    /// As [`Manager::configuration`].
    pub fn source(&self, symbol: &str, key: Option<&str>) -> Result<SourceBuilder> {
        let config = self.configuration(SymbolKind::Source, symbol, key)?;
        Ok(self.host().source(symbol).config(config.into()))
    }

    /// Returns the builder of a sink with the configuration of a key; its
    /// `config` sets another one.
    ///
    /// # Errors
    /// As [`Manager::configuration`].
    pub fn sink(&self, symbol: &str, key: Option<&str>) -> Result<SinkBuilder> {
        let config = self.configuration(SymbolKind::Sink, symbol, key)?;
        Ok(self.host().sink(symbol).config(config.into()))
    }

    /// Sets the configuration of a key, in place of one that was set before.
    /// Symbols that are open are not touched.
    ///
    /// # Errors
    /// [`Error::NoSymbol`], [`Error::Key`], [`Error::Configuration`] if a field
    /// does not fit what the plugin says of itself, [`Error::Settings`],
    /// [`Error::Busy`], [`Error::Folder`]: nothing has changed. As
    /// [`Host::description`](ekuiper_host::Host::description).
    pub fn set_configuration(
        &self,
        kind: SymbolKind,
        symbol: &str,
        key: &str,
        fields: Map<String, Value>,
    ) -> Result<()> {
        let entry = self.begin_setting("set", kind, symbol, key);
        let set = check_key(key).and_then(|()| {
            self.edit(kind, symbol, &entry, |package, edited| {
                edited.insert(key.to_owned(), fields);
                let description = self.host().description(&package.name)?;
                let Some(config) = description.as_ref().and_then(|described| described.config(kind, symbol)) else {
                    return Ok(());
                };
                let mut settings = self.read(&package.folder.join(place(kind, symbol)))?;
                let given = edited.get(key).map_or_else(|| Ok(()), |fields| given::check(config, kind, fields));
                for (key, fields) in edited {
                    settings.entry(key.clone()).or_default().extend(fields.clone());
                }
                given
                    .and_then(|()| check(config, settings, kind, symbol, key))
                    .map_err(|problem| configuration_error(package, kind, symbol, key, problem))
            })
        });
        entry.finish(set.as_ref().map(|()| None));
        set
    }

    /// Removes the configuration that was set for a key; returns whether there
    /// was one. The package's own stays.
    ///
    /// # Errors
    /// As [`Manager::set_configuration`].
    pub fn remove_configuration(&self, kind: SymbolKind, symbol: &str, key: &str) -> Result<bool> {
        let mut was_set = false;
        let entry = self.begin_setting("unset", kind, symbol, key);
        let removed = check_key(key).and_then(|()| {
            self.edit(kind, symbol, &entry, |_, edited| {
                was_set = edited.remove(key).is_some();
                Ok(())
            })
        });
        entry.finish(removed.as_ref().map(|()| None));
        removed.map(|()| was_set)
    }

    /// Returns the keys that were set for a symbol.
    #[cfg(feature = "rest")]
    pub(crate) fn set_keys(&self, kind: SymbolKind, symbol: &str) -> Result<Vec<String>> {
        let package = self.owner(kind, symbol)?;
        Ok(self.read(&self.edited(&package.name, kind, symbol))?.into_keys().collect())
    }

    /// Changes what was set for a symbol, as a whole or not at all.
    fn edit(
        &self,
        kind: SymbolKind,
        symbol: &str,
        entry: &Entry<'_>,
        change: impl FnOnce(&Package, &mut Settings) -> Result<()>,
    ) -> Result<()> {
        let _editing = lock(&self.editing);
        let package = self.owner(kind, symbol)?;
        // Neither removed nor updated meanwhile.
        let _changing = self.begin(&package.name)?;
        let path = self.edited(&package.name, kind, symbol);
        let before = self.read(&path)?;
        let mut edited = before.clone();
        change(&package, &mut edited)?;
        if edited == before {
            return Ok(());
        }
        let text = file::text(&edited).map_err(|problem| Error::Settings { path: path.clone(), problem })?;
        entry.aim(Goal::Written(&path, &text));
        // Swept with the packages on their way, if this is killed.
        let downloads = self.store.downloads();
        let mut file = NamedTempFile::new_in(&downloads).map_err(failed(&downloads))?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed(&path))?;
        let (root, own) = (self.store.root(), self.store.settings(&package.name));
        let (folder, file) = (path.parent().unwrap_or(&path), file.into_temp_path());
        let stored = beneath::make_folder(root, folder).and_then(|()| beneath::rename(root, &file, &path));
        stored.map_err(|error| {
            // Those that are not empty stay.
            let _ = beneath::remove_empty(root, folder).and_then(|()| beneath::remove_empty(root, &own));
            failed(&path)(error)
        })
    }

    /// The installed plugin that has a source or sink.
    pub(crate) fn owner(&self, kind: SymbolKind, symbol: &str) -> Result<Package> {
        let mut plugins = self.plugins()?;
        let is_owner = |package: &Package| package.manifest.symbols(kind).iter().any(|name| name == symbol);
        let at = plugins.iter().position(is_owner).filter(|_| is_file_name(symbol));
        match at {
            Some(at) => Ok(plugins.swap_remove(at)),
            None => {
                let known = self.known_instead(kind, symbol);
                Err(Error::NoSymbol { kind, symbol: printable::short(symbol), known })
            }
        }
    }

    fn read(&self, path: &Path) -> Result<Settings> {
        let settings = file::read(self.store.root(), path);
        settings.map_err(|problem| Error::Settings { path: path.to_owned(), problem })
    }

    /// Where that is which was set for a symbol.
    fn edited(&self, plugin: &str, kind: SymbolKind, symbol: &str) -> PathBuf {
        self.store.settings(plugin).join(place(kind, symbol))
    }

    fn begin_setting(&self, action: &'static str, kind: SymbolKind, symbol: &str, key: &str) -> Entry<'_> {
        let plugin = self.owner(kind, symbol).map(|package| package.name).unwrap_or_default();
        let details = json!({ "kind": kind.to_string(), "symbol": symbol, "key": key });
        self.audit.begin(action, &plugin, details)
    }
}

/// Path of a symbol's settings, below a folder.
fn place(kind: SymbolKind, symbol: &str) -> PathBuf {
    let folder = if kind == SymbolKind::Source { "sources" } else { "sinks" };
    Path::new(folder).join(format!("{symbol}.yaml"))
}

/// Whether a symbol's name, which is the plugin's, can be that of a file.
fn is_file_name(symbol: &str) -> bool {
    !symbol.is_empty() && symbol.len() <= 200 && !symbol.contains(['/', '\0'])
}

/// Returns the fields of `default` with those of a key.
fn combined(mut settings: Settings, kind: SymbolKind, symbol: &str, key: Option<&str>) -> Result<Map<String, Value>> {
    let mut fields = settings.remove(DEFAULT).unwrap_or_default();
    let Some(key) = key.filter(|key| *key != DEFAULT) else { return Ok(fields) };
    match settings.remove(key) {
        Some(more) => fields.extend(more),
        None => {
            let names: Vec<_> = settings.into_keys().collect();
            let known = if names.is_empty() {
                "default alone".into()
            } else {
                format!("default, {}", printable::some_of(&names, NAMED))
            };
            // An empty name would not be seen.
            let key = if key.is_empty() { "\"\"".into() } else { printable::short(key) };
            return Err(Error::NoKey { kind, symbol: printable::short(symbol), key, known });
        }
    }
    Ok(fields)
}

/// Checks the configuration of a key against what the plugin says of itself.
///
/// # Errors
/// The field that does not fit, what was expected and what was given.
fn check(config: &ConfigFields, settings: Settings, kind: SymbolKind, symbol: &str, key: &str) -> Result<(), String> {
    let mut config = config.clone();
    let Ok(fields) = combined(settings, kind, symbol, Some(key)) else { return Ok(()) };
    // A rule adds the rest of a sink's, and other keys that of the default; what
    // is derived from a type may do without more.
    if kind == SymbolKind::Sink || key == DEFAULT || !config.exact {
        config.fields.retain(|field| fields.contains_key(&field.name));
    }
    // Its user is told of these types, whatever else the plugin might take.
    config.exact = true;
    config.check(&fields).map_err(|misfit| format!("config field {misfit}"))
}

fn configuration_error(package: &Package, kind: SymbolKind, symbol: &str, key: &str, problem: String) -> Error {
    let plugin = package.name.clone();
    Error::Configuration { plugin, kind, symbol: printable::short(symbol), key: key.to_owned(), problem }
}

/// Checks a key, as the engine does.
fn check_key(key: &str) -> Result<()> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    let problem = match key {
        "" => "it is empty",
        key if key.len() > LONGEST => "it is longer than 128 characters",
        key if !key.chars().all(is_plain) => "it may have letters, digits, hyphens and underscores",
        _ => return Ok(()),
    };
    Err(Error::Key { key: format!("\"{}\"", printable::short(key)), problem })
}

/// Writes the files for eKuiper's settings and manager page that a package
/// lacks, as the plugin describes itself.
pub(crate) fn complete(root: &Path, folder: &Path, description: &Description) -> Result<()> {
    for made in description.engine_files() {
        let path = folder.join(&made.path);
        let is_inside = made.path.split('/').all(|part| !["", ".", ".."].contains(&part));
        if is_inside && path.symlink_metadata().is_err() {
            beneath::write_new(root, &path, made.content.as_bytes()).map_err(|error| match error.kind() {
                // The package's own fault.
                ErrorKind::NotADirectory => {
                    let path = Path::new(folder.file_name().unwrap_or_default()).join(&made.path);
                    Error::Settings { path, problem: format!("cannot be written: {error}") }
                }
                _ => failed(&path)(error),
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekuiper_host::description::{DataType, Field};

    fn settings() -> Settings {
        parse(b"default: { a: 1, b: 2 }\nfast: { b: 3, c: x }").unwrap()
    }

    #[test]
    fn a_key_is_added_to_the_default() {
        let of = |key| combined(settings(), SymbolKind::Source, "s", key).map(Value::from);
        assert_eq!(of(None).unwrap(), json!({ "a": 1, "b": 2 }));
        assert_eq!(of(Some("default")).unwrap(), json!({ "a": 1, "b": 2 }));
        assert_eq!(of(Some("fast")).unwrap(), json!({ "a": 1, "b": 3, "c": "x" }));
        let said = of(Some("slow\n")).unwrap_err().to_string();
        assert_eq!(said, "source s has no configuration slow\\n: it has default, fast");
        let said = of(Some("")).unwrap_err().to_string();
        assert_eq!(said, "source s has no configuration \"\": it has default, fast");
    }

    #[test]
    fn a_configuration_is_checked_as_it_is_opened() {
        let field = |name: &str, of| Field::new(name, of);
        let config =
            ConfigFields::new([field("a", DataType::Int), field("c", DataType::Int), field("d", DataType::Int)]);
        let check = |kind, key| check(&config, settings(), kind, "s", key);
        assert!(check(SymbolKind::Source, "default").is_ok());
        assert!(check(SymbolKind::Source, "fast").unwrap_err().contains("c: "));
        assert!(check(SymbolKind::Sink, "fast").unwrap_err().contains("c: "));
        let config = ConfigFields::new([field("c", DataType::String), field("d", DataType::Int)]);
        assert!(super::check(&config, settings(), SymbolKind::Source, "s", "fast").unwrap_err().contains("d: "));
        assert!(super::check(&config, settings(), SymbolKind::Sink, "s", "fast").is_ok());
    }

    #[test]
    fn names_that_are_no_files_are_refused() {
        assert!(is_file_name("random") && is_file_name("ä b") && !is_file_name("../x") && !is_file_name("a/b"));
        assert!(check_key("a-B_1").is_ok());
        for key in ["", "a b", "ä", "a/b", &"k".repeat(129)] {
            assert!(check_key(key).is_err(), "{key}");
        }
    }
}
