//! Plugins that come, go, stop and are updated while threads and tasks call
//! others, and the updated one itself: no call is lost.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ekuiper_host::{EventKind, Function, Host, Package};
use ekuiper_interop::guard::Watchdog;
use ekuiper_interop::plugins::{Counting, Ledger, Mirror};
use futures::stream::StreamExt;
use serde_json::Value;

ekuiper_interop::over_each_transport_of_ours! {
    events_are_a_stream_that_counts_what_it_missed,
}

mod of_plugins_without_zeromq {
    use super::no_call_is_lost_while_plugins_come_and_go;

    ekuiper_interop::over_each_transport! {
        no_call_is_lost_while_plugins_come_and_go,
    }
}

/// Installs the plugin `counting` in another version.
fn install(from: &Path, plugins: &Path, version: &str) -> Package {
    let folder = plugins.join("counting");
    std::fs::create_dir_all(&folder).unwrap();
    let text = std::fs::read_to_string(from.join("counting.json")).unwrap();
    let mut manifest: Value = serde_json::from_str(&text).unwrap();
    manifest["version"] = version.into();
    std::fs::write(folder.join("counting.json"), manifest.to_string()).unwrap();
    if !folder.join("counting").exists() {
        std::os::unix::fs::symlink(from.join("counting"), folder.join("counting")).unwrap();
    }
    Package::read(folder).unwrap()
}

/// What the calls of one caller have come to.
#[derive(Default)]
struct Calls {
    done: AtomicU64,
    /// Longest time from one answer to the next, in microseconds.
    gap: AtomicU64,
}

impl Calls {
    fn add(&self, before: &mut Instant) {
        self.done.fetch_add(1, Ordering::SeqCst);
        let gap = std::mem::replace(before, Instant::now()).elapsed();
        self.gap.fetch_max(gap.as_micros().try_into().unwrap(), Ordering::SeqCst);
    }

    fn block(&self, function: &Function, expected: impl Fn(u32) -> f64, is_over: &AtomicBool) {
        let _over = Over(is_over);
        let mut before = Instant::now();
        for number in 0.. {
            if is_over.load(Ordering::SeqCst) {
                return;
            }
            let result = function.call::<f64>((number,));
            assert_eq!(result.expect("a call is lost"), expected(number));
            self.add(&mut before);
        }
    }

    async fn call(&self, function: &Function, expected: impl Fn(u32) -> f64, is_over: &AtomicBool) {
        let _over = Over(is_over);
        let mut before = Instant::now();
        for number in 0.. {
            if is_over.load(Ordering::SeqCst) {
                return;
            }
            let result = function.call_async::<f64>((number,)).unwrap().await;
            assert_eq!(result.expect("a call is lost"), expected(number));
            self.add(&mut before);
        }
    }
}

/// Sets the flag at the end of a scope, however that ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn no_call_is_lost_while_plugins_come_and_go(transport: &str) {
    let _watchdog = Watchdog::start();
    let (mirror, counting, ledger) = (Mirror::new(), Counting::new(), Ledger::new());
    let root = tempfile::tempdir().unwrap();
    let plugins = root.path().join("plugins");
    install(&counting.folder(), &plugins, "v0");
    let host = Host::builder()
        .transport(transport)
        .plugins_dir(&plugins)
        .plugin(mirror.folder())
        // How long a call waits for the next process.
        .send_timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    let (echo, double) = (host.function("echo").unwrap(), host.function("double").unwrap());
    let (is_over, calls) = (AtomicBool::new(false), [(); 4].map(|()| Calls::default()));
    let same = f64::from;
    let twice = |number| 2.0 * f64::from(number);
    std::thread::scope(|scope| {
        let _over = Over(&is_over);
        let (is_over, calls) = (&is_over, &calls);
        scope.spawn(|| calls[0].block(&echo, same, is_over));
        scope.spawn(|| calls[1].block(&double, twice, is_over));
        scope.spawn(|| {
            futures::executor::block_on(async {
                futures::join!(calls[2].call(&echo, same, is_over), calls[3].call(&double, twice, is_over));
            });
        });
        let goes_on = || {
            let before: Vec<_> = calls.iter().map(|calls| calls.done.load(Ordering::SeqCst)).collect();
            while calls.iter().zip(&before).any(|(calls, before)| calls.done.load(Ordering::SeqCst) < before + 10) {
                assert!(!is_over.load(Ordering::SeqCst), "a caller has failed");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        for round in 0..3 {
            goes_on();
            host.add(Package::read(ledger.folder()).unwrap()).unwrap();
            assert_eq!(host.function("noted").unwrap().name(), "noted");
            host.update(install(&counting.folder(), &root.path().join(format!("{round}")), &format!("u{round}")))
                .unwrap();
            goes_on();
            host.remove("ledger").unwrap();
            // Back to the folder of plugins, in a new version.
            install(&counting.folder(), &plugins, &format!("v{}", round + 1));
            let rescan = futures::executor::block_on(host.rescan_async()).unwrap();
            assert_eq!((rescan.updated, rescan.problems.len()), (vec!["counting".to_owned()], 0));
            goes_on();
            // A stopped plugin is needed at once.
            futures::executor::block_on(host.stop_async("counting")).unwrap();
            goes_on();
        }
    });
    for (caller, calls) in ["echo, thread", "updated, thread", "echo, task", "updated, task"].iter().zip(&calls) {
        let (done, gap) = (calls.done.load(Ordering::SeqCst), calls.gap.load(Ordering::SeqCst));
        println!("{transport}: {caller}: {done} calls, 0 lost, longest gap {:.1} ms", gap as f64 / 1000.0);
    }
    futures::executor::block_on(host.shutdown_async());
}

fn events_are_a_stream_that_counts_what_it_missed(transport: &str) {
    let _watchdog = Watchdog::start();
    let mirror = Mirror::new();
    let host = Host::builder().transport(transport).plugin(mirror.folder()).event_queue(2).build().unwrap();
    let (mut events, mut unread) = (host.event_stream(), host.event_stream());
    futures::executor::block_on(async {
        for _ in 0..2 {
            let (started, event) = futures::join!(host.start_async("mirror"), events.next());
            started.unwrap();
            assert!(matches!(event.unwrap().kind, EventKind::Started { .. }));
            let (stopped, event) = futures::join!(host.stop_async("mirror"), events.next());
            stopped.unwrap();
            assert!(matches!(event.unwrap().kind, EventKind::Stopped));
        }
        host.shutdown_async().await;
        drop(host);
        assert!(events.next().await.is_none(), "it ends with the host");
        assert_eq!((events.missed(), unread.missed()), (0, 2));
        assert!(unread.next().await.is_some() && unread.next().await.is_some() && unread.next().await.is_none());
    });
}
