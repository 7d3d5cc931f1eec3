//! stderr: messages, plugin output, and a line of counters below them.
//!
//! Nothing here fails: where stderr is closed or full, the output is dropped,
//! and the command continues.

use std::collections::VecDeque;
use std::fmt::{Arguments, Display};
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard};

use ekuiper_core::printable;
use ekuiper_core::sync::lock;

/// Maximum number of plugin lines held back until the symbols have started.
const HELD: usize = 1000;

/// Maximum length of an error's text, in bytes; longer texts are cut.
const LONGEST: usize = 8 << 10;

static CONSOLE: Mutex<Console> =
    Mutex::new(Console { counters: false, output: Output::Held(VecDeque::new()), diverted: None });

/// Maximum number of messages that a view shows, and that are told after it.
const SHOWN: usize = 200;
const TOLD_AGAIN: usize = 20;

struct Console {
    /// The line of counters is on the screen.
    counters: bool,
    output: Output,
    /// Messages go to a view.
    diverted: Option<Diverted>,
}

/// What was written while a view is on the terminal.
struct Diverted {
    /// stderr is that terminal, so that nothing can be written to it.
    is_terminal: bool,
    /// What the view has not taken yet.
    lines: VecDeque<String>,
    /// The command's own messages, which are told again after the view.
    own: VecDeque<String>,
    /// Number of earlier ones.
    forgotten: usize,
}

/// Adds a line, and drops the first one if there are more than `most`; returns
/// whether it has.
fn keep(lines: &mut VecDeque<String>, line: String, most: usize) -> bool {
    lines.push_back(line);
    lines.len() > most && lines.pop_front().is_some()
}

/// Where the lines of plugins go.
enum Output {
    /// Held back: a failed start reports the last of them with its reason.
    Held(VecDeque<String>),
    Shown,
    Hidden,
}

fn console() -> MutexGuard<'static, Console> {
    lock(&CONSOLE)
}

impl Console {
    fn write(&mut self, bytes: &[u8]) {
        self.clear();
        if let Some(diverted) = &mut self.diverted {
            for line in String::from_utf8_lossy(bytes).lines() {
                keep(&mut diverted.lines, line.to_owned(), SHOWN);
            }
            if diverted.is_terminal {
                return;
            }
        }
        let _ = std::io::stderr().write_all(bytes);
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.counters) {
            let _ = std::io::stderr().write_all(b"\r\x1b[2K");
        }
    }
}

/// Returns whether the terminal understands no control sequences, as far as
/// its name tells.
pub(crate) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Writes a text. It may quote files, arguments and plugin output: their
/// control characters never reach a terminal, and their further lines are
/// indented, so that none passes for one of the command's own.
pub(crate) fn line(text: Arguments<'_>) {
    let text = text.to_string();
    let text = printable::lines(&text).replace('\n', "\n  ");
    let mut console = console();
    if let Some(diverted) = &mut console.diverted {
        diverted.forgotten += usize::from(keep(&mut diverted.own, text.clone(), TOLD_AGAIN));
    }
    console.write(format!("{text}\n").as_bytes());
}

/// Keeps what is written for a view on the terminal, from now on.
pub(crate) fn divert() {
    let is_terminal = std::io::stderr().is_terminal();
    let (lines, own) = Default::default();
    console().diverted = Some(Diverted { is_terminal, lines, own, forgotten: 0 });
}

/// Moves what was written to `lines`, which remain the last ones.
pub(crate) fn diverted(lines: &mut VecDeque<String>) {
    let mut console = console();
    for line in console.diverted.iter_mut().flat_map(|diverted| diverted.lines.drain(..)) {
        keep(lines, line, SHOWN);
    }
}

/// Writes to stderr again, first the last of the command's own messages that
/// it has missed.
pub(crate) fn undivert() {
    let mut console = console();
    let Some(diverted) = console.diverted.take().filter(|diverted| diverted.is_terminal) else { return };
    if diverted.forgotten > 0 {
        console.write(format!("ekuiper-plugin: {} earlier messages are not shown\n", diverted.forgotten).as_bytes());
    }
    diverted.own.iter().for_each(|text| console.write(format!("{text}\n").as_bytes()));
}

/// Writes a message in the command's own name.
pub(crate) fn tell(text: impl Display) {
    let mut text = format!("ekuiper-plugin: {text}");
    if text.len() > LONGEST {
        let length = text.len();
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text += &format!("… ({length} bytes)");
    }
    line(format_args!("{text}"));
}

/// Draws the line of counters over the previous one.
pub(crate) fn counters(text: &str) {
    let mut console = console();
    if console.diverted.is_some() {
        return;
    }
    console.counters = true;
    let _ = std::io::stderr().write_all(format!("\r\x1b[2K{text}").as_bytes());
}

/// Returns whether the line of counters is on the screen.
pub(crate) fn has_counters() -> bool {
    console().counters
}

/// Removes the line of counters.
pub(crate) fn clear_counters() {
    console().clear();
}

/// Writes a plugin's line, once plugin output is shown.
pub(crate) fn plugin_line(plugin: &str, text: &str) {
    let mut console = console();
    let line = format!("[{plugin}] {text}\n");
    match &mut console.output {
        Output::Held(lines) => {
            if lines.len() == HELD {
                lines.pop_front();
            }
            lines.push_back(line);
        }
        Output::Shown => console.write(line.as_bytes()),
        Output::Hidden => {}
    }
}

/// Shows the plugin output held so far and from now on, once the symbols have
/// started.
pub(crate) fn show_plugin_output() {
    let mut console = console();
    if let Output::Held(lines) = &mut console.output {
        let lines = std::mem::take(lines);
        console.output = Output::Shown;
        lines.iter().for_each(|line| console.write(line.as_bytes()));
    }
}

/// Hides plugin output for good.
pub(crate) fn hide_plugin_output() {
    console().output = Output::Hidden;
}
