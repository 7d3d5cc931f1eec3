//! Plugins that send much before they answer: every channel they may write to
//! is read all the while, on each transport.
#![allow(clippy::unwrap_used)] // these are tests, helpers included

mod support;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::message::Meta;
use ekuiper_core::transport::{ConnectionId, Deadline, Endpoint, Options, Push, Request, Result, Transport};
use ekuiper_host::Host;
use support::{PATIENCE, Stage, wait_until};

/// Far more than the kernel, or any transport, buffers for a reader.
const MANY: usize = 3000;

fn transports() -> Vec<Arc<dyn Transport>> {
    vec![
        #[cfg(feature = "uds")]
        Arc::new(ekuiper_transport_uds::UdsTransport::new()),
        #[cfg(feature = "nng")]
        Arc::new(ekuiper_transport_nng::NngTransport::new()),
        #[cfg(feature = "zeromq")]
        Arc::new(ekuiper_transport_zeromq::ZeromqTransport::new()),
        #[cfg(feature = "shm")]
        Arc::new(ekuiper_transport_shm::ShmTransport::new()),
    ]
}

fn soon() -> Deadline {
    Some(Instant::now() + PATIENCE)
}

/// A plugin that the test plays, over one transport.
struct Player {
    stage: Stage,
    transport: Arc<dyn Transport>,
    host: Host,
}

/// One of its control and function channels.
struct Line {
    socket: Box<dyn Request>,
    connection: ConnectionId,
}

impl Line {
    fn say(&self, words: &[u8]) -> Result<()> {
        self.socket.send(self.connection, words, soon())
    }

    fn hear(&self) -> Result<()> {
        self.socket.receive(&mut Vec::new(), soon())
    }
}

impl Player {
    fn new(transport: Arc<dyn Transport>) -> Self {
        let stage = Stage::new();
        std::fs::set_permissions(stage.sockets().path(), PermissionsExt::from_mode(0o700)).unwrap();
        let builder = stage.builder().plugin(stage.plugin("p", &["f"])).transport(transport.name());
        let host = builder.init_timeout(3 * PATIENCE).grace(Duration::from_millis(100)).build().unwrap();
        Self { stage, transport, host }
    }

    fn dial(&self, address: &Address) -> Result<Line> {
        wait_until("somebody listens", || address.path().exists());
        let socket = self.transport.request(address, &Options::default())?;
        let connection = socket.connect(soon())?;
        Ok(Line { socket, connection })
    }

    fn push(&self, address: &Address) -> Result<Box<dyn Push>> {
        let socket = self.transport.push(&Endpoint::Dial(address.clone()), &Options::default())?;
        socket.connect(soon())?;
        Ok(socket)
    }

    /// Opens something while the plugin plays; returns what was opened, and
    /// what the plugin keeps.
    fn play<T: Send, K: Send>(
        &self,
        open: impl FnOnce(&Host) -> T + Send,
        part: impl FnOnce(&Line) -> Result<K> + Send,
    ) -> (T, Line, K) {
        std::thread::scope(|scope| {
            let opened = scope.spawn(|| open(&self.host));
            let played = self.dial(&self.stage.sockets().control("p").unwrap()).and_then(|control| {
                control.say(b"handshake")?;
                control.hear()?;
                let kept = part(&control)?;
                control.say(b"ok")?;
                Ok((control, kept))
            });
            if played.is_err() {
                self.host.shutdown();
            }
            let opened = opened.join().unwrap();
            let name = self.transport.name();
            let (control, kept) = played.unwrap_or_else(|error| panic!("{name}: nobody reads the plugin: {error}"));
            (opened, control, kept)
        })
    }
}

fn meta(operator: &str) -> Meta {
    Meta { rule_id: "r".into(), op_id: operator.into(), instance_id: 0 }
}

#[test]
fn a_function_that_shakes_hands_again_and_again_before_its_start_is_answered() {
    for transport in transports() {
        let player = Player::new(transport);
        let function = player.stage.sockets().function("f").unwrap();
        let (opened, _control, _line) = player.play(
            |host| host.function("f").map(drop),
            |_| {
                let line = player.dial(&function)?;
                (0..MANY).try_for_each(|_| line.say(b"handshake"))?;
                Ok(line)
            },
        );
        opened.unwrap();
    }
}

#[test]
fn a_sink_that_acknowledges_without_end_before_its_start_is_answered() {
    for (transport, require_ack) in
        transports().into_iter().flat_map(|transport| [(transport.clone(), false), (transport, true)])
    {
        let player = Player::new(transport);
        let folder = player.stage.sockets();
        let (data, ack) = (folder.data(&meta("k")).unwrap(), folder.ack(&meta("k")).unwrap());
        let (opened, _control, _kept) = player.play(
            |host| host.sink("k").rule("r").operator("k").require_ack(require_ack).open(),
            |_| {
                let listening = player.transport.pull(&Endpoint::Listen(data), &Options::default())?;
                let acks = player.push(&ack)?;
                (0..MANY).try_for_each(|_| acks.send(b"{}", soon()))?;
                Ok((listening, acks))
            },
        );
        // Without the plugin, it cannot be stopped gracefully.
        player.host.shutdown();
        drop(opened.unwrap());
    }
}

#[test]
fn a_source_that_sends_rows_before_its_start_is_answered() {
    let row = |number: usize| format!(r#"{{"message":{{"n":{number},"filling":"{}"}},"meta":null}}"#, "x".repeat(500));
    for transport in transports() {
        let player = Player::new(transport);
        let data = player.stage.sockets().data(&meta("s")).unwrap();
        let (opened, _control, _push) = player.play(
            |host| host.source("s").rule("r").operator("s").open(),
            |_| {
                let push = player.push(&data)?;
                (0..MANY).try_for_each(|number| push.send(row(number).as_bytes(), soon()))?;
                Ok(push)
            },
        );
        let mut source = opened.unwrap();
        for number in 0..MANY {
            let tuple = source.next_within(PATIENCE).unwrap().unwrap();
            assert_eq!(tuple.message["n"], number, "each, in order");
        }
        player.host.shutdown();
    }
}

#[test]
fn a_plugin_that_shakes_hands_again_and_again_before_it_is_told_anything() {
    for transport in transports() {
        let player = Player::new(transport);
        std::thread::scope(|scope| {
            let started = scope.spawn(|| player.host.start("p"));
            let control = player.dial(&player.stage.sockets().control("p").unwrap()).unwrap();
            let said = (0..MANY).try_for_each(|_| control.say(b"handshake"));
            if said.is_err() {
                player.host.shutdown();
            }
            said.unwrap();
            started.join().unwrap().unwrap();
        });
    }
}
