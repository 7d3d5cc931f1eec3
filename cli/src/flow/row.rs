//! A row as the text that it is: only its top level is split, and results are
//! put in without touching the rest.

use std::fmt;
use std::ops::Range;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::json_text::JsonText;

/// Names of the fields that functions read or write: a field is known by its
/// number.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Fields(Vec<String>);

impl Fields {
    /// Returns the field's number, which is new if the name is.
    pub(super) fn number(&mut self, name: &str) -> usize {
        self.find(name).unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len() - 1
        })
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|field| field == name)
    }

    pub(super) fn name(&self, number: usize) -> &str {
        &self.0[number]
    }
}

/// A row, and the results that belong to it.
#[derive(Debug)]
pub(super) struct Row<'t> {
    text: &'t str,
    is_object: bool,
    has_fields: bool,
    /// Where the value of each field is.
    found: Vec<Option<Range<usize>>>,
    /// The results, by their field.
    results: Vec<Option<JsonText>>,
}

impl<'t> Row<'t> {
    /// Finds the fields of a row, which is JSON. If a field is there twice, the
    /// last one counts.
    ///
    /// # Errors
    /// A field's name is no text: it has half of a surrogate pair.
    pub(super) fn split(text: &'t str, fields: &Fields) -> Result<Self, serde_json::Error> {
        let is_object = text.starts_with('{');
        let mut found = vec![None; fields.0.len()];
        let mut has_fields = false;
        if is_object {
            let split = Split { text, fields, found: &mut found };
            has_fields = serde_json::Deserializer::from_str(text).deserialize_map(split)?;
        }
        Ok(Self { text, is_object, has_fields, found, results: vec![None; fields.0.len()] })
    }

    /// Returns whether the row is an object, so that it can have fields.
    pub(super) fn is_object(&self) -> bool {
        self.is_object
    }

    /// Returns the value of a field.
    pub(super) fn get(&self, field: usize) -> Option<&str> {
        match &self.results[field] {
            Some(result) => Some(result.as_str()),
            None => self.found[field].clone().map(|place| &self.text[place]),
        }
    }

    /// Sets the value of a field.
    pub(super) fn set(&mut self, field: usize, result: JsonText) {
        self.results[field] = Some(result);
    }

    /// Returns the row with its results: each in the place of the field of its
    /// name, or behind all fields.
    pub(super) fn with_results(&self, fields: &Fields) -> String {
        let results = self.results.iter().enumerate().filter_map(|(field, result)| Some((field, result.as_ref()?)));
        let (mut inside, behind): (Vec<_>, Vec<_>) = results.partition(|(field, _)| self.found[*field].is_some());
        inside.sort_by_key(|(field, _)| self.found[*field].as_ref().map(|place| place.start));
        let length: usize = self.results.iter().flatten().map(|result| result.as_str().len() + 32).sum();
        let mut text = String::with_capacity(self.text.len() + length);
        let mut at = 0;
        for (field, result) in inside {
            let Some(place) = &self.found[field] else { continue };
            text.push_str(&self.text[at..place.start]);
            text.push_str(result.as_str());
            at = place.end;
        }
        if behind.is_empty() {
            text.push_str(&self.text[at..]);
            return text;
        }
        // A row with results is an object, and ends with its brace.
        text.push_str(&self.text[at..self.text.len() - 1]);
        let mut has_fields = self.has_fields;
        for (field, result) in behind {
            if std::mem::replace(&mut has_fields, true) {
                text.push(',');
            }
            text.push_str(&serde_json::Value::from(fields.name(field)).to_string());
            text.push(':');
            text.push_str(result.as_str());
        }
        text.push('}');
        text
    }
}

/// Finds the values of fields.
struct Split<'t, 'f> {
    text: &'t str,
    fields: &'f Fields,
    found: &'f mut [Option<Range<usize>>],
}

impl<'t> Visitor<'t> for Split<'t, '_> {
    /// Whether there are fields at all.
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut has_fields = false;
        while let Some(field) = map.next_key_seed(Name(self.fields))? {
            has_fields = true;
            match field {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(field) => {
                    let value = map.next_value::<&RawValue>()?.get();
                    let start = value.as_ptr() as usize - self.text.as_ptr() as usize;
                    self.found[field] = Some(start..start + value.len());
                }
            }
        }
        Ok(has_fields)
    }
}

/// The number of the field of this name.
struct Name<'f>(&'f Fields);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.find(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(names: &[&str]) -> Fields {
        Fields(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn set(text: &str, results: &[(&str, &str)]) -> String {
        let mut fields = fields(&["a", "b"]);
        results.iter().for_each(|(name, _)| _ = fields.number(name));
        let mut row = Row::split(text, &fields).unwrap();
        for (name, result) in results {
            let field = fields.find(name).unwrap();
            row.set(field, serde_json::from_str(result).unwrap());
            assert_eq!(row.get(field), Some(*result));
        }
        row.with_results(&fields)
    }

    #[test]
    fn fields_are_found_as_they_are() {
        let fields = fields(&["a", "ü", "c", ""]);
        let text = r#"{ "x":{"a":0}, "a" : 1.0 ,"\u00fc":[ 1e400 ],"a":-0,"":"\ud800" }"#;
        let row = Row::split(text, &fields).unwrap();
        let values: Vec<_> = (0..4).map(|field| row.get(field)).collect();
        assert_eq!(values, [Some("-0"), Some("[ 1e400 ]"), None, Some(r#""\ud800""#)]);
        for text in ["[1]", "7", "null", r#""a""#] {
            let row = Row::split(text, &fields).unwrap();
            assert!(!row.is_object() && row.get(0).is_none() && row.with_results(&fields) == text);
        }
        assert!(Row::split(r#"{"\ud800":1}"#, &fields).is_err());
    }

    #[test]
    fn results_are_put_in_and_nothing_else_changes() {
        assert_eq!(set("{}", &[("r", "1")]), r#"{"r":1}"#);
        assert_eq!(set("{ }", &[("r", "1"), ("s", "2")]), r#"{ "r":1,"s":2}"#);
        assert_eq!(set(r#"{"z":1.0,"k":1e400}"#, &[("q\"\n", "[]")]), r#"{"z":1.0,"k":1e400,"q\"\n":[]}"#);
        assert_eq!(
            set(r#"{"b": 1, "x":0,"a":[2]}"#, &[("a", "7"), ("c", "8"), ("b", "9")]),
            r#"{"b": 9, "x":0,"a":7,"c":8}"#
        );
        // The last one is the one that functions see.
        assert_eq!(set(r#"{"a":1,"a":2}"#, &[("a", "3")]), r#"{"a":1,"a":3}"#);
        assert_eq!(set(r#"{"\u0061":1}"#, &[("a", "3"), ("a", "4")]), r#"{"\u0061":4}"#);
        assert_eq!(set(r#"{"n":null}"#, &[]), r#"{"n":null}"#);
    }
}
