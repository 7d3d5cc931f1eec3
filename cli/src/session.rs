//! What the commands share: a host with the plugins, and a graceful end.

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::sync::lock;
use ekuiper_host::{Event, EventKind, Host, HostBuilder, Sink, SinkStopper, TransportError};
use ekuiper_manager::Unpacked;

use crate::args::{Common, FOREVER};
use crate::attachment::Attachment;
use crate::console;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::plugin_options;
use crate::plugin_path::{self, Resolved};
use crate::project::BuildOptions;
use crate::watching::{Programs, Watching};

/// Interval of the look for crashes and other events.
const LOOK: Duration = Duration::from_millis(100);

/// Maximum time from the end of a process's connections to its own end.
const END: Duration = Duration::from_secs(2);

/// A host, and whether the user has interrupted the command.
pub(crate) struct Session {
    pub(crate) host: Arc<Host>,
    pub(crate) interrupt: Interrupt,
    events: Arc<Events>,
    /// Sinks whose waits a signal ends.
    sinks: Arc<Mutex<Vec<SinkStopper>>>,
    attachment: Option<Arc<Attachment>>,
    /// The folders of plugins that come from zips.
    _unpacked: Vec<Unpacked>,
    /// The programs of plugins that are watched.
    _programs: Option<Programs>,
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
    fn tell(&self, interrupt: &Interrupt, attachment: Option<&Attachment>) -> u64 {
        let mut told = lock(&self.0);
        let Told { receiver, crashes } = &mut *told;
        for event in receiver.iter().flat_map(Receiver::try_iter) {
            // What `watch` updates, it tells of itself.
            let is_told = matches!(event.kind, EventKind::Updated { .. } | EventKind::UpdateFailed { .. });
            if interrupt.is_set() || is_told {
                continue;
            }
            *crashes += u64::from(matches!(event.kind, EventKind::Crashed { .. }));
            match attachment.filter(|attachment| attachment.name() == event.plugin) {
                Some(attachment) => attachment.tell(&event),
                // The first start may be told late.
                None if matches!(event.kind, EventKind::Started { .. }) => {}
                None => console::tell(event),
            }
        }
        *crashes
    }
}

impl Session {
    /// Creates a host with the plugins at `paths`.
    pub(crate) fn open(common: &Common, options: &BuildOptions, paths: &[&Path]) -> Result<Self> {
        // Refuse an unknown transport before building anything.
        let _ = builder(common)?.build()?;
        end_builds_with_a_signal()?;
        let plugins = paths.iter().map(|path| plugin_path::resolve(path, common, options));
        Self::with(common, plugins.collect::<Result<_>>()?)
    }

    /// Creates a host with the plugins at `paths`, and updates them when their
    /// files change. After each update the plugin's name is received.
    pub(crate) fn watch(common: &Common, options: &BuildOptions, paths: &[&Path]) -> Result<(Self, Receiver<String>)> {
        let _ = builder(common)?.build()?;
        end_builds_with_a_signal()?;
        let (watching, plugins) = Watching::resolve(common, options, paths)?;
        let mut session = Self::with(common, plugins)?;
        let (updates, programs) = watching.start(session.host.clone(), session.interrupt.clone())?;
        session._programs = Some(programs);
        Ok((session, updates))
    }

    /// Creates a host with the plugins at `paths`, and with one that the user
    /// starts; waits until it has come.
    ///
    /// # Errors
    /// As [`await_attached`](Self::await_attached).
    pub(crate) fn attach(
        common: &Common,
        attachment: Attachment,
        options: &BuildOptions,
        paths: &[&Path],
    ) -> Result<Self> {
        let session = Self::attach_later(common, attachment, options, paths)?;
        session.await_attached()?;
        Ok(session)
    }

    /// Creates such a host, without waiting.
    pub(crate) fn attach_later(
        common: &Common,
        attachment: Attachment,
        options: &BuildOptions,
        paths: &[&Path],
    ) -> Result<Self> {
        let _ = builder(common)?.build()?;
        let plugins = paths.iter().map(|path| plugin_path::resolve(path, common, options));
        let plugins = plugins.collect::<Result<_>>()?;
        let host = builder(&common.patient())?.stall_timeout(FOREVER).attach(attachment.name());
        let mut session = Self::on(host, plugins)?;
        session.attachment = Some(Arc::new(attachment));
        session.tell_what_happens()?;
        Ok(session)
    }

    /// Waits until the attached plugin has come.
    ///
    /// # Errors
    /// [`Error::NotCome`], [`Error::Interrupted`].
    pub(crate) fn await_attached(&self) -> Result<()> {
        let Some(attachment) = &self.attachment else { return Ok(()) };
        let name = attachment.name();
        let come = self.host.start(name).and_then(|()| self.host.description(name));
        let description = match come {
            Ok(description) => description,
            Err(_) if self.interrupt.is_set() => return Err(Error::Interrupted),
            Err(ekuiper_host::Error::Transport { source, .. })
                if matches!(&*source, TransportError::AddressInUse(_)) =>
            {
                return Err(Error::AttachedElsewhere { name: name.to_owned(), source });
            }
            Err(error) => return Err(attachment.given_up().unwrap_or(error.into())),
        };
        let _ = self.crashes();
        attachment.welcome(self.host.pid(name), description.as_ref());
        Ok(())
    }

    /// Creates a host with these plugins.
    pub(crate) fn with(common: &Common, plugins: Vec<Resolved>) -> Result<Self> {
        Self::on(builder(common)?, plugins)
    }

    fn on(mut builder: HostBuilder, plugins: Vec<Resolved>) -> Result<Self> {
        let mut unpacked = Vec::new();
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
        Ok(Self {
            host,
            interrupt,
            events: Arc::default(),
            sinks,
            attachment: None,
            _unpacked: unpacked,
            _programs: None,
        })
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
        // A session with an attached plugin has done it from its start.
        if lock(&self.events.0).receiver.is_some() {
            return Ok(());
        }
        lock(&self.events.0).receiver = Some(self.host.events());
        let (events, interrupt) = (self.events.clone(), self.interrupt.clone());
        let (attachment, host) = (self.attachment.clone(), self.host.clone());
        let look = move || {
            loop {
                std::thread::sleep(LOOK);
                events.tell(&interrupt, attachment.as_deref());
                if attachment.as_ref().is_some_and(|attachment| attachment.look(&host)) {
                    return host.shutdown();
                }
            }
        };
        std::thread::Builder::new().name("events".into()).spawn(look).map_err(Error::Thread)?;
        Ok(())
    }

    /// Reports the events so far, before a summary; returns the number of
    /// crashes.
    pub(crate) fn crashes(&self) -> u64 {
        self.events.tell(&self.interrupt, self.attachment.as_deref())
    }

    /// Calls the plugin, and calls it again when the user's own process has gone
    /// meanwhile and another one has come.
    pub(crate) fn again_when_back<T>(&self, call: impl Fn() -> ekuiper_host::Result<T>) -> Result<T> {
        use ekuiper_host::Error as Host;
        loop {
            let process = self.attachment.as_ref().and_then(|attachment| self.host.pid(attachment.name()));
            match call() {
                Err(Host::OutcomeUnknown { .. } | Host::Exited { .. }) if self.has_gone(process) => {
                    let _ = self.crashes();
                    console::tell("the call was not answered: it is made again when the plugin is back");
                }
                called => return Ok(called?),
            }
        }
    }

    /// Returns whether the process of the attached plugin has ended, or is about
    /// to.
    fn has_gone(&self, process: Option<u32>) -> bool {
        let Some(attachment) = &self.attachment else { return false };
        let give_up = Instant::now() + END;
        while process.is_some() && !self.interrupt.is_set() && Instant::now() < give_up {
            if self.host.pid(attachment.name()) != process {
                return true;
            }
            std::thread::sleep(LOOK);
        }
        false
    }

    /// Returns an error if the attached plugin was waited for too long.
    pub(crate) fn check(&self) -> Result<()> {
        let given_up = self.attachment.as_ref().and_then(|attachment| attachment.given_up());
        given_up.map_or(Ok(()), Err)
    }

    /// Turns a failure into success if the user's interrupt caused it.
    pub(crate) fn outcome<T: Default>(&self, result: Result<T>) -> Result<T> {
        match result {
            Err(_) if self.interrupt.is_set() => Ok(T::default()),
            Err(error) => {
                let given_up = self.attachment.as_ref().and_then(|attachment| attachment.given_up());
                Err(given_up.unwrap_or(error))
            }
            result => result,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.host.shutdown();
    }
}

/// Has a signal end what is done before there is a host: a project's build, and
/// the question for a plugin's description.
pub(crate) fn end_builds_with_a_signal() -> Result<()> {
    Interrupt::watch(|| {}).map(drop).map_err(Error::Signals)
}

/// Ends every wait for the sink.
fn give_up(sink: &SinkStopper) {
    sink.stop();
    sink.abandon();
}

/// Returns the settings of a host.
///
/// # Errors
/// The file with the options of plugins cannot be used.
pub(crate) fn builder(common: &Common) -> Result<HostBuilder> {
    let mut builder = Host::builder()
        .init_timeout(common.init_timeout())
        .send_timeout(common.send_timeout())
        .recv_timeout(common.recv_timeout())
        .drain_timeout(common.drain_timeout())
        .drain_stall(common.drain_stall())
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
    if let Some(file) = &common.plugin_options {
        for (plugin, options) in plugin_options::read(file)? {
            builder = builder.plugin_options(plugin, options);
        }
    }
    Ok(builder)
}
