//! Binary data as a value.

use std::fmt;
use std::ops::{Deref, DerefMut};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// Binary data: bytes in MessagePack, base64 text in JSON, which has no bytes.
///
/// `serde_bytes`, `bytes::Bytes` and `Vec<u8>` read both forms as well. Only
/// this type also does so where serde buffers a value before it knows its type:
/// inside `#[serde(flatten)]`, and in untagged and internally tagged enums.
///
/// ```
/// use ekuiper_core::codec::{Bytes, Format};
///
/// let mut json = Vec::new();
/// Format::Json.encode(&mut json, &Bytes(vec![0, 255]))?;
/// assert_eq!(json, b"\"AP8=\"");
/// assert_eq!(Format::Json.decode::<Bytes>(&json)?, Bytes(vec![0, 255]));
/// # Ok::<(), ekuiper_core::codec::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// The name of the newtype as which a deserializer is asked for this type.
    /// [`Adapted`](super::Adapted) then gives bytes.
    pub const NEWTYPE: &'static str = "$ekuiper::Bytes";
}

/// The bytes' text form in JSON.
pub(super) fn text(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The JSON codec turns this into text.
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyForm;

        impl<'de> Visitor<'de> for AnyForm {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes, or base64 text")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
                STANDARD
                    .decode(text)
                    .map(Bytes)
                    .map_err(|error| E::custom(format_args!("the text is not base64: {error}")))
            }

            /// Called by a deserializer that is not one of the codecs'.
            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Bytes, D::Error> {
                deserializer.deserialize_any(self)
            }

            /// Called by a plain `serde_json` deserializer of the JSON form.
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Bytes, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = list.next_element()? {
                    bytes.push(byte);
                }
                Ok(Bytes(bytes))
            }
        }

        deserializer.deserialize_newtype_struct(Self::NEWTYPE, AnyForm)
    }
}

impl Deref for Bytes {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl<T: Into<Vec<u8>>> From<T> for Bytes {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}
