//! A rule that uses three functions of one plugin, when the engine starts that
//! plugin again: it keeps the functions' sockets, and sends the start of the
//! last one only.

use ekuiper_interop::tools;
use rustix::process::Signal;
use serde_json::Value;

use ekuiper_interop::engine::kuiperd::{Engine, PATIENCE, Site, wait};
use ekuiper_interop::engine::package;
use ekuiper_interop::engine::process::Process;

/// Three functions in one rule, in Rust.
const THREE: &str = "SELECT count, revert(name) AS reversed, echo(count) AS said, average(value) AS mean FROM steady \
    GROUP BY COUNTWINDOW(1)";

/// The same in Python.
const THREE_IN_PYTHON: &str = "SELECT value, double(value) AS twice, negate(value) AS less, label(value) AS text FROM \
    steady";

/// A plugin, and the rules that use it.
struct Subject {
    plugin: &'static str,
    process: fn(&Site) -> Process,
    /// The rows that a rule has given.
    rows: fn(&Site, rule: &str) -> Vec<Value>,
    /// What each row must have.
    results: &'static [&'static str],
}

/// Waits for rows of the rule that come after now, with all results.
fn assert_rule_goes_on(site: &Site, subject: &Subject, rule: &str, after: &str) {
    let before = (subject.rows)(site, rule).len();
    let rows = wait(&format!("rows {after}"), || {
        let rows = (subject.rows)(site, rule);
        // Those on their way meanwhile are not what is waited for.
        (rows.len() >= before + 10).then_some(rows)
    });
    for row in &rows[before..] {
        assert!(subject.results.iter().all(|result| !row[*result].is_null()), "{row}");
    }
    println!("{after}, a row of three functions: {}", rows[rows.len() - 1]);
}

fn survives(site: &Site, engine: &Engine<'_>, subject: &Subject, create: impl Fn(&str)) {
    create("three");
    assert_rule_goes_on(site, subject, "three", "at first");

    let former = (subject.process)(site);
    engine.update(subject.plugin);
    assert!(former.ends_within(PATIENCE), "the engine keeps the former version");
    assert_rule_goes_on(site, subject, "three", "after an update");

    // The engine starts a crashed plugin again when a rule needs its source or
    // sink, and refuses one that needs a function.
    let former = (subject.process)(site);
    former.signal(Signal::KILL);
    assert!(former.ends_within(PATIENCE));
    // Until it has noticed, a rule gets the dead process.
    let status = format!("/plugins/portables/{}/status", subject.plugin);
    wait("the engine's notice of the end", || (engine.get(&status)["status"] != "running").then_some(()));
    engine.create_rule_to("touch", "SELECT * FROM steady", serde_json::json!({ "nop": {} }));
    assert_rule_goes_on(site, subject, "three", "after a kill and another rule");
    engine.delete_rule("touch");

    let last = (subject.process)(site);
    engine.delete_rule("three");
    engine.remove(subject.plugin);
    assert!(last.ends_within(PATIENCE), "the plugin outlives its removal");
    engine.install(subject.plugin);
    // The engine may start sources and sinks of the former rule still (fault
    // 19), which would be in the way of a rule of the same name.
    create("again");
    assert_rule_goes_on(site, subject, "again", "removed and installed again");
}

#[test]
fn three_functions_survive_an_update_a_kill_and_a_removal() {
    let Some(site) = Site::new() else { return };
    let engine = Engine::start(&site);
    engine.install_mirror();
    engine.create_stream("steady");
    let subject = Subject {
        plugin: "mirror",
        process: Site::plugin,
        rows: |site, rule| site.rows(&format!("{rule}.jsonl")),
        results: &["count", "reversed", "said", "mean"],
    };
    survives(&site, &engine, &subject, |rule| engine.create_rule(rule, THREE));
    engine.stop();
    site.wait_for_nobody();
}

#[test]
fn three_functions_in_python_survive_an_update_a_kill_and_a_removal() {
    let Some(site) = Site::python(tools::our_python) else { return };
    package::write_trio(&site.path("trio.zip"));
    let engine = Engine::start(&site);
    engine.install("trio");
    engine.create_stream_of("ticks", "steady");
    let subject = Subject {
        plugin: "trio",
        process: |site| wait("the plugin's process", || site.script("trio.py")),
        rows: |site, _| crate::python::printed(site).into_iter().map(|mut rows| rows[0].take()).collect(),
        results: &["value", "twice", "less", "text"],
    };
    let rule = |rule: &str| engine.create_rule_to(rule, THREE_IN_PYTHON, serde_json::json!({ "say": {} }));
    survives(&site, &engine, &subject, rule);
    engine.stop();
    site.wait_for_nobody();
}
