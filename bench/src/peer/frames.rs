//! A plugin for a stock engine that has all its frames beforehand, and looks
//! into none that it gets: the limit of every SDK in a rule.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Instant;

use ekuiper_core::Chain;
use ekuiper_core::address::SocketFolder;
use ekuiper_core::codec::Format;
use ekuiper_core::message::{
    ANSWER_OK, Command, CommandKind, Control, HANDSHAKE, SymbolKind, encode_ack, encode_result, encode_tuple,
};
use ekuiper_core::sp::{Protocol, Requester};

use super::raw::Pipe;
use crate::reading::Reading;
use crate::{Error, Result};

/// The plugin's name, which is that of its folder.
pub const NAME: &str = "benchframes";

/// Serves the engine that has started this process.
///
/// # Errors
/// The control channel ends.
pub(crate) fn serve() -> Result<()> {
    let path = SocketFolder::default().control(NAME).map_err(failed)?;
    let mut control = Requests::dial(path.path())?;
    let mut answer = HANDSHAKE.to_vec();
    loop {
        let command = Command::decode(control.request(&answer)?).map_err(failed)?;
        answer = match command.kind {
            CommandKind::Start => match start(&command.control) {
                Ok(()) => ANSWER_OK.to_vec(),
                Err(error) => Chain(&error).to_string().into_bytes(),
            },
            // The engine has closed the channel, which ends the symbol's thread.
            CommandKind::Stop => ANSWER_OK.to_vec(),
        };
    }
}

/// Starts a symbol's thread, which ends with its channel.
fn start(control: &Control) -> Result<()> {
    let folder = SocketFolder::default();
    match control.plugin_type {
        SymbolKind::Source => {
            let pipe = Pipe::dial(folder.data(&control.meta).map_err(failed)?.path(), Protocol::Push)?;
            spawn(|| pour(pipe));
        }
        SymbolKind::Function => {
            let path = folder.function(&control.symbol_name).map_err(failed)?;
            let requests = Requests::dial(path.path())?;
            spawn(|| answer(requests));
        }
        SymbolKind::Sink => {
            let path = folder.data(&control.meta).map_err(failed)?;
            // That of a former engine.
            let _ = fs::remove_file(path.path());
            let listener = UnixListener::bind(path.path()).map_err(Error::io("listen on the sink's channel"))?;
            let acks = Pipe::dial(folder.ack(&control.meta).map_err(failed)?.path(), Protocol::Push)?;
            let count = control.config.as_ref().and_then(|config| config.get("count")?.as_str().map(PathBuf::from));
            spawn(|| acknowledge(listener, acks, count));
        }
    }
    Ok(())
}

fn spawn(work: impl FnOnce() -> Result<()> + Send + 'static) {
    std::thread::spawn(|| {
        if let Err(error) = work() {
            crate::tell(format_args!("{NAME}: a symbol has ended: {}", Chain(&error)));
        }
    });
}

/// Sends the same reading again and again.
fn pour(mut pipe: Pipe) -> Result<()> {
    let mut frame = Vec::new();
    let reading = Reading::with_note(String::new());
    encode_tuple(Format::Json, &mut frame, &reading, None::<&()>).map_err(failed)?;
    loop {
        pipe.put(&frame)?;
    }
}

/// Answers each call with the note of the readings that a rule is fed with.
fn answer(mut requests: Requests) -> Result<()> {
    let reply = |result: &serde_json::Value| {
        let mut reply = Vec::new();
        encode_result(Format::Json, &mut reply, result).map_err(failed)?;
        Ok::<_, Error>(reply)
    };
    let note = reply(&Reading::of_size(crate::subject::SIZE).note.into())?;
    let (validated, is_aggregate) = (reply(&"".into())?, reply(&false.into())?);
    let mut answer = HANDSHAKE;
    loop {
        let request = requests.request(answer)?;
        answer = if request.starts_with(br#"{"func":"Exec""#) {
            &note
        } else if request.starts_with(br#"{"func":"Validate""#) {
            &validated
        } else {
            &is_aggregate
        };
    }
}

/// Acknowledges each message, and writes their number when they end.
fn acknowledge(listener: UnixListener, mut acks: Pipe, count: Option<PathBuf>) -> Result<()> {
    let (stream, _) = listener.accept().map_err(Error::io("accept the engine's connection"))?;
    let mut rows = Pipe::greeted(stream, Protocol::Pull)?;
    let ack = encode_ack(Ok(()));
    let mut taken = 0u64;
    while rows.read().is_ok() {
        taken += 1;
        acks.write(&ack)?;
    }
    match count {
        Some(path) => fs::write(&path, taken.to_string()).map_err(Error::io(format!("write {}", path.display()))),
        None => Ok(()),
    }
}

/// A channel on which this plugin is asked by the replies that it gets.
struct Requests {
    pipe: Pipe,
    requester: Requester,
    message: Vec<u8>,
}

impl Requests {
    fn dial(path: &std::path::Path) -> Result<Self> {
        let pipe = Pipe::dial(path, Protocol::Request)?;
        Ok(Self { pipe, requester: Requester::new(std::process::id(), None), message: Vec::new() })
    }

    /// Sends a request, and returns the body of its reply.
    fn request(&mut self, body: &[u8]) -> Result<&[u8]> {
        self.message.clear();
        self.message.extend_from_slice(&self.requester.begin(Instant::now()));
        self.message.extend_from_slice(body);
        self.pipe.write(&self.message)?;
        loop {
            let reply = self.pipe.read()?;
            if let Some(body) = self.requester.accept(reply) {
                self.message.clear();
                self.message.extend_from_slice(body);
                return Ok(&self.message);
            }
        }
    }
}

fn failed(error: ekuiper_core::Error) -> Error {
    Error::Peer(Chain(&error).to_string())
}
