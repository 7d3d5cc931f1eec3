//! The document's plugin in Python under a real eKuiper, on the official package
//! and on ours: a rule with its source, function and sink, which acknowledges.

use std::path::PathBuf;
use std::time::Duration;

use ekuiper_interop::tools;
use rustix::process::Signal;
use serde_json::{Value, json};

use ekuiper_interop::engine::kuiperd::{Engine, PATIENCE, Site, wait};
use ekuiper_interop::engine::package;
use ekuiper_interop::engine::process::Process;

const REVERT: &str = "SELECT revert(name) AS n, value FROM quick";

/// How many rows each package is watched for.
const ROWS: usize = 50;

/// What the sink has printed, which is in the engine's log. The interpreter
/// writes a line in pieces, so that one is now and then cut by a line of
/// somebody else's: it is left out.
pub(crate) fn printed(site: &Site) -> Vec<Value> {
    let log = std::fs::read_to_string(site.path("engine.log")).unwrap_or_default();
    let complete = log.rfind('\n').map_or("", |end| &log[..end]);
    let messages = complete.lines().filter_map(|line| line.split_once("received: "));
    messages.filter_map(|(_, message)| serde_json::from_str(message).ok()).collect()
}

fn wait_for_printed(site: &Site, count: usize) -> Vec<Value> {
    wait(&format!("{count} printed rows"), || Some(printed(site)).filter(|rows| rows.len() >= count))
}

/// The plugin's process: the one that runs the script.
fn plugin(site: &Site) -> Process {
    wait("the plugin's process", || site.script("pysam.py"))
}

/// The first rows of a rule, which then is restarted, and whose engine is
/// stopped.
fn rows_of_a_rule(python: fn() -> PathBuf) -> Option<Vec<Value>> {
    let site = Site::python(python)?;
    let engine = Engine::start(&site);
    engine.install("pysam");
    engine.create_python_stream("quick");
    engine.create_python_rule("rule", REVERT);
    let rows = wait_for_printed(&site, ROWS);
    engine.assert_healthy("rule");
    engine.tell_rule("rule", "restart");
    wait("the restarted rule counts anew", || {
        let values: Vec<_> = printed(&site).iter().map(|row| row[0]["value"].as_u64()).collect();
        let again = values.windows(2).position(|pair| pair[0] > pair[1])?;
        (values.len() > again + 5).then_some(())
    });
    engine.assert_healthy("rule");
    engine.stop();
    site.wait_for_nobody();
    Some(rows[..ROWS].to_vec())
}

#[test]
fn a_rule_runs_on_both_packages_alike() {
    let (Some(official), Some(ours)) = (rows_of_a_rule(tools::python), rows_of_a_rule(tools::our_python)) else {
        return;
    };
    for (official, ours) in official.iter().zip(&ours).take(5) {
        println!("{official:40} | {ours}");
    }
    for rows in [official, ours] {
        let expected = |value: &usize| json!([{ "n": "nosjyp", "value": value }]);
        let missing = (1..=ROWS).filter(|value| !rows.contains(&expected(value))).count();
        assert!(missing <= 3, "{rows:?}");
        assert!(rows.iter().all(|row| *row == expected(&(row[0]["value"].as_u64().unwrap() as usize))), "{rows:?}");
    }
}

#[test]
fn our_module_answers_after_an_idle_time_and_ends_with_a_killed_engine() {
    let Some(site) = Site::python(tools::our_python) else { return };
    let engine = Engine::start(&site);
    engine.install("pysam");
    engine.create_python_stream("quick");
    engine.create_python_rule("rule", REVERT);
    wait_for_printed(&site, 5);
    let plugin = plugin(&site);
    engine.tell_rule("rule", "stop");
    // Longer than the official package is idle before it sends a keepalive.
    assert!(!plugin.ends_within(Duration::from_secs(6)), "the plugin ends while it is idle");
    engine.tell_rule("rule", "start");
    wait_for_printed(&site, printed(&site).len() + 5);
    engine.assert_healthy("rule");
    engine.kill();
    assert!(plugin.ends_within(PATIENCE), "the plugin outlives its engine");
    plugin.signal(Signal::KILL);
    site.wait_for_nobody();
}

#[test]
fn a_rule_survives_the_death_of_a_supervised_worker_in_python() {
    let Some(site) = Site::python(tools::our_python) else { return };
    package::write_pysam(&site.path("pysam.zip"), true);
    let engine = Engine::start(&site);
    engine.install("pysam");
    engine.create_python_stream("quick");
    engine.create_python_rule("rule", REVERT);
    wait_for_printed(&site, 5);
    for _ in 0..3 {
        let worker = plugin(&site);
        worker.signal(Signal::KILL);
        assert!(worker.ends_within(PATIENCE));
        wait_for_printed(&site, printed(&site).len() + 5);
    }
    assert_eq!(engine.rule_status("rule")["status"], "running");
    engine.stop();
    site.wait_for_nobody();
}
