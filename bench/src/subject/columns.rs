//! Functions over columns, of few and of many rows: rows per second, beside the
//! same rows one by one.

use super::{Case, Chart, Subject};
use crate::metric::Metric;
use crate::peer::RowFunction;

const ROWS: [usize; 4] = [1 << 10, 4 << 10, 16 << 10, 64 << 10];

pub(super) fn subjects() -> [Subject; 2] {
    [
        subject("columns", "Columns of numbers through a function that doubles them", RowFunction::Double),
        subject(
            "text-columns",
            "Columns of texts of 16 B through a function that returns capitals",
            RowFunction::Upper,
        ),
    ]
}

fn subject(name: &'static str, title: &'static str, function: RowFunction) -> Subject {
    let case = |rows: usize| {
        Case::new(format!("{} k rows at a time", rows >> 10), rows as f64, move |peer, pace| {
            peer.columns(pace, function, rows)
        })
    };
    let mut cases = vec![Case::new("the same as rows", 1.0, move |peer, pace| peer.rows(pace, function))];
    cases.extend(ROWS.map(case));
    Subject {
        name,
        title,
        cases,
        columns: &[Metric::PerSecond, Metric::MegabytesPerSecond, Metric::CpuPerMillion],
        chart: Chart::Bars,
        in_a_fresh_process: false,
    }
}
