//! From Python: a `Serialize` around an object, so that a message is written
//! straight from it.
//!
//! What JSON lacks becomes what the guide's table says (`plain` in
//! `ekuiper/_plain.py`), or an error that names the place within the value.

use std::fmt;

use pyo3::PyTypeInfo;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PyString, PyTuple};
use serde::ser::{Error, Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::fault;

/// How deep lists and objects may be within one another: a reader that is
/// careful takes 128, and a message has levels of its own.
const MAX_DEPTH: usize = 120;

/// The longest path that an error tells whole, in characters.
const PATH: usize = 120;

/// A Python value on its way out.
pub(crate) struct Written<'a, 'py> {
    value: &'a Bound<'py, PyAny>,
    place: Place<'a>,
}

impl<'a, 'py> Written<'a, 'py> {
    /// The whole of a value.
    pub(crate) fn new(value: &'a Bound<'py, PyAny>) -> Self {
        Self::named(None, value)
    }

    /// The whole of a value that is a part of a message, by that part's name.
    fn named(name: Option<&'a str>, value: &'a Bound<'py, PyAny>) -> Self {
        let (step, depth) = (name.map_or(Step::Whole, Step::Key), name.map_or(0, |_| 1));
        Self { value, place: Place { up: None, step, within: std::ptr::null_mut(), depth } }
    }
}

/// The same for a thread that is not attached to the interpreter: it attaches
/// while the value is written.
pub(crate) struct Detached<'a> {
    value: &'a Py<PyAny>,
    name: Option<&'a str>,
}

impl<'a> Detached<'a> {
    /// The whole of a value.
    pub(crate) fn new(value: &'a Py<PyAny>) -> Self {
        Self { value, name: None }
    }

    /// The same for a part of a message, whose name errors begin with.
    pub(crate) fn named(name: &'a str, value: &'a Py<PyAny>) -> Self {
        Self { value, name: Some(name) }
    }
}

impl Serialize for Detached<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Python::attach(|py| Written::named(self.name, self.value.bind(py)).serialize(serializer))
    }
}

/// Where a value stands within the whole; a list on the stack.
#[derive(Clone, Copy)]
struct Place<'a> {
    up: Option<&'a Place<'a>>,
    step: Step<'a>,
    /// What it is a part of, to find out whether something contains itself.
    within: *mut pyo3::ffi::PyObject,
    depth: usize,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Whole,
    Index(usize),
    Key(&'a str),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(up) = self.up {
            up.fmt(f)?;
        }
        match self.step {
            Step::Whole => Ok(()),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) if self.up.is_none_or(Place::is_whole) => f.write_str(key),
            Step::Key(key) => write!(f, ".{key}"),
        }
    }
}

impl<'a> Place<'a> {
    fn is_whole(&self) -> bool {
        matches!(self.step, Step::Whole)
    }

    fn fail<E: Error>(&self, text: impl fmt::Display) -> E {
        if self.is_whole() {
            return E::custom(text);
        }
        let path = self.to_string();
        // Both ends of a path that is very long say enough.
        let length = path.chars().count();
        if length <= PATH {
            return E::custom(format_args!("{path}: {text}"));
        }
        let begin: String = path.chars().take(PATH / 2).collect();
        let end: String = path.chars().skip(length - PATH / 2).collect();
        E::custom(format_args!("{begin}…{end}: {text}"))
    }

    /// Goes into a container.
    fn enter<E: Error>(&self, container: &Bound<'_, PyAny>) -> Result<(), E> {
        let same = |place: &Place<'_>| place.within == container.as_ptr();
        if self.depth < MAX_DEPTH {
            return Ok(());
        }
        let mut place = Some(self);
        while let Some(here) = place {
            if same(here) {
                return Err(self.fail(format_args!("the {} contains itself", type_name(container))));
            }
            place = here.up;
        }
        Err(self.fail(format_args!("it is nested deeper than {MAX_DEPTH} levels")))
    }

    fn part<'b>(&'b self, container: &Bound<'_, PyAny>, step: Step<'b>) -> Place<'b> {
        Place { up: Some(self), step, within: container.as_ptr(), depth: self.depth + 1 }
    }
}

fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "object".into(), |name| name.to_string())
}

impl Serialize for Written<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { value, place } = self;
        // The types themselves first: comparing pointers is all it takes.
        if let Ok(text) = value.cast_exact::<PyString>() {
            return write_text(text, place, serializer);
        }
        if let Ok(number) = value.cast_exact::<PyFloat>() {
            return write_float(number.value(), place, serializer);
        }
        if let Ok(number) = value.cast_exact::<PyInt>() {
            return write_int(number, place, serializer);
        }
        if value.is_none() {
            return serializer.serialize_unit();
        }
        if let Ok(flag) = value.cast_exact::<PyBool>() {
            return serializer.serialize_bool(flag.is_true());
        }
        if let Ok(dict) = value.cast::<PyDict>() {
            return write_dict(dict, place, serializer);
        }
        if let Ok(list) = value.cast::<PyList>() {
            return write_items(value, list.len(), list.iter(), place, serializer);
        }
        if let Ok(tuple) = value.cast::<PyTuple>() {
            return write_items(value, tuple.len(), tuple.iter(), place, serializer);
        }
        write_other(value, place, serializer)
    }
}

/// Subclasses, bytes, and what `plain` makes of the rest.
fn write_other<S: Serializer>(value: &Bound<'_, PyAny>, place: &Place<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    if let Ok(text) = value.cast::<PyString>() {
        return write_text(text, place, serializer);
    }
    if let Ok(number) = value.cast::<PyInt>() {
        return write_int(number, place, serializer);
    }
    if let Ok(number) = value.cast::<PyFloat>() {
        return write_float(number.value(), place, serializer);
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        // MessagePack has bytes; the JSON codec makes Base64 of them.
        return serializer.serialize_bytes(bytes.as_bytes());
    }
    if value.is_instance_of::<PyByteArray>() || value.is_instance_of::<PyMemoryView>() {
        let bytes = value.call_method0("__bytes__").or_else(|_| value.py().get_type::<PyBytes>().call1((value,)));
        let bytes = bytes.map_err(|error| place.fail(fault::text_of(value.py(), &error)))?;
        let bytes = bytes.cast::<PyBytes>().map_err(|error| place.fail(error))?;
        return serializer.serialize_bytes(bytes.as_bytes());
    }
    let plain = plain(value).map_err(|error| unreadable(value, place, &error))?;
    // Deeper by one, so that what makes itself of itself comes to an end.
    place.enter(value)?;
    let place = Place { depth: place.depth + 1, ..*place };
    Written { value: &plain, place }.serialize(serializer)
}

/// A value of a type that JSON lacks, as one that it has.
fn plain<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static PLAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    PLAIN.import(py, "ekuiper._plain", "plain")?.call1((value,))
}

/// Why there is no plain value, with the place of the field that cannot be read,
/// where it is one.
fn unreadable<E: Error>(value: &Bound<'_, PyAny>, place: &Place<'_>, error: &PyErr) -> E {
    let py = value.py();
    let attribute = |name| error.value(py).getattr(name).ok();
    match (attribute("unreadable_field"), error.cause(py)) {
        (Some(field), Some(cause)) => {
            let field = key_text::<E>(&field, place).unwrap_or_else(|_| field.to_string());
            place.part(value, Step::Key(&field)).fail(fault::text_of(py, &cause))
        }
        // `plain` says it in words of its own.
        _ if attribute("is_unsendable").is_some() => place.fail(error.value(py)),
        _ => place.fail(fault::text_of(py, error)),
    }
}

fn write_text<S: Serializer>(text: &Bound<'_, PyString>, place: &Place<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    match text.to_cow() {
        Ok(text) => serializer.serialize_str(&text),
        Err(_) => Err(place.fail("the text is no valid Unicode: it holds half of a surrogate pair")),
    }
}

fn write_int<S: Serializer>(number: &Bound<'_, PyInt>, place: &Place<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    if let Ok(number) = number.extract::<i64>() {
        return serializer.serialize_i64(number);
    }
    match number.extract::<u64>() {
        Ok(number) => serializer.serialize_u64(number),
        Err(_) => Err(place.fail("the integer has more than 64 bits: send it as a text or a float")),
    }
}

fn write_float<S: Serializer>(number: f64, place: &Place<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    if number.is_finite() {
        return serializer.serialize_f64(number);
    }
    let name = if number.is_nan() { "NaN".to_owned() } else { format!("{number}") };
    Err(place.fail(format_args!("{name} is not a number that a message can hold: send None instead")))
}

fn write_items<'py, S: Serializer>(
    container: &Bound<'py, PyAny>,
    length: usize,
    items: impl Iterator<Item = Bound<'py, PyAny>>,
    place: &Place<'_>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    place.enter(container)?;
    let mut seq = serializer.serialize_seq(Some(length))?;
    let mut written = 0;
    for (index, item) in items.enumerate() {
        if index == length {
            break;
        }
        seq.serialize_element(&Written { value: &item, place: place.part(container, Step::Index(index)) })?;
        written += 1;
    }
    if written < length {
        return Err(place.fail("the list became shorter while it was written"));
    }
    seq.end()
}

fn write_dict<S: Serializer>(dict: &Bound<'_, PyDict>, place: &Place<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    place.enter(dict.as_any())?;
    let length = dict.len();
    let mut map = serializer.serialize_map(Some(length))?;
    // Whoever adds to it meanwhile, from `__str__` say, must not be met in
    // iteration, which panics then.
    let mut left = length;
    let mut entries = dict.iter();
    while left > 0 {
        if dict.len() != length {
            return Err(place.fail("the dict changed while it was written"));
        }
        let Some((key, value)) = entries.next() else { break };
        left -= 1;
        match key.cast_exact::<PyString>() {
            Ok(text) => {
                let text = text
                    .to_cow()
                    .map_err(|_| place.fail("a key is no valid Unicode: it holds half of a surrogate pair"))?;
                map.serialize_key(&*text)?;
                let place = place.part(dict.as_any(), Step::Key(&text));
                map.serialize_value(&Written { value: &value, place })?;
            }
            Err(_) => {
                let text = key_text(&key, place)?;
                map.serialize_key(&text)?;
                let place = place.part(dict.as_any(), Step::Key(&text));
                map.serialize_value(&Written { value: &value, place })?;
            }
        }
    }
    map.end()
}

/// A key that is no text, as Python's own `json` writes it.
fn key_text<E: Error>(key: &Bound<'_, PyAny>, place: &Place<'_>) -> Result<String, E> {
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
        return Err(place.fail(format_args!("a key is of type {name}: use str, int, float, bool or None")));
    };
    text.map_err(|error| place.fail(fault::text_of(key.py(), &error)))
}

/// The text of a number, whatever a subclass, such as an enumeration, makes of
/// it.
fn own_text<T: PyTypeInfo>(number: &Bound<'_, PyAny>) -> PyResult<String> {
    let text = number.py().get_type::<T>().call_method1("__repr__", (number,))?;
    text.extract()
}
