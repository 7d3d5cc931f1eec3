//! Tests of socket files: only stale ones are taken over, only our own are
//! removed.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use ekuiper_core::Chain;
use ekuiper_core::address::Address;
use ekuiper_core::transport::*;
use support::*;

fn listen(address: &Address) -> Result<Box<dyn Pull>> {
    nng().pull(&Endpoint::Listen(address.clone()), &Options::default())
}

fn works(pull: &dyn Pull, address: &Address) {
    let push = nng().push(&Endpoint::Dial(address.clone()), &Options::default()).unwrap();
    push.send(b"hello", soon()).unwrap();
    assert_eq!(message(pull), b"hello");
}

#[test]
fn the_file_is_private_and_the_only_one() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("s.ipc");
        let pull = listen(&at).unwrap();
        assert_eq!(place.names(), ["s.ipc"]);
        let mode = std::fs::metadata(at.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        works(&*pull, &at);
        pull.close();
        assert_eq!(place.names(), Vec::<String>::new());
    });
}

#[test]
fn a_stale_socket_is_taken_over() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("s.ipc");
        drop(UnixListener::bind(at.path()).unwrap());
        assert!(at.path().exists());
        let pull = listen(&at).unwrap();
        works(&*pull, &at);
        drop(pull);
        assert_eq!(place.names(), Vec::<String>::new());
    });
}

#[test]
fn a_live_socket_is_refused_whoever_owns_it() {
    watched(|| {
        for (one, other) in pairs() {
            let place = TestFolder::new();
            let at = place.at("s.ipc");
            let endpoint = Endpoint::Listen(at.clone());
            let pull = one.pull(&endpoint, &Options::default()).unwrap();
            let refused = [
                other.pull(&endpoint, &Options::default()).err(),
                other.push(&endpoint, &Options::default()).err(),
                other.reply(&at, &Options::default()).err(),
            ];
            for error in refused {
                assert!(matches!(&error, Some(TransportError::AddressInUse(which)) if *which == at), "{error:?}");
            }
            works(&*pull, &at);
            drop(pull);
            assert_eq!(place.names(), Vec::<String>::new());
        }
        // A listener that does not answer is live all the same.
        let place = TestFolder::new();
        let at = place.at("s.ipc");
        let silent = UnixListener::bind(at.path()).unwrap();
        assert!(matches!(listen(&at).err(), Some(TransportError::AddressInUse(_))));
        assert!(at.path().exists());
        drop(silent);
    });
}

#[test]
fn other_files_are_left_alone() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("precious");
        std::fs::write(at.path(), "data").unwrap();
        let error = listen(&at).err();
        assert!(matches!(&error, Some(TransportError::NotASocket(which)) if *which == at), "{error:?}");
        assert!(matches!(nng().reply(&at, &Options::default()).err(), Some(TransportError::NotASocket(_))));
        assert_eq!(std::fs::read(at.path()).unwrap(), b"data");
        let folder = place.at("folder");
        std::fs::create_dir(folder.path()).unwrap();
        assert!(matches!(listen(&folder).err(), Some(TransportError::NotASocket(_))));
        // Nor is the target of a symbolic link.
        let link = place.at("link");
        std::os::unix::fs::symlink(at.path(), link.path()).unwrap();
        assert!(matches!(listen(&link).err(), Some(TransportError::NotASocket(_))));
        assert_eq!(std::fs::read(at.path()).unwrap(), b"data");
        let mut names = place.names();
        names.sort();
        assert_eq!(names, ["folder", "link", "precious"]);
    });
}

#[test]
fn a_file_that_has_taken_our_path_is_not_removed() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("s.ipc");
        let pull = listen(&at).unwrap();
        std::fs::remove_file(at.path()).unwrap();
        std::fs::write(at.path(), "data").unwrap();
        pull.close();
        drop(pull);
        assert_eq!(std::fs::read(at.path()).unwrap(), b"data");

        let at = place.at("t.ipc");
        let pull = listen(&at).unwrap();
        std::fs::remove_file(at.path()).unwrap();
        let successor = listen(&at).unwrap();
        let theirs = std::fs::metadata(at.path()).unwrap().ino();
        drop(pull);
        assert_eq!(std::fs::metadata(at.path()).unwrap().ino(), theirs);
        works(&*successor, &at);
    });
}

#[test]
fn a_folder_that_cannot_be_used_is_a_clear_error() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("missing/s.ipc");
        let error = Chain(&listen(&at).err().unwrap()).to_string();
        assert!(error.contains("missing/s.ipc") && error.contains("No such file"), "{error}");
        // A dialler waits for the listener.
        let push = nng().push(&Endpoint::Dial(at.clone()), &Options::default()).unwrap();
        std::fs::create_dir(place.path().join("missing")).unwrap();
        let pull = listen(&at).unwrap();
        push.send(b"hello", soon()).unwrap();
        assert_eq!(message(&*pull), b"hello");
    });
}

#[test]
fn paths_up_to_the_systems_limit_work() {
    watched(|| {
        let place = TestFolder::new();
        let room = ekuiper_core::address::MAX_PATH - place.path().as_os_str().len() - 1;
        let at = place.at(&"x".repeat(room));
        let pull = listen(&at).unwrap();
        works(&*pull, &at);
        // Names that have a special meaning elsewhere.
        let at = place.at("a b%20?c#d");
        let pull = listen(&at).unwrap();
        works(&*pull, &at);
    });
}

#[test]
fn of_many_that_want_one_stale_file_one_wins() {
    watched(|| {
        for _ in 0..20 {
            let place = TestFolder::new();
            let at = place.at("s.ipc");
            drop(UnixListener::bind(at.path()).unwrap());
            let won: Vec<_> = std::thread::scope(|scope| {
                let racers: Vec<_> = (0..6).map(|_| scope.spawn(|| listen(&at))).collect();
                racers.into_iter().filter_map(|racer| racer.join().unwrap().ok()).collect()
            });
            assert_eq!(won.len(), 1);
            works(&*won[0], &at);
        }
    });
}
