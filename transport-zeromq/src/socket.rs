//! A socket of any role: its hub, and whether it listens or dials.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use ekuiper_core::transport::{ConnectionId, Endpoint, Options, Result, TransportError};

use crate::dial;
use crate::hub::Hub;
use crate::listen::Listening;
use crate::words::Role;

/// For how long a socket that is closed waits for its peers to have received
/// what was sent.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// How much longer its caller waits for the task to end.
const GRACE: Duration = Duration::from_secs(1);

/// A number that no connection of this process had before.
pub(crate) fn next_connection() -> ConnectionId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What the four patterns have in common.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) hub: Arc<Hub>,
    pub(crate) max_message: usize,
    /// Absent where it dials.
    listening: Option<Listening>,
}

impl Common {
    pub(crate) fn new(role: Role, endpoint: &Endpoint, options: &Options) -> Result<Self> {
        let max_message = options.max_message;
        let hub = Arc::new(Hub::new(role, max_message, endpoint.address())?);
        let listening = match endpoint {
            Endpoint::Listen(address) => Some(Listening::start(address, &hub, options.max_connections)?),
            Endpoint::Dial(address) => {
                dial::start(address, &hub)?;
                None
            }
        };
        Ok(Self { hub, max_message, listening })
    }

    /// # Errors
    /// [`TransportError::TooLong`].
    pub(crate) fn check_length(&self, body: &[u8]) -> Result<()> {
        if body.len() <= self.max_message {
            return Ok(());
        }
        Err(TransportError::TooLong { length: body.len() as u64, max: self.max_message as u64 })
    }

    /// Lets nobody new connect, where it listens.
    pub(crate) fn stop_listening(&self) {
        self.listening.iter().for_each(Listening::remove_file);
    }

    /// Removes the file, ends every wait, and lets the peers have what was
    /// sent. `wake` makes those look who do not wait in the hub.
    pub(crate) fn close_and(&self, wake: impl FnOnce()) {
        self.stop_listening();
        if self.hub.close() {
            wake();
            self.hub.await_end(Instant::now() + LINGER + GRACE);
        }
    }

    /// The same where all wait in the hub.
    pub(crate) fn close(&self) {
        self.close_and(|| ());
    }
}

impl Drop for Common {
    fn drop(&mut self) {
        self.close();
    }
}

/// Lets one receiver through at a time.
#[derive(Debug, Default)]
pub(crate) struct Turnstile(Mutex<()>);

impl Turnstile {
    /// # Errors
    /// [`TransportError::Misuse`] while somebody else is in.
    pub(crate) fn pass(&self, hub: &Hub) -> Result<MutexGuard<'_, ()>> {
        hub.closing.check()?;
        match self.0.try_lock() {
            Ok(passed) => Ok(passed),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                hub.closing.check()?;
                Err(TransportError::Misuse("another thread is receiving on this socket"))
            }
        }
    }
}
