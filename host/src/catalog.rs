//! The plugins of a host, and which of them serves a symbol.
//!
//! The layout is eKuiper's: `<plugins>/<name>/<name>.json`, with the executable
//! beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use ekuiper_core::manifest::Manifest;
use ekuiper_core::message::SymbolKind;
use ekuiper_core::printable;

use crate::program::unstartable;
use crate::{Error, Result};

/// Maximum size of a manifest, in bytes.
const LARGEST: u64 = 16 << 20;

/// Maximum number of symbols named in an error.
const NAMED: usize = 10;

/// A plugin on disk.
#[derive(Clone, Debug)]
pub struct Package {
    /// The plugin's name: that of its folder and of its manifest.
    pub name: String,
    /// The plugin's folder, absolute.
    pub folder: PathBuf,
    /// The parsed manifest.
    pub manifest: Manifest,
    /// A program to run instead of the manifest's executable, with the plugin's
    /// folder as working directory: a fresh build, for example.
    pub program: Option<PathBuf>,
}

impl Package {
    /// Reads the plugin in `folder`. Its name is that of the manifest:
    /// `<folder's name>.json`, or the only JSON file of the folder.
    ///
    /// # Errors
    /// [`Error::Folder`], [`Error::NoManifest`], [`Error::Manifest`].
    pub fn read(folder: impl AsRef<Path>) -> Result<Self> {
        let given = folder.as_ref();
        let folder =
            given.canonicalize().map_err(|source| Error::Folder { path: given.to_owned(), source: source.into() })?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = folder.join(format!("{name}.json"));
        if path.symlink_metadata().is_ok() {
            return Self::with_manifest(folder, name, &path);
        }
        // A checkout or an unpacked archive may have another name.
        match json_files(&folder)?.as_slice() {
            [path] => {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                Self::with_manifest(folder, name, path)
            }
            found => Err(Error::NoManifest { folder: given.to_owned(), name, found: found.len() }),
        }
    }

    fn with_manifest(folder: PathBuf, name: String, path: &Path) -> Result<Self> {
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| Error::Manifest {
            path: path.to_owned(),
            source: source.into(),
        };
        let bytes = read(path).map_err(fail)?;
        let text = ekuiper_core::text::decode(&bytes).map_err(|error| fail(error.into()))?;
        let manifest = Manifest::parse(text).map_err(|error| fail(error.into()))?;
        for doubt in manifest.doubts() {
            tracing::warn!(plugin = name, "{}: {doubt}", path.display());
        }
        Ok(Self { name, folder, manifest, program: None })
    }
}

/// Reads a manifest of at most [`LARGEST`] bytes.
fn read(path: &Path) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    if let Some(reason) = unstartable::reason_of_file(path) {
        return Err(format!("the manifest {}", reason.trim_end_matches(", not a program")).into());
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LARGEST {
        true => Err(format!("it is larger than a manifest may be ({} MiB)", LARGEST >> 20).into()),
        false => Ok(bytes),
    }
}

fn json_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let fail = |source: std::io::Error| Error::Folder { path: folder.to_owned(), source: source.into() };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|extension| extension == "json") && path.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

/// All plugins of a host, by name.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    packages: BTreeMap<String, Package>,
    /// Attached plugins without a manifest, which are asked for every symbol
    /// that no manifest lists.
    unlisted: BTreeSet<String>,
    owners: BTreeMap<(u8, String), String>,
    /// Symbols of updates in progress.
    reserved: BTreeMap<(u8, String), String>,
}

impl Catalog {
    /// Adds a plugin, unless another one has its name or one of its symbols.
    pub(crate) fn add(&mut self, package: Package) -> Result<()> {
        if let Some(first) = self.packages.get(&package.name) {
            let (first, second) = (first.folder.clone(), package.folder);
            return Err(Error::DuplicatePlugin { name: package.name, first, second });
        }
        self.check_symbols(&package)?;
        self.insert(package);
        Ok(())
    }

    /// Adds a plugin that has no files, unless there is a plugin of this name.
    pub(crate) fn attach(&mut self, name: &str) {
        if !self.packages.contains_key(name) {
            let (name, manifest) = (name.to_owned(), Manifest::unknown());
            self.unlisted.insert(name.clone());
            self.packages.insert(name.clone(), Package { name, folder: PathBuf::new(), manifest, program: None });
        }
    }

    /// Removes a plugin.
    pub(crate) fn remove(&mut self, plugin: &str) {
        self.packages.remove(plugin);
        self.unlisted.remove(plugin);
        self.owners.retain(|_, owner| owner != plugin);
    }

    /// Reserves the symbols of `package` until [release](Self::release), so
    /// that no other plugin takes them while `package` may
    /// [replace](Self::replace) its old version.
    pub(crate) fn reserve(&mut self, package: &Package) -> Result<()> {
        self.check_symbols(package)?;
        for kind in SymbolKind::ALL {
            let symbols = package.manifest.symbols(kind).iter();
            self.reserved.extend(symbols.map(|symbol| ((kind as u8, symbol.clone()), package.name.clone())));
        }
        Ok(())
    }

    /// Checks that no other plugin has, or has reserved, a symbol of `package`.
    fn check_symbols(&self, package: &Package) -> Result<()> {
        let second = &package.name;
        for kind in SymbolKind::ALL {
            for symbol in package.manifest.symbols(kind) {
                let key = (kind as u8, symbol.clone());
                let owners = [self.owners.get(&key), self.reserved.get(&key)];
                if let Some(first) = owners.into_iter().flatten().find(|owner| *owner != second) {
                    let (first, second) = (first.clone(), second.clone());
                    return Err(Error::DuplicateSymbol { kind, symbol: symbol.clone(), first, second });
                }
            }
        }
        Ok(())
    }

    pub(crate) fn release(&mut self, plugin: &str) {
        self.reserved.retain(|_, owner| owner != plugin);
    }

    /// Replaces the plugin of this name, unless it was removed.
    pub(crate) fn replace(&mut self, package: Package) {
        if self.packages.contains_key(&package.name) {
            self.unlisted.remove(&package.name);
            self.owners.retain(|_, owner| *owner != package.name);
            self.insert(package);
        }
    }

    fn insert(&mut self, package: Package) {
        for kind in SymbolKind::ALL {
            let symbols = package.manifest.symbols(kind).iter();
            self.owners.extend(symbols.map(|symbol| ((kind as u8, symbol.clone()), package.name.clone())));
        }
        self.packages.insert(package.name.clone(), package);
    }

    pub(crate) fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.values()
    }

    /// Returns the name of the plugin that serves a symbol.
    pub(crate) fn owner(&self, kind: SymbolKind, symbol: &str) -> Result<&str> {
        if let Some(owner) = self.owners.get(&(kind as u8, symbol.to_owned())) {
            return Ok(owner);
        }
        if self.unlisted.len() == 1
            && let Some(only) = self.unlisted.first()
        {
            return Ok(only);
        }
        let known: Vec<_> =
            self.owners.keys().filter(|(of, _)| *of == kind as u8).map(|(_, symbol)| symbol.as_str()).collect();
        let known = match known.as_slice() {
            [] => format!("the plugins serve no {kind}"),
            known => format!("the plugins serve {}", printable::some_of(known, NAMED)),
        };
        let known = match self.unlisted.is_empty() {
            true => known,
            false => {
                let names = self.unlisted.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                format!("{known}, and none of the attached plugins {names} has a manifest that lists it")
            }
        };
        Err(Error::NoSuchSymbol { kind, symbol: symbol.to_owned(), known })
    }
}

#[cfg(test)]
mod tests {
    use ekuiper_core::Chain;

    use super::*;

    fn plugin(root: &Path, folder: &str, manifest: &str, functions: &str) {
        std::fs::create_dir_all(root.join(folder)).unwrap();
        let text = format!(r#"{{"language":"go","executable":"x","functions":[{functions}]}}"#);
        std::fs::write(root.join(folder).join(manifest), text).unwrap();
    }

    fn catalog(root: &Path, folders: &[&str]) -> Result<Catalog> {
        let mut catalog = Catalog::default();
        folders.iter().try_for_each(|folder| catalog.add(Package::read(root.join(folder))?))?;
        Ok(catalog)
    }

    #[test]
    fn symbols_are_found_by_kind() {
        let root = tempfile::tempdir().unwrap();
        plugin(root.path(), "one", "one.json", r#""f""#);
        plugin(root.path(), "two", "other.json", r#""g""#);
        let catalog = catalog(root.path(), &["one", "two"]).unwrap();
        assert_eq!(catalog.owner(SymbolKind::Function, "f").unwrap(), "one");
        assert_eq!(catalog.owner(SymbolKind::Function, "g").unwrap(), "other");
        let error = catalog.owner(SymbolKind::Function, "h").unwrap_err().to_string();
        assert_eq!(error, "there is no function h: the plugins serve f, g");
        let error = catalog.owner(SymbolKind::Function, "a\nb").unwrap_err().to_string();
        assert_eq!(error, "there is no function a\\nb: the plugins serve f, g");
        let error = catalog.owner(SymbolKind::Sink, "f").unwrap_err().to_string();
        assert_eq!(error, "there is no sink f: the plugins serve no sink");
    }

    #[test]
    fn a_symbol_that_no_manifest_lists_is_the_attached_plugins() {
        let root = tempfile::tempdir().unwrap();
        plugin(root.path(), "one", "one.json", r#""f""#);
        let mut catalog = catalog(root.path(), &["one"]).unwrap();
        catalog.attach("one");
        assert!(catalog.owner(SymbolKind::Function, "g").is_err(), "its manifest lists its symbols");
        catalog.attach("two");
        assert_eq!(catalog.owner(SymbolKind::Function, "f").unwrap(), "one");
        assert_eq!(catalog.owner(SymbolKind::Source, "f").unwrap(), "two");
        catalog.attach("three");
        let error = catalog.owner(SymbolKind::Function, "g").unwrap_err().to_string();
        let expected = "the plugins serve f, and none of the attached plugins three, two has a manifest that lists it";
        assert_eq!(error, format!("there is no function g: {expected}"));
        catalog.remove("three");
        assert_eq!(catalog.owner(SymbolKind::Function, "g").unwrap(), "two");
    }

    #[test]
    fn fault_17_one_symbol_in_two_plugins_is_refused() {
        let root = tempfile::tempdir().unwrap();
        plugin(root.path(), "one", "one.json", r#""f""#);
        plugin(root.path(), "two", "two.json", r#""f""#);
        let error = catalog(root.path(), &["one", "two"]).map(|_| ()).unwrap_err().to_string();
        assert_eq!(error, "function f is in two plugins, one and two: remove one, or rename the symbol");
    }

    #[test]
    fn one_name_in_two_folders_is_refused() {
        let root = tempfile::tempdir().unwrap();
        plugin(root.path(), "a/same", "same.json", r#""f""#);
        plugin(root.path(), "b/other", "same.json", r#""g""#);
        let folders = ["a/same", "b/other"].map(|folder| root.path().join(folder).canonicalize().unwrap());
        let mut catalog = Catalog::default();
        catalog.add(Package::read(&folders[0]).unwrap()).unwrap();
        let error = catalog.add(Package::read(&folders[1]).unwrap()).unwrap_err().to_string();
        let [first, second] = folders.map(|folder| folder.display().to_string());
        let expected = format!("plugin same is in two folders, {first} and {second}: ");
        assert!(error.starts_with(&expected), "{error}");
        assert_eq!(catalog.owner(SymbolKind::Function, "f").unwrap(), "same", "the first is as it was");
        assert!(catalog.owner(SymbolKind::Function, "g").is_err());
    }

    #[test]
    fn of_many_symbols_a_few_are_named() {
        let root = tempfile::tempdir().unwrap();
        let functions: Vec<_> = (0..100_000).map(|number| format!("\"f{number}\"")).collect();
        plugin(root.path(), "one", "one.json", &functions.join(","));
        let catalog = catalog(root.path(), &["one"]).unwrap();
        let error = catalog.owner(SymbolKind::Function, "g").unwrap_err().to_string();
        assert!(error.len() < 200 && error.ends_with(" and 99990 more"), "{error}");
    }

    #[test]
    fn a_manifest_that_is_no_file_or_one_of_several() {
        let root = tempfile::tempdir().unwrap();
        plugin(root.path(), "one", "two.json", "");
        plugin(root.path(), "one", "three.json", "");
        let folder = root.path().join("one");
        let read = || Chain(&Package::read(&folder).unwrap_err()).to_string();
        assert!(
            read().ends_with("none of its 2 JSON files is one.json, the manifest of a plugin named one"),
            "{}",
            read()
        );
        let manifest = folder.join("one.json");
        std::fs::create_dir(&manifest).unwrap();
        assert!(read().ends_with("one.json: the manifest is a folder"), "{}", read());
        std::fs::remove_dir(&manifest).unwrap();
        for (target, said) in
            [("/dev/zero", "is not a file"), ("one.json", "leads back to itself"), ("no", "which does not exist")]
        {
            std::os::unix::fs::symlink(target, &manifest).unwrap();
            assert!(read().contains(said), "{}", read());
            std::fs::remove_file(&manifest).unwrap();
        }
        let large = std::fs::File::create(&manifest).unwrap();
        large.set_len(LARGEST + 1).unwrap();
        assert!(read().ends_with("larger than a manifest may be (16 MiB)"), "{}", read());
    }

    #[test]
    fn a_folder_without_a_manifest_is_named() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("empty");
        std::fs::create_dir(&folder).unwrap();
        let error = Package::read(&folder).unwrap_err().to_string();
        assert!(error.contains("needs a file empty.json"), "{error}");
        let error = Package::read(root.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("cannot read the folder"), "{error}");
    }
}
