//! Peers that wait for a listener's header, as the official SDKs do, get it
//! while nobody uses the socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Endpoint, Options, PullEvent, Transport};
use ekuiper_transport_uds::UdsTransport;

#[test]
fn whoever_connects_is_greeted_while_nobody_receives() {
    let folder = tempfile::tempdir().unwrap();
    let address = Address::new(folder.path().join("data.ipc")).unwrap();
    let (transport, options) = (UdsTransport::new(), Options::default());
    let pull = transport.pull(&Endpoint::Listen(address.clone()), &options).unwrap();

    let soon = Some(Instant::now() + Duration::from_secs(10));
    let push = transport.push(&Endpoint::Dial(address.clone()), &options).unwrap();
    push.connect(soon).unwrap();
    push.send(b"first", soon).unwrap();
    let mut buffer = Vec::new();
    assert!(matches!(pull.receive(&mut buffer, soon).unwrap(), PullEvent::Connected(_)));
    assert!(matches!(pull.receive(&mut buffer, soon).unwrap(), PullEvent::Message(_)));
    assert_eq!(buffer, b"first");
}

#[test]
fn a_stranger_is_sent_off_while_nobody_receives() {
    let folder = tempfile::tempdir().unwrap();
    let address = Address::new(folder.path().join("data.ipc")).unwrap();
    let pull = UdsTransport::new().pull(&Endpoint::Listen(address.clone()), &Options::default()).unwrap();
    let mut stranger = UnixStream::connect(address.path()).unwrap();
    stranger.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut said = Vec::new();
    // It may be reset, its own words unread.
    let _ = stranger.read_to_end(&mut said);
    assert_eq!(said, b"\0SP\0\0\x51\0\0");
    pull.close();
    assert!(UnixStream::connect(address.path()).is_err());
}
