//! Who is connected to a receiving socket, in step with its messages.
//!
//! libnng reads one message ahead per connection, and no further before that
//! one is taken. A connection's end is thus noticed only after its last
//! message was taken, which is why a departure that is told after the message
//! in hand is told in order.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ekuiper_core::transport::ConnectionId;
use nng::{Message, Pipe, PipeEvent, Socket};

use crate::endpoint::next_connection;
use crate::flag::Flag;

/// Filled by libnng's threads, read by whoever receives.
#[derive(Debug)]
pub(crate) struct Roster {
    entries: Mutex<Entries>,
    /// Up while there are notices.
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
    /// It has been, or is being, reported as connected.
    announced: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Notice {
    Came(Pipe),
    Went(ConnectionId),
    /// It came and went while nobody received.
    Visited(ConnectionId),
}

/// How many visits are kept: peers that come and go while nobody receives must
/// not cost memory without end.
const MAX_VISITS: usize = 128;

/// What there is to tell of a connection, or from it.
#[derive(Debug)]
pub(crate) enum Arrival {
    Connected(ConnectionId),
    Disconnected(ConnectionId),
    Message(Sender, Message),
    /// The first message of a connection that is to be reported first.
    First(Sender, Message),
}

/// A connection, as we and as libnng know it.
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
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What libnng tells of a connection, on a thread of its own.
    pub(crate) fn notify(&self, pipe: Pipe, event: PipeEvent) {
        let mut entries = self.lock();
        match event {
            // Its protocol has not been looked at yet: not to be reported.
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
                // One whose protocol was another's was never here.
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

    /// The next event or message of `socket`, without waiting.
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
            // notice its end, which must find it announced.
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

    /// Whether no connection lives, as far as libnng knows.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().present.is_empty()
    }

    /// Whether the connection lives, as far as libnng knows.
    pub(crate) fn is_present(&self, pipe: Pipe) -> bool {
        self.lock().present.contains_key(&pipe)
    }
}

impl AsFd for Roster {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}
