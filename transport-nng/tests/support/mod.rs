//! Shared test support: sockets of libnng and ours.
// Clippy takes only functions with #[test] for tests.
#![allow(dead_code, unused_imports, clippy::unwrap_used)]

pub(crate) use ekuiper_conformance::support::{TestFolder, message, request, watched};
pub(crate) use ekuiper_conformance::{PATIENCE, past, soon};
use ekuiper_core::transport::*;
use ekuiper_transport_nng::NngTransport;
use ekuiper_transport_uds::UdsTransport;

/// Returns each pair of transports with libnng on at least one side.
pub(crate) fn pairs() -> [(&'static dyn Transport, &'static dyn Transport); 3] {
    const NNG: &NngTransport = &NngTransport;
    const UDS: &UdsTransport = &UdsTransport;
    [(NNG, NNG), (NNG, UDS), (UDS, NNG)]
}

pub(crate) fn nng() -> NngTransport {
    NngTransport::new()
}

pub(crate) fn options(max_message: usize) -> Options {
    ekuiper_conformance::options(|options| options.max_message = max_message)
}
