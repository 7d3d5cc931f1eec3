//! Futures of calls that are dropped at random instants, at each point at which
//! they can be, and what is left of them.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::future::Future;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use ekuiper_conformance::wait_until;
use ekuiper_host::{Function, FunctionMeta, Host, PendingCall};
use ekuiper_interop::guard::Watchdog;
use ekuiper_interop::plugins::Ledger;
use ekuiper_interop::random::Random;
use ekuiper_interop::runtimes::on_each_runtime;
use futures::future::poll_fn;

ekuiper_interop::over_each_transport_of_ours! {
    drops_at_any_point_disturb_no_other_call_and_leave_nothing,
}

/// How often a call is dropped at one point, on each of the runtimes.
const DROPS: u64 = 2500;

/// Numbers of descriptors and threads of this process, and of the plugin's.
fn resources(host: &Host) -> [usize; 4] {
    let plugin = host.pid("ledger").unwrap().to_string();
    let list = |process: &str, what: &str| std::fs::read_dir(Path::new("/proc").join(process).join(what)).unwrap();
    let count = |process: &str, what: &str| list(process, what).count();
    [count("self", "fd"), count("self", "task"), count(&plugin, "fd"), count(&plugin, "task")]
}

/// When a future is dropped.
#[derive(Clone, Copy, Debug)]
enum Point {
    BeforeItsFirstPoll,
    WhileItWaits,
    AfterItWasSent,
    OnceItsAnswerIsThere,
}

struct Calls<'a> {
    /// The function for several rules, whose calls take turns.
    rules: &'a [Function],
    random: Random,
    next: u64,
    /// Those with a result.
    wanted: HashSet<u64>,
    kept: Vec<(u64, PendingCall<u64>)>,
}

impl Calls<'_> {
    /// Makes a call that may take a while.
    fn make(&mut self) -> (u64, PendingCall<u64>) {
        let microseconds = [0, 0, 0, 200][self.random.below(4) as usize];
        self.next += 1;
        let function = &self.rules[self.next as usize % self.rules.len()];
        (self.next, function.call_async((self.next, microseconds)).unwrap())
    }

    async fn complete(&mut self, number: u64, call: PendingCall<u64>) {
        assert_eq!(call.await.unwrap(), number);
        self.wanted.insert(number);
    }

    async fn complete_kept(&mut self) {
        // The last first.
        while let Some((number, call)) = self.kept.pop() {
            self.complete(number, call).await;
        }
    }

    /// Polls a call a few times; returns it if it is not complete.
    async fn poll(&mut self, number: u64, mut call: PendingCall<u64>, times: u64) -> Option<PendingCall<u64>> {
        for _ in 0..times {
            let polled = poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut call).poll(context))).await;
            if let Poll::Ready(result) = polled {
                assert_eq!(result.unwrap(), number);
                self.wanted.insert(number);
                return None;
            }
        }
        Some(call)
    }

    async fn drop_one(&mut self, point: Point) {
        let (number, call) = match point {
            Point::AfterItWasSent => {
                // Nothing waits before it.
                self.complete_kept().await;
                self.make()
            }
            _ => self.make(),
        };
        match point {
            Point::BeforeItsFirstPoll => drop(call),
            Point::WhileItWaits => drop(self.poll(number, call, 1).await),
            Point::AfterItWasSent => {
                let times = self.random.below(4);
                let call = self.poll(number, call, times).await;
                (0..self.random.below(5000)).for_each(|_| std::hint::spin_loop());
                drop(call);
            }
            Point::OnceItsAnswerIsThere => {
                // One of the same rule, which is executed after it.
                for _ in 0..self.rules.len() {
                    let (number, later) = self.make();
                    self.complete(number, later).await;
                }
                drop(call);
            }
        }
        if self.random.below(3) == 0 {
            let call = self.make();
            self.kept.push(call);
        }
        if self.random.below(40) == 0 {
            self.complete_kept().await;
        }
    }
}

fn drops_at_any_point_disturb_no_other_call_and_leave_nothing(transport: &str) {
    // What another test has open would be counted.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let host = Host::builder().transport(transport).plugin(ledger.folder()).build().unwrap();
    let patient = host.function("patient").unwrap();
    let _ = (Ledger::noted(&host), Ledger::cancelled(&host));
    let rules = [0, 1, 2].map(|rule| {
        let meta = FunctionMeta { rule_id: format!("r{rule}"), op_id: "op".into(), ..FunctionMeta::default() };
        patient.clone().with_meta(meta)
    });
    // Some runtimes keep threads.
    on_each_runtime(async |_| assert_eq!(patient.call_async::<u64>((0, 0)).unwrap().await.unwrap(), 0));
    let before = resources(&host);
    let made = AtomicU64::new(0);
    let all_wanted = Mutex::new(HashSet::new());
    on_each_runtime(async |_| {
        let next = made.load(Ordering::Relaxed);
        let (random, wanted, kept) = (Random(next + 11), HashSet::new(), Vec::new());
        let mut calls = Calls { rules: &rules, random, next, wanted, kept };
        for point in
            [Point::BeforeItsFirstPoll, Point::WhileItWaits, Point::AfterItWasSent, Point::OnceItsAnswerIsThere]
        {
            for _ in 0..DROPS {
                calls.drop_one(point).await;
            }
            calls.complete_kept().await;
        }
        made.store(calls.next, Ordering::Relaxed);
        all_wanted.lock().unwrap().extend(calls.wanted);
    });
    let (made, wanted) = (made.into_inner(), all_wanted.into_inner().unwrap());
    // The calls to begin with have the number 0.
    let noted: Vec<_> = Ledger::noted(&host).into_iter().filter(|number| *number > 0).collect();
    let cancelled = Ledger::cancelled(&host);
    let executed: HashSet<_> = noted.iter().chain(&cancelled).copied().collect();
    println!("{} of {made} were executed, {} of them cancelled", executed.len(), cancelled.len());
    assert_eq!(executed.len(), noted.len() + cancelled.len(), "each at most once");
    for rule in 0..3 {
        let are_sorted = |numbers: &[u64]| numbers.iter().filter(|number| *number % 3 == rule).is_sorted();
        assert!(are_sorted(&noted) && are_sorted(&cancelled), "in their order");
    }
    assert!(cancelled.iter().all(|number| !wanted.contains(number)), "no other call was cancelled");
    assert!(wanted.is_subset(&noted.into_iter().collect()), "what has a result was executed");
    assert!(!cancelled.is_empty() && (executed.len() as u64) < made);
    wait_until("no call is left", || host.health()[0].symbols.iter().all(|symbol| symbol.queue == Some(0)));
    wait_until(&format!("no thread and no descriptor more than {before:?} is left"), || {
        resources(&host).into_iter().zip(before).all(|(now, before)| now <= before)
    });
    host.shutdown();
}
