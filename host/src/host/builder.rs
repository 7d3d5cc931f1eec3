//! The builder of a host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ekuiper_core::transport::MAX_SPIN;

use ekuiper_core::codec::Format;
use ekuiper_core::restart::RestartPolicy;

use super::Host;
use super::core::{Core, Members};
use super::rescan::{Problem, packages_in};
use crate::Result;
use crate::catalog::{Catalog, Package};
use crate::channel::idle_reader::IdleReader;
use crate::error::system_error;
use crate::options::Options;
use crate::plugin::{Origin, Plugin};
use crate::plugin_log::LogLine;
use crate::plugin_options::PluginOptions;
use crate::process::guard::Guard;
use crate::site::{Site, socket_folder};
use crate::source::backlog::Bounds;
use crate::status::Events;
use crate::transports::Transports;

/// Settings of a [`Host`], with eKuiper's names and defaults.
#[derive(Debug, Default)]
#[must_use = "it does nothing until it is built"]
pub struct HostBuilder {
    options: Options,
    transport: Option<String>,
    folders: Vec<PathBuf>,
    plugins: Vec<PathBuf>,
    packages: Vec<Package>,
    attached: BTreeSet<String>,
}

impl HostBuilder {
    /// Adds all plugins of a folder that has one folder per plugin: eKuiper's
    /// `plugins/portable`. [`Host::rescan`] reads it again.
    pub fn plugins_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folders.push(folder.into());
        self
    }

    /// Adds one plugin, by its folder.
    pub fn plugin(mut self, folder: impl Into<PathBuf>) -> Self {
        self.plugins.push(folder.into());
        self
    }

    /// Adds a plugin whose manifest has been read already.
    pub fn package(mut self, package: Package) -> Self {
        self.packages.push(package);
        self
    }

    /// Attaches the plugin of this name: the host does not start it, but waits,
    /// at most `init_timeout`, for the process that somebody else starts, a
    /// person in a debugger for example, and never ends that process. When it
    /// ends, the host waits for the next one, and restores the symbols in use
    /// in it.
    ///
    /// The plugin needs no folder. Without one, it is asked for every symbol
    /// that no other plugin's manifest lists. A process must run on the same
    /// machine and in the same pid namespace, and connects where eKuiper's
    /// plugins do: to `/tmp/plugin_NAME.ipc`, or in the folder of
    /// [`ipc_dir`](HostBuilder::ipc_dir). The transport `zeromq` cannot attach.
    pub fn attach(mut self, name: impl Into<String>) -> Self {
        self.attached.insert(name.into());
        self
    }

    /// Sets the transport of everything: `uds`, `nng`, `zeromq` or `shm`.
    /// Plugins on an official SDK support neither `zeromq`, which needs a folder
    /// of mode 0700, nor `shm`. Default: `uds`, and with the feature `shm`,
    /// shared memory for the symbols of each plugin that has it too.
    pub fn transport(mut self, name: impl Into<String>) -> Self {
        self.transport = Some(name.into());
        self
    }

    /// Sets the folder of all sockets. Default: a private folder of the host
    /// that only this user can enter, and `/tmp` for plugins that support no
    /// other folder (those on an official SDK).
    pub fn ipc_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.ipc_dir = Some(folder.into());
        self
    }

    /// Sets the interpreter of Python plugins. Default: `python`, or `python3`
    /// where there is no `python`.
    pub fn python_bin(mut self, program: impl Into<String>) -> Self {
        self.options.python_bin = Some(program.into());
        self
    }

    /// Sets the maximum time from a plugin's start to its handshake, and for
    /// the start of a symbol. Default: 60 s.
    pub fn init_timeout(mut self, timeout: Duration) -> Self {
        self.options.init_timeout = timeout;
        self
    }

    /// Sets the maximum time until a plugin accepts a message. Default: 5 s.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.options.send_timeout = timeout;
        self
    }

    /// Sets the maximum time until a plugin answers or acknowledges. Default: 5
    /// s.
    pub fn recv_timeout(mut self, timeout: Duration) -> Self {
        self.options.recv_timeout = timeout;
        self
    }

    /// Sets when a crashed plugin is restarted. Default: see [`RestartPolicy`].
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.options.restart = policy;
        self
    }

    /// Sets the time from SIGTERM to SIGKILL when a plugin is ended. Default: 3
    /// s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = grace;
        self
    }

    /// Sets the maximum length of a message, in bytes. Default: 64 MiB.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.options.max_message = bytes;
        self
    }

    /// Sets the format of functions' and sources' messages, where the plugin
    /// supports more than JSON. Default: MessagePack.
    pub fn format(mut self, format: Format) -> Self {
        self.options.format = format;
        self
    }

    /// Sets the maximum number of unacknowledged messages of
    /// [`Sink::send_async`](crate::Sink::send_async), beyond which sending
    /// blocks. Default: 1024.
    pub fn ack_window(mut self, messages: u64) -> Self {
        self.options.ack_window = messages;
        self
    }

    /// Sets the maximum size of the calls of
    /// [`Function::call_async`](crate::Function::call_async) that wait to be
    /// sent, in bytes, of all functions together: beyond, it fails with
    /// [`Error::QueueFull`](crate::Error::QueueFull). Default: 64 MiB.
    pub fn call_queue(mut self, bytes: usize) -> Self {
        self.options.call_queue = bytes;
        self
    }

    /// Sets the maximum time to drain a sink, until everything that was sent to
    /// it has been collected: in [`Sink::close`](crate::Sink::close), on its
    /// drop, and in an [update](Host::update) of its plugin. Default: 10
    /// minutes.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.options.drain_timeout = timeout;
        self
    }

    /// Sets the maximum time to drain a sink without progress: no message is
    /// known to have been collected (or read, if that is all that is known),
    /// and the plugin's process does not work. Its work counts if the plugin
    /// reports nothing, or has no other source or sink; a row that waits
    /// without any work must not take longer than this. Default: 10 s.
    pub fn drain_stall(mut self, timeout: Duration) -> Self {
        self.options.drain_stall = timeout;
        self
    }

    /// Sets how long a plugin may pause in the middle of a message, in either
    /// direction, before its connection is closed. Default: 10 s. libnng has no
    /// such limit.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.options.stall_timeout = timeout;
        self
    }

    /// Sets the maximum time to busy-poll for an answer, a tuple or an
    /// acknowledgement before blocking, where busy-polling has recently paid
    /// off (`uds`, `shm`). A few times in a row it is up to 30 µs more, to meet a
    /// plugin that is waking up. Zero disables busy-polling; more than 10 ms
    /// counts as that. Default: 20 µs.
    pub fn spin(mut self, spin: Duration) -> Self {
        self.options.spin = spin.min(MAX_SPIN);
        self
    }

    /// Sets how many [events](Host::events) are queued for a subscriber that
    /// does not read; further events are dropped for this subscriber. Default:
    /// 1024.
    pub fn event_queue(mut self, events: usize) -> Self {
        self.options.event_queue = events;
        self
    }

    /// Sets how much is queued for a source on an official SDK that is not
    /// read, in messages and bytes. Other sources block; a source on an
    /// official SDK can do so for only a second. When the queue is full, the
    /// source is restarted, and its reader gets [`Error::Overrun`](crate::Error::Overrun). Default:
    /// 10,000 messages, 64 MiB.
    pub fn source_queue(mut self, messages: usize, bytes: usize) -> Self {
        self.options.source_queue = Bounds { messages, bytes };
        self
    }

    /// Sets the log level of plugins on our SDK: `error` to `trace`. Default:
    /// `info`.
    pub fn log_level(mut self, level: impl Into<String>) -> Self {
        self.options.log_level = Some(level.into());
        self
    }

    /// Sets the options of the plugin of this name, which may be added later:
    /// its environment, working directory, limits and checksum. They have no
    /// effect on a plugin that somebody else starts.
    pub fn plugin_options(mut self, plugin: impl Into<String>, options: PluginOptions) -> Self {
        self.options.plugin_options.insert(plugin.into(), options);
        self
    }

    /// Adds a listener for the lines that plugins write to stdout and stderr.
    /// They go to `tracing` too, with the target `plugin` and their level.
    ///
    /// Lines come in the order in which each plugin has written them, from one
    /// thread of the host. A listener may block: meanwhile up to 1,024 lines
    /// wait, and further ones are left out and counted.
    ///
    /// ```no_run
    /// # fn main() -> ekuiper_host::Result<()> {
    /// use ekuiper_host::{Host, LogLevel};
    ///
    /// let host = Host::builder().plugins_dir("plugins/portable").on_log_line(|line| {
    ///     if line.level <= LogLevel::Warn {
    ///         eprintln!("{} of {} [{}]: {}", line.level, line.plugin, line.pid, line.text);
    ///     }
    /// });
    /// # host.build()?; Ok(())
    /// # }
    /// ```
    pub fn on_log_line(mut self, listener: impl Fn(&LogLine) + Send + Sync + 'static) -> Self {
        self.options.plugin_log.listen(Arc::new(listener));
        self
    }

    /// Sets how many lines of a plugin's process are passed on in a second. The
    /// others are left out; a line of the level [`LogLevel::Warn`](crate::LogLevel::Warn)
    /// has their number. Default: 1,000.
    pub fn log_rate(mut self, lines: u64) -> Self {
        self.options.plugin_log.limit(lines);
        self
    }

    /// Reads the plugins' manifests and creates the host. Starts no plugin.
    ///
    /// A plugin of a [`plugins_dir`](HostBuilder::plugins_dir) that cannot be
    /// used is left out: [`Host::problems`] has it.
    ///
    /// # Errors
    /// A folder of plugins, or a plugin that is named one by one, cannot be
    /// read, or two of those share a symbol; a plugin's options cannot be; the
    /// transport is not built in, or the socket folder is not writable.
    pub fn build(mut self) -> Result<Host> {
        let options = std::mem::take(&mut self.options.plugin_options).into_iter();
        let options = options.map(|(plugin, options)| Ok((plugin.clone(), options.checked(&plugin)?)));
        self.options.plugin_options = options.collect::<Result<_>>()?;
        let mut catalog = Catalog::default();
        self.plugins.iter().try_for_each(|folder| catalog.add(Package::read(folder)?))?;
        self.packages.into_iter().try_for_each(|package| catalog.add(package))?;
        let (mut scanned, mut problems) = (BTreeMap::new(), Vec::new());
        for folder in &self.folders {
            for (folder, read) in packages_in(folder)? {
                let added = read.and_then(|package| {
                    catalog.add(package.clone())?;
                    scanned.insert(package.name.clone(), package);
                    Ok(())
                });
                problems.extend(added.err().map(|error| Problem::of(folder, error)));
            }
        }
        self.attached.iter().for_each(|name| catalog.attach(name));
        let transports = Transports::choose(self.transport.as_deref())?;
        let (folder, own) = socket_folder(self.options.ipc_dir.as_deref())?;
        let idle_reader =
            IdleReader::start(self.options.stall_timeout).map_err(system_error("the host", "an idle reader"))?;
        let idle_reader = Arc::new(idle_reader);
        let events = Events::new(self.options.event_queue);
        let site = Site::new(self.options, transports, idle_reader, (folder, own.as_ref()), events);
        let plugins = catalog
            .packages()
            .map(|package| {
                let origin = if self.attached.contains(&package.name) { Origin::Attached } else { Origin::Started };
                (package.name.clone(), Plugin::new(package.clone(), origin, site.clone()))
            })
            .collect();
        let members = Members { catalog, plugins, scanned, problems, is_shut_down: false };
        // Before the engine's memory grows, which is copied then. Without it the
        // first start of a plugin fails, and says why.
        let guard = Guard::of_this_process().ok();
        Ok(Host { core: Arc::new(Core::new(members, site, own, self.folders, guard)) })
    }
}
