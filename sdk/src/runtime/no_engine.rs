//! The explanation for a plugin to which no engine responds. Most often its name
//! differs from its manifest's, on whose address the engine listens.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ekuiper_core::address::Address;
use ekuiper_core::manifest::Manifest;

/// The message with the plugin's address, on which no engine listens, and the
/// manifests in its folder and in the working directory.
pub(super) fn explain(plugin: &str, address: &Address) -> String {
    let arguments = std::env::args_os().map(PathBuf::from);
    // The folder of the program, or of the script that an interpreter runs.
    let beside = arguments.filter(|path| path.is_file()).filter_map(|path| Some(path.parent()?.to_owned()));
    let folders = beside.chain([std::env::current_dir().unwrap_or_default()]);
    sentence(plugin, address, &manifests(folders))
}

/// The names of the manifests in these folders.
fn manifests(folders: impl Iterator<Item = PathBuf>) -> BTreeSet<String> {
    let files = folders.filter_map(|folder| {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
        std::fs::read_dir(folder).ok()
    });
    let paths = files.flatten().filter_map(|file| Some(file.ok()?.path()));
    let is_manifest = |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|text| Manifest::parse(&text).is_ok());
    let manifests = paths.filter(|path| path.extension().is_some_and(|end| end == "json")).filter(is_manifest);
    manifests.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
}

fn sentence(plugin: &str, address: &Address, manifests: &BTreeSet<String>) -> String {
    let begin = format!("plugin {plugin}: no engine listens at {address}, where the plugin waits for it");
    let files: Vec<_> = manifests.iter().map(|name| format!("{name}.json")).collect();
    if manifests.contains(plugin) {
        format!(
            "{begin}. Its manifest {plugin}.json was found: has an engine started the plugin, with this socket folder?"
        )
    } else if files.is_empty() {
        format!("{begin}. No manifest was found beside the plugin: an engine listens at the manifest's name")
    } else {
        format!(
            "{begin}. The manifest beside the plugin is {}: an engine listens at the manifest's name, so the plugin \
             must have the same name (Plugin::new, PluginConfig)",
            files.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_beside_the_plugin_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("notes.json", "{}");
        write("broken.json", "{");
        write("mirrors.txt", "");
        let found = || manifests([folder.path().to_owned(), folder.path().to_owned()].into_iter());
        let address = Address::new("/tmp/plugin_mirror.ipc").unwrap();
        let said = sentence("mirror", &address, &found());
        assert!(said.starts_with("plugin mirror: no engine listens at ipc:///tmp/plugin_mirror.ipc"), "{said}");
        assert!(said.contains("No manifest was found beside the plugin"), "{said}");
        write("mirrors.json", r#"{"language": "go", "executable": "mirror", "functions": ["echo"]}"#);
        let said = sentence("mirror", &address, &found());
        assert!(said.contains("The manifest beside the plugin is mirrors.json: "), "{said}");
        let said = sentence("mirrors", &address, &found());
        assert!(said.contains("Its manifest mirrors.json was found"), "{said}");
    }
}
