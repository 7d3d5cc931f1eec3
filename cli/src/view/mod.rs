//! The terminal view of `run`: what a pipeline does, drawn several times a
//! second while stdout is a terminal.
//!
//! `model` is what is shown, `draw` how, `screen` the terminal.

mod draw;
mod model;
mod screen;

use std::io::{IsTerminal, Stdin, stdin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use crate::flow::Counts;
use crate::session::Session;
use crate::{console, output};
use model::Model;
use screen::Screen;

pub(crate) use screen::restore;

/// Maximum time between a key, or the end, and the reaction to it.
const LOOK: Duration = Duration::from_millis(50);

/// Interval of redraws.
const REDRAW: Duration = Duration::from_millis(250);

/// Returns whether this terminal can show the view.
pub(crate) fn is_possible() -> bool {
    screen::is_possible()
}

/// Runs `pipeline`, and shows what it does meanwhile. Where the terminal cannot
/// be prepared, it runs without a view.
pub(crate) fn show<T>(session: &Session, title: &str, counts: &Counts, pipeline: impl FnOnce() -> T) -> T {
    let Ok(screen) = Screen::open() else { return pipeline() };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // However the pipeline ends.
        let _end = End(&is_over);
        let is_over = &is_over;
        let watch = move || watch(screen, session, title, counts, is_over);
        // Without a thread, the screen is dropped, and so restored.
        let _ = std::thread::Builder::new().name("view".into()).spawn_scoped(scope, watch);
        pipeline()
    })
}

/// Ends the view when it is dropped.
struct End<'o>(&'o AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Draws until the pipeline is over.
fn watch(mut screen: Screen, session: &Session, title: &str, counts: &Counts, is_over: &AtomicBool) {
    let mut model = Model::new(title, Instant::now());
    let mut drawn: Option<Instant> = None;
    // Ctrl-C is a signal.
    let mut keys = Some(stdin()).filter(Stdin::is_terminal);
    // See <https://no-color.org>.
    let has_color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    while !is_over.load(Ordering::SeqCst) && Screen::is_on() {
        let now = Instant::now();
        if drawn.is_none_or(|drawn| now - drawn >= REDRAW) {
            drawn = Some(now);
            model.update(now, &counts.snapshot(), session.host.health());
            model.is_ending = session.interrupt.is_set();
            console::diverted(&mut model.messages);
            output::diverted(&mut model.rows);
            // A terminal that has gone ends the command by a signal.
            let _ = screen.draw(|frame| draw::draw(frame, &model, has_color));
        }
        if is_end_typed(&mut keys) {
            // As Ctrl-C: the second one ends it at once.
            let _ = kill_process(getpid(), Signal::INT);
            drawn = None;
        }
    }
}

/// Waits for a moment, or until something is typed; returns whether that ends
/// the command.
fn is_end_typed(keys: &mut Option<Stdin>) -> bool {
    let Some(stdin) = keys else {
        std::thread::sleep(LOOK);
        return false;
    };
    let look = Timespec::try_from(LOOK).ok();
    match poll(&mut [PollFd::new(stdin, PollFlags::IN)], look.as_ref()) {
        Ok(0) | Err(Errno::INTR) => return false,
        Ok(_) | Err(_) => {}
    }
    let mut typed = [0; 64];
    match rustix::io::read(&*stdin, &mut typed) {
        Ok(count) if count > 0 => typed[..count].contains(&b'q'),
        // The terminal has gone.
        _ => {
            *keys = None;
            false
        }
    }
}
