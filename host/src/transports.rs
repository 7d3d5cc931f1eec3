//! The transports that are built in, and those that a host uses.

use std::sync::Arc;

use ekuiper_core::transport::{Transport, speaks_sp};

use crate::{Error, Result};

#[cfg(not(any(feature = "uds", feature = "nng", feature = "zeromq", feature = "shm")))]
compile_error!("enable a transport of ekuiper-host: feature \"uds\" (the default), \"nng\", \"zeromq\" or \"shm\"");

/// The transports of a host.
#[derive(Clone)]
pub(crate) struct Transports {
    /// The transport that each plugin is started with.
    pub(crate) common: Arc<dyn Transport>,
    /// The transport of the symbols of plugins that offer it: shared memory,
    /// unless the engine's author has named one for everything.
    pub(crate) between_ours: Option<Arc<dyn Transport>>,
}

impl Transports {
    /// The transport of this name for everything, or the default ones.
    ///
    /// # Errors
    /// The named transport is not built in.
    pub(crate) fn choose(name: Option<&str>) -> Result<Self> {
        let mut built = built();
        let Some(name) = name else {
            let common = built.swap_remove(0);
            return Ok(Self { between_ours: shared_memory().filter(|_| speaks_sp(common.name())), common });
        };
        let known = built.iter().map(|transport| transport.name()).collect::<Vec<_>>().join(", ");
        let named = built.into_iter().find(|transport| transport.name() == name);
        let common = named.ok_or_else(|| Error::UnknownTransport { name: name.to_owned(), built: known })?;
        Ok(Self { common, between_ours: None })
    }
}

fn built() -> Vec<Arc<dyn Transport>> {
    vec![
        #[cfg(feature = "uds")]
        Arc::new(ekuiper_transport_uds::UdsTransport::new()),
        #[cfg(feature = "nng")]
        Arc::new(ekuiper_transport_nng::NngTransport::new()),
        #[cfg(feature = "zeromq")]
        Arc::new(ekuiper_transport_zeromq::ZeromqTransport::new()),
        #[cfg(feature = "shm")]
        Arc::new(ekuiper_transport_shm::ShmTransport::new()),
    ]
}

/// Shared memory, where it is built in and can be made.
fn shared_memory() -> Option<Arc<dyn Transport>> {
    #[cfg(feature = "shm")]
    if ekuiper_transport_shm::ShmTransport::is_available() {
        return Some(Arc::new(ekuiper_transport_shm::ShmTransport::new()));
    }
    None
}
