//! Plugins that the command brings into the engine, and takes out again.

use std::process::{Command, Output};

use ekuiper_interop::tools;
use serde_json::{Value, json};

use ekuiper_interop::engine::kuiperd::{Engine, Site, wait};

/// Runs the command on this engine.
fn command(engine: &Engine<'_>, arguments: &[&str]) -> Output {
    let mut command = Command::new(tools::ekuiper_plugin());
    command.args(arguments).args(["--engine", engine.url()]).output().unwrap()
}

fn good(engine: &Engine<'_>, arguments: &[&str]) -> Value {
    let output = command(engine, arguments);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(engine: &Engine<'_>, arguments: &[&str]) -> String {
    let output = command(engine, arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_plugin_is_deployed_updated_and_removed() {
    let Some(site) = Site::new() else { return };
    let engine = Engine::start(&site);
    let zip = site.path("mirror.zip");
    let zip = zip.to_str().unwrap();
    let deployed = good(&engine, &["deploy", zip]);
    assert_eq!((&deployed["status"], &deployed["was"]), (&json!("running"), &Value::Null), "{deployed}");

    engine.create_stream("steady");
    engine.create_rule("used", "SELECT count, name, revert(name) AS reversed FROM steady");
    site.wait_for_rows("used.jsonl", 3);
    assert!(refused(&engine, &["remove", "mirror"]).contains("rules use mirror: used; stop them first"));

    // The engine often reports the former process's end as the next one's.
    for round in 0..4 {
        let updated = good(&engine, &["deploy", zip, "--restart-rules"]);
        assert_eq!((&updated["status"], &updated["was"]), (&json!("running"), &json!("v0.1.0")), "{round}: {updated}");
        assert_eq!(updated["rules"][0]["id"], "used", "{updated}");
        assert_eq!(updated["rules"][0]["status"], "running", "{updated}");
        let before = site.rows("used.jsonl").len();
        site.wait_for_rows("used.jsonl", before + 3);
    }

    engine.tell_rule("used", "stop");
    engine.delete_rule("used");
    wait("the rule's end", || command(&engine, &["remove", "mirror"]).status.success().then_some(()));
    assert!(refused(&engine, &["remove", "mirror"]).contains("has no plugin mirror"));
    // Nothing of it is left among the engine's files, the upload neither.
    for folder in ["base/plugins/portable", "base/data/uploads"] {
        let left: Vec<_> = std::fs::read_dir(site.path(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    engine.stop();
}

/// A package of the plugin `mirror` with these functions only, and an
/// `install.sh`.
fn write(site: &Site, zip: &str, functions: &[&str], install: &str) -> String {
    let path = site.path(&format!("{zip}.zip"));
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let manifest = json!({ "version": "v0.0.9", "language": "go", "executable": "mirror", "functions": functions });
    let program = std::fs::read(tools::mirror()).unwrap();
    let manifest = manifest.to_string();
    for (name, mode, content) in [
        ("mirror.json", 0o644, manifest.as_bytes()),
        ("mirror", 0o755, &program),
        ("install.sh", 0o644, install.as_bytes()),
    ] {
        zip.start_file(name, zip::write::SimpleFileOptions::default().unix_permissions(mode)).unwrap();
        std::io::Write::write_all(&mut zip, content).unwrap();
    }
    zip.finish().unwrap();
    path.to_str().unwrap().to_owned()
}

fn uploads(site: &Site) -> usize {
    std::fs::read_dir(site.path("base/data/uploads")).map_or(0, Iterator::count)
}

#[test]
fn a_version_that_the_engine_refuses_leaves_the_former_one() {
    let Some(site) = Site::new() else { return };
    let engine = Engine::start(&site);
    let bad = write(&site, "bad", &["revert", "echo"], "echo no disk >&2; exit 7\n");
    let error = refused(&engine, &["deploy", &bad]);
    assert!(error.contains("refuses to install the plugin: portable plugin create command error"), "{error}");
    assert!(error.contains("err:exit status 7 stdout: stderr:no disk"), "{error}");
    assert_eq!((engine.get("/plugins/portables"), uploads(&site)), (json!([]), 0));

    let zip = site.path("mirror.zip");
    good(&engine, &["deploy", zip.to_str().unwrap()]);
    engine.create_stream("steady");
    engine.create_rule("used", "SELECT count, name, revert(name) AS reversed FROM steady");
    site.wait_for_rows("used.jsonl", 3);
    // It lacks the source and the sink, too.
    let error = refused(&engine, &["deploy", &bad]);
    assert!(error.contains("rules use what this version of mirror has no more, source random"), "{error}");
    assert!(error.contains(": used; change or delete them first, or pass --force"), "{error}");
    assert_eq!(uploads(&site), 1);
    let error = refused(&engine, &["deploy", &bad, "--force"]);
    assert!(error.contains(r#"updating mirror from "v0.1.0" to "v0.0.9", which is older"#), "{error}");
    assert!(error.contains("refuses to update mirror, and has its former version again: "), "{error}");
    assert!(error.contains("no disk"), "{error}");
    assert_eq!((&engine.get("/plugins/portables/mirror")["version"], uploads(&site)), (&json!("v0.1.0"), 1));
    let before = site.rows("used.jsonl").len();
    site.wait_for_rows("used.jsonl", before + 3);
    engine.stop();
}

#[test]
fn what_a_rule_does_not_use_may_go_and_a_stopped_rule_stays_so() {
    let Some(site) = Site::new() else { return };
    let engine = Engine::start(&site);
    let zip = write(&site, "all", &["revert", "echo", "average"], "");
    good(&engine, &["deploy", &zip]);
    let simulator = r#"CREATE STREAM sim () WITH (TYPE="simulator", FORMAT="json")"#;
    engine.ask("POST", "/streams", Some(&json!({ "sql": simulator })));
    for rule in ["runs", "stands"] {
        engine.create_rule_to(rule, "SELECT echo(humidity) AS said FROM sim", json!({ "log": {} }));
    }
    engine.tell_rule("stands", "stop");
    let zip = write(&site, "less", &["echo", "average"], "");
    let output = command(&engine, &["deploy", &zip, "--restart-rules"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.contains("mirror no longer has function revert\n"), "{told}");
    assert!(told.contains("restarting rule runs …") && !told.contains("restarting rule stands …"), "{told}");
    assert_eq!(engine.rule_status("stands")["status"], "stopped");
    assert_eq!(engine.rule_status("runs")["status"], "running");
    assert_eq!(uploads(&site), 1, "the former version's is left");
    // Its symbols are not another plugin's.
    let error = refused(&engine, &["deploy", &renamed(&site, "twin")]);
    assert!(error.contains("function echo is the plugin mirror's in the engine at http://127.0.0.1:"), "{error}");
    engine.stop();
}

/// The plugin `mirror` under another name.
fn renamed(site: &Site, name: &str) -> String {
    let path = site.path(&format!("{name}.zip"));
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let manifest = br#"{"version":"v1","language":"go","executable":"mirror","functions":["echo"]}"#;
    let program = std::fs::read(tools::mirror()).unwrap();
    for (name, content) in [(format!("{name}.json").as_str(), &manifest[..]), ("mirror", &program)] {
        zip.start_file(name, zip::write::SimpleFileOptions::default().unix_permissions(0o755)).unwrap();
        std::io::Write::write_all(&mut zip, content).unwrap();
    }
    zip.finish().unwrap();
    path.to_str().unwrap().to_owned()
}

/// The engine itself mixes up two installations of a plugin at once.
#[test]
fn two_commands_at_once_fail_clearly_or_succeed_and_the_next_one_succeeds() {
    let Some(site) = Site::new() else { return };
    let engine = Engine::start(&site);
    let zips = [write(&site, "one", &["echo"], ""), write(&site, "two", &["echo", "revert"], "")];
    for round in 0..3 {
        let outputs = std::thread::scope(|scope| {
            let commands = zips.each_ref().map(|zip| scope.spawn(|| command(&engine, &["deploy", zip])));
            commands.map(|command| command.join().unwrap())
        });
        for output in outputs.iter().filter(|output| !output.status.success()) {
            let error = String::from_utf8_lossy(&output.stderr);
            let refused =
                ["refuses to install the plugin: ", "refuses to update the plugin: ", "refuses to update mirror, and "];
            let is_clear = refused.iter().any(|words| error.contains(words));
            assert!(is_clear && !error.contains("panicked"), "{round}: {error}");
        }
        let deployed = good(&engine, &["deploy", &zips[round % 2]]);
        assert_eq!(deployed["status"], "running", "{deployed}");
        let functions = engine.get("/plugins/portables/mirror")["functions"].clone();
        assert_eq!(functions.as_array().unwrap().len(), 1 + round % 2);
    }
    engine.stop();
}
