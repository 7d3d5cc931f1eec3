//! Marks of what the worker is executing, in memory that outlives it, so that a
//! call or message that killed it does not kill the next one.
//!
//! A stock engine resends a call to the process that connects next, and never
//! learns that its message to a sink was lost with a worker. The next worker
//! therefore answers the call that was in flight, and acknowledges the messages
//! that were not acknowledged, with an error: their outcome is unknown.

use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ekuiper_core::codec::Format;
use ekuiper_core::message::{Call, CallKind, Meta};
use ekuiper_core::sync::lock;

use super::page;

/// The size of a mark, in words; no two marks share a cache line.
const SLOT: usize = 8;

/// The maximum number of sinks that have a mark at one time.
const SINKS: usize = 256;

/// The answer to a call that may have killed a worker.
pub(in crate::runtime) const UNKNOWN_CALL: &str = "outcome unknown: the plugin's worker ended while it executed this call, \
     which is not executed again";

/// The acknowledgement of a message that may have killed a worker.
pub(in crate::runtime) const UNKNOWN_MESSAGE: &str =
    "outcome unknown: the plugin's process ended while the sink had this message";

/// The memory that a plugin's marks need, in words.
pub(super) fn words(functions: usize) -> usize {
    (functions + SINKS + 1) * SLOT
}

/// The marks of one plugin.
pub(in crate::runtime) struct Marks {
    words: &'static [AtomicU64],
    functions: usize,
    /// Held while a sink claims its slot.
    placing: Mutex<()>,
}

impl Marks {
    /// Maps the supervisor's marks, as the previous worker left them.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::runtime) fn new(memory: &OwnedFd, functions: usize) -> std::io::Result<Self> {
        Ok(Self { words: page::map(memory, words(functions))?, functions, placing: Mutex::default() })
    }

    fn slot(&self, index: usize) -> &'static [AtomicU64] {
        &self.words[index * SLOT..][..SLOT]
    }

    /// The engine's process, as identified by the supervisor.
    pub(in crate::runtime) fn engine(&self) -> &'static AtomicU64 {
        &self.slot(self.functions + SINKS)[0]
    }

    /// The mark of a function, by its index among the functions' names.
    pub(in crate::runtime) fn function(&self, index: usize, idempotent: bool) -> FunctionMark {
        let slot = self.slot(index);
        let times = slot[0].load(Ordering::Acquire);
        let print = Print { hash: slot[1].load(Ordering::Relaxed), length: slot[2].load(Ordering::Relaxed) };
        FunctionMark { slot, idempotent, left: (times > 0).then_some((print, times)) }
    }

    fn sink_of(&self, key: u64) -> Option<&'static [AtomicU64]> {
        let mut slots = (self.functions..self.functions + SINKS).map(|index| self.slot(index));
        slots.find(|slot| slot[0].load(Ordering::Acquire) == key)
    }

    /// The existing mark of a sink.
    pub(super) fn known(&self, meta: &Meta) -> Option<SinkMark> {
        self.sink_of(key(meta)).map(SinkMark)
    }

    /// The mark of a sink, and the number of messages that the previous worker
    /// took and did not acknowledge; the number is 0 unless the sink is started
    /// `again`.
    pub(in crate::runtime) fn sink(&self, meta: &Meta, again: bool) -> Option<(SinkMark, u64)> {
        let key = key(meta);
        let _placing = lock(&self.placing);
        let Some(slot) = self.sink_of(key).or_else(|| self.sink_of(0)) else {
            tracing::warn!("more than {SINKS} sinks: messages of this one are not acknowledged if the worker crashes");
            return None;
        };
        slot[1].fetch_and(!READING, Ordering::Relaxed);
        if !again || slot[0].load(Ordering::Acquire) != key {
            slot[1].store(0, Ordering::Relaxed);
            slot[2].store(0, Ordering::Relaxed);
            slot[0].store(key, Ordering::Release);
        }
        let mark = SinkMark(slot);
        let owed = mark.owed();
        Some((mark, owed))
    }
}

/// The key of a sink's slot; zero marks a free slot.
fn key(meta: &Meta) -> u64 {
    Print::of(meta.to_string().as_bytes()).hash | 1
}

/// A fingerprint of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    hash: u64,
    length: u64,
}

impl Print {
    /// Hashes eight bytes at a time, so that it is fast even for a call of a
    /// megabyte.
    fn of(text: &[u8]) -> Self {
        let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (words, rest) = text.as_chunks::<8>();
        let hash = words.iter().fold(0, |hash, word| mix(hash, u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let hash = mix(hash, u64::from_le_bytes(last));
        Self { hash: hash ^ (hash >> 32), length: text.len() as u64 }
    }
}

/// Whether to execute a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) enum Begin {
    Execute,
    /// The call may have killed a worker: answer [`UNKNOWN_CALL`].
    Unknown,
}

/// The call that a function is executing. Its slot holds the number of times
/// that the call was begun, and its fingerprint.
pub(in crate::runtime) struct FunctionMark {
    slot: &'static [AtomicU64],
    idempotent: bool,
    /// The call that the previous worker was executing. Only the first call can
    /// equal it: an engine first resends the call that had no answer.
    left: Option<(Print, u64)>,
}

impl FunctionMark {
    /// Records that a call is about to be executed.
    pub(in crate::runtime) fn begin(&mut self, call: &[u8]) -> Begin {
        let print = Print::of(call);
        let mut times = 1;
        if let Some((left, begun)) = self.left.take()
            && left == print
        {
            if begun >= self.most(call) {
                self.end();
                return Begin::Unknown;
            }
            times = begun + 1;
        }
        self.slot[1].store(print.hash, Ordering::Relaxed);
        self.slot[2].store(print.length, Ordering::Relaxed);
        self.slot[0].store(times, Ordering::Release);
        Begin::Execute
    }

    /// The maximum number of times that this call may be begun. Validation
    /// changes nothing, and is idempotent by nature. A supervised plugin offers
    /// no codec other than JSON.
    fn most(&self, call: &[u8]) -> u64 {
        let asks = Call::decode(Format::Json, call).is_ok_and(|call| call.kind != CallKind::Exec);
        if self.idempotent || asks { 2 } else { 1 }
    }

    /// Records that the answer was sent.
    pub(in crate::runtime) fn end(&mut self) {
        self.slot[0].store(0, Ordering::Release);
    }
}

/// The bit of the word of taken messages that says that one more is being read.
/// It is cleared by the store that counts the message: a worker that dies in
/// between has either read it or taken it, never both.
const READING: u64 = 1;

/// The messages of a sink. Its slot holds the sink's key, twice the number of
/// messages taken, with [`READING`], and the number of messages acknowledged.
pub(in crate::runtime) struct SinkMark(&'static [AtomicU64]);

impl SinkMark {
    /// Records that a message is about to be read: part of it has arrived.
    pub(in crate::runtime) fn reading(&self) {
        self.0[1].fetch_or(READING, Ordering::AcqRel);
    }

    /// Records that no message was read.
    pub(in crate::runtime) fn read_nothing(&self) {
        self.0[1].fetch_and(!READING, Ordering::AcqRel);
    }

    /// Whether the worker died while it was reading.
    pub(super) fn was_reading(&self) -> bool {
        self.0[1].load(Ordering::Acquire) & READING != 0
    }

    /// Counts a message that was taken, and ends its reading.
    pub(in crate::runtime) fn taken(&self) {
        let next = |word: u64| Some((word | READING).wrapping_add(1));
        let _ = self.0[1].fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// Counts an acknowledgement that is about to be sent. It is counted before:
    /// should the worker die in between, the engine misses an ack; counted
    /// after, the engine could get two, and take the second for the next
    /// message's.
    pub(in crate::runtime) fn acknowledging(&self) {
        self.0[2].fetch_add(1, Ordering::AcqRel);
    }

    /// Frees the slot of a sink that has ended in order.
    pub(in crate::runtime) fn over(&self) {
        self.0[0].store(0, Ordering::Release);
    }

    /// The number of messages taken and not acknowledged.
    pub(super) fn owed(&self) -> u64 {
        let taken = self.0[1].load(Ordering::Acquire) / 2;
        taken.saturating_sub(self.0[2].load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXEC: &[u8] = br#"{"func":"Exec","arg":[1,"{}"]}"#;
    const OTHER: &[u8] = br#"{"func":"Exec","arg":[2,"{}"]}"#;

    fn worker(memory: &OwnedFd) -> Marks {
        Marks::new(memory, 2).unwrap()
    }

    fn memory() -> OwnedFd {
        page::memory(words(2)).unwrap()
    }

    #[test]
    fn a_call_that_killed_its_worker_is_not_executed_again() {
        let memory = memory();
        assert_eq!(worker(&memory).function(1, false).begin(EXEC), Begin::Execute);
        // The worker died, and so does the next, before the engine has resent the call.
        let _ = worker(&memory).function(1, false);
        let mut mark = worker(&memory).function(1, false);
        assert_eq!(mark.begin(EXEC), Begin::Unknown);
        assert_eq!(mark.begin(EXEC), Begin::Execute, "a new call of the same text");
        assert_eq!(worker(&memory).function(0, false).begin(EXEC), Begin::Execute, "another function");
    }

    #[test]
    fn an_answered_call_leaves_nothing() {
        let memory = memory();
        let mut mark = worker(&memory).function(0, false);
        mark.begin(EXEC);
        mark.end();
        assert_eq!(worker(&memory).function(0, false).begin(EXEC), Begin::Execute);
    }

    #[test]
    fn an_engine_that_has_given_up_sends_another_call() {
        let memory = memory();
        worker(&memory).function(0, false).begin(EXEC);
        let mut mark = worker(&memory).function(0, false);
        assert_eq!(mark.begin(OTHER), Begin::Execute);
        mark.end();
        assert_eq!(mark.begin(EXEC), Begin::Execute);
    }

    #[test]
    fn what_is_idempotent_is_executed_once_more_and_not_for_ever() {
        let memory = memory();
        for (idempotent, call) in [(true, EXEC), (false, &br#"{"func":"Validate","arg":[{}]}"#[..])] {
            assert_eq!(worker(&memory).function(0, idempotent).begin(call), Begin::Execute);
            assert_eq!(worker(&memory).function(0, idempotent).begin(call), Begin::Execute);
            let mut mark = worker(&memory).function(0, idempotent);
            assert_eq!(mark.begin(call), Begin::Unknown);
            assert_eq!(mark.begin(call), Begin::Execute);
            mark.end();
        }
    }

    #[test]
    fn a_sink_owes_what_it_had_taken() {
        let memory = memory();
        let (first, second) = (Meta::default(), Meta { instance_id: 1, ..Meta::default() });
        let (mark, owed) = worker(&memory).sink(&first, false).unwrap();
        assert_eq!(owed, 0);
        mark.taken();
        mark.acknowledging();
        mark.taken();
        mark.taken();
        assert_eq!(worker(&memory).sink(&second, true).unwrap().1, 0);
        assert_eq!(worker(&memory).sink(&first, true).unwrap().1, 2);
        assert_eq!(worker(&memory).sink(&first, false).unwrap().1, 0, "a new sink has no past");
        let (mark, _) = worker(&memory).sink(&first, true).unwrap();
        mark.taken();
        mark.over();
        assert_eq!(worker(&memory).sink(&first, true).unwrap().1, 0);
    }

    #[test]
    fn as_many_sinks_as_there_are_places() {
        let memory = memory();
        let marks = worker(&memory);
        let meta = |instance_id| Meta { instance_id, ..Meta::default() };
        let mut all: Vec<_> = (0..SINKS as i64).map(|instance| marks.sink(&meta(instance), false).unwrap().0).collect();
        assert!(marks.sink(&meta(-1), false).is_none());
        all.pop().unwrap().over();
        assert!(marks.sink(&meta(-1), false).is_some());
        assert_eq!(worker(&memory).function(1, false).begin(EXEC), Begin::Execute, "sinks are not functions");
    }

    #[test]
    fn prints_tell_texts_apart() {
        let texts: [&[u8]; 7] =
            [b"", b"\0", b"a", b"a\0", b"12345678", b"12345678\0", b"\x31\x32\x33\x34\x35\x36\x37\x39"];
        for (index, text) in texts.iter().enumerate() {
            for other in &texts[..index] {
                assert_ne!(Print::of(text), Print::of(other), "{text:?} {other:?}");
            }
        }
    }
}
