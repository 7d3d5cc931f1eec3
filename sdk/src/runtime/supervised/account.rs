//! The account of a sink's messages, so that each one in flight when the worker
//! dies is acknowledged.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ekuiper_core::message::Meta;
use ekuiper_core::sync::lock;
use ekuiper_core::transport::ConnectionId;
use ekuiper_transport_ipc::platform::PEER_CLOSED;
use ekuiper_transport_ipc::retained::RetainedPull;
use ekuiper_transport_ipc::wait::deadline_after;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};

use super::link::Link;
use super::marks::{Marks, SinkMark};

/// The worker's side: a sink's mark, and the connections of which the supervisor
/// holds a duplicate.
pub(in crate::runtime) struct Account {
    mark: SinkMark,
    link: Arc<Link>,
    meta: Meta,
    /// The sink's data channel; `None` where its connections cannot be held.
    pull: Option<Arc<dyn RetainedPull>>,
    /// The connections that the supervisor holds. Only the sink's thread locks
    /// it, also while it waits.
    held: Mutex<Vec<(ConnectionId, OwnedFd)>>,
}

impl Account {
    pub(in crate::runtime) fn new(
        mark: SinkMark,
        link: Arc<Link>,
        meta: Meta,
        pull: Option<Arc<dyn RetainedPull>>,
    ) -> Self {
        Self { mark, link, meta, pull, held: Mutex::default() }
    }

    pub(in crate::runtime) fn mark(&self) -> &SinkMark {
        &self.mark
    }

    /// Records that the engine has connected.
    pub(in crate::runtime) fn connected(&self, connection: ConnectionId) {
        if let Some(descriptor) = self.pull.as_ref().and_then(|pull| pull.retain(connection)) {
            self.link.hold(connection, &self.meta, &descriptor);
            lock(&self.held).push((connection, descriptor));
        }
    }

    /// Waits for an event of `others`, or of the latest connection. Records that
    /// a message is about to be read if a part of one has arrived: should the
    /// worker die, a record that meant the beginning or the end of a connection
    /// would be acknowledged as well, and the engine would take that
    /// acknowledgement for its next message's.
    pub(in crate::runtime) fn wait(&self, others: [PollFd<'_>; 2], timeout: Option<&Timespec>) {
        let held = lock(&self.held);
        let [readiness, stop] = others;
        // An interruption is harmless: the next receive decides.
        let Some((_, connection)) = held.last() else {
            let _ = poll(&mut [readiness, stop], timeout);
            return;
        };
        let mut fds = [readiness, stop, PollFd::new(connection, PollFlags::IN | PEER_CLOSED)];
        let _ = poll(&mut fds, timeout);
        if fds[2].revents() == PollFlags::IN {
            self.mark.reading();
        }
    }

    /// Records that a connection has ended in order.
    pub(in crate::runtime) fn disconnected(&self, connection: ConnectionId) {
        lock(&self.held).retain(|(held, _)| *held != connection);
        self.link.let_go(connection);
    }

    /// Records that the sink has ended in order, with no acknowledgement due.
    pub(in crate::runtime) fn over(&self) {
        let held = std::mem::take(&mut *lock(&self.held));
        held.into_iter().for_each(|(connection, _)| self.link.let_go(connection));
        self.mark.over();
    }
}

/// The supervisor's side: the connection on which the engine sends a sink's
/// messages.
#[derive(Debug)]
pub(super) struct HeldConnection {
    pub(super) connection: ConnectionId,
    pub(super) meta: Meta,
    pub(super) descriptor: OwnedFd,
}

/// Closes the connections of a dead worker. An engine sends one message and
/// waits for its ack. A message that the worker has not read, or that arrives
/// within `patience`, is recorded as taken, for the next worker to acknowledge
/// as failed. Without `patience`, a message that the engine is about to send
/// would be lost as the connection closes.
pub(super) fn settle(mut held: Vec<HeldConnection>, marks: &Marks, patience: Duration) {
    let give_up = deadline_after(patience);
    loop {
        held.retain(|held| match marks.known(&held.meta) {
            Some(mark) => {
                if mark.was_reading() || unread(&held.descriptor) {
                    mark.taken();
                    return false;
                }
                // The engine waits for the ack of a message that was taken.
                mark.owed() == 0
            }
            None => false,
        });
        let left = give_up.saturating_duration_since(Instant::now());
        if held.is_empty() || left.is_zero() {
            break;
        }
        let mut fds: Vec<_> = held.iter().map(|held| PollFd::new(&held.descriptor, PollFlags::IN)).collect();
        let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
        // A connection that the engine has closed needs no further wait.
        let ended: Vec<_> = fds.iter().map(|fd| fd.revents().contains(PollFlags::HUP)).collect();
        let mut ended = ended.into_iter();
        held.retain(|held| !ended.next().unwrap_or(false) || unread(&held.descriptor));
    }
    for held in held {
        // From now on the engine cannot send: no message arrives unseen between
        // the last look and the end.
        let _ = shutdown(&held.descriptor, Shutdown::Read);
        if unread(&held.descriptor) {
            marks.known(&held.meta).iter().for_each(SinkMark::taken);
        }
    }
}

/// Whether a connection has unread data, which is not consumed.
fn unread(descriptor: &OwnedFd) -> bool {
    matches!(recv(descriptor, &mut [0; 1], RecvFlags::DONTWAIT | RecvFlags::PEEK), Ok((1.., _)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use ekuiper_transport_ipc::platform::Flag;

    use super::super::page::Inherited;
    use super::super::{marks, page};
    use super::*;

    struct Sink {
        engine: UnixStream,
        worker: UnixStream,
        marks: Marks,
        meta: Meta,
    }

    impl Sink {
        fn new() -> (Self, SinkMark) {
            let memory = page::memory(marks::words(0)).unwrap();
            let (engine, worker) = UnixStream::pair().unwrap();
            let (marks, meta) = (Marks::new(&memory, 0).unwrap(), Meta::default());
            let (mark, _) = marks.sink(&meta, false).unwrap();
            (Self { engine, worker, marks, meta }, mark)
        }

        /// The worker dies; how many acks the next one owes.
        fn owed(&self, patience: Duration) -> u64 {
            let descriptor = self.worker.try_clone().unwrap().into();
            let held = HeldConnection { connection: ConnectionId(1), meta: self.meta.clone(), descriptor };
            settle(vec![held], &self.marks, patience);
            self.marks.sink(&self.meta, true).unwrap().1
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn what_was_not_read_is_owed_an_ack() {
        assert_eq!(Sink::new().0.owed(Duration::ZERO), 0);
        let (mut sink, _) = Sink::new();
        sink.engine.write_all(b"message").unwrap();
        assert_eq!(sink.owed(LONG), 1);
    }

    #[test]
    fn what_was_being_read_is_owed_one_ack() {
        let (sink, mark) = Sink::new();
        mark.reading();
        assert_eq!(sink.owed(LONG), 1);
        let (mut sink, mark) = Sink::new();
        mark.reading();
        sink.engine.write_all(b"message").unwrap();
        assert_eq!(sink.owed(LONG), 1);
    }

    #[test]
    fn what_was_taken_is_owed_one_ack_without_waiting() {
        let (sink, mark) = Sink::new();
        mark.taken();
        assert_eq!(sink.owed(LONG), 1);
        // Killed as soon as the message that it was reading was taken.
        let (sink, mark) = Sink::new();
        mark.reading();
        mark.taken();
        assert_eq!(sink.owed(LONG), 1);
    }

    #[test]
    fn only_a_message_is_recorded_as_being_read() {
        let (mut sink, mark) = Sink::new();
        let (supervisor, socket) = UnixStream::pair().unwrap();
        let memory = page::memory(1).unwrap();
        let link = Arc::new(Link::new(Inherited { socket, memory }));
        let account = Account::new(mark, link, sink.meta.clone(), None);
        let held = sink.worker.try_clone().unwrap().into();
        lock(&account.held).push((ConnectionId(1), held));
        let readable = Flag::new().unwrap();
        readable.raise();
        let others = || [PollFd::new(&readable, PollFlags::IN), PollFd::new(&supervisor, PollFlags::IN)];
        let now = Timespec::default();
        // Another connection has begun or ended.
        account.wait(others(), Some(&now));
        assert!(!account.mark.was_reading());
        sink.engine.write_all(b"message").unwrap();
        account.wait(others(), Some(&now));
        assert!(account.mark.was_reading());
        account.mark.read_nothing();
        // The connection has ended.
        sink.worker.set_nonblocking(true).unwrap();
        std::io::Read::read(&mut sink.worker, &mut [0; 10]).unwrap();
        sink.engine = UnixStream::pair().unwrap().0;
        account.wait(others(), Some(&now));
        assert!(!account.mark.was_reading());
    }

    #[test]
    fn what_the_engine_is_about_to_send_is_waited_for() {
        let (sink, _) = Sink::new();
        let mut engine = sink.engine.try_clone().unwrap();
        let sender = std::thread::spawn(move || engine.write_all(b"message"));
        assert_eq!(sink.owed(LONG), 1);
        sender.join().unwrap().unwrap();
    }

    #[test]
    fn what_the_engine_could_send_is_owed_an_ack() {
        for _ in 0..500 {
            let (mut sink, _) = Sink::new();
            let mut engine = std::mem::replace(&mut sink.engine, UnixStream::pair().unwrap().0);
            let start = Arc::new(std::sync::Barrier::new(2));
            let starts = start.clone();
            let sender = std::thread::spawn(move || {
                starts.wait();
                engine.write_all(b"message").is_ok()
            });
            start.wait();
            let owed = sink.owed(Duration::ZERO);
            assert_eq!(owed, u64::from(sender.join().unwrap()));
        }
    }

    #[test]
    fn an_engine_that_is_gone_is_not_waited_for() {
        let (mut sink, _) = Sink::new();
        sink.engine = UnixStream::pair().unwrap().0;
        assert_eq!(sink.owed(LONG), 0);
    }
}
