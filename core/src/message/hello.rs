//! What a plugin says of itself when it shakes hands, where the host has asked.
//!
//! A host that can do more than eKuiper says `"hello":1` in the launch options.
//! A plugin that understands that begins each connection of its control channel
//! with `handshake ` and a JSON object; all others, official SDKs and our own
//! older versions among them, say `handshake` as ever. Function channels always
//! say `handshake`.
//!
//! The version rules: what a plugin does not list, a host does not use; what a
//! host does not know, it ignores. A change that an older peer would
//! misunderstand gets a new name, or a new number of [`Hello::VERSION`].

use serde::{Deserialize, Serialize};

use super::SymbolKind;
use super::control::HANDSHAKE;
use crate::codec::Format;

/// What a plugin can do beyond eKuiper's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Feature {
    /// Functions take [batches](super::BatchWriter).
    Batch,
    /// A sink acknowledges in the order of the messages, each once: several
    /// may be under way.
    AckWindow,
    /// A sink without acknowledgements [reports](super::Collected) how many
    /// messages it has collected, where its start asks for that.
    Collected,
}

impl Feature {
    /// All that this version knows.
    pub const ALL: [Self; 3] = [Self::Batch, Self::AckWindow, Self::Collected];

    /// Its name in a [`Hello`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::AckWindow => "ack-window",
            Self::Collected => "collected",
        }
    }
}

/// What a plugin says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Hello {
    /// Which SDK it was written with.
    #[serde(default)]
    pub sdk: String,
    /// The SDK's version.
    #[serde(default)]
    pub version: String,
    /// What it serves; to be what its manifest says.
    #[serde(default)]
    pub symbols: Symbols,
    /// The codecs that it knows beside JSON, by name.
    #[serde(default)]
    pub codecs: Vec<String>,
    /// Its [features](Feature), by name.
    #[serde(default)]
    pub features: Vec<String>,
}

/// The names of a plugin's symbols.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Symbols {
    /// Its sources.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Its sinks.
    #[serde(default)]
    pub sinks: Vec<String>,
    /// Its functions.
    #[serde(default)]
    pub functions: Vec<String>,
}

impl Hello {
    /// The number that a host asks with, in its launch options.
    pub const VERSION: u32 = 1;

    /// A plugin of this SDK, without symbols or abilities yet.
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

    /// Offers all that this version of ours can do.
    pub fn with_everything(mut self) -> Self {
        self.codecs = vec![Format::MessagePack.name().to_owned()];
        self.features = Feature::ALL.iter().map(|feature| feature.name().to_owned()).collect();
        self
    }

    /// Whether it knows how to read this.
    pub fn speaks(&self, format: Format) -> bool {
        format == Format::Json || self.codecs.iter().any(|name| name == format.name())
    }

    /// Whether it can do this.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.iter().any(|name| name == feature.name())
    }

    /// The first message of a connection, as it stands on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = [HANDSHAKE, b" "].concat();
        // Texts can be written.
        let _ = serde_json::to_writer(&mut message, self);
        message
    }

    /// Reads the first message of a connection; `None` when it is no hello.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let object = message.strip_prefix(HANDSHAKE)?.strip_prefix(b" ")?;
        crate::json::object(object).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn only_a_hello_is_one() {
        for message in
            [&b"handshake"[..], b"handshake ", b"handshake []", b"handshake{}", b"handshakes {}", b"ok", b"handshake {"]
        {
            assert!(Hello::decode(message).is_none(), "{message:?}");
        }
    }
}
