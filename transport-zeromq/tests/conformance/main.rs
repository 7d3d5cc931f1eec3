//! The contract's part of the suite that every transport runs, with what the
//! `zeromq` crate does otherwise: the exception is run in the form that shows
//! what happens instead. The rest of the suite is SP, which this is not.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

mod observed;

use ekuiper_conformance::Exception;
use ekuiper_transport_zeromq::ZeromqTransport;

ekuiper_conformance::contract_suite!(ZeromqTransport::new(), exceptions = [
    resources_that_run_out: Exception::observed(
        "without descriptors the zeromq crate tries to accept again and again, without a pause",
        observed::a_process_without_descriptors_keeps_trying,
    ),
]);
