//! Tests of sinks.

use std::sync::mpsc;

use ekuiper_core::codec::Format;
use ekuiper_core::description::SinkDescription;
use ekuiper_core::message::{SymbolKind, decode_ack, encode_ack};
use ekuiper_core::transport::TransportError;
use serde::Serialize;
use serde_json::Value;

use super::meta::test_meta;
use crate::configuration::Described;
use crate::context::AckOutlet;
use crate::error::text_of;
use crate::invoke::deliver;
use crate::panic::catch_panic;
use crate::{Config, Result, Sink, SinkContext};

/// Creates a test of a sink.
pub fn sink<S: Sink + 'static>(sink: S) -> SinkTest {
    let SinkDescription { rows, config, .. } = S::describe();
    let described = Described::new(SymbolKind::Sink, config);
    // As the host does.
    let format = if rows { Format::MessagePack } else { Format::Json };
    SinkTest { sink: Box::new(sink), described, config: Value::Null, require_ack: false, format }
}

/// A sink under test that is not open yet.
#[must_use = "a sink test does nothing until `open` is called"]
pub struct SinkTest {
    sink: Box<dyn Sink>,
    described: Described,
    config: Value,
    require_ack: bool,
    format: Format,
}

impl SinkTest {
    /// Sets the configuration, a JSON object.
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// Sets whether the engine asks for acknowledgements, as does
    /// `"requireAck": true` in the configuration.
    pub fn require_ack(mut self, require_ack: bool) -> Self {
        self.require_ack = require_ack;
        self
    }

    /// Configures and opens the sink.
    ///
    /// # Errors
    /// An error or panic of the sink.
    pub fn open(self) -> Result<OpenSink> {
        let Self { mut sink, described, config, require_ack, format } = self;
        let config = Config::try_from(config)?;
        described.configure(&config, || sink.configure(&config))?;
        let require_ack = require_ack || config.get("requireAck") == Some(&Value::Bool(true));
        let (sender, acks) = mpsc::channel();
        let outlet = require_ack.then(|| Box::new(Acks(sender)) as Box<dyn AckOutlet>);
        let ack_mode = catch_panic(|| Ok(sink.ack_mode()))?;
        let ctx = SinkContext::new(test_meta(), outlet, ack_mode);
        catch_panic(|| sink.open(&ctx))?;
        Ok(OpenSink { sink, ctx, acks, format })
    }
}

struct Acks(mpsc::Sender<Vec<u8>>);

impl AckOutlet for Acks {
    fn acknowledge(&self, outcome: Result<(), &str>) -> Result<(), TransportError> {
        self.0.send(encode_ack(outcome).into_owned()).map_err(|_| TransportError::Closed)
    }
}

/// An open sink under test.
pub struct OpenSink {
    sink: Box<dyn Sink>,
    ctx: SinkContext,
    acks: mpsc::Receiver<Vec<u8>>,
    format: Format,
}

impl OpenSink {
    /// Passes a message, a row or an array of rows, to `collect`, and returns
    /// its result: in JSON, or in MessagePack to a sink that
    /// [reads rows](crate::description::SinkDescription::rows).
    ///
    /// # Errors
    /// An error or panic of the sink.
    pub fn send(&mut self, rows: &impl Serialize) -> Result<()> {
        let mut message = Vec::new();
        ekuiper_core::message::encode_rows(&mut message, self.format, rows)?;
        self.send_bytes(&message)
    }

    /// Passes a raw message, JSON or not, to `collect`.
    ///
    /// # Errors
    /// As [`OpenSink::send`].
    pub fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        deliver(&mut *self.sink, &self.ctx, message)
    }

    /// The acknowledgements since the last call, as the engine gets them; empty
    /// where it does not ask for them.
    pub fn acks(&self) -> Vec<Result<(), String>> {
        let read = |ack: Vec<u8>| decode_ack(&ack).unwrap_or_else(|error| Err(text_of(&error)));
        self.acks.try_iter().map(read).collect()
    }

    /// Closes the sink.
    ///
    /// # Errors
    /// An error or panic of the sink.
    pub fn close(mut self) -> Result<()> {
        catch_panic(|| self.sink.close(&self.ctx))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::AckMode;

    type Collect = fn(&SinkContext, Value) -> Result<()>;

    struct Scripted(AckMode, Collect);

    impl Sink for Scripted {
        fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
            self.1(ctx, serde_json::from_slice(data)?)
        }

        fn ack_mode(&self) -> AckMode {
            self.0
        }
    }

    fn open(mode: AckMode, collect: Collect) -> OpenSink {
        sink(Scripted(mode, collect)).config(json!({ "requireAck": true })).open().unwrap()
    }

    #[test]
    fn the_result_of_collect_is_the_acknowledgement() {
        let mut sink = open(AckMode::Automatic, |_, n| match n.as_i64() {
            Some(0) => panic!("zero"),
            Some(n) if n < 0 => Err("negative".into()),
            _ => Ok(()),
        });
        sink.send(&1).unwrap();
        assert_eq!(sink.send(&-1).unwrap_err().to_string(), "negative");
        assert_eq!(sink.send(&0).unwrap_err().to_string(), "panicked: zero");
        assert!(sink.send_bytes(b"\xff").is_err());
        let acks = sink.acks();
        assert_eq!(acks[..3], [Ok(()), Err("negative".into()), Err("panicked: zero".into())]);
        assert!(acks[3].is_err());
        assert_eq!(sink.acks(), []);
    }

    #[test]
    fn one_by_hand_counts_instead_and_a_surplus_one_is_dropped() {
        let mut sink = open(AckMode::Automatic, |ctx, n| {
            ctx.ack_error("by hand")?;
            if n == json!(2) {
                ctx.ack_ok()?;
            }
            Ok(())
        });
        sink.send(&1).unwrap();
        sink.send(&2).unwrap();
        assert_eq!(sink.acks(), [Err("by hand".into()), Err("by hand".into())]);
        let mut sink = open(AckMode::Automatic, |ctx, _| {
            ctx.ack_ok()?;
            Err("too late".into())
        });
        sink.send(&1).unwrap_err();
        assert_eq!(sink.acks(), [Ok(())]);
    }

    #[test]
    fn a_manual_sink_acknowledges_later_and_nobody_does_for_it() {
        let mut sink = open(AckMode::Manual, |ctx, n| {
            if n == json!("flush") {
                (0..3).try_for_each(|_| ctx.ack_ok())?;
                // Four messages have come, and three are acknowledged.
                ctx.ack_error("the last")?;
                ctx.ack_ok()?;
            }
            if n == json!("fail") { Err("it failed".into()) } else { Ok(()) }
        });
        sink.send(&1).unwrap();
        sink.send(&"fail").unwrap_err();
        sink.send(&3).unwrap();
        assert_eq!(sink.acks(), []);
        sink.send(&"flush").unwrap();
        assert_eq!(sink.acks(), [Ok(()), Ok(()), Ok(()), Err("the last".into())]);
    }

    #[test]
    fn nothing_is_acknowledged_where_nobody_asks() {
        let mut sink = sink(Scripted(AckMode::Automatic, |ctx, _| {
            assert!(!ctx.requires_ack());
            Ok(ctx.ack_ok()?)
        }))
        .open()
        .unwrap();
        sink.send(&1).unwrap();
        assert_eq!(sink.acks(), []);
        sink.close().unwrap();
    }

    #[test]
    fn a_long_reason_is_shortened() {
        let mut sink = open(AckMode::Automatic, |_, _| Err("x".repeat(10 << 20).into()));
        sink.send(&1).unwrap_err();
        assert!(sink.acks()[0].as_ref().unwrap_err().len() < 20_000);
    }
}
