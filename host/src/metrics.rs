//! The plugins' figures in Prometheus' text format, for a server that an engine
//! has.
//!
//! Counters are those of a plugin since the host has it, and of each of its
//! symbols, for all rules together: none goes back while the host lives, not
//! when a handle is closed, nor over a crash or an update. A plugin that is
//! removed takes its figures with it. [`Host::health`] has them for each rule.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use crate::health::{Latency, SymbolTotals};
use crate::host::Host;
use crate::status::{PluginState, Status};

/// Content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the histograms' buckets, in seconds: from a call over shared
/// processors to one that waits for a restart.
const BOUNDS: [f64; 16] = [5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 1.0, 5.0];

/// Returns the figures of a host's plugins, and of their symbols that were used,
/// at this moment. Disturbs no call, as [`Host::health`].
///
/// ```no_run
/// # fn main() -> ekuiper_host::Result<()> {
/// let host = ekuiper_host::Host::builder().plugins_dir("plugins").build()?;
/// // The answer to `GET /metrics`, of this content type.
/// let (kind, text) = (ekuiper_host::metrics::CONTENT_TYPE, ekuiper_host::metrics::text(&host));
/// # Ok(())
/// # }
/// ```
pub fn text(host: &Host) -> String {
    of(&host.health())
}

fn of(plugins: &[Status]) -> String {
    let mut page = Page(String::new());
    page.plugins(plugins).and_then(|()| page.symbols(plugins)).expect("a String takes everything");
    page.0
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n")
    }

    /// Writes the values of a name, each after its labels.
    fn values<V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        values: impl Iterator<Item = (String, V)>,
    ) -> fmt::Result {
        self.head(name, kind, help)?;
        for (labels, value) in values {
            writeln!(self.0, "{name}{{{labels}}} {value}")?;
        }
        Ok(())
    }

    fn plugins(&mut self, plugins: &[Status]) -> fmt::Result {
        let help = "1 for the state that the plugin is in, 0 for the others.";
        let states = plugins.iter().flat_map(|plugin| {
            PluginState::ALL.map(|state| {
                (labels(&[("plugin", &plugin.plugin), ("state", state.name())]), u8::from(plugin.state == state))
            })
        });
        self.values("ekuiper_plugin_state", "gauge", help, states)?;
        let versions =
            plugins.iter().map(|plugin| (labels(&[("plugin", &plugin.plugin), ("version", &plugin.version)]), 1));
        self.values("ekuiper_plugin_info", "gauge", "1, with the plugin's version.", versions)?;
        self.of_plugins(plugins, "restarts_total", "counter", "Restarts after a crash.", |plugin| {
            Some((plugin.restarts + plugin.member_totals.restarts) as f64)
        })?;
        self.of_plugins(
            plugins,
            "crashes_total",
            "counter",
            "Processes that were ready and ended unexpectedly.",
            |plugin| Some((plugin.crashes + plugin.member_totals.crashes) as f64),
        )?;
        self.of_plugins(plugins, "processes_total", "counter", "Processes that were started.", |plugin| {
            Some((plugin.generation + plugin.member_totals.processes) as f64)
        })?;
        self.of_plugins(
            plugins,
            "uptime_seconds",
            "gauge",
            "Time since the handshake of the first process.",
            |plugin| plugin.uptime.map(|uptime| uptime.as_secs_f64()),
        )?;
        self.of_plugins(
            plugins,
            "resident_bytes",
            "gauge",
            "Resident memory of its processes and their descendants.",
            |plugin| {
                let members = plugin.members.iter().map(|member| member.resident);
                members.chain([plugin.resident]).flatten().reduce(|one, other| one + other).map(|bytes| bytes as f64)
            },
        )?;
        self.of_plugins(plugins, "members", "gauge", "Further processes of function pools that are alive.", |plugin| {
            Some(plugin.members.iter().filter(|member| member.pid.is_some()).count() as f64)
        })
    }

    fn of_plugins(
        &mut self,
        plugins: &[Status],
        name: &str,
        kind: &str,
        help: &str,
        value: impl Fn(&Status) -> Option<f64>,
    ) -> fmt::Result {
        let values = plugins.iter().filter_map(|plugin| Some((labels(&[("plugin", &plugin.plugin)]), value(plugin)?)));
        self.values(&format!("ekuiper_plugin_{name}"), kind, help, values)
    }

    fn symbols(&mut self, plugins: &[Status]) -> fmt::Result {
        let count = |count: fn(&SymbolTotals) -> u64| move |symbol: &SymbolTotals| Some(count(symbol) as f64);
        self.of_symbols(
            plugins,
            "open",
            "gauge",
            "Rules, operators and instances that use it.",
            count(|symbol| symbol.open),
        )?;
        self.of_symbols(
            plugins,
            "rows_out_total",
            "counter",
            "Rows to the symbol: calls, and messages of sinks.",
            count(|symbol| symbol.rows_out),
        )?;
        self.of_symbols(
            plugins,
            "rows_in_total",
            "counter",
            "Rows from the symbol: answers, tuples, and messages that were collected.",
            count(|symbol| symbol.rows_in),
        )?;
        self.of_symbols(
            plugins,
            "lost_total",
            "counter",
            "Messages that will never be known to have been collected.",
            count(|symbol| symbol.lost),
        )?;
        self.of_symbols(plugins, "queue", "gauge", "Rows that wait.", |symbol| symbol.queue.map(|rows| rows as f64))?;
        self.of_symbols(plugins, "lag_seconds", "gauge", "Age of the oldest row that waits.", |symbol| {
            symbol.lag.map(|lag| lag.as_secs_f64())
        })?;
        self.errors(plugins)?;
        self.latencies(plugins)
    }

    fn of_symbols(
        &mut self,
        plugins: &[Status],
        name: &str,
        kind: &str,
        help: &str,
        value: impl Fn(&SymbolTotals) -> Option<f64>,
    ) -> fmt::Result {
        let values = symbols(plugins).filter_map(|(plugin, symbol)| Some((of_symbol(plugin, symbol), value(symbol)?)));
        self.values(&format!("ekuiper_symbol_{name}"), kind, help, values)
    }

    fn errors(&mut self, plugins: &[Status]) -> fmt::Result {
        let errors = symbols(plugins).flat_map(|(plugin, symbol)| {
            let errors = &symbol.errors;
            let reasons = [
                ("symbol", errors.symbol),
                ("timeout", errors.timeouts),
                ("unknown_outcome", errors.unknown_outcomes),
                ("other", errors.others),
            ];
            reasons.map(|(reason, count)| (format!("{},reason=\"{reason}\"", of_symbol(plugin, symbol)), count))
        });
        self.values("ekuiper_symbol_errors_total", "counter", "Rows that failed, by the reason.", errors)
    }

    fn latencies(&mut self, plugins: &[Status]) -> fmt::Result {
        let name = "ekuiper_symbol_latency_seconds";
        self.head(name, "histogram", "Time from a call to its answer, or from a message to its acknowledgement.")?;
        for (plugin, symbol) in symbols(plugins) {
            let Some(latency) = &symbol.latency else { continue };
            let labels = of_symbol(plugin, symbol);
            for bound in BOUNDS {
                let within = within(latency, Duration::from_secs_f64(bound));
                writeln!(self.0, "{name}_bucket{{{labels},le=\"{bound}\"}} {within}")?;
            }
            let count = latency.count();
            writeln!(self.0, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
            writeln!(self.0, "{name}_sum{{{labels}}} {}", latency.sum().as_secs_f64())?;
            writeln!(self.0, "{name}_count{{{labels}}} {count}")?;
        }
        Ok(())
    }
}

/// Returns how many of the times are within a bound, as far as the histogram
/// tells.
fn within(latency: &Latency, bound: Duration) -> u64 {
    latency.buckets().filter(|(end, _)| *end <= bound).map(|(_, count)| count).sum()
}

fn symbols(plugins: &[Status]) -> impl Iterator<Item = (&str, &SymbolTotals)> {
    plugins.iter().flat_map(|plugin| plugin.totals.iter().map(|symbol| (plugin.plugin.as_str(), symbol)))
}

fn of_symbol(plugin: &str, symbol: &SymbolTotals) -> String {
    let kind = symbol.kind.to_string();
    labels(&[("plugin", plugin), ("kind", &kind), ("symbol", &symbol.name)])
}

/// Returns labels, with their values escaped as the format wants it.
fn labels(labels: &[(&str, &str)]) -> String {
    let escaped = |value: &str| value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use std::sync::Arc;
    use std::time::Instant;

    use ekuiper_core::message::{Meta, SymbolKind};

    use super::*;
    use crate::Host;
    use crate::health::ledger::Ledger;
    use crate::health::vitals::Place;

    /// Reads the labels of a line: names and values.
    fn labels_of(line: &str) -> Vec<(String, String)> {
        let (_, mut rest) = line.split_once('{').unwrap();
        let mut labels = Vec::new();
        while !rest.starts_with('}') {
            let (name, value) = rest.split_once("=\"").unwrap();
            let (mut text, mut letters) = (String::new(), value.char_indices());
            let end = loop {
                match letters.next().unwrap() {
                    (_, '\\') => text.push(match letters.next().unwrap().1 {
                        'n' => '\n',
                        letter => letter,
                    }),
                    (end, '"') => break end,
                    (_, letter) => text.push(letter),
                }
            };
            labels.push((name.to_owned(), text));
            rest = value[end + 1..].trim_start_matches(',');
        }
        labels
    }

    /// Asks Prometheus' own check, where it is installed.
    #[allow(clippy::disallowed_methods)] // it ends with its input
    fn assert_accepted(text: &str) {
        let mut check = Command::new("promtool");
        check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match check.spawn() {
            Ok(mut check) => {
                check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
                let checked = check.wait_with_output().unwrap();
                assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
            }
            Err(error) => eprintln!("SKIPPED: the check of the figures by Prometheus: promtool: {error}"),
        }
    }

    #[test]
    fn names_may_be_anything() {
        let mut status = status();
        let ledger = Arc::new(Ledger::default());
        let names =
            ["plain", "q\"u", "back\\slash", "\\n", "new\nline", "ü 漢 🦀", "}", "a=\"b\",c", " ", "\r\t\u{7f}", ""];
        for name in names {
            let place = Place { kind: SymbolKind::Function, name: name.to_owned(), meta: Meta::default() };
            ledger.function(place, 0).begin(1, Instant::now()).end(&Ok(()));
        }
        status.plugin = "na\"me\\\n".to_owned();
        status.totals = ledger.totals();
        let text = of(&[status]);
        let calls = "ekuiper_symbol_rows_out_total{";
        let found: Vec<_> = text.lines().filter(|line| line.starts_with(calls)).map(labels_of).collect();
        assert_eq!(found.len(), names.len(), "{text}");
        for name in names {
            let [plugin, kind, symbol] = [("plugin", "na\"me\\\n"), ("kind", "function"), ("symbol", name)]
                .map(|(name, value)| (name.into(), value.into()));
            assert!(found.contains(&vec![plugin, kind, symbol]), "{name:?} in {found:?}");
        }
        assert_accepted(&text);
    }

    #[test]
    fn a_thousand_symbols_are_all_there() {
        let mut status = status();
        let ledger = Arc::new(Ledger::default());
        for number in 0..1000 {
            let place = Place { kind: SymbolKind::Function, name: format!("f{number}"), meta: Meta::default() };
            ledger.function(place, 0).begin(1, Instant::now()).end(&Ok(()));
        }
        status.totals = ledger.totals();
        let text = of(&[status]);
        let count = |part: &str| text.lines().filter(|line| line.starts_with(part)).count();
        assert_eq!(count("ekuiper_symbol_rows_in_total{"), 1000);
        assert_eq!(count("ekuiper_symbol_latency_seconds_bucket{"), 1000 * (BOUNDS.len() + 1));
        assert_eq!(count("# TYPE ekuiper_symbol_rows_in_total "), 1);
    }

    /// The status of a plugin that was never started.
    fn status() -> Status {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("p.json"), r#"{"language":"go","executable":"x","functions":["f"]}"#).unwrap();
        let host = Host::builder().plugin(path).build().unwrap();
        host.health().remove(0)
    }
}
