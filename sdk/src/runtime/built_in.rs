//! The transports that a plugin is built with, and the choice of one.

use std::ops::Deref;
use std::sync::Arc;

use ekuiper_core::transport::{Endpoint, Options, Pull, Result as TransportResult, Transport, speaks_sp};
use ekuiper_transport_ipc::retained::{RetainedPull, RetainedTransport};

/// A transport that is built into this plugin.
#[derive(Clone)]
pub(super) struct BuiltIn {
    transport: Arc<dyn Transport>,
    /// The same transport, if a supervisor can keep its connections.
    retained: Option<Arc<dyn RetainedTransport>>,
}

/// A socket that receives a sink's messages; a second time if a supervisor can
/// keep its connections.
pub(super) type DataSocket = (Arc<dyn Pull>, Option<Arc<dyn RetainedPull>>);

impl Deref for BuiltIn {
    type Target = dyn Transport;

    fn deref(&self) -> &Self::Target {
        &*self.transport
    }
}

impl BuiltIn {
    #[cfg(any(feature = "nng", feature = "zeromq", feature = "shm"))]
    fn new(transport: impl Transport + 'static) -> Self {
        Self { transport: Arc::new(transport), retained: None }
    }

    #[cfg(feature = "uds")]
    fn retained(transport: impl RetainedTransport + 'static) -> Self {
        let transport = Arc::new(transport);
        Self { transport: transport.clone(), retained: Some(transport) }
    }

    /// All of them.
    fn all() -> Vec<Self> {
        vec![
            #[cfg(feature = "uds")]
            Self::retained(ekuiper_transport_uds::UdsTransport::new()),
            #[cfg(feature = "nng")]
            Self::new(ekuiper_transport_nng::NngTransport::new()),
            #[cfg(feature = "zeromq")]
            Self::new(ekuiper_transport_zeromq::ZeromqTransport::new()),
            #[cfg(feature = "shm")]
            Self::new(ekuiper_transport_shm::ShmTransport::new()),
        ]
    }

    /// The transport of this name; an error if it is not built in.
    pub(super) fn named(name: &str) -> Result<Self, String> {
        let named = Self::all().into_iter().find(|transport| transport.name() == name);
        named.ok_or_else(|| format!("transport {name} is not built into this plugin"))
    }

    /// Whether symbols can be in shared memory.
    pub(super) fn shares_memory() -> bool {
        #[cfg(feature = "shm")]
        return ekuiper_transport_shm::ShmTransport::is_available();
        #[cfg(not(feature = "shm"))]
        false
    }

    /// The transport that the host asked for, or else the first built-in one;
    /// an error if their wire protocols differ.
    pub(super) fn choose(wanted: Option<&str>) -> Result<Self, String> {
        let mut built = Self::all();
        let position = wanted.and_then(|wanted| built.iter().position(|transport| transport.name() == wanted));
        let chosen = built.swap_remove(position.unwrap_or(0));
        if position.is_none() {
            // A host that names no transport speaks SP, as eKuiper does.
            let spoken = wanted.unwrap_or("uds");
            let is_same_wire = spoken == chosen.name() || (speaks_sp(spoken) && speaks_sp(chosen.name()));
            if !is_same_wire {
                return Err(format!(
                    "transport {spoken} is not built into this plugin, and {} has a different wire protocol: build the \
                     plugin with its feature \"{spoken}\", or start the host with another transport",
                    chosen.name()
                ));
            }
            if wanted.is_some() {
                tracing::warn!(
                    "transport {spoken} is not built into this plugin, which uses {} instead",
                    chosen.name()
                );
            }
        }
        Ok(chosen)
    }

    /// Whether the wire protocol is not SP.
    pub(super) fn has_other_wire(&self) -> bool {
        !speaks_sp(self.name())
    }

    /// Replaces `nng` by the smaller `uds`, with the same wire protocol, for a
    /// supervisor.
    pub(super) fn light(self) -> Self {
        #[cfg(feature = "uds")]
        if self.name() == "nng" {
            return Self::retained(ekuiper_transport_uds::UdsTransport::new());
        }
        self
    }

    /// Creates a sink's data socket.
    ///
    /// # Errors
    /// As [`Transport::pull`].
    pub(super) fn data_socket(&self, endpoint: &Endpoint, options: &Options) -> TransportResult<DataSocket> {
        match &self.retained {
            None => Ok((self.pull(endpoint, options)?.into(), None)),
            Some(transport) => {
                let pull: Arc<dyn RetainedPull> = transport.retained_pull(endpoint, options)?.into();
                Ok((pull.clone(), Some(pull)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(wanted: Option<&str>) -> Result<&'static str, String> {
        BuiltIn::choose(wanted).map(|transport| transport.name())
    }

    #[test]
    #[cfg(any(feature = "uds", feature = "nng"))]
    fn a_transport_that_is_not_built_in_is_replaced() {
        let first = name(None).unwrap();
        assert_eq!(name(Some("pigeon")).unwrap(), first);
        assert_eq!(name(Some(first)).unwrap(), first);
    }

    #[test]
    fn a_transport_of_another_wire_is_not() {
        for (wanted, is_built) in [
            ("zeromq", cfg!(feature = "zeromq")),
            ("shm", cfg!(feature = "shm")),
            ("uds", cfg!(any(feature = "uds", feature = "nng"))),
        ] {
            match name(Some(wanted)) {
                Ok(chosen) => assert!(is_built, "{chosen} was chosen"),
                Err(text) => assert!(!is_built && text.contains(&format!("its feature \"{wanted}\"")), "{text}"),
            }
        }
    }
}
