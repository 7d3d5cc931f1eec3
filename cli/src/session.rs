//! What the commands share: a host with the plugins, and a graceful end.

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ekuiper_core::sync::lock;
use ekuiper_host::{Event, EventKind, Host, HostBuilder, Sink, SinkStopper};
use ekuiper_manager::Unpacked;

use crate::args::Common;
use crate::console;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::plugin_path::{self, Resolved};
use crate::project::BuildOptions;
use crate::watching::Watching;

/// Interval of the look for crashes and other events.
const LOOK: Duration = Duration::from_millis(100);

/// A host, and whether the user has interrupted the command.
pub(crate) struct Session {
    pub(crate) host: Arc<Host>,
    pub(crate) interrupt: Interrupt,
    events: Arc<Events>,
    /// Sinks whose waits a signal ends.
    sinks: Arc<Mutex<Vec<SinkStopper>>>,
    /// The folders of plugins that come from zips.
    _unpacked: Vec<Unpacked>,
}

/// Events of the plugins.
#[derive(Default)]
struct Events(Mutex<Told>);

#[derive(Default)]
struct Told {
    receiver: Option<Receiver<Event>>,
    crashes: u64,
}

impl Events {
    /// Reports the events so far; returns the number of crashes. Events after a
    /// signal belong to the shutdown.
    fn tell(&self, interrupt: &Interrupt) -> u64 {
        let mut told = lock(&self.0);
        let Told { receiver, crashes } = &mut *told;
        for event in receiver.iter().flat_map(Receiver::try_iter) {
            // The first start may be told late.
            if interrupt.is_set() || matches!(event.kind, EventKind::Started { .. }) {
                continue;
            }
            *crashes += u64::from(matches!(event.kind, EventKind::Crashed { .. }));
            console::tell(event);
        }
        *crashes
    }
}

impl Session {
    /// Creates a host with the plugins at `paths`.
    pub(crate) fn open(common: &Common, options: &BuildOptions, paths: &[&Path]) -> Result<Self> {
        // Refuse an unknown transport before building anything.
        let _ = builder(common).build()?;
        let plugins = paths.iter().map(|path| plugin_path::resolve(path, common, options));
        Self::with(common, plugins.collect::<Result<_>>()?)
    }

    /// Creates a host with the plugins at `paths`, and updates them when their
    /// files change. After each update the plugin's name is received.
    pub(crate) fn watch(common: &Common, options: &BuildOptions, paths: &[&Path]) -> Result<(Self, Receiver<String>)> {
        let _ = builder(common).build()?;
        let (watching, plugins) = Watching::resolve(common, options, paths)?;
        let session = Self::with(common, plugins)?;
        let updates = watching.start(session.host.clone(), session.interrupt.clone())?;
        Ok((session, updates))
    }

    /// Creates a host with these plugins.
    pub(crate) fn with(common: &Common, plugins: Vec<Resolved>) -> Result<Self> {
        let (mut builder, mut unpacked) = (builder(common), Vec::new());
        for plugin in plugins {
            builder = builder.package(plugin.package);
            unpacked.extend(plugin.unpacked);
        }
        let host = Arc::new(builder.build()?);
        let sinks: Arc<Mutex<Vec<SinkStopper>>> = Arc::default();
        let (ended, stopped) = (host.clone(), sinks.clone());
        let on_interrupt = move || {
            lock(&stopped).iter().for_each(give_up);
            ended.shutdown();
        };
        let interrupt = Interrupt::watch(on_interrupt).map_err(Error::Signals)?;
        Ok(Self { host, interrupt, events: Arc::default(), sinks, _unpacked: unpacked })
    }

    /// Ends the waits for this sink at a signal, from now on.
    pub(crate) fn ends_with_a_signal(&self, sink: &Sink) {
        let stopper = sink.stopper();
        lock(&self.sinks).push(stopper.clone());
        if self.interrupt.is_set() {
            give_up(&stopper);
        }
    }

    /// Shows plugin output from now on, once the symbols have started, and
    /// reports crashes and restarts.
    pub(crate) fn tell_what_happens(&self) -> Result<()> {
        console::show_plugin_output();
        lock(&self.events.0).receiver = Some(self.host.events());
        let (events, interrupt) = (self.events.clone(), self.interrupt.clone());
        let look = move || {
            loop {
                std::thread::sleep(LOOK);
                events.tell(&interrupt);
            }
        };
        std::thread::Builder::new().name("events".into()).spawn(look).map_err(Error::Thread)?;
        Ok(())
    }

    /// Reports the events so far, before a summary; returns the number of
    /// crashes.
    pub(crate) fn crashes(&self) -> u64 {
        self.events.tell(&self.interrupt)
    }

    /// Turns a failure into success if the user's interrupt caused it.
    pub(crate) fn outcome<T: Default>(&self, result: Result<T>) -> Result<T> {
        match result {
            Err(_) if self.interrupt.is_set() => Ok(T::default()),
            result => result,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.host.shutdown();
    }
}

/// Ends every wait for the sink.
fn give_up(sink: &SinkStopper) {
    sink.stop();
    sink.abandon();
}

fn builder(common: &Common) -> HostBuilder {
    let mut builder = Host::builder()
        .init_timeout(common.init_timeout)
        .send_timeout(common.send_timeout)
        .recv_timeout(common.recv_timeout)
        .drain_timeout(common.drain_timeout)
        .drain_stall(common.drain_stall)
        .format(common.codec.format())
        .log_level(common.log_level.name());
    if let Some(transport) = &common.transport {
        builder = builder.transport(transport);
    }
    if let Some(folder) = &common.ipc_dir {
        builder = builder.ipc_dir(folder);
    }
    if let Some(python) = &common.python_bin {
        builder = builder.python_bin(python);
    }
    builder
}
