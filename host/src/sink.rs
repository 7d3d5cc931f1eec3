//! Writing to a plugin's sink.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::message::{Control, SymbolKind, decode_ack};
use ekuiper_core::transport::{Endpoint, Pull, PullEvent, Push, TransportError};
use serde::Serialize;

use crate::dependents::Dependent;
use crate::error::transport_error;
use crate::keeper::{Tended, Watch, Watched};
use crate::plugin::Plugin;
use crate::process::EXIT_GRACE;
use crate::running::Running;
use crate::site::{Claim, lock};
use crate::target::{Target, target_setters};
use crate::{Error, Result};

/// How often a sink's socket is looked at after its stop: nothing tells that a
/// file is gone.
const GONE_PAUSE: Duration = Duration::from_millis(1);

/// A sink that is about to be opened.
#[must_use = "it does nothing until it is opened"]
pub struct SinkBuilder {
    plugin: Result<Arc<Plugin>>,
    target: Target,
    require_ack: bool,
}

impl SinkBuilder {
    pub(crate) fn new(plugin: Result<Arc<Plugin>>, symbol: &str) -> Self {
        Self { plugin, target: Target::new(SymbolKind::Sink, symbol), require_ack: false }
    }

    target_setters!();

    /// Whether each message must be acknowledged before the next is sent.
    /// Default: no.
    pub fn require_ack(mut self, require_ack: bool) -> Self {
        self.require_ack = require_ack;
        self
    }

    /// Starts the sink.
    ///
    /// # Errors
    /// No plugin serves it; the plugin cannot be started, or refuses; another
    /// channel has the same address.
    pub fn open(self) -> Result<Sink> {
        let target = self.target;
        let mut config = target.config()?;
        if self.require_ack {
            config.insert("requireAck".into(), true.into());
        }
        let control = Control::sink(&target.symbol, target.meta.clone(), config);
        let require_ack = control.requires_ack();
        let running = self.plugin?.running()?;
        let what = || format!("{} (plugin {})", target.describe(), running.name);
        let message = |source| Error::Message { what: what(), source };
        let data = running.site.claim(running.folder.data(&target.meta).map_err(message)?, what())?;
        let ack = running.site.claim(running.folder.ack(&target.meta).map_err(message)?, what())?;

        // The order is the protocol's: listen for acks, start, dial the data.
        let (transport, options) = (&running.site.transport, running.site.options.transport());
        let pull = transport.pull(&Endpoint::Listen(ack.address.clone()), &options);
        let acks = Arc::new(Acks {
            pull: pull.map_err(transport_error(what()))?,
            buffer: Mutex::default(),
            connected: AtomicBool::new(false),
            surplus: AtomicU64::new(0),
        });
        running.depends(&(acks.clone() as Arc<dyn Dependent>));
        running.listens_at(&data.address);
        running.start_symbol(&control)?;
        let opened = transport
            .push(&Endpoint::Dial(data.address.clone()), &options)
            .and_then(|push| {
                push.connect(Some(Instant::now() + running.site.options.send_timeout))?;
                Ok(push)
            })
            .map_err(transport_error(what()));
        let push = match opened {
            Ok(push) => push,
            Err(error) => {
                let _ = running.stop_symbol(&control, |patience| is_gone(&data.address, patience));
                running.sweep();
                return Err(error);
            }
        };
        // Without acks in the rule, those that come all the same are read
        // and dropped: else they would fill the channel (fault 10).
        let watch = (!require_ack).then(|| running.site.keeper.watch(acks.clone()));
        Ok(Sink {
            running,
            control,
            push,
            acks,
            require_ack,
            sending: Mutex::default(),
            stopped: false,
            _watch: watch,
            data,
            _ack: ack,
        })
    }
}

/// The channel on which a sink acknowledges.
struct Acks {
    pull: Box<dyn Pull>,
    buffer: Mutex<Vec<u8>>,
    connected: AtomicBool,
    surplus: AtomicU64,
}

impl Dependent for Acks {
    fn process_ended(&self) {
        if !self.connected.load(Ordering::SeqCst) {
            self.pull.close();
        }
    }

    fn close(&self) {
        self.pull.close();
    }
}

impl Watched for Acks {
    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.pull.readiness()
    }

    fn uses(&self) -> u64 {
        0
    }

    fn tend(&self) -> Tended {
        let mut buffer = match self.buffer.try_lock() {
            Ok(buffer) => buffer,
            Err(TryLockError::WouldBlock) => return Tended::InUse,
            Err(TryLockError::Poisoned(_)) => return Tended::Over,
        };
        loop {
            match self.pull.receive(&mut buffer, Some(Instant::now())) {
                Ok(PullEvent::Message(_)) => {
                    self.surplus.fetch_add(1, Ordering::Relaxed);
                }
                Ok(PullEvent::Connected(_)) => self.connected.store(true, Ordering::SeqCst),
                Ok(PullEvent::Disconnected(_)) => {}
                Err(TransportError::Timeout) => return Tended::Idle,
                Err(_) => return Tended::Over,
            }
        }
    }
}

/// A sink that runs. Dropping it stops the sink, after it has read what was
/// sent.
pub struct Sink {
    running: Arc<Running>,
    control: Control,
    push: Box<dyn Push>,
    acks: Arc<Acks>,
    require_ack: bool,
    /// Held from a message to its ack, so that acks are not confused.
    sending: Mutex<Sending>,
    stopped: bool,
    _watch: Option<Watch>,
    data: Claim,
    _ack: Claim,
}

#[derive(Default)]
struct Sending {
    /// An ack did not come: later ones could be taken for it.
    broken: bool,
    buffer: Vec<u8>,
}

impl Sink {
    /// Sends a row, or an array of rows. With acks: returns when it was
    /// acknowledged.
    ///
    /// # Errors
    /// [`Error::Sink`] with the sink's own words when it did not take the
    /// message; [`Error::Timeout`], [`Error::OutcomeUnknown`] when it did not
    /// acknowledge; [`Error::SinkBroken`] after such a failure.
    pub fn send(&self, rows: &(impl Serialize + ?Sized)) -> Result<()> {
        let mut sending = lock(&self.sending);
        let mut buffer = std::mem::take(&mut sending.buffer);
        buffer.clear();
        let encoded = serde_json::to_writer(&mut buffer, rows).map_err(|source| Error::Message {
            what: self.what(),
            source: ekuiper_core::Error::Encode { what: "the message", source },
        });
        let sent = encoded.and_then(|()| self.transmit(&mut sending, &buffer));
        sending.buffer = buffer;
        sent
    }

    /// Sends bytes as they are; the sinks of the official SDKs take any.
    ///
    /// # Errors
    /// As [`Sink::send`].
    pub fn send_bytes(&self, message: &[u8]) -> Result<()> {
        self.transmit(&mut lock(&self.sending), message)
    }

    fn transmit(&self, sending: &mut Sending, message: &[u8]) -> Result<()> {
        if sending.broken {
            return Err(Error::SinkBroken { symbol: self.control.symbol_name.clone() });
        }
        if let Some(exit) = self.running.process.exit() {
            return Err(Error::Exited { plugin: self.running.name.clone(), exit });
        }
        if self.require_ack {
            self.drop_stray_acks();
        }
        let patience = self.running.site.options.send_timeout;
        match self.push.send(message, Some(Instant::now() + patience)) {
            Ok(()) if self.require_ack => self.await_ack(sending),
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain(error, "it takes no message", patience)),
        }
    }

    /// Waits until the plugin has read all that was sent.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub fn flush(&self, patience: Duration) -> Result<()> {
        self.push
            .flush(Some(Instant::now() + patience))
            .map_err(|error| self.explain(error, "it has not read all that was sent", patience))
    }

    /// Stops the sink, after it has read what was sent.
    ///
    /// # Errors
    /// The plugin did not read all in time, or did not carry out the stop.
    pub fn close(mut self) -> Result<()> {
        self.stop()
    }

    fn what(&self) -> String {
        format!("sink {} of plugin {}", self.control.symbol_name, self.running.name)
    }

    /// Each message has its ack before the next is sent: whatever is there
    /// now answers none.
    fn drop_stray_acks(&self) {
        let before = self.acks.surplus.load(Ordering::Relaxed);
        self.acks.tend();
        if self.acks.surplus.load(Ordering::Relaxed) > before {
            tracing::warn!(sink = self.control.symbol_name, "an acknowledgement of nothing was dropped");
        }
    }

    fn await_ack(&self, sending: &mut Sending) -> Result<()> {
        let patience = self.running.site.options.recv_timeout;
        let deadline = Instant::now() + patience;
        let acks = &self.acks;
        let mut buffer = lock(&acks.buffer);
        loop {
            match acks.pull.receive(&mut buffer, Some(deadline)) {
                Ok(PullEvent::Connected(_)) => acks.connected.store(true, Ordering::SeqCst),
                Ok(PullEvent::Message(_)) => {
                    let outcome = decode_ack(&buffer).map_err(|source| Error::Message { what: self.what(), source });
                    return outcome?.map_err(|text| Error::Sink { symbol: self.control.symbol_name.clone(), text });
                }
                Ok(PullEvent::Disconnected(_)) | Err(TransportError::Closed) => {
                    sending.broken = true;
                    return Err(Error::OutcomeUnknown {
                        plugin: self.running.name.clone(),
                        what: format!("a message to sink {}", self.control.symbol_name),
                        exit: self.running.process.wait(EXIT_GRACE),
                    });
                }
                Err(error) => {
                    sending.broken = true;
                    return Err(self.explain(error, "it does not acknowledge", patience));
                }
            }
        }
    }

    fn explain(&self, error: TransportError, problem: &str, after: Duration) -> Error {
        let plugin = self.running.name.clone();
        if let (TransportError::Disconnected | TransportError::Timeout, Some(exit)) =
            (&error, self.running.process.exit())
        {
            return Error::Exited { plugin, exit };
        }
        match error {
            TransportError::Timeout => {
                Error::Timeout { plugin, what: format!("sink {}: {problem}", self.control.symbol_name), after }
            }
            error => transport_error(self.what())(error),
        }
    }

    fn stop(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        let flushed = match self.running.process.exit() {
            None => self.flush(self.running.site.options.send_timeout),
            Some(_) => Ok(()),
        };
        let stopped = self.running.stop_symbol(&self.control, |patience| is_gone(&self.data.address, patience));
        self.push.close();
        self.acks.pull.close();
        match stopped {
            Ok(()) if self.running.process.exit().is_none() => self.running.has_closed(&self.data.address),
            _ => self.running.sweep(),
        }
        flushed.and(stopped)
    }
}

/// Waits until a sink has closed its socket, which removes the file. It
/// normally has when it answers.
fn is_gone(address: &Address, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while address.path().exists() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(GONE_PAUSE);
    }
    true
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(%error, "a sink was not stopped");
        }
    }
}

#[cfg(all(test, feature = "uds"))]
mod tests {
    use super::*;
    use ekuiper_core::address::Address;
    use ekuiper_core::transport::{Options, Transport};
    use ekuiper_transport_uds::UdsTransport;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    #[test]
    fn an_ack_is_read_though_its_plugin_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::new(folder.path().join("ack.ipc")).unwrap();
        let (transport, options) = (UdsTransport::new(), Options::default());
        let soon = Some(Instant::now() + Duration::from_secs(10));
        let acks = Acks {
            pull: transport.pull(&Endpoint::Listen(address.clone()), &options).unwrap(),
            buffer: Mutex::default(),
            connected: AtomicBool::new(false),
            surplus: AtomicU64::new(0),
        };
        let plugin = transport.push(&Endpoint::Dial(address), &options).unwrap();
        plugin.connect(soon).unwrap();
        // What every send does first sees the connection come.
        let mut seen = [PollFd::from_borrowed_fd(acks.readiness().unwrap(), PollFlags::IN)];
        assert_eq!(poll(&mut seen, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })), Ok(1));
        assert_eq!(acks.tend(), Tended::Idle);
        plugin.send(b"{}", soon).unwrap();
        plugin.close();
        acks.process_ended();
        let mut buffer = Vec::new();
        assert!(matches!(acks.pull.receive(&mut buffer, soon), Ok(PullEvent::Message(_))));
    }
}
