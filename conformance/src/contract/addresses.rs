//! Promise 8, foreign files are safe: case 29.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::sync::Barrier;
use std::thread;

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Endpoint, Options, Result, TransportError};

use super::{introduce, join};
use crate::raw::is_listening;
use crate::{Fixture, assert_error};

/// Listens at one address with a socket of each listening kind.
fn listen_all(f: &Fixture, address: &Address) -> [Result<Box<dyn std::any::Any>>; 3] {
    let (transport, endpoint, options) = (f.transport(), Endpoint::Listen(address.clone()), Options::default());
    [
        transport.pull(&endpoint, &options).map(|socket| Box::new(socket) as _),
        transport.push(&endpoint, &options).map(|socket| Box::new(socket) as _),
        transport.reply(address, &options).map(|socket| Box::new(socket) as _),
    ]
}

/// Leaves behind the file of a listener that has ended.
fn make_stale(address: &Address) {
    drop(UnixListener::bind(address.path()).unwrap());
}

/// Case 29: a socket file without a listener is taken over.
pub fn case_29_a_stale_file_is_taken_over(f: &Fixture) {
    make_stale(&f.at("pull"));
    make_stale(&f.at("push"));
    make_stale(&f.at("reply"));
    let (pull, push, reply) = (f.pull(&f.listen("pull")), f.push(&f.listen("push")), f.reply("reply"));
    join(&*f.push(&f.dial("pull")), &*pull);
    join(&*push, &*f.pull(&f.dial("push")));
    introduce(&*f.request("reply"), &*reply);
}

/// Case 29: an address with a live listener cannot be taken, and that listener
/// is not disturbed.
pub fn case_29_a_live_listener_is_left_alone(f: &Fixture) {
    let pull = f.pull(&f.listen("pull"));
    for refused in listen_all(f, &f.at("pull")) {
        assert_error!(refused, TransportError::AddressInUse(_));
    }
    join(&*f.push(&f.dial("pull")), &*pull);
    let foreign = UnixListener::bind(f.at("foreign").path()).unwrap();
    for refused in listen_all(f, &f.at("foreign")) {
        assert_error!(refused, TransportError::AddressInUse(_));
    }
    assert!(is_listening(&f.at("foreign")));
    drop(foreign);
}

/// Case 29: a file that is not a socket is never removed.
pub fn case_29_a_regular_file_is_left_alone(f: &Fixture) {
    std::fs::write(f.at("file").path(), "precious").unwrap();
    std::fs::create_dir(f.at("folder").path()).unwrap();
    std::os::unix::fs::symlink(f.at("file").path(), f.at("link").path()).unwrap();
    for name in ["file", "folder", "link"] {
        for refused in listen_all(f, &f.at(name)) {
            assert_error!(refused, TransportError::NotASocket(_), "at {name}");
        }
    }
    assert_eq!(std::fs::read(f.at("link").path()).unwrap(), b"precious");
    assert!(f.at("folder").path().is_dir());
}

/// Case 29: closing removes the file, unless another file has replaced it.
pub fn case_29_a_replaced_file_is_kept(f: &Fixture) {
    for name in ["pull", "reply"] {
        let address = f.at(name);
        let open = || -> Box<dyn std::any::Any> {
            match name {
                "pull" => Box::new(f.pull(&f.listen(name))),
                _ => Box::new(f.reply(name)),
            }
        };
        let socket = open();
        assert!(std::fs::symlink_metadata(address.path()).unwrap().file_type().is_socket());
        drop(socket);
        assert!(!address.path().exists(), "its own file stays behind");

        let socket = open();
        std::fs::remove_file(address.path()).unwrap();
        std::fs::write(address.path(), "precious").unwrap();
        drop(socket);
        assert_eq!(std::fs::read(address.path()).unwrap(), b"precious");
        std::fs::remove_file(address.path()).unwrap();

        let socket = open();
        std::fs::remove_file(address.path()).unwrap();
        let successor = open();
        drop(socket);
        assert!(is_listening(&address), "the successor's file was removed");
        drop(successor);

        let socket = open();
        std::fs::remove_file(address.path()).unwrap();
        drop(socket);
    }
}

/// `close` removes the file, not only the drop of the last handle, and the
/// address is free at once.
pub fn addresses_are_free_after_closing(f: &Fixture) {
    for _ in 0..20 {
        let (pull, push, reply) = (f.pull(&f.listen("pull")), f.push(&f.listen("push")), f.reply("reply"));
        pull.close();
        push.close();
        reply.close();
        assert!(std::fs::read_dir(f.folder()).unwrap().next().is_none(), "a socket file stays behind");
        let _again = (f.pull(&f.listen("pull")), f.push(&f.listen("push")), f.reply("reply"));
    }
}

/// Of several processes that find the same stale file, exactly one takes it
/// over, and listens.
pub fn addresses_are_taken_over_by_one(f: &Fixture) {
    const RIVALS: usize = 6;
    for round in 0..30 {
        let address = f.at(&format!("pull{round}"));
        make_stale(&address);
        let (start, end) = (Barrier::new(RIVALS), Barrier::new(RIVALS));
        let winners = thread::scope(|scope| {
            let rivals = [(); RIVALS].map(|()| {
                scope.spawn(|| {
                    start.wait();
                    let socket = f.transport().pull(&Endpoint::Listen(address.clone()), &Options::default());
                    end.wait();
                    match socket {
                        Ok(_) => {
                            assert!(is_listening(&address));
                            1
                        }
                        Err(TransportError::AddressInUse(_)) => 0,
                        Err(error) => panic!("{error}"),
                    }
                })
            });
            rivals.map(|rival| rival.join().unwrap()).iter().sum::<usize>()
        });
        assert_eq!(winners, 1, "in round {round}");
    }
}

/// Socket files are private to their user.
pub fn addresses_are_private(f: &Fixture) {
    let _sockets = (f.pull(&f.listen("pull")), f.push(&f.listen("push")), f.reply("reply"));
    for name in ["pull", "push", "reply"] {
        let file = std::fs::metadata(f.at(name).path()).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600, "{name}");
        assert_eq!(file.uid(), rustix::process::geteuid().as_raw());
    }
}

/// Paths of up to 107 bytes can be used; longer ones are not valid addresses.
pub fn addresses_of_every_length(f: &Fixture) {
    let fill = |length: usize| {
        let used = f.folder().as_os_str().as_bytes().len() + 1;
        f.folder().join("x".repeat(length.checked_sub(used).expect("a shorter temporary folder")))
    };
    for length in [100, 104, 105, 106, 107] {
        let address = Address::new(fill(length)).unwrap();
        let pull = f.pull(&Endpoint::Listen(address.clone()));
        join(&*f.push(&Endpoint::Dial(address)), &*pull);
    }
    assert!(Address::new(fill(108)).is_err());
    assert!(Address::new(fill(110)).is_err());
}

/// An address at which no socket can be created results in an error with the
/// address and the reason.
pub fn addresses_that_cannot_be(f: &Fixture) {
    std::fs::write(f.at("file").path(), "").unwrap();
    for name in ["missing/socket", "file/socket"] {
        for refused in listen_all(f, &f.at(name)) {
            let error = refused.expect_err("it cannot listen there").to_string();
            assert!(error.contains(f.at(name).path().to_str().unwrap()), "{error}");
        }
    }
}
