//! Feeding a sink: it is opened again when it breaks, and closed at the end.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use ekuiper_core::Chain;
use ekuiper_core::restart::{Crashes, RestartPolicy, Verdict};
use ekuiper_core::sync::lock;
use ekuiper_host::{Delivery, Sink, SinkStopper};

use crate::console;
use crate::drain;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::rows::Rows;
use crate::session::Session;

/// A sink that is fed, across all its openings.
pub(crate) struct Feeding<'s> {
    session: &'s Session,
    symbol: String,
    open: Box<dyn Fn() -> ekuiper_host::Result<Sink> + 's>,
    /// `None` when it has broken and could not be opened again.
    sink: Option<Sink>,
    fed: Arc<Fed>,
    breaks: Crashes,
}

/// What has become of the rows of a sink that is fed, which any thread can ask.
#[derive(Default)]
pub(crate) struct Fed(Mutex<Openings>);

#[derive(Default)]
struct Openings {
    /// Rows of the former openings.
    former: Rows,
    current: Option<SinkStopper>,
}

impl std::fmt::Debug for Fed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.rows().fmt(f)
    }
}

impl Fed {
    /// Returns what has become of the rows that were sent, as far as it is
    /// known.
    pub(crate) fn rows(&self) -> Rows {
        let Openings { former, current } = &*lock(&self.0);
        let mut rows = *former;
        current.iter().for_each(|sink| rows += sink.delivery().into());
        rows
    }

    fn opens(&self, sink: SinkStopper) {
        lock(&self.0).current = Some(sink);
    }

    fn closes(&self, delivery: Delivery) {
        let mut openings = lock(&self.0);
        openings.former += delivery.into();
        openings.current = None;
    }
}

/// A row that was not taken.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Box<Error>,
    /// The row was sent, so it is one of [`Feeding::rows`].
    pub(crate) was_sent: bool,
}

impl<'s> Feeding<'s> {
    /// Opens the sink. Its waits end with a signal.
    pub(crate) fn open(
        session: &'s Session,
        symbol: &str,
        open: impl Fn() -> ekuiper_host::Result<Sink> + 's,
    ) -> Result<Self> {
        let (symbol, breaks) = (symbol.to_owned(), Crashes::new(RestartPolicy::default()));
        let mut feeding = Self { session, symbol, open: Box::new(open), sink: None, fed: Arc::default(), breaks };
        feeding.start()?;
        Ok(feeding)
    }

    fn start(&mut self) -> Result<()> {
        let sink = (self.open)()?;
        self.session.ends_with_a_signal(&sink);
        self.breaks.started(Instant::now());
        self.fed.opens(sink.stopper());
        self.sink = Some(sink);
        Ok(())
    }

    /// Returns what has become of the rows that were sent, as far as it is
    /// known.
    pub(crate) fn rows(&self) -> Rows {
        self.fed.rows()
    }

    /// Returns the counts, which outlive the feeding.
    pub(crate) fn fed(&self) -> Arc<Fed> {
        self.fed.clone()
    }

    /// Sends a row. After a crash of the plugin it waits for the restart, and
    /// ends with the host's giving up; a sink that broke with an earlier row is
    /// opened again.
    pub(crate) fn send(&mut self, send: impl Fn(&Sink) -> ekuiper_host::Result<()>) -> Result<(), Failure> {
        loop {
            let Some(sink) = &self.sink else {
                self.reopen().map_err(|error| Failure { error: error.into(), was_sent: false })?;
                continue;
            };
            let before = sink.delivery().sent;
            let Err(error) = send(sink) else { return Ok(()) };
            let was_sent = sink.delivery().sent > before;
            match error {
                _ if self.session.interrupt.is_set() => {}
                ekuiper_host::Error::Away { .. } if !was_sent => continue,
                ekuiper_host::Error::SinkBroken { .. } if !was_sent => {
                    self.retire();
                    continue;
                }
                _ => {}
            }
            return Err(Failure { error: Box::new(error.into()), was_sent });
        }
    }

    /// Closes a sink that has broken. What became of its rows was reported.
    fn retire(&mut self) {
        let Some(sink) = self.sink.take() else { return };
        let (delivery, closed) = drain::close(sink, &mut Progress::start());
        self.fed.closes(delivery);
        if let Err(error) = closed {
            tracing::info!(sink = self.symbol, error = %Chain(&error), "a sink that broke was not closed in order");
        }
    }

    /// Opens the sink again, after a pause if it breaks repeatedly.
    ///
    /// # Errors
    /// It breaks again and again; the host has given up its plugin.
    fn reopen(&mut self) -> Result<()> {
        let mut last = None;
        loop {
            let Verdict::After(pause) = self.breaks.crashed(Instant::now(), 0.0) else {
                return Err(Error::KeepsBreaking { symbol: self.symbol.clone(), source: last });
            };
            self.session.interrupt.wait(pause);
            match self.start() {
                Ok(()) => {
                    console::tell(format_args!("sink {} was opened again: its connection had ended", self.symbol));
                    return Ok(());
                }
                Err(error) if error.is_final() || self.session.interrupt.is_set() => return Err(error),
                Err(error) => last = Some(Box::new(error)),
            }
        }
    }

    /// Waits until the sink has collected everything, and closes it. Returns
    /// what has become of all rows, and the outcome.
    pub(crate) fn close(self, progress: &mut Progress) -> (Rows, Result<()>) {
        let Self { sink, fed, .. } = self;
        let Some(sink) = sink else { return (fed.rows(), Ok(())) };
        let (delivery, closed) = drain::close(sink, progress);
        fed.closes(delivery);
        (fed.rows(), closed)
    }
}
