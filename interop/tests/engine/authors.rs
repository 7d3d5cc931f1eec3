//! An author's way as the README of a new plugin says it, in each language and
//! for each kind of symbol: `new`, `deploy`, a stream and a rule, an edit and
//! `deploy` again, `remove`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ekuiper_interop::tools;
use serde_json::{Value, json};

use crate::describe::has_page;
use ekuiper_interop::engine::kuiperd::{Engine, Site, wait};

/// A new plugin, in a folder outside the checkout.
struct Author<'a> {
    language: &'static str,
    engine: &'a Engine<'a>,
    site: &'a Site,
    folder: PathBuf,
    name: &'static str,
}

/// What is edited: the file in Rust, and the text before and after.
struct Edit {
    file: &'static str,
    rust: (&'static str, &'static str),
    python: (&'static str, &'static str),
}

const KINDS: [(&str, Edit); 3] = [
    (
        "function",
        Edit {
            file: "src/function.rs",
            rust: ("    value * 2.0\n", "    value * 300.0\n"),
            python: ("return value * 2\n", "return value * 300\n"),
        },
    ),
    (
        "source",
        Edit {
            file: "src/source.rs",
            rust: ("&Row { number }", "&Row { number: number + 1000 }"),
            python: ("{\"number\": number}", "{\"number\": number + 1000}"),
        },
    ),
    (
        "sink",
        Edit {
            file: "src/sink.rs",
            rust: (r#""{row}""#, r#""{{\"new\":{row}}}""#),
            python: ("json.dumps(row)", "json.dumps({\"new\": row})"),
        },
    ),
];

impl Author<'_> {
    /// Runs the command; a folder is built for this machine and fast, with the
    /// dependencies of this workspace.
    fn command(&self, arguments: &[&str]) -> Output {
        let own = tools::ekuiper_plugin().parent().unwrap();
        let mut command = Command::new(tools::ekuiper_plugin());
        command.args(arguments).current_dir(&self.folder).env("CARGO_INCREMENTAL", "0");
        command.env("CARGO_TARGET_DIR", own.parent().unwrap().join("plugins"));
        for (setting, value) in [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("OPT_LEVEL", "0")] {
            command.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
        }
        if self.language == "python" {
            command.arg("--python-bin").arg(tools::our_python());
        }
        command.output().unwrap()
    }

    fn good(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments);
        assert!(output.status.success(), "{output:?}");
        print!("$ ekuiper-plugin {}\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Carries out the commands of a block of the README that begins with this.
    fn follow(&self, beginning: &str) -> Vec<String> {
        let readme = fs::read_to_string(self.folder.join("README.md")).unwrap();
        let block = readme.split("\n```\n").find(|block| block.starts_with(beginning)).unwrap().to_owned();
        // Each command begins a line, and so does what it passes on.
        let mut commands: Vec<String> = Vec::new();
        for line in block.lines() {
            match line.starts_with("curl ") || line.starts_with("ekuiper-plugin ") {
                true => commands.push(line.to_owned()),
                false => *commands.last_mut().unwrap() += line,
            }
        }
        commands.iter().map(|command| self.carry_out(command)).collect()
    }

    fn carry_out(&self, command: &str) -> String {
        let command = command.replace("http://localhost:9081", self.engine.url());
        if let Some(arguments) = command.strip_prefix("ekuiper-plugin ") {
            let mut arguments: Vec<_> = arguments.split(' ').collect();
            if arguments[0] == "deploy" && self.language == "rust" {
                // Which needs no target to be installed.
                arguments.extend(["--target", "native"]);
            }
            return self.good(&arguments).to_string();
        }
        let (words, body) = command.strip_prefix("curl ").unwrap().split_once(" -d ").unwrap_or((&command[5..], ""));
        let body = body.trim_matches('\'');
        let body: Option<Value> = (!body.is_empty()).then(|| serde_json::from_str(body).unwrap());
        let (method, url) = words.strip_prefix("-X ").map_or(("GET", words), |rest| rest.split_once(' ').unwrap());
        let answer = self.engine.ask(method, url.strip_prefix(self.engine.url()).unwrap(), body.as_ref());
        println!("$ curl {words} …\n{}", answer.lines().next().unwrap_or_default());
        answer
    }

    fn edit(&self, edit: &Edit) {
        let (file, (from, to)) = match self.language {
            "rust" => (edit.file.to_owned(), edit.rust),
            _ => (format!("{}.py", self.name), edit.python),
        };
        let file = self.folder.join(file);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(file, text.replace(from, to)).unwrap();
    }

    /// Waits for a row of the rule that has this in it.
    fn wait_for_row(&self, kind: &str, part: &str) {
        wait(&format!("a row with {part}"), || match kind {
            "sink" => {
                fs::read_to_string(self.site.path(&format!("{}.jsonl", self.name))).ok()?.contains(part).then_some(())
            }
            _ => {
                let log = log(self.site);
                let of_rule = format!("sink result for rule {}: ", self.name);
                log.lines().any(|line| line.contains(&of_rule) && line.contains(part)).then_some(())
            }
        });
    }
}

fn log(site: &Site) -> String {
    fs::read_to_string(site.path("engine.log")).unwrap().replace('\\', "")
}

fn make(folder: &Path, name: &str, language: &str, kind: &str) -> PathBuf {
    let mut new = Command::new(tools::ekuiper_plugin());
    new.args(["new", name, "--language", language, "--kind", kind]).current_dir(folder);
    assert!(new.output().unwrap().status.success());
    let folder = folder.join(name);
    if language == "rust" {
        fs::copy(tools::root().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    }
    folder
}

fn goes_the_way(site: &Site, language: &'static str, names: [&'static str; 3]) {
    let outside = tempfile::tempdir().unwrap();
    let engine = Engine::start(site);
    for ((kind, edit), name) in KINDS.iter().zip(names) {
        let folder = make(outside.path(), name, language, kind);
        let author = Author { language, engine: &engine, site, folder, name };
        if *kind == "source" {
            fs::create_dir(author.folder.join("sources")).unwrap();
            let settings = "default:\n  pause: 20\nwrong:\n  pause: long\nunknown:\n  paus: 5\n";
            fs::write(author.folder.join(format!("sources/{name}_ticks.yaml")), settings).unwrap();
        }
        author.follow("ekuiper-plugin deploy . ");
        author.follow("curl -X POST ");
        let (before, after) = match *kind {
            "function" => (r#"{"doubled":45}"#, r#"{"doubled":6750}"#),
            "source" => (r#"{"number":2}"#, r#"{"number":1002}"#),
            // Python and Rust do not write the same spaces.
            _ => ("temperature", r#"{"new":"#),
        };
        author.wait_for_row(kind, before);
        engine.assert_healthy(name);

        author.edit(edit);
        let deployed = author.follow("ekuiper-plugin deploy . ").concat();
        let deployed: Value = serde_json::from_str(&deployed).unwrap();
        assert_eq!((&deployed["was"], &deployed["status"]), (&json!("v0.1.0"), &json!("running")), "{deployed}");
        let rules = deployed["rules"].as_array().unwrap();
        assert!(rules.len() == 1 && rules[0]["id"] == name && rules[0]["status"] == "running", "{deployed}");
        author.wait_for_row(kind, after);

        if *kind == "source" {
            tells_its_users(&author);
        }
        let refused = author.command(&["remove", name, "--engine", engine.url()]);
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains(&format!("rules use {name}: {name};")),
            "{refused:?}"
        );
        let readme = fs::read_to_string(author.folder.join("README.md")).unwrap();
        assert!(readme.contains(&format!("ekuiper-plugin remove {name} ")));
        for part in ["rules", "streams"] {
            let end = if part == "streams" { "_rows" } else { "" };
            author.carry_out(&format!("curl -X DELETE http://localhost:9081/{part}/{name}{end}"));
        }
        // Although the engine still counts the rule for a moment.
        author.good(&["remove", name, "--engine", engine.url()]);
    }
    for folder in ["base/plugins/portable", "base/data/uploads"] {
        let left: Vec<_> = fs::read_dir(site.path(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    engine.stop();
}

/// What a user reads whose stream has a configuration that does not fit, and
/// what the manager's page shows.
fn tells_its_users(author: &Author<'_>) {
    let Author { name, engine, site, .. } = author;
    let source = format!("{name}_ticks");
    for (settings, reason, end) in [
        ("wrong", "config field pause: ", "stopped by error"),
        ("unknown", "unknown config field \"paus\": did you mean \"pause\"?", "running"),
    ] {
        engine.create_stream_of(&source, settings);
        let rule = format!("{name}_{settings}");
        engine.create_rule_to(&rule, &format!("SELECT * FROM {settings}"), json!({ "log": {} }));
        let said = wait(reason, || log(site).lines().rev().find(|line| line.contains(reason)).map(str::to_owned));
        println!("{said}");
        // The engine crashes if a rule is deleted while it ends by an error.
        wait(end, || (engine.rule_status(&rule)["status"] == end).then_some(()));
        engine.delete_rule(&rule);
        engine.ask("DELETE", &format!("/streams/{settings}"), None);
    }
    if has_page(engine) {
        let fields = engine.get(&format!("/metadata/sources/{source}"))["properties"]["default"].clone();
        let pause = fields.as_array().unwrap().iter().find(|field| field["name"] == "pause").unwrap().clone();
        assert_eq!((&pause["hint"]["en"], &pause["type"]), (&json!("Milliseconds between two rows."), &json!("int")));
    }
}

#[test]
fn an_author_in_rust_goes_the_way_that_the_readme_says() {
    let Some(site) = Site::new() else { return };
    goes_the_way(&site, "rust", ["rust_f", "rust_s", "rust_k"]);
}

#[test]
fn an_author_in_python_goes_the_way_that_the_readme_says() {
    let Some(site) = Site::python(tools::our_python) else { return };
    goes_the_way(&site, "python", ["python_f", "python_s", "python_k"]);
}
