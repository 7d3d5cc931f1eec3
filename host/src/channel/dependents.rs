//! The sockets of one plugin process: who may connect to them, and the end of
//! every wait on them.
//!
//! Sockets are created here only ([`Site`](crate::site::Site) keeps the
//! transport private), so no wait for a process can outlive the process: when
//! it ends, what it sent is delivered, and then each wait ends with
//! [`TransportError::Closed`](ekuiper_core::transport::TransportError). Nor can
//! a socket be created at which another process is taken for the plugin's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Endpoint, Options, Pull, Push, Reply, Result, Transport};

use crate::process::kin::Kin;
use crate::sync::lock;
use crate::transports::Transports;

/// The sockets of one process of a plugin, and thereby every wait for it.
pub(crate) struct ProcessScope {
    transports: Transports,
    /// The transport of its symbols, if that is not the common one: known when
    /// the process has shaken hands, before any symbol starts.
    for_symbols: OnceLock<Arc<dyn Transport>>,
    options: Options,
    kin: Arc<Kin>,
    /// The process has ended, or every wait for it was ended.
    is_over: AtomicBool,
    sockets: Mutex<Vec<Socket>>,
    /// Number of handshakes and keepalives on its channels.
    greetings: AtomicU64,
}

/// A socket to the process.
enum Socket {
    Reply(Weak<dyn Reply>),
    Pull(Weak<dyn Pull>),
    /// Channel on which sinks acknowledge messages, or report what they
    /// collected.
    Reports(Weak<dyn Pull>),
    Push(Weak<dyn Push>),
}

impl Socket {
    fn is_in_use(&self) -> bool {
        match self {
            Self::Reply(socket) => socket.strong_count() > 0,
            Self::Pull(socket) | Self::Reports(socket) => socket.strong_count() > 0,
            Self::Push(socket) => socket.strong_count() > 0,
        }
    }

    /// Stops sending; what the process has sent is still received.
    fn finish(&self) {
        match self {
            Self::Reply(socket) => socket.upgrade().iter().for_each(|socket| socket.finish()),
            Self::Pull(socket) | Self::Reports(socket) => socket.upgrade().iter().for_each(|socket| socket.finish()),
            Self::Push(socket) => socket.upgrade().iter().for_each(|socket| socket.close()),
        }
    }

    fn close(&self) {
        match self {
            Self::Reply(socket) => socket.upgrade().iter().for_each(|socket| socket.close()),
            Self::Pull(socket) | Self::Reports(socket) => socket.upgrade().iter().for_each(|socket| socket.close()),
            Self::Push(socket) => socket.upgrade().iter().for_each(|socket| socket.close()),
        }
    }
}

impl ProcessScope {
    /// Creates the scope of a process that is about to become one of `kin`.
    pub(crate) fn new(transports: Transports, mut options: Options, kin: Arc<Kin>) -> Arc<Self> {
        options.admission = Some(kin.clone());
        let (is_over, greetings) = (AtomicBool::new(false), AtomicU64::new(0));
        let (for_symbols, sockets) = Default::default();
        Arc::new(Self { transports, for_symbols, options, kin, is_over, sockets, greetings })
    }

    /// Lets the symbols use shared memory, where this host does: the process
    /// offers that.
    pub(crate) fn share_memory(&self) {
        if let Some(transport) = &self.transports.between_ours {
            let _ = self.for_symbols.set(transport.clone());
        }
    }

    /// Returns the name of the transport of the process's symbols, if that is
    /// not the common one.
    pub(crate) fn transport_of_symbols(&self) -> Option<&'static str> {
        self.for_symbols.get().map(|transport| transport.name())
    }

    fn for_symbols(&self) -> &dyn Transport {
        &**self.for_symbols.get().unwrap_or(&self.transports.common)
    }

    /// Returns the processes that may be at the other end of these sockets.
    pub(crate) fn kin(&self) -> &Arc<Kin> {
        &self.kin
    }

    /// Creates the socket of the control channel at `address`.
    pub(crate) fn control(&self, address: &Address) -> Result<Arc<dyn Reply>> {
        self.reply(&*self.transports.common, address)
    }

    /// Creates the socket of a function's channel at `address`.
    pub(crate) fn function(&self, address: &Address) -> Result<Arc<dyn Reply>> {
        self.reply(self.for_symbols(), address)
    }

    fn reply(&self, transport: &dyn Transport, address: &Address) -> Result<Arc<dyn Reply>> {
        let socket: Arc<dyn Reply> = Arc::from(transport.reply(address, &self.options)?);
        self.add(Socket::Reply(Arc::downgrade(&socket)));
        Ok(socket)
    }

    /// Creates a socket that receives what the process sends to `address`.
    pub(crate) fn pull(&self, address: &Address) -> Result<Arc<dyn Pull>> {
        let socket = self.listen(address)?;
        self.add(Socket::Pull(Arc::downgrade(&socket)));
        Ok(socket)
    }

    /// Creates a socket for acknowledgements and reports of a sink at
    /// `address`, which are received until the process has ended, even if every
    /// other wait was ended.
    pub(crate) fn reports(&self, address: &Address) -> Result<Arc<dyn Pull>> {
        let socket = self.listen(address)?;
        self.add(Socket::Reports(Arc::downgrade(&socket)));
        Ok(socket)
    }

    fn listen(&self, address: &Address) -> Result<Arc<dyn Pull>> {
        let endpoint = Endpoint::Listen(address.clone());
        Ok(Arc::from(self.for_symbols().pull(&endpoint, &self.options)?))
    }

    /// Creates a socket that sends to an address at which the process listens.
    pub(crate) fn push(&self, address: &Address) -> Result<Arc<dyn Push>> {
        let endpoint = Endpoint::Dial(address.clone());
        let socket: Arc<dyn Push> = Arc::from(self.for_symbols().push(&endpoint, &self.options)?);
        self.add(Socket::Push(Arc::downgrade(&socket)));
        Ok(socket)
    }

    fn add(&self, socket: Socket) {
        let mut sockets = lock(&self.sockets);
        if self.is_over() {
            drop(sockets);
            return socket.finish();
        }
        sockets.retain(Socket::is_in_use);
        sockets.push(socket);
    }

    /// Returns whether the process has ended, or every wait for it was ended.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Counts a handshake or a keepalive.
    pub(super) fn count_greeting(&self) {
        self.greetings.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of handshakes and keepalives on its channels.
    pub(crate) fn greetings(&self) -> u64 {
        self.greetings.load(Ordering::Relaxed)
    }

    /// Records the end of the process: nothing new will arrive.
    pub(crate) fn process_ended(&self) {
        self.take_all().iter().for_each(Socket::finish);
    }

    /// Ends every wait at once.
    pub(crate) fn close(&self) {
        self.take_all().iter().for_each(Socket::close);
    }

    /// Ends every wait except those for reports of sinks, which end with the
    /// process.
    pub(crate) fn close_all_but_reports(&self) {
        let mut sockets = lock(&self.sockets);
        self.is_over.store(true, Ordering::SeqCst);
        let (reports, others) = sockets.drain(..).partition(|socket| matches!(socket, Socket::Reports(_)));
        *sockets = reports;
        drop(sockets);
        let others: Vec<_> = others;
        others.iter().for_each(Socket::close);
    }

    fn take_all(&self) -> Vec<Socket> {
        let mut sockets = lock(&self.sockets);
        self.is_over.store(true, Ordering::SeqCst);
        std::mem::take(&mut *sockets)
    }
}
