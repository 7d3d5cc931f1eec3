//! Stress test of a transport: several threads close, drop, recreate and use
//! sockets with every kind of deadline and with messages of random lengths.
//!
//! A case is a sequence of rounds, each with a random seed. A failure prints
//! the seed of its round, and `EKUIPER_STRESS_SEED` starts with that round.
//! Threads are scheduled by the system: a seed repeats the operations, not
//! their interleaving. `EKUIPER_STRESS_SECONDS` is the time for each case.

pub mod messages;
pub mod requests;

mod body;
mod ledger;
mod message_stage;
mod pulling;
mod pushing;
mod replying;
mod request_stage;
mod requesting;
mod rng;
mod wait;

use std::io::Write;
use std::panic::PanicHookInfo;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant, SystemTime};

use rng::Rng;

use crate::contract::resources::descriptors;
use crate::{Fixture, PATIENCE, eventually};

/// Time for each case in an ordinary test run.
const USUAL: Duration = Duration::from_secs(2);

/// Number of threads that a transport may start after the first round, for the
/// whole process. A leak in each round would soon be larger.
const MORE_THREADS: usize = 1;

/// The seed of the current round, for the panic hook.
static SEED: AtomicU64 = AtomicU64::new(0);

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no whole number: {text}")))
}

/// Time that a case of this suite takes, without its last round.
pub(crate) fn length() -> Duration {
    variable("EKUIPER_STRESS_SECONDS").map_or(USUAL, Duration::from_secs)
}

/// Runs [`messages::stress_of_pushes_that_dial`] for a transport whose
/// connections may end spontaneously.
pub fn pushes_that_dial(f: &Fixture) {
    repeat(f, Strictness::Lenient, messages::round_of_pushes_that_dial);
}

/// Runs [`messages::stress_of_pushes_that_listen`] for such a transport.
pub fn pushes_that_listen(f: &Fixture) {
    repeat(f, Strictness::Lenient, messages::round_of_pushes_that_listen);
}

/// Runs [`requests::stress_of_requests_and_replies`] for such a transport.
pub fn requests_and_replies(f: &Fixture) {
    repeat(f, Strictness::Lenient, requests::round);
}

/// The extent to which a transport keeps the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strictness {
    /// The whole contract.
    Strict,
    /// Connections may end spontaneously, with messages in flight, and leave
    /// descriptors behind. Everything else must hold: whole messages in order,
    /// none twice and none that was refused, every deadline, every closing, and
    /// recovery.
    Lenient,
}

/// Runs rounds for the configured time in a process of its own, to which panics
/// of any thread, descriptors and threads can be attributed.
fn repeat(f: &Fixture, strictness: Strictness, round: fn(&Fixture, Strictness, &mut Rng)) {
    f.alone_for(length() + 4 * PATIENCE, |f| {
        let by_time = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let first = variable("EKUIPER_STRESS_SEED").unwrap_or_else(by_time);
        // A failure ends the process, since some threads may hang.
        std::panic::set_hook(Box::new(fail));
        let until = Instant::now() + length();
        let mut rounds = 0;
        let mut kept = None;
        while Instant::now() < until || rounds < 2 {
            let seed = first.wrapping_add(rounds);
            SEED.store(seed, Ordering::SeqCst);
            watch(|| round(f, strictness, &mut Rng::new(seed)));
            rounds += 1;
            // The first round creates what the process keeps.
            let (descriptors_kept, threads_kept) =
                *kept.get_or_insert_with(|| (descriptors(), threads() + MORE_THREADS));
            let are_back = strictness == Strictness::Lenient || eventually(|| descriptors() <= descriptors_kept);
            assert!(are_back, "more than {descriptors_kept} descriptors after the first round: {:?}", open_files());
            let are_gone = eventually(|| threads() <= threads_kept);
            assert!(are_gone, "more than {threads_kept} threads after the first round: {:?}", thread_names());
        }
        println!("{rounds} rounds from seed {first}");
    });
}

/// Runs a round, and asserts that it ends.
fn watch(round: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let running = scope.spawn(round);
        let give_up = Instant::now() + 3 * PATIENCE;
        while !running.is_finished() {
            assert!(Instant::now() < give_up, "the round hangs");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// Closes a socket, sometimes from two threads at once, and asserts that
/// `threads` end.
fn end(what: &str, rng: &mut Rng, close: impl Fn() + Sync, threads: &[ScopedJoinHandle<'_, ()>]) {
    std::thread::scope(|scope| {
        if rng.chance(30) {
            scope.spawn(&close);
        }
        close();
    });
    assert!(eventually(|| threads.iter().all(ScopedJoinHandle::is_finished)), "{what} goes on after the closing");
}

fn open_files() -> Vec<PathBuf> {
    let links =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.collect()
}

fn thread_names() -> Vec<String> {
    let names = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).collect()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

fn fail(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a thread without a name").to_owned();
    let seed = SEED.load(Ordering::SeqCst);
    // The test harness captures the output of the print macros.
    let _ = writeln!(
        std::io::stderr().lock(),
        "{name}: {panic}\nthe round's seed: EKUIPER_STRESS_SEED={seed} begins with it"
    );
    std::process::exit(101);
}
