//! The connections of a PUSH socket, each with its own line.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};

use ekuiper_core::address::Address;
use ekuiper_core::sync::lock;
use ekuiper_core::transport::{Options, Result};
use ekuiper_transport_ipc::platform::Flag;
use ekuiper_transport_ipc::wait::io_error;
use nng::{Message, Protocol};

use crate::census::Census;
use crate::line::{Line, Sent, Stage};

/// Maximum length of a message from a PULL peer: every message is too long.
const MAX_MESSAGE: u64 = 1;

/// Lines that have, or wait for, their connection.
#[derive(Debug)]
pub(crate) struct Outlets {
    address: Address,
    options: Options,
    census: Arc<Census>,
    lines: Mutex<Lines>,
}

#[derive(Debug)]
struct Lines {
    list: Vec<Arc<Line>>,
    /// Set when there is a line that is not in `list` yet, and then replaced.
    news: Arc<Flag>,
    /// The line that is offered the next message.
    turn: usize,
    /// The number of lines so far.
    made: u64,
}

/// A snapshot of the lines, with a flag for later ones: a wait on these lines
/// alone would miss a peer that connects through another door.
#[derive(Debug)]
pub(crate) struct Present {
    pub(crate) lines: Vec<Arc<Line>>,
    pub(crate) news: Arc<Flag>,
}

impl Outlets {
    pub(crate) fn new(address: &Address, census: &Arc<Census>, options: &Options) -> Result<Self> {
        let lines = Lines { list: Vec::new(), news: flag(address)?, turn: 0, made: 0 };
        Ok(Self {
            address: address.clone(),
            options: options.clone(),
            census: census.clone(),
            lines: Mutex::new(lines),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        lock(&self.lines)
    }

    /// Adds a line for a new listener.
    pub(crate) fn add(&self) -> Result<Arc<Line>> {
        let line = Arc::new(Line::new(Protocol::Push0, MAX_MESSAGE, &self.address, &self.census, &self.options)?);
        let news = flag(&self.address)?;
        let mut lines = self.lock();
        lines.list.push(line.clone());
        lines.made += 1;
        std::mem::replace(&mut lines.news, news).raise();
        Ok(line)
    }

    /// The number of lines so far.
    pub(crate) fn made(&self) -> u64 {
        self.lock().made
    }

    /// The lines that are not over.
    pub(crate) fn live(&self) -> Present {
        self.prune();
        self.lock().present()
    }

    /// The lines that are not over; dials if there is none.
    pub(crate) fn live_or_dialled(&self) -> Result<Present> {
        self.prune();
        let mut lines = self.lock();
        if lines.list.is_empty() {
            lines.list.push(Arc::new(Line::dial(Protocol::Push0, MAX_MESSAGE, &self.address, &self.options)?));
            lines.made += 1;
        }
        Ok(lines.present())
    }

    /// Removes the lines that are over.
    pub(crate) fn prune(&self) {
        let mut over = Vec::new();
        let mut lines = self.lock();
        lines.list.retain(|line| {
            let keep = line.party.stage() != Stage::Over;
            if !keep {
                over.push(line.clone());
            }
            keep
        });
        drop(lines);
        // This waits for libnng, so not under the lock.
        over.iter().for_each(|line| line.end());
    }

    /// Offers the message to each connection, beginning with the one whose turn
    /// it is; returns the message if none took it.
    pub(crate) fn offer(&self, mut message: Message) -> nng::Result<Option<Message>> {
        let mut lines = self.lock();
        let count = lines.list.len();
        for step in 0..count {
            let index = (lines.turn + step) % count;
            message = match lines.list[index].try_send(message)? {
                Sent::Done => {
                    lines.turn = (index + 1) % count;
                    return Ok(None);
                }
                Sent::NotNow(message) | Sent::NotUp(message) => message,
            };
        }
        Ok(Some(message))
    }
}

impl Lines {
    fn present(&self) -> Present {
        Present { lines: self.list.clone(), news: self.news.clone() }
    }
}

fn flag(address: &Address) -> Result<Arc<Flag>> {
    Ok(Arc::new(Flag::new().map_err(|source| io_error("create a socket for", address, source))?))
}

/// The descriptors to wait on until `line` takes a message or is over.
pub(crate) fn progress(line: &Line) -> Vec<&dyn AsFd> {
    match line.party.stage() {
        Stage::Up(..) => vec![&line.outgoing, &line.party.over],
        _ => vec![&line.party.begun],
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ekuiper_transport_ipc::wait::wait_for;
    use rustix::event::{PollFd, PollFlags};

    use super::*;

    #[test]
    fn whoever_waits_is_told_of_a_later_line() {
        let address = Address::new("/nowhere").unwrap();
        let outlets = Outlets::new(&address, &Arc::new(Census::new(true)), &Options::default()).unwrap();
        let is_up = |news: &Flag| wait_for(&mut [PollFd::new(news, PollFlags::IN)], Some(Instant::now())).is_ok();
        let first = outlets.live();
        assert!(first.lines.is_empty() && !is_up(&first.news));
        outlets.add().unwrap();
        let second = outlets.live();
        assert!(second.lines.len() == 1 && is_up(&first.news) && !is_up(&second.news));
        outlets.add().unwrap();
        assert!(is_up(&second.news));
        // The flag stays set: another thread may check later.
        assert!(is_up(&first.news) && is_up(&second.news));
    }
}
