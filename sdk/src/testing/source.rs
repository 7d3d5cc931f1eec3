//! Tests of sources.

use std::sync::mpsc;
use std::time::Duration;

use ekuiper_core::codec::Format;
use ekuiper_core::message::{SourceMessage, SymbolKind, Tuple};
use ekuiper_core::transport::TransportError;
use serde_json::Value;

use super::meta::test_meta;
use crate::configuration::Described;
use crate::context::Outlet;
use crate::error::text_of;
use crate::invoke::run_source;
use crate::{Config, Result, Source, SourceContext};

/// The maximum wait for a source's next tuple, and for its end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Creates a test of a source.
pub fn source<S: Source + 'static>(source: S) -> SourceTest {
    let described = Described::new(SymbolKind::Source, S::describe().config);
    SourceTest { source: Box::new(source), described, datasource: String::new(), config: Value::Null }
}

/// A source under test that is not open yet.
#[must_use = "a source test does nothing until `open` or `take` is called"]
pub struct SourceTest {
    source: Box<dyn Source>,
    described: Described,
    datasource: String,
    config: Value,
}

impl SourceTest {
    /// Sets the datasource, such as a topic.
    pub fn datasource(mut self, datasource: impl Into<String>) -> Self {
        self.datasource = datasource.into();
        self
    }

    /// Sets the configuration, a JSON object.
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// Configures and opens the source.
    ///
    /// # Errors
    /// An error or panic of `configure`.
    pub fn open(self) -> Result<RunningSource> {
        let Self { mut source, described, datasource, config } = self;
        let config = Config::try_from(config)?;
        described.configure(&config, || source.configure(&datasource, &config))?;
        // Without capacity: `emit` blocks until the tuple is read, as in production.
        let (sender, emitted) = mpsc::sync_channel(0);
        let ctx = SourceContext::new(test_meta(), Format::Json, false, Box::new(Collected(sender.clone())));
        let opened = ctx.clone();
        let (report, outcome) = mpsc::channel();
        std::thread::Builder::new().name("source".into()).spawn(move || {
            let (opened, closed) = run_source(&mut *source, &opened, || {});
            let _ = report.send(opened.and(closed));
            let _ = sender.send(None);
        })?;
        Ok(RunningSource { ctx, emitted: Some(emitted), outcome })
    }

    /// Opens the source, takes its first `count` tuples, or fewer if it ends
    /// earlier, and stops it.
    ///
    /// # Errors
    /// An error of `configure` or `open`, an error that the source emitted, or
    /// that it hangs.
    pub fn take(self, count: usize) -> Result<Vec<Tuple>> {
        let mut running = self.open()?;
        let tuples = running.by_ref().take(count).collect::<Result<Vec<_>, _>>()?;
        running.stop()?;
        Ok(tuples)
    }
}

/// A running source: an iterator over the tuples and errors that it emits,
/// decoded as an engine decodes them. It ends when the source ends by itself.
///
/// ```
/// use ekuiper_sdk::prelude::*;
/// use ekuiper_sdk::testing;
///
/// struct Sensor;
/// impl Source for Sensor {
///     fn open(&mut self, ctx: &SourceContext) -> Result<()> {
///         ctx.emit_with_meta(&json!({ "t": 21 }), &json!({ "topic": "kitchen" }))?;
///         ctx.emit_error("no reading")?;
///         Err("the sensor is gone".into())
///     }
/// }
///
/// let mut sensor = testing::source(Sensor).open()?;
/// assert_eq!(sensor.next().transpose()?.unwrap_or_default().meta, json!({ "topic": "kitchen" }));
/// assert_eq!(sensor.next(), Some(Err("no reading".into())));
/// assert_eq!(sensor.next(), Some(Err("the sensor is gone".into())));
/// assert_eq!(sensor.next(), None);
/// # Ok::<(), ekuiper_sdk::BoxError>(())
/// ```
pub struct RunningSource {
    ctx: SourceContext,
    /// `None` once the source has ended.
    emitted: Option<mpsc::Receiver<Option<Vec<u8>>>>,
    outcome: mpsc::Receiver<Result<()>>,
}

impl RunningSource {
    /// Stops the source and waits until it has closed.
    ///
    /// # Errors
    /// An error of `open`, if the source had ended by itself; an error of
    /// `close`; or that it does not stop within 10 s.
    pub fn stop(mut self) -> Result<()> {
        self.ctx.stop();
        self.emitted = None;
        self.outcome.recv_timeout(PATIENCE).map_err(|_| format!("the source does not stop within {PATIENCE:?}"))?
    }
}

impl Iterator for RunningSource {
    type Item = Result<Tuple, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = match self.emitted.as_ref()?.recv_timeout(PATIENCE) {
            Ok(Some(message)) => {
                return Some(match SourceMessage::decode(Format::Json, &message) {
                    Ok(SourceMessage::Tuple(tuple)) => Ok(tuple),
                    Ok(SourceMessage::Error(text)) => Err(text),
                    Err(error) => Err(text_of(&error)),
                });
            }
            Ok(None) | Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Some(Err(format!("the source has emitted nothing for {PATIENCE:?}")))
            }
        };
        self.emitted = None;
        item
    }
}

impl Drop for RunningSource {
    fn drop(&mut self) {
        self.ctx.stop();
    }
}

/// The outlet of a source under test; `None` marks the source's end.
struct Collected(mpsc::SyncSender<Option<Vec<u8>>>);

impl Outlet for Collected {
    fn send(&self, message: &[u8]) -> Result<(), TransportError> {
        self.0.send(Some(message.to_vec())).map_err(|_| TransportError::Closed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;

    type Step = fn(&SourceContext) -> Result<()>;

    /// Does what it is given, and writes down what is asked of it.
    struct Scripted {
        open: Step,
        close: Step,
        calls: Arc<Mutex<Vec<String>>>,
    }

    impl Source for Scripted {
        fn configure(&mut self, datasource: &str, config: &Config) -> Result<()> {
            self.calls.lock().unwrap().push(format!("configure {datasource} {}", config.field_or("n", 0)?));
            Ok(())
        }

        fn open(&mut self, ctx: &SourceContext) -> Result<()> {
            self.calls.lock().unwrap().push("open".into());
            (self.open)(ctx)
        }

        fn close(&mut self, ctx: &SourceContext) -> Result<()> {
            self.calls.lock().unwrap().push("close".into());
            (self.close)(ctx)
        }
    }

    fn scripted(open: Step, close: Step) -> (SourceTest, Arc<Mutex<Vec<String>>>) {
        let calls = Arc::<Mutex<Vec<String>>>::default();
        (source(Scripted { open, close, calls: calls.clone() }), calls)
    }

    #[test]
    fn the_order_is_configure_open_close() {
        let (source, calls) = scripted(
            |ctx| {
                while ctx.sleep(Duration::from_micros(1)) {
                    ctx.emit(&json!({ "rule": ctx.rule_id() }))?;
                }
                Ok(())
            },
            |_| Ok(()),
        );
        let tuples = source.datasource("topic").config(json!({ "n": 7 })).take(3).unwrap();
        assert_eq!(tuples[2].message, json!({ "rule": "test" }));
        assert_eq!(*calls.lock().unwrap(), ["configure topic 7", "open", "close"]);
    }

    #[test]
    fn a_panic_in_open_is_an_error_of_the_source_and_it_is_closed() {
        let (source, calls) = scripted(|_| panic!("boom"), |_| Ok(()));
        let mut running = source.open().unwrap();
        assert_eq!(running.next(), Some(Err("panicked: boom".into())));
        assert_eq!(running.next(), None);
        assert_eq!(running.stop().unwrap_err().to_string(), "panicked: boom");
        assert_eq!(calls.lock().unwrap().last().unwrap(), "close");
    }

    #[test]
    fn a_failed_close_and_a_wrong_config_are_errors() {
        let (source, _) = scripted(|_| Ok(()), |_| Err("cannot close".into()));
        assert_eq!(source.take(1).unwrap_err().to_string(), "cannot close");
        let (source, _) = scripted(|_| Ok(()), |_| Ok(()));
        let error = text_of(&*source.config(json!({ "n": "x" })).take(1).unwrap_err());
        assert!(error.starts_with("invalid config field n: invalid type"), "{error}");
        let (source, _) = scripted(|_| Ok(()), |_| Ok(()));
        assert!(source.config(json!([])).open().is_err());
    }

    #[test]
    fn on_stop_unblocks_a_source_that_waits_elsewhere() {
        let (source, calls) = scripted(
            |ctx| {
                let (stop, stopped) = mpsc::channel();
                let _hook = ctx.on_stop(move || drop(stop));
                ctx.emit(&json!({}))?;
                stopped.recv().map_err(|_| "unblocked".into())
            },
            |_| Ok(()),
        );
        assert_eq!(source.take(1).unwrap().len(), 1);
        assert_eq!(calls.lock().unwrap().last().unwrap(), "close");
    }

    #[test]
    fn a_clone_emits_from_another_thread() {
        let (source, _) = scripted(
            |ctx| {
                let clone = ctx.clone();
                let worker = std::thread::spawn(move || while clone.emit(&json!({ "n": 1 })).is_ok() {});
                worker.join().map_err(|_| "it panicked".into())
            },
            |_| Ok(()),
        );
        assert_eq!(source.take(5).unwrap().len(), 5);
    }
}
