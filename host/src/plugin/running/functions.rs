//! The functions of a process: starting each once, for all who wait for it, and
//! their channels.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::message::Control;
use ekuiper_transport_ipc::lock::DeadlineLock;
use ekuiper_transport_ipc::wait::deadline_after;

use super::Running;
use crate::channel::idle_reader::Watch;
use crate::channel::{Channel, Failure};
use crate::process::EXIT_GRACE;
use crate::site::Claim;
use crate::sync::lock;
use crate::{Error, Result, Subject};

/// Time for a function to connect after its plugin has said that it is started:
/// the official SDKs connect before they say so. A function that is not
/// connected by then has lost its connection, and ended with it.
const CONNECTING: Duration = Duration::from_secs(5);

struct FunctionChannel {
    channel: Arc<Channel>,
    _watch: Watch,
    _claim: Claim,
}

/// A function, or its start. Callers that come during a start share its
/// outcome.
#[derive(Default)]
pub(super) struct FunctionSlot {
    /// Number of starts that have ended.
    ends: AtomicU64,
    state: DeadlineLock<SlotState>,
}

#[derive(Default)]
struct SlotState {
    function: Option<FunctionChannel>,
    /// Number of the failed start, and its error.
    failure: Option<(u64, Error)>,
}

impl FunctionSlot {
    /// Runs a start, for all callers that wait for it.
    fn start<R>(&self, state: &mut SlotState, start: impl FnOnce(&mut SlotState) -> Result<R>) -> Result<R> {
        state.failure = None;
        let started = start(state);
        let end = self.ends.fetch_add(1, Ordering::SeqCst) + 1;
        state.failure = started.as_ref().err().map(|error| (end, error.clone()));
        started
    }
}

impl Running {
    /// Returns the channel of a function, after starting it if necessary.
    pub(crate) fn function(&self, symbol: &str) -> Result<Arc<Channel>> {
        let slot = lock(&self.functions).entry(symbol.to_owned()).or_default().clone();
        let ended = slot.ends.load(Ordering::SeqCst);
        let patience = self.site.options.init_timeout;
        // Per function, so that one start does not block another's.
        let Some(mut state) = slot.state.lock(deadline_after(patience)) else {
            let what = self.function_subject(symbol, format!("function {symbol} (it is being started)")).not_sent();
            return Err(Error::Timeout { plugin: self.name.clone(), what, after: patience });
        };
        // The start has ended since this caller began to wait.
        if let Some((end, error)) = &state.failure
            && *end > ended
        {
            return Err(error.clone());
        }
        match state.function.as_ref().map(|function| function.channel.clone()) {
            Some(channel) if channel.is_lost() => {
                slot.start(&mut state, |_| self.reconnect_function(symbol, &channel))?;
                Ok(channel)
            }
            Some(channel) => Ok(channel),
            None => slot.start(&mut state, |state| {
                let function = self.start_function(symbol)?;
                let channel = function.channel.clone();
                state.function = Some(function);
                Ok(channel)
            }),
        }
    }

    fn start_function(&self, symbol: &str) -> Result<FunctionChannel> {
        let what = || self.function_subject(symbol, format!("function {symbol} of plugin {}", self.name)).not_sent();
        let message = |source: ekuiper_core::Error| Error::Message { what: what(), source: source.into() };
        let claim = self.site.claim(self.folder.function(symbol).map_err(message)?, what())?;
        let channel = Channel::listen_for_function(&self.scope, &claim.address);
        let channel = Arc::new(channel.map_err(|source| self.channel_error(what(), source))?);
        // Read from now on: a plugin may send much before it answers.
        let watch = self.site.idle_reader.watch(&what(), channel.clone()).inspect_err(|_| channel.close())?;
        channel.enable_tasks(&watch);
        match self.start_and_shake_hands(symbol, &channel) {
            Ok(()) => Ok(FunctionChannel { channel, _watch: watch, _claim: claim }),
            Err(error) => {
                // Closed, since the idle reader may hold it a moment longer:
                // the address is free.
                channel.close();
                Err(error.or_shortage())
            }
        }
    }

    /// Waits for a function whose connection has ended to reconnect by itself,
    /// and otherwise starts it again: the official Python SDK ends the function
    /// with its connection.
    fn reconnect_function(&self, symbol: &str, channel: &Channel) -> Result<()> {
        match channel.await_reconnect() {
            Ok(()) | Err(Failure::ProcessEnded) => return Ok(()),
            Err(failure) => tracing::warn!(
                plugin = self.name,
                function = symbol,
                ?failure,
                "the function's connection ended: restarting the function"
            ),
        }
        match self.start_and_shake_hands(symbol, channel) {
            // The next process serves the function.
            Err(_) if self.is_over() => Ok(()),
            started => started,
        }
    }

    /// Has the plugin start the function, and waits for its handshake.
    fn start_and_shake_hands(&self, symbol: &str, channel: &Channel) -> Result<()> {
        let patience = self.site.options.init_timeout;
        let deadline = deadline_after(patience);
        self.start_symbol(&Control::function(symbol))?;
        loop {
            let look = deadline_after(CONNECTING).min(deadline);
            match channel.wait_started(look) {
                Err(Failure::NotReady(_)) if Instant::now() < deadline => {
                    if !channel.has_connection() {
                        tracing::warn!(
                            plugin = self.name,
                            function = symbol,
                            "the function was started, and is not connected: starting it again"
                        );
                        self.start_symbol(&Control::function(symbol))?;
                    }
                }
                ready => {
                    return ready.map_err(|failure| {
                        let what = self.function_subject(symbol, format!("the handshake of function {symbol}"));
                        self.explain(failure, what, patience)
                    });
                }
            }
        }
    }

    fn function_subject(&self, symbol: &str, words: String) -> Subject {
        Subject::from(words).about(&self.name, Some(symbol))
    }

    /// Closes the channels of all functions.
    pub(super) fn close_functions(&self) {
        for slot in std::mem::take(&mut *lock(&self.functions)).into_values() {
            // A start in progress ends with the process, and is closed with its
            // last reference.
            if let Some(mut state) = slot.state.lock(deadline_after(EXIT_GRACE))
                && let Some(function) = state.function.take()
            {
                function.channel.close();
            }
        }
    }

    /// Lets no call begin, and waits for the calls in flight, at most until the
    /// deadline.
    pub(super) fn leave_functions(&self, deadline: Instant) {
        let slots: Vec<_> = lock(&self.functions).values().cloned().collect();
        for slot in slots {
            let state = slot.state.lock(deadline);
            let channel = state.and_then(|state| state.function.as_ref().map(|function| function.channel.clone()));
            if let Some(channel) = channel {
                channel.leave(deadline);
            }
        }
    }
}
