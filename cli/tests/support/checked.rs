//! What `check --json` has found.

use std::path::Path;

use serde_json::Value;

use super::Bench;

/// The outcome of `check`.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) findings: Vec<Value>,
    pub(crate) summary: Value,
}

/// Checks the plugin at `path`. Nothing is left behind.
pub(crate) fn check(bench: &Bench, path: &Path, arguments: &[&str]) -> Checked {
    let ran = bench.run(&[&["check", path.to_str().unwrap(), "--json"], arguments].concat());
    let lines = ran.stdout.lines().map(serde_json::from_str);
    let Ok(mut findings) = lines.collect::<Result<Vec<Value>, _>>() else { panic!("not JSON lines: {ran:?}") };
    let Some(summary) = findings.pop() else { panic!("no report: {ran:?}") };
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    bench.assert_nothing_is_left();
    let checked = Checked { code: ran.code, stdout: ran.stdout, findings, summary };
    let errors = checked.of("error").count();
    assert_eq!(checked.summary["errors"], errors, "{checked:?}");
    assert_eq!(checked.code, Some(i32::from(errors > 0)), "{checked:?}");
    checked
}

impl Checked {
    fn of(&self, level: &str) -> impl Iterator<Item = &Value> {
        self.findings.iter().filter(move |finding| finding["level"] == level)
    }

    /// The number of errors and warnings.
    pub(crate) fn problems(&self) -> usize {
        self.of("error").count() + self.of("warning").count()
    }

    /// Asserts that nothing was found, but for what was not tried.
    pub(crate) fn is_good(&self) {
        assert_eq!(self.problems(), 0, "{self:?}");
    }

    /// Asserts that there is this finding.
    pub(crate) fn has(&self, level: &str, area: &str, text: &str) -> &Value {
        let is_it = |finding: &&Value| finding["area"] == area && finding["text"].as_str().unwrap().contains(text);
        self.of(level).find(is_it).unwrap_or_else(|| panic!("no {level}, {area}, {text:?} in {self:?}"))
    }

    /// Asserts that there is this finding, and no other of its level.
    pub(crate) fn only_of(&self, level: &str, area: &str, text: &str) {
        self.has(level, area, text);
        assert_eq!(self.of(level).count(), 1, "{self:?}");
    }

    /// Asserts that there is this finding, and no other but notes.
    pub(crate) fn only(&self, level: &str, area: &str, text: &str) {
        self.has(level, area, text);
        assert_eq!(self.problems(), 1, "{self:?}");
    }
}
