//! Calls as futures, on three runtimes and on none: order, drops at any point,
//! crashes, and many at a time.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ekuiper_host::{Error, Format, Function, Host, PendingCall};
use ekuiper_interop::guard::Watchdog;
use ekuiper_interop::plugins::{Ledger, Mirror, OfficialPython};
use ekuiper_interop::random::Random;
use ekuiper_interop::runtimes::on_each_runtime;
use futures::future::{join_all, poll_fn};
use futures::stream::{FuturesUnordered, StreamExt};

ekuiper_interop::over_each_transport! {
    futures_complete_on_any_runtime,
    an_official_plugin_gets_one_call_after_the_other,
    calls_are_made_in_their_order_though_nobody_waits,
    a_call_that_was_not_sent_is_not_executed_once_it_is_dropped,
    dropped_calls_disturb_no_other,
    a_crash_ends_only_what_was_in_flight,
    calls_wait_for_the_next_process,
    a_crash_is_told_whoever_notices_it_first,
    a_late_answer_is_nobodys,
    a_shutdown_ends_every_future,
    blocking_and_async_callers_share_a_function,
}

fn with_mirror(transport: &str, test: impl Fn(&Host)) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    for format in [Format::Json, Format::MessagePack] {
        let host = Host::builder().transport(transport).plugin(mirror.folder()).format(format).build().unwrap();
        test(&host);
        host.shutdown();
    }
}

fn with_ledger(transport: &str, test: impl Fn(&Host)) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let host = Host::builder()
        .transport(transport)
        .plugin(ledger.folder())
        .recv_timeout(Duration::from_secs(20))
        .send_timeout(Duration::from_secs(20))
        .build()
        .unwrap();
    test(&host);
    host.shutdown();
}

/// Polls a future once, and returns its output if it has one.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_fn(|context| {
        Poll::Ready(match Pin::new(&mut *future).poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

/// Makes a call of `slow`, and waits until it is being executed.
fn begin_slow(host: &Host, number: u64, milliseconds: u64) -> PendingCall<u64> {
    let before = Ledger::begun(host);
    let call = host.function("slow").unwrap().call_async((number, milliseconds)).unwrap();
    let give_up = Instant::now() + Duration::from_secs(60);
    while Ledger::begun(host) == before {
        assert!(Instant::now() < give_up, "the call is not executed");
    }
    call
}

fn futures_complete_on_any_runtime(transport: &str) {
    with_mirror(transport, |host| {
        let echo = host.function("echo").unwrap();
        on_each_runtime(async |runtime| {
            assert_eq!(echo.call_async::<String>((runtime,)).unwrap().await.unwrap(), runtime);
            // One after the other.
            for number in 0..200 {
                assert_eq!(echo.call_async::<u32>((number,)).unwrap().await.unwrap(), number);
            }
            // All at once, and the last first.
            let calls: Vec<_> = (0..2000u32).map(|number| echo.call_async::<u32>((number,)).unwrap()).collect();
            for (number, call) in calls.into_iter().enumerate().rev() {
                assert_eq!(call.await.unwrap() as usize, number);
            }
            // As they come, and always more.
            let mut under_way = FuturesUnordered::new();
            let (mut made, mut sum) = (0u64, 0);
            while made < 5000 || !under_way.is_empty() {
                while made < 5000 && under_way.len() < 64 {
                    under_way.push(echo.call_async::<u64>((made,)).unwrap());
                    made += 1;
                }
                sum += under_way.next().await.unwrap().unwrap();
            }
            assert_eq!(sum, 4999 * 5000 / 2);
            // An error is the call's own.
            let revert = host.function("revert").unwrap();
            let calls = [Some("ab"), None, Some("cd")].map(|text| revert.call_async::<String>((text,)).unwrap());
            let results = join_all(calls).await;
            assert_eq!((results[0].as_deref().unwrap(), results[2].as_deref().unwrap()), ("ba", "dc"));
            assert!(matches!(results[1], Err(Error::Function { .. })), "{results:?}");
        });
        // Tasks on several threads.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
        runtime.block_on(async {
            let tasks = (0..50u64).map(|task| {
                let echo = echo.clone();
                tokio::spawn(async move {
                    for number in 0..100 {
                        let sent = task * 1000 + number;
                        assert_eq!(echo.call_async::<u64>((sent,)).unwrap().await.unwrap(), sent);
                    }
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await.unwrap();
            }
        });
    });
}

fn an_official_plugin_gets_one_call_after_the_other(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let revert = host.function(&plugin.symbol("revert")).unwrap();
        on_each_runtime(async |_| {
            let texts: Vec<_> = (0..50).map(|number| format!("text {number}")).collect();
            let results = join_all(texts.iter().map(|text| revert.call_async::<String>((text,)).unwrap())).await;
            for (text, result) in texts.iter().zip(results) {
                assert_eq!(result.unwrap(), text.chars().rev().collect::<String>());
            }
        });
        // It returns before the call does.
        let pending: Vec<_> = ["ab", "cd"].map(|text| revert.call_async::<String>((text,)).unwrap()).into();
        let results: Vec<_> = pending.into_iter().map(|call| call.wait().unwrap()).collect();
        assert_eq!(results, ["ba", "dc"]);
    });
}

fn calls_are_made_in_their_order_though_nobody_waits(transport: &str) {
    with_ledger(transport, |host| {
        let slow = host.function("slow").unwrap();
        let calls: Vec<_> = (0..20u64).map(|number| slow.call_async::<u64>((number, 5)).unwrap()).collect();
        let give_up = Instant::now() + Duration::from_secs(60);
        while Ledger::noted(host).len() < 20 {
            assert!(Instant::now() < give_up, "{:?}", Ledger::noted(host));
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(Ledger::noted(host), (0..20).collect::<Vec<_>>());
        // The last first: the results were kept.
        for (number, call) in calls.into_iter().enumerate().rev() {
            assert_eq!(call.wait().unwrap(), number as u64);
        }
    });
}

fn a_call_that_was_not_sent_is_not_executed_once_it_is_dropped(transport: &str) {
    with_ledger(transport, |host| {
        let slow = host.function("slow").unwrap();
        on_each_runtime(async |runtime| {
            let before = Ledger::noted(host).len();
            let first = begin_slow(host, 1, 200);
            // They wait for the first.
            let mut calls: Vec<_> = (10..20u64).map(|number| slow.call_async::<u64>((number, 0)).unwrap()).collect();
            for call in &mut calls {
                assert!(poll_once(call).await.is_none());
            }
            let kept: Vec<_> = calls.drain(..).enumerate().filter(|(row, _)| row % 3 == 1).collect();
            assert_eq!(first.await.unwrap(), 1);
            for (row, call) in kept {
                assert_eq!(call.await.unwrap(), 10 + row as u64);
            }
            assert_eq!(Ledger::noted(host)[before..], [1, 11, 14, 17], "{runtime}");
            // All of them.
            let first = begin_slow(host, 2, 100);
            drop((0..5).map(|number| slow.call_async::<u64>((number, 0)).unwrap()).collect::<Vec<_>>());
            assert_eq!(first.await.unwrap(), 2);
            assert_eq!(slow.call_async::<u64>((3, 0)).unwrap().await.unwrap(), 3);
            assert_eq!(Ledger::noted(host)[before + 4..], [2, 3], "{runtime}");
        });
    });
}

/// Each future is dropped before its first poll, after some, or never.
fn dropped_calls_disturb_no_other(transport: &str) {
    with_ledger(transport, |host| {
        let note = host.function("note").unwrap();
        let mut random = Random(7);
        let (mut next, mut answered) = (0u64, HashSet::new());
        futures::executor::block_on(async {
            let mut kept: Vec<(u64, PendingCall<u64>)> = Vec::new();
            for _ in 0..10_000 {
                let number = next;
                next += 1;
                let mut call = note.call_async::<u64>((number,)).unwrap();
                match random.below(4) {
                    0 => drop(call),
                    1 => {
                        for _ in 0..=random.below(3) {
                            if let Some(result) = poll_once(&mut call).await {
                                assert_eq!(result.unwrap(), number);
                                answered.insert(number);
                                break;
                            }
                        }
                    }
                    2 => {
                        assert_eq!(call.await.unwrap(), number);
                        answered.insert(number);
                    }
                    _ => kept.push((number, call)),
                }
                if random.below(50) == 0 {
                    for (number, call) in kept.drain(..) {
                        assert_eq!(call.await.unwrap(), number);
                        answered.insert(number);
                    }
                }
            }
            for (number, call) in kept {
                assert_eq!(call.await.unwrap(), number);
                answered.insert(number);
            }
        });
        // The last answer came after all that was executed.
        assert_eq!(note.call::<u64>((next,)).unwrap(), next);
        let noted = Ledger::noted(host);
        assert!(noted.is_sorted_by(|one, other| one < other), "each at most once, and in order");
        let executed: HashSet<_> = noted.into_iter().collect();
        assert!(answered.is_subset(&executed), "what was answered was executed");
        assert!(executed.len() < 10_000, "some were dropped in time");
    });
}

fn a_crash_ends_only_what_was_in_flight(transport: &str) {
    with_ledger(transport, |host| {
        let (slow, crash) = (host.function("slow").unwrap(), host.function("crash").unwrap());
        on_each_runtime(async |runtime| {
            let mut in_flight = begin_slow(host, 1, 60_000);
            assert!(poll_once(&mut in_flight).await.is_none());
            let waiting: Vec<_> = (2..5u64).map(|number| slow.call_async::<u64>((number, 0)).unwrap()).collect();
            let crashed = crash.call_async::<u8>((0,)).unwrap();
            let unknown = |error: &Error| matches!(error, Error::OutcomeUnknown { .. });
            let error = in_flight.await.unwrap_err();
            assert!(unknown(&error), "{runtime}: {error}");
            let error = crashed.await.unwrap_err();
            assert!(unknown(&error), "{runtime}: {error}");
            for (number, call) in (2..5).zip(waiting) {
                assert_eq!(call.await.unwrap(), number, "{runtime}");
            }
            host.reset("ledger").unwrap();
        });
    });
}

/// The host may end the channel before it has read the connection's end.
fn a_crash_is_told_whoever_notices_it_first(transport: &str) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    // Longer than a test may take.
    let forever = Duration::from_secs(3600);
    let builder = Host::builder().transport(transport).plugin(ledger.folder());
    let host = builder.recv_timeout(forever).send_timeout(forever).build().unwrap();
    for _ in 0..40 {
        let call = begin_slow(&host, 1, 60_000);
        let pid = rustix::process::Pid::from_raw(host.pid("ledger").unwrap() as i32).unwrap();
        let killer = std::thread::spawn(move || {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        });
        let error = futures::executor::block_on(call).unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
        killer.join().unwrap();
        host.reset("ledger").unwrap();
    }
    host.shutdown();
}

fn calls_wait_for_the_next_process(transport: &str) {
    with_ledger(transport, |host| {
        let note = host.function("note").unwrap();
        on_each_runtime(async |runtime| {
            let pid = rustix::process::Pid::from_raw(host.pid("ledger").unwrap() as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            let calls: Vec<_> = (0..100u64).map(|number| note.call_async::<u64>((number,)).unwrap()).collect();
            let mut lost = 0;
            for (number, call) in calls.into_iter().enumerate() {
                match call.await {
                    Ok(result) => assert_eq!(result, number as u64),
                    // The first may have reached the process that was killed.
                    Err(Error::OutcomeUnknown { .. }) => lost += 1,
                    Err(error) => panic!("{runtime}: {error}"),
                }
            }
            assert!(lost < 100, "{runtime}");
            let noted = Ledger::noted(host);
            assert_eq!(noted.len(), 100 - lost, "{runtime}");
            assert!(noted.is_sorted(), "{runtime}");
            host.reset("ledger").unwrap();
        });
    });
}

fn a_late_answer_is_nobodys(transport: &str) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let host = Host::builder()
        .transport(transport)
        .plugin(ledger.folder())
        .recv_timeout(Duration::from_millis(300))
        .send_timeout(Duration::from_secs(20))
        .build()
        .unwrap();
    let slow = host.function("slow").unwrap();
    on_each_runtime(async |runtime| {
        let late = begin_slow(&host, 1, 1000);
        let next = slow.call_async::<u64>((2, 0)).unwrap();
        let error = late.await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{runtime}: {error}");
        assert_eq!(next.await.unwrap(), 2, "{runtime}");
    });
    // The same without a future.
    let late = begin_slow(&host, 1, 1000);
    let next = slow.call_async::<u64>((2, 0)).unwrap();
    assert!(matches!(late.wait(), Err(Error::Timeout { .. })));
    assert_eq!(next.wait().unwrap(), 2);
    host.shutdown();
}

fn a_shutdown_ends_every_future(transport: &str) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    for runtime in [true, false] {
        let host = Host::builder().transport(transport).plugin(ledger.folder()).build().unwrap();
        let slow = host.function("slow").unwrap();
        let calls: Vec<_> = (0..10u64).map(|number| slow.call_async::<u64>((number, 60_000)).unwrap()).collect();
        let waits = std::thread::spawn(move || {
            if runtime {
                futures::executor::block_on(join_all(calls))
            } else {
                calls.into_iter().map(PendingCall::wait).collect()
            }
        });
        std::thread::sleep(Duration::from_millis(50));
        let start = Instant::now();
        host.shutdown();
        let results = waits.join().unwrap();
        assert!(results.iter().all(Result::is_err), "{results:?}");
        assert!(start.elapsed() < Duration::from_secs(30));
        assert!(matches!(slow.call_async::<u64>((1, 0)).unwrap().wait(), Err(Error::Stopped)));
    }
}

fn blocking_and_async_callers_share_a_function(transport: &str) {
    with_mirror(transport, |host| {
        let echo = host.function("echo").unwrap();
        let of_rule = |rule: &str| {
            let meta = ekuiper_host::FunctionMeta { rule_id: rule.into(), ..Default::default() };
            echo.clone().with_meta(meta)
        };
        let blocking = |function: Function| {
            (0..300u32).for_each(|number| assert_eq!(function.call::<u32>((number,)).unwrap(), number));
        };
        let many = |function: Function| {
            for _ in 0..20 {
                let results = function.call_many::<u32, _>((0..100u32).map(|number| (number,))).unwrap();
                assert!(results.into_iter().eq((0..100).map(Ok)));
            }
        };
        let tasks = |function: Function| {
            futures::executor::block_on(async {
                for _ in 0..100 {
                    let calls = (0..20u32).map(|number| function.call_async::<u32>((number,)).unwrap());
                    let results = join_all(calls.collect::<Vec<_>>()).await;
                    assert!(results.into_iter().map(Result::unwrap).eq(0..20));
                }
            });
        };
        std::thread::scope(|scope| {
            for rule in ["a", "b"] {
                for work in [&blocking as &(dyn Fn(Function) + Sync), &many, &tasks] {
                    let function = of_rule(rule);
                    scope.spawn(move || work(function));
                }
            }
        });
        let mut pinned = pin!(echo.call_async::<u32>((1,)).unwrap());
        let mut context = Context::from_waker(std::task::Waker::noop());
        let give_up = Instant::now() + Duration::from_secs(60);
        while pinned.as_mut().poll(&mut context).is_pending() {
            assert!(Instant::now() < give_up, "a waker that does nothing is no obstacle");
        }
    });
}
