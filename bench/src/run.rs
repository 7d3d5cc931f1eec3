//! A run: each round measures each peer in turn, so that disturbances of the
//! machine affect all.

use std::time::{Duration, Instant};

use ekuiper_core::Chain;

use crate::clock;
use crate::machine::Machine;
use crate::options::Options;
use crate::peer::Peer;
use crate::report::{Case, Described, Line, REFERENCE, Report, Table};
use crate::subject::{self, Subject};
use crate::{Error, Result};

/// Pause between two measurements, after which the previous one is cleaned up.
const PAUSE: Duration = Duration::from_millis(2);

/// Measures what the options request of these subjects. `skipped` are the peers
/// that cannot be measured.
///
/// # Errors
/// The options name an unknown subject or peer. Failed measurements are in the
/// report.
pub fn run(
    options: &Options,
    mut subjects: Vec<Subject>,
    mut peers: Vec<Box<dyn Peer>>,
    skipped: Vec<Described>,
) -> Result<Report> {
    let names: Vec<String> = subjects.iter().map(|subject| subject.name.to_owned()).collect();
    known("subject", &options.only, &names)?;
    let names: Vec<String> = peers.iter().map(|peer| peer.name().to_owned()).collect();
    let missing: Vec<String> = skipped.iter().map(|peer| peer.name.clone()).collect();
    known("peer", &options.peer, &[names, missing].concat())?;
    if !options.only.is_empty() {
        subjects.retain(|subject| options.only.iter().any(|name| name == subject.name));
    }
    if !options.peer.is_empty() {
        peers.retain(|peer| peer.name() == REFERENCE || options.peer.iter().any(|name| name == peer.name()));
    }
    for peer in &skipped {
        crate::tell(format_args!("SKIPPED: {}: {}", peer.name, peer.about));
    }
    let mut report = Report {
        machine: Machine::here(),
        rounds: options.rounds(),
        seconds: options.pace().measured.as_secs_f64(),
        peers: peers.iter().map(|peer| Described { name: peer.name().into(), about: peer.about() }).collect(),
        skipped,
        subjects: subjects.iter().map(|subject| empty(subject, &peers)).collect(),
        failures: Vec::new(),
    };
    let start = Instant::now();
    for (is_fresh, round) in [true, false].into_iter().flat_map(|fresh| (1..=options.rounds()).map(move |n| (fresh, n)))
    {
        for (subject, table) in subjects.iter().zip(&mut report.subjects) {
            if subject.in_a_fresh_process == is_fresh && !clock::is_stopped() {
                let (seconds, rounds) = (start.elapsed().as_secs(), report.rounds);
                crate::tell(format_args!("{seconds:>4} s  round {round} of {rounds}: {}", subject.name));
                measure(options, subject, &peers, table, &mut report.failures);
            }
        }
    }
    // A peer that does not support a case has no line.
    for case in report.subjects.iter_mut().flat_map(|table| &mut table.cases) {
        case.lines.retain(|line| !line.samples.is_empty());
    }
    if clock::is_stopped() {
        report.subjects.retain(|table| table.cases.iter().any(|case| !case.lines.is_empty()));
    }
    Ok(report)
}

fn measure(
    options: &Options,
    subject: &Subject,
    peers: &[Box<dyn Peer>],
    table: &mut Table,
    failures: &mut Vec<String>,
) {
    for (case, results) in subject.cases.iter().zip(&mut table.cases) {
        for (peer, line) in peers.iter().zip(&mut results.lines) {
            let measured = clock::go_on().and_then(|()| case.measure(&**peer, options.pace()));
            match measured {
                // A failure caused by that does not count.
                Err(_) if clock::is_stopped() => return,
                Ok(Some(sample)) => line.samples.push(sample),
                Ok(None) => continue,
                Err(source) => {
                    let (case, peer) = (case.label.clone(), peer.name().to_owned());
                    let failure = Error::Cell { subject: subject.name, case, peer, source: Box::new(source) };
                    let failure = Chain(&failure).to_string();
                    crate::tell(format_args!("FAILED: {failure}"));
                    failures.push(failure);
                }
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn empty(subject: &Subject, peers: &[Box<dyn Peer>]) -> Table {
    let line = |peer: &dyn Peer| Line {
        peer: peer.name().to_owned(),
        title: peer.title().to_owned(),
        is_limit: peer.is_limit(),
        samples: Vec::new(),
    };
    let lines = || peers.iter().map(|peer| line(&**peer)).collect();
    let case = |case: &subject::Case| Case { label: case.label.clone(), place: case.place, lines: lines() };
    Table {
        name: subject.name,
        title: subject.title,
        columns: subject.columns,
        chart: subject.chart,
        cases: subject.cases.iter().map(case).collect(),
    }
}

fn known(kind: &'static str, wanted: &[String], known: &[String]) -> Result<()> {
    match wanted.iter().find(|name| !known.contains(name)) {
        Some(name) => Err(Error::Unknown { kind, name: name.clone(), known: known.join(", ") }),
        None => Ok(()),
    }
}
