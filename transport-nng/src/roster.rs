//! The connections of a receiving socket, in step with its messages.
//!
//! libnng reads one message ahead per connection, and continues only after that
//! one is taken. So it detects a connection's end only after the last message
//! was taken, and a departure that is reported after the current message is in
//! order.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard};

use ekuiper_core::sync::lock;
use ekuiper_core::transport::ConnectionId;
use ekuiper_transport_ipc::flag::Flag;
use nng::{Message, Pipe, PipeEvent, Socket};

use crate::socket::next_connection;

/// The connection events of a socket, written by libnng's threads and read by
/// the thread that receives.
#[derive(Debug)]
pub(crate) struct Roster {
    entries: Mutex<Entries>,
    /// Set while there are notices.
    news: Flag,
}

#[derive(Debug, Default)]
struct Entries {
    present: HashMap<Pipe, Entry>,
    notices: VecDeque<Notice>,
}

#[derive(Debug)]
struct Entry {
    id: ConnectionId,
    /// Whether the connection has been, or is being, reported as connected.
    announced: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Notice {
    Came(Pipe),
    Went(ConnectionId),
    /// A connection that began and ended while no thread received.
    Visited(ConnectionId),
}

/// Maximum number of stored visits: peers that come and go while no thread
/// receives must not cost unbounded memory.
const MAX_VISITS: usize = 128;

/// An event or message of a connection.
#[derive(Debug)]
pub(crate) enum Arrival {
    Connected(ConnectionId),
    Disconnected(ConnectionId),
    Message(Sender, Message),
    /// The first message of a connection that must be reported first.
    First(Sender, Message),
}

/// A connection, with our id and libnng's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) id: ConnectionId,
    pub(crate) pipe: Pipe,
}

impl Roster {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { entries: Mutex::default(), news: Flag::new()? })
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        lock(&self.entries)
    }

    /// Handles libnng's event about a connection; called on libnng's thread.
    pub(crate) fn notify(&self, pipe: Pipe, event: PipeEvent) {
        let mut entries = self.lock();
        match event {
            // The connection's protocol has not been checked yet: do not report
            // it.
            PipeEvent::AddPre => {
                entries.present.insert(pipe, Entry { id: next_connection(), announced: false });
            }
            PipeEvent::AddPost if entries.present.get(&pipe).is_some_and(|entry| !entry.announced) => {
                entries.notices.push_back(Notice::Came(pipe));
                self.news.raise();
            }
            PipeEvent::RemovePost => {
                let before = entries.notices.len();
                entries.notices.retain(|notice| *notice != Notice::Came(pipe));
                // A connection with another protocol was never reported.
                let was_here = entries.notices.len() < before;
                let visits = entries.notices.iter().filter(|notice| matches!(notice, Notice::Visited(_))).count();
                let notice = match entries.present.remove(&pipe) {
                    Some(Entry { id, announced: true }) => Some(Notice::Went(id)),
                    Some(Entry { id, .. }) if was_here && visits < MAX_VISITS => Some(Notice::Visited(id)),
                    _ => None,
                };
                if let Some(notice) = notice {
                    entries.notices.push_back(notice);
                    self.news.raise();
                }
            }
            _ => {}
        }
    }

    /// Returns the next event or message of `socket`, without blocking.
    pub(crate) fn next(&self, socket: &Socket) -> nng::Result<Option<Arrival>> {
        let mut entries = self.lock();
        while let Some(notice) = entries.notices.pop_front() {
            if entries.notices.is_empty() {
                self.news.lower();
            }
            match notice {
                Notice::Went(id) => return Ok(Some(Arrival::Disconnected(id))),
                Notice::Visited(id) => {
                    entries.notices.push_front(Notice::Went(id));
                    self.news.raise();
                    return Ok(Some(Arrival::Connected(id)));
                }
                Notice::Came(pipe) => {
                    if let Some(entry) = entries.present.get_mut(&pipe)
                        && !std::mem::replace(&mut entry.announced, true)
                    {
                        return Ok(Some(Arrival::Connected(entry.id)));
                    }
                }
            }
        }
        self.news.lower();
        loop {
            // Under the lock: taking a connection's last message lets libnng
            // detect its end, which must find the connection announced.
            let mut message = match socket.try_recv() {
                Ok(message) => message,
                Err(nng::Error::TryAgain) => return Ok(None),
                Err(error) => return Err(error),
            };
            let Some(pipe) = message.pipe() else { continue };
            let Some(entry) = entries.present.get_mut(&pipe) else { continue };
            let sender = Sender { id: entry.id, pipe };
            return Ok(Some(match std::mem::replace(&mut entry.announced, true) {
                true => Arrival::Message(sender, message),
                false => Arrival::First(sender, message),
            }));
        }
    }

    /// Whether there is no live connection, as far as libnng knows.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().present.is_empty()
    }

    /// Whether the connection is live, as far as libnng knows.
    pub(crate) fn is_present(&self, pipe: Pipe) -> bool {
        self.lock().present.contains_key(&pipe)
    }
}

impl AsFd for Roster {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}
