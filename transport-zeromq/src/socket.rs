//! The parts that sockets of all roles share: the hub, and listening or
//! dialling.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_core::transport::{Endpoint, Options, Result};

use crate::dial;
use crate::hub::{Hub, LINGER};
use crate::listen::Listening;
use crate::words::Role;

/// Additional time for the task to end after that.
const GRACE: Duration = Duration::from_secs(1);

/// The state that the four patterns have in common.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) hub: Arc<Hub>,
    pub(crate) max_message: usize,
    /// The listener; absent in a socket that dials.
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

    /// Stops listening, if the socket listens.
    pub(crate) fn stop_listening(&self) {
        self.listening.iter().for_each(Listening::remove_file);
    }

    /// Removes the file, ends every wait, and lets the peers receive what was
    /// sent.
    pub(crate) fn close(&self) {
        self.stop_listening();
        if self.hub.close() {
            self.hub.await_end(Instant::now() + LINGER + GRACE);
        }
    }
}

impl Drop for Common {
    fn drop(&mut self) {
        self.close();
    }
}
