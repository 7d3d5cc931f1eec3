//! Record of what the plugins executed: a file to which they append, one write
//! per line, before they answer. Only the plugin's process has these facts.

use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Function calls.
pub const CALLS: &str = "calls.log";
/// Messages to sinks.
pub const MESSAGES: &str = "messages.log";

/// One execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the call or message.
    pub id: u64,
    /// Process that executed it.
    pub pid: u32,
    /// Sequence number within that process.
    pub sequence: u32,
}

/// Writer of a plugin's record.
#[derive(Debug)]
pub struct Log(File);

impl Log {
    /// Opens the file.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        File::options().create(true).append(true).open(path).map(Self)
    }

    /// Writes an entry, unbuffered.
    ///
    /// # Errors
    /// The operating system's; part of the entry may have been written.
    pub fn write(&mut self, Entry { id, pid, sequence }: Entry) -> std::io::Result<()> {
        // Between line feeds, so that a torn entry spoils only itself.
        self.0.write_all(format!("\n{id} {pid} {sequence};\n").as_bytes())
    }
}

/// Reads a record: its entries, and the number of torn entries, as a full disk
/// and a kill leave them.
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
