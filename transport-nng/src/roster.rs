//! The connections of a receiving socket, in step with its messages.
//!
//! libnng reads one message ahead per connection, and continues only after that
//! one is taken. So it detects a connection's end only after the last message
//! was taken, and a departure that is reported after the current message is in
//! order.
//!
//! It reports ends on a thread of their own (`pipe_destroy` in core/pipe.c): the
//! end of a connection that ends at once may be reported before `AddPost`, its
//! beginning.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard};

use ekuiper_core::sync::lock;
use ekuiper_core::transport::ConnectionId;
use ekuiper_transport_ipc::platform::Flag;
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
    /// Connections that have ended before `AddPost`, and were announced by
    /// their first message.
    overtaken: HashSet<Pipe>,
    notices: VecDeque<Notice>,
}

#[derive(Debug)]
struct Entry {
    id: ConnectionId,
    /// Whether libnng has accepted the connection's protocol.
    joined: bool,
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
        let entries = &mut *entries;
        match event {
            // The connection's protocol has not been checked yet: do not report
            // it.
            PipeEvent::AddPre => {
                let entry = Entry { id: next_connection(), joined: false, announced: false };
                entries.present.insert(pipe, entry);
            }
            PipeEvent::AddPost => match entries.present.get_mut(&pipe) {
                Some(entry) => {
                    entry.joined = true;
                    if !entry.announced {
                        self.report(entries, Notice::Came(pipe));
                    }
                }
                None if entries.overtaken.remove(&pipe) => {}
                None => self.report_visit(entries, next_connection()),
            },
            PipeEvent::RemovePost => match entries.present.remove(&pipe) {
                Some(Entry { id, joined, announced: true }) => {
                    if !joined {
                        entries.overtaken.insert(pipe);
                    }
                    self.report(entries, Notice::Went(id));
                }
                Some(Entry { id, joined: true, announced: false }) => {
                    entries.notices.retain(|notice| *notice != Notice::Came(pipe));
                    self.report_visit(entries, id);
                }
                // A connection with another protocol, or `AddPost` follows.
                Some(Entry { joined: false, announced: false, .. }) | None => {}
            },
            _ => {}
        }
    }

    fn report(&self, entries: &mut Entries, notice: Notice) {
        entries.notices.push_back(notice);
        self.news.raise();
    }

    fn report_visit(&self, entries: &mut Entries, id: ConnectionId) {
        let visits = entries.notices.iter().filter(|notice| matches!(notice, Notice::Visited(_))).count();
        if visits < MAX_VISITS {
            self.report(entries, Notice::Visited(id));
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use nng::Protocol;

    use super::*;

    /// A connection of libnng's own, for its name.
    fn pipe() -> (Socket, Socket, Pipe) {
        let [pull, push] = [Protocol::Pull0, Protocol::Push0].map(|protocol| Socket::new(protocol).unwrap());
        let (came, pipes) = mpsc::channel();
        pull.pipe_notify(move |pipe, event| {
            if event == PipeEvent::AddPost {
                let _ = came.send(pipe);
            }
        })
        .unwrap();
        let url = format!("inproc://{:?}", std::thread::current().id());
        pull.listen(&url).unwrap();
        push.dial(&url).unwrap();
        let pipe = pipes.recv().unwrap();
        (pull, push, pipe)
    }

    fn told(roster: &Roster, socket: &Socket) -> Vec<Arrival> {
        std::iter::from_fn(|| roster.next(socket).unwrap()).collect()
    }

    #[test]
    fn a_visit_is_reported_in_whichever_order_libnng_tells_of_it() {
        let (pull, _push, pipe) = pipe();
        let [before, joined, after] = [PipeEvent::AddPre, PipeEvent::AddPost, PipeEvent::RemovePost];
        for order in [[before, joined, after], [before, after, joined]] {
            let roster = Roster::new().unwrap();
            order.into_iter().for_each(|event| roster.notify(pipe, event));
            let told = told(&roster, &pull);
            let [Arrival::Connected(came), Arrival::Disconnected(went)] = told[..] else {
                panic!("{order:?}: {told:?}")
            };
            assert_eq!(came, went);
            assert!(roster.is_empty());
        }
    }

    #[test]
    fn a_connection_that_its_message_has_announced_is_reported_once() {
        let (pull, push, pipe) = pipe();
        let roster = Roster::new().unwrap();
        roster.notify(pipe, PipeEvent::AddPre);
        push.send(b"message".as_slice()).unwrap();
        let give_up = Instant::now() + Duration::from_secs(20);
        let first = loop {
            if let Some(first) = roster.next(&pull).unwrap() {
                break first;
            }
            assert!(Instant::now() < give_up);
            std::thread::yield_now();
        };
        assert!(matches!(first, Arrival::First(..)), "{first:?}");
        roster.notify(pipe, PipeEvent::RemovePost);
        roster.notify(pipe, PipeEvent::AddPost);
        let told = told(&roster, &pull);
        assert!(matches!(told[..], [Arrival::Disconnected(_)]), "{told:?}");
        assert!(roster.lock().overtaken.is_empty());
    }

    #[test]
    fn a_connection_with_another_protocol_is_not_reported() {
        let (pull, _push, pipe) = pipe();
        let roster = Roster::new().unwrap();
        roster.notify(pipe, PipeEvent::AddPre);
        roster.notify(pipe, PipeEvent::RemovePost);
        assert!(told(&roster, &pull).is_empty());
    }
}
