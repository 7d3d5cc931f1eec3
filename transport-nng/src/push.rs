//! PUSH: sends each message to the next peer in turn that has room.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ekuiper_core::address::Address;
use ekuiper_core::transport::{Backlog, Deadline, Endpoint, Options, Push, Result, TransportError};
use ekuiper_transport_ipc::platform::unread_at;
use ekuiper_transport_ipc::receiving::check_length;
use ekuiper_transport_ipc::wait::{Closing, deadline_after, earlier, has_passed, wait_for};
use nng::Message;
use rustix::event::{PollFd, PollFlags};

use crate::census::Census;
use crate::line::{LINGER, Line, Stage};
use crate::listen::{Listening, Supply};
use crate::outlets::{Outlets, Present, progress};
use crate::socket::nng_error;

/// First pause of `flush` between two queries of the system; it doubles up to
/// [`MAX_FLUSH_PAUSE`].
const FIRST_FLUSH_PAUSE: Duration = Duration::from_micros(500);
const MAX_FLUSH_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct NngPush {
    address: Address,
    max_message: usize,
    closing: Arc<Closing>,
    census: Arc<Census>,
    outlets: Arc<Outlets>,
    /// Absent in a socket that dials.
    listening: Option<Arc<Listening>>,
}

impl NngPush {
    pub(crate) fn new(endpoint: &Endpoint, options: &Options) -> Result<Self> {
        let address = endpoint.address();
        let closing = Arc::new(Closing::new(address)?);
        let census = Arc::new(Census::new(matches!(endpoint, Endpoint::Listen(_))));
        let outlets = Arc::new(Outlets::new(address, &census, options)?);
        let mut push = Self {
            address: address.clone(),
            max_message: options.max_message,
            closing: closing.clone(),
            census: census.clone(),
            outlets: outlets.clone(),
            listening: None,
        };
        match endpoint {
            Endpoint::Listen(address) => {
                push.listening = Some(Listening::start(Supply::Lines(outlets), address, &census, &closing)?);
            }
            // Dials from now on, like the other sockets.
            Endpoint::Dial(_) => drop(push.present()?),
        }
        Ok(push)
    }

    /// The lines that are not over; dials again if there is none.
    fn present(&self) -> Result<Present> {
        if self.listening.is_some() {
            return Ok(self.outlets.live());
        }
        let present = self.outlets.live_or_dialled()?;
        self.closing.check().inspect_err(|_| {
            // `close` may have taken its snapshot before.
            present.lines.iter().for_each(|line| line.end());
        })?;
        Ok(present)
    }

    /// The amount that libnng has written and the peers have not read; `None`
    /// if the socket listens, or the system does not report it.
    fn unread(&self) -> Option<u64> {
        if self.listening.is_some() {
            return None;
        }
        unread_at(self.address.path()).map(|bytes| bytes as u64)
    }

    /// Waits for one of `sources`, or closing.
    fn wait(&self, sources: &[&dyn AsFd], deadline: Deadline) -> Result<()> {
        let mut fds = vec![PollFd::new(&*self.closing, PollFlags::IN)];
        fds.extend(sources.iter().map(|source| PollFd::new(source, PollFlags::IN)));
        let waited = wait_for(&mut fds, deadline);
        self.closing.check()?;
        waited
    }
}

impl Push for NngPush {
    fn connect(&self, deadline: Deadline) -> Result<()> {
        loop {
            self.closing.check()?;
            let Present { lines, news } = self.present()?;
            if lines.iter().any(|line| matches!(line.party.stage(), Stage::Up(..))) {
                return Ok(());
            }
            let mut sources: Vec<&dyn AsFd> = lines.iter().map(|line| &line.party.begun as &dyn AsFd).collect();
            sources.push(&*news);
            self.wait(&sources, deadline)?;
        }
    }

    fn send(&self, body: &[u8], deadline: Deadline) -> Result<()> {
        check_length(body, self.max_message)?;
        let mut message = Message::from(body);
        loop {
            self.closing.check()?;
            let offered = self.outlets.offer(message).map_err(|error| nng_error("send to", &self.address, error))?;
            let Some(refused) = offered else { return Ok(()) };
            message = refused;
            let Present { lines, news } = self.present()?;
            let mut sources: Vec<&dyn AsFd> = lines.iter().flat_map(|line| progress(line)).collect();
            sources.push(&*news);
            self.wait(&sources, deadline)?;
        }
    }

    fn flush(&self, deadline: Deadline) -> Result<()> {
        self.closing.check()?;
        for line in self.outlets.live().lines {
            if matches!(line.party.stage(), Stage::Up(..)) {
                self.wait(&[&line.outgoing, &line.party.over], deadline)?;
            }
        }
        // Messages that libnng has written are still to be read.
        let mut pause = FIRST_FLUSH_PAUSE;
        while self.unread().is_some_and(|bytes| bytes > 0) {
            if has_passed(deadline) {
                return Err(TransportError::Timeout);
            }
            match self.wait(&[], earlier(deadline, Some(deadline_after(pause)))) {
                Ok(()) | Err(TransportError::Timeout) => {}
                Err(error) => return Err(error),
            }
            pause = (pause * 2).min(MAX_FLUSH_PAUSE);
        }
        Ok(())
    }

    fn backlog(&self) -> Backlog {
        let is_writing =
            |line: &Line| wait_for(&mut [PollFd::new(&line.outgoing, PollFlags::IN)], Some(Instant::now())).is_err();
        let up = |line: &Line| matches!(line.party.stage(), Stage::Up(..));
        let writing = self.outlets.live().lines.iter().filter(|line| up(line) && is_writing(line)).count();
        let unread = self.unread().map(|bytes| bytes + writing as u64);
        Backlog { connections: self.outlets.made(), unread }
    }

    fn close(&self) {
        if self.closing.close() {
            self.census.close();
            if let Some(listening) = &self.listening {
                listening.close();
            }
            let lines = self.outlets.live().lines;
            let deadline = deadline_after(LINGER);
            lines.iter().for_each(|line| line.linger(deadline));
            lines.iter().for_each(|line| line.end());
        }
    }
}

impl Drop for NngPush {
    fn drop(&mut self) {
        self.close();
    }
}
