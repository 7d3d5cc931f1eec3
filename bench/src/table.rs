//! A report as text: Markdown tables that also align in a terminal.

use std::fmt::{self, Write};

use crate::metric::{Metric, factor, shown};
use crate::report::{Case, Line, REFERENCE, Report, Table};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{}, {} processors, Linux {}, load before {}; {} round(s) of {} s each\n",
            machine.processor,
            machine.processors,
            machine.kernel,
            machine.load_before,
            self.rounds,
            shown(self.seconds),
        )?;
        self.peers.iter().try_for_each(|peer| writeln!(f, "- {}: {}", peer.name, peer.about))?;
        self.skipped.iter().try_for_each(|peer| writeln!(f, "- SKIPPED {}: {}", peer.name, peer.about))?;
        writeln!(
            f,
            "\nEach figure: the median of the rounds, ± half their range, and how many times better {REFERENCE} is."
        )?;
        self.subjects.iter().try_for_each(|table| write!(f, "\n{}", text(table)))?;
        self.failures.iter().try_for_each(|failure| writeln!(f, "\nFAILED: {failure}"))
    }
}

fn text(table: &Table) -> String {
    let mut text = format!("## {} (`{}`)\n\n", table.title, table.name);
    let has_cases = table.cases.len() > 1;
    let mut rows = vec![head(table, has_cases)];
    for case in &table.cases {
        rows.extend(case.lines.iter().map(|line| row(table, case, line, has_cases)));
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    // Names are left-aligned, figures right-aligned.
    let names = 1 + usize::from(has_cases);
    for (index, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column < names { write!(text, "| {cell:<width$} ") } else { write!(text, "| {cell:>width$} ") };
        }
        text += "|\n";
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let rule = "-".repeat(width + 1);
                let _ = if column < names { write!(text, "|{rule}-") } else { write!(text, "|{rule}:") };
            }
            text += "|\n";
        }
    }
    text
}

fn head(table: &Table, has_cases: bool) -> Vec<String> {
    let names = if has_cases { vec!["case", "peer"] } else { vec!["peer"] };
    names.into_iter().chain(table.columns.iter().map(|metric| metric.label())).map(str::to_owned).collect()
}

fn row(table: &Table, case: &Case, line: &Line, has_cases: bool) -> Vec<String> {
    let names = if has_cases { vec![case.label.clone(), line.peer.clone()] } else { vec![line.peer.clone()] };
    names.into_iter().chain(table.columns.iter().map(|metric| cell(case, line, *metric))).collect()
}

fn cell(case: &Case, line: &Line, metric: Metric) -> String {
    let Some(summary) = line.summary(metric) else { return "–".into() };
    let mut cell = shown(summary.median);
    // Often close to zero, where spread and factor mean nothing.
    if metric == Metric::Waits {
        return cell;
    }
    if line.samples.len() > 1 {
        let _ = write!(cell, " ±{:.0}%", summary.spread());
    }
    if let Some(advantage) = case.advantage(line, metric)
        && line.peer != REFERENCE
    {
        let _ = write!(cell, " ({}×)", factor(advantage));
    }
    cell
}

#[cfg(test)]
mod tests {
    use crate::report::tests::example;

    #[test]
    fn a_table_lines_up() {
        let text = example().to_string();
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 2 * 8, "{text}");
        assert!(rows.iter().all(|row| row.chars().count() == rows[0].chars().count()), "{text}");
        assert!(text.contains("| 128 B  | nng  | 50.0 ±10% (5.00×) |"), "{text}");
        assert!(text.contains("- SKIPPED mangos: go was not found"), "{text}");
    }
}
