//! A symbol on its own thread: its start, its stop, and its abandonment when it
//! hangs.

use ekuiper_core::instant::later;
use ekuiper_transport_ipc::wait::deadline_after;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::bell::{Bell, Heed};
use crate::definition::Spawn;
use crate::error::text_of;
use crate::panic::catch_panic;
use crate::{BoxError, Result};
use ekuiper_core::sync::lock;

/// The share of the stop timeout after which a symbol's channels are closed.
const GENTLY: f64 = 0.6;

/// A symbol's thread, as the control thread sees it.
pub(super) struct Live {
    cell: Arc<Cell>,
    bell: Arc<Bell>,
    /// Whether the symbol missed the deadline of its start or stop.
    pub(super) hangs: bool,
    /// Whether the symbol was stopped and still drains earlier messages.
    pub(super) drains: bool,
}

/// The outcome of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The symbol has ended.
    Over,
    /// The symbol makes progress draining messages from before the stop, and
    /// will end by itself.
    Drains,
    /// The symbol did not end in time, and is abandoned.
    Hangs,
}

/// The callbacks that stop a running symbol. None of them blocks.
pub(super) struct Stopper {
    /// Asks the symbol to end after draining.
    pub(super) ask: Box<dyn FnOnce() + Send>,
    /// Unblocks sends to a peer that does not read.
    pub(super) hurry: Box<dyn FnOnce() + Send>,
    /// Discards the messages that are left, and logs their number, when the
    /// process shuts down.
    pub(super) give_up: Box<dyn FnOnce() + Send>,
    /// The number of messages dealt with; `None` for a symbol that ends as soon
    /// as it is asked.
    pub(super) dealt_with: Option<Box<dyn Fn() -> u64 + Send>>,
}

impl Stopper {
    /// The stopper of a symbol that has nothing to drain.
    pub(super) fn by_asking(ask: impl FnOnce() + Send + 'static) -> Self {
        Self { ask: Box::new(ask), hurry: Box::new(|| {}), give_up: Box::new(|| {}), dealt_with: None }
    }
}

#[derive(Default)]
struct Cell(Mutex<SymbolState>);

#[derive(Default)]
struct SymbolState {
    /// The outcome of the start; `None` while the symbol starts.
    started: Option<Result<()>>,
    ask: Option<Box<dyn FnOnce() + Send>>,
    hurry: Option<Box<dyn FnOnce() + Send>>,
    give_up: Option<Box<dyn FnOnce() + Send>>,
    dealt_with: Option<Box<dyn Fn() -> u64 + Send>>,
    /// Whether the start was abandoned at its deadline.
    abandoned: bool,
    /// Whether the symbol is ending by itself.
    ending: bool,
    /// Whether the symbol has ended.
    over: bool,
}

impl Cell {
    fn lock(&self) -> MutexGuard<'_, SymbolState> {
        lock(&self.0)
    }
}

/// The reports of a symbol's thread to the control thread.
pub(super) struct Progress {
    cell: Arc<Cell>,
    bell: Arc<Bell>,
}

impl Progress {
    /// Reports that the symbol waits for its engine; `interrupt` ends that wait
    /// when the start is abandoned.
    pub(super) fn waits(&self, interrupt: impl FnOnce() + Send + 'static) {
        let mut state = self.cell.lock();
        if state.abandoned {
            drop(state);
            interrupt();
        } else {
            state.ask = Some(Box::new(interrupt));
        }
    }

    /// Reports that the symbol runs. Returns false if the start was abandoned:
    /// the symbol must end immediately.
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

    /// Reports that the symbol is ending by itself.
    pub(super) fn ending(&self) {
        self.cell.lock().ending = true;
    }

    fn over(&self, outcome: Result<()>) {
        let mut state = self.cell.lock();
        state.over = true;
        match (&state.started, outcome) {
            (None, outcome) => {
                let nothing = || "the symbol ended while it was starting, without an error".into();
                state.started = Some(Err(outcome.err().unwrap_or_else(nothing)));
            }
            (Some(_), Err(error)) => tracing::error!(error = text_of(&*error), "the symbol failed"),
            (Some(_), Ok(())) => {}
        }
        // Release the channels and the context now, and not with the next
        // start.
        let stopper = (state.ask.take(), state.hurry.take(), state.give_up.take(), state.dealt_with.take());
        drop(state);
        drop(stopper);
        self.bell.ring();
    }
}

/// The outcome of a start.
pub(super) enum Launched {
    Runs(Live),
    /// The symbol or the SDK refused the start.
    Refused(BoxError),
    /// The symbol did not start before its deadline, or before the plugin's
    /// shutdown.
    Late(Live),
}

/// Starts a symbol's thread and waits until the symbol runs.
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
        // Catches panics in destructors of the author's types as well.
        let outcome = catch_panic(|| body(&progress));
        progress.over(outcome);
    });
    if let Err(error) = spawn(name, run) {
        return Launched::Refused(format!("cannot start a thread: {error}").into());
    }
    bell.wait(deadline_after(patience), Heed::End, || cell.lock().started.is_some());
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
            // At shutdown the start was only interrupted.
            let hangs = !bell.is_ending();
            Launched::Late(Live { cell, bell: bell.clone(), hangs, drains: false })
        }
    }
}

impl Live {
    pub(super) fn is_over(&self) -> bool {
        self.cell.lock().over
    }

    /// Whether the symbol will end by itself.
    pub(super) fn is_ending(&self) -> bool {
        !self.hangs && (self.drains || self.cell.lock().ending)
    }

    /// Waits for the symbol's end, and returns whether it has ended.
    pub(super) fn await_end(&self, patience: Duration) -> bool {
        self.bell.wait(deadline_after(patience), Heed::End, || self.is_over())
    }

    fn dealt_with(&self) -> Option<u64> {
        self.cell.lock().dealt_with.as_ref().map(|dealt_with| dealt_with())
    }

    /// Asks the symbol to end after draining.
    pub(super) fn ask(&self) {
        // Taken under the lock and called outside of it.
        let ask = self.cell.lock().ask.take();
        ask.into_iter().for_each(|ask| ask());
    }

    /// Unblocks sends to a peer that does not read.
    fn hurry(&self) {
        let hurry = self.cell.lock().hurry.take();
        hurry.into_iter().for_each(|hurry| hurry());
    }

    /// Stops the symbol and discards the messages that are left.
    pub(super) fn give_up(&self) {
        self.ask();
        self.hurry();
        let give_up = self.cell.lock().give_up.take();
        give_up.into_iter().for_each(|give_up| give_up());
    }

    /// Stops the symbol. The engine waits for the answer, and so does every
    /// other symbol's start and stop: a sink that makes progress draining is
    /// therefore left to drain on its own.
    pub(super) fn stop(&mut self, patience: Duration) -> Stopped {
        let now = Instant::now();
        let before = self.dealt_with();
        self.ask();
        let done = || self.is_over() || self.dealt_with() != before;
        let ended = self.bell.wait(later(now, patience.mul_f64(GENTLY)), Heed::End, || self.is_over()) || {
            self.hurry();
            self.bell.wait(later(now, patience), Heed::End, done)
        };
        if ended {
            self.drains = !self.is_over();
            return if self.drains { Stopped::Drains } else { Stopped::Over };
        }
        // At shutdown, `stop_all` waits for the symbol again, with all others.
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
        crate::definition::Definition::new("test".into()).spawn
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
        assert_eq!(refused(|_| Ok(())), "the symbol ended while it was starting, without an error");
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
