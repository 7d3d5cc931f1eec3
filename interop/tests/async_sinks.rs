//! Sinks for tasks, on three runtimes and on none: backpressure, windows of
//! acknowledgements, refusals, drops, crashes, and closings.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::{Duration, Instant};

use ekuiper_host::{AsyncSink, Error, Host};
use ekuiper_interop::guard::{Process, Watchdog};
use ekuiper_interop::plugins::{Ledger, Mirror, OfficialPython};
use ekuiper_interop::random::Random;
use ekuiper_interop::runtimes::on_each_runtime;
use futures::future::{join_all, poll_fn};
use futures::{SinkExt, StreamExt};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use serde_json::{Value, json};

ekuiper_interop::over_each_transport_of_ours! {
    all_rows_are_collected_in_order,
    a_slow_plugin_holds_the_task_up_and_not_the_thread,
    refusals_are_each_messages_own,
    a_message_is_sent_whole_or_not_at_all,
    a_sink_goes_on_after_a_crash,
    a_dropped_sink_is_drained_without_blocking,
    a_source_is_forwarded_to_a_sink,
    a_stop_ends_the_wait_for_a_plugin_that_takes_nothing,
}

mod on_one_wire {
    use super::{
        a_flush_tells_each_refusal_once, an_official_sink_gets_one_message_after_the_other,
        an_official_sinks_refusals_are_told_once,
    };

    ekuiper_interop::over_each_transport! {
        a_flush_tells_each_refusal_once,
        an_official_sinks_refusals_are_told_once,
        an_official_sink_gets_one_message_after_the_other,
    }
}

fn with_mirror(transport: &str, test: impl Fn(&Host, &Path)) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = Host::builder().transport(transport).plugin(mirror.folder()).build().unwrap();
    test(&host, mirror.scratch());
    host.shutdown();
}

async fn open(host: &Host, path: &Path, acks: bool) -> AsyncSink {
    let rule = path.file_name().unwrap().to_string_lossy().into_owned();
    let builder = host.sink("file").rule(rule).config(json!({ "path": path })).require_ack(acks);
    builder.open_async().await.unwrap()
}

/// The numbers that a file has.
fn numbers(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap()).collect()
}

fn row(number: u64) -> Value {
    json!({ "n": number })
}

fn all_rows_are_collected_in_order(transport: &str) {
    with_mirror(transport, |host, folder| {
        for acks in [false, true] {
            on_each_runtime(async |runtime| {
                let path = folder.join(format!("{runtime}{acks}"));
                let mut sink = open(host, &path, acks).await;
                // Each waited for.
                for number in 0..50 {
                    sink.send(row(number)).await.unwrap();
                }
                // Many at once.
                let rows = futures::stream::iter((50..5000).map(|number| Ok(row(number))));
                sink.send_all(&mut rows.boxed_local()).await.unwrap();
                // Each with a future of its acknowledgement.
                let mut pending = Vec::new();
                for number in 5000..6000 {
                    pending.push(sink.post(&row(number)).await.unwrap());
                }
                for outcome in join_all(pending).await {
                    outcome.unwrap();
                }
                assert_eq!(sink.delivery().sent, 6000);
                SinkExt::<Value>::close(&mut sink).await.unwrap();
                assert_eq!(sink.delivery().delivered, 6000);
                assert_eq!(numbers(&path), (0..6000).collect::<Vec<_>>(), "{runtime} {acks}");
                SinkExt::<Value>::close(&mut sink).await.unwrap();
                assert!(matches!(sink.send(row(0)).await, Err(Error::Stopped)));
            });
        }
    });
}

/// A file of which nothing is read until the test does.
struct Pipe {
    path: PathBuf,
    end: BufReader<File>,
}

impl Pipe {
    fn new(path: PathBuf) -> Self {
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        // Both ends, so that neither side waits for the other to open it.
        let end = File::options().read(true).write(true).open(&path).unwrap();
        Self { path, end: BufReader::new(end) }
    }

    fn next(&mut self) -> u64 {
        let mut line = String::new();
        self.end.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()["n"].as_u64().unwrap()
    }
}

/// Sends rows until there is no room: the pipe, the sockets and the window are
/// full. Returns how many there were.
async fn fill(sink: &mut AsyncSink, filler: &str) -> u64 {
    for sent in 0..100_000 {
        let mut feed = sink.feed(json!({ "n": sent, "filler": filler }));
        match poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut feed).poll(context))).await {
            Poll::Ready(fed) => fed.unwrap(),
            Poll::Pending => return sent,
        }
    }
    panic!("there is room without end")
}

fn a_slow_plugin_holds_the_task_up_and_not_the_thread(transport: &str) {
    with_mirror(transport, |host, folder| {
        for acks in [false, true] {
            on_each_runtime(async |runtime| {
                let mut pipe = Pipe::new(folder.join(format!("pipe{runtime}{acks}")));
                let mut sink = open(host, &pipe.path, acks).await;
                let filler = "x".repeat(5000);
                let sent = fill(&mut sink, &filler).await;
                // It is waited for, while the other side reads.
                let more = sent + 200;
                let reader = std::thread::spawn(move || {
                    for number in 0..more {
                        assert_eq!(pipe.next(), number);
                    }
                    pipe
                });
                for number in sent..more {
                    sink.feed(json!({ "n": number, "filler": filler })).await.unwrap();
                }
                SinkExt::<Value>::flush(&mut sink).await.unwrap();
                sink.close().await.unwrap();
                drop(reader.join().unwrap());
            });
        }
    });
}

fn refusals_are_each_messages_own(transport: &str) {
    with_mirror(transport, |host, folder| {
        on_each_runtime(async |runtime| {
            let path = folder.join(format!("refused{runtime}"));
            let mut sink = open(host, &path, true).await;
            let mut pending = Vec::new();
            for number in 0..300u64 {
                // The sink refuses what is no object.
                let message = if number % 3 == 0 { json!(number) } else { row(number) };
                pending.push(sink.post(&message).await.unwrap());
            }
            for (number, outcome) in join_all(pending).await.into_iter().enumerate() {
                match outcome {
                    Ok(()) => assert_ne!(number % 3, 0, "{runtime}"),
                    Err(Error::Sink { .. }) => assert_eq!(number % 3, 0, "{runtime}"),
                    Err(error) => panic!("{runtime}: {error}"),
                }
            }
            // Of a sink that is only fed, a later call tells; it can be used
            // further.
            sink.feed(json!(1)).await.unwrap();
            let refused = SinkExt::<Value>::flush(&mut sink).await;
            assert!(matches!(refused, Err(Error::Sink { .. })), "{runtime}: {refused:?}");
            SinkExt::<Value>::flush(&mut sink).await.unwrap();
            sink.close().await.unwrap();
            assert_eq!(numbers(&path).len(), 200, "{runtime}");
        });
    });
}

/// Futures are dropped before their first poll, after some, or never.
fn a_message_is_sent_whole_or_not_at_all(transport: &str) {
    with_mirror(transport, |host, folder| {
        for acks in [false, true] {
            on_each_runtime(async |runtime| {
                let path = folder.join(format!("dropped{runtime}{acks}"));
                let mut sink = open(host, &path, acks).await;
                let (mut random, mut known) = (Random(7), Vec::new());
                for number in 0..2000 {
                    let message = row(number);
                    let mut post = Box::pin(sink.post(&message));
                    match random.below(4) {
                        0 => drop(post),
                        1 => {
                            let polled = poll_fn(|context| Poll::Ready(post.as_mut().poll(context))).await;
                            if let Poll::Ready(ack) = polled {
                                known.push(number);
                                drop(ack.unwrap());
                            }
                        }
                        _ => {
                            post.await.unwrap().await.unwrap();
                            known.push(number);
                        }
                    }
                }
                sink.close().await.unwrap();
                let written = numbers(&path);
                assert!(written.is_sorted_by(|one, other| one < other), "each at most once, and in order");
                assert!(known.iter().all(|number| written.binary_search(number).is_ok()), "what was sent was written");
            });
        }
    });
}

fn a_sink_goes_on_after_a_crash(transport: &str) {
    with_mirror(transport, |host, folder| {
        on_each_runtime(async |runtime| {
            let path = folder.join(format!("crash{runtime}"));
            let mut sink = open(host, &path, true).await;
            for number in 0..10 {
                sink.send(row(number)).await.unwrap();
            }
            Process::of(host.pid("mirror").unwrap()).signal(Signal::KILL);
            let mut unknown = 0;
            for number in 10..200 {
                match sink.post(&row(number)).await.unwrap().await {
                    Ok(()) => {}
                    Err(Error::OutcomeUnknown { .. }) => unknown += 1,
                    Err(error) => panic!("{runtime}: {error}"),
                }
            }
            assert!(unknown <= 1, "{runtime}: {unknown}");
            // What was told to be unknown is not told again.
            sink.close().await.unwrap();
            let written = numbers(&path);
            assert!(written.len() as u64 >= 200 - unknown, "{runtime}");
            host.reset("mirror").unwrap();
        });
    });
}

fn a_dropped_sink_is_drained_without_blocking(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    for acks in [false, true] {
        let host = Host::builder().transport(transport).plugin(mirror.folder()).build().unwrap();
        let mut pipe = Pipe::new(mirror.scratch().join(format!("pipe{acks}")));
        let sent = futures::executor::block_on(async {
            let mut sink = open(&host, &pipe.path, acks).await;
            let sent = fill(&mut sink, &"x".repeat(5000)).await;
            let start = Instant::now();
            drop(sink);
            assert!(start.elapsed() < Duration::from_secs(5), "the pipe takes less than was sent");
            sent
        });
        let reader = std::thread::spawn(move || {
            for number in 0..sent {
                assert_eq!(pipe.next(), number);
            }
            pipe
        });
        // Waits for it.
        host.shutdown();
        drop(reader.join().unwrap());
    }
}

fn a_source_is_forwarded_to_a_sink(transport: &str) {
    with_mirror(transport, |host, folder| {
        on_each_runtime(async |runtime| {
            let path = folder.join(format!("forward{runtime}"));
            let config = json!({ "interval": 0, "count": 2000 });
            let source = host.source("random").rule("r").config(config).open_async::<Value>().await.unwrap();
            let sink = open(host, &path, true).await;
            source.map(|tuple| tuple.map(|tuple| json!({ "n": tuple.message["count"] }))).forward(sink).await.unwrap();
            assert_eq!(numbers(&path), (1..=2000).collect::<Vec<_>>(), "{runtime}");
        });
    });
}

fn a_stop_ends_the_wait_for_a_plugin_that_takes_nothing(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    // Longer than a test may take.
    let forever = Duration::from_secs(3600);
    let builder = Host::builder().transport(transport).plugin(mirror.folder());
    let host = builder.send_timeout(forever).recv_timeout(forever).build().unwrap();
    for acks in [false, true] {
        on_each_runtime(async |runtime| {
            let pipe = Pipe::new(mirror.scratch().join(format!("stopped{runtime}{acks}")));
            let mut sink = open(&host, &pipe.path, acks).await;
            let filler = "x".repeat(5000);
            fill(&mut sink, &filler).await;
            let stopper = sink.stopper();
            let stop = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                stopper.stop();
                stopper.abandon();
            });
            // Until one of them waits.
            let stopped = loop {
                if let Err(error) = sink.feed(json!({ "filler": filler })).await {
                    break error;
                }
            };
            assert!(matches!(stopped, Error::Stopped), "{runtime} {acks}: {stopped}");
            stop.join().unwrap();
            drop(sink);
            // The plugin's sink writes on, and stops.
            drop(pipe);
        });
    }
    host.shutdown();
}

/// Feeds rows, then flushes until there is no error; returns the errors of both.
async fn refusals(sink: &mut AsyncSink, rows: impl Iterator<Item = Value>) -> Vec<String> {
    let mut told = Vec::new();
    let mut keep = |outcome: Result<(), Error>| match outcome {
        Err(Error::Sink { text, .. }) => told.push(text),
        other => other.unwrap(),
    };
    for row in rows {
        // A refusal of an earlier row: this one is still to be accepted.
        loop {
            match poll_fn(|context| SinkExt::<Value>::poll_ready_unpin(sink, context)).await {
                Ok(()) => break,
                refusal => keep(refusal),
            }
        }
        SinkExt::<Value>::start_send_unpin(sink, row).unwrap();
    }
    loop {
        match SinkExt::<Value>::flush(sink).await {
            Ok(()) => return told,
            refusal => keep(refusal),
        }
    }
}

fn a_flush_tells_each_refusal_once(transport: &str) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let host = Host::builder().transport(transport).plugin(ledger.folder()).build().unwrap();
    on_each_runtime(async |runtime| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows");
        let config = json!({ "refuses_odd": true, "path": file });
        let mut sink = host.sink("late").require_ack(true).config(config).open_async().await.unwrap();
        let mut collected = 0;
        for rows in [0, 1, 2, 100, 3000] {
            let told = refusals(&mut sink, (0..rows).map(|n| json!({ "n": n }))).await;
            let odd: Vec<_> = (0..rows).filter(|n| n % 2 == 1).map(|n| format!("{n} is odd")).collect();
            assert_eq!(told, odd, "{runtime}");
            collected += rows;
        }
        let delivery = sink.delivery();
        assert_eq!((delivery.sent, delivery.delivered + delivery.refused), (collected, collected));
        sink.close().await.unwrap();
        let lines = std::fs::read_to_string(&file).unwrap();
        let wanted = [0, 1, 2, 100, 3000].into_iter().flat_map(|rows| 0..rows).map(|n: u64| format!("{n}"));
        assert!(lines.lines().map(str::to_owned).eq(wanted), "nothing twice, and nothing out of order");
    });
    host.shutdown();
}

fn an_official_sinks_refusals_are_told_once(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        on_each_runtime(async |runtime| {
            let builder = host.sink(&plugin.symbol("picky")).rule(plugin.rule("p")).require_ack(true);
            let mut sink = builder.open_async().await.unwrap();
            let word = |n: u64| if n.is_multiple_of(3) { "bad" } else { "good" };
            let told = refusals(&mut sink, (0..30).map(|n| json!({ "word": word(n) }))).await;
            assert_eq!(told, ["I do not like that"; 10], "{runtime}");
            sink.close().await.unwrap();
        });
    });
}

fn an_official_sink_gets_one_message_after_the_other(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        on_each_runtime(async |runtime| {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("kept");
            let builder = host.sink(&plugin.symbol("keep")).rule(plugin.rule("a"));
            let mut sink = builder.config(json!({ "path": file })).open_async().await.unwrap();
            for number in 0..20u64 {
                sink.send(row(number)).await.unwrap();
            }
            sink.close().await.unwrap();
            assert_eq!(numbers(&file), (0..20).collect::<Vec<_>>(), "{runtime}");

            let builder = host.sink(&plugin.symbol("picky")).rule(plugin.rule("b")).require_ack(true);
            let mut sink = builder.open_async().await.unwrap();
            let mut pending = Vec::new();
            for number in 0..20 {
                let word = if number % 4 == 1 { "bad" } else { "good" };
                pending.push(sink.post(&json!({ "word": word })).await.unwrap());
            }
            for (number, outcome) in join_all(pending).await.into_iter().enumerate() {
                assert_eq!(outcome.is_err(), number % 4 == 1, "{runtime}: {number}");
            }
            sink.close().await.unwrap();
        });
    });
}
