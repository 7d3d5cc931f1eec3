//! The terminal: its other screen, and the way back at every end.

use std::io::{self, IsTerminal, Stdout, stdout};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, TryLockError};
use std::time::{Duration, Instant};

use ekuiper_core::sync::lock;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::{Frame, Terminal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use crate::{console, output};

/// The view is on the terminal.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// The terminal's settings without the view.
static SETTINGS: Mutex<Option<Termios>> = Mutex::new(None);

/// Held to write to the terminal.
static WRITING: Mutex<()> = Mutex::new(());

/// Maximum time to wait for another thread that writes to the terminal: it may
/// be one that has panicked, or the terminal may take nothing (Ctrl-S).
const PATIENCE: Duration = Duration::from_millis(500);

/// Returns whether stdout is a terminal that can show the view, and this
/// process is in its foreground: another one would be stopped by it.
pub(super) fn is_possible() -> bool {
    let is_in_foreground = || tcgetpgrp(stdout()).is_ok_and(|group| group == getpgrp());
    stdout().is_terminal() && !console::is_dumb() && is_in_foreground()
}

/// The terminal with the view on it. Dropping it restores the terminal.
pub(super) struct Screen {
    /// Never dropped: its drop shows the cursor, as [`restore`] does, and panics
    /// if the terminal has gone.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>,
}

impl Screen {
    /// Prepares the terminal. From now on, messages and rows go to the view.
    ///
    /// # Errors
    /// The terminal cannot be prepared; it is as it was.
    pub(super) fn open() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let told = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                told(panic);
            }));
        });
        console::clear_counters();
        let settings = tcgetattr(stdout())?;
        *lock(&SETTINGS) = Some(settings.clone());
        tcsetattr(stdout(), OptionalActions::Now, &quiet(settings))?;
        IS_ON.store(true, Ordering::SeqCst);
        let opened = execute!(stdout(), EnterAlternateScreen, Hide)
            .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        match opened {
            Ok(terminal) => {
                console::divert();
                output::divert();
                Ok(Self { terminal: ManuallyDrop::new(terminal) })
            }
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }

    /// Returns whether the view is on the terminal.
    pub(super) fn is_on() -> bool {
        IS_ON.load(Ordering::SeqCst)
    }

    /// Draws, unless the terminal was restored.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        let _writing = lock(&WRITING);
        if Self::is_on() { self.terminal.draw(draw).map(|_| ()) } else { Ok(()) }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Returns the settings with which what is typed is read at once and not
/// shown. Ctrl-C still sends a signal; Ctrl-Z does not, since another command
/// would find the view on its screen.
fn quiet(mut settings: Termios) -> Termios {
    settings.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    settings.special_codes[SpecialCodeIndex::VSUSP] = 0;
    settings.special_codes[SpecialCodeIndex::VMIN] = 1;
    settings.special_codes[SpecialCodeIndex::VTIME] = 0;
    settings
}

/// Restores the terminal, if the view is on it; has done so, or has let another
/// thread do so, when it returns. Messages go to stderr again, first those that
/// the command has told in its own name meanwhile.
pub(crate) fn restore() {
    if !IS_ON.swap(false, Ordering::SeqCst) && lock(&SETTINGS).is_none() {
        // Never on, or restored; at most by a thread that is still at it.
        let _ = writing();
        return;
    }
    let writing = writing();
    let Some(settings) = lock(&SETTINGS).take() else { return };
    let _ = tcsetattr(stdout(), OptionalActions::Now, &settings);
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let takes_more = || poll(&mut [PollFd::new(&stdout(), PollFlags::OUT)], Some(&now)) == Ok(1);
    if writing.is_some() || takes_more() {
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        output::undivert();
        console::undivert();
    }
}

/// Waits for a moment until no other thread writes to the terminal.
fn writing() -> Option<MutexGuard<'static, ()>> {
    let end = Instant::now() + PATIENCE;
    loop {
        match WRITING.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() >= end => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(PATIENCE / 100),
        }
    }
}
