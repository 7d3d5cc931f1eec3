//! Places of sources and sinks: rules that are restarted while they still stop,
//! and sources that several rules and hosts read at once.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc;

use ekuiper_host::{AsyncSource, Error, Host, Sink, Source};
use ekuiper_interop::guard::{PATIENCE, Watchdog, next};
use ekuiper_interop::plugins::Mirror;
use futures::future::join_all;
use futures::stream::StreamExt;
use serde_json::json;

ekuiper_interop::over_each_transport_of_ours! {
    a_restarted_rule_waits_for_its_place,
    more_rules_than_threads_wait_for_their_places,
    two_hosts_and_two_rules_read_one_source,
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
            // Over nng a stopped source may write a last row to the one that
            // follows it.
            assert!(first.message["count"] == 1 || transport == "nng", "{first:?}");
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
