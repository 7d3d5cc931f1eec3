//! Who is measured: one file each. A peer does what it can; what it has no
//! word for, it leaves out.

#[cfg(feature = "peers")]
pub mod grpc;
pub mod hosted;
#[cfg(feature = "peers")]
pub mod mangos;
pub mod ours;
#[cfg(feature = "peers")]
pub mod python;
pub mod raw;

use crate::Result;
use crate::clock::Pace;
use crate::metric::Sample;

/// How many channels are measured at once at most.
pub const CHANNELS: usize = 8;

/// What a measurement comes to; `None` where the peer has no such thing.
pub type Measured = Result<Option<Sample>>;

/// In what form a source's records are made and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// A struct that both sides have declared.
    Typed,
    /// A tree of values.
    Value,
}

/// How messages to a sink are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Not at all.
    None,
    /// Each before the next is sent.
    Each,
    /// With at most so many under way.
    Window(usize),
}

/// The functions that are called for many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFunction {
    /// Twice a number.
    Double,
    /// A text of 16 bytes in capitals.
    Upper,
}

/// A way to have functions, sources and sinks in another process. Each method
/// is one measurement, with a process of its own.
pub trait Peer {
    /// Its name in tables and on the command line.
    fn name(&self) -> &str;

    /// What it is, in a line.
    fn about(&self) -> String;

    /// Calls, one after the other on each of `channels` channels at once, of a
    /// function that gives back its text of `size` bytes.
    ///
    /// # Errors
    /// It does not work.
    fn calls(&self, pace: Pace, size: usize, channels: usize) -> Measured {
        let _ = (pace, size, channels);
        Ok(None)
    }

    /// Records of `size` bytes from each of `channels` sources at once.
    ///
    /// # Errors
    /// It does not work.
    fn source(&self, pace: Pace, record: Record, size: usize, channels: usize) -> Measured {
        let _ = (pace, record, size, channels);
        Ok(None)
    }

    /// Records of `size` bytes to a sink that reads them.
    ///
    /// # Errors
    /// It does not work.
    fn sink(&self, pace: Pace, ack: Ack, size: usize) -> Measured {
        let _ = (pace, ack, size);
        Ok(None)
    }

    /// Messages of `size` bytes to a sink that does not look into them.
    ///
    /// # Errors
    /// It does not work.
    fn bytes(&self, pace: Pace, size: usize) -> Measured {
        let _ = (pace, size);
        Ok(None)
    }

    /// A function's results for many rows, in the fastest way that there is.
    ///
    /// # Errors
    /// It does not work.
    fn rows(&self, pace: Pace, function: RowFunction) -> Measured {
        let _ = (pace, function);
        Ok(None)
    }

    /// From start to handshake, and what it takes then.
    ///
    /// # Errors
    /// It does not work.
    fn start(&self) -> Measured {
        Ok(None)
    }
}
