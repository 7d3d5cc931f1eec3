//! The acceptor thread, one per process: exchanges headers with peers that
//! connect to the process's listeners.
//!
//! A peer that dials waits for our header, and the official SDKs do so before
//! they answer a `start`: it must be sent even while no thread receives on the
//! socket. So this thread accepts connections and exchanges headers, and only
//! peers that speak the right protocol reach a socket. Messages never pass
//! through this thread; without new connections it blocks. A process that the
//! socket's owner does not admit is disconnected before anything else.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ekuiper_core::sp::{Connection, Event, Limits, Protocol};
use ekuiper_core::sync::lock;
use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::{ConnectionId, Deadline, Options};
use ekuiper_transport_ipc::platform::{Flag, Interest, MAX_READY, Poller};
use ekuiper_transport_ipc::process;
use interprocess::local_socket::traits::Listener as _;
use interprocess::os::unix::uds_local_socket::Listener as UnixListener;
use rustix::event::PollFlags;

use crate::link::Link;
use crate::stream::Medium;
use ekuiper_transport_ipc::wait::{deadline_after, earlier, shortage, timeout};

/// Time for which no connection is accepted after the process ran out of
/// descriptors, or while many newcomers of the socket wait to be taken.
const PAUSE: Duration = Duration::from_millis(100);

/// Maximum number of a listener's peers that have not sent their header. One
/// more disconnects the oldest of them: a real peer sends its header at once.
const MAX_STRANGERS: usize = 128;

/// Maximum number of newcomers that wait for the socket's owner. Further ones
/// stay in the kernel's backlog, so that peers that come and go while no thread
/// receives do not cost a descriptor each.
const MAX_NEWCOMERS: usize = 128;

/// Number of connections accepted before other listeners and strangers get
/// their turn.
const BATCH: usize = 32;

/// Stack size of this crate's threads. They need little themselves, but a
/// logger's needs are unknown, and in some processes thread-local variables are
/// part of the stack. Only used pages cost memory.
pub(crate) const STACK: usize = 512 << 10;

/// A listening socket that the acceptor thread serves.
#[derive(Debug)]
pub(crate) struct Door {
    id: u64,
    acceptor: Arc<Acceptor>,
    arrivals: Arc<Arrivals>,
    /// Closed already, so that the drop, which may be a task's, does not wait for
    /// the acceptor thread.
    is_closed: AtomicBool,
}

/// A peer that has sent a valid header.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub(crate) link: Link,
    /// Ready; bytes that arrived after the header are buffered in it.
    pub(crate) connection: Connection,
}

impl Door {
    /// Starts to accept connections on `socket`.
    pub(crate) fn open(
        socket: UnixListener,
        own: Protocol,
        limits: Limits,
        options: &Options,
        medium: &'static dyn Medium,
    ) -> io::Result<Self> {
        let acceptor = Acceptor::of_this_process()?;
        let arrivals =
            Arc::new(Arrivals { waiting: Mutex::default(), some: AtomicBool::new(false), event: Flag::new()? });
        let options = options.clone();
        let (arriving, paused_until) = (arrivals.clone(), None);
        let id = acceptor.add(Listening { socket, own, limits, options, medium, arrivals: arriving, paused_until })?;
        Ok(Self { id, acceptor, arrivals, is_closed: AtomicBool::new(false) })
    }

    /// Whether there are newcomers; costs no system call.
    pub(crate) fn has_newcomers(&self) -> bool {
        self.arrivals.some.load(Ordering::Acquire)
    }

    /// Takes the next newcomer, if there is one.
    pub(crate) fn next(&self) -> Option<Newcomer> {
        self.arrivals.take()
    }

    /// Disconnects newcomers that were not taken, and refuses later ones.
    pub(crate) fn close(&self) {
        if self.is_closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.acceptor.remove(self.id);
        while self.arrivals.take().is_some() {}
    }
}

impl AsFd for Door {
    /// A descriptor that polls readable while there are newcomers.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.arrivals.event.as_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

#[derive(Debug)]
struct Arrivals {
    waiting: Mutex<VecDeque<Newcomer>>,
    /// Whether there are newcomers, readable without a lock.
    some: AtomicBool,
    /// Set while there are newcomers.
    event: Flag,
}

impl Arrivals {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Newcomer>> {
        lock(&self.waiting)
    }

    fn put(&self, newcomer: Newcomer) {
        let mut waiting = self.lock();
        waiting.push_back(newcomer);
        self.some.store(true, Ordering::Release);
        self.event.raise();
    }

    fn take(&self) -> Option<Newcomer> {
        let mut waiting = self.lock();
        let newcomer = waiting.pop_front();
        if waiting.is_empty() {
            self.some.store(false, Ordering::Release);
            self.event.lower();
        }
        newcomer
    }
}

#[derive(Debug)]
struct Acceptor {
    poller: Poller,
    state: Mutex<AcceptorState>,
}

#[derive(Debug, Default)]
struct AcceptorState {
    next_id: u64,
    listening: HashMap<u64, Listening>,
    /// Peers that have not sent their header yet, with their listener. The
    /// oldest come first.
    strangers: BTreeMap<ConnectionId, (u64, Newcomer)>,
}

#[derive(Debug)]
struct Listening {
    socket: UnixListener,
    own: Protocol,
    limits: Limits,
    options: Options,
    medium: &'static dyn Medium,
    arrivals: Arc<Arrivals>,
    /// The instant until which the listener is out of the poller.
    paused_until: Deadline,
}

/// The bit that marks an id in the poller as a connection's, not a listener's.
const CONNECTION: u64 = 1 << 63;

impl Acceptor {
    fn of_this_process() -> io::Result<Arc<Self>> {
        static ONLY: Mutex<Option<Arc<Acceptor>>> = Mutex::new(None);
        let mut only = lock(&ONLY);
        if let Some(acceptor) = &*only {
            return Ok(acceptor.clone());
        }
        let acceptor = Arc::new(Self { poller: Poller::new()?, state: Mutex::default() });
        let own = acceptor.clone();
        std::thread::Builder::new().name("ekuiper-accept".into()).stack_size(STACK).spawn(move || own.run())?;
        Ok(only.insert(acceptor).clone())
    }

    fn lock(&self) -> MutexGuard<'_, AcceptorState> {
        lock(&self.state)
    }

    fn add(&self, listening: Listening) -> io::Result<u64> {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        self.poller.add(&listening.socket, id, Interest::Input)?;
        state.listening.insert(id, listening);
        Ok(id)
    }

    fn remove(&self, id: u64) {
        let mut state = self.lock();
        // Closing the sockets removes them from the poller.
        state.listening.remove(&id);
        state.strangers.retain(|_, (listener, _)| *listener != id);
    }

    fn run(&self) {
        let mut ready = Vec::with_capacity(MAX_READY);
        loop {
            let until = self.on_time();
            ready.clear();
            if let Err(error) = self.poller.wait(timeout(until).as_ref(), |id| ready.push(id)) {
                tracing::error!(%error, "cannot accept connections any more");
                return;
            }
            let mut state = self.lock();
            for id in ready.iter().copied() {
                match id {
                    id if id & CONNECTION == 0 => self.accept(&mut state, id),
                    id => state.read(&self.poller, ConnectionId(id & !CONNECTION)),
                }
            }
        }
    }

    /// Disconnects strangers whose header is late, and resumes paused
    /// listeners. Returns the instant of the next call.
    fn on_time(&self) -> Deadline {
        let mut state = self.lock();
        let now = Instant::now();
        let mut until = None;
        state.strangers.retain(|_, (_, newcomer)| newcomer.connection.check_time(now).is_ok());
        for (_, newcomer) in state.strangers.values() {
            until = earlier(until, newcomer.connection.deadline());
        }
        for (id, listening) in &mut state.listening {
            match listening.paused_until {
                Some(resume) if resume <= now => {
                    let _ = self.poller.add(&listening.socket, *id, Interest::Input);
                    listening.paused_until = None;
                }
                paused_until => until = earlier(until, paused_until),
            }
        }
        until
    }

    fn accept(&self, state: &mut AcceptorState, id: u64) {
        for _ in 0..BATCH {
            let Some(listening) = state.listening.get_mut(&id) else { return };
            if listening.arrivals.lock().len() >= MAX_NEWCOMERS {
                return self.pause(id, listening);
            }
            match listening.socket.accept() {
                Ok(stream) if !process::is_admitted(&stream, &listening.options) => {}
                Ok(stream) => {
                    let stream = listening.medium.accepted(stream.into());
                    match stream.and_then(|stream| Link::greet(stream, listening.own)) {
                        Ok(link) => {
                            let connection = Connection::new(listening.own, listening.limits.clone(), Instant::now());
                            state.greeted(&self.poller, id, Newcomer { link, connection });
                        }
                        // The peer dials again.
                        Err(error) if shortage(&error).is_some() => return self.refuse(id, listening, &error),
                        // A peer that has already disconnected costs nothing.
                        Err(_) => {}
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    ErrorKind::WouldBlock => return,
                    _ => return self.refuse(id, listening, &error),
                },
            }
        }
    }

    /// Pauses a listener that lacks a resource.
    fn refuse(&self, id: u64, listening: &mut Listening, error: &io::Error) {
        // One throttle for all listeners: they run out of the same resources.
        static LINES: Throttle = Throttle::new();
        if let Some(others) = LINES.pass(Instant::now()) {
            tracing::warn!(%error, others, "cannot accept connections for now");
        }
        self.pause(id, listening);
    }

    fn pause(&self, id: u64, listening: &mut Listening) {
        tracing::debug!(listener = id, "accepting is paused");
        self.poller.remove(&listening.socket);
        listening.paused_until = Some(deadline_after(PAUSE));
    }
}

impl AcceptorState {
    /// Adds a stranger of a listener; its header may have arrived already.
    fn greeted(&mut self, poller: &Poller, listener: u64, stranger: Newcomer) {
        let id = stranger.link.id;
        self.hear(poller, listener, stranger);
        let Some((_, Newcomer { link, .. })) = self.strangers.get(&id) else { return };
        if poller.add(link, CONNECTION | id.0, Interest::Input).is_err() {
            self.strangers.remove(&id);
        }
        let mut own = self.strangers.iter().filter(|(_, (other, _))| *other == listener).map(|(id, _)| *id);
        let oldest = own.next();
        if own.count() >= MAX_STRANGERS
            && let Some(oldest) = oldest
        {
            tracing::debug!(connection = oldest.0, "connection closed: too many connections without a header");
            self.strangers.remove(&oldest);
        }
    }

    /// Reads from a known stranger that has sent something.
    fn read(&mut self, poller: &Poller, id: ConnectionId) {
        if let Some((listener, stranger)) = self.strangers.remove(&id) {
            stranger.link.woken();
            self.hear(poller, listener, stranger);
        }
    }

    /// Reads a stranger's header; when it is complete, the stranger becomes a
    /// newcomer.
    fn hear(&mut self, poller: &Poller, listener: u64, mut stranger: Newcomer) {
        let Newcomer { link, connection } = &mut stranger;
        let id = link.id;
        loop {
            match link.read(connection.space()) {
                Ok(Some(count)) => connection.filled(count, Instant::now()),
                Ok(None) => {}
                Err(_) => return,
            }
            match connection.next() {
                Ok(Some(Event::Ready)) => {
                    poller.remove(&*link);
                    if let Some(listening) = self.listening.get(&listener) {
                        listening.arrivals.put(stranger);
                    }
                    return;
                }
                Ok(_) if link.poll_flags(PollFlags::IN).is_empty() => {}
                Ok(_) => break,
                Err(reason) => return tracing::debug!(connection = id.0, %reason, "connection closed"),
            }
        }
        self.strangers.insert(id, (listener, stranger));
    }
}
