//! Our host and our SDK, over one of our transports.

use std::path::{Path, PathBuf};

use ekuiper_host::Format;

use super::hosted::{self, Hosted, Program, started};
use super::{Ack, Measured, Peer, Record, RowFunction};
use crate::clock::Pace;
use crate::machine::file_mib;
use crate::metric::Metric;
use crate::{Error, Result};

/// Number of rows that the host is given at a time.
const ROWS: usize = 65_536;

/// Variants, each with name, transport and codec. JSON is supported by every
/// peer, so the others are compared in it.
pub const WAYS: [(&str, &str, Format); 6] = [
    ("uds", "uds", Format::Json),
    ("uds-msgpack", "uds", Format::MessagePack),
    ("nng", "nng", Format::Json),
    ("zeromq", "zeromq", Format::Json),
    ("shm", "shm", Format::Json),
    ("shm-msgpack", "shm", Format::MessagePack),
];

/// Our host and our SDK.
pub struct Ours {
    name: &'static str,
    transport: &'static str,
    format: Format,
    program: Program,
}

impl Ours {
    /// Creates one of the [`WAYS`]; `plugin` is the plugin's executable.
    ///
    /// # Errors
    /// Its transport is not built in.
    pub fn new(way: (&'static str, &'static str, Format), plugin: PathBuf) -> Result<Self, String> {
        let (name, transport, format) = way;
        hosted::is_built_in(transport)?;
        Ok(Self { name, transport, format, program: Program::Native(plugin) })
    }

    fn started(&self) -> Result<Hosted> {
        Hosted::start(&self.program, self.transport, self.format)
    }
}

impl Peer for Ours {
    fn name(&self) -> &str {
        self.name
    }

    fn title(&self) -> &str {
        match self.name {
            "uds" => "ours, JSON",
            "uds-msgpack" => "ours, MessagePack",
            "nng" => "ours over libnng",
            "zeromq" => "ours over ZeroMQ",
            "shm" => "ours in shared memory, JSON",
            "shm-msgpack" => "ours in shared memory, MessagePack",
            name => name,
        }
    }

    fn about(&self) -> String {
        let codec = if self.format == Format::Json { "JSON" } else { "MessagePack" };
        format!("our host and our SDK, transport {}, {codec}, the whole stack", self.transport)
    }

    fn calls(&self, pace: Pace, size: usize, channels: usize) -> Measured {
        self.started()?.calls(pace, size, channels)
    }

    fn source(&self, pace: Pace, record: Record, size: usize, channels: usize) -> Measured {
        self.started()?.source(pace, record, size, channels)
    }

    fn sink(&self, pace: Pace, ack: Ack, size: usize) -> Measured {
        self.started()?.sink(pace, ack, size)
    }

    fn bytes(&self, pace: Pace, size: usize) -> Measured {
        self.started()?.bytes(pace, size)
    }

    fn rows(&self, pace: Pace, function: RowFunction) -> Measured {
        self.started()?.rows(pace, function, ROWS)
    }

    #[cfg(feature = "columns")]
    fn columns(&self, pace: Pace, function: RowFunction, rows: usize) -> Measured {
        // The rows' codec is that of the call's context alone.
        if self.format == Format::Json { Ok(None) } else { self.started()?.columns(pace, function, rows) }
    }

    #[cfg(feature = "peers")]
    fn way(&self, pace: Pace, way: super::Way, size: usize) -> Measured {
        self.started()?.way(pace, way, size)
    }

    #[cfg(feature = "peers")]
    fn handles(&self, sources: usize) -> Measured {
        self.started()?.handles(sources)
    }

    fn start(&self) -> Measured {
        hosted::start(&self.program, self.transport, self.format)
    }
}

/// The plugin `examples/mirror`, as an author would ship it: how fast it starts
/// and how large it is.
pub struct Mirror {
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl Mirror {
    /// Creates the peer with this executable and this manifest.
    ///
    /// # Errors
    /// One of the files does not exist.
    pub fn new(program: &Path, manifest: &Path) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(Error::io("make a folder for the plugin"))?;
        for (file, name) in [(program, "mirror"), (manifest, "mirror.json")] {
            let found = file.canonicalize().map_err(Error::io(format!("find {}", file.display())))?;
            let link = folder.path().join(name);
            std::os::unix::fs::symlink(found, &link).map_err(Error::io(format!("make {}", link.display())))?;
        }
        Ok(Self { folder, program: program.to_owned() })
    }
}

impl Peer for Mirror {
    fn name(&self) -> &str {
        "mirror"
    }

    fn title(&self) -> &str {
        "ours, as it is shipped"
    }

    fn about(&self) -> String {
        "examples/mirror on our SDK, default features, release build".into()
    }

    fn start(&self) -> Measured {
        let host = hosted::host("uds").plugin(self.folder.path()).build()?;
        let sample = started(&host, "mirror")?;
        Ok(Some(sample.with(Metric::ProgramMib, file_mib(&self.program)?)))
    }
}
