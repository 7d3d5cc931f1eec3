//! Dialling with retries: each connection is a DEALER of its own.
//!
//! The `zeromq` crate waits up to 30 s between its attempts, and a DEALER never
//! reconnects. So the socket file is checked here, and a new attempt begins
//! when it has been replaced.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ekuiper_core::address::Address;
use ekuiper_core::throttle::Throttle;
use ekuiper_core::transport::{ConnectionId, Result};
use ekuiper_transport_ipc::wait::io_error;
use futures::StreamExt;
use futures::channel::mpsc;
use rustix::fs::{AtFlags, statat};
use tokio::time::{Instant, sleep, sleep_until};
use zeromq::{DealerSocket, Socket, SocketEvent, SocketOptions, SocketRecv, SocketSend, ZmqMessage};

use crate::engine::{self, at_once};
use crate::hub::{Hub, LINGER};
use crate::peer::next_connection;
use crate::{folder, words};

/// Pause after the first failed attempt; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// Maximum pause between two attempts. Far below a second, so that every
/// dialler reconnects within one.
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// Interval between two checks of the file during an attempt.
const GLANCE: Duration = Duration::from_millis(50);

/// Maximum time for a listener's first words.
const GREETING: Duration = Duration::from_secs(10);

/// Dials `address` for `hub` until the hub is closed.
pub(crate) fn start(address: &Address, hub: &Arc<Hub>) -> Result<()> {
    let fail = |source| io_error("dial", address, source);
    let utf8 = || io::Error::new(io::ErrorKind::InvalidInput, "its path is not UTF-8, which the zeromq crate needs");
    let path = address.path().to_str().ok_or_else(utf8).map_err(fail)?;
    match folder::private(address) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(fail(error)),
        // The folder may be created later.
        Err(_) | Ok(_) => {}
    }
    let dialler = Dialler { hub: hub.clone(), address: address.clone(), url: format!("ipc://{path}") };
    engine::handle().map_err(fail)?.spawn(dialler.run());
    Ok(())
}

struct Dialler {
    hub: Arc<Hub>,
    address: Address,
    url: String,
}

impl Dialler {
    async fn run(self) {
        let mut pause = FIRST_PAUSE;
        let mut complained = false;
        while !self.hub.is_closed() {
            if !self.hub.is_wanted() {
                self.hub.called().await;
                continue;
            }
            match folder::private(&self.address) {
                Ok(folder) => {
                    if let Some((dealer, events)) = self.connect(&folder).await
                        && self.serve(dealer, events).await
                    {
                        pause = FIRST_PAUSE;
                        continue;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !complained => {
                    complained = true;
                    static LINES: Throttle = Throttle::new();
                    if let Some(others) = LINES.pass(std::time::Instant::now()) {
                        tracing::warn!(address = %self.address, others, "cannot dial: {error}");
                    }
                }
                Err(_) => {}
            }
            self.unless_closed(sleep(pause)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
        self.hub.is_over();
    }

    /// Returns the result of `future`; `None` when the socket is closed first.
    async fn unless_closed<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(future);
        loop {
            if self.hub.is_closed() {
                return None;
            }
            tokio::select! {
                outcome = &mut future => return Some(outcome),
                () = self.hub.called() => {}
            }
        }
    }

    /// Makes one attempt, which ends when it fails, times out, or the file has
    /// been replaced.
    async fn connect(&self, folder: &OwnedFd) -> Option<(DealerSocket, mpsc::Receiver<SocketEvent>)> {
        let file = self.file(folder)?;
        let give_up = Instant::now() + GREETING;
        let mut options = SocketOptions::default();
        options.no_connect_timeout();
        let mut dealer = DealerSocket::with_options(options);
        let events = dealer.monitor();
        {
            let connecting = dealer.connect(&self.url);
            tokio::pin!(connecting);
            loop {
                let glanced = self.unless_closed(async {
                    tokio::select! {
                        connected = &mut connecting => Some(connected),
                        () = sleep(GLANCE) => None,
                    }
                });
                match glanced.await? {
                    Some(Ok(())) => break,
                    Some(Err(error)) => {
                        tracing::trace!(url = self.url, %error, "not connected yet");
                        return None;
                    }
                    None if self.file(folder) != Some(file) || Instant::now() >= give_up => return None,
                    None => {}
                }
            }
        }
        Some((dealer, events))
    }

    /// Identifies the file at the address, to detect that it was replaced.
    fn file(&self, folder: &OwnedFd) -> Option<(u64, i64, u64)> {
        let found = statat(folder, self.address.path().file_name()?, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((found.st_ino, found.st_ctime, found.st_ctime_nsec))
    }

    /// Serves a connection until it ends; returns whether it ever was one of
    /// ours.
    async fn serve(&self, dealer: DealerSocket, mut events: mpsc::Receiver<SocketEvent>) -> bool {
        let hub = &*self.hub;
        let mut session = Session { hub, dealer, id: None };
        let mut is_fine = session.say(hub.role.hello());
        let mut end = Some(Instant::now() + GREETING);
        let mut said_bye = false;
        while is_fine {
            is_fine = tokio::select! {
                received = session.dealer.recv() => match received {
                    Ok(message) => session.heard(message),
                    Err(_) => false,
                },
                event = events.next() => !matches!(event, None | Some(SocketEvent::Disconnected(_))),
                () = hub.called() => true,
                () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => false,
            };
            // Checked first: the data to send at that moment is all there will
            // be.
            let is_closed = hub.is_closed();
            is_fine = is_fine && session.send_all();
            if is_closed && !said_bye {
                said_bye = true;
                end = Some(Instant::now() + LINGER);
                is_fine = is_fine && session.id.is_some() && session.say(words::bye());
            } else if session.id.is_some() && !said_bye {
                end = None;
            }
        }
        let id = session.id;
        drop(session);
        if let Some(id) = id {
            hub.left(id);
        }
        id.is_some()
    }
}

/// The state of one connection.
struct Session<'a> {
    hub: &'a Hub,
    dealer: DealerSocket,
    /// The connection's id; absent before the listener's first word.
    id: Option<ConnectionId>,
}

impl Session<'_> {
    /// Handles a message of the listener; false when the connection must be
    /// closed.
    fn heard(&mut self, message: ZmqMessage) -> bool {
        let mut frames = message.into_vecdeque();
        let (Some(frame), true) = (frames.pop_front(), frames.is_empty()) else { return false };
        match self.id {
            Some(id) => self.hub.heard(id, frame),
            None if self.hub.role.is_greeted_by(&frame) => {
                let id = *self.id.insert(next_connection());
                self.hub.joined(id);
                true
            }
            None => false,
        }
    }

    /// Sends a word; false when that is not possible.
    fn say(&mut self, frame: Bytes) -> bool {
        matches!(at_once(self.dealer.send(ZmqMessage::from(frame))), Some(Ok(())))
    }

    fn send_all(&mut self) -> bool {
        let frames = self.hub.outgoing(false).into_iter();
        // Frames of a connection that has ended are dropped.
        frames.fold(true, |is_fine, (id, frame)| is_fine && (self.id != Some(id) || self.say(frame)))
    }
}
