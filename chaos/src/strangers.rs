//! Strangers: they connect to the sockets of a plugin and its host, and are no
//! plugin and no host.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::findings::Findings;
use crate::plan::Stranger;

/// The headers of the SP protocols, spelled out.
const REQ: [u8; 8] = [0, 0x53, 0x50, 0, 0, 0x30, 0, 0];
const PUSH: [u8; 8] = [0, 0x53, 0x50, 0, 0, 0x50, 0, 0];
const SUBSCRIBE: [u8; 8] = [0, 0x53, 0x50, 0, 0, 0x21, 0, 0];

/// A handshake with the number `id`.
fn handshake(id: u32) -> Vec<u8> {
    let id = (id | 0x8000_0000).to_be_bytes();
    [&[1, 0, 0, 0, 0, 0, 0, 0, 13][..], &id, b"handshake"].concat()
}

/// Visits one socket for so long.
pub(crate) fn visit(path: &Path, stranger: Stranger, time: Duration, findings: &Findings) {
    let until = Instant::now() + time;
    findings.count("stranger's connections", "");
    // The socket may go away meanwhile, and whoever listens may hang up: both
    // are right.
    let _ = match stranger {
        Stranger::Http => linger(path, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", until),
        Stranger::WrongProtocol => linger(path, &SUBSCRIBE, until),
        Stranger::HalfHeader => linger(path, &REQ[..4], until),
        Stranger::HugeClaim => {
            let claim = [1, 0, 4, 0, 0, 0, 0, 0, 0];
            linger(path, &[&role(path)[..], &claim].concat(), until)
        }
        Stranger::Rival => rival(path, until, findings),
        Stranger::Flood if role(path) == REQ => flood(path, until),
        // To flood a one-way channel as a peer would be to send messages: who
        // may connect may do that. Garbage it is.
        Stranger::Flood => linger(path, &[0xff; 100_000], until),
        Stranger::Storm => storm(path, until),
    };
}

/// The header that would be right for a peer of whoever listens there.
fn role(path: &Path) -> [u8; 8] {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("plugin_") || name.starts_with("func_") { REQ } else { PUSH }
}

fn connect(path: &Path) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    stream.set_write_timeout(Some(Duration::from_millis(100)))?;
    Ok(stream)
}

/// Says something, and stays as long as it may.
fn linger(path: &Path, says: &[u8], until: Instant) -> std::io::Result<()> {
    let mut stream = connect(path)?;
    stream.write_all(says)?;
    read(&mut stream, until)?;
    Ok(())
}

/// Reads until it is hung up on, or the time is over; what there was.
fn read(stream: &mut UnixStream, until: Instant) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while Instant::now() < until {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Shakes hands, and waits for commands that are meant for the plugin; on a
/// one-way channel it is silent, and leaves.
fn rival(path: &Path, until: Instant, findings: &Findings) -> std::io::Result<()> {
    let mut stream = connect(path)?;
    stream.write_all(&role(path))?;
    if role(path) == REQ {
        stream.write_all(&handshake(1))?;
    }
    // After the listener's header there is nothing for it.
    let heard = read(&mut stream, until)?;
    if role(path) == REQ && heard.len() > 8 {
        findings.count("commands that a rival got", path.display());
    }
    Ok(())
}

/// Shakes hands as often as it can.
fn flood(path: &Path, until: Instant) -> std::io::Result<()> {
    let mut stream = connect(path)?;
    stream.write_all(&REQ)?;
    let flood: Vec<u8> = (0..500).flat_map(handshake).collect();
    while Instant::now() < until {
        match stream.write_all(&flood) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Connects and leaves as often as it can.
fn storm(path: &Path, until: Instant) -> std::io::Result<()> {
    while Instant::now() < until {
        let mut stream = connect(path)?;
        stream.write_all(&role(path))?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
