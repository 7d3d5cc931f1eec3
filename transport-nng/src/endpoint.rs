//! A socket at its address, until it is closed.

use std::sync::Arc;

use ekuiper_core::transport::{Endpoint, Options, Result};
use ekuiper_transport_ipc::wait::Closing;
use nng::{Pipe, PipeEvent, Socket};

use crate::census::Census;
use crate::dial::{self, Persistence};
use crate::gatekeeper::Gatekeeper;
use crate::listen::{Listening, Supply};

/// A libnng socket that listens or dials, with the means to close it.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) socket: Socket,
    pub(crate) closing: Arc<Closing>,
    census: Arc<Census>,
    listening: Option<Arc<Listening>>,
}

impl Wire {
    /// Makes `socket` listen or dial; `notify` is called by libnng's threads
    /// with each connection event.
    pub(crate) fn new(
        socket: Socket,
        endpoint: &Endpoint,
        options: &Options,
        notify: impl Fn(Pipe, PipeEvent) + Send + Sync + 'static,
    ) -> Result<Self> {
        let address = endpoint.address();
        let closing = Arc::new(Closing::new(address)?);
        let census = Arc::new(Census::new(matches!(endpoint, Endpoint::Listen(_))));
        Gatekeeper::install(&socket, address, &census, options, notify)?;
        let mut listening = None;
        match endpoint {
            Endpoint::Listen(address) => {
                listening = Some(Listening::start(Supply::Socket(socket.clone()), address, &census, &closing)?);
            }
            Endpoint::Dial(address) => dial::start(&socket, address, &census, Persistence::Always)?,
        }
        Ok(Self { socket, closing, census, listening })
    }

    /// Stops listening, if the socket listens.
    pub(crate) fn stop_listening(&self) {
        self.listening.iter().for_each(|listening| listening.close());
    }

    /// Ends every wait, removes the file, and closes all connections.
    pub(crate) fn close(&self) {
        if self.closing.close() {
            self.census.close();
            self.stop_listening();
            self.socket.close();
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.close();
    }
}
