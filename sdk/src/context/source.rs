//! The context of a source.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use ekuiper_core::buffer::trim;
use ekuiper_core::codec::Format;
#[cfg(feature = "arrow")]
use ekuiper_core::columns::{self, TableReader, arrow_array::RecordBatch};
use ekuiper_core::message::{Meta, encode_source_error, encode_tuple};
use ekuiper_core::sync::{lock, wait};
use ekuiper_core::transport::TransportError;
use serde::Serialize;
use tracing::Span;

use super::outlet::Outlet;
use crate::error::shortened;
use crate::panic::catch_panic;
use crate::{Error, Result};

/// The context of a source: its rule instance, its channel to the engine, and
/// its stop.
///
/// A clone is the same context: pass one to a callback or a thread of your own
/// that emits. Once the source has been stopped, methods that send return
/// [`Error::Stopped`].
#[derive(Clone)]
pub struct SourceContext(Arc<Inner>);

struct Inner {
    meta: Meta,
    /// The codec of the source's messages.
    format: Format,
    /// Whether batches are sent as they are.
    #[cfg(feature = "arrow")]
    columns: bool,
    outlet: Box<dyn Outlet>,
    span: Span,
    buffer: Mutex<Vec<u8>>,
    /// A copy of `end.stopped`, read at each tuple without the lock.
    stopped: AtomicBool,
    end: Mutex<End>,
    stopping: Condvar,
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct End {
    stopped: bool,
    /// The hooks that have not run, by number, in order of registration.
    hooks: BTreeMap<u64, Hook>,
    /// The number of the next hook.
    next_hook: u64,
}

impl SourceContext {
    /// The context of a source that logs in the current span.
    pub(crate) fn new(meta: Meta, format: Format, columns: bool, outlet: Box<dyn Outlet>) -> Self {
        let _ = columns;
        Self(Arc::new(Inner {
            meta,
            format,
            #[cfg(feature = "arrow")]
            columns,
            outlet,
            span: Span::current(),
            buffer: Mutex::default(),
            stopped: AtomicBool::new(false),
            end: Mutex::default(),
            stopping: Condvar::new(),
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

    /// The span that names this symbol in the log. The symbol's own methods
    /// run in it; a thread of yours enters it: `let _entered =
    /// ctx.span().enter();`.
    pub fn span(&self) -> &Span {
        &self.0.span
    }

    /// Sends a tuple. Blocks while the engine is slower than the source
    /// (backpressure), until the source is stopped.
    ///
    /// # Errors
    /// [`Error::Stopped`]: return from `open`. [`Error::Message`]: the tuple
    /// cannot be encoded. [`Error::Transport`]: the tuple is longer than
    /// [`Plugin::max_message`](crate::Plugin::max_message). After the last two
    /// the source may continue.
    pub fn emit(&self, message: &impl Serialize) -> Result<(), Error> {
        self.emit_any(message, None::<&()>)
    }

    /// Sends a tuple with metadata, such as its topic: an object, which a rule
    /// reads with `meta(…)`.
    ///
    /// # Errors
    /// As [`SourceContext::emit`].
    pub fn emit_with_meta(&self, message: &impl Serialize, meta: &impl Serialize) -> Result<(), Error> {
        self.emit_any(message, Some(meta))
    }

    fn emit_any(&self, message: &impl Serialize, meta: Option<&impl Serialize>) -> Result<(), Error> {
        let mut buffer = lock(&self.0.buffer);
        buffer.clear();
        let sent = encode_tuple(self.0.format, &mut buffer, message, meta);
        let sent = sent.map_err(Error::from).and_then(|()| self.send(&buffer));
        trim(&mut buffer);
        sent
    }

    /// Sends the rows of a record batch: as they are to a reader of batches,
    /// which only our host has, in messages of about 1.5 MiB; otherwise as a
    /// tuple for each row.
    ///
    /// # Errors
    /// As [`SourceContext::emit`]. [`Error::Message`]: the batch has a type that
    /// cannot be sent, or a row has NaN, which only batches can hold. Some rows
    /// may have been sent.
    #[cfg(feature = "arrow")]
    pub fn emit_batch(&self, batch: &RecordBatch) -> Result<(), Error> {
        if !self.0.columns {
            let rows = TableReader::new(batch)?;
            return (0..batch.num_rows()).try_for_each(|row| self.emit(&rows.row(row)));
        }
        columns::parts(batch, usize::MAX).try_for_each(|part| self.emit_part(&part))
    }

    /// Sends a part of a batch, in halves if it is too long.
    #[cfg(feature = "arrow")]
    fn emit_part(&self, part: &RecordBatch) -> Result<(), Error> {
        let mut buffer = lock(&self.0.buffer);
        buffer.clear();
        let sent = columns::encode(&mut buffer, part).map_err(Error::from).and_then(|()| self.send(&buffer));
        trim(&mut buffer);
        drop(buffer);
        let rows = part.num_rows();
        match sent {
            Err(Error::Transport { source: TransportError::TooLong { .. }, .. }) if rows > 1 => {
                self.emit_part(&part.slice(0, rows / 2))?;
                self.emit_part(&part.slice(rows / 2, rows - rows / 2))
            }
            sent => sent,
        }
    }

    /// Reports an error to the engine. The source may continue after it.
    ///
    /// # Errors
    /// [`Error::Stopped`]: return from `open`.
    pub fn emit_error(&self, text: &str) -> Result<(), Error> {
        self.send(&encode_source_error(self.0.format, &shortened(text.to_owned())))
    }

    fn send(&self, message: &[u8]) -> Result<(), Error> {
        if self.is_stopped() {
            return Err(Error::Stopped);
        }
        self.0.outlet.send(message).map_err(|source| match source {
            TransportError::Closed => Error::Stopped,
            source => Error::Transport { what: "the tuple was not sent".into(), source },
        })
    }

    /// Sleeps for `duration`, and returns true; returns false as soon as the
    /// source is stopped.
    pub fn sleep(&self, duration: Duration) -> bool {
        let deadline = Instant::now().checked_add(duration);
        let mut end = lock(&self.0.end);
        while !end.stopped {
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => duration,
            };
            if left.is_zero() {
                return true;
            }
            end = wait(&self.0.stopping, end, Some(left));
        }
        false
    }

    /// Whether the source has been stopped.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// Registers a hook that unblocks a source which blocks in its own I/O, for
    /// example by closing a socket. The hook is called once, from another
    /// thread, when the source is stopped; immediately, from this thread, if the
    /// source is already stopped.
    ///
    /// Dropping the returned [`StopHook`] unregisters the hook: bind it to a
    /// variable that lives as long as what the hook closes. A source that
    /// reconnects registers one hook per connection, and so keeps none of the
    /// former ones. When the source has ended, all hooks are dropped; a hook may
    /// hold a clone of the context.
    ///
    /// ```
    /// use std::io::{BufRead, BufReader};
    /// use std::net::{Shutdown, TcpStream};
    ///
    /// use ekuiper_sdk::prelude::*;
    ///
    /// fn read_lines(address: &str, ctx: &SourceContext) -> Result<()> {
    ///     let stream = TcpStream::connect(address)?;
    ///     let closing = stream.try_clone()?;
    ///     let _hook = ctx.on_stop(move || {
    ///         // A reader that waits gets the end of the stream.
    ///         let _ = closing.shutdown(Shutdown::Both);
    ///     });
    ///     for line in BufReader::new(stream).lines() {
    ///         ctx.emit(&json!({ "line": line? }))?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn on_stop(&self, hook: impl FnOnce() + Send + 'static) -> StopHook {
        let mut end = lock(&self.0.end);
        if end.stopped {
            drop(end);
            hook();
            return StopHook { of: Weak::new(), number: 0 };
        }
        let number = end.next_hook;
        end.next_hook += 1;
        end.hooks.insert(number, Box::new(hook));
        StopHook { of: Arc::downgrade(&self.0), number }
    }

    /// Stops the source, without waiting for its end or for its hooks.
    pub(crate) fn stop(&self) {
        if self.0.mark_stopped() {
            return;
        }
        // A hook is the author's code, which may hang or panic.
        let (span, inner) = (self.0.span.clone(), self.0.clone());
        let spawned = std::thread::Builder::new().name("on-stop".into()).spawn(move || {
            let _entered = span.enter();
            while let Some(hook) = inner.next_hook() {
                if let Err(error) = catch_panic(|| {
                    hook();
                    Ok(())
                }) {
                    tracing::error!(%error, "an on_stop hook failed");
                }
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "cannot start the thread that runs the on_stop hooks");
        }
    }

    /// Drops the hooks that have not run, after the source was closed: a hook
    /// that holds a clone of this context would keep it, and the data channel,
    /// for ever.
    pub(crate) fn over(&self) {
        self.0.mark_stopped();
        while let Some(hook) = self.0.next_hook() {
            let dropped = catch_panic(|| {
                drop(hook);
                Ok(())
            });
            if let Err(error) = dropped {
                tracing::error!(%error, "dropping an on_stop hook failed");
            }
        }
    }
}

impl Inner {
    /// Marks the source as stopped, and returns whether no hooks are left to
    /// run.
    fn mark_stopped(&self) -> bool {
        let mut end = lock(&self.end);
        end.stopped = true;
        self.stopped.store(true, Ordering::Release);
        let is_done = end.hooks.is_empty();
        drop(end);
        self.stopping.notify_all();
        is_done
    }

    /// Removes the hook that was registered first, to be called and dropped
    /// without the lock.
    fn next_hook(&self) -> Option<Hook> {
        lock(&self.end).hooks.pop_first().map(|(_, hook)| hook)
    }
}

/// The registration of a hook, made by [`SourceContext::on_stop`]. Dropping it
/// unregisters the hook, which is then not called, unless it already runs.
#[must_use = "dropping this unregisters the hook: bind it, as in `let _hook = ctx.on_stop(…)`"]
pub struct StopHook {
    of: Weak<Inner>,
    number: u64,
}

impl Drop for StopHook {
    fn drop(&mut self) {
        let Some(inner) = self.of.upgrade() else { return };
        let hook = lock(&inner.end).hooks.remove(&self.number);
        // Dropped without the lock: the author's code may use the context.
        drop(hook);
    }
}

impl fmt::Debug for StopHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopHook").field("number", &self.number).finish_non_exhaustive()
    }
}

impl fmt::Debug for SourceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceContext").field("meta", &self.0.meta).field("stopped", &self.is_stopped()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Nowhere;

    impl Outlet for Nowhere {
        fn send(&self, _: &[u8]) -> Result<(), TransportError> {
            Ok(())
        }
    }

    fn context() -> SourceContext {
        SourceContext::new(Meta::default(), Format::Json, false, Box::new(Nowhere))
    }

    #[test]
    fn sleep_tells_the_end() {
        let ctx = context();
        assert!(ctx.sleep(Duration::ZERO));
        assert!(ctx.sleep(Duration::from_millis(1)));
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| ctx.sleep(Duration::MAX));
            ctx.stop();
            assert!(!sleeper.join().unwrap());
        });
        assert!(!ctx.sleep(Duration::ZERO));
        assert!(matches!(ctx.emit(&1), Err(Error::Stopped)));
        assert!(matches!(ctx.emit_error("x"), Err(Error::Stopped)));
    }

    #[test]
    fn hooks_run_once_and_a_bad_one_harms_nobody() {
        let ctx = context();
        let (called, calls) = mpsc::channel();
        let _bad = ctx.on_stop(|| panic!("a hook"));
        let sender = called.clone();
        let _good = ctx.on_stop(move || sender.send("registered").unwrap());
        ctx.stop();
        assert_eq!(calls.recv_timeout(Duration::from_secs(10)), Ok("registered"));
        let _late = ctx.on_stop(move || called.send("late").unwrap());
        assert_eq!(calls.recv_timeout(Duration::from_secs(10)), Ok("late"));
        ctx.stop();
        assert!(calls.recv().is_err(), "nobody is left to call");
    }

    #[test]
    fn a_hook_is_taken_back_when_its_guard_is_dropped() {
        let ctx = context();
        let (called, calls) = mpsc::channel();
        for connection in 0..3 {
            let (called, of) = (called.clone(), ctx.clone());
            let hook = ctx.on_stop(move || called.send((connection, of.rule_id().to_owned())).unwrap());
            drop(hook);
        }
        assert_eq!(lock(&ctx.0.end).hooks.len(), 0, "a hook is kept");
        assert_eq!(Arc::strong_count(&ctx.0), 1, "a hook keeps its context");
        let sender = called.clone();
        let _hook = ctx.on_stop(move || sender.send((7, String::new())).unwrap());
        drop(called);
        ctx.stop();
        assert_eq!(calls.recv_timeout(Duration::from_secs(10)), Ok((7, String::new())));
        assert!(calls.recv().is_err(), "a hook was called that was taken back");
    }

    #[test]
    fn hooks_go_when_the_source_is_over_whatever_holds_their_guards() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("in a drop");
            }
        }
        let ctx = context();
        let (called, calls) = mpsc::channel::<()>();
        let of = ctx.clone();
        let hook = ctx.on_stop(move || {
            drop(of);
            called.send(()).unwrap();
        });
        let bomb = Bomb;
        let _bad = ctx.on_stop(move || drop(bomb));
        ctx.over();
        assert_eq!(Arc::strong_count(&ctx.0), 1, "a hook keeps its context");
        assert!(calls.recv().is_err(), "an end by itself is no stop");
        assert!(!ctx.sleep(Duration::ZERO), "a thread of the author's learns of the end");
        drop(hook);
    }

    #[test]
    fn what_cannot_be_json_is_not_sent() {
        let ctx = context();
        assert!(matches!(ctx.emit(&f64::NAN), Err(Error::Message(_))));
        assert!(ctx.emit_with_meta(&1, &f64::NAN).is_err());
        assert!(ctx.emit(&1).is_ok());
    }
}
