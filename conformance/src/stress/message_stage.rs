//! What the sending and the receiving sockets of a round share.

use std::time::Instant;

use ekuiper_core::transport::{Endpoint, Options};

use super::ledger::Ledger;
use crate::Fixture;

/// The setup of a round.
pub(super) struct MessageStage<'a> {
    pub(super) fixture: &'a Fixture,
    pub(super) options: Options,
    /// Whether the sending sockets listen; all sockets share one address.
    pub(super) pushes_listen: bool,
    /// Whether the receivers stay: flushed messages must then arrive.
    pub(super) is_lossless: bool,
    /// The instant at which the senders create their last socket.
    pub(super) until: Instant,
    pub(super) ledger: Ledger,
}

impl MessageStage<'_> {
    pub(super) fn endpoint(&self, listens: bool) -> Endpoint {
        if listens { self.fixture.listen("data") } else { self.fixture.dial("data") }
    }
}
