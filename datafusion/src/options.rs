//! The options of a table, as `OPTIONS (…)` has them.

use std::collections::HashMap;

use ekuiper_host::description::{ConfigFields, DataType};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// What `OPTIONS (…)` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TableOptions {
    /// What the source is to read.
    pub(crate) datasource: String,
    /// The configuration of the source or sink.
    pub(crate) config: Map<String, Value>,
    /// Whether the source never ends.
    pub(crate) is_endless: bool,
    /// Whether the sink acknowledges each message.
    pub(crate) has_acks: bool,
    /// Maximum number of rows in a message to the sink; `None`: as many as
    /// 512 KiB hold.
    pub(crate) rows_per_message: Option<usize>,
}

impl TableOptions {
    /// The options of a source without `OPTIONS (…)`.
    pub(crate) fn endless() -> Self {
        Self { is_endless: true, ..Self::default() }
    }

    /// Reads options: those of the table, and all others as the fields of the
    /// configuration, whose names SQL has turned to lower case.
    pub(crate) fn read(options: &HashMap<String, String>, fields: Option<&ConfigFields>) -> Result<Self> {
        let mut read = Self::endless();
        for (name, text) in options {
            // DataFusion puts this before a name without a point.
            let name = name.strip_prefix("format.").unwrap_or(name);
            match name {
                "datasource" => read.datasource.clone_from(text),
                "endless" => read.is_endless = flag(name, text)?,
                "acks" => read.has_acks = flag(name, text)?,
                "rows_per_message" => {
                    let rows = text.parse().ok().filter(|rows| *rows > 0);
                    read.rows_per_message = Some(rows.ok_or_else(|| wrong(name, text, "a number from 1"))?);
                }
                "config" => match serde_json::from_str(text) {
                    Ok(Value::Object(config)) => read.config.extend(config),
                    _ => return Err(wrong(name, text, "an object in JSON")),
                },
                _ => {
                    let known = fields
                        .and_then(|known| known.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)));
                    let is_text = known.is_some_and(|field| *field.data_type.without_null() == DataType::String);
                    let value = serde_json::from_str(text).ok().filter(|_| !is_text);
                    let name = known.map_or(name, |field| &field.name);
                    read.config.insert(name.to_owned(), value.unwrap_or_else(|| text.clone().into()));
                }
            }
        }
        Ok(read)
    }
}

fn flag(name: &str, text: &str) -> Result<bool> {
    text.parse().map_err(|_| wrong(name, text, "true or false"))
}

fn wrong(name: &str, text: &str, expected: &str) -> Error {
    Error::Plan(format!("the option {name} is {text:?}, and must be {expected}"))
}

#[cfg(test)]
mod tests {
    use ekuiper_host::description::Field;
    use serde_json::json;

    use super::*;

    #[test]
    fn options_are_the_tables_or_the_configurations() {
        let mut fields = ConfigFields::default();
        fields.fields = vec![Field::new("maxRows", DataType::Int), Field::new("code", DataType::String)];
        let options = [
            ("format.maxrows", "3"),
            ("format.code", "007"),
            ("format.other", "true"),
            ("format.datasource", "topic"),
            ("format.endless", "false"),
            ("format.config", r#"{"Case": 1}"#),
        ];
        let options = options.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let read = TableOptions::read(&options, Some(&fields)).unwrap();
        assert_eq!(Value::Object(read.config), json!({ "maxRows": 3, "code": "007", "other": true, "Case": 1 }));
        assert_eq!((read.datasource.as_str(), read.is_endless), ("topic", false));
        for (name, text) in [("acks", "yes"), ("config", "[]"), ("rows_per_message", "0")] {
            let options = HashMap::from([(name.to_owned(), text.to_owned())]);
            let error = TableOptions::read(&options, None).unwrap_err().to_string();
            assert!(error.starts_with(&format!("the option {name} is {text:?}")), "{error}");
        }
    }
}
