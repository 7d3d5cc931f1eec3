//! The peers that are measured, one file each. A peer leaves out what it does
//! not support.

#[cfg(feature = "columns")]
mod columns;
#[cfg(feature = "peers")]
pub mod flight;
pub mod frames;
#[cfg(feature = "peers")]
pub mod grpc;
pub mod hosted;
#[cfg(feature = "peers")]
mod hosted_ways;
pub mod ours;
#[cfg(feature = "peers")]
pub mod pipe;
#[cfg(feature = "peers")]
pub mod program;
#[cfg(feature = "peers")]
pub mod python;
pub mod raw;

use crate::Result;
use crate::clock::Pace;
use crate::metric::Sample;

/// Maximum number of channels measured in parallel.
pub const CHANNELS: usize = 8;

/// Result of a measurement; `None` if the peer does not support it.
pub type Measured = Result<Option<Sample>>;

/// Form in which a source's records are created and decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// A struct declared on both sides.
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
    /// With at most this many unacknowledged.
    Window(usize),
}

/// Functions called for many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFunction {
    /// Twice a number.
    Double,
    /// A text of 16 bytes in capitals.
    Upper,
}

/// Ways to use a host, from threads and from tasks.
#[cfg(feature = "peers")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Blocking calls, one after the other.
    Call,
    /// The same calls, each in a thread of tokio's for blocking work.
    SpawnBlocking,
    /// Blocking calls of so many rows.
    CallMany(usize),
    /// Awaited calls, with so many in flight.
    CallAsync(usize),
    /// Blocking calls of many rows that take 50 µs each, of one process; in a
    /// pool, of so many.
    Busy(Option<usize>),
    /// A source as an iterator.
    Source,
    /// A source as a stream.
    AsyncSource,
    /// A source as a stream of chunks of so many rows.
    Chunks(usize),
    /// A sink, blocking, a row at a time.
    Sink,
    /// A sink, blocking, so many rows at a time.
    SinkRows(usize),
    /// A sink fed by a task.
    AsyncSink,
    /// A sink with acknowledgements, blocking, with so many unacknowledged.
    SinkAcks(usize),
    /// A sink with acknowledgements, fed by a task.
    AsyncSinkAcks,
}

/// Rules in a stock engine.
#[cfg(feature = "peers")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The plugin's source, whose rows the engine drops.
    Source,
    /// The plugin's function on rows of the engine's.
    Function,
    /// Rows of the engine's to the plugin's sink, which acknowledges each.
    Sink,
}

/// A way to run functions, sources and sinks in another process. Each method is
/// one measurement, with a separate process.
pub trait Peer {
    /// Returns the name in tables and on the command line.
    fn name(&self) -> &str;

    /// Returns the name in charts, as a user knows the peer.
    fn title(&self) -> &str {
        self.name()
    }

    /// Returns whether the peer is no alternative, but shows what is possible.
    fn is_limit(&self) -> bool {
        false
    }

    /// Returns a description in one line.
    fn about(&self) -> String;

    /// Measures sequential calls on each of `channels` parallel channels, of a
    /// function that returns its text of `size` bytes.
    ///
    /// # Errors
    /// The measurement fails.
    fn calls(&self, pace: Pace, size: usize, channels: usize) -> Measured {
        let _ = (pace, size, channels);
        Ok(None)
    }

    /// Measures records of `size` bytes from each of `channels` parallel
    /// sources.
    ///
    /// # Errors
    /// The measurement fails.
    fn source(&self, pace: Pace, record: Record, size: usize, channels: usize) -> Measured {
        let _ = (pace, record, size, channels);
        Ok(None)
    }

    /// Measures records of `size` bytes to a sink that decodes them.
    ///
    /// # Errors
    /// The measurement fails.
    fn sink(&self, pace: Pace, ack: Ack, size: usize) -> Measured {
        let _ = (pace, ack, size);
        Ok(None)
    }

    /// Measures messages of `size` bytes to a sink that does not decode them.
    ///
    /// # Errors
    /// The measurement fails.
    fn bytes(&self, pace: Pace, size: usize) -> Measured {
        let _ = (pace, size);
        Ok(None)
    }

    /// Measures a function's results for many rows, in the fastest way
    /// available.
    ///
    /// # Errors
    /// The measurement fails.
    fn rows(&self, pace: Pace, function: RowFunction) -> Measured {
        let _ = (pace, function);
        Ok(None)
    }

    /// Measures a function over columns of so many rows.
    ///
    /// # Errors
    /// The measurement fails.
    #[cfg(feature = "columns")]
    fn columns(&self, pace: Pace, function: RowFunction, rows: usize) -> Measured {
        let _ = (pace, function, rows);
        Ok(None)
    }

    /// Measures a way to use the host, with messages of `size` bytes.
    ///
    /// # Errors
    /// The measurement fails.
    #[cfg(feature = "peers")]
    fn way(&self, pace: Pace, way: Way, size: usize) -> Measured {
        let _ = (pace, way, size);
        Ok(None)
    }

    /// Counts what so many open sources cost the host's process.
    ///
    /// # Errors
    /// The measurement fails.
    #[cfg(feature = "peers")]
    fn handles(&self, sources: usize) -> Measured {
        let _ = sources;
        Ok(None)
    }

    /// Measures a rule in a stock engine.
    ///
    /// # Errors
    /// The measurement fails.
    #[cfg(feature = "peers")]
    fn rule(&self, pace: Pace, rule: Rule) -> Measured {
        let _ = (pace, rule);
        Ok(None)
    }

    /// Measures the time from start to handshake, and the resource usage then.
    ///
    /// # Errors
    /// The measurement fails.
    fn start(&self) -> Measured {
        Ok(None)
    }
}
