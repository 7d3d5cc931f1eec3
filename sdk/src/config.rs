//! A symbol's configuration.

use ekuiper_core::codec::Adapted;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::located;
use crate::{Error, Result};

/// The configuration from the engine's stream or action: a JSON object.
///
/// [`Config::parse`] reads all of it into a type; the other methods read one
/// field. Every error names the field, with its path.
///
/// ```
/// use ekuiper_sdk::{Chain, Config, json};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Settings { server: Server, #[serde(default)] topic: String }
/// #[derive(Deserialize)]
/// struct Server { port: u16 }
///
/// let config = Config::try_from(json!({ "server": { "port": 1883 } }))?;
/// assert_eq!(config.parse::<Settings>()?.server.port, 1883);
/// assert_eq!(config.field_or("retries", 3)?, 3);
///
/// let config = Config::try_from(json!({ "server": { "port": "mqtt" } }))?;
/// let error = config.parse::<Settings>().err().map(|error| Chain(&error).to_string());
/// assert_eq!(error.as_deref(), Some("invalid config field server.port: invalid type: string \"mqtt\", expected u16"));
/// # Ok::<(), ekuiper_sdk::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config(Map<String, Value>);

impl Config {
    /// Reads the whole configuration into a type.
    ///
    /// # Errors
    /// [`Error::Config`] with the path of the field that is missing or wrong.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_path_to_error::deserialize(Adapted::new(&self.0)).map_err(|error| {
            let (field, source) = located(error);
            Error::Config { field, source }
        })
    }

    /// Reads one field.
    ///
    /// # Errors
    /// [`Error::Config`] with the path when the field is missing or wrong.
    pub fn field<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        let missing = || serde::de::Error::custom(format_args!("missing field `{name}`"));
        let value = self.0.get(name).ok_or_else(|| Error::Config { field: name.to_owned(), source: missing() })?;
        read(name, value)
    }

    /// Reads one field, which may be missing or `null`.
    ///
    /// # Errors
    /// [`Error::Config`] with the path when the field is present and wrong.
    pub fn optional<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(name, value).map(Some),
        }
    }

    /// Reads one field, or returns `default` if it is missing or `null`.
    ///
    /// # Errors
    /// As [`Config::optional`].
    pub fn field_or<T: DeserializeOwned>(&self, name: &str, default: T) -> Result<T, Error> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// The value of one field, unconverted.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// All fields.
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Whether the configuration has no fields.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn read<T: DeserializeOwned>(name: &str, value: &Value) -> Result<T, Error> {
    serde_path_to_error::deserialize(Adapted::new(value)).map_err(|error| {
        let (within, source) = located(error);
        let separator = if within.is_empty() || within.starts_with('[') { "" } else { "." };
        Error::Config { field: format!("{name}{separator}{within}"), source }
    })
}

impl From<Map<String, Value>> for Config {
    fn from(map: Map<String, Value>) -> Self {
        Self(map)
    }
}

impl TryFrom<Value> for Config {
    type Error = Error;

    /// # Errors
    /// [`Error::Config`] when the value is not a JSON object; `null` is read as
    /// an empty one.
    fn try_from(value: Value) -> Result<Self, Error> {
        match value {
            Value::Null => Ok(Self::default()),
            value => {
                serde_json::from_value(value).map(Self).map_err(|source| Error::Config { field: String::new(), source })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::text_of;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        server: Server,
        #[serde(default)]
        brokers: Vec<Server>,
    }

    #[derive(Debug, Deserialize)]
    struct Server {
        port: u16,
    }

    fn config(value: Value) -> Config {
        Config::try_from(value).unwrap()
    }

    fn refused(value: Value) -> String {
        text_of(&config(value).parse::<Settings>().unwrap_err())
    }

    #[test]
    fn a_wrong_field_is_named_with_its_path() {
        let settings = config(json!({"server": {"port": 7}})).parse::<Settings>().unwrap();
        assert_eq!((settings.server.port, settings.brokers.len()), (7, 0));
        assert_eq!(
            refused(json!({"server": {"port": "x"}})),
            "invalid config field server.port: invalid type: string \"x\", expected u16"
        );
        assert_eq!(
            refused(json!({"server": {"port": 1}, "brokers": [{"port": 1}, {"port": 70000}]})),
            "invalid config field brokers[1].port: invalid value: integer `70000`, expected u16"
        );
        assert!(
            refused(json!({"server": {"port": 1}, "sever": 1}))
                .starts_with("invalid config field sever: unknown field")
        );
    }

    #[test]
    fn a_missing_field_is_named_with_its_path() {
        assert_eq!(refused(json!({})), "invalid config field server: missing field `server`");
        assert_eq!(refused(json!({"server": {}})), "invalid config field server.port: missing field `port`");
    }

    #[test]
    fn single_fields_are_read() {
        let config = config(json!({"a": 1, "n": null, "s": {"port": "x"}, "l": [1, "x"]}));
        assert_eq!(config.field::<u8>("a").unwrap(), 1);
        assert_eq!(config.optional::<u8>("n").unwrap(), None);
        assert_eq!(config.field_or("z", 5).unwrap(), 5);
        assert_eq!(text_of(&config.field::<u8>("z").unwrap_err()), "invalid config field z: missing field `z`");
        let error = text_of(&config.field::<Server>("s").unwrap_err());
        assert!(error.starts_with("invalid config field s.port: invalid type"), "{error}");
        let error = text_of(&config.optional::<Vec<u8>>("l").unwrap_err());
        assert!(error.starts_with("invalid config field l[1]: invalid type"), "{error}");
    }

    #[test]
    fn bytes_are_read_from_base64_text() {
        let config = config(json!({"key": "AP8=", "keys": {"a": "AP8="}, "list": [0, 255], "text": "no base64"}));
        assert_eq!(config.field::<Vec<u8>>("key").unwrap(), [0, 255]);
        assert_eq!(config.field::<crate::Bytes>("key").unwrap().0, [0, 255]);
        assert_eq!(config.field::<Vec<u8>>("list").unwrap(), [0, 255]);
        #[derive(Deserialize)]
        struct Keys {
            key: Vec<u8>,
            keys: std::collections::BTreeMap<String, crate::Bytes>,
        }
        let Keys { key, keys } = config.parse().unwrap();
        assert_eq!((&key, &keys["a"].0), (&vec![0, 255], &vec![0, 255]));
        let error = text_of(&config.field::<Vec<u8>>("text").unwrap_err());
        assert_eq!(error, "invalid config field text: invalid type: string \"no base64\", expected a sequence");
    }

    #[test]
    fn only_an_object_is_a_config() {
        assert!(config(json!(null)).is_empty());
        let error = text_of(&Config::try_from(json!([1])).unwrap_err());
        assert_eq!(error, "invalid config: invalid type: sequence, expected a map");
    }
}
