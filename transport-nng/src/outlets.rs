//! The connections that a PUSH socket sends on, each on a line of its own.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ekuiper_core::address::Address;
use ekuiper_core::transport::Result;
use nng::{Message, Protocol};

use crate::census::Census;
use crate::line::{Line, Sent, Stage};

/// Whatever a PULL peer sends is too long.
const MAX_MESSAGE: u64 = 1;

/// Lines that have, or wait for, their connection.
#[derive(Debug)]
pub(crate) struct Outlets {
    address: Address,
    census: Arc<Census>,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    list: Vec<Arc<Line>>,
    /// Whose turn it is.
    turn: usize,
}

impl Outlets {
    pub(crate) fn new(address: &Address, census: &Arc<Census>) -> Self {
        Self { address: address.clone(), census: census.clone(), lines: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line for a new listener.
    pub(crate) fn add(&self) -> Result<Arc<Line>> {
        let line = Arc::new(Line::new(Protocol::Push0, MAX_MESSAGE, &self.address, &self.census)?);
        self.lock().list.push(line.clone());
        Ok(line)
    }

    /// The lines that are not over.
    pub(crate) fn live(&self) -> Vec<Arc<Line>> {
        self.prune();
        self.lock().list.clone()
    }

    /// The line that is not over; dials when there is none.
    pub(crate) fn live_or_dialled(&self) -> Result<Vec<Arc<Line>>> {
        self.prune();
        let mut lines = self.lock();
        if lines.list.is_empty() {
            lines.list.push(Arc::new(Line::dial(Protocol::Push0, MAX_MESSAGE, &self.address)?));
        }
        Ok(lines.list.clone())
    }

    /// Forgets the lines that are over.
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

    /// Offers the message to each connection, from the one whose turn it is;
    /// returns it when none took it.
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

/// What to wait for until `line` takes a message, or has come to an end.
pub(crate) fn progress(line: &Line) -> Vec<&dyn AsFd> {
    match line.party.stage() {
        Stage::Up(..) => vec![&line.outgoing, &line.party.over],
        _ => vec![&line.party.begun],
    }
}
