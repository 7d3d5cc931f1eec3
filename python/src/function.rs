//! A function whose code is Python: an object of the official class, or a plain
//! function with its parameters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ekuiper_core::columns::Cells;
use ekuiper_core::columns::arrow_array::{Array, ArrayRef, RecordBatch};
use ekuiper_core::sync::lock;
use ekuiper_sdk::description::FunctionDescription;
use ekuiper_sdk::raw::{Args, BatchReply, RawFunction, Reply, Rows, each_row, row_by_row};
use ekuiper_sdk::{BoxError, FunctionContext, FunctionMeta, Result};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use crate::column::{Column, array_of};
use crate::context::{self, CurrentCall};
use crate::fault::{Faults, text_of};
use crate::signature::{ArgumentError, Signature};
use crate::thread;
use crate::value::{Seed, Written};

/// The maximum number of cached contexts. Each new rule has new call sites.
const MAX_CONTEXTS: usize = 10_000;

/// A function of the plugin, whose object is created at its first use.
pub(crate) struct PyFunction {
    name: String,
    make: Arc<Py<PyAny>>,
    object: Mutex<Option<Callee>>,
    /// One context per call site, for the plugin's lifetime, as in the official
    /// package.
    contexts: HashMap<FunctionMeta, Py<PyAny>>,
    /// `None` before the first context.
    call: Option<Py<CurrentCall>>,
    faults: Faults,
}

/// The code that a call executes.
enum Callee {
    /// An object with `validate`, `exec` and `is_aggregate`.
    Object(Arc<Py<PyAny>>),
    /// A plain function with its parameters.
    Plain(Arc<Py<Signature>>),
}

impl Clone for Callee {
    fn clone(&self) -> Self {
        match self {
            Self::Object(object) => Self::Object(object.clone()),
            Self::Plain(signature) => Self::Plain(signature.clone()),
        }
    }
}

impl PyFunction {
    pub(crate) fn new(name: String, make: Arc<Py<PyAny>>) -> Self {
        let (object, contexts, faults) = (Mutex::default(), HashMap::new(), Faults::default());
        Self { name, make, object, contexts, call: None, faults }
    }

    fn callee(&self, py: Python<'_>) -> PyResult<Callee> {
        let mut object = lock(&self.object);
        if let Some(callee) = &*object {
            return Ok(callee.clone());
        }
        // Without the lock: the factory may take long, and no other thread uses
        // this function.
        drop(object);
        let made = thread::returned(py, self.make.call0(py))?;
        let callee = match made.bind(py).cast::<Signature>() {
            Ok(signature) => Callee::Plain(Arc::new(signature.clone().unbind())),
            Err(_) => Callee::Object(Arc::new(made)),
        };
        object = lock(&self.object);
        *object = Some(callee.clone());
        Ok(callee)
    }

    fn refuse(&self, py: Python<'_>, error: PyErr) -> BoxError {
        self.faults.report(py, &format!("function {} failed", self.name), error)
    }

    /// The error of a call. That of a cancelled one concerns nobody, so that it is
    /// not logged.
    fn failed(&self, py: Python<'_>, ctx: &FunctionContext, error: PyErr) -> BoxError {
        if ctx.is_cancelled() { text_of(py, &error).into() } else { self.refuse(py, error) }
    }

    /// The context of the call's site; it is that of this call from now on.
    fn context(&mut self, py: Python<'_>, ctx: &FunctionContext) -> PyResult<Py<PyAny>> {
        let call = match &self.call {
            Some(call) => call,
            None => self.call.insert(Py::new(py, CurrentCall::default())?),
        };
        call.get().begin(ctx.watch());
        let meta = FunctionMeta {
            rule_id: ctx.rule_id().into(),
            op_id: ctx.op_id().into(),
            instance_id: ctx.instance_id(),
            func_id: ctx.func_id(),
        };
        if let Some(context) = self.contexts.get(&meta) {
            return Ok(context.clone_ref(py));
        }
        if self.contexts.len() >= MAX_CONTEXTS {
            self.contexts.clear();
        }
        let context = context::of_function(py, &self.name, ctx, call)?;
        self.contexts.insert(meta, context.clone_ref(py));
        Ok(context)
    }
}

impl RawFunction for PyFunction {
    fn validate(&mut self, args: &Args<'_>) -> Result<()> {
        Python::attach(|py| {
            let args = read(py, &mut args.clone());
            let text = self.callee(py).and_then(|callee| match callee {
                Callee::Plain(signature) => Ok(signature.get().refusal(args?.len()).unwrap_or_default()),
                Callee::Object(object) => {
                    let args = PyList::new(py, args?)?;
                    let answer = thread::returned(py, object.call_method1(py, "validate", (args,)))?;
                    answer_of_validate(answer.bind(py))
                }
            });
            match text {
                Ok(text) if text.is_empty() => Ok(()),
                Ok(text) => Err(text.into()),
                Err(error) => Err(self.refuse(py, error)),
            }
        })
    }

    fn exec(&mut self, args: &mut Args<'_>, ctx: &FunctionContext, reply: &mut Reply<'_, '_>) -> Result<()> {
        Python::attach(|py| {
            match self.result(py, args, ctx).map_err(|error| self.failed(py, ctx, error))? {
                Outcome::Value(result) => reply.put(&Written::new(&result)),
                Outcome::Column(result) => reply.put(&Cells::new(&result)?.at(0)),
            }
            .map_err(|error| self.failed(py, ctx, unsendable(&*error)))
        })
    }

    /// Executes all rows, attached to the interpreter once.
    fn exec_batch(&mut self, rows: &mut Rows<'_>, ctx: &FunctionContext, reply: &mut BatchReply<'_>) -> Result<()> {
        Python::attach(|py| {
            each_row(rows, ctx, reply, |row, reply| {
                let done = self.result(py, row, ctx).and_then(|result| {
                    let put = match result {
                        Outcome::Value(result) => reply.result(&Written::new(&result)),
                        Outcome::Column(result) => Cells::new(&result).and_then(|cells| reply.result(&cells.at(0))),
                    };
                    put.map_err(|error| unsendable(&error))
                });
                done.map_err(|error| self.failed(py, ctx, error))
            })
        })
    }

    /// Executes all rows, attached to the interpreter once.
    fn exec_columns(&mut self, batch: &RecordBatch, ctx: &FunctionContext) -> Result<ArrayRef> {
        Python::attach(|py| {
            let callee = self.callee(py).map_err(|error| self.failed(py, ctx, error))?;
            let Callee::Plain(signature) = callee else { return row_by_row(self, batch, ctx) };
            if !signature.get().is_columnar() {
                return row_by_row(self, batch, ctx);
            }
            let columns = batch.columns().iter().map(|column| Column::new(column.clone()));
            let result = self.column(py, signature.get(), columns, ctx);
            result.map_err(|error| self.failed(py, ctx, error))
        })
    }

    /// Describes the result alone, which columns are made of.
    fn describe(&self) -> FunctionDescription {
        let mut description = FunctionDescription::unknown();
        if let Some(Callee::Plain(signature)) = &*lock(&self.object) {
            description.result = signature.get().result().clone();
        }
        description
    }

    fn is_aggregate(&self) -> bool {
        Python::attach(|py| {
            let aggregate = self.callee(py).and_then(|callee| match callee {
                Callee::Plain(signature) => {
                    let signature = signature.get();
                    signature.hint().inspect(|hint| ekuiper_sdk::tracing::info!("{hint}"));
                    Ok(signature.is_aggregate())
                }
                Callee::Object(object) => {
                    thread::returned(py, object.call_method0(py, "is_aggregate"))?.bind(py).is_truthy()
                }
            });
            aggregate.unwrap_or_else(|error| {
                self.refuse(py, error);
                false
            })
        })
    }

    fn needs_context(&self) -> bool {
        match &*lock(&self.object) {
            Some(Callee::Plain(signature)) => signature.get().wants_context(),
            Some(Callee::Object(_)) | None => true,
        }
    }
}

/// What the code has returned for a row.
enum Outcome<'py> {
    Value(Bound<'py, PyAny>),
    /// A column of one value.
    Column(ArrayRef),
}

impl PyFunction {
    fn result<'py>(&mut self, py: Python<'py>, args: &mut Args<'_>, ctx: &FunctionContext) -> PyResult<Outcome<'py>> {
        let callee = self.callee(py)?;
        let args = read(py, args)?;
        let result = match callee {
            Callee::Object(object) => {
                let context = self.context(py, ctx)?;
                object.bind(py).call_method1("exec", (PyList::new(py, args)?, context))
            }
            Callee::Plain(signature) if signature.get().is_columnar() => {
                let columns = args
                    .iter()
                    .enumerate()
                    .map(|(index, value)| Column::of_value(value).map_err(|error| of_argument(py, index, &error)));
                let columns = columns.collect::<PyResult<Vec<_>>>()?;
                let result = self.column(py, signature.get(), columns, ctx)?;
                return match result.len() {
                    1 => Ok(Outcome::Column(result)),
                    values => Err(PyValueError::new_err(format!("the function returned {values} values for 1 row"))),
                };
            }
            Callee::Plain(signature) => {
                let signature = signature.get();
                let context = signature.wants_context().then(|| self.context(py, ctx)).transpose()?;
                signature.call(py, args, context)
            }
        };
        thread::returned(py, result).map(Outcome::Value)
    }

    /// Calls a columnar function.
    fn column(
        &mut self,
        py: Python<'_>,
        signature: &Signature,
        columns: impl IntoIterator<Item = Column>,
        ctx: &FunctionContext,
    ) -> PyResult<ArrayRef> {
        let args = columns.into_iter().map(|column| Ok(Bound::new(py, column)?.into_any()));
        let args = args.collect::<PyResult<Vec<_>>>()?;
        let context = signature.wants_context().then(|| self.context(py, ctx)).transpose()?;
        let result = thread::returned(py, signature.call(py, args, context))?;
        array_of(&result, Some(signature.result()))
    }
}

/// The error of a value that no column can hold.
fn of_argument(py: Python<'_>, index: usize, error: &PyErr) -> PyErr {
    ArgumentError::new_err(format!("argument {}: {}", index + 1, error.value(py)))
}

/// A call's arguments, read to their end.
fn read<'py>(py: Python<'py>, args: &mut Args<'_>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let wrong = |error: serde_json::Error| PyValueError::new_err(format!("the arguments cannot be read: {error}"));
    let mut values = Vec::with_capacity(4);
    while let Some(value) = args.read_with(Seed::new(py)).map_err(wrong)? {
        values.push(value);
    }
    // The last value is the context, which was read as an argument.
    if !args.is_over() {
        values.pop();
    }
    Ok(values)
}

/// The error for a result that cannot be encoded: the cause, which begins with the
/// path within the result.
fn unsendable(error: &(dyn std::error::Error + 'static)) -> PyErr {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    PyTypeError::new_err(format!("the result cannot be sent: {cause}"))
}

/// The text that `validate` returned, which is empty if the arguments are valid;
/// None counts as valid.
fn answer_of_validate(answer: &Bound<'_, PyAny>) -> PyResult<String> {
    if answer.is_none() {
        return Ok(String::new());
    }
    match answer.cast::<PyString>() {
        Ok(text) => Ok(text.to_string_lossy().into_owned()),
        Err(_) => {
            let text = format!("validate must return a str, empty if the arguments are valid, but returned {answer:?}");
            Err(PyTypeError::new_err(text))
        }
    }
}
