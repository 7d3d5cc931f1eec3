//! Stress of one transport: sockets that are closed, dropped, made anew and
//! used with every kind of deadline, from several threads at once, with
//! messages of random lengths.
//!
//! A case is a sequence of rounds, each drawn from a seed. A failure prints the
//! seed of its round, and `EKUIPER_STRESS_SEED` begins with that round.
//! Threads run as the system lets them: a seed repeats what is tried, not the
//! interleaving. `EKUIPER_STRESS_SECONDS` is the time for each case.

pub mod messages;
pub mod requests;

mod body;
mod ledger;
mod pulling;
mod pushing;
mod replying;
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

/// Time for each case in an ordinary run of all tests.
const USUAL: Duration = Duration::from_secs(2);

/// Threads that a transport may start later than in the first round, for the
/// whole process. What each round left behind would soon be more.
const MORE_THREADS: usize = 1;

/// The seed of the round under way, for whoever panics.
static SEED: AtomicU64 = AtomicU64::new(0);

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no whole number: {text}")))
}

/// Time that a case of this suite takes besides its last round.
pub(crate) fn length() -> Duration {
    variable("EKUIPER_STRESS_SECONDS").map_or(USUAL, Duration::from_secs)
}

/// [`messages::stress_of_pushes_that_dial`] of a transport whose connections
/// may end by themselves.
pub fn pushes_that_dial(f: &Fixture) {
    repeat(f, Strictness::Lenient, messages::round_of_pushes_that_dial);
}

/// [`messages::stress_of_pushes_that_listen`] of such a transport.
pub fn pushes_that_listen(f: &Fixture) {
    repeat(f, Strictness::Lenient, messages::round_of_pushes_that_listen);
}

/// [`requests::stress_of_requests_and_replies`] of such a transport.
pub fn requests_and_replies(f: &Fixture) {
    repeat(f, Strictness::Lenient, requests::round);
}

/// What a transport keeps of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strictness {
    /// All of it.
    Strict,
    /// Connections may end by themselves, with what was under way on them, and
    /// leave descriptors behind. All the rest must hold: whole messages in
    /// order, none twice and none that was refused, every deadline, every
    /// closing, and service that comes back.
    Lenient,
}

/// Runs rounds for the configured time, in a process of its own, where a panic
/// of any thread, descriptors and threads can be attributed to them.
fn repeat(f: &Fixture, strictness: Strictness, round: fn(&Fixture, Strictness, &mut Rng)) {
    f.alone_for(length() + 4 * PATIENCE, |f| {
        let by_time = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let first = variable("EKUIPER_STRESS_SEED").unwrap_or_else(by_time);
        // No thread outlives a failure: some may hang.
        std::panic::set_hook(Box::new(fail));
        let until = Instant::now() + length();
        let mut rounds = 0;
        let mut kept = None;
        while Instant::now() < until || rounds < 2 {
            let seed = first.wrapping_add(rounds);
            SEED.store(seed, Ordering::SeqCst);
            watch(|| round(f, strictness, &mut Rng::new(seed)));
            rounds += 1;
            // The first round makes what a process keeps.
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

/// Runs a round, which must end.
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

/// Closes a socket, now and then from two threads at once, which must end what
/// `threads` do with it.
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
    // The test harness keeps what the macros print to itself.
    let _ = writeln!(
        std::io::stderr().lock(),
        "{name}: {panic}\nthe round's seed: EKUIPER_STRESS_SEED={seed} begins with it"
    );
    std::process::exit(101);
}
