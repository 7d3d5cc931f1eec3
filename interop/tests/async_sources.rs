//! Sources as streams, on three runtimes and on none: order, chunks, drops,
//! crashes, and places that are taken over.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use ekuiper_host::{AsyncSource, Error, Host};
use ekuiper_interop::guard::{Process, Watchdog};
use ekuiper_interop::plugins::{Mirror, OfficialPython};
use ekuiper_interop::runtimes::on_each_runtime;
use futures::future::{join_all, poll_fn};
use futures::stream::StreamExt;
use rustix::process::Signal;
use serde_json::{Value, json};

ekuiper_interop::over_each_transport_of_ours! {
    a_stream_has_all_tuples_in_order_and_ends,
    chunks_are_full_or_late_and_lose_nothing,
    a_stream_goes_on_after_a_crash,
    a_dropped_source_never_blocks_and_gives_its_place_to_the_next,
    opening_can_be_given_up,
    many_streams_in_one_task,
    a_shutdown_ends_a_stream,
}

mod official {
    use super::an_official_source_is_a_stream;

    ekuiper_interop::over_each_transport! {
        an_official_source_is_a_stream,
    }
}

fn with_mirror(transport: &str, test: impl Fn(&Host)) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = Host::builder().transport(transport).plugin(mirror.folder()).build().unwrap();
    test(&host);
    host.shutdown();
}

async fn open(host: &Host, rule: &str, config: Value) -> AsyncSource {
    host.source("random").rule(rule).config(config).open_async().await.unwrap()
}

fn count(row: &Value) -> u64 {
    row["count"].as_u64().unwrap()
}

fn a_stream_has_all_tuples_in_order_and_ends(transport: &str) {
    with_mirror(transport, |host| {
        on_each_runtime(async |_| {
            for (rows, interval) in [(3000, 0), (20, 5), (0, 0)] {
                let mut source = open(host, "r", json!({ "interval": interval, "count": rows })).await;
                for number in 1..=rows {
                    assert_eq!(count(&source.next().await.unwrap().unwrap().message), number);
                }
                assert!(source.next().await.is_none());
                assert!(source.next().await.is_none(), "it stays at its end");
                source.close().await.unwrap();
            }
        });
    });
}

fn chunks_are_full_or_late_and_lose_nothing(transport: &str) {
    with_mirror(transport, |host| {
        on_each_runtime(async |_| {
            let mut source = open(host, "r", json!({ "interval": 0, "count": 1000 })).await;
            let mut last = 0;
            while let Some(chunk) = source.next_chunk(64, Duration::from_secs(60)).await.unwrap() {
                assert!(chunk.len() == 64 || last + chunk.len() as u64 == 1000);
                for tuple in chunk {
                    last += 1;
                    assert_eq!(count(&tuple.message), last);
                }
            }
            assert_eq!(last, 1000);
            drop(source);

            // A source that pauses: what has come by then, or nothing.
            let mut source = open(host, "r", json!({ "interval": 20 })).await;
            let start = Instant::now();
            let (mut rows, mut last) = (0, 0);
            while rows < 5 {
                let chunk = source.next_chunk(1000, Duration::from_millis(30)).await.unwrap().unwrap();
                assert!(chunk.len() < 1000);
                for tuple in chunk {
                    (rows, last) = (rows + 1, last + 1);
                    assert_eq!(count(&tuple.message), last);
                }
                assert!(start.elapsed() < Duration::from_secs(60));
            }
            // A chunk that is given up leaves its tuples to the next.
            let mut given_up = 0;
            while given_up < 20 {
                let mut chunk = Box::pin(source.next_chunk(1000, Duration::from_secs(60)));
                let polled = poll_fn(|context| Poll::Ready(chunk.as_mut().poll(context).is_ready())).await;
                assert!(!polled);
                drop(chunk);
                given_up += 1;
            }
            let tuple = source.next().await.unwrap().unwrap();
            assert_eq!(count(&tuple.message), last + 1);
            source.close().await.unwrap();
        });
    });
}

fn a_stream_goes_on_after_a_crash(transport: &str) {
    with_mirror(transport, |host| {
        on_each_runtime(async |runtime| {
            let mut source = open(host, "r", json!({ "interval": 1 })).await;
            for _ in 0..2 {
                for number in 1..=5 {
                    assert_eq!(count(&source.next().await.unwrap().unwrap().message), number, "{runtime}");
                }
                Process::of(host.pid("mirror").unwrap()).signal(Signal::KILL);
                // What was sent before is still read, then the next process's.
                let mut last = 5;
                loop {
                    let number = count(&source.next().await.unwrap().unwrap().message);
                    if number == 1 {
                        break;
                    }
                    assert_eq!(number, last + 1, "{runtime}");
                    last = number;
                }
                host.reset("mirror").unwrap();
                drop(source);
                source = open(host, "r", json!({ "interval": 1 })).await;
            }
        });
    });
}

fn a_dropped_source_never_blocks_and_gives_its_place_to_the_next(transport: &str) {
    with_mirror(transport, |host| {
        on_each_runtime(async |runtime| {
            for round in 0..20 {
                // The same rule each time: the same addresses.
                let mut source = open(host, "same", json!({ "interval": 1 })).await;
                if round % 2 == 0 {
                    assert_eq!(count(&source.next().await.unwrap().unwrap().message), 1, "{runtime}");
                }
                drop(source);
            }
            // The same for handles of threads.
            for _ in 0..20 {
                let mut source = host.source("random").rule("same").config(json!({ "interval": 1 })).open().unwrap();
                assert_eq!(count(&source.next().unwrap().unwrap().message), 1);
            }
        });
        // Who has a place that is not given up keeps it.
        let _kept = host.source("random").rule("same").config(json!({ "interval": 1 })).open().unwrap();
        assert!(matches!(host.source("random").rule("same").open(), Err(Error::InUse { .. })));
    });
}

fn opening_can_be_given_up(transport: &str) {
    with_mirror(transport, |host| {
        on_each_runtime(async |_| {
            let mut task = host.source("random").rule("r").config(json!({ "interval": 1 })).open_async::<Value>();
            let _ = poll_fn(|context| Poll::Ready(Pin::new(&mut task).poll(context).is_ready())).await;
            drop(task);
            // The next has the place, also while the first is still stopped.
            let next = host.source("random").rule("r").config(json!({ "interval": 1 })).open_async::<Value>();
            next.await.unwrap().close().await.unwrap();
            assert!(matches!(host.source("nosuch").open_async::<Value>().await, Err(Error::NoSuchSymbol { .. })));
        });
    });
}

fn many_streams_in_one_task(transport: &str) {
    with_mirror(transport, |host| {
        on_each_runtime(async |_| {
            let threads = threads();
            let rules: Vec<_> = (0..20).map(|number| format!("rule{number}")).collect();
            let opened = rules.iter().map(|rule| open(host, rule, json!({ "interval": 1, "count": 50 })));
            let sources = join_all(opened).await;
            let mut all = futures::stream::select_all(sources.into_iter().map(|source| source.map(Result::unwrap)));
            let mut rows = 0;
            while let Some(tuple) = all.next().await {
                assert!((1..=50).contains(&count(&tuple.message)));
                rows += 1;
            }
            assert_eq!(rows, 20 * 50);
            // Threads that opened the sources end.
            let give_up = Instant::now() + Duration::from_secs(60);
            while self::threads() > threads + 1 {
                assert!(Instant::now() < give_up, "{} threads, {threads} before", self::threads());
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    });
}

/// Number of this process's threads.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

fn a_shutdown_ends_a_stream(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = Host::builder().transport(transport).plugin(mirror.folder()).build().unwrap();
    futures::executor::block_on(async {
        let mut source = open(&host, "r", json!({ "interval": 60_000 })).await;
        let shutdown = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            host.shutdown();
        });
        let mut last = Ok(());
        while let Some(item) = source.next().await {
            assert!(last.is_ok(), "nothing follows {last:?}");
            last = item.map(|_| ());
        }
        assert!(matches!(last, Err(Error::Stopped)), "a shutdown is not the source's own end: {last:?}");
        shutdown.join().unwrap();
        drop(source);
    });
}

fn an_official_source_is_a_stream(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        on_each_runtime(async |_| {
            let builder = host.source(&plugin.symbol("pyjson")).rule(plugin.rule("a"));
            let mut source = builder.open_async::<Value>().await.unwrap();
            for number in 1..=5 {
                assert_eq!(source.next().await.unwrap().unwrap().message["value"], number);
            }
            source.close().await.unwrap();
        });
    });
}
