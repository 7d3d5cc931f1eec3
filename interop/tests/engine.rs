//! The plugin `mirror` under a real, stock eKuiper: its source, functions,
//! aggregate and sink in rules that are made over REST; and what a crash costs
//! it with a guard and without. `python` has the document's plugin in Python,
//! `describe` what the engine makes of a plugin's description.
//!
//! `KUIPERD` names the engine, `KUIPER_ETC` its `etc` folder; without them the
//! tests are skipped.

#![allow(clippy::unwrap_used)] // helpers of tests are tests too

#[path = "engine/authors.rs"]
mod authors;
#[path = "engine/checks.rs"]
mod checks;
#[path = "engine/deploy.rs"]
mod deploy;
#[path = "engine/describe.rs"]
mod describe;
#[path = "engine/metadata.rs"]
mod metadata;
#[path = "engine/python.rs"]
mod python;
#[path = "engine/rest.rs"]
mod rest;
#[path = "engine/sinks.rs"]
mod sinks;
#[path = "engine/update.rs"]
mod update;

use std::time::{Duration, Instant};

use ekuiper_interop::engine::kuiperd::{Engine, PATIENCE, Site, wait};
use ekuiper_interop::engine::package::BURST;
use rustix::process::Signal;
use serde_json::Value;

const REVERT: &str = "SELECT count, name, revert(name) AS reversed FROM";

/// Longer than the official SDKs are idle before they send a keepalive (5 s).
const IDLE: Duration = Duration::from_secs(6);

/// The pause of a steady source, by its default.
const PAUSE: Duration = Duration::from_millis(100);

#[test]
fn rules_run_on_the_plugin() {
    let Some(site) = Site::new() else { return };
    let engine = Engine::start(&site);
    engine.install_mirror();
    let plugin = site.plugin();
    for settings in ["steady", "burst"] {
        engine.create_stream(settings);
    }

    // Source, function and sink, in step and at full speed, and an aggregate.
    engine.create_rule("steady", &format!("{REVERT} steady"));
    engine.create_rule("swift", &format!("{REVERT} burst"));
    let window = "SELECT average(value) AS mean, collect(value) AS vals FROM burst GROUP BY COUNTWINDOW(5)";
    engine.create_rule("window", window);
    site.wait_for_rows("steady.jsonl", 5);
    assert_eq!(assert_reversed(&site.wait_for_rows("swift.jsonl", BURST)), [BURST]);
    assert_means(&site.wait_for_rows("window.jsonl", BURST / 5));
    for rule in ["steady", "swift", "window"] {
        engine.assert_healthy(rule);
    }

    // Again, from the first row: one source is restarted in mid-run, the
    // other after its end.
    for rule in ["steady", "swift"] {
        engine.tell_rule(rule, "restart");
    }
    wait("the steady rule's second run", || (assert_reversed(&site.rows("steady.jsonl")).get(1)? > &4).then_some(()));
    assert_eq!(assert_reversed(&site.wait_for_rows("swift.jsonl", 2 * BURST)), [BURST, BURST]);
    for rule in ["steady", "swift", "window"] {
        engine.assert_healthy(rule);
        engine.tell_rule(rule, "stop");
        assert_eq!(engine.rule_status(rule)["status"], "stopped");
    }
    assert_only_the_engines(&site, &["func_average.ipc", "func_revert.ipc", "plugin_mirror.ipc"]);
    for rule in ["steady", "swift", "window"] {
        engine.delete_rule(rule);
    }
    assert!(!plugin.ends_within(Duration::ZERO), "the plugin lives as long as it is installed");
    engine.delete_mirror();
    assert!(plugin.ends_within(PATIENCE), "the plugin outlives its removal");
    engine.stop();
    site.wait_for_nobody();
    assert_only_the_engines(&site, &["func_average.ipc", "func_revert.ipc", "plugin_mirror.ipc"]);
}

#[test]
fn a_function_answers_after_an_idle_time() {
    let Some(site) = Site::new() else { return };
    let engine = Engine::start(&site);
    engine.install_mirror();
    let plugin = site.plugin();
    engine.create_stream("burst");
    engine.create_rule("idle", &format!("{REVERT} burst"));
    assert_eq!(assert_reversed(&site.wait_for_rows("idle.jsonl", BURST)), [BURST]);

    assert!(!plugin.ends_within(IDLE), "the plugin ends while it is idle");
    engine.tell_rule("idle", "restart");
    assert_eq!(assert_reversed(&site.wait_for_rows("idle.jsonl", 2 * BURST)), [BURST, BURST]);
    engine.assert_healthy("idle");
    assert_eq!(site.plugin().pid, plugin.pid, "it is still the same process");

    // The rule still runs: the engine ends the plugin with itself.
    engine.stop();
    site.wait_for_nobody();
    assert_only_the_engines(&site, &["func_revert.ipc", "plugin_mirror.ipc"]);
}

#[test]
fn the_plugin_ends_with_a_killed_engine() {
    let Some(site) = Site::new() else { return };
    let engine = Engine::start(&site);
    engine.install_mirror();
    engine.create_stream("flood");
    engine.create_rule("rule", &format!("{REVERT} flood"));
    site.wait_for_rows("rule.jsonl", 100);
    let plugin = site.plugin();
    assert!(site.sockets().contains("rule_lines_0_0.ipc"), "{:?}", site.sockets());
    engine.kill();
    assert!(plugin.ends_within(PATIENCE), "the plugin outlives its engine");
    site.wait_for_nobody();
    // The sink's data channel is the plugin's own; the rest a killed engine
    // cannot remove.
    let left = ["func_revert.ipc", "plugin_mirror.ipc", "rule_flood_0.ipc", "rule_lines_0_0_ack.ipc"].map(String::from);
    assert_eq!(site.sockets().into_iter().collect::<Vec<_>>(), left);

    // The next engine finds the plugin and the rule again, and the sockets.
    std::fs::rename(site.path("rule.jsonl"), site.path("former.jsonl")).unwrap();
    let engine = Engine::start_with(&site, "mirror");
    site.wait_for_rows("rule.jsonl", 100);
    engine.stop();
    site.wait_for_nobody();
    assert_only_the_engines(&site, &["func_revert.ipc", "plugin_mirror.ipc"]);
}

#[test]
fn a_rule_survives_the_death_of_a_supervised_plugins_worker() {
    let Some(site) = Site::supervised() else { return };
    let engine = Engine::start(&site);
    engine.install_mirror();
    engine.create_stream("steady");
    engine.create_rule("rule", &format!("{REVERT} steady"));
    site.wait_for_rows("rule.jsonl", 5);
    let (guard, _) = site.guard_and_worker();
    for kill in 1..=3 {
        let (_, worker) = site.guard_and_worker();
        // Between two rows nothing is on its way.
        let before = site.wait_for_rows("rule.jsonl", site.rows("rule.jsonl").len() + 1).len();
        let killed = Instant::now();
        worker.signal(Signal::KILL);
        assert!(worker.ends_within(PATIENCE));
        wait("the source's next run", || (assert_reversed(&site.rows("rule.jsonl")).len() > kill).then_some(()));
        println!("kill {kill} after row {before}: the rule was away for {:?}", killed.elapsed());
        site.wait_for_rows("rule.jsonl", before + 5);
    }
    engine.assert_healthy("rule");
    // The aftermath is an ordinary one.
    engine.tell_rule("rule", "restart");
    wait("the restarted rule", || (assert_reversed(&site.rows("rule.jsonl")).len() > 4).then_some(()));
    assert!(!guard.ends_within(Duration::ZERO));
    engine.stop();
    site.wait_for_nobody();
    assert_only_the_engines(&site, &["func_revert.ipc", "plugin_mirror.ipc"]);
}

/// The engine waits for the ack of each message before it sends the next, and
/// for ever: none may vanish with a worker.
#[test]
fn a_rule_at_full_speed_survives_its_workers_death_at_any_moment() {
    let Some(site) = Site::supervised() else { return };
    let engine = Engine::start(&site);
    engine.install_mirror();
    engine.create_stream("flood");
    engine.create_rule("rule", &format!("{REVERT} flood"));
    let length = || std::fs::metadata(site.path("rule.jsonl")).map_or(0, |file| file.len());
    let grows = |more: u64| {
        let before = length();
        wait("the rule goes on", || (length() > before + more).then_some(()));
    };
    for kill in 1..=4 {
        // Neither moment is like another.
        grows(10_000 + 777 * kill);
        let (_, worker) = site.guard_and_worker();
        worker.signal(Signal::KILL);
        assert!(worker.ends_within(PATIENCE));
        let ended = Instant::now();
        // What the dead one has written is there.
        grows(0);
        println!("kill {kill} at full speed: the rule was away for {:?}", ended.elapsed());
    }
    assert_eq!(engine.rule_status("rule")["status"], "running");
    engine.stop();
    site.wait_for_nobody();
    assert_only_the_engines(&site, &["func_revert.ipc", "plugin_mirror.ipc"]);
}

#[test]
fn a_poisonous_record_costs_a_supervised_plugin_one_crash() {
    let Some(site) = Site::supervised() else { return };
    let engine = Engine::start(&site);
    engine.install_mirror();
    engine.create_stream("steady");
    engine.create_rule("rule", r#"SELECT count, echo("/tmp/poison") AS said FROM steady"#);
    let before = site.wait_for_rows("rule.jsonl", 5).len();
    let (guard, worker) = site.guard_and_worker();
    std::fs::write(site.path("poison"), "").unwrap();
    assert!(worker.ends_within(PATIENCE), "it is not poisonous");
    site.wait_for_rows("rule.jsonl", before + 5);
    let status = engine.rule_status("rule");
    let unknown = status.as_object().unwrap().values().any(|value| value.to_string().contains("outcome unknown"));
    assert!(unknown, "the engine was not told: {status:#}");
    assert_eq!(status["status"], "running", "{status:#}");
    let (same_guard, next) = site.guard_and_worker();
    assert_eq!(same_guard.pid, guard.pid);
    site.wait_for_rows("rule.jsonl", site.rows("rule.jsonl").len() + 5);
    assert!(!next.ends_within(Duration::ZERO), "a second crash");
    engine.stop();
    site.wait_for_nobody();
    assert_only_the_engines(&site, &["func_echo.ipc", "plugin_mirror.ipc"]);
}

/// What the guard is for.
#[test]
fn a_rule_does_not_survive_the_death_of_a_plugin_without_a_guard() {
    let Some(site) = Site::new() else { return };
    let engine = Engine::start(&site);
    engine.install_mirror();
    let plugin = site.plugin();
    engine.create_stream("steady");
    engine.create_rule("rule", &format!("{REVERT} steady"));
    let before = site.wait_for_rows("rule.jsonl", 5).len();
    plugin.signal(Signal::KILL);
    assert!(plugin.ends_within(PATIENCE));
    let killed = Instant::now();
    // A row may still be on its way; thirty times the source's pause is ample.
    while killed.elapsed() < 30 * PAUSE {
        let rows = site.rows("rule.jsonl").len();
        assert!(rows <= before + 2, "{rows} rows");
        std::thread::sleep(PAUSE);
    }
    let status = engine.rule_status("rule");
    println!("without a guard, after {:?} without a row, the rule is {}", killed.elapsed(), status["status"]);
    assert_eq!(status["status"], "running", "{status:#}");
    engine.kill();
    site.wait_for_nobody();
}

/// Checks rows of `REVERT`: every word is reversed, and of each run no row is
/// missing. Returns the runs' lengths.
fn assert_reversed(rows: &[Value]) -> Vec<usize> {
    let mut runs: Vec<usize> = Vec::new();
    for row in rows {
        let word = row["name"].as_str().unwrap();
        assert_eq!(row["reversed"], word.chars().rev().collect::<String>(), "{row}");
        match row["count"].as_u64().unwrap() as usize {
            1 => runs.push(1),
            count => {
                let run = runs.last_mut().expect("a run begins with 1");
                assert_eq!(count, *run + 1, "a row is missing");
                *run = count;
            }
        }
    }
    runs
}

/// Checks that each window of five has the mean of its values.
fn assert_means(rows: &[Value]) {
    for row in rows {
        let values: Vec<f64> = row["vals"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
        assert_eq!(values.len(), 5, "{row}");
        assert_eq!(row["mean"].as_f64().unwrap(), values.iter().sum::<f64>() / 5.0, "{row}");
    }
}

/// Checks that all that is left are the sockets that this engine never
/// removes.
fn assert_only_the_engines(site: &Site, known: &[&str]) {
    assert_eq!(site.sockets().into_iter().collect::<Vec<_>>(), known);
}
