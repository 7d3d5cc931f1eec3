//! Tests of folders for sockets, and of socket files.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;

use ekuiper_core::Chain;
use ekuiper_core::address::Address;
use ekuiper_core::transport::*;
use support::*;

fn set_mode(place: &TestFolder, mode: u32) {
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn a_folder_that_others_can_enter_is_refused() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("s");
        for mode in [0o750, 0o701, 0o755, 0o1777] {
            set_mode(&place, mode);
            let (listen, dial) = (Endpoint::Listen(at.clone()), Endpoint::Dial(at.clone()));
            let refused = [
                zeromq().pull(&listen, &Options::default()).map(|_| ()),
                zeromq().push(&listen, &Options::default()).map(|_| ()),
                zeromq().reply(&at, &Options::default()).map(|_| ()),
                zeromq().pull(&dial, &Options::default()).map(|_| ()),
                zeromq().push(&dial, &Options::default()).map(|_| ()),
                zeromq().request(&at, &Options::default()).map(|_| ()),
            ];
            for error in refused {
                let error = error.unwrap_err();
                let text = Chain(&error).to_string();
                assert!(
                    matches!(&error, TransportError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied)
                );
                assert!(text.contains("can be entered by other users") && text.contains("mode 0700"), "{text}");
                assert!(text.contains(place.path().to_str().unwrap()), "{text}");
            }
            assert_eq!(place.names(), Vec::<String>::new());
        }
        set_mode(&place, 0o700);
        let pull = pull(&at);
        let push = push(&at);
        push.send(b"hello", soon()).unwrap();
        assert_eq!(message(&*pull), b"hello");
    });
}

/// A dialler whose folder does not exist yet checks repeatedly, and dials when
/// the folder exists and is private.
#[test]
fn a_folder_may_come_later() {
    watched(|| {
        let place = TestFolder::new();
        let folder = place.path().join("later");
        let at = Address::new(folder.join("s")).unwrap();
        let push = push(&at);
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
        let pull = pull(&at);
        push.send(b"hello", soon()).unwrap();
        assert_eq!(message(&*pull), b"hello");
    });
}

#[test]
fn the_file_is_private_and_the_only_one() {
    watched(|| {
        let place = TestFolder::new();
        let at = place.at("s.ipc");
        let pull = pull(&at);
        assert_eq!(place.names(), ["s.ipc"]);
        assert_eq!(std::fs::metadata(at.path()).unwrap().permissions().mode() & 0o7777, 0o600);
        pull.close();
        assert_eq!(place.names(), Vec::<String>::new());
    });
}

#[test]
fn names_that_mean_something_elsewhere_are_names() {
    watched(|| {
        let place = TestFolder::new();
        for name in ["a b%20?c#d", "*", "tcp:::1", "x:5"] {
            let pull = pull(&place.at(name));
            let push = push(&place.at(name));
            push.send(b"hello", soon()).unwrap();
            assert_eq!(message(&*pull), b"hello");
        }
    });
}
