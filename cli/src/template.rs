//! The files of a new plugin, made from those in `templates/`.
//!
//! A line that is a comment with conditions in brackets, such as `# [source|sink]`,
//! begins lines that are there only if one of the conditions holds;
//! `# [/source|sink]` ends them. `source&!sink` is one condition. `plugin-name`, `plugin_name` and `sdk-path`
//! stand for the plugin's own.

use crate::args::{Kind, Language};
use crate::plugin_name::PluginName;

/// A file of a new plugin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// The path within the plugin's folder.
    pub(crate) path: String,
    pub(crate) content: String,
}

/// A template's text, the path of its file, and the kind that it is only for.
type Template = (&'static str, &'static str, Option<Kind>);

const RUST: [Template; 8] = [
    (include_str!("../templates/rust/README.md"), "README.md", None),
    (include_str!("../templates/rust/manifest.toml"), "Cargo.toml", None),
    (include_str!("../templates/rust/gitignore"), ".gitignore", None),
    (include_str!("../templates/rust/ci.yml"), ".github/workflows/ci.yml", None),
    (include_str!("../templates/rust/main.rs"), "src/main.rs", None),
    (include_str!("../templates/rust/function.rs"), "src/function.rs", Some(Kind::Function)),
    (include_str!("../templates/rust/source.rs"), "src/source.rs", Some(Kind::Source)),
    (include_str!("../templates/rust/sink.rs"), "src/sink.rs", Some(Kind::Sink)),
];

const PYTHON: [Template; 6] = [
    (include_str!("../templates/python/README.md"), "README.md", None),
    (include_str!("../templates/python/requirements.txt"), "requirements.txt", None),
    (include_str!("../templates/python/gitignore"), ".gitignore", None),
    (include_str!("../templates/python/ci.yml"), ".github/workflows/ci.yml", None),
    (include_str!("../templates/python/plugin.py"), "plugin_name.py", None),
    (include_str!("../templates/python/test_plugin.py"), "tests/test_plugin_name.py", None),
];

/// Makes the files of a plugin with these kinds of symbols. `sdk` is the folder
/// of `ekuiper-sdk`, if not the published one is used.
pub(crate) fn files(name: &PluginName, language: Language, kinds: &[Kind], sdk: Option<&str>) -> Vec<File> {
    let templates: &[Template] = match language {
        Language::Rust => &RUST,
        Language::Python => &PYTHON,
    };
    let holds = |condition: &str| match condition {
        "path" => sdk.is_some(),
        kind => kinds.iter().any(|chosen| chosen.name() == kind),
    };
    // Quoted, with what a path may have in it.
    let sdk = toml::Value::from(sdk.unwrap_or_default()).to_string();
    let own = [("plugin-name", name.as_str()), ("plugin_name", &name.identifier()), ("\"sdk-path\"", &sdk)];
    let wanted = templates.iter().filter(|(.., kind)| kind.is_none_or(|kind| kinds.contains(&kind)));
    wanted
        .map(|(text, path, _)| File { path: replaced(path, &own), content: replaced(&chosen(text, &holds), &own) })
        .collect()
}

/// Returns the lines whose conditions hold.
fn chosen(text: &str, holds: &dyn Fn(&str) -> bool) -> String {
    let (mut content, mut is_left_out) = (String::new(), false);
    for line in text.split_inclusive('\n') {
        match conditions(line) {
            Some(conditions) if conditions.starts_with('/') => is_left_out = false,
            Some(conditions) => {
                let does_hold = |condition: &str| match condition.strip_prefix('!') {
                    Some(condition) => !holds(condition),
                    None => holds(condition),
                };
                is_left_out = !conditions.split('|').any(|all| all.split('&').all(does_hold));
            }
            None if is_left_out => {}
            None => content.push_str(line),
        }
    }
    // What follows the last line may be left out.
    content.truncate(content.trim_end().len());
    content.push('\n');
    content
}

/// Returns the text with values for words. A value may contain any of the words.
fn replaced(text: &str, values: &[(&str, &str)]) -> String {
    let (mut content, mut rest) = (String::new(), text);
    let next = |rest: &str| values.iter().filter_map(|(word, value)| Some((rest.find(word)?, *word, *value))).min();
    while let Some((at, word, value)) = next(rest) {
        content.push_str(&rest[..at]);
        content.push_str(value);
        rest = &rest[at + word.len()..];
    }
    content + rest
}

/// The conditions that a line of a template has instead of text.
fn conditions(line: &str) -> Option<&str> {
    let line = line.trim();
    let comment = ["// [", "# [", "<!-- ["].into_iter().find_map(|start| line.strip_prefix(start))?;
    let comment = comment.strip_suffix("-->").unwrap_or(comment).trim();
    comment.strip_suffix(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 3] = [Kind::Function, Kind::Source, Kind::Sink];

    #[test]
    fn lines_are_chosen_by_their_conditions() {
        let text = "a\n# [x]\nb\n# [/x]\n  // [!x]\nc\n  // [/!x]\n<!-- [y|x] -->\nd\n<!-- [/y|x] -->\n[x]\n#[x]\n";
        assert_eq!(chosen(text, &|condition| condition == "x"), "a\nb\nd\n[x]\n#[x]\n");
        assert_eq!(chosen(text, &|_| false), "a\nc\n[x]\n#[x]\n");
        let both = "# [x&!y]\na\n# [/x&!y]\n# [y&!x|x&!y]\nb\n# [/y&!x|x&!y]\nc\n";
        assert_eq!(chosen(both, &|condition| condition == "x"), "a\nb\nc\n");
        assert_eq!(chosen(both, &|_| true), "c\n");
    }

    #[test]
    fn values_are_not_replaced_again() {
        assert_eq!(replaced("a-b a_b c", &[("a-b", "a_b"), ("a_b", "\"c\""), ("\"c\"", "x")]), "a_b \"c\" c");
        for name in ["sdk-path", "plugin-name-2", "my-plugin_name"] {
            let name = PluginName::parse(name, Language::Rust).unwrap();
            let readme = &files(&name, Language::Rust, &KINDS, None)[0].content;
            assert!(readme.starts_with(&format!("# {}\n", name.as_str())), "{readme}");
            assert!(readme.contains(&format!("call . {}_double 21", name.identifier())), "{readme}");
        }
    }

    /// The conditions of each template are ones that `files` knows, and end
    /// where they should.
    #[test]
    fn the_templates_are_well_formed() {
        for (text, path, _) in RUST.into_iter().chain(PYTHON) {
            let mut open = None;
            for conditions in text.lines().filter_map(conditions) {
                match conditions.strip_prefix('/') {
                    Some(ended) => assert_eq!(open.take(), Some(ended), "{path}"),
                    None => assert_eq!(open.replace(conditions), None, "{path}"),
                }
                for condition in conditions.trim_start_matches('/').split(['|', '&']) {
                    let condition = condition.trim_start_matches('!');
                    let is_known = condition == "path" || KINDS.iter().any(|kind| kind.name() == condition);
                    assert!(is_known, "{path}: {condition}");
                }
            }
            assert_eq!(open, None, "{path}");
        }
    }

    #[test]
    fn nothing_of_a_template_is_left_in_a_plugin() {
        let made = |language, kinds: &[Kind], sdk| {
            let name = PluginName::parse("My-Thermo", language).unwrap();
            files(&name, language, kinds, sdk)
        };
        for language in [Language::Rust, Language::Python] {
            for kinds in KINDS.iter().map(std::slice::from_ref).chain([&KINDS[..]]) {
                for file in made(language, kinds, Some("/a \"b\"\\c")) {
                    let text = format!("{}\n{}", file.path, file.content);
                    for left in ["plugin-name", "plugin_name", "sdk-path", "# [", "// [", "<!-- "] {
                        assert!(!text.contains(left), "{left} in {text}");
                    }
                    assert!(!text.ends_with("\n\n") && !text.contains("\n\n\n\n"), "{text}");
                    assert!(!file.path.ends_with(".toml") || file.content.parse::<toml::Table>().is_ok(), "{text}");
                }
            }
        }
        let table: toml::Table = made(Language::Rust, &KINDS, Some("/a \"b\"\\c"))[1].content.parse().unwrap();
        assert_eq!(table["dependencies"]["ekuiper-sdk"]["path"].as_str(), Some("/a \"b\"\\c"));
        let published: toml::Table = made(Language::Rust, &[Kind::Function], None)[1].content.parse().unwrap();
        let sdk = published["dependencies"]["ekuiper-sdk"].as_table().unwrap();
        assert_eq!(sdk.keys().collect::<Vec<_>>(), ["version"]);
        // The same as this workspace's own.
        let workspace: toml::Table = include_str!("../../Cargo.toml").parse().unwrap();
        assert_eq!(published["profile"]["release"], workspace["profile"]["release"]);
        for key in ["edition", "rust-version"] {
            assert_eq!(published["package"][key], workspace["workspace"]["package"][key]);
        }
    }
}
