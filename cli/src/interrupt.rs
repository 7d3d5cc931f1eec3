//! Ctrl-C, SIGTERM and SIGHUP: a graceful end at the first signal, an immediate
//! end at the second. A signal that was ignored when the command started, as by
//! `nohup`, stays ignored.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Exit code of an interrupted command, as shells report Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// Whether the user has interrupted the command.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// A signal has arrived.
    is_set: AtomicBool,
    /// Reaches its end at the first signal.
    ended: PipeReader,
}

/// The first that was made: signals are the process's.
static FIRST: OnceLock<Interrupt> = OnceLock::new();

impl Interrupt {
    /// Returns the command's interrupt, if it handles signals already. Without
    /// that, a signal ends the process.
    pub(crate) fn current() -> Option<Self> {
        FIRST.get().cloned()
    }

    /// Starts handling signals: the first one calls `on_interrupt`, from a
    /// separate thread.
    pub(crate) fn watch(on_interrupt: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let ignored = ignored_signals();
        let heard = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
        let mut signals = Signals::new(heard)?;
        let (ended, open) = io::pipe()?;
        let interrupt = Self(Arc::new(Shared { is_set: AtomicBool::new(false), ended }));
        let _ = FIRST.set(interrupt.clone());
        let shared = interrupt.0.clone();
        let mut first: Option<(_, PipeWriter)> = Some((on_interrupt, open));
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for _ in signals.forever() {
                let Some((on_interrupt, open)) = first.take() else {
                    crate::view::restore();
                    ekuiper_host::remove_socket_folders();
                    std::process::exit(INTERRUPTED.into());
                };
                shared.is_set.store(true, Ordering::SeqCst);
                drop(open);
                // In another thread: a second signal must be handled meanwhile.
                std::thread::spawn(on_interrupt);
            }
        })?;
        Ok(interrupt)
    }

    /// Returns whether a signal has arrived.
    pub(crate) fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::SeqCst)
    }

    /// Waits for this time, or until a signal arrives.
    pub(crate) fn wait(&self, time: Duration) {
        let until = Instant::now() + time;
        let left = || until.saturating_duration_since(Instant::now());
        while !self.is_set() && !left().is_zero() {
            let timeout = Timespec::try_from(left()).ok();
            let _ = poll(&mut [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)], timeout.as_ref());
        }
    }

    /// Returns a descriptor that becomes readable, at end of file, with the
    /// first signal.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.ended.as_fd()
    }

    /// Returns the exit code: success, unless a signal has arrived.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.is_set() { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS }
    }
}

/// Returns the signals that this process ignores, one bit each.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
