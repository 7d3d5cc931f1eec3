//! A plugin's description of itself beside its manifest.

use ekuiper_core::description::Description;
use ekuiper_core::message::SymbolKind;
use ekuiper_host::Package;

use super::engine_files;
use super::report::{Area, Report};

/// Compares the two. Returns whether the plugin can be started: one that calls
/// itself by another name never arrives.
pub(crate) fn check(package: &Package, description: &Description, report: &mut Report) -> bool {
    let manifest = &package.manifest;
    for kind in SymbolKind::ALL {
        let (listed, served) = (manifest.symbols(kind), description.names(kind));
        for symbol in listed.iter().filter(|symbol| !served.contains(&symbol.as_str())) {
            let other = SymbolKind::ALL.into_iter().find(|other| description.names(*other).contains(&symbol.as_str()));
            let text = match other {
                Some(other) => format!("is in the manifest, and the plugin serves it as a {other}"),
                None => "is in the manifest, and the plugin does not serve it".into(),
            };
            let advice = "correct the manifest, or build the plugin again";
            report.error(Area::Symbols, &format!("{kind} {symbol}"), text, advice);
        }
        for symbol in served.iter().filter(|symbol| !listed.iter().any(|listed| listed == *symbol)) {
            let text = "is served by the plugin, and not in the manifest: no engine offers it";
            report.warning(Area::Symbols, &format!("{kind} {symbol}"), text, "add it to the manifest");
        }
    }
    if !description.version.is_empty() && !manifest.version.is_empty() && description.version != manifest.version {
        let text = format!("is {:?}, and the program says {:?}", manifest.version, description.version);
        report.warning(Area::Manifest, "version", text, "let both say the same");
    }
    for source in &manifest.sources {
        check_configuration(package, description, source, report);
    }
    if description.name == package.name {
        return true;
    }
    report.error(
        Area::Start,
        &package.name,
        format!(
            "the program calls itself {:?}: it connects under that name, and an engine that starts {:?} waits in vain",
            description.name, package.name
        ),
        &format!("rename the manifest to {}.json, or the plugin in its code", description.name),
    );
    false
}

/// Checks a source's default configuration, which a stream without `CONF_KEY`
/// takes.
fn check_configuration(package: &Package, description: &Description, source: &str, report: &mut Report) {
    let Some(fields) = description.config(SymbolKind::Source, source) else { return };
    let Some(config) = engine_files::default_configuration(package, source) else { return };
    let file = format!("sources/{source}.yaml");
    if let Err(misfit) = fields.check(&config) {
        report.error(Area::Files, &file, format!("does not fit what the source takes: {misfit}"), "correct the field");
    }
    for unknown in fields.unknown(SymbolKind::Source, &config) {
        report.warning(Area::Files, &file, unknown.to_string(), "correct or remove the field");
    }
}
