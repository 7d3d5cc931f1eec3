//! The four patterns once, through the contract.
use ekuiper_core::address::Address;
use ekuiper_core::transport::*;
use ekuiper_transport_uds::UdsTransport;
use std::time::{Duration, Instant};

fn soon() -> Deadline {
    Some(Instant::now() + Duration::from_secs(5))
}

#[test]
fn four_patterns() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| Address::new(folder.path().join(name)).unwrap();
    let t = UdsTransport::new();
    let o = Options::default();
    let pull = t.pull(&Endpoint::Listen(at("p")), &o).unwrap();
    let push = t.push(&Endpoint::Dial(at("p")), &o).unwrap();
    let mut b = Vec::new();
    std::thread::scope(|s| {
        s.spawn(|| {
            for i in 0..1000u32 {
                push.send(&i.to_be_bytes(), soon()).unwrap();
            }
        });
        assert!(matches!(pull.receive(&mut b, soon()).unwrap(), PullEvent::Connected(_)));
        for i in 0..1000u32 {
            pull.receive(&mut b, soon()).unwrap();
            assert_eq!(b, i.to_be_bytes());
        }
    });
    push.close();
    assert!(matches!(pull.receive(&mut b, soon()).unwrap(), PullEvent::Disconnected(_)));
    let rep = t.reply(&at("r"), &o).unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            let r = t.request(&at("r"), &o).unwrap();
            let c = r.connect(soon()).unwrap();
            let mut b = Vec::new();
            let start = Instant::now();
            for _ in 0..10000 {
                r.send(c, b"hello", soon()).unwrap();
                r.receive(&mut b, soon()).unwrap();
                assert_eq!(b, b"world");
            }
            eprintln!("{:?} per round trip", start.elapsed() / 10000);
        });
        let mut n = 0;
        loop {
            match rep.receive(&mut b, soon()).unwrap() {
                ReplyEvent::Request(t) => {
                    assert_eq!(b, b"hello");
                    rep.send(&t, b"world", soon()).unwrap();
                    n += 1;
                }
                ReplyEvent::Disconnected(_) => break,
                _ => {}
            }
        }
        assert_eq!(n, 10000);
    });
}
