//! Values that are only passed on, as text.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// A value as the JSON text that is printed: no tree of values is built of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JsonText(String);

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = Vec::with_capacity(256);
        serde_transcode::transcode(deserializer, &mut serde_json::Serializer::new(&mut text))
            .map_err(serde::de::Error::custom)?;
        String::from_utf8(text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekuiper_host::{Bytes, Format};
    use serde::Serialize;
    use serde_json::{Value, json};

    #[test]
    fn the_text_is_that_of_the_value_in_both_codecs() {
        #[derive(Serialize)]
        struct Row {
            bytes: Bytes,
            number: u64,
            map: std::collections::BTreeMap<u8, f64>,
        }
        let row = Row { bytes: Bytes::from(vec![0, 255]), number: u64::MAX, map: [(3, 1.0)].into() };
        for format in [Format::Json, Format::MessagePack] {
            for value in [json!({"b": [1, -2.5, "ü\n\u{1}", null, true], "a": {}}), json!("x"), json!(1e300), json!([])]
            {
                let mut encoded = Vec::new();
                format.encode(&mut encoded, &value).unwrap();
                let text: JsonText = format.decode(&encoded).unwrap();
                assert_eq!(text.to_string(), value.to_string());
            }
            let mut encoded = Vec::new();
            format.encode(&mut encoded, &row).unwrap();
            let text: JsonText = format.decode(&encoded).unwrap();
            let value: Value = format.decode(&encoded).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text.to_string()).unwrap(), value);
            assert_eq!(text.to_string(), r#"{"bytes":"AP8=","number":18446744073709551615,"map":{"3":1.0}}"#);
        }
    }
}
