//! A plain function as a symbol: what its annotations say about its parameters.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::function;
use crate::value::Kind;

create_exception!(ekuiper._ekuiper, ArgumentError, PyException, "A call with arguments that a function does not take.");

/// A function, its parameters and their kinds.
#[pyclass(frozen, module = "ekuiper._ekuiper")]
pub(crate) struct Signature {
    name: String,
    function: Py<PyAny>,
    parameters: Vec<Parameter>,
    /// How many of them have no default.
    required: usize,
    /// What further arguments are, where there may be any number.
    rest: Option<Kind>,
    /// The name of the parameter that takes the context.
    context: Option<Py<PyString>>,
    aggregate: bool,
}

struct Parameter {
    name: String,
    kind: Kind,
}

#[pymethods]
impl Signature {
    #[new]
    #[pyo3(signature = (name, function, parameters, required, rest=None, context=None, aggregate=false))]
    fn new(
        name: String,
        function: Py<PyAny>,
        parameters: Vec<(String, Bound<'_, PyAny>)>,
        required: usize,
        rest: Option<Bound<'_, PyAny>>,
        context: Option<Py<PyString>>,
        aggregate: bool,
    ) -> PyResult<Self> {
        let parameters = parameters.into_iter().map(|(name, form)| Ok(Parameter { name, kind: Kind::parse(&form)? }));
        let parameters = parameters.collect::<PyResult<Vec<_>>>()?;
        let rest = rest.map(|form| Kind::parse(&form)).transpose()?;
        Ok(Self { name, function, parameters, required, rest, context, aggregate })
    }
}

impl Signature {
    pub(crate) fn is_aggregate(&self) -> bool {
        self.aggregate
    }

    pub(crate) fn wants_context(&self) -> bool {
        self.context.is_some()
    }

    /// Why so many arguments are not taken; none where they are.
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
                    return Err(ArgumentError::new_err(format!("argument {}{name}: {wrong}", index + 1)));
                }
            }
        }
        function::call(self.function.bind(py), args, self.context.as_ref().zip(context))
    }
}

/// Checks one value against a kind, as its annotation was read.
#[pyfunction]
pub(crate) fn check<'py>(kind: &Bound<'py, PyAny>, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    Kind::parse(kind)?.check(value).map_err(|wrong| ArgumentError::new_err(wrong.to_string()))
}
