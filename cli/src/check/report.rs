//! What a check has found, and how it is printed: for people, or as JSON lines.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use ekuiper_core::printable;
use serde::Serialize;
use serde_json::json;

use crate::error::Result;
use crate::output;
use crate::progress::counted;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// eKuiper refuses the plugin, or a part of it does not work anywhere.
    Error,
    /// A part does not work in some places, or probably not as meant.
    Warning,
    /// Something that was not tried, or that is good to know.
    Note,
}

/// The part of a plugin that a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Area {
    Archive,
    Manifest,
    Files,
    Program,
    Images,
    Install,
    Start,
    Symbols,
    End,
}

impl Area {
    const fn name(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Manifest => "manifest",
            Self::Files => "files",
            Self::Program => "program",
            Self::Images => "images",
            Self::Install => "install",
            Self::Start => "start",
            Self::Symbols => "symbols",
            Self::End => "end",
        }
    }
}

/// Something that is wrong, or that an author should know.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    level: Level,
    area: Area,
    /// The file, field or symbol.
    subject: String,
    /// What is wrong.
    text: String,
    /// What to do; empty if the text says it.
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

impl Finding {
    /// What is wrong and what to do, as a part of a sentence.
    fn sentence(&self) -> String {
        let subject = if self.subject.is_empty() { String::new() } else { format!("{}: ", self.subject) };
        let advice = if self.advice.is_empty() { String::new() } else { format!("; {}", self.advice) };
        format!("{subject}{}{advice}", self.text)
    }
}

/// Maximum length of a finding's text, in bytes; longer texts are cut.
const LONGEST: usize = 4 << 10;

/// The report of one plugin.
#[derive(Debug, Default)]
pub(crate) struct Report {
    path: PathBuf,
    plugin: String,
    version: String,
    findings: Vec<Finding>,
    /// What was found to be as it should be, in a few words for each part.
    facts: Vec<(Area, String)>,
    /// eKuiper's images in which the program runs, as `slim linux/amd64`.
    pub(crate) images: Option<Vec<String>>,
}

impl Report {
    pub(crate) fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), ..Self::default() }
    }

    /// Sets the plugin's name and version, once they are known.
    pub(crate) fn set_plugin(&mut self, name: &str, version: &str) {
        (self.plugin, self.version) = (name.to_owned(), version.to_owned());
    }

    pub(crate) fn error(&mut self, area: Area, subject: &str, text: impl Into<String>, advice: &str) {
        self.add(Level::Error, area, subject, text, advice);
    }

    pub(crate) fn warning(&mut self, area: Area, subject: &str, text: impl Into<String>, advice: &str) {
        self.add(Level::Warning, area, subject, text, advice);
    }

    pub(crate) fn note(&mut self, area: Area, subject: &str, text: impl Into<String>, advice: &str) {
        self.add(Level::Note, area, subject, text, advice);
    }

    pub(crate) fn add(&mut self, level: Level, area: Area, subject: &str, text: impl Into<String>, advice: &str) {
        let mut text = text.into();
        if text.len() > LONGEST {
            let length = text.len();
            let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end));
            text.truncate(end.unwrap_or(0));
            text += &format!("… ({length} bytes)");
        }
        self.findings.push(Finding { level, area, subject: subject.into(), text, advice: advice.into() });
    }

    pub(crate) fn fact(&mut self, area: Area, text: impl Into<String>) {
        self.facts.push((area, text.into()));
    }

    fn count(&self, level: Level) -> u64 {
        self.findings.iter().filter(|finding| finding.level == level).count() as u64
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.count(Level::Error) > 0
    }

    /// The number of errors and warnings so far.
    pub(crate) fn problems(&self) -> u64 {
        self.count(Level::Error) + self.count(Level::Warning)
    }

    /// The first error in a few words, if there is one, and the number of further
    /// ones.
    pub(crate) fn first_error(&self) -> Option<(String, u64)> {
        let first = self.findings.iter().find(|finding| finding.level == Level::Error)?;
        Some((first.sentence(), self.count(Level::Error) - 1))
    }

    /// The warnings in a few words, with or without those about eKuiper's images.
    pub(crate) fn warnings(&self, with_images: bool) -> impl Iterator<Item = String> {
        let is_wanted =
            move |finding: &&Finding| finding.level == Level::Warning && (with_images || finding.area != Area::Images);
        self.findings.iter().filter(is_wanted).map(Finding::sentence)
    }

    /// The findings in short, for tests.
    #[cfg(test)]
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |finding: &Finding| {
            let level = format!("{:?}", finding.level).to_lowercase();
            format!("{level}: {}: {}", finding.subject, finding.text)
        };
        self.findings.iter().map(line).collect()
    }

    /// Writes the report to stdout.
    pub(crate) fn print(mut self, as_json: bool) -> Result<()> {
        self.sort();
        if as_json {
            return self.print_json();
        }
        let has_colours =
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
        output::line(self.text(has_colours).trim_end()).map(|_| ())
    }

    /// Sorts the findings; of one kind, what was found first stays first.
    fn sort(&mut self) {
        self.findings.sort_by_key(|finding| (finding.level, finding.area));
    }

    fn print_json(&self) -> Result<()> {
        for finding in &self.findings {
            output::line(json!(finding))?;
        }
        let facts: serde_json::Map<_, _> =
            self.facts.iter().map(|(area, text)| (area.name().to_owned(), text.as_str().into())).collect();
        let summary = json!({
            "plugin": self.plugin, "version": self.version, "path": self.path, "images": self.images, "facts": facts,
            "errors": self.count(Level::Error), "warnings": self.count(Level::Warning),
            "notes": self.count(Level::Note),
        });
        output::line(summary).map(|_| ())
    }

    /// The report for people.
    fn text(&self, has_colours: bool) -> String {
        let mut text = String::new();
        let paint = |code: &str, words: &str| match has_colours {
            true => format!("\x1b[{code}m{words}\x1b[0m"),
            false => words.to_owned(),
        };
        let name = [self.plugin.as_str(), self.version.as_str()].join(" ");
        let head = match name.trim() {
            "" => self.path.display().to_string(),
            name => format!("{name}: {}", self.path.display()),
        };
        let _ = writeln!(text, "{}\n", paint("1", &printable::excerpt(&head)));
        for (area, fact) in &self.facts {
            let _ = writeln!(text, "  {:<9} {}", area.name(), indented(fact, 12));
        }
        if !self.facts.is_empty() {
            text.push('\n');
        }
        for finding in &self.findings {
            let (level, code) = match finding.level {
                Level::Error => ("error", "1;31"),
                Level::Warning => ("warning", "1;33"),
                Level::Note => ("note", "1;36"),
            };
            let subject = match finding.subject.as_str() {
                "" => String::new(),
                subject => format!("{}: ", printable::excerpt(subject)),
            };
            let level = paint(code, level);
            let _ = writeln!(text, "{level}: {}: {subject}{}", finding.area.name(), indented(&finding.text, 4));
            if !finding.advice.is_empty() {
                let _ = writeln!(text, "    → {}", indented(&finding.advice, 6));
            }
        }
        if !self.findings.is_empty() {
            text.push('\n');
        }
        let counts = [("error", Level::Error), ("warning", Level::Warning), ("note", Level::Note)];
        let counts = counts.map(|(word, level)| counted(self.count(level), word)).join(", ");
        let is_good = !self.has_errors();
        let _ = writeln!(text, "{} {counts}", if is_good { paint("1;32", "ok:") } else { paint("1;31", "failed:") });
        text
    }
}

/// Texts of others neither control the terminal nor look like another finding.
fn indented(text: &str, by: usize) -> String {
    printable::lines(text.trim_end()).replace('\n', &format!("\n{:by$}", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_grouped_and_forges_nothing() {
        let mut report = Report::of(Path::new("a\u{1b}[2J.zip"));
        report.set_plugin("p", "v1");
        report.fact(Area::Archive, "3 entries");
        report.note(Area::Start, "", "all is well", "");
        report.error(Area::Symbols, "function f", "it said\nerror: manifest: a lie", "do\u{202e}this");
        report.sort();
        let text = report.text(false);
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
        assert!(text.contains("\nerror: symbols: function f: it said\n    error: manifest: a lie\n    → do"), "{text}");
        assert!(text.find("error: ") < text.find("note: "), "{text}");
        assert!(text.ends_with("failed: 1 error, 0 warnings, 1 note\n"), "{text}");
        assert!(report.text(true).contains("\u{1b}[1;31merror\u{1b}[0m"));
    }
}
