//! Charts of a report as SVG, one per subject, on a light background of their
//! own that also suits a dark page.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::metric::{Metric, factor, shown};
use crate::report::{Case, Line, REFERENCE, Report, Table};
use crate::subject::Chart;
use crate::{Error, Result};

const WIDTH: u32 = 860;
const CARD: RGBColor = RGBColor(0xf6, 0xf8, 0xfa);
const BORDER: RGBColor = RGBColor(0xd0, 0xd7, 0xde);
const TEXT: RGBColor = RGBColor(0x1f, 0x23, 0x28);
const FAINT: RGBColor = RGBColor(0x59, 0x63, 0x6e);

/// Height of the area above the bars, in pixels.
const HEAD: i32 = 68;
/// Height of a case's heading.
const HEADING: i32 = 30;
/// Distance between two bars.
const STEP: i32 = 26;
const BAR: i32 = 18;
/// Left edge of the bars, beside the peers' names.
const LEFT: i32 = 232;
/// Distance between the peers and the limits.
const APART: i32 = 10;
/// Width to the right of the longest bar, for its figure.
const RIGHT: i32 = 190;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<std::io::Error>>;

/// Draws each subject into a file of its name.
///
/// # Errors
/// A file cannot be written.
pub fn draw_all(report: &Report, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(format!("make {}", folder.display())))?;
    for table in report.subjects.iter().filter(|table| table.cases.iter().any(|case| !case.lines.is_empty())) {
        let mut svg = String::new();
        draw(table, &mut svg).map_err(|error| Error::Peer(format!("cannot draw {}: {error}", table.name)))?;
        crate::write(&folder.join(format!("{}.svg", table.name)), &svg)?;
    }
    Ok(())
}

/// Draws the chart of a subject, as SVG.
fn draw(table: &Table, svg: &mut String) -> Drawn {
    let height = match table.chart {
        Chart::Bars => {
            let bars: i32 = table.cases.iter().filter(|case| !case.lines.is_empty()).map(height).sum();
            HEAD + bars + 12
        }
        Chart::Lines(_) => 460,
    };
    let area = SVGBackend::with_string(svg, (WIDTH, height.unsigned_abs())).into_drawing_area();
    area.draw(&Rectangle::new([(0, 0), (WIDTH as i32 - 1, height - 1)], CARD.filled()))?;
    area.draw(&Rectangle::new([(0, 0), (WIDTH as i32 - 1, height - 1)], BORDER.stroke_width(1)))?;
    write(&area, table.title, (24, 26), 19, &TEXT, HPos::Left)?;
    let metric = table.columns[0];
    let better = if metric.less_is_better() { "less is better" } else { "more is better" };
    let subtitle = format!("{}, {better}; logarithmic", long(metric));
    match table.chart {
        Chart::Bars => {
            let note = format!("{subtitle}; in brackets: how many times better {} is", reference(table));
            write(&area, &note, (24, 48), 13, &FAINT, HPos::Left)?;
            bars(&area, table, metric)?;
        }
        Chart::Lines(axis) => {
            write(&area, &subtitle, (24, 48), 13, &FAINT, HPos::Left)?;
            lines(&area, table, metric, axis)?;
        }
    }
    area.present()
}

fn height(case: &Case) -> i32 {
    let limits = case.lines.iter().filter(|line| line.is_limit).count();
    let gap = if (1..case.lines.len()).contains(&limits) { APART } else { 0 };
    HEADING + case.lines.len() as i32 * STEP + gap + 8
}

/// Returns the title of the peer that all others are compared with.
fn reference(table: &Table) -> &str {
    let mut lines = table.cases.iter().flat_map(|case| &case.lines);
    lines.find(|line| line.peer == REFERENCE).map_or(REFERENCE, |line| &line.title)
}

fn bars(area: &Area<'_>, table: &Table, metric: Metric) -> Drawn {
    let (least, greatest) = range(table, metric);
    // End of a bar of zero length: a third of the smallest value.
    let floor = (least / 3.0).ln();
    let scale = f64::from(WIDTH as i32 - LEFT - RIGHT) / (greatest.ln() - floor).max(1e-9);
    let mut top = HEAD;
    for case in table.cases.iter().filter(|case| !case.lines.is_empty()) {
        write(area, &case.label, (24, top + HEADING / 2), 15, &TEXT, HPos::Left)?;
        let mut y = top + HEADING;
        let mut above_limits = false;
        for line in case.ranked(metric) {
            let Some(summary) = line.summary(metric) else { continue };
            y += if line.is_limit && above_limits { APART } else { 0 };
            above_limits = !line.is_limit;
            let middle = y + BAR / 2;
            let end = |value: f64| LEFT + ((value.max(least / 3.0).ln() - floor) * scale) as i32;
            let color = color(&line.peer);
            let shade = if line.is_limit { &FAINT } else { &TEXT };
            write(area, &line.title, (LEFT - 8, middle), 14, shade, HPos::Right)?;
            area.draw(&Rectangle::new([(LEFT, y), (end(summary.median), y + BAR)], color.filled()))?;
            if line.samples.len() > 1 {
                let whisker = vec![(end(summary.least), middle), (end(summary.greatest), middle)];
                area.draw(&PathElement::new(whisker, TEXT.stroke_width(2)))?;
            }
            write(area, &figure(case, line, metric), (end(summary.greatest) + 8, middle), 14, &TEXT, HPos::Left)?;
            y += STEP;
        }
        top += height(case);
    }
    Ok(())
}

fn figure(case: &Case, line: &Line, metric: Metric) -> String {
    let median = line.summary(metric).map_or(0.0, |summary| summary.median);
    let figure = format!("{} {}", shown(median), unit(metric));
    match case.advantage(line, metric) {
        Some(advantage) if line.peer != REFERENCE => format!("{figure} ({}×)", factor(advantage)),
        _ => figure,
    }
}

fn lines(area: &Area<'_>, table: &Table, metric: Metric, axis: &str) -> Drawn {
    let (least, greatest) = range(table, metric);
    let places = table.cases.iter().map(|case| case.place);
    let (first, last) = places.fold((f64::MAX, f64::MIN), |(first, last), place| (first.min(place), last.max(place)));
    let ticks: Vec<f64> = table.cases.iter().map(|case| case.place).collect();
    let tick = |place: &f64| {
        let case = table.cases.iter().find(|case| case.place == *place);
        case.map_or_else(|| short(*place), |case| case.label.trim_end_matches(" at once").to_owned())
    };
    let inner = area.margin(HEAD - 4, 14, 14, 20);
    let (plot, legend) = inner.split_horizontally(WIDTH as i32 - 34 - 236);
    let mut chart = ChartBuilder::on(&plot).x_label_area_size(46).y_label_area_size(86).build_cartesian_2d(
        (first..last).log_scale().with_key_points(ticks),
        (least / 1.5..greatest * 1.5).log_scale(),
    )?;
    let labels = ("sans-serif", 13, &FAINT).into_text_style(&plot);
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BORDER.stroke_width(1))
        .axis_style(FAINT.stroke_width(1))
        .label_style(labels.clone())
        .axis_desc_style(labels)
        .x_labels(8)
        .y_labels(8)
        .x_desc(axis)
        .y_desc(long(metric))
        .x_label_formatter(&tick)
        .y_label_formatter(&|value| short(*value))
        .draw()?;
    for (index, line) in shown_lines(table, metric).into_iter().enumerate() {
        let name = &line.peer;
        let points: Vec<(f64, f64)> = table.cases.iter().filter_map(|case| point(case, name, metric)).collect();
        let color = color(name);
        let width = if name == REFERENCE { 4 } else { 2 };
        chart.draw_series(LineSeries::new(points.clone(), color.stroke_width(width)))?;
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 4, color.filled())))?;
        let y = 16 + index as i32 * 24;
        legend.draw(&PathElement::new(vec![(14, y), (38, y)], color.stroke_width(width)))?;
        legend.draw(&Circle::new((26, y), 4, color.filled()))?;
        write(&legend, &line.title, (46, y), 14, if line.is_limit { &FAINT } else { &TEXT }, HPos::Left)?;
    }
    Ok(())
}

fn point(case: &Case, peer: &str, metric: Metric) -> Option<(f64, f64)> {
    let line = case.lines.iter().find(|line| line.peer == peer)?;
    line.summary(metric).map(|summary| (case.place, summary.median))
}

/// Returns a line of each peer that has a figure, ranked by the last case that
/// it has.
fn shown_lines(table: &Table, metric: Metric) -> Vec<&Line> {
    let mut shown: Vec<&Line> = Vec::new();
    for line in table.cases.iter().rev().flat_map(|case| case.ranked(metric)) {
        if !shown.iter().any(|other| other.peer == line.peer) {
            shown.push(line);
        }
    }
    shown
}

/// Returns the smallest and the greatest figure of all rounds; both above 0.
fn range(table: &Table, metric: Metric) -> (f64, f64) {
    let all = table.cases.iter().flat_map(|case| &case.lines).flat_map(|line| line.rounds(metric));
    let (least, greatest) = all
        .filter(|value| *value > 0.0)
        .fold((f64::MAX, f64::MIN_POSITIVE), |(least, greatest), value| (least.min(value), greatest.max(value)));
    if least <= greatest { (least, greatest) } else { (1.0, 2.0) }
}

fn write(area: &Area<'_>, text: &str, at: (i32, i32), size: u32, color: &RGBColor, side: HPos) -> Drawn {
    let style = ("sans-serif", size).into_text_style(area).color(color).pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))
}

fn long(metric: Metric) -> &'static str {
    match metric {
        Metric::P50 => "median time of a call, µs",
        Metric::P99 => "time of 99 in 100 calls, µs",
        Metric::PerSecond => "per second",
        Metric::MegabytesPerSecond => "payload, MB/s",
        Metric::StartMillis => "start to handshake, ms",
        other => other.label(),
    }
}

fn unit(metric: Metric) -> &'static str {
    match metric {
        Metric::P50 | Metric::P99 => "µs",
        Metric::PerSecond => "/s",
        Metric::MegabytesPerSecond => "MB/s",
        Metric::StartMillis => "ms",
        Metric::ResidentMib | Metric::ProgramMib => "MiB",
        Metric::CpuPerMillion
        | Metric::EngineCpuPerMillion
        | Metric::PluginCpuPerMillion
        | Metric::Waits
        | Metric::Threads
        | Metric::Descriptors => "",
    }
}

/// Formats an axis's number: `10000` as `10k`.
fn short(number: f64) -> String {
    match number {
        number if number >= 1e6 => format!("{}M", whole(number / 1e6)),
        number if number >= 1e3 => format!("{}k", whole(number / 1e3)),
        number => whole(number),
    }
}

fn whole(number: f64) -> String {
    shown(number).trim_end_matches(".00").trim_end_matches(".0").to_owned()
}

/// Returns a peer's color: ours blue, the limit grey, each other its own.
fn color(peer: &str) -> RGBColor {
    match peer {
        "raw" | "engine" => RGBColor(0x9a, 0xa4, 0xaf),
        "raw-best" | "frames" => RGBColor(0x57, 0x60, 0x6a),
        "uds" | "mirror" => RGBColor(0x09, 0x69, 0xda),
        "uds-msgpack" => RGBColor(0x54, 0xae, 0xff),
        "nng" => RGBColor(0xcf, 0x22, 0x2e),
        "zeromq" => RGBColor(0x1b, 0x7c, 0x83),
        "shm" => RGBColor(0xbf, 0x87, 0x00),
        "shm-msgpack" => RGBColor(0xd4, 0xa7, 0x2c),
        "mangos" => RGBColor(0x82, 0x50, 0xdf),
        "grpc" => RGBColor(0xbc, 0x4c, 0x00),
        "python-uds" => RGBColor(0x1a, 0x7f, 0x37),
        "go" => RGBColor(0x82, 0x50, 0xdf),
        "flight" => RGBColor(0xe1, 0x6f, 0x24),
        "python-nng" => RGBColor(0x9a, 0x9a, 0x1e),
        "python-module" => RGBColor(0x3f, 0x8f, 0x8f),
        "python-functions" => RGBColor(0x6f, 0xbf, 0xbf),
        "iceoryx2" => RGBColor(0x8c, 0x95, 0x9f),
        _ => RGBColor(0xbf, 0x39, 0x89),
    }
}

#[cfg(test)]
mod tests {
    use crate::report::tests::example;

    #[test]
    fn each_subject_is_a_file_with_its_figures() {
        let folder = tempfile::tempdir().unwrap();
        super::draw_all(&example(), folder.path()).unwrap();
        let bars = std::fs::read_to_string(folder.path().join("calls.svg")).unwrap();
        assert!(bars.starts_with("<svg") && bars.contains("50.0 µs (5.00×)") && bars.contains("less is better"));
        let lines = std::fs::read_to_string(folder.path().join("sizes.svg")).unwrap();
        assert!(lines.contains("message") && lines.contains("the peer nng") && lines.contains("1024 B"));
        let titles: Vec<_> = ["uds", "nng", "raw"].map(|peer| bars.find(&format!("the peer {peer}"))).into();
        assert!(titles.is_sorted() && titles.iter().all(Option::is_some), "{titles:?}");
    }
}
