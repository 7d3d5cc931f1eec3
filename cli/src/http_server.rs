//! The connections of the HTTP server, with TLS or without: how many there are,
//! and for how long one may ask for nothing. What is asked for is the router's.

mod unreadable;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use ekuiper_core::sync::lock;
use hyper::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;
#[cfg(feature = "https")]
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use self::unreadable::Explained;

/// Maximum length of a request's head, and of what is buffered of a body or an
/// answer, in bytes.
const BUFFER: usize = 64 << 10;

/// Pause after a connection that could not be accepted, for a shortage of files.
const PAUSE: Duration = Duration::from_millis(200);

/// Time without a sign of the other machine after which it is asked for one; some
/// minutes later without an answer the connection ends.
const PROBE: Duration = Duration::from_secs(60);

/// Maximum time for which what a client still sends is taken after its last
/// answer. If the connection ended at once, the rest of a body that was refused
/// could destroy the answer on its way.
const LINGER: Duration = Duration::from_secs(1);

/// Bounds of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Maximum time of a TLS handshake, and of the wait for a request's head:
    /// from the connection, or the answer before, to the head's last byte.
    pub(crate) head: Duration,
    /// Maximum number of connections.
    pub(crate) connections: usize,
    /// Maximum time for requests that are being handled, from the end of the
    /// server until they are cut short.
    pub(crate) end: Duration,
}

impl Bounds {
    /// Returns the maximum number of connections by default: half of the files
    /// that this process may open, since plugins need some, and no more than 1024.
    fn connections() -> usize {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        (files / 2).clamp(16, 1024) as usize
    }
}

impl Default for Bounds {
    fn default() -> Self {
        let (head, end) = (Duration::from_secs(10), Duration::from_secs(2));
        Self { head, connections: Self::connections(), end }
    }
}

/// What connections speak below HTTP.
#[derive(Clone)]
pub(crate) enum Security {
    Plain,
    #[cfg(feature = "https")]
    Tls(TlsAcceptor),
}

#[cfg(feature = "https")]
impl From<Arc<ServerConfig>> for Security {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self::Tls(config.into())
    }
}

/// Serves requests until `end`; then accepts no more, and waits until all are
/// answered, at most [`Bounds::end`]. Then it is told to `finish` how many are
/// not, which has the router answer them.
pub(crate) async fn serve(
    listener: TcpListener,
    security: Security,
    router: Router,
    bounds: Bounds,
    end: impl Future<Output = ()>,
    finish: impl AsyncFnOnce(usize),
) {
    let connections = Arc::new(Connections::new(bounds.connections));
    let (ends, ended) = watch::channel(false);
    let accept = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let place = Place { room: connections.room().await, entry: Entry::new(connections.clone()) };
            let connection = Connection {
                router: router.clone(),
                head: bounds.head,
                entry: place.entry.clone(),
                end: ended.clone(),
            };
            let spoken = connection.speak(stream, security.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = spoken => {}
                    () = place.entry.end.notified() => {}
                }
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = end => {}
    }
    drop(listener);
    let _ = ends.send(true);
    let are_gone = || connections.are_gone(bounds.connections);
    let _ = tokio::time::timeout(bounds.end, are_gone()).await;
    let unanswered = connections.busy(bounds.connections);
    finish(unanswered).await;
    if unanswered > 0 {
        // The answers are on their way.
        let _ = tokio::time::timeout(LINGER, are_gone()).await;
    }
}

/// A connection that was accepted.
struct Connection {
    router: Router,
    head: Duration,
    entry: Arc<Entry>,
    end: watch::Receiver<bool>,
}

impl Connection {
    /// Speaks with the client until one of them ends that, or the server does.
    async fn speak(self, stream: TcpStream, security: Security) {
        // Answers come in pieces, each of which is for its reader at once. A
        // machine that has gone without a word must not keep a place for ever.
        let _ = stream.set_nodelay(true);
        let _ = sockopt::set_socket_keepalive(&stream, true);
        let _ = sockopt::set_tcp_keepidle(&stream, PROBE);
        match security {
            Security::Plain => self.answer(stream).await,
            #[cfg(feature = "https")]
            Security::Tls(acceptor) => {
                let mut end = self.end.clone();
                let handshake = tokio::time::timeout(self.head, acceptor.accept(stream));
                let stream = tokio::select! {
                    stream = handshake => stream,
                    _ = end.wait_for(|ends| *ends) => return,
                };
                // Who does not go along is not told why.
                if let Ok(Ok(stream)) = stream {
                    self.answer(stream).await;
                }
            }
        }
    }

    /// Answers requests, one after the other.
    async fn answer(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let Self { router, head, entry, mut end } = self;
        let router = TowerToHyperService::new(router);
        let service = service_fn(|request: Request<Incoming>| {
            let answer = entry.begin().then(|| router.call(request));
            let entry = entry.clone();
            async move {
                let Some(answer) = answer else {
                    // The connection is about to end: nothing may be done for it.
                    return std::future::pending().await;
                };
                Ok::<_, Infallible>(answer.await?.map(|body| AnswerBody { body, entry }))
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(Explained::new(Lingering { stream, end: None })), service);
        let mut connection = pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = end.wait_for(|ends| *ends) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

/// A stream that is read for a while after it was shut down.
struct Lingering<S> {
    stream: S,
    /// Maximum time of that, from the shutdown on.
    end: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, end } = self.get_mut();
        let end = match end {
            Some(end) => end,
            None => {
                ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
                end.insert(Box::pin(tokio::time::sleep(LINGER)))
            }
        };
        let mut bytes = [0; 8 << 10];
        while end.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The client has ended it, too.
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// All connections. One that asks for nothing makes room for a new one, if there
/// are as many as may be: the one that has been so for longest.
struct Connections {
    free: Arc<Semaphore>,
    idle: Mutex<Idle>,
    /// Told when a connection becomes idle.
    has_idle: Notify,
}

/// The connections that wait for a request.
#[derive(Default)]
struct Idle {
    next: u64,
    /// What ends them, in the order in which they became idle.
    ends: BTreeMap<u64, Arc<Notify>>,
}

impl Connections {
    fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), idle: Mutex::default(), has_idle: Notify::new() }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        lock(&self.idle)
    }

    /// Waits until there may be one connection more.
    async fn room(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(room) = self.free.clone().try_acquire_owned() {
                return room;
            }
            let longest = self.idle().ends.pop_first();
            let has_ended = longest.is_some();
            if let Some((_, end)) = longest {
                end.notify_one();
            }
            tokio::select! {
                // The semaphore is never closed.
                Ok(room) = self.free.clone().acquire_owned() => return room,
                () = self.has_idle.notified(), if !has_ended => {}
            }
        }
    }

    /// Returns how many have a request.
    fn busy(&self, most: usize) -> usize {
        most.saturating_sub(self.free.available_permits()).saturating_sub(self.idle().ends.len())
    }

    /// Waits until there is none.
    async fn are_gone(&self, most: usize) {
        let _ = self.free.acquire_many(most as u32).await;
    }
}

/// A connection among all.
struct Entry {
    connections: Arc<Connections>,
    /// Its number among those that are idle, or the last one that it had.
    number: AtomicU64,
    end: Arc<Notify>,
}

impl Entry {
    /// Returns that of a new connection, which is idle.
    fn new(connections: Arc<Connections>) -> Arc<Self> {
        let entry = Self { connections, number: AtomicU64::new(0), end: Arc::default() };
        entry.rest();
        Arc::new(entry)
    }

    /// Marks the connection as idle.
    fn rest(&self) {
        let mut idle = self.connections.idle();
        let number = idle.next;
        idle.next += 1;
        self.number.store(number, Ordering::Relaxed);
        idle.ends.insert(number, self.end.clone());
        drop(idle);
        self.connections.has_idle.notify_one();
    }

    /// Marks the connection as one that has a request. Returns false if it must
    /// make room.
    fn begin(&self) -> bool {
        self.connections.idle().ends.remove(&self.number.load(Ordering::Relaxed)).is_some()
    }
}

/// The place of a connection, as long as there is that.
struct Place {
    entry: Arc<Entry>,
    #[expect(dead_code, reason = "it is given back when this is dropped")]
    room: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        // It is no longer one of those that may make room.
        self.entry.begin();
    }
}

/// The body of an answer, at whose end the connection is idle.
struct AnswerBody {
    body: Body,
    entry: Arc<Entry>,
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.entry.rest();
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
