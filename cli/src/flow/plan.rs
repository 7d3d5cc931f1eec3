//! What each function of a pipeline reads and writes, and on which rows it
//! works: those of the sources, or those of windows.

use std::ops::Range;

use super::row::Fields;
use crate::pipeline::{self, FunctionStage, Pipeline, shown};

/// Fields of a window's row: the number of its rows, and when it begins and
/// ends, in milliseconds since 1970.
pub(super) const ROWS: &str = "rows";
pub(super) const START: &str = "start";
pub(super) const END: &str = "end";

/// A pipeline's functions, in the order of the work.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Fields of the sources' rows.
    pub(super) fields: Fields,
    /// Functions on these rows.
    pub(super) steps: Vec<Step>,
    /// What happens to windows; `None` if there are none.
    pub(super) windows: Option<WindowPlan>,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct WindowPlan {
    /// Fields of the rows whose values aggregates get.
    pub(super) columns: Vec<usize>,
    /// Fields of the window's row.
    pub(super) fields: Fields,
    /// Functions on a window.
    pub(super) steps: Vec<Step>,
}

/// One function.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    /// Its number in the pipeline.
    pub(super) function: usize,
    pub(super) args: Vec<Argument>,
    pub(super) outcome: Outcome,
}

#[derive(Debug, PartialEq)]
pub(super) enum Argument {
    /// A field of the row.
    Field(usize),
    /// The values of a column of the window.
    Column(usize),
    /// A constant, as JSON text.
    Constant(String),
    /// A list that has a constant for each row of the window.
    ConstantList(String),
}

/// What a result is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It becomes this field of the row.
    Field(usize),
    /// The row goes on if it is true.
    Filter,
}

/// What is wrong, at these bytes of the pipeline's file.
type Wrong = (Range<usize>, String);

impl Plan {
    /// Plans a pipeline's functions, where `aggregates` says which of them are
    /// aggregates.
    ///
    /// # Errors
    /// An aggregate without a window, or a window without one; a field that the
    /// row of a window cannot have; a result that nothing can see.
    pub(super) fn new(pipeline: &Pipeline, aggregates: &[bool]) -> Result<Self, Wrong> {
        let mut plan = Self::default();
        let first = aggregates.iter().position(|is_aggregate| *is_aggregate);
        match (first, &pipeline.window) {
            (Some(first), None) => {
                let symbol = &pipeline.functions[first].symbol;
                let problem = format!(
                    "function {} is an aggregate, which works on windows: add a [window], or aggregate = false",
                    shown(symbol.get_ref())
                );
                return Err((symbol.span(), problem));
            }
            (None, Some(window)) => {
                let problem = "a window needs an aggregate: a function with aggregate = true".to_owned();
                return Err((window.span(), problem));
            }
            _ => {}
        }
        let split = first.unwrap_or(pipeline.functions.len());
        unseen(&pipeline.functions[..split], &[], false)?;
        for (function, stage) in pipeline.functions[..split].iter().enumerate() {
            let step = Step::new(function, stage, &mut plan.fields, Argument::Constant, |fields, name| {
                Ok(Argument::Field(fields.number(name)))
            })?;
            plan.steps.push(step);
        }
        if first.is_some() {
            let mut windows = WindowPlan::default();
            [ROWS, START, END].iter().for_each(|name| _ = windows.fields.number(name));
            unseen(&pipeline.functions[split..], &aggregates[split..], true)?;
            for (function, stage) in pipeline.functions.iter().enumerate().skip(split) {
                windows.add(function, stage, aggregates[function], &mut plan.fields)?;
            }
            plan.windows = Some(windows);
        }
        Ok(plan)
    }
}

impl WindowPlan {
    /// Returns the name of a function that gets the values of this field.
    pub(super) fn reader_of(&self, field: usize, pipeline: &Pipeline) -> String {
        let column = self.columns.iter().position(|column| *column == field).map(Argument::Column);
        let reads = |step: &&Step| step.args.iter().any(|argument| Some(argument) == column.as_ref());
        let step = self.steps.iter().find(reads);
        step.map(|step| pipeline.functions[step.function].symbol.get_ref().clone()).unwrap_or_default()
    }

    fn add(
        &mut self,
        function: usize,
        stage: &FunctionStage,
        is_aggregate: bool,
        rows: &mut Fields,
    ) -> Result<(), Wrong> {
        if let Some(output) =
            stage.output.as_ref().filter(|output| [ROWS, START, END].contains(&output.get_ref().as_str()))
        {
            let problem = format!("output {} is a field that the row of a window has already", output.get_ref());
            return Err((output.span(), problem));
        }
        let columns = &mut self.columns;
        let column = |_: &mut Fields, name: &str| {
            let field = rows.number(name);
            let column = columns.iter().position(|column| *column == field).unwrap_or_else(|| {
                columns.push(field);
                columns.len() - 1
            });
            Ok(Argument::Column(column))
        };
        let field = |fields: &mut Fields, name: &str| match fields.find(name) {
            Some(field) => Ok(Argument::Field(field)),
            None => Err((
                stage.symbol.span(),
                format!(
                    "function {} works on the row of a window, which has no field {} there: only {ROWS}, {START}, {END} \
                     and the outputs of the functions before it, from the first aggregate on",
                    shown(stage.symbol.get_ref()),
                    shown(name)
                ),
            )),
        };
        let step = match is_aggregate {
            true => Step::new(function, stage, &mut self.fields, Argument::ConstantList, column)?,
            false => Step::new(function, stage, &mut self.fields, Argument::Constant, field)?,
        };
        self.steps.push(step);
        Ok(())
    }
}

impl Step {
    fn new(
        function: usize,
        stage: &FunctionStage,
        fields: &mut Fields,
        constant: impl Fn(String) -> Argument,
        mut field: impl FnMut(&mut Fields, &str) -> Result<Argument, Wrong>,
    ) -> Result<Self, Wrong> {
        let args = stage.args.iter().map(|argument| match argument {
            pipeline::Argument::Field(name) => field(fields, name),
            pipeline::Argument::Constant(value) => Ok(constant(value.to_string())),
        });
        let args = args.collect::<Result<_, _>>()?;
        let outcome = match &stage.output {
            Some(name) => Outcome::Field(fields.number(name.get_ref())),
            None => Outcome::Filter,
        };
        Ok(Self { function, args, outcome })
    }
}

/// Refuses an output that another one replaces before anything reads it. On
/// windows, aggregates read the rows, and not the outputs.
fn unseen(stages: &[FunctionStage], aggregates: &[bool], on_windows: bool) -> Result<(), Wrong> {
    let mut unread: Vec<&str> = Vec::new();
    for (number, stage) in stages.iter().enumerate() {
        if !(on_windows && aggregates[number]) {
            let is_read = |name: &str| stage.args.contains(&pipeline::Argument::Field(name.to_owned()));
            unread.retain(|name| !is_read(name));
        }
        let Some(output) = &stage.output else { continue };
        let name = output.get_ref().as_str();
        if unread.contains(&name) {
            let problem = format!("two functions have the output {}, and nothing reads the first one's", shown(name));
            return Err((output.span(), problem));
        }
        unread.push(name);
    }
    Ok(())
}
