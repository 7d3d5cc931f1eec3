//! Figures of a measurement: their names, units, and which direction is better.

use serde::Serialize;

/// Kind of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Metric {
    /// Median latency of a call, in microseconds.
    P50,
    /// Latency that 99 of 100 calls do not exceed, in microseconds.
    P99,
    /// Calls, tuples, messages or rows per second, of all symbols together.
    PerSecond,
    /// Payload per second, in megabytes (10⁶ bytes).
    MegabytesPerSecond,
    /// CPU time of both processes, in seconds per million messages.
    CpuPerMillion,
    /// CPU time of a stock engine, in seconds per million messages.
    EngineCpuPerMillion,
    /// CPU time of a plugin under it, in seconds per million messages.
    PluginCpuPerMillion,
    /// Waits of threads of the two processes, per message.
    Waits,
    /// Threads of this process.
    Threads,
    /// Descriptors of this process.
    Descriptors,
    /// Time from start to handshake, in milliseconds.
    StartMillis,
    /// Resident memory after the handshake, in MiB.
    ResidentMib,
    /// Size of the executable, in MiB.
    ProgramMib,
}

impl Metric {
    /// Returns the column's heading, with the unit.
    pub fn label(self) -> &'static str {
        match self {
            Self::P50 => "p50 µs",
            Self::P99 => "p99 µs",
            Self::PerSecond => "per second",
            Self::MegabytesPerSecond => "MB/s",
            Self::CpuPerMillion => "CPU s per million",
            Self::EngineCpuPerMillion => "engine's CPU s per million",
            Self::PluginCpuPerMillion => "plugin's CPU s per million",
            Self::Waits => "waits per message",
            Self::Threads => "threads",
            Self::Descriptors => "descriptors",
            Self::StartMillis => "start ms",
            Self::ResidentMib => "resident MiB",
            Self::ProgramMib => "program MiB",
        }
    }

    /// Returns whether less is better.
    pub fn less_is_better(self) -> bool {
        !matches!(self, Self::PerSecond | Self::MegabytesPerSecond)
    }
}

/// Figures of one measurement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample(pub Vec<(Metric, f64)>);

impl Sample {
    /// Adds a figure.
    pub fn with(mut self, metric: Metric, value: f64) -> Self {
        self.0.push((metric, value));
        self
    }

    /// Returns a figure, if present.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.0.iter().find(|(of, _)| *of == metric).map(|(_, value)| *value)
    }
}

/// Formats a figure for people: about three significant digits.
pub fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => grouped(value.round() as i64),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        0.0 => "0".into(),
        _ => format!("{value:.2}"),
    }
}

/// Formats a factor for people: at least two significant digits.
pub fn factor(value: f64) -> String {
    match value {
        value if value <= 0.0 || value >= 0.1 => shown(value),
        value if value >= 0.01 => format!("{value:.3}"),
        value => format!("{value:.4}"),
    }
}

/// Formats `1234567` as `1,234,567`.
fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_as_many_digits_as_say_something() {
        let shown = [0.0, 0.123, 5.0, 12.34, 123.4, 1234567.8, -1500.0].map(shown);
        assert_eq!(shown, ["0", "0.12", "5.00", "12.3", "123", "1,234,568", "-1,500"]);
        assert_eq!([0.0, 0.0123, 0.00123, 0.5, 8.0].map(factor), ["0", "0.012", "0.0012", "0.50", "8.00"]);
    }
}
