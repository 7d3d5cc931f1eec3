//! The kind of a parameter, from its annotation, and the check of its arguments.

use std::fmt;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

/// The kind of values that a parameter takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Any,
    Null,
    Bool,
    Int,
    Float,
    Text,
    Bytes,
    List(Box<Kind>),
    Dict(Box<Kind>),
    OneOf(Vec<Kind>),
}

/// The error for a value of another kind, with its path.
#[derive(Debug)]
pub(crate) struct Mismatch {
    path: String,
    text: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A path begins with a field's name, or with an index.
        let path = self.path.strip_prefix('.').unwrap_or(&self.path);
        if path.is_empty() { f.write_str(&self.text) } else { write!(f, "{path}: {}", self.text) }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any value"),
            Self::Null => f.write_str("None"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Float => f.write_str("float"),
            Self::Text => f.write_str("str"),
            Self::Bytes => f.write_str("bytes"),
            Self::List(item) if **item == Self::Any => f.write_str("list"),
            Self::List(item) => write!(f, "list[{item}]"),
            Self::Dict(value) if **value == Self::Any => f.write_str("dict"),
            Self::Dict(value) => write!(f, "dict[str, {value}]"),
            Self::OneOf(kinds) => {
                for (index, kind) in kinds.iter().enumerate() {
                    if index > 0 {
                        f.write_str(" or ")?;
                    }
                    kind.fmt(f)?;
                }
                Ok(())
            }
        }
    }
}

impl Kind {
    /// Parses the form that `ekuiper/_annotations.py` gives an annotation: a
    /// name, or a tuple of a name and the kinds that it holds.
    pub(crate) fn parse(form: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(name) = form.extract::<String>() {
            return Ok(match name.as_str() {
                "any" => Self::Any,
                "null" => Self::Null,
                "bool" => Self::Bool,
                "int" => Self::Int,
                "float" => Self::Float,
                "str" => Self::Text,
                "bytes" => Self::Bytes,
                other => return Err(PyTypeError::new_err(format!("{other} is not a kind of value"))),
            });
        }
        let parts = form.cast::<PyTuple>()?;
        let name: String = parts.get_item(0)?.extract()?;
        let rest = parts.iter().skip(1).map(|part| Self::parse(&part)).collect::<PyResult<Vec<_>>>()?;
        let first = || rest.first().cloned().unwrap_or(Self::Any).into();
        Ok(match name.as_str() {
            "list" => Self::List(first()),
            "dict" => Self::Dict(first()),
            _ => Self::OneOf(rest),
        })
    }

    /// Returns the value if it is of this kind. An integer is converted to a
    /// float, and Base64 text to bytes.
    pub(crate) fn check<'py>(&self, value: Bound<'py, PyAny>) -> Result<Bound<'py, PyAny>, Mismatch> {
        let py = value.py();
        match self {
            Self::Any => return Ok(value),
            Self::Null if value.is_none() => return Ok(value),
            Self::Bool if value.is_instance_of::<PyBool>() => return Ok(value),
            Self::Int if value.is_instance_of::<PyInt>() && !value.is_instance_of::<PyBool>() => return Ok(value),
            Self::Float if value.is_instance_of::<PyFloat>() => return Ok(value),
            Self::Float if value.is_instance_of::<PyInt>() && !value.is_instance_of::<PyBool>() => {
                if let Ok(number) = value.extract::<f64>() {
                    return Ok(PyFloat::new(py, number).into_any());
                }
            }
            Self::Text if value.is_instance_of::<PyString>() => return Ok(value),
            Self::Bytes if value.is_instance_of::<PyBytes>() => return Ok(value),
            Self::Bytes if value.is_instance_of::<PyString>() => {
                let decoded = py
                    .import("base64")
                    .and_then(|base64| base64.call_method("b64decode", (&value,), Some(&validate(py)?)));
                match decoded {
                    Ok(bytes) => return Ok(bytes),
                    Err(_) => return Err(Mismatch::new("expected bytes, got a str that is not Base64".into())),
                }
            }
            Self::List(kind) => {
                if let Ok(list) = value.cast::<PyList>() {
                    return kind.check_items(list);
                }
            }
            Self::Dict(kind) => {
                if let Ok(dict) = value.cast::<PyDict>() {
                    return kind.check_values(dict);
                }
            }
            // Prefer kinds that keep an integer an integer.
            Self::OneOf(kinds) => {
                let is = |kind: &&Kind| !(**kind == Self::Float && value.is_instance_of::<PyInt>());
                let found = kinds.iter().filter(is).chain(kinds).find_map(|kind| kind.check(value.clone()).ok());
                if let Some(value) = found {
                    return Ok(value);
                }
            }
            _ => {}
        }
        Err(Mismatch::new(format!("expected {self}, got {}", described(&value))))
    }

    fn check_items<'py>(&self, list: &Bound<'py, PyList>) -> Result<Bound<'py, PyAny>, Mismatch> {
        if *self == Self::Any {
            return Ok(list.clone().into_any());
        }
        let mut changed = false;
        let mut items = Vec::with_capacity(list.len());
        for (index, item) in list.iter().enumerate() {
            let before = item.as_ptr();
            let item = self.check(item).map_err(|wrong| wrong.within(&format!("[{index}]")))?;
            changed |= item.as_ptr() != before;
            items.push(item);
        }
        if !changed {
            return Ok(list.clone().into_any());
        }
        PyList::new(list.py(), items).map(Bound::into_any).map_err(|error| Mismatch::new(error.to_string()))
    }

    fn check_values<'py>(&self, dict: &Bound<'py, PyDict>) -> Result<Bound<'py, PyAny>, Mismatch> {
        if *self == Self::Any {
            return Ok(dict.clone().into_any());
        }
        let checked = PyDict::new(dict.py());
        for (key, value) in dict.iter() {
            let value = self.check(value).map_err(|wrong| wrong.within(&format!(".{key}")))?;
            checked.set_item(key, value).map_err(|error| Mismatch::new(error.to_string()))?;
        }
        Ok(checked.into_any())
    }
}

fn validate(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let options = PyDict::new(py);
    options.set_item("validate", true)?;
    Ok(options)
}

impl Mismatch {
    fn new(text: String) -> Self {
        Self { path: String::new(), text }
    }

    /// Whether the value is a list where none was expected.
    pub(crate) fn is_of_a_list(&self) -> bool {
        self.text.ends_with("got list")
    }

    fn within(mut self, step: &str) -> Self {
        self.path.insert_str(0, step);
        self
    }
}

/// The maximum number of characters of a value that an error quotes.
const QUOTE: usize = 40;

fn described(value: &Bound<'_, PyAny>) -> String {
    if value.is_none() {
        return "None".into();
    }
    let name = value.get_type().name().map_or_else(|_| "object".into(), |name| name.to_string());
    let scalar = value.is_instance_of::<PyString>()
        || value.is_instance_of::<PyInt>()
        || value.is_instance_of::<PyFloat>()
        || value.is_instance_of::<PyBool>();
    match value.repr() {
        Ok(text) if scalar => {
            let text = text.to_string_lossy();
            let short: String = text.chars().take(QUOTE).collect();
            if short.len() < text.len() { format!("{name} {short}…") } else { format!("{name} {short}") }
        }
        _ => name,
    }
}
