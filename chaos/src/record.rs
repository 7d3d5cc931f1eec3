//! The plugins' own record of what they did: a file that they append to, one
//! write per line, before they answer. No other process has the facts.

use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Calls of functions.
pub const CALLS: &str = "calls.log";
/// Messages to sinks.
pub const MESSAGES: &str = "messages.log";

/// What a plugin did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The call or message.
    pub id: u64,
    /// The process that did it.
    pub pid: u32,
    /// Which one it was of that process.
    pub sequence: u32,
}

/// Where a plugin writes it down.
#[derive(Debug)]
pub struct Log(File);

impl Log {
    /// Opens the file.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        File::options().create(true).append(true).open(path).map(Self)
    }

    /// Writes an entry, unbuffered.
    ///
    /// # Errors
    /// The system's; a piece of the entry may have been written.
    pub fn write(&mut self, Entry { id, pid, sequence }: Entry) -> std::io::Result<()> {
        // Between line feeds: a torn entry before it spoils only itself.
        self.0.write_all(format!("\n{id} {pid} {sequence};\n").as_bytes())
    }
}

/// Reads a record: its entries, and how many pieces of entries there are, as a
/// full disk and a kill leave them.
pub fn parse(text: &str) -> (Vec<Entry>, usize) {
    let mut entries = Vec::new();
    let mut torn = 0;
    for line in text.lines().filter(|line| !line.is_empty()) {
        match parse_line(line) {
            Some(entry) => entries.push(entry),
            None => torn += 1,
        }
    }
    (entries, torn)
}

fn parse_line(line: &str) -> Option<Entry> {
    let mut fields = line.strip_suffix(';')?.split(' ');
    let entry = Entry {
        id: fields.next()?.parse().ok()?,
        pid: fields.next()?.parse().ok()?,
        sequence: fields.next()?.parse().ok()?,
    };
    fields.next().is_none().then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_torn_entries_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CALLS);
        let mut log = Log::open(&path).unwrap();
        let entries = [Entry { id: 7, pid: 12, sequence: 1 }, Entry { id: 8, pid: 12, sequence: 2 }];
        log.write(entries[0]).unwrap();
        log.0.write_all(b"\n9 1").unwrap();
        log.write(entries[1]).unwrap();
        log.0.write_all(b"\n10 12 3").unwrap();
        assert_eq!(parse(&std::fs::read_to_string(path).unwrap()), (entries.to_vec(), 2));
    }
}
