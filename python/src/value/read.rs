//! The conversion from a codec to Python objects.

use std::cell::RefCell;
use std::fmt;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::Serialize;

/// A key's text, and its object.
type Key = (Box<str>, Py<PyString>);

/// The keys of earlier maps, which are usually those of the next one.
#[derive(Default)]
pub(crate) struct Keys(RefCell<Vec<Option<Key>>>);

impl Keys {
    /// The number of keys that are kept, each in a place of its own.
    const COUNT: usize = 64;

    /// The maximum length of a key that is kept, in bytes.
    const LONGEST: usize = 32;

    fn get<'py>(&self, py: Python<'py>, key: &str) -> Bound<'py, PyString> {
        let (Some(first), Some(last)) = (key.bytes().next(), key.bytes().last()) else {
            return PyString::new(py, key);
        };
        if key.len() > Self::LONGEST {
            return PyString::new(py, key);
        }
        let mut places = self.0.borrow_mut();
        if places.is_empty() {
            places.resize_with(Self::COUNT, || None);
        }
        let place =
            key.len() * 5 + usize::from(first) * 3 + usize::from(last) * 7 + usize::from(key.as_bytes()[key.len() / 2]);
        let place = &mut places[place % Self::COUNT];
        match place {
            Some((kept, object)) if **kept == *key => object.bind(py).clone(),
            _ => {
                let object = PyString::new(py, key);
                let former = place.replace((key.into(), object.clone().unbind()));
                drop(places);
                drop(former);
                object
            }
        }
    }
}

/// A seed that reads one value as a Python object.
#[derive(Clone, Copy)]
pub(crate) struct Seed<'a, 'py> {
    py: Python<'py>,
    keys: Option<&'a Keys>,
}

impl<'a, 'py> Seed<'a, 'py> {
    /// A seed for a single value.
    pub(crate) fn new(py: Python<'py>) -> Self {
        Self { py, keys: None }
    }

    /// A seed for one of many values with the same keys.
    pub(crate) fn with(py: Python<'py>, keys: &'a Keys) -> Self {
        Self { py, keys: Some(keys) }
    }
}

impl<'de, 'py> DeserializeSeed<'de> for Seed<'_, 'py> {
    type Value = Bound<'py, PyAny>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, 'py> Visitor<'de> for Seed<'_, 'py> {
    type Value = Bound<'py, PyAny>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(PyBool::new(self.py, value).to_owned().into_any())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(PyInt::new(self.py, value).into_any())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(PyInt::new(self.py, value).into_any())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(PyFloat::new(self.py, value).into_any())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(PyString::new(self.py, value).into_any())
    }

    fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<Self::Value, E> {
        Ok(PyBytes::new(self.py, value).into_any())
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(self.py.None().into_bound(self.py))
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let list = PyList::empty(self.py);
        while let Some(item) = seq.next_element_seed(self)? {
            list.append(item).map_err(A::Error::custom)?;
        }
        Ok(list.into_any())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let dict = PyDict::new(self.py);
        while let Some(key) = map.next_key_seed(KeySeed(self))? {
            let value = map.next_value_seed(self)?;
            dict.set_item(key, value).map_err(A::Error::custom)?;
        }
        Ok(dict.into_any())
    }
}

/// A seed that reads a map's key.
struct KeySeed<'a, 'py>(Seed<'a, 'py>);

impl<'de, 'py> DeserializeSeed<'de> for KeySeed<'_, 'py> {
    type Value = Bound<'py, PyString>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, 'py> Visitor<'de> for KeySeed<'_, 'py> {
    type Value = Bound<'py, PyString>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.keys.map_or_else(|| PyString::new(self.0.py, key), |keys| keys.get(self.0.py, key)))
    }
}

/// Converts a Rust value to a Python object.
pub(crate) fn to_python<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let wrong = |error: serde_json::Error| pyo3::exceptions::PyValueError::new_err(error.to_string());
    let value = serde_json::to_value(value).map_err(wrong)?;
    Seed::new(py).deserialize(value).map_err(wrong)
}
