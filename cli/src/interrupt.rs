//! Ctrl-C and SIGTERM: an orderly end, and at the second signal an end at
//! once.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The exit code of a command that was interrupted, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Whether the user has asked for the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the first signal calls `on_interrupt`, from a thread of its
    /// own.
    pub(crate) fn watch(&self, on_interrupt: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let interrupted = self.0.clone();
        let mut on_interrupt = Some(on_interrupt);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for _ in signals.forever() {
                if interrupted.swap(true, Ordering::SeqCst) {
                    std::process::exit(INTERRUPTED.into());
                }
                if let Some(on_interrupt) = on_interrupt.take() {
                    // Not here: a second signal must be heard meanwhile.
                    std::thread::spawn(on_interrupt);
                }
            }
        })?;
        Ok(())
    }

    /// Whether a signal has come.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// The exit code: success, unless a signal has come.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.is_set() { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS }
    }
}
