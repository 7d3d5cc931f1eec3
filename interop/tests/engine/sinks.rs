//! A rule whose plugin is replaced while its sink is collecting: an engine that
//! waits for acknowledgements waits for ever for one that is lost, and does not
//! repeat a start that is refused.

use std::time::Instant;

use ekuiper_interop::tools;
use serde_json::json;

use ekuiper_interop::engine::kuiperd::{Engine, PATIENCE, Site, wait};
use ekuiper_interop::engine::package;
use ekuiper_interop::engine::process::Process;

/// A plugin whose sink is always busy, in a rule `rule`.
struct Subject {
    plugin: &'static str,
    /// All its processes.
    processes: fn(&Site) -> Vec<Process>,
    /// How many rows its sink has collected.
    collected: fn(&Site) -> usize,
    /// Creates the stream and the rule.
    create: fn(&Engine<'_>, require_ack: bool),
}

const RUST: Subject = Subject {
    plugin: "mirror",
    processes: Site::plugins,
    collected: |site| site.rows("rule.jsonl").len(),
    create: |engine, require_ack| {
        engine.create_stream("brisk");
        let lines = json!({ "path": "/tmp/rule.jsonl", "pause": 20, "requireAck": require_ack });
        engine.create_rule_to("rule", "SELECT count FROM brisk", json!({ "lines": lines }));
    },
};

const PYTHON: Subject = Subject {
    plugin: "trio",
    processes: |site| site.scripts("trio.py"),
    collected: |site| crate::python::printed(site).len(),
    create: |engine, require_ack| {
        engine.create_stream_of("ticks", "brisk");
        engine.create_rule_to("rule", "SELECT value FROM brisk", json!({ "say": { "requireAck": require_ack } }));
    },
};

impl Subject {
    /// Waits until the former processes have ended, and rows are collected
    /// that the next ones have got.
    fn assert_goes_on(&self, site: &Site, former: &[Process], after: &str) {
        let start = Instant::now();
        assert!(former.iter().all(|process| process.ends_within(PATIENCE)), "a former process lives on {after}");
        let before = (self.collected)(site);
        wait(&format!("rows {after}"), || ((self.collected)(site) >= before + 10).then_some(()));
        println!("{after}: rows again after {:?}", start.elapsed());
    }

    /// The plugin is updated, removed and installed again, and its engine is
    /// killed and started again at once.
    fn survives(&self, site: &Site, require_ack: bool) {
        let engine = Engine::start(site);
        engine.install(self.plugin);
        (self.create)(&engine, require_ack);
        self.assert_goes_on(site, &[], "at first");
        for _ in 0..3 {
            let former = (self.processes)(site);
            assert!(!former.is_empty());
            engine.update(self.plugin);
            self.assert_goes_on(site, &former, "after an update");
        }
        let former = (self.processes)(site);
        engine.remove(self.plugin);
        engine.install(self.plugin);
        self.assert_goes_on(site, &former, "after a removal and an installation");
        let former = (self.processes)(site);
        engine.kill();
        let engine = Engine::start_with(site, self.plugin);
        self.assert_goes_on(site, &former, "after the engine was killed");
        assert_eq!(engine.rule_status("rule")["status"], "running");
        engine.stop();
        site.wait_for_nobody();
    }
}

#[test]
fn a_busy_sink_goes_on_when_its_plugin_is_replaced() {
    let Some(site) = Site::supervised() else { return };
    RUST.survives(&site, false);
}

#[test]
fn a_busy_sink_that_acknowledges_goes_on_when_its_plugin_is_replaced() {
    let Some(site) = Site::supervised() else { return };
    RUST.survives(&site, true);
}

/// What a plugin of one process has had is lost with it, and no more.
#[test]
fn a_sink_without_a_guard_goes_on_when_its_plugin_is_replaced() {
    let Some(site) = Site::new() else { return };
    RUST.survives(&site, false);
}

#[test]
fn a_busy_sink_in_python_goes_on_when_its_plugin_is_replaced() {
    for require_ack in [false, true] {
        let Some(site) = Site::python(tools::our_python) else { return };
        package::write_slow_trio(&site.path("trio.zip"));
        PYTHON.survives(&site, require_ack);
    }
}
