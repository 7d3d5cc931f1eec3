//! A running plugin process: what it is made of, from its start to its end.

mod cancels;
mod command;
mod errors;
mod functions;
mod strays;
mod symbols;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use ekuiper_core::address::{Address, DEFAULT_FOLDER, SocketFolder};
use ekuiper_core::codec::Format;
use ekuiper_core::description::{Description, SinkDescription};
use ekuiper_core::message::{Control, Feature, Hello, SymbolKind};
use ekuiper_core::transport::Deadline;
use ekuiper_transport_ipc::lock::DeadlineLock;
use ekuiper_transport_ipc::socket_file;
use ekuiper_transport_ipc::wait::deadline_after;

use cancels::Cancels;
use functions::FunctionSlot;
pub(crate) use symbols::Stopped;

use super::attaching;
use super::startup::{self, Canceller, Started};
use crate::catalog::Package;
use crate::channel::Channel;
use crate::channel::dependents::ProcessScope;
use crate::channel::idle_reader::Watch;
use crate::process::group;
use crate::process::{EXIT_GRACE, Exit, Process};
use crate::site::{Claim, Site};
use crate::sync::lock;
use crate::{Error, Result, Subject};

/// A running plugin process.
pub(crate) struct Running {
    pub(crate) name: String,
    /// Number of the process, from 1.
    pub(crate) generation: u64,
    pub(crate) site: Arc<Site>,
    pub(crate) process: Process,
    /// When the handshake was complete.
    pub(crate) ready: Instant,
    /// Socket folder that the plugin's SDK uses.
    pub(crate) folder: SocketFolder,
    control: Arc<Channel>,
    /// `None` if the plugin's calls cannot be cancelled.
    cancels: Option<Arc<Cancels>>,
    /// Features beyond eKuiper's protocol; none unless the plugin announced
    /// them.
    hello: Hello,
    functions: Mutex<HashMap<String, Arc<FunctionSlot>>>,
    /// The process's sockets, whose waits end with the process.
    pub(crate) scope: Arc<ProcessScope>,
    /// The process is being replaced: whatever has not begun waits for the
    /// next.
    is_left: AtomicBool,
    /// The command that was not answered in time, in which the plugin may hang.
    hung: Mutex<Option<String>>,
    /// Sources and sinks to be stopped before the process is.
    live: Mutex<Vec<Control>>,
    /// Number of callers that stop symbols now.
    stopping: AtomicUsize,
    /// All symbols were told to stop, as the process is about to be ended.
    has_told_all: AtomicBool,
    /// Sources and sinks that may run without a handle: the outcome of their
    /// start or stop is unknown.
    strays: Mutex<Vec<Control>>,
    /// Held while strays are stopped, so that no start of the same symbol
    /// intervenes.
    stopping_strays: DeadlineLock<()>,
    /// Weak reference to this, for the thread that waits until strays can be
    /// stopped.
    own: Weak<Self>,
    /// Sockets on which the process listens, unless it is known to have closed
    /// them.
    sockets: Mutex<Vec<Address>>,
    /// Address of the control channel, released when the process is retired.
    claim: Mutex<Option<Claim>>,
    _watch: Watch,
}

impl Running {
    /// The plugin's description of itself, if it has announced one.
    pub(crate) fn description(&self) -> Option<&Description> {
        self.hello.description.as_deref()
    }

    /// Starts the plugin's process. `on_exit` is called, from another thread,
    /// when the process has ended.
    pub(crate) fn start(
        package: &Package,
        generation: u64,
        site: &Arc<Site>,
        canceller: &Canceller,
        on_exit: impl FnOnce(&Exit) + Send + 'static,
    ) -> Result<Arc<Self>> {
        let started = startup::start(package, site, canceller, on_exit)?;
        Self::new(&package.name, generation, site, started)
    }

    /// Waits for the process of an attached plugin; calls `on_listen` once it can
    /// connect to an address.
    pub(crate) fn attach(
        package: &Package,
        generation: u64,
        site: &Arc<Site>,
        canceller: &Canceller,
        on_listen: impl FnOnce(&Address),
        on_exit: impl FnOnce(&Exit) + Send + 'static,
    ) -> Result<Arc<Self>> {
        let started = attaching::attach(package, site, canceller, on_listen, on_exit)?;
        Self::new(&package.name, generation, site, started)
    }

    /// Creates the running process, after its handshake.
    ///
    /// # Errors
    /// Its control channel cannot be watched: the process is ended.
    pub(crate) fn new(name: &str, generation: u64, site: &Arc<Site>, started: Started) -> Result<Arc<Self>> {
        let Started { process, control, folder, claim, hello, scope } = started;
        let watched = site.idle_reader.watch(&Subject::of_plugin(name), control.clone());
        let watch = watched.inspect_err(|_| process.terminate(site.options.grace))?;
        control.enable_tasks(&watch);
        process.mark_serving();
        let hello = hello.unwrap_or_default();
        if hello.has(Feature::SharedMemory) {
            scope.share_memory();
        }
        let cancels = hello.has(Feature::Cancel).then(|| Cancels::new(control.clone()));
        let running = Arc::new_cyclic(|own| Self {
            name: name.to_owned(),
            generation,
            site: site.clone(),
            process,
            ready: Instant::now(),
            folder,
            control,
            cancels,
            hello,
            functions: Mutex::default(),
            scope,
            is_left: AtomicBool::new(false),
            hung: Mutex::default(),
            live: Mutex::default(),
            stopping: AtomicUsize::new(0),
            has_told_all: AtomicBool::new(false),
            strays: Mutex::default(),
            stopping_strays: DeadlineLock::default(),
            own: own.clone(),
            sockets: Mutex::default(),
            claim: Mutex::new(Some(claim)),
            _watch: watch,
        });
        tracing::info!(plugin = running.name, pid = running.process.pid(), "plugin is ready");
        Ok(running)
    }

    /// Returns whether the plugin is on an official SDK, judged by its socket
    /// folder: an official SDK uses a fixed one, and our SDK the one it is
    /// given.
    pub(crate) fn uses_official_sdk(&self) -> bool {
        self.hello == Hello::default() && self.folder == SocketFolder::new(DEFAULT_FOLDER)
    }

    /// Returns the format of messages of symbols of this kind.
    pub(crate) fn format(&self, kind: SymbolKind) -> Format {
        let wanted = self.site.options.format;
        // A sink is given the engine's bytes unchanged, and expects JSON.
        if kind != SymbolKind::Sink && self.hello.speaks(wanted) { wanted } else { Format::Json }
    }

    /// Returns whether the plugin supports a feature beyond eKuiper's protocol.
    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.hello.has(feature)
    }

    /// Returns whether a sink acknowledges messages by their number.
    pub(crate) fn counts_acks(&self, sink: &Control) -> bool {
        sink.requires_ack() && self.has(Feature::AckCount)
    }

    /// Returns the format of a sink's rows: JSON, unless the plugin says that
    /// the sink reads no bytes.
    pub(crate) fn format_of_sink(&self, sink: &str) -> Format {
        let wanted = self.site.options.format;
        let reads_rows = self.sink(sink).is_some_and(|sink| sink.rows);
        if reads_rows && self.hello.speaks(wanted) { wanted } else { Format::Json }
    }

    /// Returns whether a sink takes columns, by what the plugin says about it.
    pub(crate) fn is_columnar(&self, sink: &str) -> bool {
        self.has(Feature::Columns) && self.sink(sink).is_some_and(|sink| sink.columnar)
    }

    /// Returns what the plugin says about a sink.
    fn sink(&self, name: &str) -> Option<&SinkDescription> {
        self.description()?.sinks.iter().find(|known| known.name == name)
    }

    /// Returns whether failed operations are to be retried with the next
    /// process: this one has ended, or is being replaced.
    pub(crate) fn is_over(&self) -> bool {
        self.is_left() || self.process.wait_after_disconnect().is_some()
    }

    /// Returns whether a start or stop failed because the process ends or is
    /// being replaced; a plugin that has answered is alive.
    pub(crate) fn has_ended_with(&self, error: &Error) -> bool {
        !matches!(error, Error::Refused { .. }) && self.is_ending(None) == Some(true)
    }

    /// Returns whether a stop failed because the process ends: the symbol has
    /// ended with it. A process that did not answer in time was alive, and is
    /// ended because of that: the stop has failed, as on an SDK that answers
    /// that it cannot stop the symbol.
    pub(crate) fn has_ended_before(&self, error: &Error) -> bool {
        !matches!(error, Error::Timeout { .. } | Error::Replaced { .. }) && self.has_ended_with(error)
    }

    /// Returns whether the process is being replaced.
    pub(crate) fn is_left(&self) -> bool {
        self.is_left.load(Ordering::SeqCst)
    }

    /// Returns whether a channel has ended because its process is ending;
    /// `None` if that is not known by the deadline. Our SDK closes the control
    /// channel first, then its symbols, which may take a while.
    pub(crate) fn is_ending(&self, deadline: Deadline) -> Option<bool> {
        if self.is_left() || self.process.wait(Duration::ZERO).is_some() {
            return Some(true);
        }
        let by = |end: Instant| deadline.map_or(end, |deadline| deadline.min(end));
        let ends_by = |end: Instant| self.process.wait(end.saturating_duration_since(Instant::now())).is_some();
        if !self.process.is_ending() {
            // A process that is not ending has not closed the channel by that;
            // nor has one whose control channel is open begun a graceful end.
            // Other transports report ends in any order, and child processes
            // may hold the channels open.
            let is_in_order = self.site.transport_name() == "uds";
            if is_in_order && group::lives_alone(self.process.pid()) && self.control.still_has_peer() {
                return Some(false);
            }
            let noticed = deadline_after(EXIT_GRACE);
            if ends_by(by(noticed)) {
                return Some(true);
            }
            if self.control.has_peer() && !self.process.is_ending() {
                return (by(noticed) == noticed).then_some(false);
            }
        }
        let give_up = deadline_after(self.site.options.grace);
        let until = by(give_up);
        if ends_by(until) {
            return Some(true);
        }
        (until == give_up).then_some(false)
    }

    /// Records that the process listens at `address` from now on.
    pub(crate) fn mark_listening(&self, address: &Address) {
        let mut sockets = lock(&self.sockets);
        if !sockets.contains(address) {
            sockets.push(address.clone());
        }
    }

    /// Records that the process has closed a socket after being told to.
    pub(crate) fn mark_closed(&self, address: &Address) {
        lock(&self.sockets).retain(|other| other != address);
    }

    /// Removes the sockets that the process left behind, if it has ended.
    pub(crate) fn sweep(&self) {
        if self.process.exit().is_none() {
            return;
        }
        for address in std::mem::take(&mut *lock(&self.sockets)) {
            let _ = socket_file::remove_stale(&address);
        }
    }

    /// Releases the addresses of the control and function channels of a process
    /// that has ended, for the next one, even while handles hold this.
    pub(crate) fn retire(&self) {
        self.control.close();
        self.close_functions();
        lock(&self.claim).take();
        self.sweep();
    }

    /// Stops new work in a process that is being replaced, and waits for the
    /// calls in flight, at most until the deadline.
    pub(crate) fn leave(&self, deadline: Instant) {
        self.is_left.store(true, Ordering::SeqCst);
        self.leave_functions(deadline);
    }

    /// Stops sources and sinks, then ends the process. Its output can still be
    /// read.
    pub(crate) fn end(&self) {
        self.stop_all();
        self.process.terminate(self.site.options.grace);
        self.retire();
    }

    /// Stops sources and sinks, ends every wait for the process, then ends it.
    /// Reports of its sinks are read until the end.
    pub(crate) fn shutdown(&self) {
        self.stop_all();
        self.scope.close_all_but_reports();
        self.process.terminate(self.site.options.grace);
        // In case the kernel still holds the process.
        self.scope.close();
        self.sweep();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.sweep();
    }
}
