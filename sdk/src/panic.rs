//! Panics of an author's code, as errors.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};

/// Runs an author's code, and converts a panic into an error.
pub(crate) fn catch_panic<T>(code: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|panic| Err(Error::Panic(panic_text(panic)).into()))
}

fn panic_text(panic: Box<dyn Any + Send>) -> String {
    let panic = match panic.downcast::<&str>() {
        Ok(text) => return (*text).to_owned(),
        Err(panic) => panic,
    };
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => {
            // Dropping an unknown payload might panic again.
            std::mem::forget(panic);
            "without a text".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_panic_is_an_error() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        let text = |code: fn()| {
            catch_panic(|| {
                code();
                Ok(())
            })
            .unwrap_err()
            .to_string()
        };
        assert_eq!(text(|| panic!("boom")), "panicked: boom");
        assert_eq!(text(|| panic!("{} is odd", 3)), "panicked: 3 is odd");
        assert_eq!(text(|| std::panic::panic_any(Bomb)), "panicked: without a text");
    }
}
