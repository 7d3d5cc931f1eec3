//! The contract's part of the conformance suite, with the `zeromq` crate's
//! exceptions: each one runs in a form that shows the actual behaviour. The
//! rest of the suite is about SP, which this transport does not speak.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

mod observed;

use ekuiper_conformance::Exception;
use ekuiper_transport_zeromq::ZeromqTransport;

ekuiper_conformance::contract_suite!(ZeromqTransport::new(), exceptions = [
    strangers_are_not_heard: Exception::observed(
        "the zeromq crate accepts connections itself, and exposes neither their descriptors nor their processes",
        observed::every_process_that_enters_the_folder_is_heard,
    ),
    strangers_get_no_messages: Exception::skip("as strangers_are_not_heard"),
    askers_are_known: Exception::skip("the crate does not tell which process connected"),
    strangers_are_not_dialled: Exception::skip("as strangers_are_not_heard, on the side that dials"),
    connections_have_a_limit: Exception::observed(
        "the new connection is the one that is closed",
        observed::who_comes_beyond_the_limit_has_to_go,
    ),
    resources_that_run_out: Exception::observed(
        "without descriptors the zeromq crate retries accepting without a pause",
        observed::a_process_without_descriptors_keeps_trying,
    ),
]);
