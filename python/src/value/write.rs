//! The conversion from Python objects: a `Serialize` around an object, from which
//! a message is written directly.
//!
//! Types that JSON lacks are converted as the guide's table says (`plain` in
//! `ekuiper/_plain.py`), or give an error with the path within the value.

use std::fmt;

use pyo3::PyTypeInfo;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PyString, PyTuple};
use serde::ser::{Error, Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::fault;

/// The maximum nesting of lists and objects: careful readers accept 128 levels,
/// of which the message itself needs some.
const MAX_DEPTH: usize = 120;

/// The longest path that an error quotes in full, in characters.
const PATH: usize = 120;

/// A Python value to be encoded.
pub(crate) struct Written<'a, 'py> {
    value: &'a Bound<'py, PyAny>,
    path: ValuePath<'a>,
}

impl<'a, 'py> Written<'a, 'py> {
    /// Creates the root of a message.
    pub(crate) fn new(value: &'a Bound<'py, PyAny>) -> Self {
        Self::named(None, value)
    }

    /// Creates a named part of a message, whose paths begin with that name.
    fn named(name: Option<&'a str>, value: &'a Bound<'py, PyAny>) -> Self {
        let (step, depth) = (name.map_or(Step::Whole, Step::Key), name.map_or(0, |_| 1));
        Self { value, path: ValuePath { up: None, step, within: std::ptr::null_mut(), depth } }
    }
}

/// A Python value to be encoded by a thread that is not attached to the
/// interpreter, and attaches while the value is written.
pub(crate) struct Detached<'a> {
    value: &'a Py<PyAny>,
    name: Option<&'a str>,
}

impl<'a> Detached<'a> {
    /// Creates the root of a message.
    pub(crate) fn new(value: &'a Py<PyAny>) -> Self {
        Self { value, name: None }
    }

    /// Creates a named part of a message, whose paths begin with that name.
    pub(crate) fn named(name: &'a str, value: &'a Py<PyAny>) -> Self {
        Self { value, name: Some(name) }
    }
}

impl Serialize for Detached<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Python::attach(|py| Written::named(self.name, self.value.bind(py)).serialize(serializer))
    }
}

/// The path of a value within the message: a linked list on the stack.
#[derive(Clone, Copy)]
struct ValuePath<'a> {
    up: Option<&'a ValuePath<'a>>,
    step: Step<'a>,
    /// The container, to detect one that contains itself.
    within: *mut pyo3::ffi::PyObject,
    depth: usize,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Whole,
    Index(usize),
    Key(&'a str),
}

impl fmt::Display for ValuePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(up) = self.up {
            up.fmt(f)?;
        }
        match self.step {
            Step::Whole => Ok(()),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) if self.up.is_none_or(ValuePath::is_whole) => f.write_str(key),
            Step::Key(key) => write!(f, ".{key}"),
        }
    }
}

impl<'a> ValuePath<'a> {
    fn is_whole(&self) -> bool {
        matches!(self.step, Step::Whole)
    }

    fn fail<E: Error>(&self, text: impl fmt::Display) -> E {
        if self.is_whole() {
            return E::custom(text);
        }
        let path = self.to_string();
        // Quote both ends of a very long path.
        let length = path.chars().count();
        if length <= PATH {
            return E::custom(format_args!("{path}: {text}"));
        }
        let begin: String = path.chars().take(PATH / 2).collect();
        let end: String = path.chars().skip(length - PATH / 2).collect();
        E::custom(format_args!("{begin}…{end}: {text}"))
    }

    /// Checks the depth before a container is entered.
    fn enter<E: Error>(&self, container: &Bound<'_, PyAny>) -> Result<(), E> {
        let same = |path: &ValuePath<'_>| path.within == container.as_ptr();
        if self.depth < MAX_DEPTH {
            return Ok(());
        }
        let mut path = Some(self);
        while let Some(here) = path {
            if same(here) {
                return Err(self.fail(format_args!("the {} contains itself", type_name(container))));
            }
            path = here.up;
        }
        Err(self.fail(format_args!("it is nested deeper than {MAX_DEPTH} levels")))
    }

    fn part<'b>(&'b self, container: &Bound<'_, PyAny>, step: Step<'b>) -> ValuePath<'b> {
        ValuePath { up: Some(self), step, within: container.as_ptr(), depth: self.depth + 1 }
    }
}

fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "object".into(), |name| name.to_string())
}

impl Serialize for Written<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { value, path } = self;
        // Exact types first, which need only a comparison of pointers.
        if let Ok(text) = value.cast_exact::<PyString>() {
            return write_text(text, path, serializer);
        }
        if let Ok(number) = value.cast_exact::<PyFloat>() {
            return write_float(number.value(), path, serializer);
        }
        if let Ok(number) = value.cast_exact::<PyInt>() {
            return write_int(number, path, serializer);
        }
        if value.is_none() {
            return serializer.serialize_unit();
        }
        if let Ok(flag) = value.cast_exact::<PyBool>() {
            return serializer.serialize_bool(flag.is_true());
        }
        if let Ok(dict) = value.cast::<PyDict>() {
            return write_dict(dict, path, serializer);
        }
        if let Ok(list) = value.cast::<PyList>() {
            return write_items(value, list.len(), list.iter(), path, serializer);
        }
        if let Ok(tuple) = value.cast::<PyTuple>() {
            return write_items(value, tuple.len(), tuple.iter(), path, serializer);
        }
        write_other(value, path, serializer)
    }
}

/// Writes subclasses, bytes, and all other values as `plain` converts them.
fn write_other<S: Serializer>(
    value: &Bound<'_, PyAny>,
    path: &ValuePath<'_>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if let Ok(text) = value.cast::<PyString>() {
        return write_text(text, path, serializer);
    }
    if let Ok(number) = value.cast::<PyInt>() {
        return write_int(number, path, serializer);
    }
    if let Ok(number) = value.cast::<PyFloat>() {
        return write_float(number.value(), path, serializer);
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        // MessagePack has bytes; the JSON codec writes Base64.
        return serializer.serialize_bytes(bytes.as_bytes());
    }
    if value.is_instance_of::<PyByteArray>() || value.is_instance_of::<PyMemoryView>() {
        let bytes = value.call_method0("__bytes__").or_else(|_| value.py().get_type::<PyBytes>().call1((value,)));
        let bytes = bytes.map_err(|error| path.fail(fault::text_of(value.py(), &error)))?;
        let bytes = bytes.cast::<PyBytes>().map_err(|error| path.fail(error))?;
        return serializer.serialize_bytes(bytes.as_bytes());
    }
    let plain = plain(value).map_err(|error| unreadable(value, path, &error))?;
    // One level deeper, so that conversions that nest themselves end.
    path.enter(value)?;
    let path = ValuePath { depth: path.depth + 1, ..*path };
    Written { value: &plain, path }.serialize(serializer)
}

/// Converts a value of a type that JSON lacks into one that it has.
fn plain<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static PLAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    PLAIN.import(py, "ekuiper._plain", "plain")?.call1((value,))
}

/// The error of a conversion, with the path of the field that cannot be read, if
/// there is one.
fn unreadable<E: Error>(value: &Bound<'_, PyAny>, path: &ValuePath<'_>, error: &PyErr) -> E {
    let py = value.py();
    let attribute = |name| error.value(py).getattr(name).ok();
    match (attribute("unreadable_field"), error.cause(py)) {
        (Some(field), Some(cause)) => {
            let field = key_text::<E>(&field, path).unwrap_or_else(|_| field.to_string());
            path.part(value, Step::Key(&field)).fail(fault::text_of(py, &cause))
        }
        // The message of `plain` suffices.
        _ if attribute("is_unsendable").is_some() => path.fail(error.value(py)),
        _ => path.fail(fault::text_of(py, error)),
    }
}

fn write_text<S: Serializer>(
    text: &Bound<'_, PyString>,
    path: &ValuePath<'_>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match text.to_cow() {
        Ok(text) => serializer.serialize_str(&text),
        Err(_) => Err(path.fail("the text is not valid Unicode: it contains half of a surrogate pair")),
    }
}

fn write_int<S: Serializer>(number: &Bound<'_, PyInt>, path: &ValuePath<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    if let Ok(number) = number.extract::<i64>() {
        return serializer.serialize_i64(number);
    }
    match number.extract::<u64>() {
        Ok(number) => serializer.serialize_u64(number),
        Err(_) => Err(path.fail("the integer has more than 64 bits: send it as a text or a float")),
    }
}

fn write_float<S: Serializer>(number: f64, path: &ValuePath<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    if number.is_finite() {
        return serializer.serialize_f64(number);
    }
    let name = if number.is_nan() { "NaN".to_owned() } else { format!("{number}") };
    Err(path.fail(format_args!("{name} is not a number that a message can hold: send None instead")))
}

fn write_items<'py, S: Serializer>(
    container: &Bound<'py, PyAny>,
    length: usize,
    items: impl Iterator<Item = Bound<'py, PyAny>>,
    path: &ValuePath<'_>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    path.enter(container)?;
    let mut seq = serializer.serialize_seq(Some(length))?;
    let mut written = 0;
    for (index, item) in items.enumerate() {
        if index == length {
            break;
        }
        seq.serialize_element(&Written { value: &item, path: path.part(container, Step::Index(index)) })?;
        written += 1;
    }
    if written < length {
        return Err(path.fail("the list became shorter while it was written"));
    }
    seq.end()
}

fn write_dict<S: Serializer>(dict: &Bound<'_, PyDict>, path: &ValuePath<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    path.enter(dict.as_any())?;
    let length = dict.len();
    let mut map = serializer.serialize_map(Some(length))?;
    // Iteration panics if the dict changes meanwhile, for example in a
    // `__str__`, so check before each step.
    let mut left = length;
    let mut entries = dict.iter();
    while left > 0 {
        if dict.len() != length {
            return Err(path.fail("the dict changed while it was written"));
        }
        let Some((key, value)) = entries.next() else { break };
        left -= 1;
        match key.cast_exact::<PyString>() {
            Ok(text) => {
                let text = text
                    .to_cow()
                    .map_err(|_| path.fail("a key is not valid Unicode: it contains half of a surrogate pair"))?;
                map.serialize_key(&*text)?;
                let path = path.part(dict.as_any(), Step::Key(&text));
                map.serialize_value(&Written { value: &value, path })?;
            }
            Err(_) => {
                let text = key_text(&key, path)?;
                map.serialize_key(&text)?;
                let path = path.part(dict.as_any(), Step::Key(&text));
                map.serialize_value(&Written { value: &value, path })?;
            }
        }
    }
    map.end()
}

/// The text of a key that is not a str, as Python's own `json` writes it.
fn key_text<E: Error>(key: &Bound<'_, PyAny>, path: &ValuePath<'_>) -> Result<String, E> {
    let text = if key.is_none() {
        Ok("null".to_owned())
    } else if let Ok(flag) = key.cast::<PyBool>() {
        Ok(if flag.is_true() { "true" } else { "false" }.to_owned())
    } else if let Ok(text) = key.cast::<PyString>() {
        text.to_cow().map(|text| text.into_owned())
    } else if let Ok(number) = key.cast::<PyFloat>()
        && !number.value().is_finite()
    {
        let number = number.value();
        Ok(if number.is_nan() { "NaN" } else { ["Infinity", "-Infinity"][usize::from(number < 0.0)] }.to_owned())
    } else if key.is_instance_of::<PyFloat>() {
        own_text::<PyFloat>(key)
    } else if key.is_instance_of::<PyInt>() {
        own_text::<PyInt>(key)
    } else {
        let name = type_name(key);
        return Err(path.fail(format_args!("a key is of type {name}: use str, int, float, bool or None")));
    };
    text.map_err(|error| path.fail(fault::text_of(key.py(), &error)))
}

/// The text of a number by its base type, ignoring overrides of a subclass such as
/// an enumeration.
fn own_text<T: PyTypeInfo>(number: &Bound<'_, PyAny>) -> PyResult<String> {
    let text = number.py().get_type::<T>().call_method1("__repr__", (number,))?;
    text.extract()
}
