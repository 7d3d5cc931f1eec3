//! The receiving half of an SP connection.

use std::time::{Duration, Instant};

use ekuiper_core::sp::{Connection, Event, FRAME_HEADER, HEADER, Limits, MAX_WORDS, Protocol, SpError};

/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// In a script with long runs: `RUN` and a number stand for so many KiB.
const RUN: u8 = 0xee;

/// What the bytes came to; the same, whatever the pieces.
#[derive(Debug, PartialEq)]
enum Seen {
    Ready,
    Message(Vec<u8>),
    Oversized(Vec<u8>, u64),
    Refused(SpError),
}

/// In whatever pieces the bytes arrive, they come to what a reader of the
/// whole finds in them; memory is bounded by what has arrived; and a peer is
/// on the clock exactly while it owes bytes.
///
/// The input: a byte that chooses the role, the limits and whether there are
/// long runs, one that seeds the pieces' lengths, then the stream.
pub fn connection(data: &[u8]) {
    let [choice, pieces, stream @ ..] = data else { return };
    let long = (choice & 0x10 != 0).then(|| stretch(stream));
    let stream = long.as_deref().unwrap_or(stream);
    let own = [Protocol::Request, Protocol::Reply, Protocol::Push, Protocol::Pull][usize::from(choice & 3)];
    let (max_message, skip_up_to) =
        [(100, 0), (100, 2000), (u64::MAX, u64::MAX), (0, 40)][usize::from(choice >> 2 & 3)];
    let limits = Limits {
        max_message,
        skip_up_to,
        header_timeout: Duration::from_secs(10),
        stall_timeout: Duration::from_secs(3),
    };
    let expected = read_whole(own, &limits, stream);
    assert_eq!(feed(own, &limits, stream, || usize::MAX), expected, "at once");
    let mut random = u32::from(*pieces);
    let lengths = || {
        // Byte by byte, or of changing lengths; a long stream in longer ones.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = if *pieces == 0 { 1 } else { (random >> 24) as usize % usize::from(*pieces) + 1 };
        if stream.len() > CHUNK { length * 100 } else { length }
    };
    assert_eq!(feed(own, &limits, stream, lengths), expected, "in pieces");
}

fn stretch(script: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut rest = script.iter();
    while let Some(byte) = rest.next() {
        match (byte, stream.len()) {
            (&RUN, 0..0x40000) => stream.resize(stream.len() + (usize::from(*rest.next().unwrap_or(&0)) << 10), 7),
            _ => stream.push(*byte),
        }
    }
    stream
}

/// Reads the stream as the protocol's text has it, with everything at hand.
fn read_whole(own: Protocol, limits: &Limits, stream: &[u8]) -> Vec<Seen> {
    let header = own.peer().header();
    let constant = |(place, byte): (usize, &u8)| (4..6).contains(&place) || *byte == header[place];
    if !stream.iter().take(HEADER).enumerate().all(constant) {
        return vec![Seen::Refused(SpError::NotSp)];
    }
    let Some((found, mut rest)) = stream.split_first_chunk::<HEADER>() else { return vec![] };
    if *found != header {
        let found = u16::from_be_bytes([found[4], found[5]]);
        return vec![Seen::Refused(SpError::WrongProtocol { found, wanted: own.peer().number() })];
    }
    let mut seen = vec![Seen::Ready];
    while let Some((kind, after)) = rest.split_first() {
        if *kind != 1 {
            seen.push(Seen::Refused(SpError::FrameType(*kind)));
            break;
        }
        let Some((length, after)) = after.split_first_chunk::<8>() else { break };
        let length = u64::from_be_bytes(*length);
        // No message is longer than memory can be.
        let most = isize::MAX as u64 - FRAME_HEADER as u64;
        let max = limits.max_message.min(most);
        if length > max.max(limits.skip_up_to.min(most)) {
            seen.push(Seen::Refused(SpError::TooLong { length, max }));
            break;
        }
        let Some((content, after)) = usize::try_from(length).ok().and_then(|length| after.split_at_checked(length))
        else {
            break;
        };
        seen.push(match length > max {
            true => Seen::Oversized(content[..content.len().min(MAX_WORDS * 4)].to_vec(), length),
            false => Seen::Message(content.to_vec()),
        });
        rest = after;
    }
    seen
}

/// Gives the stream to the state machine in pieces of `lengths`.
fn feed(own: Protocol, limits: &Limits, stream: &[u8], mut lengths: impl FnMut() -> usize) -> Vec<Seen> {
    let mut now = Instant::now();
    let mut connection = Connection::new(own, limits.clone(), now);
    let mut seen = Vec::new();
    let (mut arrived, mut used, mut most_waiting) = (0, 0, 0);
    let mut taken = Vec::new();
    while arrived < stream.len() {
        let rest = &stream[arrived..];
        let space = connection.space();
        let count = lengths().min(rest.len()).min(space.len());
        assert!(count > 0, "there is always space");
        space[..count].copy_from_slice(&rest[..count]);
        arrived += count;
        now += Duration::from_millis(1);
        connection.filled(count, now);
        most_waiting = most_waiting.max(arrived - used);
        loop {
            let (event, length) = match connection.next() {
                Ok(None) => break,
                Ok(Some(Event::Ready)) => (Seen::Ready, HEADER),
                Ok(Some(Event::Message(body))) => {
                    let (body, length) = (body.to_vec(), FRAME_HEADER + body.len());
                    // Every second one changes hands.
                    if seen.len() % 2 == 0 {
                        connection.take(0, &mut taken);
                        assert_eq!(taken, body);
                    }
                    (Seen::Message(body), length)
                }
                Ok(Some(Event::Long(words, body))) => {
                    let whole = [words, body].concat();
                    let (words, length) = (words.len(), FRAME_HEADER + whole.len());
                    if seen.len() % 2 == 0 {
                        connection.take(words, &mut taken);
                        assert_eq!(taken, whole[words..]);
                    }
                    (Seen::Message(whole), length)
                }
                Ok(Some(Event::Oversized(head, length))) => {
                    (Seen::Oversized(head.to_vec(), length), FRAME_HEADER + length as usize)
                }
                Err(error) => {
                    seen.push(Seen::Refused(error));
                    return seen;
                }
            };
            seen.push(event);
            used += length;
        }
        assert_eq!(connection.is_ready(), !seen.is_empty());
        check_clock(&connection, seen.is_empty() || used < arrived, now);
        check_memory(&connection, limits, most_waiting);
    }
    // A read that is prepared for bytes that do not come is bounded too.
    connection.space();
    check_memory(&connection, limits, most_waiting);
    seen
}

/// A peer is on the clock until its header is whole, and within a frame.
fn check_clock(connection: &Connection, owes: bool, now: Instant) {
    assert_eq!(connection.deadline().is_some(), owes);
    assert!(connection.check_time(now).is_ok(), "it has only just sent something");
    assert_eq!(connection.check_time(now + Duration::from_secs(60)).is_err(), owes);
}

/// Twice what waits to become a message, and a chunk; what is skipped does not
/// wait.
fn check_memory(connection: &Connection, limits: &Limits, most_waiting: usize) {
    let longest = limits.max_message.min(1 << 40) as usize + FRAME_HEADER + CHUNK;
    let most = 2 * most_waiting.min(longest) + CHUNK;
    assert!(connection.memory() <= most, "{} bytes, at most {most} are right", connection.memory());
}
