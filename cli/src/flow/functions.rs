//! The functions of a pipeline, and what they do to one row.

use std::fmt;

use ekuiper_core::description::Description;
use ekuiper_host::{ArgWriter, Arguments, Function, SymbolKind};
use serde_json::Value;

use super::counts::FunctionCounts;
use super::plan::{Argument, Outcome, Plan, Step};
use super::row::{Fields, Row};
use super::window::ClosedWindow;
use crate::console;
use crate::error::{Error, Result, excerpt};
use crate::interrupt::Interrupt;
use crate::json_text::JsonText;
use crate::pipeline::{FunctionStage, Pipeline, shown};
use crate::session::Session;

/// The functions of a pipeline, started.
pub(super) struct Functions<'p> {
    stages: &'p [FunctionStage],
    started: Vec<Function>,
    counts: &'p [FunctionCounts],
    interrupt: &'p Interrupt,
}

/// A row that functions work on: that of a source, or of a window.
pub(super) struct Work<'w> {
    pub(super) row: Row<'w>,
    pub(super) fields: &'w Fields,
    /// The window whose row it is.
    pub(super) window: Option<&'w ClosedWindow>,
    pub(super) place: Place<'w>,
}

/// Names a row in errors.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'w> {
    /// The row with this number, of the only source or of this one.
    Row(u64, Option<&'w str>),
    /// The window with this number.
    Window(u64),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row(number, None) => write!(f, "row {number}"),
            Self::Row(number, Some(source)) => write!(f, "row {number} of source {source}"),
            Self::Window(number) => write!(f, "window {number}"),
        }
    }
}

impl Work<'_> {
    /// Returns the number of the sources' rows in it.
    fn rows(&self) -> u64 {
        self.window.map_or(1, |window| window.rows)
    }

    fn argument<'s>(&'s self, argument: &'s Argument) -> Option<std::borrow::Cow<'s, str>> {
        match (argument, self.window) {
            (Argument::Field(field), _) => self.row.get(*field).map(Into::into),
            (Argument::Constant(text), _) => Some(text.into()),
            (Argument::Column(column), Some(window)) => Some(window.column(*column).into()),
            (Argument::ConstantList(text), Some(window)) => {
                let mut list = String::with_capacity((text.len() + 1) * window.rows as usize + 1);
                (0..window.rows).for_each(|row| {
                    list.push(if row == 0 { '[' } else { ',' });
                    list.push_str(text);
                });
                Some((list + "]").into())
            }
            (Argument::Column(_) | Argument::ConstantList(_), None) => {
                unreachable!("only the plan of windows has such arguments")
            }
        }
    }
}

/// What functions have decided on a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// It goes on.
    On,
    /// A filter has not let it pass.
    Filtered,
}

impl<'p> Functions<'p> {
    /// Starts the functions, and plans what they do.
    ///
    /// # Errors
    /// A function cannot be started, or does not take that many arguments; the
    /// pipeline asks for what cannot be.
    pub(super) fn start(
        session: &'p Session,
        pipeline: &'p Pipeline,
        counts: &'p [FunctionCounts],
    ) -> Result<(Self, Plan)> {
        let (mut started, mut aggregates) = (Vec::new(), Vec::new());
        for stage in &pipeline.functions {
            let function = session.host.function(stage.symbol.get_ref())?;
            aggregates.push(is_aggregate(session, pipeline, stage, &function)?);
            started.push(function);
        }
        let plan = Plan::new(pipeline, &aggregates).map_err(|(at, problem)| pipeline.wrong(&at, &problem))?;
        for (stage, function) in pipeline.functions.iter().zip(&started) {
            function.validate(vec![Value::Null; stage.args.len()].as_slice())?;
        }
        Ok((Self { stages: &pipeline.functions, started, counts, interrupt: &session.interrupt }, plan))
    }

    /// Applies functions to a row.
    ///
    /// # Errors
    /// A function cannot be called for the row, fails, or returns what a filter
    /// must not.
    pub(super) fn apply(&self, steps: &[Step], work: &mut Work<'_>) -> Result<Passed> {
        for step in steps {
            let counts = &self.counts[step.function];
            match self.apply_one(step, work) {
                Ok(Passed::On) => {}
                Ok(Passed::Filtered) => {
                    counts.filtered.add(work.rows());
                    return Ok(Passed::Filtered);
                }
                Err(error) => {
                    counts.failed.add(work.rows());
                    return Err(error);
                }
            }
        }
        Ok(Passed::On)
    }

    fn apply_one(&self, step: &Step, work: &mut Work<'_>) -> Result<Passed> {
        let symbol = || self.stages[step.function].symbol.get_ref().clone();
        let place = || work.place.to_string();
        if step.outcome != Outcome::Filter && !work.row.is_object() {
            return Err(Error::NoObject { row: place(), function: symbol() });
        }
        let mut texts = Texts(Vec::with_capacity(step.args.len()));
        for argument in &step.args {
            let text = work.argument(argument).ok_or_else(|| {
                let Argument::Field(field) = argument else { unreachable!("only a field can be missing") };
                Error::MissingField { row: place(), field: work.fields.name(*field).to_owned(), function: symbol() }
            })?;
            texts.0.push(text);
        }
        let result = self.call(&self.started[step.function], &texts)?;
        self.counts[step.function].calls.add(1);
        match (step.outcome, result.as_str()) {
            (Outcome::Field(field), _) => {
                drop(texts);
                work.row.set(field, result);
                Ok(Passed::On)
            }
            (Outcome::Filter, "true") => Ok(Passed::On),
            (Outcome::Filter, "false") => Ok(Passed::Filtered),
            (Outcome::Filter, other) => {
                Err(Error::NoBoolean { row: place(), function: symbol(), result: excerpt(other.as_bytes(), 0) })
            }
        }
    }

    /// Calls a function. After a crash of its plugin it waits for the restart,
    /// and ends with the host's giving up.
    fn call(&self, function: &Function, arguments: &Texts<'_>) -> ekuiper_host::Result<JsonText> {
        loop {
            match function.call(arguments) {
                Err(ekuiper_host::Error::Away { .. }) if !self.interrupt.is_set() => {}
                outcome => return outcome,
            }
        }
    }
}

/// Returns whether a function works on windows: as the pipeline says, or the
/// plugin.
fn is_aggregate(session: &Session, pipeline: &Pipeline, stage: &FunctionStage, function: &Function) -> Result<bool> {
    let symbol = stage.symbol.get_ref();
    let described = described(session, symbol)?;
    match (stage.aggregate, described) {
        (Some(told), Some(described)) if told != described => {
            let symbol = shown(symbol);
            let differs = match told {
                true => format!(
                    "function {symbol} describes itself as no aggregate; it gets lists, since the pipeline says aggregate = true"
                ),
                false => format!(
                    "function {symbol} describes itself as an aggregate; it gets single values, since the pipeline says aggregate = false"
                ),
            };
            console::tell(differs);
            Ok(told)
        }
        (Some(told), _) | (None, Some(told)) => Ok(told),
        // Only then does it matter.
        (None, None) if pipeline.window.is_some() => Ok(function.is_aggregate()?),
        (None, None) => Ok(false),
    }
}

/// Returns what the plugin says of its function; `None` if it says nothing.
fn described(session: &Session, symbol: &String) -> Result<Option<bool>> {
    let serves = |package: &ekuiper_host::Package| package.manifest.symbols(SymbolKind::Function).contains(symbol);
    let Some(package) = session.host.packages().into_iter().find(serves) else { return Ok(None) };
    let description: Option<Description> = session.host.description(&package.name)?;
    let functions = description.into_iter().flat_map(|description| description.functions);
    Ok(functions.into_iter().find(|function| function.name == *symbol).map(|function| function.aggregate))
}

/// Arguments as JSON text.
struct Texts<'w>(Vec<std::borrow::Cow<'w, str>>);

impl Arguments for Texts<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn write(&self, to: &mut ArgWriter<'_>) -> Result<(), serde_json::Error> {
        self.0.iter().try_for_each(|text| to.json(text))
    }
}
