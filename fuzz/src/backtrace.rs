//! The words in front of a request.

#![allow(clippy::disallowed_methods, reason = "checks the ids")]

use ekuiper_core::sp::{BacktraceFault, MAX_WORDS, split_backtrace};
use ekuiper_core::transport::RequestId;

/// Nothing of a message is lost or moved by splitting it, and the words end
/// exactly at the request's id.
pub fn backtrace(data: &[u8]) {
    let words: Vec<_> = data.chunks_exact(4).take(MAX_WORDS).collect();
    let id = words.iter().position(|word| word[0] & 0x80 != 0);
    match (split_backtrace(data), id) {
        (Ok((request, body)), Some(id)) => {
            assert_eq!(request.as_bytes().len(), (id + 1) * 4);
            assert_eq!([request.as_bytes(), body].concat(), data);
            assert_eq!(RequestId::new(request.as_bytes()), Some(request));
        }
        (Err(BacktraceFault::TooManyHops), None) => assert_eq!(words.len(), MAX_WORDS),
        (Err(BacktraceFault::Malformed), None) => assert!(words.len() < MAX_WORDS),
        (other, _) => panic!("{other:?} with the id at word {id:?}"),
    }
    let fits = data.len() <= MAX_WORDS * 4;
    assert_eq!(RequestId::new(data).map(|words| words.as_bytes().to_vec()), fits.then(|| data.to_vec()));
}
