//! A plain function as a symbol, with its parameters by its annotations.

use ekuiper_sdk::description::DataType;
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use crate::value::Kind;

create_exception!(
    ekuiper._ekuiper,
    ArgumentError,
    PyException,
    "Raised for arguments that do not match a function's parameters."
);

/// A function, its parameters and their kinds.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
pub(crate) struct Signature {
    name: String,
    function: Py<PyAny>,
    parameters: Vec<Parameter>,
    /// The number of parameters without a default.
    required: usize,
    /// The kind of `*args`, if the function has one.
    rest: Option<Kind>,
    /// The context parameter: its name, and the number of parameters before it;
    /// `None` if it is keyword-only.
    context: Option<(Py<PyString>, Option<usize>)>,
    aggregate: bool,
    /// Whether `aggregate` was inferred from the parameters.
    inferred: bool,
    /// Whether the parameters take columns.
    columnar: bool,
    /// The type of the result.
    result: DataType,
}

struct Parameter {
    name: String,
    kind: Kind,
}

#[pymethods]
impl Signature {
    #[new]
    #[pyo3(signature = (name, function, parameters, required, rest=None, context=None, aggregate=false, inferred=false, columnar=false, result="any"))]
    #[allow(clippy::too_many_arguments, reason = "one caller, `ekuiper/_symbols.py`")]
    fn new(
        name: String,
        function: Py<PyAny>,
        parameters: Vec<(String, Bound<'_, PyAny>)>,
        required: usize,
        rest: Option<Bound<'_, PyAny>>,
        context: Option<(Py<PyString>, Option<usize>)>,
        aggregate: bool,
        inferred: bool,
        columnar: bool,
        result: &str,
    ) -> PyResult<Self> {
        let parameters = parameters.into_iter().map(|(name, form)| Ok(Parameter { name, kind: Kind::parse(&form)? }));
        let parameters = parameters.collect::<PyResult<Vec<_>>>()?;
        let rest = rest.map(|form| Kind::parse(&form)).transpose()?;
        // Of an unknown name it is any type.
        let result = serde_json::from_value(serde_json::json!({ "type": result })).unwrap_or_default();
        Ok(Self { name, function, parameters, required, rest, context, aggregate, inferred, columnar, result })
    }
}

impl Signature {
    pub(crate) fn is_columnar(&self) -> bool {
        self.columnar
    }

    /// The type of the result, by its annotation.
    pub(crate) fn result(&self) -> &DataType {
        &self.result
    }

    pub(crate) fn is_aggregate(&self) -> bool {
        self.aggregate
    }

    /// The hint for an author who did not expect an aggregate.
    pub(crate) fn hint(&self) -> Option<String> {
        let name = &self.name;
        let text =
            || format!("{name} is an aggregate, since all parameters are lists; aggregate=False makes it a scalar");
        self.inferred.then(text)
    }

    pub(crate) fn wants_context(&self) -> bool {
        self.context.is_some()
    }

    /// The error for a number of arguments; `None` if it is accepted.
    pub(crate) fn refusal(&self, count: usize) -> Option<String> {
        let most = self.parameters.len();
        if count >= self.required && (count <= most || self.rest.is_some()) {
            return None;
        }
        let number = match (self.required, &self.rest) {
            (least, Some(_)) => format!("at least {least}"),
            (least, None) if least < most => format!("{least} to {most}"),
            (least, None) => least.to_string(),
        };
        let one = if number == "1" || number == "at least 1" { "" } else { "s" };
        let names: Vec<_> = self.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
        let missing = self.parameters.get(count).filter(|_| count < self.required);
        let missing = missing.map_or_else(String::new, |missing| format!(": {} is missing", missing.name));
        Some(format!("{} takes {number} argument{one}{names}, got {count}{missing}", self.name))
    }

    /// Calls the function, with the arguments checked and converted.
    pub(crate) fn call<'py>(
        &self,
        py: Python<'py>,
        mut args: Vec<Bound<'py, PyAny>>,
        context: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(text) = self.refusal(args.len()) {
            return Err(ArgumentError::new_err(text));
        }
        for (index, arg) in args.iter_mut().enumerate() {
            let parameter = self.parameters.get(index);
            let kind = parameter.map_or(self.rest.as_ref().unwrap_or(&Kind::Any), |parameter| &parameter.kind);
            if *kind == Kind::Any {
                continue;
            }
            match kind.check(arg.clone()) {
                Ok(checked) => *arg = checked,
                Err(wrong) => {
                    let name = parameter.map_or_else(String::new, |parameter| format!(" ({})", parameter.name));
                    let is_surprising = !arg.is_instance_of::<PyList>() || wrong.is_of_a_list();
                    let hint = self.hint().filter(|_| is_surprising);
                    let hint = hint.map_or_else(String::new, |hint| format!(" ({hint})"));
                    return Err(ArgumentError::new_err(format!("argument {}{name}: {wrong}{hint}", index + 1)));
                }
            }
        }
        let function = self.function.bind(py);
        match self.context.as_ref().zip(context) {
            None => function.call1(PyTuple::new(py, args)?),
            // By position, if all parameters before it have arguments.
            Some(((_, Some(place)), context)) if args.len() >= *place => {
                args.insert(*place, context.into_bound(py));
                function.call1(PyTuple::new(py, args)?)
            }
            Some(((name, _), context)) => {
                let named = PyDict::new(py);
                named.set_item(name, context)?;
                function.call(PyTuple::new(py, args)?, Some(&named))
            }
        }
    }
}

/// Checks and converts a value, for a kind as `_annotations.py` describes it.
#[pyfunction]
pub(crate) fn check<'py>(kind: &Bound<'py, PyAny>, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    Kind::parse(kind)?.check(value).map_err(|wrong| ArgumentError::new_err(wrong.to_string()))
}
