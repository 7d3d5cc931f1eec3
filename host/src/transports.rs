//! The transports that are built in.

use std::sync::Arc;

use ekuiper_core::transport::Transport;

use crate::{Error, Result};

#[cfg(not(any(feature = "uds", feature = "nng", feature = "zeromq", feature = "shm")))]
compile_error!("enable a transport of ekuiper-host: feature \"uds\" (the default), \"nng\", \"zeromq\" or \"shm\"");

/// Returns the transport of this name.
pub(crate) fn by_name(name: &str) -> Result<Arc<dyn Transport>> {
    let built = built();
    let known = built.iter().map(|transport| transport.name()).collect::<Vec<_>>().join(", ");
    built
        .into_iter()
        .find(|transport| transport.name() == name)
        .ok_or_else(|| Error::UnknownTransport { name: name.to_owned(), built: known })
}

/// Returns the default transport.
pub(crate) fn default() -> Result<Arc<dyn Transport>> {
    let first = built().first().map_or("", |transport| transport.name());
    by_name(first)
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
