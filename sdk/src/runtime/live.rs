//! A symbol that runs on a thread of its own: its start, its end, and what
//! becomes of one that hangs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bell::{Bell, Heed};
use super::guarded;
use crate::error::text_of;
use crate::plugin::Spawn;
use crate::{BoxError, Result};

/// Which part of a stop's time a symbol has to end by itself; then its
/// channels are closed.
const GENTLY: f64 = 0.6;

/// A symbol's thread, as the control thread sees it.
pub(super) struct Live {
    cell: Arc<Cell>,
    bell: Arc<Bell>,
    /// It did not start or stop in time: nothing more is asked of it.
    pub(super) hangs: bool,
    /// It was stopped, and still deals with what had come before.
    pub(super) drains: bool,
}

/// What became of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It is over.
    Over,
    /// It comes to its end by itself: it makes progress with what had come
    /// before the stop.
    Drains,
    /// It does not end in time, and is given up.
    Hangs,
}

/// How a symbol that runs is stopped. No part waits.
pub(super) struct Stopper {
    /// Asks it to end, with all that is owed.
    pub(super) ask: Box<dyn FnOnce() + Send>,
    /// Ends every wait for a peer that does not take what it is sent.
    pub(super) hurry: Box<dyn FnOnce() + Send>,
    /// Gives up what has come and was not dealt with, and logs how much that
    /// is: the process ends.
    pub(super) give_up: Box<dyn FnOnce() + Send>,
    /// How much it has dealt with. A symbol to which this means nothing ends
    /// as soon as it is asked.
    pub(super) dealt_with: Option<Box<dyn Fn() -> u64 + Send>>,
}

impl Stopper {
    /// Of a symbol that has nothing to deal with once it is asked to end.
    pub(super) fn by_asking(ask: impl FnOnce() + Send + 'static) -> Self {
        Self { ask: Box::new(ask), hurry: Box::new(|| {}), give_up: Box::new(|| {}), dealt_with: None }
    }
}

#[derive(Default)]
struct Cell(Mutex<State>);

#[derive(Default)]
struct State {
    /// Absent while it starts.
    started: Option<Result<()>>,
    ask: Option<Box<dyn FnOnce() + Send>>,
    hurry: Option<Box<dyn FnOnce() + Send>>,
    give_up: Option<Box<dyn FnOnce() + Send>>,
    dealt_with: Option<Box<dyn Fn() -> u64 + Send>>,
    /// Nobody waits for its start any more.
    abandoned: bool,
    /// It ends by itself.
    ending: bool,
    /// Its thread has nothing left to do.
    over: bool,
}

impl Cell {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a symbol's thread reports.
pub(super) struct Progress {
    cell: Arc<Cell>,
    bell: Arc<Bell>,
}

impl Progress {
    /// The symbol waits for its engine; `interrupt` ends that wait when nobody
    /// waits for the symbol's start any more.
    pub(super) fn waits(&self, interrupt: impl FnOnce() + Send + 'static) {
        let mut state = self.cell.lock();
        if state.abandoned {
            drop(state);
            interrupt();
        } else {
            state.ask = Some(Box::new(interrupt));
        }
    }

    /// The symbol runs. False when nobody waits for that any more: it is to
    /// end at once.
    pub(super) fn running(&self, stopper: Stopper) -> bool {
        let mut state = self.cell.lock();
        if state.abandoned {
            return false;
        }
        state.started = Some(Ok(()));
        state.ask = Some(stopper.ask);
        state.hurry = Some(stopper.hurry);
        state.give_up = Some(stopper.give_up);
        state.dealt_with = stopper.dealt_with;
        drop(state);
        self.bell.ring();
        true
    }

    /// The symbol ends, without having been asked to.
    pub(super) fn ending(&self) {
        self.cell.lock().ending = true;
    }

    fn over(&self, outcome: Result<()>) {
        let mut state = self.cell.lock();
        state.over = true;
        match (&state.started, outcome) {
            (None, outcome) => {
                let nothing = || "it ended without a word".into();
                state.started = Some(Err(outcome.err().unwrap_or_else(nothing)));
            }
            (Some(_), Err(error)) => tracing::error!(error = text_of(&*error), "the symbol failed"),
            (Some(_), Ok(())) => {}
        }
        // Nothing is left to stop: what its channels and its context hold goes
        // now, and not with the next start.
        let stopper = (state.ask.take(), state.hurry.take(), state.give_up.take(), state.dealt_with.take());
        drop(state);
        drop(stopper);
        self.bell.ring();
    }
}

/// What became of a start.
pub(super) enum Launched {
    Runs(Live),
    /// It, or the SDK, said no.
    Refused(BoxError),
    /// It has not said anything in time, or before the plugin's end.
    Late(Live),
}

/// Starts a symbol's thread and waits until it runs.
pub(super) fn launch(
    name: &str,
    spawn: &Spawn,
    bell: &Arc<Bell>,
    patience: Duration,
    body: impl FnOnce(&Progress) -> Result<()> + Send + 'static,
) -> Launched {
    let cell = Arc::new(Cell::default());
    let progress = Progress { cell: cell.clone(), bell: bell.clone() };
    let span = tracing::Span::current();
    let run = Box::new(move || {
        let _entered = span.enter();
        // What the author's types do when they are dropped is guarded too.
        let outcome = guarded(|| body(&progress));
        progress.over(outcome);
    });
    if let Err(error) = spawn(name, run) {
        return Launched::Refused(format!("cannot start a thread: {error}").into());
    }
    bell.wait(Instant::now() + patience, Heed::End, || cell.lock().started.is_some());
    let mut state = cell.lock();
    match state.started.take() {
        Some(Ok(())) => {
            state.started = Some(Ok(()));
            drop(state);
            Launched::Runs(Live { cell, bell: bell.clone(), hangs: false, drains: false })
        }
        Some(Err(error)) => Launched::Refused(error),
        None => {
            state.abandoned = true;
            let interrupt = state.ask.take();
            drop(state);
            interrupt.into_iter().for_each(|interrupt| interrupt());
            // At the plugin's end it was only interrupted.
            let hangs = !bell.is_ending();
            Launched::Late(Live { cell, bell: bell.clone(), hangs, drains: false })
        }
    }
}

impl Live {
    pub(super) fn is_over(&self) -> bool {
        self.cell.lock().over
    }

    /// Whether it comes to its end without being asked once more.
    pub(super) fn is_ending(&self) -> bool {
        !self.hangs && (self.drains || self.cell.lock().ending)
    }

    /// Waits for its end; whether it has come.
    pub(super) fn await_end(&self, patience: Duration) -> bool {
        self.bell.wait(Instant::now() + patience, Heed::End, || self.is_over())
    }

    fn dealt_with(&self) -> Option<u64> {
        self.cell.lock().dealt_with.as_ref().map(|dealt_with| dealt_with())
    }

    /// Asks it to end, with all that is owed.
    pub(super) fn ask(&self) {
        // Taken under the lock and called outside of it.
        let ask = self.cell.lock().ask.take();
        ask.into_iter().for_each(|ask| ask());
    }

    /// Ends every wait for a peer that does not take what it is sent.
    fn hurry(&self) {
        let hurry = self.cell.lock().hurry.take();
        hurry.into_iter().for_each(|hurry| hurry());
    }

    /// Gives up what it has not dealt with.
    pub(super) fn give_up(&self) {
        self.ask();
        self.hurry();
        let give_up = self.cell.lock().give_up.take();
        give_up.into_iter().for_each(|give_up| give_up());
    }

    /// Stops it. Whoever has asked for that waits for the answer, and so does
    /// every other symbol's start and stop: a sink that makes progress with
    /// what had come before is left to it.
    pub(super) fn stop(&mut self, patience: Duration) -> Stopped {
        let now = Instant::now();
        let before = self.dealt_with();
        self.ask();
        let done = || self.is_over() || self.dealt_with() != before;
        let ended = self.bell.wait(now + patience.mul_f64(GENTLY), Heed::End, || self.is_over()) || {
            self.hurry();
            self.bell.wait(now + patience, Heed::End, done)
        };
        if ended {
            self.drains = !self.is_over();
            return if self.drains { Stopped::Drains } else { Stopped::Over };
        }
        // At the plugin's end it is waited for once more, with all others.
        self.hangs = !self.bell.is_ending();
        Stopped::Hangs
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(20);

    fn spawn() -> Spawn {
        crate::Plugin::new("test").spawn
    }

    fn nothing() -> Stopper {
        Stopper::by_asking(|| {})
    }

    fn over(bell: &Bell, live: &Live) -> bool {
        bell.wait(Instant::now() + LONG, Heed::Nothing, || live.is_over())
    }

    #[test]
    fn a_symbol_runs_until_it_is_asked_to_end() {
        let bell = Arc::new(Bell::default());
        let (ask, asked) = mpsc::channel();
        let launched = launch("s", &spawn(), &bell, LONG, move |progress| {
            assert!(progress.running(Stopper::by_asking(move || ask.send(()).unwrap())));
            asked.recv().unwrap();
            Ok(())
        });
        let Launched::Runs(mut live) = launched else { panic!("it does not run") };
        assert!(!live.is_over());
        assert_eq!(live.stop(LONG), Stopped::Over);
    }

    #[test]
    fn a_refusal_a_panic_and_silence_are_errors() {
        let bell = Arc::new(Bell::default());
        let refused = |body: fn(&Progress) -> Result<()>| match launch("s", &spawn(), &bell, LONG, body) {
            Launched::Refused(error) => error.to_string(),
            _ => panic!("it is not refused"),
        };
        assert_eq!(refused(|_| Err("no".into())), "no");
        assert_eq!(refused(|_| panic!("boom")), "panicked: boom");
        assert_eq!(refused(|_| Ok(())), "it ended without a word");
    }

    #[test]
    fn a_thread_that_cannot_be_started_refuses_the_start() {
        let bell = Arc::new(Bell::default());
        let spawn: Spawn = Arc::new(|name, _| Err(std::io::Error::other(format!("no thread for {name}"))));
        let Launched::Refused(error) = launch("s", &spawn, &bell, LONG, |_| Ok(())) else { panic!("it runs") };
        assert_eq!(error.to_string(), "cannot start a thread: no thread for s");
    }

    #[test]
    fn a_late_symbol_is_told_to_end() {
        let bell = Arc::new(Bell::default());
        let (release, released) = mpsc::channel::<()>();
        let launched = launch("s", &spawn(), &bell, SHORT, move |progress| {
            let _ = released.recv();
            assert!(!progress.running(nothing()));
            Ok(())
        });
        let Launched::Late(live) = launched else { panic!("it is not late") };
        assert!(live.hangs);
        drop(release);
        assert!(over(&bell, &live));
    }

    #[test]
    fn one_that_does_not_stop_hangs_until_it_ends() {
        let bell = Arc::new(Bell::default());
        let (release, released) = mpsc::channel::<()>();
        let launched = launch("s", &spawn(), &bell, LONG, move |progress| {
            progress.running(nothing());
            let _ = released.recv();
            Ok(())
        });
        let Launched::Runs(mut live) = launched else { panic!("it does not run") };
        assert_eq!(live.stop(SHORT), Stopped::Hangs);
        assert!(live.hangs && !live.is_over());
        drop(release);
        assert!(over(&bell, &live));
    }

    #[test]
    fn one_that_makes_progress_after_its_stop_is_left_to_it() {
        let bell = Arc::new(Bell::default());
        let (release, released) = mpsc::channel::<()>();
        let launched = launch("s", &spawn(), &bell, LONG, move |progress| {
            let dealt_with = std::sync::atomic::AtomicU64::new(0);
            let count = move || dealt_with.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            progress.running(Stopper { dealt_with: Some(Box::new(count)), ..nothing() });
            let _ = released.recv();
            Ok(())
        });
        let Launched::Runs(mut live) = launched else { panic!("it does not run") };
        assert_eq!(live.stop(SHORT), Stopped::Drains);
        assert!(live.is_ending() && !live.hangs && !live.is_over());
        drop(release);
        assert!(live.await_end(LONG));
    }

    #[test]
    fn the_plugins_end_interrupts_a_start_and_a_stop() {
        let bell = Arc::new(Bell::default());
        let (release, released) = mpsc::channel::<()>();
        let Launched::Runs(mut live) = launch("s", &spawn(), &bell, LONG, move |progress| {
            progress.running(nothing());
            let _ = released.recv();
            Ok(())
        }) else {
            panic!("it does not run")
        };
        bell.end();
        assert_eq!(live.stop(LONG), Stopped::Hangs);
        assert!(!live.hangs, "it is waited for once more");
        let (never, again) = mpsc::channel::<()>();
        let Launched::Late(late) = launch("s", &spawn(), &bell, LONG, move |_| Ok(again.recv()?)) else {
            panic!("it is not late")
        };
        assert!(!late.hangs);
        drop((release, never));
        assert!(over(&bell, &live) && over(&bell, &late));
    }
}
