//! The receiving half of one connection: header, frames, limits.

use std::time::{Duration, Instant};

use super::backtrace::{MAX_WORDS, words_before};
use super::header::{HEADER, Protocol};

/// Length of a frame's header: the type byte `01` and a 64-bit big-endian
/// length.
pub const FRAME_HEADER: usize = 9;

/// Read size, in bytes: many short messages, or the beginning of a long one,
/// whose rest is read into its final place.
const CHUNK: usize = 64 << 10;

/// Maximum memory that is kept for the next long message, in bytes.
const KEEP: usize = 4 << 20;

/// Maximum content that memory can hold, whatever the configured limit.
const MAX_CONTENT: u64 = isize::MAX as u64 - FRAME_HEADER as u64;

/// Number of bytes of an oversize message that are kept: enough for a
/// backtrace.
const HEAD: usize = MAX_WORDS * 4;

/// Limits on a peer's messages and pauses.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Maximum length of a frame's content, in bytes.
    pub max_message: u64,
    /// Maximum length of an oversize frame that is skipped and reported as
    /// [`Event::Oversized`]. With at most `max_message`, no frame is skipped:
    /// an oversize one ends the connection.
    pub skip_up_to: u64,
    /// Maximum time for the peer's whole header (libnng: 10 s).
    pub header_timeout: Duration,
    /// Maximum pause within a frame.
    pub stall_timeout: Duration,
}

/// The reason why a connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpError {
    /// The first bytes are not an SP header.
    #[error("the peer does not speak SP")]
    NotSp,
    /// The header is SP, but not of the protocol that may connect here.
    #[error("the peer speaks protocol {found:#x}, but only {wanted:#x} may connect here")]
    WrongProtocol {
        /// The protocol number in the header.
        found: u16,
        /// The only protocol number allowed.
        wanted: u16,
    },
    /// A frame's first byte is not `01`.
    #[error("unknown frame type {0:#x}")]
    FrameType(u8),
    /// A frame's content is longer than the limit.
    #[error("a message of {length} bytes is longer than the limit of {max}")]
    TooLong {
        /// The content's length in bytes.
        length: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The header was not complete in time.
    #[error("the peer did not send its header in time")]
    HeaderTimeout,
    /// The peer paused within a frame for too long.
    #[error("the peer stopped in the middle of a message")]
    Stalled,
}

/// An item that has arrived completely.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The peer's header, of the right protocol.
    Ready,
    /// The content of a frame.
    Message(&'a [u8]),
    /// The content of a long frame: the words of its backtrace, if the protocol
    /// has them, and the body behind them.
    Long(&'a [u8], &'a [u8]),
    /// A frame that was too long and was skipped: its first bytes and its
    /// length.
    Oversized(&'a [u8], u64),
}

/// A decoder of one peer's bytes.
///
/// The caller reads into [`space`](Self::space), reports with
/// [`filled`](Self::filled) how many bytes arrived, and takes complete items
/// with [`next`](Self::next) until there are no more; [`take`](Self::take)
/// hands a message over. Memory grows with the bytes that have arrived, never
/// with a length that a peer merely announces.
#[derive(Debug)]
pub struct Connection {
    own: Protocol,
    limits: Limits,
    state: DecoderState,
    /// The buffer; bytes `start..end` have arrived and are not used yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The body of a frame that does not fit into `buffer`; the state says how
    /// much of it has arrived. The words before it are in `head`, so that it is
    /// handed over without being moved.
    long: Vec<u8>,
    /// The position of the message that was returned last.
    last: LastMessage,
    /// The number of bytes missing in the current frame, as far as known.
    missing: usize,
    /// The instant since when the peer owes bytes.
    waiting_since: Option<Instant>,
    /// The instant at which the latest bytes arrived.
    filled_at: Instant,
    head: [u8; HEAD],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastMessage {
    Nowhere,
    Buffer { start: usize, end: usize },
    Long { words: usize, length: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecoderState {
    Header,
    Frames,
    Long { words: usize, length: usize, arrived: usize },
    Skipping { length: u64, left: u64, kept: usize },
}

impl Connection {
    /// Creates the decoder of a connection that was made at `now`; this side
    /// speaks `own`.
    pub fn new(own: Protocol, limits: Limits, now: Instant) -> Self {
        Self {
            own,
            limits,
            state: DecoderState::Header,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            long: Vec::new(),
            last: LastMessage::Nowhere,
            missing: 0,
            waiting_since: Some(now),
            filled_at: now,
            head: [0; HEAD],
        }
    }

    /// Whether the peer's header has been accepted.
    pub fn is_ready(&self) -> bool {
        self.state != DecoderState::Header
    }

    /// Whether bytes have arrived that are not used yet.
    pub fn has_buffered(&self) -> bool {
        self.start < self.end || matches!(self.state, DecoderState::Long { .. })
    }

    /// The memory that the buffers take, in bytes.
    pub fn memory(&self) -> usize {
        self.buffer.capacity() + self.long.capacity()
    }

    /// The space for the next bytes; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if let DecoderState::Long { length, arrived, .. } = self.state {
            // Doubles the space: a long message needs few reads, and a false
            // length costs no memory.
            let wanted = arrived.saturating_add(arrived.max(CHUNK)).min(length);
            if self.long.len() < wanted {
                // Exactly that much: `Vec` would reserve twice as much.
                self.long.reserve_exact(wanted - self.long.len());
                self.long.resize(wanted, 0);
            }
            let end = self.long.len().min(length);
            return &mut self.long[arrived..end];
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; CHUNK];
        }
        // Frames never fill this buffer completely: one that would was moved
        // out.
        if self.start > 0 && self.buffer.len() - self.end < self.missing.clamp(CHUNK / 4, CHUNK) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// Records that `count` bytes were written to the beginning of
    /// [`space`](Self::space).
    pub fn filled(&mut self, count: usize, now: Instant) {
        match &mut self.state {
            DecoderState::Long { arrived, .. } => *arrived += count,
            _ => self.end += count,
        }
        debug_assert!(self.end <= self.buffer.len());
        self.filled_at = now;
        if self.is_ready() {
            // Progress within a frame restarts the clock; the header's limit is
            // for the whole header.
            self.waiting_since = Some(now);
        }
    }

    /// Returns the next complete item, if there is one.
    ///
    /// # Errors
    /// The peer violated the protocol: the connection must be closed.
    #[allow(clippy::should_implement_trait)] // it borrows, an iterator cannot
    pub fn next(&mut self) -> Result<Option<Event<'_>>, SpError> {
        match self.state {
            DecoderState::Header => self.header(),
            DecoderState::Frames => self.frame(),
            DecoderState::Long { words, length, arrived } => Ok(self.long_frame(words, length, arrived)),
            DecoderState::Skipping { length, left, kept } => Ok(self.skip(length, left, kept)),
        }
    }

    fn header(&mut self) -> Result<Option<Event<'_>>, SpError> {
        let wanted = self.own.peer();
        let expected = wanted.header();
        let arrived = &self.buffer[self.start..self.end.min(self.start + HEADER)];
        // Refuse bytes that cannot become a header at the first wrong one.
        for (position, byte) in arrived.iter().enumerate() {
            let is_number = (4..6).contains(&position);
            if *byte != expected[position] && !is_number {
                return Err(SpError::NotSp);
            }
        }
        let Ok(header) = <[u8; HEADER]>::try_from(arrived) else {
            self.missing = HEADER - arrived.len();
            return Ok(None);
        };
        if header != expected {
            let found = u16::from_be_bytes([header[4], header[5]]);
            return Err(SpError::WrongProtocol { found, wanted: wanted.number() });
        }
        self.start += HEADER;
        self.state = DecoderState::Frames;
        // Bytes behind the header may be the beginning of a frame.
        self.waiting_since = self.has_buffered().then_some(self.filled_at);
        Ok(Some(Event::Ready))
    }

    fn frame(&mut self) -> Result<Option<Event<'_>>, SpError> {
        let arrived = &self.buffer[self.start..self.end];
        let Some(&kind) = arrived.first() else {
            self.missing = 0;
            self.waiting_since = None;
            return Ok(None);
        };
        if kind != 1 {
            return Err(SpError::FrameType(kind));
        }
        let Some(&length) = arrived[1..].first_chunk::<8>() else {
            self.missing = FRAME_HEADER - arrived.len();
            return Ok(None);
        };
        let length = u64::from_be_bytes(length);
        let max = self.limits.max_message.min(MAX_CONTENT);
        if length > max {
            if length > self.limits.skip_up_to.min(MAX_CONTENT) {
                return Err(SpError::TooLong { length, max });
            }
            self.start += FRAME_HEADER;
            return Ok(self.skip(length, length, 0));
        }
        let length = length as usize;
        let whole = FRAME_HEADER + length;
        if arrived.len() < whole {
            self.missing = whole - arrived.len();
            let has_words = arrived.len() >= FRAME_HEADER + HEAD;
            if whole > CHUNK && has_words && (arrived.len() == CHUNK || self.long.len() >= length) {
                self.move_out(length);
            }
            return Ok(None);
        }
        let (start, end) = (self.start + FRAME_HEADER, self.start + whole);
        self.start = end;
        if self.start == self.end {
            // The caller may check the time without calling `next` again.
            self.waiting_since = None;
        }
        self.last = LastMessage::Buffer { start, end };
        Ok(Some(Event::Message(&self.buffer[start..end])))
    }

    /// Moves the arrived part of a long frame, at least [`HEAD`] bytes, to its
    /// final place.
    fn move_out(&mut self, length: usize) {
        let arrived = &self.buffer[self.start + FRAME_HEADER..self.end];
        let words = words_before(self.own, arrived);
        let (before, body) = arrived.split_at(words);
        self.head[..words].copy_from_slice(before);
        let count = body.len();
        if self.long.len() < count {
            self.long.resize(count, 0);
        }
        self.long[..count].copy_from_slice(body);
        (self.start, self.end) = (0, 0);
        self.state = DecoderState::Long { words, length: length - words, arrived: count };
    }

    fn long_frame(&mut self, words: usize, length: usize, arrived: usize) -> Option<Event<'_>> {
        if arrived < length {
            return None;
        }
        self.state = DecoderState::Frames;
        self.waiting_since = None;
        self.last = LastMessage::Long { words, length };
        Some(Event::Long(&self.head[..words], &self.long[..length]))
    }

    /// Moves the message that [`next`](Self::next) has just returned, without
    /// its first `skip` bytes, into `into`, whose content is replaced. A long
    /// message is not copied: the two buffers are swapped. It has no words
    /// then, which `skip` must count.
    pub fn take(&mut self, skip: usize, into: &mut Vec<u8>) {
        match std::mem::replace(&mut self.last, LastMessage::Nowhere) {
            LastMessage::Nowhere => into.clear(),
            LastMessage::Buffer { start, end } => {
                into.clear();
                into.extend_from_slice(&self.buffer[start + skip..end]);
            }
            LastMessage::Long { words, length } => self.take_long(words, length, skip, into),
        }
    }

    #[cold]
    fn take_long(&mut self, words: usize, length: usize, skip: usize, into: &mut Vec<u8>) {
        debug_assert_eq!(words, skip, "a long message is taken without its words");
        self.long.truncate(length);
        std::mem::swap(&mut self.long, into);
        if self.long.capacity() > KEEP.max(2 * length) {
            self.long = Vec::new();
        }
    }

    fn skip(&mut self, length: u64, left: u64, mut kept: usize) -> Option<Event<'_>> {
        let arrived = &self.buffer[self.start..self.end];
        let used = left.min(arrived.len() as u64) as usize;
        let keep = used.min(HEAD - kept);
        self.head[kept..kept + keep].copy_from_slice(&arrived[..keep]);
        kept += keep;
        self.start += used;
        let left = left - used as u64;
        if left > 0 {
            self.state = DecoderState::Skipping { length, left, kept };
            self.missing = left.min(CHUNK as u64) as usize;
            return None;
        }
        self.state = DecoderState::Frames;
        Some(Event::Oversized(&self.head[..kept], length))
    }

    /// The instant at which the peer's time is up, if it owes bytes.
    pub fn deadline(&self) -> Option<Instant> {
        let allowed = if self.is_ready() { self.limits.stall_timeout } else { self.limits.header_timeout };
        self.waiting_since?.checked_add(allowed)
    }

    /// Checks the peer's deadline.
    ///
    /// # Errors
    /// The deadline has passed: the connection must be closed.
    pub fn check_time(&self, now: Instant) -> Result<(), SpError> {
        match self.deadline() {
            Some(deadline) if now >= deadline && self.is_ready() => Err(SpError::Stalled),
            Some(deadline) if now >= deadline => Err(SpError::HeaderTimeout),
            _ => Ok(()),
        }
    }
}

/// The header of a frame whose content has `length` bytes.
pub fn frame_header(length: usize) -> [u8; FRAME_HEADER] {
    let mut header = [1; FRAME_HEADER];
    header[1..].copy_from_slice(&(length as u64).to_be_bytes());
    header
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
