//! Sources on the official SDKs, which cannot block for long: what they send
//! while nobody reads is queued, up to a limit. Puppets in `/tmp`, the folder
//! of those SDKs, stand in for them; `interop` tests the real ones.
#![allow(clippy::unwrap_used)] // these are tests, helpers included

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use ekuiper_conformance::raw::{PULL, PUSH, RawPeer, frame};
use ekuiper_core::address::SocketFolder;
use ekuiper_core::message::Meta;
use ekuiper_host::{Error, Event, EventKind, Host, HostBuilder, Source};
use serde_json::{Value, json};
use support::{PATIENCE, Puppet, Stage};

/// More than the kernel's buffer of a connection (some 280), and less than the
/// default queue.
const MANY: u64 = 1000;

/// A plugin that supports no socket folder but `/tmp`, with unique names.
struct Official {
    stage: Stage,
    name: String,
}

impl Official {
    fn new() -> Self {
        let stage = Stage::new();
        let own = stage.path().file_name().unwrap().to_string_lossy().replace('.', "");
        let name = format!("o{own}");
        stage.named(&name, "exec sleep 1000");
        Self { stage, name }
    }

    /// Creates a host with the plugin, after its handshake.
    fn started(&self, build: impl FnOnce(HostBuilder) -> HostBuilder) -> (Host, Puppet) {
        let host = build(Host::builder().plugin(self.stage.path().join(&self.name))).build().unwrap();
        let control = std::thread::scope(|scope| {
            let start = scope.spawn(|| host.start(&self.name));
            let control = Puppet::greet(&self.tmp().control(&self.name).unwrap());
            start.join().unwrap().unwrap();
            control
        });
        (host, control)
    }

    fn tmp(&self) -> SocketFolder {
        SocketFolder::new("/tmp")
    }

    /// Opens the plugin's source; returns its handle and its puppet.
    fn open(&self, host: &Host, control: &mut Puppet) -> (Source, RawPeer) {
        std::thread::scope(|scope| {
            let open = scope.spawn(|| host.source(&format!("s{}", self.name)).rule(&self.name).operator("s").open());
            let peer = self.serve(control);
            (open.join().unwrap().unwrap(), peer)
        })
    }

    /// Answers the start of the source. A stop may arrive again before it,
    /// while the end has not been seen.
    fn serve(&self, control: &mut Puppet) -> RawPeer {
        while control.command().0 == "stop" {
            control.say(b"ok");
        }
        let meta = Meta { rule_id: self.name.clone(), op_id: "s".into(), instance_id: 0 };
        let peer = RawPeer::dial_as(&self.tmp().data(&meta).unwrap(), PUSH, PULL);
        control.say(b"ok");
        peer
    }
}

fn tuple(number: u64) -> Vec<u8> {
    frame(format!(r#"{{"message":{number},"meta":{{"filler":"{:100}"}}}}"#, "").as_bytes())
}

fn next(source: &mut Source) -> Value {
    source.next_within(PATIENCE).unwrap().expect("the source goes on").message
}

/// Runs a source that sends as fast as it can, until it is stopped.
struct Flood(Arc<AtomicBool>);

impl Flood {
    fn start(mut peer: RawPeer) -> Self {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = is_stopped.clone();
        std::thread::spawn(move || {
            (0..).take_while(|_| !stopped.load(SeqCst)).all(|number| peer.try_write(&tuple(number)))
        });
        Self(is_stopped)
    }

    /// Answers the next stop.
    fn stop(self, control: &mut Puppet) {
        assert_eq!(control.command().0, "stop");
        self.0.store(true, SeqCst);
        control.say(b"ok");
    }
}

fn await_overrun(events: &Receiver<Event>) {
    while !matches!(events.recv_timeout(PATIENCE).expect("it is never overrun").kind, EventKind::Overrun { .. }) {}
}

#[test]
fn what_an_official_source_sends_while_nobody_reads_is_kept_in_order() {
    let plugin = Official::new();
    let (host, mut control) = plugin.started(|builder| builder);
    let (mut source, mut peer) = plugin.open(&host, &mut control);
    // Nobody reads, and yet each message is accepted.
    for number in 0..MANY {
        peer.write(&tuple(number));
    }
    for number in 0..MANY {
        assert_eq!(next(&mut source), number);
        if number == MANY / 2 {
            // After the queued messages.
            peer.write(&tuple(MANY));
        }
    }
    assert_eq!(next(&mut source), MANY);
    assert_eq!(host.status(&plugin.name).unwrap().traffic.overruns, 0);
    // A message larger than any buffer also arrives whole.
    let long = "x".repeat(3 << 20);
    peer.write(&frame(json!({ "message": long }).to_string().as_bytes()));
    peer.write(&tuple(0));
    assert!(next(&mut source) == long);
    assert_eq!(next(&mut source), 0);
    drop(peer);
    assert!(source.next_within(PATIENCE).unwrap().is_none(), "its own end is its end");
    close(source, &mut control);
}

#[test]
fn a_slow_reader_does_not_hold_up_an_official_source() {
    let plugin = Official::new();
    let (host, mut control) = plugin.started(|builder| builder);
    let (mut source, mut peer) = plugin.open(&host, &mut control);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            // The reader is far too slow, which buffers on the way hide.
            for number in 0..5 {
                assert_eq!(next(&mut source), number);
                std::thread::sleep(Duration::from_millis(400));
            }
        });
        for number in 0..MANY {
            peer.write(&tuple(number));
        }
        reader.join().unwrap();
    });
    for number in 5..MANY {
        assert_eq!(next(&mut source), number);
    }
    drop(peer);
    close(source, &mut control);
}

#[test]
fn an_official_source_that_is_overrun_is_started_again_after_an_error() {
    for bounds in [(100, 64 << 20), (1_000_000, 100 * (tuple(10).len() - 9))] {
        let plugin = Official::new();
        let (host, mut control) = plugin.started(|builder| builder.source_queue(bounds.0, bounds.1));
        let events = host.events();
        let (mut source, peer) = plugin.open(&host, &mut control);
        let flood = Flood::start(peer);
        await_overrun(&events);
        assert_eq!(host.status(&plugin.name).unwrap().traffic.overruns, 1);
        let mut kept = 0;
        let error = loop {
            match source.next_within(PATIENCE) {
                Ok(tuple) => assert_eq!(tuple.unwrap().message, kept),
                Err(error) => break error,
            }
            kept += 1;
        };
        match &error {
            Error::Overrun { symbol, messages, .. } => {
                assert_eq!((symbol, *messages), (&format!("s{}", plugin.name), kept as usize));
            }
            error => panic!("{error:?}"),
        }
        assert!((100..110).contains(&kept), "{kept}");
        assert!(error.to_string().contains("raise source_queue"), "{error}");
        // The source is stopped, what it still sends is dropped, and it is
        // restarted.
        assert!(matches!(source.next_within(Duration::from_millis(50)), Err(Error::Timeout { .. })));
        flood.stop(&mut control);
        let mut peer = plugin.serve(&mut control);
        peer.write(&tuple(77));
        assert_eq!(next(&mut source), 77);
        assert_eq!(host.status(&plugin.name).unwrap().traffic.overruns, 1);
        drop(peer);
        close(source, &mut control);
    }
}

#[test]
fn an_official_source_can_be_closed_while_it_is_overrun() {
    let plugin = Official::new();
    let (host, mut control) = plugin.started(|builder| builder.source_queue(100, 64 << 20));
    let events = host.events();
    let (source, peer) = plugin.open(&host, &mut control);
    let flood = Flood::start(peer);
    await_overrun(&events);
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| source.close());
        flood.stop(&mut control);
        while !closed.is_finished() {
            // As in `serve`.
            if !control.is_left_alone_for(Duration::from_millis(1)) {
                assert_eq!(control.command().0, "stop");
                control.say(b"ok");
            }
        }
        closed.join().unwrap().unwrap();
    });
    host.shutdown();
}

/// Closes a source whose connection has ended, while the puppet answers the
/// stop.
fn close(source: Source, control: &mut Puppet) {
    std::thread::scope(|scope| {
        let closed = scope.spawn(|| source.close());
        assert_eq!(control.command().0, "stop");
        control.say(b"ok");
        closed.join().unwrap().unwrap();
    });
}
