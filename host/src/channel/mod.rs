//! One control or function channel: commands out, answers in, never confused.
//! What comes in is told apart in `events`.

pub(crate) mod dependents;
pub(crate) mod idle_reader;
pub(crate) mod speaker;

mod events;

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::exchange::{Arrival, HostEnd, NotReady};
use ekuiper_core::message::Hello;
use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::{ConnectionId, Reply, TransportError};
use ekuiper_transport_ipc::lock::DeadlineLock;

use crate::process::EXIT_GRACE;
use dependents::ProcessScope;
use idle_reader::{LOOK_LIMIT, Tended, Watched};

/// How long a function's peer may take to connect again by itself, after its
/// connection has ended: libnng tries again within a second.
const RECONNECT: Duration = Duration::from_secs(1);

/// A listening channel and what is known of its peer.
pub(crate) struct Channel {
    address: Address,
    reply: Arc<dyn Reply>,
    /// Of the process that is to be the peer.
    scope: Arc<ProcessScope>,
    /// Whoever exchanges something has it from the command to the answer.
    state: DeadlineLock<State>,
    /// How many exchanges there were: tells the idle reader that it is in use.
    uses: AtomicU64,
    /// Its peer comes to a start, and to another one if it has gone.
    is_function: bool,
    /// A peer has shaken hands and is connected.
    has_peer: AtomicBool,
    /// Another process is to follow: nothing is sent any more.
    is_left: AtomicBool,
    /// Every wait on it has been ended.
    is_closed: AtomicBool,
}

#[derive(Default)]
struct State {
    end: HostEnd,
    buffer: Vec<u8>,
    /// When the last peer has gone.
    lost_at: Option<Instant>,
    /// How many are connected.
    connections: usize,
    /// How many events in a row were not the peer's.
    strangers: usize,
    rivals: Throttle,
    garbages: Throttle,
    /// What the first stranger said, for the error.
    garbage: Option<Vec<u8>>,
    /// What those said of themselves who are connected.
    hellos: HashMap<ConnectionId, Hello>,
    /// A command whose caller has gone on.
    posted: Option<Tell>,
}

/// Takes the answer: what is in the buffer, or why there is none.
type Tell = Box<dyn FnOnce(Result<&mut Vec<u8>, Failure>) + Send>;

impl State {
    /// The peer has sent nothing more so far: each connection is heard in its
    /// turn, and the others have had several. Who floods the channel does not
    /// keep anybody from going on.
    fn has_heard_the_peer(&self) -> bool {
        self.strangers > 16 + 2 * self.connections
    }

    /// Takes note of whose event it was.
    fn count(&mut self, connection: ConnectionId) {
        self.strangers = if self.end.peer() == Some(connection) { 0 } else { self.strangers.saturating_add(1) };
    }

    /// Gives the answer to what was posted, or what there is instead.
    fn tell(&mut self, outcome: Result<(), Failure>) {
        if let Some(posted) = self.posted.take() {
            posted(outcome.map(|()| &mut self.buffer));
        }
    }

    /// Why no command can be sent.
    fn not_ready(&self) -> NotReady {
        if self.end.peer().is_none() { NotReady::NoPeer } else { NotReady::Busy }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody has shaken hands by the deadline, or the peer still works on an
    /// earlier command. Nothing was sent.
    NotReady(NotReady),
    /// The command was sent, and no answer came by the deadline.
    Timeout,
    /// The peer went away while the command was out.
    OutcomeUnknown,
    /// The peer has gone, and has not come back by itself. Nothing was sent.
    Lost,
    /// The process has ended. Nothing was sent.
    ProcessEnded,
    /// The answer is longer than the limit.
    AnswerTooLong(u64),
    /// Somebody connected and said this instead of a handshake.
    Garbage(Vec<u8>),
    /// The channel cannot be used.
    Transport(TransportError),
}

impl Failure {
    /// Whether the command may be carried out all the same, by a process that
    /// lives.
    pub(crate) fn may_be_carried_out(&self) -> bool {
        match self {
            Self::NotReady(_) | Self::Lost | Self::ProcessEnded | Self::Garbage(_) => false,
            Self::Timeout | Self::OutcomeUnknown | Self::AnswerTooLong(_) | Self::Transport(_) => true,
        }
    }
}

impl Channel {
    /// Listens for a plugin, which may begin with a hello where it was asked
    /// for one.
    pub(crate) fn listen(scope: &Arc<ProcessScope>, address: &Address, end: HostEnd) -> Result<Self, TransportError> {
        Ok(Self {
            address: address.clone(),
            reply: scope.reply(address)?,
            scope: scope.clone(),
            state: DeadlineLock::new(State { end, ..State::default() }),
            uses: AtomicU64::new(0),
            is_function: false,
            has_peer: AtomicBool::new(false),
            is_left: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        })
    }

    /// The same, for the channel of a function.
    pub(crate) fn listen_for_function(scope: &Arc<ProcessScope>, address: &Address) -> Result<Self, TransportError> {
        Ok(Self { is_function: true, ..Self::listen(scope, address, HostEnd::new())? })
    }

    /// Waits until a plugin has shaken hands. With `strict`, the first word
    /// that is none ends the wait: for a folder that only the plugin reaches.
    pub(crate) fn wait_ready(&self, deadline: Instant, strict: bool) -> Result<(), Failure> {
        let mut state = self.state.lock(deadline).ok_or(Failure::NotReady(NotReady::NoPeer))?;
        while !state.end.is_ready() {
            self.wait(&mut state, deadline)?;
            if strict && let Some(said) = state.garbage.take() {
                return Err(Failure::Garbage(said));
            }
        }
        Ok(())
    }

    /// Whether its peer has gone, while its process lives. Before there is one,
    /// it has.
    pub(crate) fn is_lost(&self) -> bool {
        !self.has_peer.load(Ordering::SeqCst) && !self.scope.is_over()
    }

    /// Waits until the peer has connected again by itself: not for long.
    pub(crate) fn wait_back(&self) -> Result<(), Failure> {
        // Whoever uses it waits no longer for the peer.
        let mut state = self.state.lock(Instant::now() + 2 * RECONNECT).ok_or(Failure::NotReady(NotReady::Busy))?;
        while state.end.peer().is_none() {
            let until = state.lost_at.map_or_else(Instant::now, |lost_at| lost_at + RECONNECT);
            self.wait(&mut state, until)?;
        }
        Ok(())
    }

    /// Whether a command could be sent now; `None` while one is out.
    pub(crate) fn is_ready(&self) -> Option<bool> {
        let mut state = self.state.try_lock()?;
        self.drain(&mut state);
        Some(state.end.is_ready())
    }

    /// Whether a plugin that has shaken hands is connected.
    pub(crate) fn has_peer(&self) -> bool {
        self.look();
        self.has_peer.load(Ordering::SeqCst)
    }

    /// Whether the plugin is known to be still connected just now: not while
    /// another thread uses the channel.
    pub(crate) fn still_has_peer(&self) -> bool {
        let Some(mut state) = self.state.try_lock() else { return false };
        state.strangers = 0;
        let past = Instant::now();
        for _ in 0..LOOK_LIMIT {
            match self.step(&mut state, past) {
                Ok(_) => {}
                Err(Failure::NotReady(_)) => return state.end.peer().is_some(),
                Err(_) => return false,
            }
        }
        false
    }

    /// What the plugin said of itself, if it did.
    pub(crate) fn hello(&self) -> Option<Hello> {
        let state = self.state.lock(Instant::now() + EXIT_GRACE)?;
        state.hellos.get(&state.end.peer()?).cloned()
    }

    /// Whether nothing is sent on it any more: its process has ended or is
    /// left, or it is closed.
    pub(crate) fn is_over(&self) -> bool {
        self.scope.is_over() || [&self.is_left, &self.is_closed].into_iter().any(|flag| flag.load(Ordering::SeqCst))
    }

    /// Whether the next call may go there as it is.
    pub(crate) fn is_usable(&self) -> bool {
        !self.is_over() && !self.is_lost()
    }

    /// What a stranger said, if one did.
    pub(crate) fn take_garbage(&self) -> Option<Vec<u8>> {
        self.state.try_lock()?.garbage.take()
    }

    /// Lets the exchange that is under way come to its end, and no other
    /// begin: whoever wants one is told that the process has ended.
    pub(crate) fn leave(&self, deadline: Instant) {
        self.is_left.store(true, Ordering::SeqCst);
        drop(self.state.lock(deadline));
    }

    /// Sends a command and gives its answer to `read`.
    pub(crate) fn exchange<R>(
        &self,
        command: &[u8],
        send_by: Instant,
        answer_by: Instant,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, Failure> {
        self.uses.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock(send_by).ok_or(Failure::NotReady(NotReady::Busy))?;
        if self.is_left.load(Ordering::SeqCst) {
            return Err(Failure::ProcessEnded);
        }
        self.prepare(&mut state, send_by)?;
        self.send(&mut state, command, send_by)?;
        loop {
            match self.wait(&mut state, answer_by) {
                Ok(Some(Arrival::Answer)) => return Ok(read(&state.buffer)),
                Ok(Some(Arrival::SendAgain)) => self.send(&mut state, command, send_by.max(Instant::now()))?,
                Ok(_) => {}
                Err(Failure::NotReady(_)) => {
                    state.end.abandon();
                    return Err(Failure::Timeout);
                }
                Err(Failure::ProcessEnded) => return Err(Failure::OutcomeUnknown),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Sends a command to a plugin of ours, and does not wait for its answer: `tell` takes that,
    /// whoever receives it, at the latest whoever uses the channel next or
    /// [settles](Channel::settle) it.
    pub(crate) fn post(
        &self,
        command: &[u8],
        send_by: Instant,
        tell: impl FnOnce(Result<&mut Vec<u8>, Failure>) + Send + 'static,
    ) -> Result<(), Failure> {
        self.uses.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock(send_by).ok_or(Failure::NotReady(NotReady::Busy))?;
        if self.is_left.load(Ordering::SeqCst) {
            return Err(Failure::ProcessEnded);
        }
        self.prepare(&mut state, send_by)?;
        self.send(&mut state, command, send_by)?;
        state.posted = Some(Box::new(tell));
        Ok(())
    }

    /// Waits, at most until `deadline`, until the answer to what was
    /// [posted](Channel::post) has been given to whoever wants it; after
    /// `answer_by` it is given up, and gets nothing more.
    pub(crate) fn settle(&self, deadline: Instant, answer_by: Instant) {
        self.uses.fetch_add(1, Ordering::Relaxed);
        let Some(mut state) = self.state.lock(deadline) else { return };
        while state.posted.is_some() {
            match self.wait(&mut state, deadline.min(answer_by)) {
                Ok(_) => {}
                Err(Failure::NotReady(_)) if Instant::now() >= answer_by => {
                    state.end.abandon();
                    state.tell(Err(Failure::Timeout));
                }
                Err(Failure::NotReady(_)) => return,
                Err(Failure::ProcessEnded) => state.tell(Err(Failure::OutcomeUnknown)),
                Err(failure) => state.tell(Err(failure)),
            }
        }
    }

    /// Ends every wait.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.reply.close();
    }

    /// Takes what is there, if nobody else does.
    pub(crate) fn look(&self) {
        if let Some(mut state) = self.state.try_lock() {
            self.drain(&mut state);
        }
    }

    /// Before a command is sent.
    fn prepare(&self, state: &mut State, deadline: Instant) -> Result<(), Failure> {
        // Whatever has queued up goes first: a command answers the latest
        // request, and is sent once (fault 2).
        self.drain(state);
        while state.posted.is_some() {
            match self.wait(state, deadline) {
                // Told to whoever has posted it.
                Ok(_) | Err(Failure::OutcomeUnknown) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    fn send(&self, state: &mut State, command: &[u8], deadline: Instant) -> Result<(), Failure> {
        loop {
            let ticket = match state.end.begin() {
                Ok(ticket) => ticket,
                Err(_) => {
                    let back_by = state.lost_at.filter(|_| self.is_function).map(|lost_at| lost_at + RECONNECT);
                    let until = back_by.map_or(deadline, |back_by| back_by.min(deadline));
                    match self.wait(state, until) {
                        Err(Failure::NotReady(NotReady::NoPeer)) if until < deadline => return Err(Failure::Lost),
                        waited => waited?,
                    };
                    continue;
                }
            };
            match self.reply.send(&ticket, command, Some(deadline)) {
                Ok(()) => return Ok(()),
                // A request came, or the connection ended, since the last
                // look: its event tells.
                Err(TransportError::Misuse(_) | TransportError::Disconnected) => {
                    state.end.cancel_send();
                    self.wait(state, deadline)?;
                }
                Err(error) => {
                    state.end.not_sent(ticket);
                    return Err(match error {
                        TransportError::Closed => Failure::ProcessEnded,
                        error => Failure::Transport(error),
                    });
                }
            }
        }
    }

    /// Takes what is there, without waiting.
    fn drain(&self, state: &mut State) {
        let past = Instant::now();
        state.strangers = 0;
        while !state.has_heard_the_peer() && self.step(state, past).is_ok() {}
    }

    /// The same, for whoever waits: strangers do not prolong that.
    fn wait(&self, state: &mut State, deadline: Instant) -> Result<Option<Arrival>, Failure> {
        let arrival = self.step(state, deadline)?;
        if state.has_heard_the_peer() && Instant::now() >= deadline {
            return Err(Failure::NotReady(state.not_ready()));
        }
        Ok(arrival)
    }
}

impl Watched for Channel {
    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.reply.readiness()
    }

    fn uses(&self) -> u64 {
        self.uses.load(Ordering::Relaxed)
    }

    /// Reads keepalives while no call does (fault 1).
    fn tend(&self) -> Tended {
        match self.state.try_lock() {
            Some(mut state) => {
                state.strangers = 0;
                let mut whole = false;
                // Whoever floods it is read on at the next look.
                for _ in 0..LOOK_LIMIT {
                    if state.has_heard_the_peer() {
                        break;
                    }
                    match self.step(&mut state, Instant::now()) {
                        Ok(arrival) => whole |= arrival.is_some(),
                        Err(Failure::OutcomeUnknown) => whole = true,
                        Err(Failure::NotReady(_)) => return if whole { Tended::Idle } else { Tended::Piece },
                        Err(_) => return Tended::Over,
                    }
                }
                Tended::Idle
            }
            None => Tended::InUse,
        }
    }
}
