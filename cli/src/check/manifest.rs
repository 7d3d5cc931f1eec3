//! The manifest, as eKuiper reads it (`internal/plugin/portable`), which differs
//! from what our host takes.

use std::path::{Component, Path};

use ekuiper_core::message::SymbolKind;
use ekuiper_host::{Language, Package};

use super::file;
use super::report::{Area, Report};
use super::{counted_symbols, names};

/// The fields that eKuiper, its documents and our host know.
const KNOWN: [&str; 11] = [
    "name",
    "version",
    "language",
    "executable",
    "virtualEnvType",
    "env",
    "sources",
    "sinks",
    "functions",
    "about",
    "libs",
];

/// Checks a manifest that our host takes.
pub(super) fn check(package: &Package, report: &mut Report) {
    let manifest = &package.manifest;
    let file_name = format!("{}.json", package.name);
    let kinds = SymbolKind::ALL.map(|kind| counted_symbols(kind, manifest.symbols(kind).len()));
    report.fact(Area::Manifest, kinds.join(", "));
    if let Language::Rust | Language::Executable = manifest.language {
        let given = if manifest.language == Language::Rust { "rust" } else { "executable" };
        report.error(
            Area::Manifest,
            "language",
            format!("is {given:?}, which eKuiper refuses: it accepts \"go\" and \"python\" only"),
            "write \"language\": \"go\", which stands for any native program",
        );
    }
    // Go compares the names of fields without regard to case.
    let own_name = manifest.other.iter().find(|(field, _)| field.eq_ignore_ascii_case("name")).map(|(_, value)| value);
    if let Some(other) = own_name.filter(|other| *other != package.name.as_str()) {
        report.error(
            Area::Manifest,
            "name",
            format!("is {other}, but the file {file_name} is the manifest of {:?}: eKuiper refuses it", package.name),
            "leave \"name\" out, or rename the file",
        );
    }
    check_executable(&manifest.executable, report);
    if manifest.is_venv() {
        report.error(
            Area::Manifest,
            "virtualEnvType",
            "is \"venv\", which eKuiper refuses: it accepts \"conda\" only",
            "leave it out, and install the packages in the Python that eKuiper runs, in install.sh for example",
        );
    } else if manifest.conda_env().is_some() {
        let text = "is \"conda\": none of eKuiper's images has conda";
        report.warning(Area::Manifest, "virtualEnvType", text, "leave it out, or install conda beside eKuiper");
    }
    if manifest.version.is_empty() {
        report.note(Area::Manifest, "version", "is not set", "set it, so that an update can be told from an old one");
    }
    for doubt in manifest.doubts() {
        report.warning(Area::Manifest, "", doubt, "");
    }
    let unknown = manifest.other.keys().filter(|field| !KNOWN.iter().any(|known| known.eq_ignore_ascii_case(field)));
    for field in unknown {
        report.note(Area::Manifest, field, "is a field that means nothing to eKuiper", "");
    }
    if file::read(&package.folder.join(&file_name), file::TEXT).is_ok_and(|bytes| bytes.starts_with(b"\xef\xbb\xbf")) {
        let text = "begins with a byte order mark, which eKuiper does not read";
        report.error(Area::Manifest, &file_name, text, "save it as UTF-8 without one");
    }
    names::check(&package.name, manifest, report);
}

/// Checks the path, which eKuiper compares with the zip's entries letter by
/// letter.
fn check_executable(executable: &str, report: &mut Report) {
    let parts: Vec<_> = Path::new(executable)
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    let plain = parts.join("/");
    if plain != executable {
        report.error(
            Area::Manifest,
            "executable",
            format!("is {executable:?}: eKuiper looks for an entry of exactly this name in the zip, and finds none"),
            &format!("write {plain:?}"),
        );
    }
    let first = parts.first().map_or("", |first| first);
    if ["sources", "sinks", "functions"].contains(&first) && parts.len() > 1 {
        let text = format!("is in {first}/, whose files eKuiper puts elsewhere when it installs the plugin");
        report.error(Area::Manifest, "executable", text, "put it into another folder, such as bin/");
    }
}
