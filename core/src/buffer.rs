//! Buffers that are reused from message to message.

/// Capacity that a buffer keeps for the next message, in bytes: one as long as
/// the last may never come.
pub const KEEP: usize = 2 << 20;

/// Releases the excess capacity after a long message, which is not needed any
/// more.
#[inline]
pub fn trim(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEEP {
        buffer.clear();
        buffer.shrink_to(KEEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_buffers_are_given_back() {
        let mut buffer = vec![1; 1000];
        trim(&mut buffer);
        assert_eq!(buffer.len(), 1000);
        buffer = vec![1; KEEP + 1];
        trim(&mut buffer);
        assert!(buffer.is_empty() && buffer.capacity() <= KEEP);
    }
}
