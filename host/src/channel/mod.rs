//! One control or function channel: commands go out, and answers come in.
//!
//! A thread sends a command and waits for its answer
//! ([`exchange`](Channel::exchange)), or posts it ([`post`](Channel::post), for
//! tasks [`try_post`](Channel::try_post)): then whichever thread reads the
//! answer passes it on. Which request is the answer to which command is decided
//! by [`HostEnd`]; `events` passes it what arrives.

pub(crate) mod dependents;
pub(crate) mod idle_reader;
pub(crate) mod speaker;

mod events;
mod failure;
mod state;

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::buffer::trim;
use ekuiper_core::exchange::{Arrival, HostEnd, NotReady};
use ekuiper_core::instant::later;
use ekuiper_core::message::Hello;
use ekuiper_core::transport::{PeerProcess, Reply, TransportError};
use ekuiper_transport_ipc::lock::{DeadlineLock, Held, Waited};
use ekuiper_transport_ipc::wait::deadline_after;

use crate::process::EXIT_GRACE;
pub(crate) use failure::Failure;
pub(crate) use state::PostNumber;

use dependents::ProcessScope;
use idle_reader::{Armer, LOOK_LIMIT, Tended, Watch, Watched};
use state::State;

/// Time for a function's peer to reconnect by itself after its connection has
/// ended: libnng retries within a second.
const RECONNECT: Duration = Duration::from_secs(1);

/// Interval of the check whether a wait was ended from elsewhere.
pub(crate) const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Interval of the check whether a connection has room for a message, where no
/// event tells.
pub(crate) const ROOM_PAUSE: Duration = Duration::from_millis(1);

/// A listening channel, and what is known of its peer.
pub(crate) struct Channel {
    address: Address,
    reply: Arc<dyn Reply>,
    /// Scope of the process that is to be the peer.
    scope: Arc<ProcessScope>,
    /// Held by [`exchange`](Channel::exchange) from its command to the answer;
    /// by a caller that posts, only until the command is sent. Tasks and the
    /// idle reader only try it.
    state: DeadlineLock<State>,
    /// Number of exchanges, posts and waits, which tells the idle reader that
    /// the channel is in use.
    uses: AtomicU64,
    /// The plugin connects in response to `start`, and reconnects only after
    /// another `start`.
    is_function: bool,
    /// A peer is connected and has completed its handshake.
    has_peer: AtomicBool,
    /// The process is being replaced: nothing more is sent.
    is_left: AtomicBool,
    /// Every wait on the channel has been ended.
    is_closed: AtomicBool,
    /// A time in the past.
    listened_at: Instant,
    /// Absent where no task waits.
    armer: OnceLock<Arc<Armer>>,
    /// A task waits for the next event.
    has_waiting_task: AtomicBool,
}

impl Channel {
    /// Listens for a plugin, which may begin with a hello if it was asked to.
    pub(crate) fn listen(scope: &Arc<ProcessScope>, address: &Address, end: HostEnd) -> Result<Self, TransportError> {
        Ok(Self::new(scope, address, scope.control(address)?, end))
    }

    fn new(scope: &Arc<ProcessScope>, address: &Address, reply: Arc<dyn Reply>, end: HostEnd) -> Self {
        Self {
            address: address.clone(),
            reply,
            scope: scope.clone(),
            state: DeadlineLock::new(State::new(end)),
            uses: AtomicU64::new(0),
            is_function: false,
            has_peer: AtomicBool::new(false),
            is_left: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            listened_at: Instant::now(),
            armer: OnceLock::new(),
            has_waiting_task: AtomicBool::new(false),
        }
    }

    /// Listens for the plugin on the channel of a function.
    pub(crate) fn listen_for_function(scope: &Arc<ProcessScope>, address: &Address) -> Result<Self, TransportError> {
        Ok(Self { is_function: true, ..Self::new(scope, address, scope.function(address)?, HostEnd::new()) })
    }

    /// Lets tasks wait for the channel, which the idle reader watches for them.
    pub(crate) fn enable_tasks(&self, watch: &Watch) {
        let _ = self.armer.set(watch.armer());
    }

    /// Has the idle reader handle the next event as soon as no thread uses the
    /// channel: a task waits for it.
    pub(crate) fn arm_idle_reader(&self) {
        self.has_waiting_task.store(true, Ordering::SeqCst);
        if let Some(armer) = self.armer.get() {
            armer.arm();
        }
    }

    /// Waits until a plugin has completed its handshake. With `strict`, the
    /// first message that is no handshake ends the wait: for a folder that only
    /// the plugin can reach.
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

    /// Waits until a function that was just started has completed its handshake.
    /// Gives up earlier when its connection has ended, and no other has come
    /// within [`RECONNECT`].
    pub(crate) fn wait_started(&self, deadline: Instant) -> Result<(), Failure> {
        let mut state = self.state.lock(deadline).ok_or(Failure::NotReady(NotReady::NoPeer))?;
        let mut give_up = deadline;
        while !state.end.is_ready() {
            let before = state.connections;
            self.wait(&mut state, give_up)?;
            if state.connections < before {
                give_up = deadline.min(deadline_after(RECONNECT));
            } else if state.connections > before {
                give_up = deadline;
            }
        }
        Ok(())
    }

    /// Returns whether anything is connected, or may be: another thread uses the
    /// channel.
    pub(crate) fn has_connection(&self) -> bool {
        self.state.try_lock().is_none_or(|state| state.connections > 0)
    }

    /// Returns whether the peer is disconnected, or has never connected, while
    /// its process is alive.
    pub(crate) fn is_lost(&self) -> bool {
        !self.has_peer.load(Ordering::SeqCst) && !self.scope.is_over()
    }

    /// Waits for the peer to reconnect by itself, at most [`RECONNECT`] from the
    /// end of its connection.
    pub(crate) fn await_reconnect(&self) -> Result<(), Failure> {
        // A caller that holds the channel gives up the peer before that.
        let mut state = self.state.lock(deadline_after(2 * RECONNECT)).ok_or(Failure::NotReady(NotReady::Busy))?;
        while state.end.peer().is_none() {
            let until = state.lost_at.map_or_else(Instant::now, |lost_at| lost_at + RECONNECT);
            self.wait(&mut state, until)?;
        }
        Ok(())
    }

    /// Returns whether a command could be sent now; `None` while one is in
    /// flight whose answer is waited for.
    pub(crate) fn is_ready(&self) -> Option<bool> {
        let mut state = self.state.try_lock()?;
        self.drain(&mut state);
        state.posted.is_none().then(|| state.end.is_ready())
    }

    /// Returns whether a plugin that has completed its handshake is connected.
    pub(crate) fn has_peer(&self) -> bool {
        self.look();
        self.has_peer.load(Ordering::SeqCst)
    }

    /// Returns whether the plugin is known to be connected at this moment;
    /// false while another thread uses the channel.
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

    /// Returns the process that is connected and has completed its handshake, if
    /// the transport tells.
    pub(crate) fn peer_process(&self) -> Option<PeerProcess> {
        let mut state = self.state.lock(deadline_after(EXIT_GRACE))?;
        self.drain(&mut state);
        self.reply.peer(state.end.peer()?)
    }

    /// Returns what the plugin has announced of itself, if anything.
    pub(crate) fn hello(&self) -> Option<Hello> {
        let state = self.state.lock(deadline_after(EXIT_GRACE))?;
        state.hellos.get(&state.end.peer()?).cloned()
    }

    /// Returns whether the channel is no longer used: its process has ended or
    /// is being replaced, or the channel is closed.
    pub(crate) fn is_over(&self) -> bool {
        self.scope.is_over() || [&self.is_left, &self.is_closed].into_iter().any(|flag| flag.load(Ordering::SeqCst))
    }

    /// Returns whether the next call can use the channel as it is.
    pub(crate) fn is_usable(&self) -> bool {
        !self.is_over() && !self.is_lost()
    }

    /// Takes the first bytes of a stranger, if there was one.
    pub(crate) fn take_garbage(&self) -> Option<Vec<u8>> {
        self.state.try_lock()?.garbage.take()
    }

    /// Waits for the exchange in flight, [posted](Channel::post) ones included,
    /// and refuses later ones as if the process had ended.
    pub(crate) fn leave(&self, deadline: Instant) {
        self.is_left.store(true, Ordering::SeqCst);
        // The answer may still come after the deadline.
        self.settle(deadline, deadline + EXIT_GRACE);
    }

    /// [Posts](Channel::post) a command without waiting for anything. If that
    /// is not possible now, returns `None`, and wakes `waker` when it may be.
    /// With `may_cross`, the plugin may be sending a keepalive.
    pub(crate) fn try_post(
        &self,
        command: &[u8],
        may_cross: bool,
        waker: &Waker,
        tell: impl FnOnce(Result<&mut Vec<u8>, Failure>) + Send + 'static,
    ) -> Result<Option<PostNumber>, Failure> {
        self.uses.fetch_add(1, Ordering::Relaxed);
        let Some(mut state) = self.state.try_lock_or_wake(waker) else { return Ok(None) };
        if self.is_left.load(Ordering::SeqCst) || self.is_closed.load(Ordering::SeqCst) {
            return Err(Failure::ProcessEnded);
        }
        let past = Instant::now();
        match self.prepare(&mut state, past).and_then(|()| self.send(&mut state, command, past, past)) {
            Ok(()) => {
                let command = may_cross.then(|| command.to_vec());
                Ok(Some(state.mark_posted(Box::new(tell), command)))
            }
            Err(Failure::NotReady(NotReady::Busy)) => {
                state.tasks.push(waker.clone());
                drop(state);
                self.arm_idle_reader();
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Gives up the wait for the answer to this [posted](Channel::post) command,
    /// or to any. Returns false if the channel is in use; `waker` is woken then
    /// when it is not.
    pub(crate) fn try_expire(&self, number: Option<PostNumber>, waker: &Waker) -> bool {
        let Some(mut state) = self.state.try_lock_or_wake(waker) else { return false };
        self.drain(&mut state);
        if state.has_posted(number) {
            state.end.abandon();
            state.tell(Err(Failure::Timeout));
        }
        true
    }

    /// Has `waker` woken when the channel is not in use any more.
    pub(crate) fn wake_on_release(&self, waker: &Waker) {
        self.state.wake_on_release(waker);
    }

    /// Wakes the threads that [settle](Channel::settle_unless), so that they
    /// check again whether what they wait for is done.
    pub(crate) fn look_again(&self) {
        self.state.look_again();
    }

    /// Sends a command, whose answer is then due. Waits until `ready_by` for the
    /// plugin to be ready for it.
    fn begin(&self, command: &[u8], ready_by: Instant, send_by: Instant) -> Result<Held<'_, State>, Failure> {
        self.uses.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock(ready_by).ok_or(Failure::NotReady(NotReady::Busy))?;
        if self.is_left.load(Ordering::SeqCst) || self.is_closed.load(Ordering::SeqCst) {
            return Err(Failure::ProcessEnded);
        }
        self.prepare(&mut state, ready_by)?;
        self.send(&mut state, command, ready_by, send_by)?;
        Ok(state)
    }

    /// Sends a command, and passes its answer to `read`.
    pub(crate) fn exchange<R>(
        &self,
        command: &[u8],
        send_by: Instant,
        answer_by: Instant,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, Failure> {
        self.exchange_unless(command, [send_by, answer_by], None, |answer| read(answer))
    }

    /// Sends a command as [`exchange`](Channel::exchange) does, whose answer's
    /// buffer `read` may replace, unless `stop`,
    /// asked at this instant and then again and again, returns true: the wait
    /// then ends as at its deadline. The time for which the command waits to be
    /// sent, from that instant on, is not of that for its answer.
    pub(crate) fn exchange_unless<R>(
        &self,
        command: &[u8],
        [send_by, mut answer_by]: [Instant; 2],
        stop: Option<(Instant, &dyn Fn() -> bool)>,
        read: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> Result<R, Failure> {
        let mut look = stop.map(|(look, _)| look);
        let mut queued_since = None;
        let at_most = |deadline: Instant, look: Option<Instant>| look.map_or(deadline, |look| look.min(deadline));
        // Returns the next instant at which to ask, unless the wait is over.
        let ask = |deadline: Instant, look: Option<Instant>| {
            let (_, is_stopped) = stop.filter(|_| look.is_some_and(|look| look < deadline))?;
            (!is_stopped()).then(|| deadline_after(LOOK_PAUSE))
        };
        let mut state = loop {
            match self.begin(command, at_most(send_by, look), send_by) {
                // Nothing was sent.
                Err(Failure::NotReady(reason)) => match ask(send_by, look) {
                    Some(next) => {
                        queued_since = queued_since.or(look);
                        look = Some(next);
                    }
                    None => return Err(Failure::NotReady(reason)),
                },
                begun => break begun?,
            }
        };
        if let Some(since) = queued_since {
            answer_by = later(answer_by, since.elapsed());
        }
        loop {
            match self.wait(&mut state, at_most(answer_by, look)) {
                Ok(Some(Arrival::Answer)) => {
                    let read = read(&mut state.buffer);
                    trim(&mut state.buffer);
                    return Ok(read);
                }
                Ok(Some(Arrival::SendAgain)) => {
                    let send_by = send_by.max(Instant::now());
                    self.send(&mut state, command, send_by, send_by)?;
                }
                Ok(_) => {}
                Err(Failure::NotReady(_)) => match ask(answer_by, look) {
                    Some(next) => look = Some(next),
                    None => {
                        state.end.abandon();
                        return Err(Failure::Timeout);
                    }
                },
                Err(Failure::ProcessEnded) => return Err(Failure::OutcomeUnknown),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Sends a command to a plugin on our SDK without waiting for its answer.
    /// The answer is passed to `tell` by the thread that receives it: at the
    /// latest the next one that uses the channel or [settles](Channel::settle)
    /// it. Returns the command's number.
    pub(crate) fn post(
        &self,
        command: &[u8],
        send_by: Instant,
        tell: impl FnOnce(Result<&mut Vec<u8>, Failure>) + Send + 'static,
    ) -> Result<PostNumber, Failure> {
        let mut state = self.begin(command, send_by, send_by)?;
        Ok(state.mark_posted(Box::new(tell), None))
    }

    /// Waits, at most until `deadline`, until the answers to all
    /// [posted](Channel::post) commands have been passed to their senders.
    fn settle(&self, deadline: Instant, answer_by: Instant) {
        self.settle_posted(None, deadline, answer_by, || false);
    }

    /// Waits, at most until `deadline`, until the answer to this
    /// [posted](Channel::post) command has been passed to its sender, unless
    /// another thread does what this one waits for. After `answer_by` the
    /// command fails, and a later answer is dropped.
    pub(crate) fn settle_unless(
        &self,
        number: PostNumber,
        deadline: Instant,
        answer_by: Instant,
        done: impl FnMut() -> bool,
    ) {
        self.settle_posted(Some(number), deadline, answer_by, done);
    }

    fn settle_posted(
        &self,
        number: Option<PostNumber>,
        deadline: Instant,
        answer_by: Instant,
        done: impl FnMut() -> bool,
    ) {
        self.uses.fetch_add(1, Ordering::Relaxed);
        let Waited::Held(mut state) = self.state.lock_unless(deadline, done) else { return };
        // The deadline is not that of another's command, which may have been
        // posted meanwhile.
        while state.has_posted(number) {
            match self.wait(&mut state, deadline.min(answer_by)) {
                Ok(_) => {}
                Err(Failure::NotReady(_)) if Instant::now() >= answer_by => {
                    state.end.abandon();
                    state.tell(Err(Failure::Timeout));
                }
                Err(Failure::NotReady(_)) => return,
                Err(failure) => state.tell(Err(failure)),
            }
        }
    }

    /// Ends every wait, and fails the [posted](Channel::post) command.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.reply.close();
        // The idle reader may stop watching the channel before it has noticed.
        // A thread that has the channel handles the end itself, unless it is
        // about to post: then it waits here.
        if let Some(mut state) = self.state.lock(deadline_after(EXIT_GRACE)) {
            self.drain(&mut state);
        }
    }

    /// Handles the pending events, unless another thread is doing so.
    pub(crate) fn look(&self) {
        if let Some(mut state) = self.state.try_lock() {
            self.drain(&mut state);
        }
    }

    /// Makes the channel ready for a command.
    fn prepare(&self, state: &mut State, deadline: Instant) -> Result<(), Failure> {
        // Pending events first: a command answers the latest request, and is
        // sent once (fault 2).
        self.drain(state);
        while state.posted.is_some() {
            match self.wait(state, deadline) {
                // Its sender was told.
                Ok(_) | Err(Failure::OutcomeUnknown) => {}
                Err(failure) => return Err(failure),
            }
        }
        // Answers to posted commands are read by now, and this caller may hold
        // the channel for long.
        self.state.wake_tasks();
        Ok(())
    }

    /// Sends a posted command again, which crossed a keepalive.
    fn send_posted_again(&self, state: &mut State) {
        let command = state.posted.as_mut().and_then(|posted| posted.command.take());
        let sent = match &command {
            Some(command) => {
                let past = Instant::now();
                self.send(state, command, past, past)
            }
            // Plugins on our SDK send no keepalives.
            None => Err(Failure::OutcomeUnknown),
        };
        match (sent, &mut state.posted) {
            (Ok(()), Some(posted)) => posted.command = command,
            (Ok(()), None) => {}
            (Err(failure), _) => state.tell(Err(failure)),
        }
    }

    fn send(&self, state: &mut State, command: &[u8], ready_by: Instant, send_by: Instant) -> Result<(), Failure> {
        loop {
            let ticket = match state.end.begin() {
                Ok(ticket) => ticket,
                Err(_) => {
                    let back_by = state.lost_at.filter(|_| self.is_function).map(|lost_at| lost_at + RECONNECT);
                    let until = back_by.map_or(ready_by, |back_by| back_by.min(ready_by));
                    match self.wait(state, until) {
                        Err(Failure::NotReady(NotReady::NoPeer)) if until < ready_by => return Err(Failure::Lost),
                        waited => waited?,
                    };
                    continue;
                }
            };
            match self.reply.send(&ticket, command, Some(send_by)) {
                Ok(()) => return Ok(()),
                // A request arrived, or the connection ended, since the last
                // event was handled: its own event reports it.
                Err(TransportError::Misuse(_) | TransportError::Disconnected) => {
                    state.end.cancel_send();
                    self.wait(state, ready_by)?;
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

    /// Handles the pending events, without waiting.
    fn drain(&self, state: &mut State) {
        state.strangers = 0;
        while !state.is_peer_silent() && self.step(state, self.listened_at).is_ok() {}
    }

    /// Handles the next event of a waiting caller, whose wait strangers do not
    /// prolong.
    fn wait(&self, state: &mut State, deadline: Instant) -> Result<Option<Arrival>, Failure> {
        let arrival = self.step(state, deadline)?;
        if state.is_peer_silent() && Instant::now() >= deadline {
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

    fn has_waiting_task(&self) -> bool {
        self.has_waiting_task.load(Ordering::SeqCst)
    }

    /// Reads keepalives while no call does (fault 1), and answers that tasks
    /// wait for.
    fn tend(&self) -> Tended {
        let state = match self.armer.get().filter(|_| self.has_waiting_task()) {
            Some(armer) => self.state.try_lock_or_wake(&Waker::from(armer.clone())),
            None => self.state.try_lock(),
        };
        match state {
            Some(mut state) => {
                state.strangers = 0;
                let mut whole = false;
                // The rest of a flood is read at the next check.
                let mut tended = Tended::Idle;
                for _ in 0..LOOK_LIMIT {
                    if state.is_peer_silent() {
                        break;
                    }
                    match self.step(&mut state, Instant::now()) {
                        Ok(arrival) => whole |= arrival.is_some(),
                        Err(Failure::OutcomeUnknown) => whole = true,
                        Err(Failure::NotReady(_)) => {
                            tended = if whole { Tended::Idle } else { Tended::Piece };
                            break;
                        }
                        Err(_) => {
                            tended = Tended::Over;
                            break;
                        }
                    }
                }
                if state.posted.is_none() && state.tasks.is_empty() {
                    self.has_waiting_task.store(false, Ordering::SeqCst);
                }
                tended
            }
            None => Tended::InUse,
        }
    }
}
