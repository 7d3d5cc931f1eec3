//! The words in front of a request.

use ekuiper_core::sp::{Backtrace, BacktraceFault, MAX_WORDS};

/// Nothing of a message is lost or moved by splitting it, and the words end
/// exactly at the request's id.
pub fn backtrace(data: &[u8]) {
    let words: Vec<_> = data.chunks_exact(4).take(MAX_WORDS).collect();
    let id = words.iter().position(|word| word[0] & 0x80 != 0);
    match (Backtrace::split(data), id) {
        (Ok((backtrace, body)), Some(id)) => {
            assert_eq!(backtrace.as_bytes().len(), (id + 1) * 4);
            assert_eq!([backtrace.as_bytes(), body].concat(), data);
            assert_eq!(Backtrace::new(backtrace.as_bytes()), Some(backtrace));
        }
        (Err(BacktraceFault::TooManyHops), None) => assert_eq!(words.len(), MAX_WORDS),
        (Err(BacktraceFault::Malformed), None) => assert!(words.len() < MAX_WORDS),
        (other, _) => panic!("{other:?} with the id at word {id:?}"),
    }
    let fits = data.len() <= MAX_WORDS * 4;
    assert_eq!(Backtrace::new(data).map(|words| words.as_bytes().to_vec()), fits.then(|| data.to_vec()));
}
