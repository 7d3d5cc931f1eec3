//! Checks of the fields that a user sets, before they are added to others.

use ekuiper_core::printable;
use ekuiper_host::SymbolKind;
use ekuiper_host::description::{ConfigFields, DataType, Field};
use serde_json::{Map, Value};

use super::NAMED;

/// Checks the fields that a user sets: each is a known one, and has a value.
///
/// # Errors
/// The field that does not fit, what was expected and what was given.
pub(super) fn check(config: &ConfigFields, kind: SymbolKind, given: &Map<String, Value>) -> Result<(), String> {
    if let Some(unknown) = config.unknown(kind, given).first() {
        let names: Vec<_> = config.fields.iter().map(|field| &field.name).collect();
        let end = if unknown.meant.is_some() { "" } else { "." };
        return Err(match names.is_empty() {
            true => format!("{unknown}{end} It has no fields"),
            false => format!("{unknown}{end} It has {}", printable::some_of(&names, NAMED)),
        });
    }
    // Only what is left out has its default.
    if let Some((name, data_type)) = null("", &config.fields, given) {
        return Err(format!("config field {name}: invalid type: null, expected {data_type}"));
    }
    let mut config = config.clone();
    config.exact = true;
    config.fields.retain(|field| given.contains_key(&field.name));
    config.check(given).map_err(|misfit| format!("config field {misfit}"))
}

/// Returns the first field that is null and wants a value, with its type.
fn null<'a>(path: &str, fields: &'a [Field], given: &Map<String, Value>) -> Option<(String, &'a DataType)> {
    fields.iter().find_map(|field| {
        let path = if path.is_empty() { field.name.clone() } else { format!("{path}.{}", field.name) };
        null_value(path, &field.data_type, given.get(&field.name)?)
    })
}

fn null_value<'a>(path: String, of: &'a DataType, value: &Value) -> Option<(String, &'a DataType)> {
    match (of, value) {
        (DataType::Nullable(_) | DataType::Any, Value::Null) => None,
        (of, Value::Null) => Some((path, of)),
        (DataType::Nullable(of), value) => null_value(path, of, value),
        (DataType::Struct(fields), Value::Object(given)) => null(&path, fields, given),
        (DataType::List(of), Value::Array(items)) => {
            items.iter().enumerate().find_map(|(index, item)| null_value(format!("{path}[{index}]"), of, item))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_that_is_set_is_known_and_has_a_value() {
        let fields = [Field::new("count", DataType::Int).optional(), Field::new("note", DataType::String.nullable())];
        let mut config = ConfigFields::new(fields);
        config.exact = false;
        let check =
            |config: &ConfigFields, given: Value| super::check(config, SymbolKind::Source, given.as_object().unwrap());
        for given in [json!({}), json!({ "count": 1 }), json!({ "note": null, "format": "json" })] {
            assert_eq!(check(&config, given), Ok(()));
        }
        for (given, said) in [
            (json!({ "count": null }), "config field count: invalid type: null, expected int"),
            (json!({ "cuont": 1 }), "unknown config field \"cuont\": did you mean \"count\"? It has count, note"),
            (json!({ "colour": 1 }), "unknown config field \"colour\". It has count, note"),
        ] {
            assert_eq!(check(&config, given).unwrap_err(), said);
        }
        config.open = true;
        assert_eq!(check(&config, json!({ "colour": null })), Ok(()));
    }

    #[test]
    fn a_nested_field_has_a_value_too() {
        let inner = vec![Field::new("user", DataType::String).optional(), Field::new("any", DataType::Any)];
        let of = DataType::Struct(inner);
        let fields = [Field::new("auth", of.clone().nullable()), Field::new("peers", DataType::List(Box::new(of)))];
        let config = ConfigFields::new(fields);
        let check = |given: Value| check(&config, SymbolKind::Sink, given.as_object().unwrap());
        let good = json!({ "auth": { "user": "u", "any": null }, "peers": [{ "any": 1 }] });
        assert_eq!((check(good), check(json!({ "auth": null }))), (Ok(()), Ok(())));
        for (given, name) in [
            (json!({ "auth": { "user": null, "any": 1 } }), "auth.user"),
            (json!({ "peers": [{ "any": 1 }, { "user": null, "any": 1 }] }), "peers[1].user"),
        ] {
            let said = format!("config field {name}: invalid type: null, expected string");
            assert_eq!(check(given).unwrap_err(), said);
        }
    }
}
