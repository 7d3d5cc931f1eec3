//! The type of a function's result, by the name that the compiler gives it.
//!
//! A result is a type that implements `Serialize`, of which there is no value
//! before the first call. The names are for people, and may differ between
//! compilers: a name that is not known is `any`.

use ekuiper_core::description::DataType;

/// The type of the values that `T` is written as.
pub(crate) fn of_type_name<T: ?Sized>() -> DataType {
    parse(std::any::type_name::<T>())
}

fn parse(name: &str) -> DataType {
    let name = name.trim();
    if let Some(text) = name.strip_prefix('&') {
        return parse(text.strip_prefix("'static ").unwrap_or(text));
    }
    if let Some(inside) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return DataType::list(parse(inside.rsplit_once(';').map_or(inside, |(item, _)| item)));
    }
    if let Some(inside) = name.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        return tuple(&split(inside));
    }
    let (path, parameters) = match name.split_once('<') {
        Some((path, rest)) => (path, split(rest.strip_suffix('>').unwrap_or(rest))),
        None => (name, Vec::new()),
    };
    let first = || parameters.first().map_or(DataType::Any, |parameter| parse(parameter));
    // The module of a type of the standard library may differ between versions.
    let (module, last) = path.rsplit_once("::").unwrap_or(("", path));
    let of_std = ["alloc::", "core::", "std::", "hashbrown::"].iter().any(|root| module.starts_with(root));
    match (module, last) {
        ("", "bool") => DataType::Bool,
        ("", "i8" | "i16" | "i32" | "i64" | "i128" | "isize" | "u8" | "u16" | "u32" | "u64" | "u128" | "usize") => {
            DataType::Int
        }
        ("", "f32" | "f64") => DataType::Float,
        ("", "str" | "char") => DataType::String,
        ("ekuiper_core::codec::bytes", "Bytes") => DataType::Bytes,
        ("ekuiper_sdk::output", "Json") => first(),
        ("serde_json::map", "Map") => DataType::of_fields([]),
        (_, "String") if of_std => DataType::String,
        (_, "Cow") if of_std => parameters.last().map_or(DataType::Any, |parameter| parse(parameter)),
        (_, "Vec" | "VecDeque" | "BTreeSet" | "HashSet") if of_std => DataType::list(first()),
        (_, "BTreeMap" | "HashMap") if of_std => DataType::of_fields([]),
        (_, "Option") if of_std => first().nullable(),
        (_, "Box" | "Result") if of_std => first(),
        _ => DataType::Any,
    }
}

fn tuple(items: &[&str]) -> DataType {
    let mut types = items.iter().map(|item| parse(item));
    match types.next() {
        None => DataType::Any,
        Some(first) if types.all(|other| other == first) => DataType::list(first),
        Some(_) => DataType::list(DataType::Any),
    }
}

/// Splits type parameters at their commas, but not at those within them.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0_usize, 0, Vec::new());
    for (position, byte) in text.bytes().enumerate() {
        match byte {
            b'<' | b'(' | b'[' => depth += 1,
            b'>' | b')' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push(text[start..position].trim());
                start = position + 1;
            }
            _ => {}
        }
    }
    let last = text[start..].trim();
    if !last.is_empty() {
        parts.push(last);
    }
    parts.retain(|part| !part.starts_with('\''));
    parts
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::{BTreeMap, HashSet};

    use serde_json::{Map, Value};

    use super::*;
    use crate::{BoxError, Bytes, Json};

    fn name<T: ?Sized>() -> String {
        of_type_name::<T>().to_string()
    }

    #[test]
    fn results_have_types() {
        assert_eq!([name::<bool>(), name::<usize>(), name::<f32>()], ["bool", "int", "float"]);
        assert_eq!([name::<String>(), name::<&'static str>(), name::<Cow<'static, str>>()], ["string"; 3]);
        assert_eq!([name::<Bytes>(), name::<Value>(), name::<()>()], ["bytes", "any", "any"]);
        assert_eq!(
            [name::<Vec<f64>>(), name::<[i64; 3]>(), name::<(u8, u16)>()],
            ["list<float>", "list<int>", "list<int>"]
        );
        assert_eq!([name::<HashSet<String>>(), name::<(u8, String)>()], ["list<string>", "list<any>"]);
        assert_eq!([name::<Option<Vec<Option<u8>>>>(), name::<Box<char>>()], ["list<int?>?", "string"]);
        assert_eq!([name::<BTreeMap<String, u8>>(), name::<Map<String, Value>>()], ["struct", "struct"]);
        assert_eq!([name::<Result<i64, String>>(), name::<Result<Option<bool>, BoxError>>()], ["int", "bool?"]);
        assert_eq!([name::<Json<Vec<String>>>(), name::<Json<(f64, f64)>>()], ["list<string>", "list<float>"]);
    }

    #[test]
    fn unknown_types_are_any() {
        struct Option<T>(#[allow(dead_code)] T);
        assert_eq!([name::<Option<u8>>(), name::<Json<Option<u8>>>()], ["any", "any"]);
        for odd in ["", "<", "Vec<", "(", "alloc::vec::Vec<<", "&", "[;]", "é<é,"] {
            let _ = parse(odd);
        }
    }
}
