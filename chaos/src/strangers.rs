//! Strangers: processes that connect to the sockets of a plugin and its host,
//! and are neither a plugin nor a host: `chaos stranger`.

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::plan::Stranger;
use crate::survey;

/// Headers of the SP protocols, spelled out.
const REQ: [u8; 8] = [0, 0x53, 0x50, 0, 0, 0x30, 0, 0];
const PUSH: [u8; 8] = [0, 0x53, 0x50, 0, 0, 0x50, 0, 0];
const PULL: [u8; 8] = [0, 0x53, 0x50, 0, 0, 0x51, 0, 0];
const SUBSCRIBE: [u8; 8] = [0, 0x53, 0x50, 0, 0, 0x21, 0, 0];

/// Returns a handshake with the request id `id`.
fn handshake(id: u32) -> Vec<u8> {
    request(id, b"handshake")
}

fn request(id: u32, body: &[u8]) -> Vec<u8> {
    frame(&[&(id | 0x8000_0000).to_be_bytes(), body].concat())
}

fn frame(content: &[u8]) -> Vec<u8> {
    [&[1][..], &(content.len() as u64).to_be_bytes(), content].concat()
}

/// Visits sockets for this long, in a separate process; prints received data
/// that is meant for the plugin. `arguments`: the kind, the milliseconds, and
/// the sockets or, for an ambush, the plugin's name and folder.
pub fn run(arguments: &[String]) -> Option<()> {
    let [kind, millis, places @ ..] = arguments else { return None };
    let stranger = Stranger::ALL.into_iter().find(|stranger| format!("{stranger:?}") == *kind)?;
    let until = Instant::now() + Duration::from_millis(millis.parse().ok()?);
    std::thread::scope(|scope| match (stranger, places) {
        (Stranger::Ambush, [name, folder]) => ambush(scope, name, Path::new(folder), until),
        _ => places.iter().for_each(|place| {
            scope.spawn(move || visit(Path::new(place), stranger, until));
        }),
    });
    Some(())
}

/// Connects to each of the plugin's sockets as soon as it exists, repeatedly.
fn ambush<'scope>(scope: &'scope Scope<'scope, '_>, name: &str, folder: &Path, until: Instant) {
    let mut taken = HashSet::new();
    while Instant::now() < until {
        for path in [Path::new("/tmp"), folder].into_iter().flat_map(|folder| survey::sockets_in(folder, name)) {
            let inode = std::fs::metadata(&path).map(|file| file.ino());
            if inode.is_ok_and(|inode| taken.insert(inode)) {
                scope.spawn(move || {
                    while Instant::now() < until {
                        let _ = impersonate(&path, until);
                        std::thread::sleep(Duration::from_millis(2));
                    }
                });
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends what the plugin would, and answers what is meant for the plugin.
fn impersonate(path: &Path, until: Instant) -> std::io::Result<()> {
    let mut stream = connect(path)?;
    stream.write_all(&role(path))?;
    match role(path) {
        REQ => {
            stream.write_all(&handshake(1))?;
            let mut number = 1;
            while tell(path, &read_some(&mut stream, until)?) {
                number += 1;
                let forged = br#"{"state":1,"result":{"id":0,"pid":0,"sequence":0,"length":0}}"#;
                stream.write_all(&request(number, forged))?;
            }
        }
        PULL => while tell(path, &read_some(&mut stream, until)?) {},
        _ => {
            let forged = [br#"{"pid":1,"run":1,"n":7}"#.as_slice(), br#"{"state":1}"#];
            for message in forged.iter().cycle() {
                stream.write_all(&frame(message))?;
                std::thread::sleep(Duration::from_millis(1));
                if Instant::now() >= until {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Prints data that a stranger must not receive; returns whether there was any.
fn tell(path: &Path, heard: &[u8]) -> bool {
    // Nothing is for the stranger after the listener's header.
    let told = heard.strip_prefix(&[0, b'S', b'P', 0]).map_or(heard, |rest| &rest[rest.len().min(4)..]);
    if !told.is_empty() {
        println!("{}: {:?}", path.display(), String::from_utf8_lossy(&told[..told.len().min(200)]));
    }
    !heard.is_empty()
}

/// Visits one socket.
fn visit(path: &Path, stranger: Stranger, until: Instant) {
    // The socket may disappear meanwhile, and its listener may disconnect: both
    // are correct.
    let _ = match stranger {
        Stranger::Http => linger(path, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", until),
        Stranger::WrongProtocol => linger(path, &SUBSCRIBE, until),
        Stranger::HalfHeader => linger(path, &REQ[..4], until),
        Stranger::HugeClaim => {
            let claim = [1, 0, 4, 0, 0, 0, 0, 0, 0];
            linger(path, &[&role(path)[..], &claim].concat(), until)
        }
        Stranger::Rival => rival(path, until),
        Stranger::Flood if role(path) == REQ => flood(path, until),
        // Flooding a one-way channel as a valid peer would be to send messages,
        // which every admitted process may do. So the data is garbage.
        Stranger::Flood => linger(path, &[0xff; 100_000], until),
        Stranger::Storm => storm(path, until),
        Stranger::Ambush => impersonate(path, until),
    };
}

/// Returns the header of a valid peer of the listener.
fn role(path: &Path) -> [u8; 8] {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("plugin_") || name.starts_with("func_") {
        REQ
    } else if name.contains("_k_") && !name.contains("_ack") {
        // The operator of all sinks here.
        PULL
    } else {
        PUSH
    }
}

fn connect(path: &Path) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    stream.set_write_timeout(Some(Duration::from_millis(100)))?;
    Ok(stream)
}

/// Sends data, and stays connected as long as possible.
fn linger(path: &Path, says: &[u8], until: Instant) -> std::io::Result<()> {
    let mut stream = connect(path)?;
    stream.write_all(says)?;
    read(&mut stream, until)?;
    Ok(())
}

/// Reads until a disconnect or the deadline; returns the data.
fn read(stream: &mut UnixStream, until: Instant) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        match read_some(stream, until)? {
            some if some.is_empty() => return Ok(all),
            some => all.extend(some),
        }
    }
}

/// Reads once; returns nothing after a disconnect or the deadline.
fn read_some(stream: &mut UnixStream, until: Instant) -> std::io::Result<Vec<u8>> {
    let mut buffer = [0; 4096];
    while Instant::now() < until {
        match stream.read(&mut buffer) {
            Ok(count) => return Ok(buffer[..count].to_vec()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Vec::new())
}

/// Completes a handshake, and waits for commands meant for the plugin; on a
/// one-way channel, disconnects silently.
fn rival(path: &Path, until: Instant) -> std::io::Result<()> {
    let mut stream = connect(path)?;
    stream.write_all(&role(path))?;
    if role(path) == REQ {
        stream.write_all(&handshake(1))?;
    }
    tell(path, &read(&mut stream, until)?);
    Ok(())
}

/// Repeats the handshake as often as possible.
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

/// Connects and disconnects as often as possible.
fn storm(path: &Path, until: Instant) -> std::io::Result<()> {
    while Instant::now() < until {
        let mut stream = connect(path)?;
        stream.write_all(&role(path))?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
