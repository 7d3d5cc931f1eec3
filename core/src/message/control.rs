//! The control channel: start and stop of symbols.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::codec::Format;
use crate::{Error, Result};

/// The first message of a plugin on a control or function channel, and the
/// keepalive of the official SDKs: exactly these bytes, not a message that
/// merely begins with them (fault 3).
pub const HANDSHAKE: &[u8] = b"handshake";

/// The answer to a command that succeeded. Any other answer is an error's text.
pub const ANSWER_OK: &[u8] = b"ok";

/// The kind of a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SymbolKind {
    /// Produces tuples for the engine.
    #[serde(rename = "source")]
    Source,
    /// Consumes tuples from the engine.
    #[serde(rename = "sink")]
    Sink,
    /// Computes a value from values.
    #[serde(rename = "func")]
    Function,
}

impl SymbolKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Source, Self::Sink, Self::Function];
}

impl fmt::Display for SymbolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Source => "source",
            Self::Sink => "sink",
            Self::Function => "function",
        })
    }
}

/// The rule, operator and instance that a source or sink works for. Empty in a
/// function's control message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// The rule.
    #[serde(default)]
    pub rule_id: String,
    /// The operator within the rule.
    #[serde(default)]
    pub op_id: String,
    /// The operator's instance, from 0.
    #[serde(default)]
    pub instance_id: i64,
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.rule_id, self.op_id, self.instance_id)
    }
}

/// The target and configuration of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Control {
    /// The symbol's name in the manifest.
    pub symbol_name: String,
    /// The rule, operator and instance that the symbol works for.
    #[serde(default)]
    pub meta: Meta,
    /// The symbol's kind.
    pub plugin_type: SymbolKind,
    /// A source's topic, in the protocol's spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_source: Option<String>,
    /// A source's topic, in the spelling that the official Python SDK reads
    /// (fault 12).
    #[serde(default, rename = "datasource", skip_serializing_if = "Option::is_none")]
    pub data_source_lowercase: Option<String>,
    /// The configuration in the engine's stream or action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Map<String, Value>>,
    /// The format of the symbol's messages: the name of a codec that the plugin
    /// has offered in its [hello](super::Hello). Absent: JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<String>,
    /// Whether a sink should report on its ack channel how many messages it has
    /// [collected](super::Collected). Set only for a plugin that offers
    /// [`Feature::Collected`](super::Feature::Collected).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reports: bool,
    /// Whether a sink may acknowledge several messages at once, by their
    /// [number](super::AckCount). Set only for a plugin that offers
    /// [`Feature::AckCount`](super::Feature::AckCount).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ack_counts: bool,
    /// Whether a source should send record batches as they are, as Arrow IPC
    /// streams, and not row by row. Set only for a plugin that offers
    /// [`Feature::Columns`](super::Feature::Columns).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub columns: bool,
    /// The name of the transport of the symbol's own channels. Absent: that of
    /// the control channel. Set only for a plugin that offers
    /// [`Feature::SharedMemory`](super::Feature::SharedMemory).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
}

impl Control {
    /// Creates the control message of a function, which belongs to no rule.
    pub fn function(symbol: &str) -> Self {
        Self::new(SymbolKind::Function, symbol, Meta::default())
    }

    /// Creates the control message of a sink.
    pub fn sink(symbol: &str, meta: Meta, config: Map<String, Value>) -> Self {
        Self { config: Some(config), ..Self::new(SymbolKind::Sink, symbol, meta) }
    }

    /// Creates the control message of a source. The topic is written to every
    /// field that plugins read: `dataSource`, `datasource` and
    /// `config.datasource`.
    pub fn source(symbol: &str, meta: Meta, datasource: &str, mut config: Map<String, Value>) -> Self {
        let mut topic = None;
        if !datasource.is_empty() {
            topic = Some(datasource.to_owned());
            config.insert("datasource".into(), datasource.into());
        }
        Self {
            data_source: topic.clone(),
            data_source_lowercase: topic,
            config: Some(config),
            ..Self::new(SymbolKind::Source, symbol, meta)
        }
    }

    fn new(plugin_type: SymbolKind, symbol: &str, meta: Meta) -> Self {
        Self {
            symbol_name: symbol.to_owned(),
            meta,
            plugin_type,
            data_source: None,
            data_source_lowercase: None,
            config: None,
            codec: None,
            reports: false,
            ack_counts: false,
            columns: false,
            transport: None,
        }
    }

    /// Sets the format of the symbol's messages.
    pub fn with_format(mut self, format: Format) -> Self {
        self.codec = (format != Format::default()).then(|| format.name().to_owned());
        self
    }

    /// Sets whether a sink should report what it has collected.
    pub fn with_reports(mut self, reports: bool) -> Self {
        self.reports = reports;
        self
    }

    /// Sets whether a sink may acknowledge several messages at once.
    pub fn with_ack_counts(mut self, ack_counts: bool) -> Self {
        self.ack_counts = ack_counts;
        self
    }

    /// Sets whether a source should send record batches as they are.
    pub fn with_columns(mut self, columns: bool) -> Self {
        self.columns = columns;
        self
    }

    /// Sets the transport of the symbol's own channels.
    pub fn with_transport(mut self, transport: Option<&str>) -> Self {
        self.transport = transport.map(str::to_owned);
        self
    }

    /// The format of the symbol's messages.
    ///
    /// # Errors
    /// [`Error::UnknownCodec`] when the codec's name is not known.
    pub fn format(&self) -> Result<Format> {
        let Some(name) = &self.codec else { return Ok(Format::default()) };
        Format::by_name(name).ok_or_else(|| Error::UnknownCodec { name: name.clone() })
    }

    /// A source's topic: `dataSource`, else `datasource`, else
    /// `config.datasource`, else empty.
    pub fn datasource(&self) -> &str {
        let configured = || self.config.as_ref()?.get("datasource")?.as_str();
        [self.data_source.as_deref(), self.data_source_lowercase.as_deref(), configured()]
            .into_iter()
            .flatten()
            .find(|topic| !topic.is_empty())
            .unwrap_or_default()
    }

    /// Whether the engine waits for an acknowledgement of each message.
    pub fn requires_ack(&self) -> bool {
        self.config.as_ref().and_then(|config| config.get("requireAck")) == Some(&Value::Bool(true))
    }
}

/// The action of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandKind {
    /// Start a symbol.
    Start,
    /// Stop a source or a sink.
    Stop,
}

impl fmt::Display for CommandKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Start => "start",
            Self::Stop => "stop",
        })
    }
}

/// A command on the control channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// The action.
    pub kind: CommandKind,
    /// The symbol and its configuration.
    pub control: Control,
}

/// The wire form of a command, in which the control message is a JSON string
/// inside the JSON.
#[derive(Serialize, Deserialize)]
struct Envelope {
    cmd: CommandKind,
    arg: String,
}

impl Command {
    /// Decodes a command.
    ///
    /// # Errors
    /// [`Error::Message`] when the bytes have another form.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let wrong = |source| Error::Message { what: "the control command", source };
        let envelope: Envelope = crate::json::object(bytes).map_err(wrong)?;
        let control = crate::json::object(envelope.arg.as_bytes()).map_err(wrong)?;
        Ok(Self { kind: envelope.cmd, control })
    }

    /// Encodes the command.
    ///
    /// # Errors
    /// [`Error::Encode`] when the configuration cannot be encoded.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let wrong = |source| Error::Encode { what: "the control command", source };
        let arg = serde_json::to_string(&self.control).map_err(wrong)?;
        serde_json::to_vec(&Envelope { cmd: self.kind, arg }).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_engines_command_is_read() {
        let wire = br#"{"cmd":"start","arg":"{\"symbolName\":\"random\",\"meta\":{\"ruleId\":\"r1\",\"opId\":\"py\",\"instanceId\":2},\"pluginType\":\"source\",\"config\":{\"datasource\":\"t\",\"interval\":5}}"}"#;
        let command = Command::decode(wire).unwrap();
        assert_eq!(command.kind, CommandKind::Start);
        assert_eq!(command.control.meta, Meta { rule_id: "r1".into(), op_id: "py".into(), instance_id: 2 });
        assert_eq!(command.control.plugin_type, SymbolKind::Source);
        assert_eq!(command.control.datasource(), "t");
        assert!(!command.control.requires_ack());
        assert_eq!(Command::decode(&command.encode().unwrap()).unwrap(), command);
    }

    #[test]
    fn a_function_and_a_null_config_are_read() {
        let wire = br#"{"cmd":"stop","arg":"{\"symbolName\":\"f\",\"meta\":{\"ruleId\":\"\",\"opId\":\"\",\"instanceId\":0},\"pluginType\":\"func\",\"dataSource\":\"\",\"config\":null}"}"#;
        assert_eq!(Command::decode(wire).unwrap().control.datasource(), "");
    }

    #[test]
    fn the_topic_is_found_in_this_order() {
        let control = |text: serde_json::Value| -> Control {
            let mut all = json!({"symbolName": "s", "pluginType": "source"});
            all.as_object_mut().unwrap().extend(text.as_object().unwrap().clone());
            serde_json::from_value(all).unwrap()
        };
        let all = json!({"dataSource": "a", "datasource": "b", "config": {"datasource": "c"}});
        assert_eq!(control(all).datasource(), "a");
        assert_eq!(
            control(json!({"dataSource": "", "datasource": "b", "config": {"datasource": "c"}})).datasource(),
            "b"
        );
        assert_eq!(control(json!({"config": {"datasource": "c"}})).datasource(), "c");
    }

    #[test]
    fn our_source_command_says_the_topic_everywhere() {
        let control = Control::source("s", Meta::default(), "topic", Map::new());
        let value = serde_json::to_value(&control).unwrap();
        assert_eq!(value["dataSource"], "topic");
        assert_eq!(value["datasource"], "topic");
        assert_eq!(value["config"]["datasource"], "topic");
    }

    #[test]
    fn only_true_asks_for_acks() {
        let sink = |value| Control::sink("s", Meta::default(), Map::from_iter([("requireAck".to_owned(), value)]));
        assert!(sink(json!(true)).requires_ack());
        assert!(!sink(json!("true")).requires_ack());
        assert!(!sink(json!(false)).requires_ack());
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in [
            &b""[..],
            b"handshake",
            b"{}",
            br#"{"cmd":"start","arg":{}}"#,
            br#"{"cmd":"go","arg":"{}"}"#,
            br#"["start","{\"symbolName\":\"f\",\"pluginType\":\"func\"}"]"#,
            br#"{"cmd":"start","arg":"[\"f\",{},\"func\"]"}"#,
            b"\xff\xfe",
        ] {
            assert!(Command::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
