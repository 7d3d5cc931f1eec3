//! What pools leave behind when they are dropped: nothing. In a process of its
//! own, whose threads and descriptors no other test has.

// The helpers are tests as well.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ekuiper_host::Host;
use ekuiper_interop::guard::{Process, Watchdog};
use ekuiper_interop::plugins::Ledger;

/// The threads, descriptors and children of this process, and the folders of
/// hosts.
fn own() -> [usize; 4] {
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    let children = Process::of(std::process::id()).children().len();
    [count("/proc/self/task"), count("/proc/self/fd"), children, folders().len()]
}

/// The folders of hosts in the folder for temporary files, and what is in them.
fn folders() -> Vec<(PathBuf, Vec<PathBuf>)> {
    let list = |folder: &Path| -> Vec<_> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let is_of_a_host = |folder: &PathBuf| folder.file_name().unwrap().to_string_lossy().starts_with("ekuiper-");
    let folders = list(&std::env::temp_dir()).into_iter().filter(is_of_a_host);
    folders.map(|folder| (folder.clone(), list(&folder))).collect()
}

#[test]
fn a_dropped_pool_leaves_nothing() {
    let _watchdog = Watchdog::start();
    let ledger = Ledger::new();
    // Tests before this one kill hosts.
    let others = folders();
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
    let left: Vec<_> = folders().into_iter().filter(|folder| !others.contains(folder)).collect();
    assert_eq!((own()[2], left), (0, vec![]));
}
