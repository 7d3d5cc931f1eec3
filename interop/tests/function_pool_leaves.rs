//! What pools leave behind when they are dropped: nothing. In a process of its
//! own, whose threads and descriptors no other test has.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use ekuiper_host::Host;
use ekuiper_interop::guard::{Process, Watchdog};
use ekuiper_interop::plugins::Ledger;

/// The threads, descriptors and children of this process, and what hosts have
/// in the folder for temporary files.
fn own() -> [usize; 4] {
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    let folders = std::fs::read_dir(std::env::temp_dir()).unwrap();
    let folders = folders.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("ekuiper-"));
    let children = Process::of(std::process::id()).children().len();
    [count("/proc/self/task"), count("/proc/self/fd"), children, folders.count()]
}

#[test]
fn a_dropped_pool_leaves_nothing() {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    let host = Host::builder().plugin(ledger.folder()).build().unwrap();
    let revert = host.function("filed").unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file").to_str().unwrap().to_owned();
    revert.call::<u64>((1, &file, 1)).unwrap();
    let former = own();
    for _ in 0..10 {
        let pool = host.function_pool("filed").size(3).open().unwrap();
        let calls: Vec<_> = (0..200).map(|number| pool.call_async::<u64>((number, &file, 500)).unwrap()).collect();
        for (number, call) in calls.into_iter().enumerate() {
            // Some are dropped in flight, and some in the queue.
            if number < 100 {
                assert_eq!(call.wait().unwrap(), number as u64);
            }
        }
        let give_up = Instant::now() + Duration::from_secs(60);
        while host.status("ledger").unwrap().members.iter().filter(|member| member.pid.is_some()).count() < 2 {
            assert!(Instant::now() < give_up, "{:?}", host.status("ledger"));
            let _ = pool.call_many::<u64, _>((0..100).map(|number| (number, &file, 500)));
        }
        drop(pool);
        loop {
            let (now, members) = (own(), host.status("ledger").unwrap().members.len());
            if members == 0 && now.iter().zip(former).all(|(now, former)| *now <= former) {
                break;
            }
            assert!(Instant::now() < give_up, "before {former:?}, and now {now:?}, with {members} members");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(revert.call::<u64>((1, &file, 1)).unwrap(), 1);
    drop(revert);
    drop(host);
    assert_eq!((own()[2], own()[3]), (0, 0));
}
