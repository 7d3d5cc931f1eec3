//! The context of a sink, and the bookkeeping of acknowledgements.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ekuiper_core::Chain;
use ekuiper_core::codec::{Adapted, Error as CodecError, Format};
#[cfg(feature = "arrow")]
use ekuiper_core::columns::{self, TableReader, TableWriter, arrow_array::RecordBatch, arrow_buffer::Buffer};
#[cfg(feature = "arrow")]
use ekuiper_core::message::is_columns;
use ekuiper_core::message::{Meta, RowCount, format_of_rows};
use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::TransportError;
use serde::de::{Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, Error as _};
use tracing::Span;

use super::outlet::AckOutlet;
use crate::ack_mode::AckMode;
use crate::error::{located, shortened, text_of};
use crate::{Error, Result};

/// The context of a sink: its rule instance, and its acknowledgements.
///
/// A clone is the same context: a sink whose [`ack_mode`](crate::Sink::ack_mode)
/// is manual may pass one to a thread that acknowledges later.
#[derive(Clone)]
pub struct SinkContext(Arc<Inner>);

struct Inner {
    meta: Meta,
    span: Span,
    /// `None` where the engine does not ask for acknowledgements.
    outlet: Option<Box<dyn AckOutlet>>,
    mode: AckMode,
    /// The number of messages passed to the sink and not acknowledged yet.
    owed: AtomicU64,
    /// The number of messages that were acknowledged as failed in place of the
    /// sink, and that the sink may still acknowledge.
    given_up: AtomicU64,
    surplus: Throttle,
    unsent: Throttle,
    failures: Throttle,
}

impl SinkContext {
    /// The context of a sink that logs in the current span.
    pub(crate) fn new(meta: Meta, outlet: Option<Box<dyn AckOutlet>>, mode: AckMode) -> Self {
        Self(Arc::new(Inner {
            meta,
            span: Span::current(),
            outlet,
            mode,
            owed: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            surplus: Throttle::default(),
            unsent: Throttle::default(),
            failures: Throttle::default(),
        }))
    }

    /// The rule's id.
    pub fn rule_id(&self) -> &str {
        &self.0.meta.rule_id
    }

    /// The operator's id within the rule.
    pub fn op_id(&self) -> &str {
        &self.0.meta.op_id
    }

    /// The operator's instance, from 0.
    pub fn instance_id(&self) -> i64 {
        self.0.meta.instance_id
    }

    /// The span that names this symbol in the log. The symbol's methods run in
    /// it; a thread of yours enters it by `let _entered =
    /// ctx.span().enter();`.
    pub fn span(&self) -> &Span {
        &self.0.span
    }

    /// Whether the engine waits for an acknowledgement of each message
    /// (`"requireAck": true` in the sink's configuration).
    pub fn requires_ack(&self) -> bool {
        self.0.outlet.is_some()
    }

    /// The rows of a message, which is an object or an array of objects, in
    /// JSON, or in MessagePack for a sink that
    /// [says so](crate::description::SinkDescription::rows).
    ///
    /// # Errors
    /// [`Error::Rows`], with the path and the position: the message is neither,
    /// or a row cannot be read as `T`.
    pub fn rows<T: DeserializeOwned>(&self, data: &[u8]) -> Result<Vec<T>, Error> {
        #[cfg(feature = "arrow")]
        if is_columns(data) {
            let batch = self.batch(data)?;
            let rows = TableReader::new(&batch)?;
            let read = |row| {
                let place = |source| Error::Rows { field: format!("[{row}]"), source };
                rows.row(row).read().map_err(place)
            };
            return (0..batch.num_rows()).map(read).collect();
        }
        match format_of_rows(data) {
            Some((format, RowCount::Many)) => read(format, data),
            Some((format, RowCount::One)) => read(format, data).map(|row| vec![row]),
            None => {
                let source = CodecError::custom("it is neither a JSON object nor an array of rows");
                Err(Error::Rows { field: String::new(), source })
            }
        }
    }

    /// The rows of a message as columns: a record batch, which only a sink gets
    /// that [says so](crate::description::SinkDescription::columnar), or rows, as
    /// every sink gets them. Of rows, each field is a column, of bools, 64-bit
    /// integers, 64-bit floats or texts; a field that a row does not have is
    /// null.
    ///
    /// # Errors
    /// [`Error::Message`]: the batch is malformed. [`Error::Rows`]: the message
    /// is neither, or a field has two types, or lists or objects.
    #[cfg(feature = "arrow")]
    pub fn batch(&self, data: &[u8]) -> Result<RecordBatch, Error> {
        if is_columns(data) {
            return Ok(columns::decode(&Buffer::from(data))?);
        }
        let mut table = TableWriter::new();
        for row in self.rows::<serde_json::Map<String, serde_json::Value>>(data)? {
            table.push(&row)?;
        }
        Ok(table.finish()?)
    }

    /// Acknowledges the oldest message that is not acknowledged yet. Does
    /// nothing where the engine does not ask for acknowledgements.
    ///
    /// Each message is acknowledged once: a surplus acknowledgement is dropped
    /// and logged.
    ///
    /// # Errors
    /// [`Error::Stopped`] once the sink is stopped; [`Error::Transport`] when the
    /// acknowledgement cannot be sent.
    pub fn ack_ok(&self) -> Result<(), Error> {
        self.ack(Ok(()))
    }

    /// Acknowledges the oldest message as failed, with a reason for the engine;
    /// otherwise as [`SinkContext::ack_ok`].
    ///
    /// # Errors
    /// As [`SinkContext::ack_ok`].
    pub fn ack_error(&self, text: &str) -> Result<(), Error> {
        self.ack(Err(text.to_owned()))
    }

    fn ack(&self, outcome: Result<(), String>) -> Result<(), Error> {
        let Some(outlet) = &self.0.outlet else { return Ok(()) };
        let takes_one = |count: &AtomicU64| {
            count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_sub(1)).is_ok()
        };
        if !takes_one(&self.0.owed) {
            if takes_one(&self.0.given_up) {
                return Ok(());
            }
            if let Some(others) = self.0.surplus.pass(Instant::now()) {
                tracing::warn!(others, "a surplus acknowledgement was dropped: each message is acknowledged once");
            }
            return Ok(());
        }
        let outcome = outcome.map_err(shortened);
        outlet.acknowledge(outcome.as_ref().copied().map_err(String::as_str)).map_err(|source| {
            // `give_up` acknowledges it as failed.
            self.0.owed.fetch_add(1, Ordering::AcqRel);
            match source {
                TransportError::Closed => Error::Stopped,
                source => Error::Transport { what: "the acknowledgement was not sent".into(), source },
            }
        })
    }

    /// Takes over the messages that the sink has not acknowledged, and returns
    /// their number: later acknowledgements of the sink are dropped.
    pub(crate) fn give_up(&self) -> u64 {
        if !self.requires_ack() {
            return 0;
        }
        let owed = self.0.owed.swap(0, Ordering::AcqRel);
        self.0.given_up.fetch_add(owed, Ordering::AcqRel);
        owed
    }

    /// Records that a message is about to be passed to the sink.
    pub(crate) fn begin(&self) {
        if self.requires_ack() {
            self.0.owed.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Records the outcome of `collect`, and acknowledges the message in
    /// automatic mode.
    pub(crate) fn end(&self, outcome: &Result<()>) {
        if let Err(error) = outcome
            && let Some(others) = self.0.failures.pass(Instant::now())
        {
            let error = text_of(&**error);
            tracing::error!(%error, others, "the sink failed to collect a message");
        }
        // In automatic mode this message alone is unacknowledged, unless the
        // sink has acknowledged it by hand.
        if !self.requires_ack() || self.0.mode == AckMode::Manual || self.0.owed.load(Ordering::Acquire) == 0 {
            return;
        }
        let acked = self.ack(outcome.as_ref().copied().map_err(|error| text_of(&**error)));
        match acked {
            // The engine no longer waits for the acknowledgement.
            Ok(()) | Err(Error::Stopped) => {}
            Err(error) => {
                if let Some(others) = self.0.unsent.pass(Instant::now()) {
                    tracing::error!(error = %Chain(&error), others, "a message was not acknowledged");
                }
            }
        }
    }
}

fn read<T: DeserializeOwned>(format: Format, data: &[u8]) -> Result<T, Error> {
    format.decode(data).map_err(|source| {
        // Parse again with the path, which valid rows need not pay for.
        if format == Format::Json {
            let mut again = serde_json::Deserializer::from_slice(data);
            let again = serde_path_to_error::deserialize::<_, T>(Adapted::new(&mut again));
            let (field, source) = again.err().map_or((String::new(), source), located);
            return Error::Rows { field, source };
        }
        let mut field = String::new();
        let _ = format.read(data, Traced { path: &mut field, row: PhantomData::<T> });
        Error::Rows { field, source }
    })
}

/// Reads a value, and keeps the path at which that fails.
struct Traced<'a, T> {
    path: &'a mut String,
    row: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Traced<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            // Its text for the whole value.
            if error.path().iter().next().is_some() {
                *self.path = error.path().to_string();
            }
            error.into_inner()
        })
    }
}

impl fmt::Debug for SinkContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkContext")
            .field("meta", &self.0.meta)
            .field("requires_ack", &self.requires_ack())
            .field("owed", &self.0.owed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use ekuiper_core::message::encode_rows;
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Row {
        a: u8,
    }

    fn rows<T: DeserializeOwned>(data: &[u8]) -> Result<Vec<T>, String> {
        SinkContext::new(Meta::default(), None, AckMode::Automatic).rows(data).map_err(|error| text_of(&error))
    }

    #[test]
    fn an_object_or_an_array_of_rows() {
        assert_eq!(rows(br#" {"a":1}"#), Ok(vec![Row { a: 1 }]));
        assert_eq!(rows(br#"[{"a":1},{"a":2}]"#), Ok(vec![Row { a: 1 }, Row { a: 2 }]));
        assert_eq!(rows::<Row>(b"[]"), Ok(vec![]));
        assert_eq!(rows::<Value>(br#"[{"a":[]}]"#), Ok(vec![json!({"a": []})]));
        let frames = |data: &[u8]| rows::<std::collections::BTreeMap<String, Vec<u8>>>(data);
        assert_eq!(frames(br#"{"jpeg":"/9g="}"#), Ok(vec![[("jpeg".into(), vec![255, 216])].into()]));
        assert_eq!(
            frames(br#"{"jpeg":"no base64"}"#),
            Err("invalid message field jpeg: invalid type: string \"no base64\", expected a sequence at line 1 column 19"
                .into())
        );
    }

    #[test]
    fn whatever_else_is_an_error_with_its_place() {
        assert_eq!(
            rows::<Value>(b"7"),
            Err("invalid message: it is neither a JSON object nor an array of rows".into())
        );
        assert!(rows::<Value>(b"").is_err());
        assert!(rows::<Value>(b"\xff\xfe").is_err());
        let error = rows::<Value>(b"{\"a\":\"\xff\"}").unwrap_err();
        assert!(error.starts_with("invalid message field a: invalid unicode"), "{error}");
        let error = rows::<Row>(br#"[{"a":1},{"a":"x"}]"#).unwrap_err();
        assert!(error.starts_with("invalid message field [1].a: invalid type: string \"x\", expected u8"), "{error}");
        let packed = |rows: &Value| {
            let mut message = Vec::new();
            encode_rows(&mut message, Format::MessagePack, rows).unwrap();
            message
        };
        assert_eq!(rows(&packed(&json!([{"a":1},{"a":2}]))), Ok(vec![Row { a: 1 }, Row { a: 2 }]));
        assert_eq!(rows(&packed(&json!({"a":1}))), Ok(vec![Row { a: 1 }]));
        let error = rows::<Row>(&packed(&json!([{"a":1},{"a":"x"}]))).unwrap_err();
        assert!(error.starts_with("invalid message field [1].a: "), "{error}");
        let mut cut = packed(&json!([{"a":1},{"a":2}]));
        cut.pop();
        assert!(rows::<Row>(&cut).is_err());
        cut.extend([2, 2]);
        assert_eq!(rows::<Row>(&cut), Err("invalid message: trailing bytes".into()));
        let error = rows::<Row>(br#"{"b":1}"#).unwrap_err();
        assert!(error.starts_with("invalid message field a: missing field `a`"), "{error}");
    }

    struct Taken;

    impl AckOutlet for Taken {
        fn acknowledge(&self, _: Result<(), &str>) -> Result<(), TransportError> {
            Ok(())
        }
    }

    #[test]
    fn what_was_acknowledged_in_place_of_the_sink_is_no_surplus_of_it() {
        let ctx = SinkContext::new(Meta::default(), Some(Box::new(Taken)), AckMode::Manual);
        // A warning passes once a second.
        let has_warned = || ctx.0.surplus.pass(Instant::now()).is_none();
        ctx.begin();
        // The plugin is told to end while the sink collects the message.
        assert_eq!(ctx.give_up(), 1);
        ctx.ack_ok().unwrap();
        assert!(!has_warned());
        let ctx = SinkContext::new(Meta::default(), Some(Box::new(Taken)), AckMode::Manual);
        ctx.ack_ok().unwrap();
        assert!(ctx.0.surplus.pass(Instant::now()).is_none(), "a real one is logged");
    }
}
