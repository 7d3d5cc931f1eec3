//! Where the host must not block: while a task polls it, and in the thread of
//! the idle reader, which serves all tasks. Debug builds check that.

use std::cell::Cell;

thread_local! {
    static IS_FORBIDDEN: Cell<bool> = const { Cell::new(false) };
}

/// Does work that must not block.
pub(crate) fn forbidden<T>(work: impl FnOnce() -> T) -> T {
    with(true, work)
}

/// Does work that may block, in a thread that otherwise must not: nothing else
/// can do it.
pub(crate) fn allowed<T>(work: impl FnOnce() -> T) -> T {
    with(false, work)
}

/// Checks that the caller may block.
pub(crate) fn check() {
    debug_assert!(!IS_FORBIDDEN.get(), "this blocks a task, or the thread that serves all tasks");
}

fn with<T>(is_forbidden: bool, work: impl FnOnce() -> T) -> T {
    if !cfg!(debug_assertions) {
        return work();
    }
    let _restored = Restored(IS_FORBIDDEN.replace(is_forbidden));
    work()
}

/// Restores what held before, also after a panic.
struct Restored(bool);

impl Drop for Restored {
    fn drop(&mut self) {
        IS_FORBIDDEN.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic = "this blocks a task"]
    #[cfg(debug_assertions)]
    fn what_blocks_where_it_must_not_is_found() {
        forbidden(|| {
            allowed(check);
            check();
        });
    }

    #[test]
    fn a_thread_may_block() {
        let _ = std::panic::catch_unwind(|| forbidden(|| panic!("on purpose")));
        check();
    }
}
