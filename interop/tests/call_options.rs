//! Calls with deadlines, calls that may be made twice, calls that too many wait
//! before, and waits that are ended.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ekuiper_conformance::wait_until;
use ekuiper_host::{
    CallOptions, Error, ErrorKind, Function, FunctionMeta, Host, HostBuilder, PendingCall, PluginState, RestartPolicy,
};
use ekuiper_interop::guard::Watchdog;
use ekuiper_interop::plugins::{Ledger, OfficialPython};
use ekuiper_interop::random::Random;

ekuiper_interop::over_each_transport! {
    a_call_whose_deadline_passes_before_it_is_sent_is_not_executed,
    a_call_whose_deadline_passes_later_disturbs_no_other,
    the_time_of_an_answer_grows_with_the_batch,
    a_call_that_waits_for_another_has_its_whole_time,
    an_idempotent_call_is_made_once_more_after_a_crash,
    a_stopper_ends_every_wait,
    a_stopper_ends_waits_that_began_before_it_was_made,
    a_stopper_ends_waits_for_the_next_process,
    results_are_kept_when_a_later_batch_fails,
    many_calls_have_a_deadline_and_a_second_try,
    the_deadline_of_many_calls_is_no_other_callers,
    outcomes_are_handed_out_in_their_order,
    calls_that_wait_are_bounded,
    an_official_plugin_keeps_deadlines,
    functions_are_equal_when_they_call_the_same,
    drops_deadlines_and_crashes_disturb_no_other_call,
}

fn builder(transport: &str, ledger: &Ledger) -> HostBuilder {
    let builder = Host::builder().transport(transport).plugin(ledger.folder());
    builder.recv_timeout(Duration::from_secs(60)).send_timeout(Duration::from_secs(60))
}

fn with_ledger(transport: &str, test: impl Fn(&Host)) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let host = builder(transport, &ledger).build().unwrap();
    test(&host);
    host.shutdown();
}

/// What calls of `held` wait for.
struct Gate(tempfile::TempDir);

impl Gate {
    fn closed() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("open")
    }

    fn open(&self) {
        std::fs::write(self.path(), "").unwrap();
    }
}

/// A file that is there.
const OPEN: &str = "/";

/// Makes a call of `held`, and waits until it is being executed.
fn begin(host: &Host, held: &Function, number: u64, gate: &Gate) -> PendingCall<u64> {
    let before = Ledger::begun(host);
    let call = held.call_async((number, gate.path())).unwrap();
    wait_until("the call is executed", || Ledger::begun(host) > before);
    call
}

fn within(milliseconds: u64) -> CallOptions {
    CallOptions::new().deadline(Duration::from_millis(milliseconds))
}

fn a_call_whose_deadline_passes_before_it_is_sent_is_not_executed(transport: &str) {
    with_ledger(transport, |host| {
        let held = host.function("held").unwrap();
        let hurried = held.clone().with_options(within(50));
        // Behind a call of the same function.
        let gate = Gate::closed();
        let first = begin(host, &held, 1, &gate);
        let mut expired = hurried.call_async::<u64>((2, OPEN)).unwrap();
        let next = held.call_async::<u64>((3, OPEN)).unwrap();
        let error = futures::executor::block_on(&mut expired).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Expired);
        let text = error.to_string();
        assert!(["ledger", "held", "50ms", "was not called"].iter().all(|part| text.contains(part)), "{text}");
        // The same, waited for by a thread.
        let error = hurried.call::<u64>((4, OPEN)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Expired, "{error}");
        gate.open();
        assert_eq!((first.wait().unwrap(), next.wait().unwrap()), (1, 3));
        assert_eq!(Ledger::noted(host), [1, 3]);
        // Behind a call that holds the channel when they are about to be sent.
        let patient = held.clone().with_options(within(1500));
        let (gate, second) = (Gate::closed(), Gate::closed());
        let first = begin(host, &held, 5, &gate);
        std::thread::scope(|scope| {
            let blocking = scope.spawn(|| held.call::<u64>((6, second.path())).unwrap());
            std::thread::sleep(Duration::from_millis(100));
            let mut expired = patient.call_async::<u64>((7, OPEN)).unwrap();
            let next = held.call_async::<u64>((8, OPEN)).unwrap();
            gate.open();
            // Whether it is sent in time is up to the other thread.
            let result = futures::executor::block_on(&mut expired);
            second.open();
            assert_eq!((first.wait().unwrap(), blocking.join().unwrap(), next.wait().unwrap()), (5, 6, 8));
            let is_expired = result.is_err_and(|error| error.kind() == ErrorKind::Expired);
            assert_eq!(Ledger::noted(host).contains(&7), !is_expired);
        });
    });
}

fn a_call_whose_deadline_passes_later_disturbs_no_other(transport: &str) {
    with_ledger(transport, |host| {
        let held = host.function("held").unwrap();
        let hurried = held.clone().with_options(within(3000));
        for (number, is_future) in [(1, true), (3, false)] {
            let gate = Gate::closed();
            let late = begin(host, &hurried, number, &gate);
            let next = held.call_async::<u64>((number + 1, OPEN)).unwrap();
            let result = if is_future { futures::executor::block_on(late) } else { late.wait() };
            gate.open();
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
            assert!(error.to_string().contains("within 3s"), "{error}");
            assert_eq!(next.wait().unwrap(), number + 1);
        }
        assert_eq!(Ledger::noted(host), [1, 2, 3, 4]);
        // The answer is late, and the call had no deadline.
        let hurried = held.clone().with_options(CallOptions::new().answer_within(Duration::from_millis(300)));
        let gate = Gate::closed();
        let late = hurried.call_async::<u64>((5, gate.path())).unwrap();
        let next = held.call_async::<u64>((6, OPEN)).unwrap();
        let error = late.wait().unwrap_err();
        gate.open();
        assert!(error.kind() == ErrorKind::Timeout && error.to_string().contains("within 300ms"), "{error}");
        assert_eq!(next.wait().unwrap(), 6);
    });
}

fn the_time_of_an_answer_grows_with_the_batch(transport: &str) {
    with_ledger(transport, |host| {
        let slow = host.function("slow").unwrap();
        let options = CallOptions::new().answer_within(Duration::from_millis(500)).per_row(Duration::from_secs(5));
        let patient = slow.clone().with_options(options);
        // The first is in flight while the others are made.
        let calls: Vec<_> = (2..22u64).map(|number| patient.call_async::<u64>((number, 50)).unwrap()).collect();
        for (number, call) in (2..).zip(calls) {
            assert_eq!(call.wait().unwrap(), number);
        }
    });
}

fn a_call_that_waits_for_another_has_its_whole_time(transport: &str) {
    const WAIT: Duration = Duration::from_secs(4);
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let host = builder(transport, &ledger).recv_timeout(WAIT * 3 / 2).build().unwrap();
    let held = host.function("held").unwrap();
    let gates = [Gate::closed(), Gate::closed()];
    std::thread::scope(|scope| {
        let calls = [0, 1].map(|number| {
            let (held, gate) = (held.clone(), gates[number].path());
            let call = scope.spawn(move || held.call::<u64>((number, gate)));
            if number == 0 {
                wait_until("the first call is executed", || Ledger::begun(&host) == 1);
            }
            call
        });
        for gate in &gates {
            // Each call takes that long, and the second waits that long first.
            std::thread::sleep(WAIT);
            gate.open();
        }
        for (call, number) in calls.into_iter().zip(0..) {
            assert_eq!(call.join().unwrap().unwrap(), number);
        }
    });
    host.shutdown();
}

fn lines(file: &Path) -> usize {
    std::fs::read_to_string(file).unwrap().lines().count()
}

fn an_idempotent_call_is_made_once_more_after_a_crash(transport: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    with_ledger(transport, |host| {
        let once = host.function("crash_until").unwrap();
        let twice = once.clone().with_options(CallOptions::new().idempotent(true));
        let call = |function: &Function, name: &str, crashes: usize| {
            let _ = std::fs::remove_file(file(name));
            let result = function.call_async::<u64>((7, file(name), crashes)).unwrap().wait();
            host.reset("ledger").unwrap();
            (result, lines(&file(name)))
        };
        let (result, made) = call(&once, "a", 1);
        assert!(matches!(result, Err(Error::OutcomeUnknown { .. })) && made == 1, "{result:?} {made}");
        let (result, made) = call(&twice, "b", 1);
        assert!(matches!(result, Ok(7)) && made == 2, "{result:?} {made}");
        let (result, made) = call(&twice, "c", 100);
        assert!(matches!(result, Err(Error::OutcomeUnknown { .. })) && made == 2, "{result:?} {made}");
        // A blocking call, and others around it.
        let _ = std::fs::remove_file(file("d"));
        let after: Vec<_> = {
            let first = twice.call_async::<u64>((8, file("d"), 1usize)).unwrap();
            let after = (9..12u64).map(|number| twice.call_async::<u64>((number, file("d"), 1usize)).unwrap());
            std::iter::once(first).chain(after).collect()
        };
        assert_eq!(twice.call::<u64>((12, file("d"), 1)).unwrap(), 12);
        assert!(after.into_iter().map(|call| call.wait().unwrap()).eq(8..12));
        assert_eq!(Ledger::noted(host), [8, 9, 10, 11, 12]);
    });
}

fn a_stopper_ends_waits_that_began_before_it_was_made(transport: &str) {
    with_ledger(transport, |host| {
        let held = host.function("held").unwrap();
        let gate = Gate::closed();
        let before = Ledger::begun(host);
        std::thread::scope(|scope| {
            // One that is executed, and two that wait for its channel.
            let calls: Vec<_> = (0..3_u64)
                .map(|number| {
                    let (held, path) = (held.clone(), gate.path());
                    scope.spawn(move || held.call::<u64>((number, path)))
                })
                .collect();
            wait_until("one is executed", || Ledger::begun(host) > before);
            held.stopper().stop();
            for call in calls {
                assert!(matches!(call.join().unwrap(), Err(Error::Stopped)));
            }
        });
        gate.open();
        // Another handle of the same function is not stopped, and gets its own
        // answer.
        assert_eq!(host.function("held").unwrap().call::<u64>((7, gate.path())).unwrap(), 7);
    });
}

fn a_stopper_ends_waits_for_the_next_process(transport: &str) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let mut restart = RestartPolicy::default();
    (restart.first_pause, restart.max_pause) = (Duration::from_secs(3600), Duration::from_secs(3600));
    restart.break_after = 0;
    let builder = builder(transport, &ledger).send_timeout(Duration::from_secs(3600)).restart(restart);
    let host = builder.build().unwrap();
    let note = host.function("note").unwrap();
    // The first restart has no pause, and the second one an hour.
    let crash = host.function("crash").unwrap();
    for (restarts, next) in [(1, PluginState::Running), (1, PluginState::BackingOff)] {
        let _ = crash.call_async::<u8>((1,)).unwrap().wait();
        wait_until("the crash is handled", || {
            let status = host.status("ledger").unwrap();
            (status.restarts, status.state) == (restarts, next)
        });
    }
    std::thread::scope(|scope| {
        let call = scope.spawn(|| note.call::<u64>((1,)));
        let many = scope.spawn(|| note.call_many::<u64, _>((0..3_u64).map(|number| (number,))));
        let into = scope.spawn(|| note.call_many_into::<u64, _>([(1_u64,)], |_, _| {}));
        let pending = note.call_async::<u64>((1,)).unwrap();
        let awaited = scope.spawn(move || pending.wait());
        std::thread::sleep(Duration::from_millis(50));
        note.stopper().stop();
        let called = call.join().unwrap();
        assert!(matches!(called, Err(Error::Stopped)), "{called:?}");
        assert!(matches!(*many.join().unwrap().unwrap_err().error, Error::Stopped));
        assert!(matches!(into.join().unwrap(), Err(Error::Stopped)));
        assert!(matches!(awaited.join().unwrap(), Err(Error::Stopped)));
    });
    host.shutdown();
}

fn a_stopper_ends_every_wait(transport: &str) {
    with_ledger(transport, |host| {
        let held = host.function("held").unwrap();
        let other = host.function("held").unwrap();
        let stopper = held.stopper();
        let (before, gate) = (Ledger::begun(host), Gate::closed());
        std::thread::scope(|scope| {
            let blocking = scope.spawn(|| held.call::<u64>((1, gate.path())));
            wait_until("the call is executed", || Ledger::begun(host) > before);
            let pending: Vec<_> = (2..5u64).map(|number| held.call_async::<u64>((number, OPEN)).unwrap()).collect();
            let tasks = scope.spawn(|| futures::executor::block_on(futures::future::join_all(pending)));
            let queued = scope.spawn(|| held.clone().with_options(within(60_000)).call::<u64>((5, OPEN)));
            std::thread::sleep(Duration::from_millis(100));
            stopper.stop();
            for result in tasks.join().unwrap().into_iter().chain([blocking.join().unwrap(), queued.join().unwrap()]) {
                assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
            }
            // None of them has waited for the call that is executed.
            gate.open();
        });
        assert!(matches!(held.call::<u64>((6, OPEN)), Err(Error::Stopped)));
        assert!(matches!(held.call_async::<u64>((6, OPEN)), Err(Error::Stopped)));
        assert_eq!(other.call::<u64>((7, OPEN)).unwrap(), 7);
        assert_eq!(Ledger::noted(host), [1, 7]);
    });
}

fn results_are_kept_when_a_later_batch_fails(transport: &str) {
    let folder = tempfile::tempdir().unwrap();
    with_ledger(transport, |host| {
        let crash = host.function("crash_until").unwrap().with_options(CallOptions::new().batch_rows(10));
        let files = ["a", "b"].map(|name| folder.path().join(name));
        let _ = files.each_ref().map(std::fs::remove_file);
        // It crashes in the third batch.
        let file = |row: u64| if row == 25 { files[0].clone() } else { "/dev/null".into() };
        let crashes = |row: u64| usize::from(row == 25) * 100;
        let error = crash.call_many::<u64, _>((0..100).map(|row| (row, file(row), crashes(row)))).unwrap_err();
        assert!(matches!(*error.error, Error::OutcomeUnknown { .. }), "{error:?}");
        assert!(error.outcomes.into_iter().eq((0..20).map(Ok)));
        host.reset("ledger").unwrap();
        // An argument cannot be encoded, and what is in flight then is kept.
        let echo = host.function("note").unwrap().with_options(CallOptions::new().batch_rows(10));
        let rows = (0..100).map(|row| (if row == 25 { f64::NAN } else { f64::from(row) },));
        let error = echo.call_many::<u64, _>(rows).unwrap_err();
        assert_eq!((error.outcomes.len(), Error::from(error).kind()), (20, ErrorKind::Message));
    });
}

fn many_calls_have_a_deadline_and_a_second_try(transport: &str) {
    let folder = tempfile::tempdir().unwrap();
    with_ledger(transport, |host| {
        let file = folder.path().join("once");
        let _ = std::fs::remove_file(&file);
        let options = CallOptions::new().batch_rows(3).idempotent(true);
        let crash = host.function("crash_until").unwrap().with_options(options);
        let rows =
            (0..9u64).map(|row| (row, if row == 4 { &*file } else { Path::new("/dev/null") }, usize::from(row == 4)));
        assert!(crash.call_many::<u64, _>(rows).unwrap().into_iter().eq((0..9).map(Ok)));
        assert_eq!(lines(&file), 2);
        host.reset("ledger").unwrap();
        // The deadline passes in the second batch.
        let (held, gate) = (host.function("held").unwrap(), Gate::closed());
        let rows = || (0..9u64).map(|row| (row, if row == 4 { gate.path() } else { OPEN.into() }));
        let hurried = held.clone().with_options(within(1000).batch_rows(3));
        let error = hurried.call_many::<u64, _>(rows()).unwrap_err();
        assert!([ErrorKind::Timeout, ErrorKind::Expired].contains(&error.error.kind()), "{error:?}");
        assert!(
            error.outcomes.iter().cloned().eq((0..error.outcomes.len() as u64).map(Ok)) && error.outcomes.len() <= 3
        );
        // It is stopped there.
        let (stopper, before) = (held.stopper(), Ledger::begun(host));
        std::thread::scope(|scope| {
            let many = scope.spawn(|| held.call_many::<u64, _>(rows()).unwrap_err());
            std::thread::sleep(Duration::from_millis(100));
            stopper.stop();
            assert_eq!(many.join().unwrap().error.kind(), ErrorKind::Stopped);
        });
        assert!(Ledger::begun(host) >= before);
        gate.open();
    });
}

fn outcomes_are_handed_out_in_their_order(transport: &str) {
    with_ledger(transport, |host| {
        let word = host.function("word").unwrap();
        for options in [CallOptions::new(), CallOptions::new().batch_rows(7)] {
            let (mut rows, mut places) = (0, HashSet::new());
            let word = word.clone().with_options(options);
            let handed = word.call_many_into::<String, _>((0..1000u64).map(|number| (number,)), |row, outcome| {
                assert_eq!(row, rows);
                rows += 1;
                match outcome {
                    Ok(text) => {
                        assert!(row % 10 != 3 && *text == format!("{row:04} \"ü\""), "{row}: {text}");
                        places.insert(text.as_ptr().addr());
                    }
                    Err(text) => assert!(row % 10 == 3 && text == format!("{row} is unlucky"), "{row}: {text}"),
                }
            });
            handed.unwrap();
            assert_eq!((rows, places.len()), (1000, 1), "each text has the memory of the one before");
        }
    });
    OfficialPython::run(transport, |plugin, host| {
        let revert = host.function(&plugin.symbol("revert")).unwrap();
        let mut got = Vec::new();
        let each = |row: usize, outcome: Result<&String, &str>| got.push((row, outcome.unwrap().clone()));
        revert.call_many_into([("ab",), ("cd",)], each).unwrap();
        assert_eq!(got, [(0, "ba".to_owned()), (1, "dc".to_owned())]);
    });
}

fn calls_that_wait_are_bounded(transport: &str) {
    const LIMIT: usize = 1 << 20;
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let host = builder(transport, &ledger).call_queue(LIMIT).build().unwrap();
    let (held, long) = (host.function("held").unwrap(), "x".repeat(10_000));
    for round in 0..2 {
        let gate = Gate::closed();
        let first = begin(&host, &held, 1, &gate);
        let mut made = Vec::new();
        let error = loop {
            // The function fails; what counts is the length of the argument.
            match held.call_async::<u64>((&long, OPEN)) {
                Ok(call) => made.push(call),
                Err(error) => break error,
            }
            assert!(made.len() < 1000, "as many as one likes");
        };
        assert_eq!(error.kind(), ErrorKind::QueueFull);
        assert!(error.to_string().contains("1048576 bytes"), "{error}");
        assert!((90..=106).contains(&made.len()), "{}", made.len());
        // The limit is the host's.
        let other = host.function("note").unwrap();
        assert_eq!(other.call_async::<u64>((1,)).unwrap_err().kind(), ErrorKind::QueueFull);
        gate.open();
        assert_eq!(first.wait().unwrap(), 1);
        // Dropped or answered, they make room.
        if round == 0 {
            made.clear();
        }
        assert!(made.into_iter().all(|call| call.wait().unwrap_err().kind() == ErrorKind::Function));
    }
    host.shutdown();
}

fn the_deadline_of_many_calls_is_no_other_callers(transport: &str) {
    with_ledger(transport, |host| {
        let of_rule = |rule: u64| {
            let meta = FunctionMeta { rule_id: format!("r{rule}"), op_id: "op".into(), ..FunctionMeta::default() };
            host.function("slow").unwrap().with_meta(meta)
        };
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for rule in 0..3 {
                let (hurried, is_over) = (of_rule(rule), &is_over);
                scope.spawn(move || {
                    let mut random = Random(rule);
                    while !is_over.load(Ordering::Relaxed) {
                        let options =
                            CallOptions::new().batch_rows(3).deadline(Duration::from_millis(random.below(20)));
                        let _ =
                            hurried.clone().with_options(options).call_many::<u64, _>((0..9u64).map(|row| (row, 1)));
                    }
                });
            }
            let callers = (3..6).map(|rule| {
                let patient = of_rule(rule);
                scope.spawn(move || {
                    for number in 0..80u64 {
                        assert_eq!(patient.call_async::<u64>((number, 1)).unwrap().wait().unwrap(), number);
                    }
                })
            });
            let ends: Vec<_> = callers.collect::<Vec<_>>().into_iter().map(|caller| caller.join()).collect();
            is_over.store(true, Ordering::Relaxed);
            assert!(ends.iter().all(Result::is_ok), "a call has expired that had no deadline");
        });
    });
}

fn an_official_plugin_keeps_deadlines(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let revert = host.function(&plugin.symbol("revert")).unwrap();
        let options = CallOptions::new().deadline(Duration::from_secs(60)).idempotent(true).batch_rows(3);
        let revert = revert.with_options(options);
        assert_eq!(revert.call::<String>(("ab",)).unwrap(), "ba");
        let calls: Vec<_> =
            (0..20).map(|number| revert.call_async::<String>((format!("{number:02}"),)).unwrap()).collect();
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(call.wait().unwrap(), format!("{number:02}").chars().rev().collect::<String>());
        }
        let hurried = revert.with_options(within(0));
        assert_eq!(hurried.call::<String>(("ab",)).unwrap_err().kind(), ErrorKind::Expired);
    });
}

fn functions_are_equal_when_they_call_the_same(transport: &str) {
    with_ledger(transport, |host| {
        let function = |symbol| host.function(symbol).unwrap();
        let of_rule = |rule: &str| FunctionMeta { rule_id: rule.into(), ..FunctionMeta::default() };
        let note = function("note");
        assert_eq!(note, function("note"));
        assert_eq!(note, note.clone());
        assert_ne!(note, function("slow"));
        assert_ne!(note, note.clone().with_meta(of_rule("a")));
        assert_eq!(note.clone().with_meta(of_rule("a")), function("note").with_meta(of_rule("a")));
        assert_ne!(note, note.clone().with_options(within(1)));
        let all = [note.clone(), function("note"), function("slow"), note.clone().with_meta(of_rule("a"))];
        assert_eq!(HashSet::from(all).len(), 3);
    });
}

/// What became of calls.
#[derive(Default)]
struct Outcomes {
    answered: HashSet<u64>,
    expired: HashSet<u64>,
}

impl Outcomes {
    fn note(&mut self, number: u64, result: Result<u64, Error>) {
        match result {
            Ok(answer) => {
                assert_eq!(answer, number, "the answer of another call");
                self.answered.insert(number);
            }
            Err(error) => match error.kind() {
                ErrorKind::Expired => drop(self.expired.insert(number)),
                ErrorKind::Timeout | ErrorKind::OutcomeUnknown => {}
                _ => panic!("{number}: {error}"),
            },
        }
    }
}

/// Each future is dropped before its first poll, after some, or never, with a
/// deadline or none, while processes are killed.
fn drops_deadlines_and_crashes_disturb_no_other_call(transport: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("executed");
    with_ledger(transport, |host| {
        let _ = std::fs::remove_file(&file);
        let patient = host.function("crash_until").unwrap();
        let hurried = patient.clone().with_options(within(2));
        let (mut random, mut outcomes, mut kept) = (Random(7), Outcomes::default(), Vec::new());
        futures::executor::block_on(async {
            for number in 0..10_000u64 {
                let function = if random.below(3) == 0 { &hurried } else { &patient };
                let mut call = function.call_async::<u64>((number, &*file, 0)).unwrap();
                match random.below(4) {
                    0 => drop(call),
                    1 => {
                        for _ in 0..=random.below(3) {
                            if let Some(result) = futures::FutureExt::now_or_never(&mut call) {
                                outcomes.note(number, result);
                                break;
                            }
                        }
                    }
                    2 => outcomes.note(number, call.await),
                    _ => kept.push((number, call)),
                }
                if number % 1000 == 500 {
                    let pid = host.pid("ledger").and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
                    if let Some(pid) = pid {
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    }
                    host.reset("ledger").unwrap();
                }
                if random.below(50) == 0 {
                    for (number, call) in kept.drain(..) {
                        outcomes.note(number, call.await);
                    }
                }
            }
            for (number, call) in kept {
                outcomes.note(number, call.await);
            }
        });
        // The last answer comes after all that was executed.
        assert_eq!(patient.call::<u64>((10_000, &*file, 0)).unwrap(), 10_000);
        let text = std::fs::read_to_string(&file).unwrap();
        let executed: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        for pair in executed.windows(2) {
            assert!(pair[0] < pair[1], "each at most once, and in order: {pair:?}");
        }
        let executed: HashSet<_> = executed.into_iter().collect();
        assert!(outcomes.answered.is_subset(&executed), "what was answered was executed");
        assert!(outcomes.expired.is_disjoint(&executed), "what was not sent was not executed");
        assert!(outcomes.answered.len() > 1000 && executed.len() < 10_000, "{}", outcomes.answered.len());
    });
}
