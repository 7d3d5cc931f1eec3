//! What to tell the one who started a plugin that no engine answers. Most
//! often its name is not the one of its manifest, which is where the engine
//! listens.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ekuiper_core::address::Address;
use ekuiper_core::manifest::Manifest;

/// Where the plugin dials, that nobody listens there, and which manifests there
/// are in its own folder and in the working directory.
pub(super) fn explain(plugin: &str, address: &Address) -> String {
    let arguments = std::env::args_os().map(PathBuf::from);
    // The program's, or the script's that an interpreter runs.
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
    let nobody = format!("plugin {plugin}: nobody listens at {address}, where it waits for the engine that started it");
    let files: Vec<_> = manifests.iter().map(|name| format!("{name}.json")).collect();
    if manifests.contains(plugin) {
        format!("{nobody}. Its manifest {plugin}.json is there: has an engine started it, with this socket folder?")
    } else if files.is_empty() {
        format!("{nobody}. There is no manifest beside it: an engine listens at the name of the plugin's manifest")
    } else {
        format!(
            "{nobody}. The manifest beside it is {}: an engine listens at the manifest's name, which must be the \
             plugin's (Plugin::new, PluginConfig) as well",
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
        assert!(said.starts_with("plugin mirror: nobody listens at ipc:///tmp/plugin_mirror.ipc"), "{said}");
        assert!(said.contains("There is no manifest beside it"), "{said}");
        write("mirrors.json", r#"{"language": "go", "executable": "mirror", "functions": ["echo"]}"#);
        let said = sentence("mirror", &address, &found());
        assert!(said.contains("The manifest beside it is mirrors.json: "), "{said}");
        let said = sentence("mirrors", &address, &found());
        assert!(said.contains("Its manifest mirrors.json is there"), "{said}");
    }
}
