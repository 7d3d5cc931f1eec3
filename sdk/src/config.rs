//! A symbol's configuration.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The configuration from the engine's stream or action: a JSON object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config(Map<String, Value>);

impl Config {
    /// Reads it into a type of yours.
    ///
    /// # Errors
    /// [`Error::Config`] with the path of the field that is missing or wrong.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_path_to_error::deserialize(Value::Object(self.0.clone())).map_err(|error| {
            let field = error.path().to_string();
            Error::Config { field, source: error.into_inner() }
        })
    }

    /// One field.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }

    /// All fields.
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl From<Map<String, Value>> for Config {
    fn from(map: Map<String, Value>) -> Self {
        Self(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    struct Settings {
        server: Server,
    }

    #[derive(Debug, Deserialize)]
    struct Server {
        port: u16,
    }

    fn config(value: Value) -> Config {
        value.as_object().unwrap().clone().into()
    }

    #[test]
    fn a_wrong_field_is_named() {
        assert_eq!(config(json!({"server": {"port": 7}})).parse::<Settings>().unwrap().server.port, 7);
        let error = config(json!({"server": {"port": "x"}})).parse::<Settings>().unwrap_err().to_string();
        assert_eq!(error, "config field server.port: invalid type: string \"x\", expected u16");
        let error = config(json!({"server": {}})).parse::<Settings>().unwrap_err().to_string();
        assert_eq!(error, "config field server: missing field `port`");
    }
}
