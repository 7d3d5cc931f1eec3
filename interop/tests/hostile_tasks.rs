//! Tasks that behave badly: wakers that panic, and tasks that leave no time to
//! others.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use ekuiper_host::Host;
use ekuiper_interop::guard::{Watchdog, soon};
use ekuiper_interop::plugins::{Ledger, Mirror};
use ekuiper_interop::tools;
use futures::SinkExt;
use futures::executor::block_on;
use futures::stream::{Stream, StreamExt};
use serde_json::{Value, json};

ekuiper_interop::over_each_transport! {
    a_waker_that_panics_costs_nobody_else,
    a_busy_sink_lets_other_tasks_have_their_turn,
}

/// A waker of an engine with a fault. It counts.
struct Panicking(AtomicUsize);

impl Wake for Panicking {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("this waker is to panic");
    }
}

/// Polls something with a waker that panics, until it is woken; makes it again
/// if it is ready at once, as where this thread was held up. Returns what was
/// woken.
fn panics<T>(what: &str, mut make: impl FnMut() -> T, poll: impl Fn(&mut T, &mut Context<'_>) -> bool) -> T {
    let give_up = soon();
    loop {
        assert!(Instant::now() < give_up, "{what} is always ready at once");
        let mut made = make();
        let count = Arc::new(Panicking(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        // A future that lets others have a turn wakes its own task.
        let mut poll = || catch_unwind(AssertUnwindSafe(|| poll(&mut made, &mut Context::from_waker(&waker))));
        let first = poll();
        let own = usize::from(first.is_err());
        if first.or_else(|_| poll()).unwrap() {
            continue;
        }
        while count.0.load(Ordering::SeqCst) <= own {
            assert!(Instant::now() < give_up, "{what} wakes nobody");
            std::thread::sleep(Duration::from_millis(1));
        }
        return made;
    }
}

fn poll<F: Future + Unpin>(future: &mut F, context: &mut Context<'_>) -> bool {
    Pin::new(future).poll(context).is_ready()
}

fn poll_next<S: Stream + Unpin>(stream: &mut S, context: &mut Context<'_>) -> bool {
    stream.poll_next_unpin(context).is_ready()
}

/// Feeds a sink and posts to it, beside a task that counts how many messages
/// are accepted between two turns of its own.
fn a_busy_sink_lets_other_tasks_have_their_turn(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = Host::builder().transport(transport).plugin(mirror.folder()).ack_window(100_000).build().unwrap();
    let rows = mirror.scratch().join("rows");
    for require_ack in [true, false] {
        for is_posted in [true, false] {
            let builder = host.sink("file").config(json!({ "path": rows })).require_ack(require_ack);
            let mut sink = block_on(builder.open_async()).unwrap();
            let (sent, is_over, most) = (Cell::new(0_u64), Cell::new(false), Cell::new(0));
            let feeder = async {
                let row = json!({});
                for _ in 0..20_000 {
                    if is_posted {
                        drop(sink.post(&row).await.unwrap());
                    } else {
                        SinkExt::<&Value>::feed(&mut sink, &row).await.unwrap();
                    }
                    sent.set(sent.get() + 1);
                }
                is_over.set(true);
            };
            let counter = async {
                let mut before = 0;
                while !is_over.get() {
                    most.set(most.get().max(sent.get() - before));
                    before = sent.get();
                    // Until the next turn.
                    let mut is_first = true;
                    poll_fn(|context| {
                        context.waker().wake_by_ref();
                        if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }
                    })
                    .await;
                }
            };
            block_on(futures::future::join(feeder, counter));
            assert!(most.get() <= 256, "{} messages in a row", most.get());
            block_on(SinkExt::<&Value>::close(&mut sink)).unwrap();
        }
    }
    host.shutdown();
}

fn a_waker_that_panics_costs_nobody_else(transport: &str) {
    let _watchdog = Watchdog::start();
    let (mirror, ledger) = (Mirror::new(), Ledger::new());
    let host = Host::builder().transport(transport).plugin(mirror.folder()).plugin(ledger.folder()).build().unwrap();
    let (slow, note) = (host.function("slow").unwrap(), host.function("note").unwrap());
    let source = |rule: &str, interval: u64| {
        let builder = host.source("random").rule(rule).config(json!({ "interval": interval }));
        block_on(builder.open_async::<Value>()).unwrap()
    };
    let mut sink = block_on(host.sink("late").require_ack(true).config(json!({ "pause": 100 })).open_async()).unwrap();
    for _ in 0..3 {
        let call = panics("a call", || slow.call_async::<u64>((1, 100)).unwrap(), poll);
        let waits = || {
            let mut quiet = source("quiet", 3_600_000);
            block_on(quiet.next()).unwrap().unwrap();
            Box::pin(async move { quiet.next_chunk(9, Duration::from_millis(50)).await.is_ok() })
        };
        drop(panics("a timer", waits, poll));
        let emits = || {
            let mut slow_source = source("slow", 100);
            block_on(slow_source.next()).unwrap().unwrap();
            slow_source
        };
        drop(panics("a tuple", emits, poll_next));
        let ack = panics("an acknowledgement", || block_on(sink.post(&json!({ "n": 1 }))).unwrap(), poll);
        drop(panics("an open", || host.source("random").rule("opening").open_async::<Value>(), poll));
        std::thread::scope(|scope| {
            let restarts = || {
                let events = host.event_stream();
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(50));
                    host.stop("mirror").unwrap();
                    host.start("mirror").unwrap();
                });
                events
            };
            drop(panics("an event", restarts, poll_next));
        });
        // All others go on, on the same handles and on others.
        let mut next = source("next", 1);
        block_on(async {
            assert_eq!(call.await.unwrap(), 1);
            assert_eq!(slow.call_async::<u64>((2, 1)).unwrap().await.unwrap(), 2);
            assert_eq!(note.call_async::<u64>((3,)).unwrap().await.unwrap(), 3);
            ack.await.unwrap();
            sink.post(&json!({ "n": 2 })).await.unwrap().await.unwrap();
            for count in 1..=3 {
                assert_eq!(next.next().await.unwrap().unwrap().message["count"], count);
            }
            next.close().await.unwrap();
        });
        assert_eq!(note.call::<u64>((4,)).unwrap(), 4);
    }
    block_on(sink.close()).unwrap();
    host.shutdown();
}

/// Every waker of a task is woken by `wake_tasks`.
#[test]
fn no_waker_is_woken_in_another_way() {
    let mut folders = vec![tools::root().join("host/src")];
    let mut found = Vec::new();
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            if !path.ends_with("src/sync.rs") && (code.contains("Waker::wake)") || code.contains("waker.wake()")) {
                found.push(path);
            }
        }
    }
    assert!(files > 80, "{files}");
    assert_eq!(found, [] as [std::path::PathBuf; 0]);
}
