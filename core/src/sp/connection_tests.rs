//! Tests of the decoder: protocol cases 2 to 15, without a socket.

use proptest::prelude::*;

use super::*;
use crate::sp::backtrace::{BacktraceFault, split_backtrace};

const LIMITS: Limits = Limits {
    max_message: 100,
    skip_up_to: 0,
    header_timeout: Duration::from_secs(10),
    stall_timeout: Duration::from_secs(3),
};

/// The items that a peer's bytes were decoded to.
#[derive(Debug, PartialEq)]
enum Seen {
    Ready,
    Message(Vec<u8>),
    Oversized(Vec<u8>, u64),
}

/// Has the bytes arrive in pieces of at most so many, and `look` after each read.
fn arrive(
    connection: &mut Connection,
    bytes: &[u8],
    piece: usize,
    mut look: impl FnMut(&mut Connection) -> Result<(), SpError>,
) -> Result<(), SpError> {
    for mut piece in bytes.chunks(piece.max(1)) {
        while !piece.is_empty() {
            let space = connection.space();
            let count = piece.len().min(space.len());
            space[..count].copy_from_slice(&piece[..count]);
            connection.filled(count, Instant::now());
            piece = &piece[count..];
            look(connection)?;
        }
    }
    Ok(())
}

fn feed(connection: &mut Connection, bytes: &[u8], piece: usize) -> Result<Vec<Seen>, SpError> {
    let mut seen = Vec::new();
    arrive(connection, bytes, piece, |connection| {
        while let Some(event) = connection.next()? {
            seen.push(match event {
                Event::Ready => Seen::Ready,
                Event::Message(body) => Seen::Message(body.to_vec()),
                Event::Long(words, body) => Seen::Message([words, body].concat()),
                Event::Oversized(head, length) => Seen::Oversized(head.to_vec(), length),
            });
        }
        Ok(())
    })?;
    Ok(seen)
}

fn pull() -> Connection {
    Connection::new(Protocol::Pull, LIMITS, Instant::now())
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&frame_header(body.len()), body].concat()
}

fn stream(bodies: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Protocol::Push.header().to_vec();
    bodies.iter().for_each(|body| bytes.extend(frame(body)));
    bytes
}

#[test]
fn sample_bytes_are_read() {
    let bytes = [&Protocol::Push.header()[..], b"\x01\0\0\0\0\0\0\0\x03abc", b"\x01\0\0\0\0\0\0\0\0"].concat();
    let expected = [Seen::Ready, Seen::Message(b"abc".to_vec()), Seen::Message(vec![])];
    assert_eq!(feed(&mut pull(), &bytes, 1000).unwrap(), expected);
}

#[test]
fn other_protocols_are_refused_at_their_first_wrong_byte() {
    assert_eq!(feed(&mut pull(), b"GET / HTTP/1.1\r\n", 1), Err(SpError::NotSp));
    assert_eq!(feed(&mut pull(), b"\0SQ", 3), Err(SpError::NotSp));
    assert_eq!(feed(&mut pull(), b"\0SP\x01", 4), Err(SpError::NotSp), "version");
    assert_eq!(feed(&mut pull(), b"\0SP\0\0\x50\0\x01", 8), Err(SpError::NotSp), "reserved");
    let wrong = SpError::WrongProtocol { found: 0x30, wanted: 0x50 };
    assert_eq!(feed(&mut pull(), &Protocol::Request.header(), 8), Err(wrong));
    let wrong = SpError::WrongProtocol { found: 0x51, wanted: 0x50 };
    assert_eq!(feed(&mut pull(), &Protocol::Pull.header(), 8), Err(wrong));
}

#[test]
fn frame_types_other_than_one_are_refused() {
    for kind in [0, 2, 0xff] {
        let bytes = [&Protocol::Push.header()[..], &[kind]].concat();
        assert_eq!(feed(&mut pull(), &bytes, 100), Err(SpError::FrameType(kind)));
    }
}

#[test]
fn the_longest_message_passes_and_one_more_does_not() {
    assert_eq!(feed(&mut pull(), &stream(&[&[7; 100]]), 1000).unwrap().len(), 2);
    let refused = feed(&mut pull(), &stream(&[&[7; 101]]), 1000);
    assert_eq!(refused, Err(SpError::TooLong { length: 101, max: 100 }));
    for length in [1 << 63, u64::MAX, 1 << 50] {
        let bytes = [&Protocol::Push.header()[..], &[1], &length.to_be_bytes()].concat();
        assert_eq!(feed(&mut pull(), &bytes, 1000), Err(SpError::TooLong { length, max: 100 }));
    }
}

#[test]
fn without_a_limit_there_still_is_one() {
    for length in [u64::MAX, u64::MAX - 8, 1 << 63, (1 << 63) - 9] {
        let limits = Limits { max_message: u64::MAX, skip_up_to: u64::MAX, ..LIMITS };
        let mut connection = Connection::new(Protocol::Pull, limits, Instant::now());
        let bytes = [&Protocol::Push.header()[..], &[1], &length.to_be_bytes(), b"abc"].concat();
        assert!(matches!(feed(&mut connection, &bytes, 1000), Err(SpError::TooLong { .. })), "{length}");
    }
}

#[test]
fn a_claim_costs_no_memory() {
    let limits = Limits { max_message: u64::MAX >> 1, ..LIMITS };
    let mut connection = Connection::new(Protocol::Pull, limits, Instant::now());
    let bytes = [&Protocol::Push.header()[..], &[1], &(1u64 << 30).to_be_bytes(), &[0; 1000]].concat();
    feed(&mut connection, &bytes, 100).unwrap();
    connection.space();
    assert!(connection.memory() <= 4 * CHUNK, "{}", connection.memory());
}

/// Takes every message, without its first `skip` bytes, into one buffer.
fn take_all(connection: &mut Connection, bytes: &[u8], piece: usize, skip: usize) -> Vec<Vec<u8>> {
    let (mut taken, mut buffer) = (Vec::new(), vec![9; 1000]);
    let arrived = arrive(connection, bytes, piece, |connection| {
        while let Some(event) = connection.next()? {
            if let Event::Message(_) | Event::Long(..) = event {
                connection.take(skip, &mut buffer);
                taken.push(buffer.clone());
            }
        }
        Ok(())
    });
    arrived.unwrap();
    taken
}

#[test]
fn messages_are_handed_over_whatever_their_length() {
    let lengths = [4, CHUNK - 10, CHUNK - 9, CHUNK - 8, 5, 3 * CHUNK, 5 << 20, 2 * CHUNK, 0, 10 * CHUNK, 7];
    let bodies: Vec<Vec<u8>> = lengths
        .iter()
        .enumerate()
        .map(|(seed, length)| (0..*length).map(|at| (at >> 8) as u8 ^ (at * 7 + seed) as u8).collect())
        .collect();
    for (piece, skip) in [(1000, 0), (100_000, 0), (usize::MAX, 0), (70_001, 4), (usize::MAX, 4)] {
        let limits = Limits { max_message: u64::MAX, ..LIMITS };
        // The words of a reply are skipped.
        let own = if skip == 0 { Protocol::Pull } else { Protocol::Request };
        let mut connection = Connection::new(own, limits, Instant::now());
        // An empty message has no bytes to skip.
        let bodies: Vec<_> = bodies.iter().filter(|body| body.len() >= skip).collect();
        let mut bytes = own.peer().header().to_vec();
        bodies.iter().for_each(|body| bytes.extend(frame(body)));
        let taken = take_all(&mut connection, &bytes, piece.min(bytes.len()), skip);
        assert_eq!(taken.len(), bodies.len());
        for (taken, body) in taken.iter().zip(bodies) {
            assert!(taken[..] == body[skip..], "{} bytes in pieces of {piece}", body.len());
        }
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "checks the ids")]
fn the_words_of_a_long_request_stand_before_its_body() {
    let body = vec![7; 2 * CHUNK];
    for hops in 0..=MAX_WORDS {
        let words = [vec![0; hops * 4], vec![0x80, 0, 0, 1]].concat();
        let bytes = [&Protocol::Request.header()[..], &frame(&[&words[..], &body].concat())].concat();
        for piece in [1, 30, 1000, usize::MAX] {
            let limits = Limits { max_message: u64::MAX, ..LIMITS };
            let mut connection = Connection::new(Protocol::Reply, limits, Instant::now());
            let (mut taken, mut split) = (vec![9; 3 * CHUNK], None);
            let arrived = arrive(&mut connection, &bytes, piece, |connection| {
                while let Some(event) = connection.next()? {
                    if let Event::Long(words, _) = event {
                        split = Some(split_backtrace(words).map(|(id, rest)| (id.as_bytes().to_vec(), rest.len())));
                        let words = words.len();
                        connection.take(words, &mut taken);
                    }
                }
                Ok(())
            });
            arrived.unwrap();
            if hops < MAX_WORDS {
                assert_eq!(split, Some(Ok((words.clone(), 0))));
                assert!(taken == body, "{hops} hops in pieces of {piece}");
            } else {
                assert_eq!(split, Some(Err(BacktraceFault::TooManyHops)));
            }
        }
    }
}

#[test]
fn a_long_message_is_not_copied_and_its_memory_is_used_again() {
    let limits = Limits { max_message: u64::MAX, ..LIMITS };
    let mut connection = Connection::new(Protocol::Pull, limits, Instant::now());
    feed(&mut connection, &stream(&[]), 8).unwrap();
    let (body, mut buffers) = (vec![7; 1 << 20], Vec::new());
    let mut buffer = Vec::new();
    for _ in 0..6 {
        let arrived = arrive(&mut connection, &frame(&body), usize::MAX, |connection| {
            if let Some(Event::Long(&[], _)) = connection.next()? {
                connection.take(0, &mut buffer);
            }
            Ok(())
        });
        arrived.unwrap();
        assert!(buffer == body);
        buffers.push(buffer.as_ptr());
    }
    // The two buffers alternate.
    assert_eq!(buffers[2], buffers[4]);
    assert_eq!(buffers[3], buffers[5]);
    assert_ne!(buffers[4], buffers[5]);
}

#[test]
fn an_oversize_message_is_skipped_where_that_is_asked_for() {
    let limits = Limits { skip_up_to: 1 << 20, ..LIMITS };
    let long: Vec<u8> = (0..200_000u32).map(|byte| byte as u8).collect();
    let bytes = stream(&[b"before", &long, b"after"]);
    for piece in [1, 7, 100_000, usize::MAX] {
        let mut connection = Connection::new(Protocol::Pull, limits.clone(), Instant::now());
        let seen = feed(&mut connection, &bytes, piece).unwrap();
        let expected = [
            Seen::Ready,
            Seen::Message(b"before".to_vec()),
            Seen::Oversized(long[..HEAD].to_vec(), 200_000),
            Seen::Message(b"after".to_vec()),
        ];
        assert_eq!(seen, expected);
        assert!(connection.memory() < 4 * CHUNK);
    }
}

#[test]
fn the_headers_time_is_counted_whole_and_a_frames_from_its_last_byte() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut connection = Connection::new(Protocol::Pull, LIMITS, start);
    for (second_no, byte) in Protocol::Push.header()[..7].iter().enumerate() {
        connection.space()[0] = *byte;
        connection.filled(1, start + second * second_no as u32);
        assert_eq!(connection.next(), Ok(None));
    }
    assert_eq!(connection.check_time(start + second * 9), Ok(()));
    assert_eq!(connection.check_time(start + second * 10), Err(SpError::HeaderTimeout));

    let mut connection = Connection::new(Protocol::Pull, LIMITS, start);
    feed(&mut connection, &stream(&[]), 8).unwrap();
    assert_eq!(connection.deadline(), None, "an idle connection may be idle for ever");
    for later in [100, 102, 104] {
        connection.space()[0] = 1;
        connection.filled(1, start + second * later);
        let _ = connection.next();
        assert_eq!(connection.deadline(), Some(start + second * (later + 3)));
    }
    assert_eq!(connection.check_time(start + second * 107), Err(SpError::Stalled));
}

#[test]
fn a_frame_that_begins_with_the_header_has_its_time_too() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut connection = Connection::new(Protocol::Pull, LIMITS, start);
    let bytes = [&stream(&[])[..], b"\x01\0\0"].concat();
    connection.space()[..bytes.len()].copy_from_slice(&bytes);
    connection.filled(bytes.len(), start + second * 5);
    assert_eq!(connection.next(), Ok(Some(Event::Ready)));
    assert_eq!(connection.next(), Ok(None));
    assert_eq!(connection.check_time(start + second * 7), Ok(()));
    assert_eq!(connection.check_time(start + second * 8), Err(SpError::Stalled));
}

proptest! {
    #[test]
    fn pieces_do_not_matter(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20), piece in 1usize..50) {
        let bytes = stream(&bodies.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let seen = feed(&mut pull(), &bytes, piece).unwrap();
        let expected: Vec<_> = [Seen::Ready].into_iter().chain(bodies.into_iter().map(Seen::Message)).collect();
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..300, ready: bool) {
        let mut connection = pull();
        if ready {
            feed(&mut connection, &stream(&[]), 8).unwrap();
        }
        let _ = feed(&mut connection, &bytes, piece);
    }
}

#[test]
fn who_has_sent_a_whole_message_owes_nothing() {
    let limits = Limits { max_message: u64::MAX, ..LIMITS };
    for length in [5, 3 * CHUNK] {
        let mut connection = Connection::new(Protocol::Pull, limits.clone(), Instant::now());
        feed(&mut connection, &stream(&[]), 8).unwrap();
        let (bytes, mut used) = (frame(&vec![7; length]), 0);
        loop {
            let space = connection.space();
            let count = space.len().min(bytes.len() - used);
            space[..count].copy_from_slice(&bytes[used..used + count]);
            connection.filled(count, Instant::now());
            used += count;
            // The caller does not ask again once it has the message.
            if connection.next().unwrap().is_some() {
                break;
            }
        }
        assert_eq!(connection.deadline(), None, "{length}");
    }
}
