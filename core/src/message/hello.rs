//! The plugin's description of itself in its handshake, if the host asked for
//! it.
//!
//! A host that supports more than eKuiper sends `"hello":1` in the launch
//! options. A plugin that supports that begins each connection of its control
//! channel with `handshake ` and a JSON object; official SDKs and older
//! versions of ours send `handshake` as before. On function channels the first
//! message is always `handshake`.
//!
//! The version rules: a host does not use what a plugin does not list, and
//! ignores what it does not know. A change that an older peer would
//! misunderstand gets a new name, or a new number of [`Hello::VERSION`].

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::control::{HANDSHAKE, SymbolKind};
use crate::codec::Format;
use crate::description::Description;

/// A capability of a plugin beyond eKuiper's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Feature {
    /// Functions take [batches](super::BatchWriter).
    Batch,
    /// A sink acknowledges messages in their order, each one once: several may
    /// be in flight.
    AckWindow,
    /// A sink acknowledges consecutive messages by their
    /// [number](super::AckCount), if its start asks for that.
    AckCount,
    /// A sink without acknowledgements [reports](super::Collected) how many
    /// messages it has collected, if its start asks for that.
    Collected,
    /// Calls of a batch can be [cancelled](super::Cancel).
    Cancel,
    /// Functions take [columns](super::end_columns_call), and columnar sources
    /// and sinks send and take them. Only a plugin that is built with Arrow
    /// offers it.
    Columns,
    /// The sockets of a symbol can be in [shared memory](super::Control::transport).
    /// Only a plugin that is built with it, and may use it, offers it.
    SharedMemory,
}

impl Feature {
    /// The features of every plugin of this version.
    pub const ALL: [Self; 5] = [Self::Batch, Self::AckWindow, Self::AckCount, Self::Collected, Self::Cancel];

    /// The feature's name in a [`Hello`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::AckWindow => "ack-window",
            Self::AckCount => "ack-count",
            Self::Collected => "collected",
            Self::Cancel => "cancel",
            Self::Columns => "columns",
            Self::SharedMemory => "shm",
        }
    }
}

/// What a plugin announces in its handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Hello {
    /// The SDK that the plugin was written with.
    #[serde(default)]
    pub sdk: String,
    /// The SDK's version.
    #[serde(default)]
    pub version: String,
    /// The symbols that the plugin serves; they should be those of its
    /// manifest.
    #[serde(default)]
    pub symbols: Symbols,
    /// The names of the codecs that the plugin supports in addition to JSON.
    #[serde(default)]
    pub codecs: Vec<String>,
    /// The names of the plugin's [features](Feature).
    #[serde(default)]
    pub features: Vec<String>,
    /// The plugin's description of itself, if it has one that this version can
    /// read.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "description")]
    pub description: Option<Box<Description>>,
}

/// Reads a description, if it has a form that this version knows: a plugin must
/// not be refused for what it says beyond its symbols.
fn description<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<Description>>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(Description::decode(value.to_string().as_bytes()).ok().map(Box::new))
}

/// The names of a plugin's symbols.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Symbols {
    /// Names of the sources.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Names of the sinks.
    #[serde(default)]
    pub sinks: Vec<String>,
    /// Names of the functions.
    #[serde(default)]
    pub functions: Vec<String>,
}

impl Hello {
    /// The version that a host asks for in its launch options.
    pub const VERSION: u32 = 1;

    /// Creates the hello of a plugin of this SDK, without symbols, codecs or
    /// features.
    pub fn new(sdk: &str, version: &str) -> Self {
        Self { sdk: sdk.to_owned(), version: version.to_owned(), ..Self::default() }
    }

    /// Adds a symbol.
    pub fn serves(&mut self, kind: SymbolKind, symbol: &str) {
        let list = match kind {
            SymbolKind::Source => &mut self.symbols.sources,
            SymbolKind::Sink => &mut self.symbols.sinks,
            SymbolKind::Function => &mut self.symbols.functions,
        };
        list.push(symbol.to_owned());
    }

    /// The symbols of one kind.
    pub fn symbols(&self, kind: SymbolKind) -> &[String] {
        match kind {
            SymbolKind::Source => &self.symbols.sources,
            SymbolKind::Sink => &self.symbols.sinks,
            SymbolKind::Function => &self.symbols.functions,
        }
    }

    /// Adds a feature.
    pub fn with(mut self, feature: Feature) -> Self {
        self.features.push(feature.name().to_owned());
        self
    }

    /// Adds every codec and the features of every plugin of this version.
    pub fn with_everything(mut self) -> Self {
        self.codecs = vec![Format::MessagePack.name().to_owned()];
        self.features = Feature::ALL.iter().map(|feature| feature.name().to_owned()).collect();
        self
    }

    /// Whether the plugin supports this format.
    pub fn speaks(&self, format: Format) -> bool {
        format == Format::Json || self.codecs.iter().any(|name| name == format.name())
    }

    /// Whether the plugin offers this feature.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.iter().any(|name| name == feature.name())
    }

    /// Encodes the hello as the first message of a connection.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = [HANDSHAKE, b" "].concat();
        // Encoding text cannot fail.
        let _ = serde_json::to_writer(&mut message, self);
        message
    }

    /// Decodes the first message of a connection; `None` when it is not a
    /// hello.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let object = message.strip_prefix(HANDSHAKE)?.strip_prefix(b" ")?;
        crate::json::object(object).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::Sdk;
    use crate::manifest::Language;

    #[test]
    fn what_is_said_is_heard() {
        let mut hello = Hello::new("ekuiper-sdk", "0.1.0").with_everything();
        hello.serves(SymbolKind::Function, "revert");
        let heard = Hello::decode(&hello.encode()).unwrap();
        assert_eq!(heard, hello);
        assert!(heard.speaks(Format::MessagePack) && heard.has(Feature::Batch) && heard.has(Feature::AckWindow));
        assert_eq!(heard.symbols(SymbolKind::Function), ["revert"]);
    }

    #[test]
    fn what_is_not_said_is_not_assumed() {
        let hello = Hello::decode(br#"handshake {"sdk":"later","features":["teleport"],"colour":"red"}"#).unwrap();
        assert!(hello.speaks(Format::Json) && !hello.speaks(Format::MessagePack) && !hello.has(Feature::Batch));
    }

    #[test]
    fn a_description_of_a_later_form_is_passed_over() {
        let mut hello = Hello::new("sdk", "1");
        hello.description = Some(Box::new(Description::new("p", Language::Rust, Sdk::new("sdk", "1"))));
        let heard = Hello::decode(&hello.encode()).unwrap();
        assert_eq!(heard, hello);
        for description in [r#"{"format":2,"name":"p"}"#, "7", "null", r#"{"format":1}"#] {
            let message = format!(r#"handshake {{"sdk":"later","description":{description}}}"#);
            let heard = Hello::decode(message.as_bytes()).unwrap();
            assert_eq!((heard.sdk.as_str(), heard.description), ("later", None), "{description}");
        }
    }

    #[test]
    fn only_a_hello_is_one() {
        for message in
            [&b"handshake"[..], b"handshake ", b"handshake []", b"handshake{}", b"handshakes {}", b"ok", b"handshake {"]
        {
            assert!(Hello::decode(message).is_none(), "{message:?}");
        }
    }
}
