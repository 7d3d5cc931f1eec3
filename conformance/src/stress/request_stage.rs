//! What the requesting and the replying sockets of a round share.

use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Instant;

use ekuiper_core::transport::Options;

use crate::Fixture;

/// The name of the address that all sockets use.
pub(super) const PLACE: &str = "reply";

/// The bit of a thread's number that marks its requests as needing no answer.
pub(super) const ANSWER_IS_OPTIONAL: u32 = 1 << 31;

/// The setup of a round.
pub(super) struct RequestStage<'a> {
    pub(super) fixture: &'a Fixture,
    pub(super) options: Options,
    pub(super) answerer_stays: bool,
    /// Whether connections may end although no requester has closed them.
    pub(super) may_disconnect: bool,
    /// The instant at which the last sockets are created.
    pub(super) until: Instant,
    /// Whether all requesters have ended.
    pub(super) all_asked: AtomicBool,
    pub(super) sockets: AtomicU32,
}
