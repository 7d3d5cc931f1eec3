//! The record batches of a source as a stream, which stops the source when it is
//! dropped.

use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread;

use datafusion::arrow::array::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use ekuiper_host::arrow59::batches;
use ekuiper_host::{Host, Stopper};
use futures::Stream;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::error::external;
use crate::options::TableOptions;

/// Number of batches that are read before they are asked for.
const AHEAD: usize = 2;

/// The batches of a source, which runs until this is dropped.
pub(crate) struct Reading {
    batches: mpsc::Receiver<Result<RecordBatch>>,
    state: Arc<Mutex<State>>,
}

enum State {
    Opening,
    Open(Stopper),
    Dropped,
}

/// Returns the id of a rule that no other query of this process has, so that the
/// sources and sinks of two queries do not collide.
pub(crate) fn next_rule() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("sql{}", LAST.fetch_add(1, Ordering::Relaxed) + 1)
}

impl Reading {
    /// Starts the source in a thread of its own, which passes each batch through
    /// `fit`.
    pub(crate) fn start(
        host: &Host,
        symbol: &str,
        options: &TableOptions,
        fit: impl Fn(RecordBatch) -> Result<RecordBatch> + Send + 'static,
    ) -> Self {
        let source = host.source(symbol).rule(next_rule()).columns();
        let source = source.datasource(options.datasource.clone()).config(Value::Object(options.config.clone()));
        let (sender, receiver) = mpsc::channel(AHEAD);
        let state = Arc::new(Mutex::new(State::Opening));
        let shared = state.clone();
        let failed = sender.clone();
        let started = thread::Builder::new().name("sql-source".to_owned()).spawn(move || {
            let source = match source.open() {
                Ok(source) => source,
                Err(error) => return drop(sender.blocking_send(Err(external(error)))),
            };
            match &mut *lock(&shared) {
                State::Dropped => return,
                state => *state = State::Open(source.stopper()),
            }
            for batch in batches(source) {
                let batch = batch.map_err(external).and_then(&fit);
                let is_error = batch.is_err();
                if sender.blocking_send(batch).is_err() || is_error {
                    return;
                }
            }
        });
        if let Err(error) = started {
            // The channel is empty, and its receiver is here.
            let _ = failed.try_send(Err(DataFusionError::IoError(error)));
        }
        Self { batches: receiver, state }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream for Reading {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.poll_recv(context)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let state = mem::replace(&mut *lock(&self.state), State::Dropped);
        if let State::Open(stopper) = state {
            stopper.stop();
        }
    }
}
