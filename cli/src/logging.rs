//! Logs to stderr.

use tracing::level_filters::LevelFilter;

use crate::args::LogLevel;

impl LogLevel {
    /// As the launch options spell it.
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

pub(crate) fn init(level: LogLevel) {
    tracing_subscriber::fmt().with_max_level(level.filter()).with_writer(std::io::stderr).with_ansi(false).init();
}
