//! Random numbers of the kernel.

use crate::platform;

/// Returns a random number from 0 to 1 to vary a pause with, so that processes
/// that ended together do not restart together.
pub fn jitter() -> f64 {
    let mut bytes = [0; 4];
    // Without random bytes, the pause has its full length.
    let _ = platform::random(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
