//! Calls that are cancelled at the plugin: those that were sent, and whose
//! results are not wanted any more.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ekuiper_conformance::wait_until;
use ekuiper_host::{CallOptions, Error, ErrorKind, Format, Function, Host, PendingCall, SymbolErrors, SymbolHealth};
use ekuiper_interop::guard::Watchdog;
use ekuiper_interop::plugins::Ledger;
use ekuiper_interop::runtimes::on_each_runtime;
use ekuiper_interop::tools;
use rustix::process::Signal;
use serde_json::json;

ekuiper_interop::over_each_transport_of_ours! {
    a_call_that_was_not_sent_is_not_executed,
    a_dropped_call_learns_of_it_while_it_runs,
    of_a_batch_only_the_wanted_rows_are_executed,
    deadlines_and_stoppers_cancel,
    many_calls_are_cancelled_together,
    a_start_that_takes_long_holds_up_no_drop,
    the_next_process_cancels_nothing_of_the_former,
    a_batch_that_is_sent_again_is_cancelled_by_its_own_rows,
    a_cancelled_call_has_not_failed,
    a_plugin_that_hangs_with_a_cancel_is_replaced,
    calls_of_a_pool_are_cancelled,
}

mod in_python {
    ekuiper_interop::over_each_transport! { python_code_learns_of_it_while_it_runs }
    use super::python_code_learns_of_it_while_it_runs;
}

/// Longer than a test may take.
const FOREVER: u64 = 3_600_000_000;

fn with_ledger(transport: &str, test: impl Fn(&Host)) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let forever = Duration::from_secs(3600);
    for format in [Format::MessagePack, Format::Json] {
        let host = Host::builder().transport(transport).plugin(ledger.folder()).format(format);
        let host = host.recv_timeout(forever).send_timeout(forever).build().unwrap();
        test(&host);
        host.shutdown();
    }
}

/// Polls a call once.
fn poll(call: &mut PendingCall<u64>) -> Poll<Result<u64, Error>> {
    Pin::new(call).poll(&mut Context::from_waker(Waker::noop()))
}

/// Makes a call of `patient`, and waits until it is being executed.
fn begin(host: &Host, patient: &Function, number: u64) -> PendingCall<u64> {
    let before = Ledger::begun(host);
    let call = patient.call_async((number, FOREVER)).unwrap();
    await_begin(host, before);
    call
}

fn await_begin(host: &Host, before: u64) {
    wait_until("the call is executed", || Ledger::begun(host) > before);
}

fn a_call_that_was_not_sent_is_not_executed(transport: &str) {
    with_ledger(transport, |host| {
        let patient = host.function("patient").unwrap();
        let first = begin(host, &patient, 1);
        let mut calls: Vec<_> = (2..12u64).map(|number| patient.call_async::<u64>((number, 0)).unwrap()).collect();
        assert!(calls.iter_mut().all(|call| poll(call).is_pending()));
        let last = patient.call_async::<u64>((12, 0)).unwrap();
        drop(calls);
        drop(first);
        assert_eq!(last.wait().unwrap(), 12);
        assert_eq!((Ledger::cancelled(host), Ledger::noted(host)), (vec![1], vec![12]));
    });
}

fn a_dropped_call_learns_of_it_while_it_runs(transport: &str) {
    with_ledger(transport, |host| {
        let patient = host.function("patient").unwrap();
        on_each_runtime(async |runtime| {
            let before = Ledger::cancelled(host).len();
            // Polled, and not polled.
            for number in 0..10u64 {
                let mut call = begin(host, &patient, number);
                assert!(number % 2 == 0 || poll(&mut call).is_pending());
                drop(call);
                let next = patient.call_async::<u64>((number + 100, 0)).unwrap();
                assert_eq!(next.await.unwrap(), number + 100, "{runtime}");
            }
            assert_eq!(Ledger::cancelled(host)[before..], (0..10).collect::<Vec<_>>(), "{runtime}");
        });
        let kept: Vec<u64> = (0..4).flat_map(|_| 100..110).collect();
        assert_eq!(Ledger::noted(host), kept);
    });
}

fn of_a_batch_only_the_wanted_rows_are_executed(transport: &str) {
    with_ledger(transport, |host| {
        let patient = host.function("patient").unwrap();
        // Some are dropped before the batch is sent, so that its rows are not
        // its calls.
        for left_out in [0, 7] {
            let (noted, cancelled) = (Ledger::noted(host).len(), Ledger::cancelled(host).len());
            let gathering = begin(host, &patient, 5000);
            let before = Ledger::begun(host);
            let calls: Vec<_> = (0..1000u64)
                .map(|row| patient.call_async::<u64>((row, if row == left_out { FOREVER } else { 0 })).unwrap())
                .collect();
            let mut calls: Vec<_> = calls.into_iter().map(Some).collect();
            calls[..left_out as usize].fill_with(|| None);
            drop(gathering);
            await_begin(host, before);
            let is_wanted = |row: u64| row > left_out && row.is_multiple_of(2);
            // The one that is executed last: it ends after all were cancelled.
            for row in (left_out..1000).rev().filter(|row| !is_wanted(*row)) {
                calls[row as usize] = None;
            }
            for (row, call) in calls.into_iter().enumerate() {
                if let Some(call) = call {
                    assert_eq!(call.wait().unwrap(), row as u64);
                }
            }
            let wanted: Vec<_> = (0..1000).filter(|row| is_wanted(*row)).collect();
            assert_eq!(Ledger::noted(host)[noted..], wanted);
            assert_eq!(Ledger::cancelled(host)[cancelled..], [5000, left_out]);
        }
    });
}

fn deadlines_and_stoppers_cancel(transport: &str) {
    with_ledger(transport, |host| {
        let patient = host.function("patient").unwrap();
        let within = Duration::from_millis(100);
        for (number, options) in
            [(1, CallOptions::new().deadline(within)), (2, CallOptions::new().answer_within(within))]
        {
            let hurried = patient.clone().with_options(options);
            // By a thread that waits, and by none.
            let error = hurried.call::<u64>((number, FOREVER)).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Expired), "{error}");
            let error = futures::executor::block_on(hurried.call_async::<u64>((number, FOREVER)).unwrap()).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Expired), "{error}");
            assert_eq!(patient.call::<u64>((number, 0)).unwrap(), number);
        }
        let stopped = host.function("patient").unwrap();
        let stopper = stopped.stopper();
        let call = begin(host, &stopped, 3);
        stopper.stop();
        assert!(matches!(call.wait(), Err(Error::Stopped)));
        assert_eq!(patient.call::<u64>((3, 0)).unwrap(), 3);
        // A call may have expired before it was begun.
        assert_eq!(Ledger::cancelled(host).last(), Some(&3));
        assert_eq!(Ledger::noted(host), [1, 2, 3]);
    });
}

fn many_calls_are_cancelled_together(transport: &str) {
    with_ledger(transport, |host| {
        let patient = host.function("patient").unwrap();
        let rows = |first: u64| (first..first + 50).map(|number| (number, FOREVER));
        for (number, options) in [
            (0, CallOptions::new().deadline(Duration::from_millis(300))),
            (50, CallOptions::new().answer_within(Duration::from_millis(300))),
        ] {
            let hurried = patient.clone().with_options(options);
            let error = Error::from(hurried.call_many::<u64, _>(rows(number)).unwrap_err());
            assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Expired), "{error}");
            assert_eq!(patient.call::<u64>((number, 0)).unwrap(), number);
        }
        let stopped = host.function("patient").unwrap();
        let (stopper, before) = (stopped.stopper(), Ledger::begun(host));
        std::thread::scope(|scope| {
            let calls = scope.spawn(|| stopped.call_many::<u64, _>(rows(100)));
            await_begin(host, before);
            stopper.stop();
            assert!(matches!(*calls.join().unwrap().unwrap_err().error, Error::Stopped));
        });
        assert_eq!(patient.call::<u64>((100, 0)).unwrap(), 100);
        // The rows that had not begun were skipped.
        let cancelled = Ledger::cancelled(host);
        assert!(cancelled.iter().all(|number| [0, 50, 100].contains(number)), "{cancelled:?}");
        assert_eq!((cancelled.last(), Ledger::noted(host)), (Some(&100), vec![0, 50, 100]));
        // The caller does not read on.
        let before = Ledger::cancelled(host).len();
        let two = patient.clone().with_options(CallOptions::new().batch_rows(1));
        let rows = [(json!(7), json!(0)), (json!(8), json!(FOREVER))];
        let is_text = two.call_many_into::<String, _>(rows, |_, _| {});
        assert_eq!(is_text.unwrap_err().kind(), ErrorKind::Message, "a number is no text");
        assert_eq!(patient.call::<u64>((9, 0)).unwrap(), 9);
        assert!(Ledger::cancelled(host)[before..].iter().all(|number| *number == 8));
    });
}

fn a_start_that_takes_long_holds_up_no_drop(transport: &str) {
    with_ledger(transport, |host| {
        let folder = tempfile::tempdir().unwrap();
        let gate = folder.path().join("gate");
        let patient = host.function("patient").unwrap();
        let call = begin(host, &patient, 1);
        // Functions that are used below cannot be started later.
        assert!(Ledger::cancelled(host).is_empty());
        let before = Ledger::begun(host);
        let opening = host.source("stuck").datasource(gate.display().to_string()).open_async();
        await_begin(host, before);
        // The control channel is in use until the gate is open.
        drop(call);
        let mut next = patient.call_async::<u64>((2, 0)).unwrap();
        assert!(poll(&mut next).is_pending());
        assert!(Ledger::cancelled(host).is_empty());
        std::fs::write(&gate, "").unwrap();
        assert_eq!(next.wait().unwrap(), 2);
        assert_eq!(Ledger::cancelled(host), [1]);
        let source: ekuiper_host::AsyncSource<serde_json::Value> = futures::executor::block_on(opening).unwrap();
        futures::executor::block_on(source.close()).unwrap();
    });
}

fn signal(host: &Host, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(host.pid("ledger").unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn the_next_process_cancels_nothing_of_the_former(transport: &str) {
    with_ledger(transport, |host| {
        let patient = host.function("patient").unwrap();
        for _ in 0..5 {
            let dropped = begin(host, &patient, 1);
            signal(host, Signal::KILL);
            drop(dropped);
            // They get the process's first batches.
            let calls: Vec<_> = (2..22u64).map(|number| patient.call_async::<u64>((number, 1000)).unwrap()).collect();
            for (number, call) in (2..).zip(calls) {
                match call.wait() {
                    Ok(result) => assert_eq!(result, number),
                    // They may have reached the process that was killed.
                    Err(Error::OutcomeUnknown { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(patient.call_async::<u64>((22, 1000)).unwrap().wait().unwrap(), 22);
            assert!(Ledger::cancelled(host).is_empty());
            host.reset("ledger").unwrap();
        }
    });
}

/// Row 0 of the first sending is dropped after the crash, so that the second one
/// has other rows.
fn a_batch_that_is_sent_again_is_cancelled_by_its_own_rows(transport: &str) {
    with_ledger(transport, |host| {
        let idempotent = CallOptions::new().idempotent(true);
        let patient = host.function("patient").unwrap().with_options(idempotent);
        let gathering = begin(host, &patient, 1);
        let before = Ledger::begun(host);
        let rows = [(2, FOREVER), (3, FOREVER), (4, 0), (5, FOREVER), (6, 0)];
        let calls = rows.map(|row| patient.call_async::<u64>(row).unwrap());
        drop(gathering);
        await_begin(host, before);
        let [first, second, third, fourth, fifth] = calls;
        // The other process executes the first of the batch.
        signal(host, Signal::KILL);
        drop(first);
        wait_until("the batch is executed again", || {
            host.pid("ledger").is_some()
                && host.function("begun").unwrap().call::<u64>((0,)).is_ok_and(|begun| begun > 0)
        });
        drop(fourth);
        drop(second);
        assert_eq!((third.wait().unwrap(), fifth.wait().unwrap()), (4, 6));
        assert_eq!(Ledger::noted(host), [4, 6]);
        assert!(Ledger::cancelled(host).ends_with(&[3]), "{:?}", Ledger::cancelled(host));
        host.reset("ledger").unwrap();
    });
}

/// What is counted of the calls of `patient`.
fn counted(host: &Host) -> SymbolHealth {
    let mut symbols = host.health().remove(0).symbols.into_iter();
    symbols.find(|symbol| symbol.name == "patient").unwrap()
}

fn a_cancelled_call_has_not_failed(transport: &str) {
    with_ledger(transport, |host| {
        let patient = host.function("patient").unwrap();
        drop(begin(host, &patient, 1));
        assert_eq!(patient.call_async::<u64>((2, 0)).unwrap().wait().unwrap(), 2);
        assert_eq!(Ledger::cancelled(host), [1]);
        let SymbolHealth { errors, last_error, queue, .. } = counted(host);
        assert_eq!((errors, queue), (SymbolErrors::default(), Some(0)));
        assert!(last_error.is_none(), "{last_error:?}");
    });
}

fn calls_of_a_pool_are_cancelled(transport: &str) {
    with_ledger(transport, |host| {
        for size in [1, 2] {
            let pool = host.function_pool("patient").size(size).open().unwrap();
            // All processes are kept busy, and one call more waits.
            let before = Ledger::begun(host);
            let calls: Vec<_> = (0..=size as u64).map(|_| pool.call_async::<u64>((1, FOREVER)).unwrap()).collect();
            await_begin(host, before);
            drop(calls);
            let results: Vec<_> = (2..42u64).map(|number| pool.call_async::<u64>((number, 0)).unwrap()).collect();
            assert!(results.into_iter().map(|call| call.wait().unwrap()).eq(2..42));
            // A stopper as well.
            let before = Ledger::begun(host);
            let call = pool.call_async::<u64>((1, FOREVER)).unwrap();
            // The second process may get it.
            if size == 1 {
                await_begin(host, before);
            }
            pool.stopper().stop();
            assert!(matches!(call.wait(), Err(Error::Stopped)));
            let other = host.function_pool("patient").size(size).open().unwrap();
            assert_eq!(other.call::<u64>((50, 0)).unwrap(), 50);
        }
    });
}

/// A command before the start is not answered either.
fn a_plugin_that_hangs_with_a_cancel_is_replaced(transport: &str) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let builder = Host::builder().transport(transport).plugin(ledger.folder());
    let host = builder.init_timeout(Duration::from_secs(8)).build().unwrap();
    let patient = host.function("patient").unwrap();
    let dropped = begin(&host, &patient, 1);
    signal(&host, Signal::STOP);
    drop(dropped);
    let open = || host.source("stuck").datasource("/").open();
    let mut errors = Vec::new();
    let source = loop {
        match open() {
            Ok(source) => break source,
            Err(error) => errors.push(error),
        }
        // The first waits for the plugin, and a later one replaces it.
        assert!(errors.len() < 3, "{errors:?}");
    };
    assert!(matches!(errors[0], Error::Timeout { .. }), "{errors:?}");
    assert_eq!(patient.call::<u64>((2, 0)).unwrap(), 2);
    source.close().unwrap();
    host.shutdown();
}

const PATIENT: &str = r#"
import time
from ekuiper import Context, Plugin

app = Plugin("serpent")
seen, begun, noted = [], [], []

@app.function
def patient(number: int, seconds: float, ctx: Context) -> int:
    begun.append(number)
    end = time.monotonic() + seconds
    # Python code without a wait, which holds the interpreter.
    while time.monotonic() < end:
        if ctx.is_cancelled():
            seen.append(number)
            raise RuntimeError("it was cancelled")
    noted.append(number)
    return number

@app.function(name="cancelled", aggregate=False)
def cancelled(n: int) -> list:
    return seen

@app.function(name="begun", aggregate=False)
def count(n: int) -> int:
    return len(begun)

@app.function(name="noted", aggregate=False)
def numbers(n: int) -> list:
    return noted

if __name__ == "__main__":
    app.run()
"#;

fn python_code_learns_of_it_while_it_runs(transport: &str) {
    let _watchdog = Watchdog::start();
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("serpent");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("serpent.py"), PATIENT).unwrap();
    let manifest = json!({
        "version": "v1.0.0",
        "language": "python",
        "executable": "serpent.py",
        "functions": ["patient", "cancelled", "begun", "noted"],
    });
    std::fs::write(folder.join("serpent.json"), manifest.to_string()).unwrap();
    let host = Host::builder()
        .transport(transport)
        .plugin(&folder)
        .python_bin(tools::our_python().display().to_string())
        .recv_timeout(Duration::from_secs(3600));
    let host = host.build().unwrap();
    let patient = host.function("patient").unwrap();
    let numbers = |what: &str| host.function(what).unwrap().call::<Vec<u64>>((0,)).unwrap();
    let begun = || host.function("begun").unwrap().call::<u64>((0,)).unwrap();
    for number in 0..3u64 {
        let before = begun();
        let dropped = patient.call_async::<u64>((number, 3600)).unwrap();
        wait_until("the call is executed", || begun() > before);
        // A batch behind it, of which every second row is dropped.
        let mut calls: Vec<_> = (10..30u64).map(|row| Some(patient.call_async::<u64>((row, 0)).unwrap())).collect();
        let first = patient.call_async::<u64>((100, 3600)).unwrap();
        drop(calls.split_off(20));
        drop(dropped);
        wait_until("the batch is executed", || numbers("noted").len() >= 20 * (number as usize + 1));
        let rest = patient.call_async::<u64>((200, 0)).unwrap();
        drop(first);
        for (row, call) in (10..).zip(calls) {
            assert_eq!(call.unwrap().wait().unwrap(), row);
        }
        assert_eq!(rest.wait().unwrap(), 200);
    }
    assert_eq!(numbers("cancelled"), [0, 100, 1, 100, 2, 100]);
    host.shutdown();
}
