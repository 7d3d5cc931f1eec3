//! The sending end of a sink's channels, for one process of its plugin: its
//! data, and its acknowledgements.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::message::{Control, decode_ack};
use ekuiper_core::transport::{Deadline, Endpoint, Pull, PullEvent, Push, TransportError};

use crate::Result;
use crate::dependents::Dependent;
use crate::error::transport_error;
use crate::keeper::{Tended, Watch, Watched};
use crate::peers::Peers;
use crate::running::Running;
use crate::site::lock;
use crate::turn::Turn;

/// How often a sink's socket is looked at after its stop: nothing tells that a
/// file is gone.
const GONE_PAUSE: Duration = Duration::from_millis(1);

/// A sink in one process.
pub(crate) struct Outlet {
    pub(crate) running: Arc<Running>,
    /// Whoever sends has it, until the acknowledgement.
    pub(crate) turn: Turn,
    push: Box<dyn Push>,
    acks: Arc<Acks>,
    data: Address,
    _watch: Option<Watch>,
}

/// What became of a message.
pub(crate) enum Acknowledged {
    /// The sink's answer: its reason when it did not take the message.
    Answer(std::result::Result<(), String>),
    /// None that can be read.
    Garbage(ekuiper_core::Error),
    /// The connection ended.
    Lost,
    /// None in time.
    Timeout(TransportError),
}

impl Outlet {
    /// Starts the sink. The order is the protocol's: listen for acks, start,
    /// dial the data.
    pub(crate) fn start(
        running: &Arc<Running>,
        control: &Control,
        data: &Address,
        ack: &Address,
        what: &str,
    ) -> Result<Arc<Self>> {
        let (transport, options) = (&running.site.transport, running.site.options.transport());
        let pull = transport.pull(&Endpoint::Listen(ack.clone()), &options);
        let acks = Arc::new(Acks {
            pull: pull.map_err(transport_error(what.to_owned()))?,
            reading: Mutex::default(),
            connected: AtomicBool::new(false),
            surplus: AtomicU64::new(0),
        });
        running.depends(&(acks.clone() as Arc<dyn Dependent>));
        running.listens_at(data);
        if let Err(error) = running.start_symbol(control) {
            acks.close();
            return Err(error);
        }
        let opened = transport
            .push(&Endpoint::Dial(data.clone()), &options)
            .and_then(|push| {
                push.connect(Some(Instant::now() + running.site.options.send_timeout))?;
                Ok(push)
            })
            .map_err(transport_error(what.to_owned()));
        let push = match opened {
            Ok(push) => push,
            Err(error) => {
                let _ = running.stop_symbol(control, |patience| is_gone(data, patience));
                running.sweep();
                acks.close();
                return Err(error);
            }
        };
        // Without acks in the rule, those that come all the same are read
        // and dropped: else they would fill the channel (fault 10).
        let watch = (!control.requires_ack()).then(|| running.site.keeper.watch(acks.clone()));
        Ok(Arc::new(Self {
            running: running.clone(),
            turn: Turn::default(),
            push,
            acks,
            data: data.clone(),
            _watch: watch,
        }))
    }

    /// Whether its process lives.
    pub(crate) fn is_alive(&self) -> bool {
        self.running.process.exit().is_none()
    }

    pub(crate) fn send(&self, message: &[u8], deadline: Deadline) -> std::result::Result<(), TransportError> {
        self.push.send(message, deadline)
    }

    /// Waits until all that was sent has been read.
    pub(crate) fn flush(&self, deadline: Deadline) -> std::result::Result<(), TransportError> {
        self.push.flush(deadline)
    }

    /// Each message has its ack before the next is sent: whatever is there
    /// now answers none. Returns how many there were.
    pub(crate) fn drop_stray_acks(&self) -> u64 {
        let before = self.acks.surplus.load(Ordering::Relaxed);
        self.acks.tend();
        self.acks.surplus.load(Ordering::Relaxed) - before
    }

    pub(crate) fn await_ack(&self, deadline: Instant) -> Acknowledged {
        let acks = &self.acks;
        let mut reading = lock(&acks.reading);
        // Its end may have been seen before the message was sent.
        while !reading.peers.is_over() {
            match acks.receive(&mut reading, deadline) {
                Ok(true) => {
                    return decode_ack(&reading.buffer).map_or_else(Acknowledged::Garbage, Acknowledged::Answer);
                }
                Ok(false) if reading.peers.has_heard_the_plugin() && Instant::now() >= deadline => {
                    return Acknowledged::Timeout(TransportError::Timeout);
                }
                Ok(false) => {}
                Err(TransportError::Closed) => break,
                Err(error) => return Acknowledged::Timeout(error),
            }
        }
        Acknowledged::Lost
    }

    /// Stops the sink in its process, if that lives.
    pub(crate) fn stop(&self, control: &Control) -> Result<()> {
        let stopped = self.running.stop_symbol(control, |patience| is_gone(&self.data, patience));
        self.close();
        match stopped {
            Ok(()) if self.is_alive() => self.running.has_closed(&self.data),
            _ => self.running.sweep(),
        }
        stopped
    }

    /// Ends the wait of whoever sends a message, in the middle of it.
    pub(crate) fn cut_off(&self) {
        self.push.close();
    }

    /// Ends the wait of whoever waits for an ack.
    pub(crate) fn expect_no_acks(&self) {
        self.acks.pull.close();
    }

    /// Ends every wait: its addresses are free then.
    pub(crate) fn close(&self) {
        self.push.close();
        self.acks.pull.close();
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

/// The channel on which a sink acknowledges.
struct Acks {
    pull: Box<dyn Pull>,
    reading: Mutex<Reading>,
    connected: AtomicBool,
    surplus: AtomicU64,
}

#[derive(Default)]
struct Reading {
    buffer: Vec<u8>,
    peers: Peers,
}

impl Acks {
    /// Takes what comes next; whether it is an acknowledgement of the sink's.
    fn receive(&self, reading: &mut Reading, deadline: Instant) -> std::result::Result<bool, TransportError> {
        match self.pull.receive(&mut reading.buffer, Some(deadline))? {
            PullEvent::Message(connection) => return Ok(reading.peers.said(connection)),
            PullEvent::Connected(connection) => {
                self.connected.store(true, Ordering::SeqCst);
                reading.peers.came(connection);
            }
            PullEvent::Disconnected(connection) => reading.peers.left(connection),
        }
        Ok(false)
    }
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
        let mut reading = match self.reading.try_lock() {
            Ok(reading) => reading,
            Err(TryLockError::WouldBlock) => return Tended::InUse,
            Err(TryLockError::Poisoned(_)) => return Tended::Over,
        };
        reading.peers.listen_anew();
        // Whoever floods it is read on at the next look.
        while !reading.peers.has_heard_the_plugin() {
            match self.receive(&mut reading, Instant::now()) {
                Ok(is_ack) => {
                    self.surplus.fetch_add(is_ack.into(), Ordering::Relaxed);
                }
                Err(TransportError::Timeout) => return Tended::Idle,
                Err(_) => return Tended::Over,
            }
        }
        Tended::Idle
    }
}
