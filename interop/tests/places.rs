//! Places of sources and sinks: rules that are restarted while they still stop,
//! and sources that several rules and hosts read at once.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use ekuiper_conformance::wait_until;
use ekuiper_host::{AsyncSource, Error, Host, Sink, Source};
use ekuiper_interop::guard::{PATIENCE, Process, Watchdog, next, soon};
use ekuiper_interop::plugins::{Ledger, Mirror, OfficialPython};
use futures::executor::block_on;
use futures::future::join_all;
use futures::stream::StreamExt;
use serde_json::json;

ekuiper_interop::over_each_transport_of_ours! {
    a_restarted_rule_waits_for_its_place,
    more_rules_than_threads_wait_for_their_places,
    two_hosts_and_two_rules_read_one_source,
    an_open_that_was_given_up_gives_its_place_back,
    opens_that_were_given_up_wait_for_nothing,
}

mod on_one_wire {
    use super::{
        a_sink_inherits_nothing_of_an_abandoned_one, a_source_inherits_no_row_of_one_that_was_not_stopped,
        an_official_open_that_was_given_up_gives_its_place_back,
    };

    ekuiper_interop::over_each_transport! {
        a_source_inherits_no_row_of_one_that_was_not_stopped,
        a_sink_inherits_nothing_of_an_abandoned_one,
        an_official_open_that_was_given_up_gives_its_place_back,
    }
}

fn host(mirror: &Mirror, transport: &str) -> Host {
    Host::builder().transport(transport).plugin(mirror.folder()).build().unwrap()
}

fn a_restarted_rule_waits_for_its_place(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let rows = mirror.scratch().join("rows");
    let open = || -> Result<(Source, Sink), Error> {
        let source = host.source("random").rule("same").config(json!({ "interval": 1 })).wait_for_place(PATIENCE);
        let sink = host.sink("file").rule("same").config(json!({ "path": rows })).wait_for_place(PATIENCE);
        Ok((source.open()?, sink.open()?))
    };
    let mut collisions = 0;
    std::thread::scope(|scope| {
        let (former, formers) = mpsc::channel::<(Source, Sink)>();
        scope.spawn(move || {
            for (source, sink) in formers {
                sink.close().unwrap();
                source.close().unwrap();
            }
        });
        for _ in 0..100 {
            match open() {
                Ok((mut source, sink)) => {
                    assert_eq!(next(&mut source).message["count"], 1);
                    sink.send(&json!({})).unwrap();
                    former.send((source, sink)).unwrap();
                }
                Err(Error::InUse { .. }) => collisions += 1,
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert_eq!(collisions, 0);
    host.shutdown();
    assert_eq!(std::fs::read_to_string(rows).unwrap(), "{}\n".repeat(100));
}

fn more_rules_than_threads_wait_for_their_places(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let open = |rule: usize| {
        let builder = host.source("random").rule(format!("r{rule}")).config(json!({ "interval": 1 }));
        builder.wait_for_place(PATIENCE).open_async()
    };
    futures::executor::block_on(async {
        let former: Vec<AsyncSource> = join_all((0..70).map(open)).await.into_iter().map(Result::unwrap).collect();
        // Each waits, before the first is stopped.
        let waiting: Vec<_> = (0..70).map(open).collect();
        drop(former);
        for source in join_all(waiting).await {
            let mut source = source.unwrap();
            let first = source.next().await.unwrap().unwrap();
            assert_eq!(first.message["count"], 1);
        }
    });
    host.shutdown();
}

fn two_hosts_and_two_rules_read_one_source(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let hosts = [(); 2].map(|()| host(&mirror, transport));
    let open = |host: &Host, rule| host.source("random").rule(rule).config(json!({ "interval": 1 })).open().unwrap();
    let mut sources = hosts.each_ref().map(|host| [open(host, "r1"), open(host, "r2")]);
    for count in 1..=100 {
        for source in sources.as_flattened_mut() {
            assert_eq!(next(source).message["count"], count);
        }
    }
    let [[one, _], [_, other]] = sources;
    one.close().unwrap();
    hosts[0].shutdown();
    let mut other = other;
    assert_eq!(next(&mut other).message["count"], 101);
}

/// Drops a future that opens something, at another moment each round.
fn give_up<F: Future + Unpin>(mut open: F, round: u32) {
    if round.is_multiple_of(4) {
        return;
    }
    let _ = Pin::new(&mut open).poll(&mut Context::from_waker(Waker::noop()));
    std::thread::sleep(Duration::from_micros(u64::from(round % 4 - 1) * u64::from(round) * 10));
}

fn an_open_that_was_given_up_gives_its_place_back(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let rows = mirror.scratch().join("rows");
    let source = || host.source("random").rule("same").config(json!({ "interval": 1 }));
    let sink = || host.sink("file").rule("same").config(json!({ "path": rows })).require_ack(true);
    for round in 0..100 {
        give_up(source().open_async::<serde_json::Value>(), round);
        let mut source = block_on(source().open_async::<serde_json::Value>()).unwrap();
        let first = block_on(source.next()).unwrap().unwrap();
        assert_eq!(first.message["count"], 1);
        block_on(source.close()).unwrap();
    }
    for round in 0..100 {
        give_up(sink().open_async(), round);
        let sink = sink().open().unwrap();
        sink.send(&json!({})).unwrap();
        assert_eq!(sink.delivery().sent, 1);
        wait_until("it is delivered", || sink.delivery().delivered == 1);
        sink.close().unwrap();
    }
    assert_eq!(std::fs::read_to_string(&rows).unwrap(), "{}\n".repeat(100));
    // Nothing is left open, and no symbol runs without a handle.
    let give_up = soon();
    while !host.status("mirror").unwrap().symbols.is_empty() {
        assert!(Instant::now() < give_up, "{:?}", host.status("mirror"));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(Process::of(host.pid("mirror").unwrap()).threads("random"), 0);
    host.shutdown();
}

fn opens_that_were_given_up_wait_for_nothing(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = host(&mirror, transport);
    let source = || host.source("random").rule("same").config(json!({ "interval": 1 }));
    let mut holder = source().open().unwrap();
    let waits = 400;
    let mut opens: Vec<_> = (0..waits)
        .map(|_| source().wait_for_place(Duration::from_secs(3600)).open_async::<serde_json::Value>())
        .collect();
    for open in &mut opens {
        assert!(Pin::new(open).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let threads = || Process::of(std::process::id()).threads("ekuiper-work");
    let give_up = soon();
    while threads() < waits {
        assert!(Instant::now() < give_up, "each waits in a thread");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(opens);
    // Other tests have some, too.
    while threads() > waits / 2 {
        assert!(Instant::now() < give_up, "{} threads still wait", threads());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(next(&mut holder).message["count"], 1, "the holder is not disturbed");
    drop(holder);
    source().open().unwrap().close().unwrap();
    host.shutdown();
}

fn a_sink_inherits_nothing_of_an_abandoned_one(transport: &str) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let host = Host::builder().transport(transport).plugin(ledger.folder()).build().unwrap();
    // It collects for longer than a stop is waited for.
    let rows = 80;
    for require_ack in [true, false] {
        let sink = host.sink("late").rule("same").config(json!({ "pause": 100 })).open().unwrap();
        (0..rows).for_each(|row| sink.send(&json!({ "n": row })).unwrap());
        sink.stopper().abandon();
        let missing = match sink.close() {
            Err(Error::NotCollected { missing, .. }) => missing,
            other => panic!("{other:?}"),
        };
        assert!((1..=rows).contains(&missing));
        let next = host.sink("late").rule("same").require_ack(require_ack).open().unwrap();
        for row in 0..10 {
            next.send(&json!({ "n": row })).unwrap();
        }
        next.flush(PATIENCE).unwrap();
        wait_until("all is delivered", || next.delivery().delivered == 10);
        let delivery = next.delivery();
        assert_eq!((delivery.sent, delivery.delivered, delivery.refused), (10, 10, 0));
        next.close().unwrap();
    }
    host.shutdown();
}

/// The stop of the first source cannot be sent, since its plugin is busy with a
/// start: the source goes on.
fn a_source_inherits_no_row_of_one_that_was_not_stopped(transport: &str) {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let builder = Host::builder().transport(transport).plugin(ledger.folder());
    let host = builder.recv_timeout(Duration::from_millis(200)).build().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let starting = scratch.path().join("starting");
    for _ in 0..3 {
        let source = || {
            let config = json!({ "letters": 10, "count": 1_000_000, "pause": 1 });
            host.source("letters").rule("same").config(config)
        };
        let mut first = source().open().unwrap();
        for n in 0..5 {
            assert_eq!(next(&mut first).message["n"], n);
        }
        std::thread::scope(|scope| {
            let sink = scope.spawn(|| host.sink("late").config(json!({ "starting": starting })).open().unwrap());
            wait_until("the sink is being started", || starting.exists());
            assert!(matches!(first.close(), Err(Error::Timeout { .. })));
            let second = scope.spawn(|| source().open().unwrap());
            // Time for it to listen, if it does not wait.
            std::thread::sleep(Duration::from_millis(100));
            std::fs::remove_file(&starting).unwrap();
            let mut second = second.join().unwrap();
            for n in 0..5 {
                assert_eq!(next(&mut second).message["n"], n);
            }
            drop(second);
            drop(sink.join().unwrap());
        });
    }
    host.shutdown();
}

fn an_official_open_that_was_given_up_gives_its_place_back(transport: &str) {
    OfficialPython::run(transport, |plugin, host| {
        let rule = plugin.rule("same");
        let source = || host.source(&plugin.symbol("pyjson")).rule(&rule);
        let sink = || host.sink(&plugin.symbol("print")).rule(&rule).operator("k").require_ack(true);
        for round in 0..12 {
            give_up(source().open_async::<serde_json::Value>(), round * 500);
            let mut source = source().open().unwrap();
            assert_eq!(next(&mut source).message["value"], 1);
            source.close().unwrap();
            give_up(sink().open_async(), round * 500);
            let sink = sink().open().unwrap();
            sink.send(&json!({})).unwrap();
            sink.close().unwrap();
        }
    });
}
