//! Logging to stderr, and the output of plugins.

use std::fmt::{Debug, Write};
use std::io;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::LogLevel;
use crate::console;

/// `tracing` target of the lines that plugins write.
const PLUGIN: &str = "plugin";

impl LogLevel {
    /// Returns the level's name in the launch options.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

/// Begins logging; a server tells of plugins by that.
pub(crate) fn init(level: LogLevel, is_server: bool) {
    if matches!(level, LogLevel::Error) {
        console::hide_plugin_output();
    }
    let level = level.filter();
    let events = match level {
        LevelFilter::ERROR => LevelFilter::OFF,
        level if is_server => level.max(LevelFilter::INFO),
        // Other commands report the events of plugins themselves.
        LevelFilter::WARN => LevelFilter::OFF,
        level => level,
    };
    let filter = Targets::new().with_default(level).with_target("ekuiper_host::event", events);
    let log = tracing_subscriber::fmt::layer()
        .with_writer(|| Stderr)
        .with_ansi(false)
        // Reporting them would panic where stderr is closed.
        .log_internal_errors(false)
        .with_filter(filter.with_target(PLUGIN, LevelFilter::OFF));
    // At each level: what a plugin writes is shown, or hidden, as a whole.
    let output = PluginOutput.with_filter(Targets::new().with_target(PLUGIN, LevelFilter::TRACE));
    tracing_subscriber::registry().with(log).with(output).init();
}

/// Writer of one message at a time, which never fails.
struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        console::line(format_args!("{}", String::from_utf8_lossy(bytes).trim_end()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Layer that shows the lines of plugins.
struct PluginOutput;

impl<S: Subscriber> Layer<S> for PluginOutput {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        console::plugin_line(&line.plugin, &line.text);
    }
}

#[derive(Default)]
struct Line {
    plugin: String,
    text: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "plugin" {
            value.clone_into(&mut self.plugin);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // Writing to a `String` does not fail.
            let _ = write!(self.text, "{value:?}");
        }
    }
}
