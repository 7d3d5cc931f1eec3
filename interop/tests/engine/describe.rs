//! The files that are made of a plugin's description: eKuiper installs them, its
//! manager page lists them, and a configuration that does not fit is refused
//! with the words that the rule's user reads in the engine's log.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use ekuiper_core::description::{ConfigFields, DataType, Description, Field, FunctionDescription};
use ekuiper_interop::tools;
use serde_json::{Value, json};
use zip::write::SimpleFileOptions;

use ekuiper_interop::engine::kuiperd::{Engine, Site, wait};

/// What the plugin that this command starts prints about itself.
fn described_by(command: &mut Command) -> Description {
    let printed = command.arg("--describe").output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    Description::decode(&printed.stdout).unwrap()
}

fn described() -> Description {
    described_by(&mut Command::new(tools::mirror()))
}

/// Packs a plugin with everything that its description gives, further
/// configurations of its source, and nothing else.
fn write(site: &Site, description: &Description, program: &Path, settings: &str) {
    let name = &description.name;
    let executable = program.file_name().unwrap().to_str().unwrap();
    let mut zip = zip::ZipWriter::new(fs::File::create(site.path(&format!("{name}.zip"))).unwrap());
    let file = SimpleFileOptions::default();
    let mut add = |name: &str, options, content: &[u8]| {
        zip.start_file(name, options).unwrap();
        zip.write_all(content).unwrap();
    };
    let manifest = description.manifest(executable).unwrap();
    add(&format!("{name}.json"), file, &serde_json::to_vec(&manifest).unwrap());
    add(executable, file.unix_permissions(0o755), &fs::read(program).unwrap());
    for made in description.engine_files() {
        let further = if made.path.ends_with(".yaml") { settings } else { "" };
        add(&made.path, file, (made.content + further).as_bytes());
    }
    zip.finish().unwrap();
}

/// Packs the plugin `mirror` with all that its description gives.
pub(crate) fn mirror(site: &Site) {
    write(site, &described(), tools::mirror(), "");
}

/// Whether the engine was built with what its manager page reads; a test
/// without that is skipped, loudly.
pub(crate) fn has_page(engine: &Engine) -> bool {
    let has = engine.request("GET", "/metadata/functions", None).is_ok();
    if !has {
        let current = std::thread::current();
        let test = current.name().unwrap_or("a test");
        // Past the capture of the test's output.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: KUIPERD is built without the tag \"ui\"");
    }
    has
}

fn functions(engine: &Engine) -> Vec<Value> {
    let files: Vec<Value> = serde_json::from_value(engine.get("/metadata/functions")).unwrap();
    let functions = files.iter().flat_map(|file| file["functions"].as_array().unwrap());
    functions.cloned().collect()
}

fn named<'a>(list: &'a [Value], name: &str) -> Option<&'a Value> {
    list.iter().find(|item| item["name"] == name)
}

fn fields(shown: &Value) -> &[Value] {
    shown.as_array().unwrap()
}

#[test]
fn the_managers_page_lists_what_a_plugin_describes() {
    let Some(site) = Site::new() else { return };
    write(&site, &described(), tools::mirror(), "");
    let mut engine = Engine::start(&site);
    if !has_page(&engine) {
        return;
    }
    let own = functions(&engine).len();
    engine.install_mirror();
    for _ in 0..2 {
        let listed = functions(&engine);
        // The engine reads them in its folders `etc` and `data`.
        assert_eq!(listed.len(), own + 2 * described().functions.len());
        let revert = named(&listed, "revert").unwrap();
        assert_eq!(revert["hint"]["en_US"], "The text backwards.");
        assert_eq!(revert["example"], "revert('hello')");
        assert_eq!((&revert["args"][0]["name"], &revert["args"][0]["type"]), (&json!("text"), &json!("string")));
        assert_eq!(named(&listed, "average").unwrap()["return"]["type"], "float");

        // It answers while it reads them.
        wait("the source is listed", || {
            named(fields(&engine.get("/metadata/sources")), "random").is_some().then_some(())
        });
        let random = engine.get("/metadata/sources/random");
        let interval = named(fields(&random["properties"]["default"]), "interval").unwrap();
        assert_eq!(
            (&interval["type"], &interval["default"], &interval["optional"]),
            (&json!("int"), &json!(100), &json!(true))
        );
        assert_eq!(interval["hint"]["en"], "Milliseconds between two rows.");
        assert_eq!(engine.get("/metadata/sources/yaml/random"), json!({ "default": { "seed": 1 } }));

        let lines = engine.get("/metadata/sinks/lines");
        let path = named(fields(&lines["properties"]), "path").unwrap();
        assert_eq!((&path["type"], &path["optional"]), (&json!("string"), &json!(false)));
        // The engine's own sink of this name is as it was.
        assert!(fields(&engine.get("/metadata/sinks/file")["properties"]).len() > 3);

        // At its start the engine reads all files again.
        engine.stop();
        engine = Engine::start_with(&site, "mirror");
    }
    engine.delete_mirror();
    assert_eq!(functions(&engine).len(), own);
    engine.stop();
}

#[test]
fn no_description_breaks_the_managers_page() {
    let Some(site) = Site::new() else { return };
    let hostile = "a \"quoted\"\n: text\t# \u{1b}[2J \u{85}\u{2028}\u{feff} é 😀 {{}} %s '";
    // The engine turns names to lower case, and back only what is ASCII.
    let name = hostile.to_lowercase();
    let mut description = described();
    let nested = DataType::of_fields([Field::new("caFile", DataType::String).default_value("x")]);
    let mut config = ConfigFields::default();
    config.fields = vec![
        Field::new("maxRetries", DataType::Int).default_value(3).doc(hostile),
        Field::new("tags", DataType::list(DataType::String)).default_value(vec!["a", "no", hostile]),
        Field::new("numbers", DataType::list(DataType::Int)).default_value(vec![1, 2]),
        Field::new("none", DataType::list(DataType::Any)).default_value(json!([])),
        Field::new("tlsOptions", nested).default_value(json!({ "caFile": "x" })),
        Field::new("headers", DataType::of_fields([])).default_value(json!({ "X-Any": [1, { "B": null }] })),
        Field::new("lower", DataType::of_fields([])).default_value(json!({ "name": { "deep": [1.5, -0.25] } })),
        Field::new("no", DataType::String).default_value("yes"),
        Field::new("text", DataType::String).default_value(hostile),
        Field::new(&name, DataType::Any).default_value(u64::MAX),
        Field::new("<<", DataType::Any).default_value(1),
        Field::new("mode", DataType::String).one_of(["fast", "slow"]).default_value("fast"),
    ];
    let passed_on = json!({
        "maxRetries": 3, "tags": ["a", "no", hostile], "numbers": [1, 2], "none": [], "no": "yes", "text": hostile,
        "lower": { "name": { "deep": [1.5, -0.25] } }, "mode": "fast", name.clone(): u64::MAX,
    });
    description.sources[0].config = Some(config.clone());
    description.sources[0].doc = hostile.into();
    description.sources[0].datasource = Some(hostile.into());
    description.sinks[1].config = Some(config);
    let mut function = FunctionDescription::unknown();
    (function.name, function.doc, function.example) = ("echo".into(), hostile.into(), hostile.into());
    description.functions.retain(|function| function.name != "echo");
    description.functions.push(function);
    write(&site, &description, tools::mirror(), "");

    let mut engine = Engine::start(&site);
    if !has_page(&engine) {
        return;
    }
    let own = engine.get("/metadata/sources").as_array().unwrap().len();
    engine.install_mirror();
    for _ in 0..2 {
        let listed = functions(&engine);
        assert_eq!(named(&listed, "echo").unwrap()["hint"]["en_US"], hostile);
        assert_eq!(engine.get("/metadata/sources").as_array().unwrap().len(), own + 1);
        let random = engine.get("/metadata/sources/random");
        assert_eq!(fields(&random["properties"]["default"]).len(), 12);
        assert_eq!(fields(&engine.get("/metadata/sinks/lines")["properties"]).len(), 12);
        assert_eq!(engine.get("/metadata/sources/yaml/random")["default"], passed_on);
        engine.stop();
        engine = Engine::start_with(&site, "mirror");
    }
    engine.stop();
}

#[test]
fn a_configuration_that_does_not_fit_is_told_to_the_rules_user() {
    let Some(site) = Site::new() else { return };
    write(&site, &described(), tools::mirror(), "wrong:\n  count: soon\nsteady:\n  seed: 3\n");
    let engine = Engine::start(&site);
    engine.install_mirror();
    engine.create_stream("wrong");
    engine.create_stream("steady");
    engine.create_rule("source", "SELECT * FROM wrong");
    says(&site, &engine, "source", "invalid config field count: invalid type: string \"soon\", expected u64");
    engine.create_rule_to("sink", "SELECT * FROM steady", json!({ "lines": { "pth": "/tmp/x" } }));
    says(
        &site,
        &engine,
        "sink",
        "invalid config field path: missing field `path`; unknown config field \"pth\": did you mean \"path\"?",
    );
    engine.stop();
}

#[test]
fn a_plugin_in_python_tells_the_same() {
    let Some(site) = Site::python(tools::our_python) else { return };
    let script = tools::root().join("examples/pyfunctions/pyfunctions.py");
    let description = described_by(Command::new(tools::our_python()).arg(&script));
    write(&site, &description, &script, "wrong:\n  start: soon\nsteady:\n  start: 5\n");
    let engine = Engine::start(&site);
    engine.install("pyfunctions");
    engine.create_stream_of("ticks", "wrong");
    engine.create_stream_of("ticks", "steady");
    engine.create_rule_to("source", "SELECT * FROM wrong", json!({ "print_row": {} }));
    says(&site, &engine, "source", "source ticks: config field start: expected int, got str 'soon'");
    engine.create_rule_to("sink", "SELECT * FROM steady", json!({ "print_row": { "refus": "x" } }));
    wait("the warning", || {
        log(&site).contains("unknown config field \"refus\": did you mean \"refuse\"?").then_some(())
    });
    engine.assert_healthy("sink");
    engine.stop();
}

fn log(site: &Site) -> String {
    fs::read_to_string(site.path("engine.log")).unwrap().replace('\\', "")
}

/// Waits until a rule has ended for this reason, which the engine keeps in its
/// log only.
fn says(site: &Site, engine: &Engine, rule: &str, reason: &str) {
    wait(&format!("rule {rule} says {reason}"), || {
        log(site).lines().any(|line| line.contains("closing Rule for error") && line.contains(reason)).then_some(())
    });
    wait(&format!("the end of rule {rule}"), || {
        (engine.rule_status(rule)["status"] == "stopped by error").then_some(())
    });
}
