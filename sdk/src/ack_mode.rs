//! The ways in which a sink acknowledges messages.

/// How messages are acknowledged, where the engine asks for it (`requireAck`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckMode {
    /// The SDK acknowledges with the result of `collect`, unless the sink has
    /// acknowledged the message by hand.
    #[default]
    Automatic,
    /// The sink acknowledges by hand, possibly after `collect` has returned. The
    /// SDK never acknowledges for it, not even when `collect` fails.
    Manual,
}
