//! How the view looks: a line of the command, a table of the stages and one of
//! the plugins, the last rows and messages, and the counts of all rows.

use std::time::Duration;

use ekuiper_core::printable;
use ekuiper_host::PluginState;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table};

use super::model::{Model, PluginLine, Stage};
use crate::progress::grouped;
use crate::rows::Rows;

/// A column of a table: its title, width and content, and the width of the
/// terminal from which on it is shown.
struct Column<T> {
    title: &'static str,
    width: u16,
    from: u16,
    is_number: bool,
    cell: fn(&T, &Look) -> Span<'static>,
}

/// The styles: of problems and of what is less important.
#[derive(Clone, Copy)]
struct Look {
    has_color: bool,
}

impl Look {
    fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn colored(self, color: Color) -> Style {
        if self.has_color { Style::new().fg(color) } else { Style::new() }
    }

    fn bad(self) -> Style {
        self.colored(Color::Red).add_modifier(Modifier::BOLD)
    }
}

const STAGES: [Column<Stage>; 9] = [
    Column { title: "", width: 9, from: 0, is_number: false, cell: |stage, look| Span::styled(stage.kind, look.dim()) },
    Column { title: "symbol", width: 20, from: 0, is_number: false, cell: |stage, _| Span::raw(plain(&stage.symbol)) },
    Column { title: "rows", width: 14, from: 0, is_number: true, cell: |stage, _| Span::raw(grouped(stage.count)) },
    Column {
        title: "per second",
        width: 12,
        from: 58,
        is_number: true,
        cell: |stage, look| Span::styled(stage.rate().map_or_else(String::new, grouped), look.bold()),
    },
    Column {
        title: "last 20 s",
        width: 20,
        from: 112,
        is_number: false,
        cell: |stage, look| Span::styled(spark(stage), look.colored(Color::Cyan)),
    },
    Column { title: "p50", width: 9, from: 90, is_number: true, cell: |stage, _| Span::raw(latency(stage, 0)) },
    Column { title: "p99", width: 9, from: 90, is_number: true, cell: |stage, _| Span::raw(latency(stage, 1)) },
    Column {
        title: "filtered",
        width: 10,
        from: 100,
        is_number: true,
        cell: |stage, _| Span::raw(if stage.filtered > 0 { grouped(stage.filtered) } else { String::new() }),
    },
    Column { title: "errors", width: 9, from: 70, is_number: true, cell: |stage, look| faults(stage.errors, *look) },
];

const PLUGINS: [Column<PluginLine>; 6] = [
    Column { title: "plugin", width: 30, from: 0, is_number: false, cell: |plugin, _| Span::raw(plain(&plugin.name)) },
    Column { title: "state", width: 12, from: 0, is_number: false, cell: |plugin, look| state(plugin, *look) },
    Column {
        title: "restarts",
        width: 9,
        from: 54,
        is_number: true,
        cell: |plugin, look| faults(plugin.restarts, *look),
    },
    Column {
        title: "process",
        width: 9,
        from: 66,
        is_number: true,
        cell: |plugin, _| Span::raw(plugin.pid.map_or_else(String::new, |pid| pid.to_string())),
    },
    Column {
        title: "memory",
        width: 11,
        from: 78,
        is_number: true,
        cell: |plugin, _| {
            Span::raw(plugin.resident.map_or_else(String::new, |bytes| format!("{:.1} MiB", bytes as f64 / 1048576.0)))
        },
    },
    Column {
        title: "up",
        width: 9,
        from: 90,
        is_number: true,
        cell: |plugin, _| Span::raw(plugin.uptime.map_or_else(String::new, clock)),
    },
];

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, has_color: bool) {
    let look = Look { has_color };
    let area = frame.area();
    let height = |lines: usize| Constraint::Length(u16::try_from(lines + 2).unwrap_or(u16::MAX));
    let rows = if model.rows.is_some() { Constraint::Min(3) } else { Constraint::Length(0) };
    let parts = Layout::vertical([
        Constraint::Length(2),
        height(model.stages.len()),
        height(model.plugins.len()),
        rows,
        Constraint::Min(3),
        Constraint::Length(1),
    ]);
    let [head, stages, plugins, rows, messages, foot] = parts.areas(area);
    frame.render_widget(Paragraph::new(title(model, look)), head);
    table(frame, stages, &STAGES, &model.stages, look);
    table(frame, plugins, &PLUGINS, &model.plugins, look);
    if let Some(lines) = &model.rows {
        pane(frame, rows, " rows for stdout ", lines.iter(), look);
    }
    pane(frame, messages, " messages ", model.messages.iter(), look);
    frame.render_widget(Paragraph::new(totals(model, look)), foot);
}

fn title(model: &Model, look: Look) -> Line<'static> {
    let state = if model.is_ending { "ending" } else { "running" };
    Line::from(vec![
        Span::styled(plain(&model.title), look.bold()),
        Span::raw("  "),
        Span::raw(clock(model.elapsed)),
        Span::raw("  "),
        Span::styled(state, look.colored(if model.is_ending { Color::Yellow } else { Color::Green })),
    ])
}

/// Draws a table with the columns that the terminal has room for.
fn table<T>(frame: &mut Frame<'_>, area: Rect, columns: &[Column<T>], lines: &[T], look: Look) {
    let columns: Vec<_> = columns.iter().filter(|column| area.width >= column.from).collect();
    let aligned = |column: &Column<T>, span: Span<'static>| {
        let line = Line::from(span);
        Cell::from(if column.is_number { line.right_aligned() } else { line })
    };
    let head = columns.iter().map(|column| aligned(column, Span::styled(column.title, look.dim())));
    let rows =
        lines.iter().map(|line| Row::new(columns.iter().map(|column| aligned(column, (column.cell)(line, &look)))));
    let widths = columns.iter().map(|column| Constraint::Length(column.width));
    frame.render_widget(Table::new(rows, widths).header(Row::new(head)), area);
}

/// Draws the last of these lines that there is room for.
fn pane<'l>(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &'static str,
    lines: impl ExactSizeIterator<Item = &'l String>,
    look: Look,
) {
    let room = usize::from(area.height.saturating_sub(1));
    let hidden = lines.len().saturating_sub(room);
    let lines: Vec<_> = lines.skip(hidden).map(|line| Line::from(plain(line))).collect();
    let block = Block::new().borders(Borders::TOP).border_style(look.dim()).title(title);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn totals(model: &Model, look: Look) -> Line<'static> {
    let Rows { delivered, failed, unknown, filtered } = model.rows_by_state;
    let mut parts = vec![Span::raw(format!("delivered {}", grouped(delivered)))];
    let style = if failed > 0 { look.bad() } else { Style::new() };
    parts.push(Span::styled(format!(", failed {}", grouped(failed)), style));
    for (count, name) in [(unknown, "under way"), (filtered, "filtered"), (model.waiting, "in the window")] {
        if count > 0 {
            parts.push(Span::raw(format!(", {name} {}", grouped(count))));
        }
    }
    let keys = if model.is_ending { "  q again: at once" } else { "  q: end" };
    parts.push(Span::styled(keys, look.dim()));
    Line::from(parts)
}

/// A number of what should not be.
fn faults(number: u64, look: Look) -> Span<'static> {
    match number {
        0 => Span::styled("0", look.dim()),
        number => Span::styled(grouped(number), look.bad()),
    }
}

fn state(plugin: &PluginLine, look: Look) -> Span<'static> {
    let (text, style) = match plugin.state {
        PluginState::Idle => ("idle", look.dim()),
        PluginState::Starting => ("starting", look.colored(Color::Yellow)),
        PluginState::Running => ("running", look.colored(Color::Green)),
        PluginState::Updating => ("updating", look.colored(Color::Yellow)),
        PluginState::BackingOff => ("restarting", look.bad()),
        PluginState::Broken => ("broken", look.bad()),
        PluginState::Stopping => ("stopping", look.colored(Color::Yellow)),
        PluginState::Stopped => ("stopped", look.dim()),
        _ => ("", Style::new()),
    };
    Span::styled(text, style)
}

/// The rates as a line of bars, the highest as high as the line.
fn spark(stage: &Stage) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const SHOWN: usize = 20;
    let shown = stage.rates.iter().skip(stage.rates.len().saturating_sub(SHOWN));
    let most = stage.rates.iter().copied().max().unwrap_or(0).max(1);
    shown.map(|rate| BARS[(*rate as u128 * 7 / u128::from(most)) as usize]).collect()
}

fn latency(stage: &Stage, which: usize) -> String {
    stage.latency.map_or_else(String::new, |latency| short(latency[which]))
}

/// Formats a latency with three digits: `1.23 ms`.
fn short(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    let (number, unit) = match micros {
        ..1e3 => (micros, "µs"),
        1e3..1e6 => (micros / 1e3, "ms"),
        _ => (micros / 1e6, "s"),
    };
    let decimals = if number < 10.0 { 2 } else { usize::from(number < 100.0) };
    format!("{number:.decimals$} {unit}")
}

/// Formats a time as hours, minutes and seconds.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Control characters of plugins and files do not reach the terminal.
fn plain(text: &str) -> String {
    printable::one_line(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{FunctionSnapshot, SinkSnapshot, Snapshot, SourceSnapshot};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::collections::VecDeque;
    use std::time::Instant;

    fn model() -> Model {
        let start = Instant::now();
        let mut model = Model::new("run quick.toml", start);
        let counts = |factor: u64| Snapshot {
            sources: vec![SourceSnapshot { symbol: "random".into(), read: 1_000 * factor, errors: 0 }],
            functions: vec![FunctionSnapshot { symbol: "revert".into(), calls: 900 * factor, failed: 3, filtered: 97 }],
            sinks: vec![SinkSnapshot {
                symbol: "file".into(),
                requires_ack: true,
                messages: Rows { delivered: 890 * factor, ..Rows::default() },
            }],
            rows: Rows { delivered: 890 * factor, failed: 3, unknown: 10, filtered: 97 },
            ..Snapshot::default()
        };
        for second in 0..30 {
            model.update(start + Duration::from_millis(1000 * second), &counts(second), Vec::new());
        }
        model.plugins.push(PluginLine {
            name: "mirror".into(),
            state: PluginState::BackingOff,
            pid: Some(4711),
            restarts: 2,
            resident: Some(3 << 20),
            uptime: Some(Duration::from_secs(3661)),
        });
        model.stages[1].latency = Some([Duration::from_nanos(12_340), Duration::from_micros(1_500)]);
        model.messages = (0..100).map(|number| format!("[mirror] line {number}")).collect();
        model.messages.push_back("\u{1b}[2Jnot cleared".into());
        model
    }

    /// What is on a terminal of this size, one string a line.
    fn screen(model: &Model, width: u16, height: u16, has_color: bool) -> (Vec<String>, bool) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model, has_color)).unwrap();
        let buffer = terminal.backend().buffer();
        let is_colored = buffer.content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        ((0..height).map(line).collect(), is_colored)
    }

    #[test]
    fn everything_is_on_a_wide_terminal() {
        let (lines, is_colored) = screen(&model(), 120, 30, true);
        let text = lines.join("\n");
        assert!(is_colored && lines[0].starts_with("run quick.toml  00:00:29  running"), "{text}");
        for part in ["random", "29,000", "1,000", "revert", "12.3 µs", "1.50 ms", "file", "25,810", "███"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let plugin = lines.iter().find(|line| line.starts_with("mirror")).unwrap();
        for part in ["restarting", " 2 ", "4711", "3.0 MiB", "01:01:01"] {
            assert!(plugin.contains(part), "{part} in {plugin}");
        }
        assert!(text.contains("[mirror] line 99") && !text.contains("[mirror] line 0\n"), "{text}");
        assert!(text.contains("\\u{1b}[2Jnot cleared"), "{text}");
        assert!(lines[29].starts_with("delivered 25,810, failed 3, under way 10, filtered 97  q: end"), "{text}");
    }

    #[test]
    fn without_color_nothing_is_colored() {
        assert!(!screen(&model(), 120, 30, false).1);
    }

    #[test]
    fn a_small_terminal_has_what_matters_most_and_none_is_too_small() {
        let (lines, _) = screen(&model(), 50, 20, true);
        let text = lines.join("\n");
        for part in ["random", "29,000", "mirror", "restarting", "delivered 25,810"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains("p99"), "{text}");
        let mut model = model();
        model.rows = Some(VecDeque::from(["{\"a\":1}".to_owned()]));
        assert!(screen(&model, 120, 30, true).0.join("\n").contains("{\"a\":1}"));
        for (width, height) in [(1, 1), (1, 60), (200, 1), (3, 3), (40, 5), (400, 100)] {
            screen(&model, width, height, true);
        }
    }
}
