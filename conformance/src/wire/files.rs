//! Socket files in a folder where other users can create and lock files too,
//! such as `/tmp`. Not for transports that refuse such folders.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::Barrier;
use std::thread;

use ekuiper_core::transport::{Endpoint, Options, TransportError};

use crate::Fixture;
use crate::raw::is_listening;

/// Opens the folder: any user that can read it can hold a lock on it for ever.
fn share(f: &Fixture) -> File {
    std::fs::set_permissions(f.folder(), Permissions::from_mode(0o1777)).unwrap();
    let folder = File::open(f.folder()).unwrap();
    folder.lock().unwrap();
    folder
}

/// A lock that another user holds on the folder blocks neither listening nor
/// closing, and no file stays behind.
pub fn files_in_a_folder_that_is_locked(f: &Fixture) {
    let _locked = share(f);
    for _ in 0..3 {
        drop(UnixListener::bind(f.at("pull").path()).unwrap());
        let (pull, push, reply) = (f.pull(&f.listen("pull")), f.push(&f.listen("push")), f.reply("reply"));
        for name in ["pull", "push", "reply"] {
            assert!(is_listening(&f.at(name)), "{name}");
        }
        drop((pull, push, reply));
        assert!(std::fs::read_dir(f.folder()).unwrap().next().is_none(), "a file stays behind");
    }
}

/// Of several sockets that find the same stale file, exactly one takes it over,
/// and listens.
pub fn files_in_a_shared_folder_are_taken_over_by_one(f: &Fixture) {
    const RIVALS: usize = 6;
    let _locked = share(f);
    for round in 0..30 {
        let address = f.at(&format!("pull{round}"));
        drop(UnixListener::bind(address.path()).unwrap());
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
