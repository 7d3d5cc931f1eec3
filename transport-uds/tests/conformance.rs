//! The conformance suite of all transports, without exceptions.

use ekuiper_transport_uds::UdsTransport;

ekuiper_conformance::sp_suite!(UdsTransport::new());
