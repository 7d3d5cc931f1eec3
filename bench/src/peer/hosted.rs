//! A plugin under our host, on any SDK.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ekuiper_core::Chain;
use ekuiper_host::{Format, Function, Host, HostBuilder, PendingAck, Sink, Status};
use serde_json::json;

use super::{Ack, CHANNELS, Measured, Record, RowFunction};
use crate::clock::{self, Pace};
use crate::machine::resident_mib;
use crate::metric::{Metric, Sample};
use crate::reading::{Reading, text};
use crate::{Error, Result, check};

/// Number of rows that a sink without acknowledgements is sent at a time.
const ROWS: usize = 128;

/// The measured plugin's functions beside its echoes.
const FUNCTIONS: [&str; 3] = ["double", "upper", "busy"];

/// Those over columns, which in Python have a script of their own.
const COLUMNAR: &[&str] = if cfg!(feature = "columns") { &["double_columns", "upper_columns"] } else { &[] };

/// Maximum time for a sink to read everything sent to it.
pub(super) const FLUSH: Duration = Duration::from_secs(20);

/// What the plugin's process runs.
#[derive(Clone, Debug)]
pub enum Program {
    /// An executable.
    Native(PathBuf),
    /// A script, with its interpreter.
    Python {
        /// The interpreter.
        python: PathBuf,
        /// The script.
        script: PathBuf,
    },
    /// A script that has the functions over columns alone.
    PythonColumns {
        /// The interpreter.
        python: PathBuf,
        /// The script.
        script: PathBuf,
    },
}

impl Program {
    fn path(&self) -> &Path {
        match self {
            Self::Native(path) => path,
            Self::Python { script, .. } | Self::PythonColumns { script, .. } => script,
        }
    }
}

/// The measured plugin, in a folder of its own, under a host.
pub struct Hosted {
    // Dropped before the folder, where its plugin runs.
    pub(super) host: Host,
    pub(super) name: String,
    _folder: tempfile::TempDir,
}

impl Hosted {
    /// Creates the folder, and starts the plugin.
    ///
    /// # Errors
    /// The folder cannot be created, or the plugin does not start.
    pub fn start(program: &Program, transport: &str, format: Format) -> Result<Self> {
        let hosted = Self::prepare(program, transport, format)?;
        hosted.host.start(&hosted.name)?;
        Ok(hosted)
    }

    fn prepare(program: &Program, transport: &str, format: Format) -> Result<Self> {
        // Official SDKs support only /tmp, so names must differ.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("bench{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::tempdir().map_err(Error::io("make a folder for the plugin"))?;
        let own = folder.path().join(&name);
        let failed = || Error::io(format!("make the plugin's folder {}", own.display()));
        fs::create_dir(&own).map_err(failed())?;
        // The name tells the executable what to be.
        let (language, executable) = match program {
            Program::Native(_) => ("go", crate::child::NAME),
            Program::Python { .. } | Program::PythonColumns { .. } => ("python", "bench.py"),
        };
        let target = program.path().canonicalize().map_err(Error::io(format!("find {}", program.path().display())))?;
        symlink(target, own.join(executable)).map_err(failed())?;
        let named = |symbols: &[&str]| symbols.iter().map(|symbol| format!("{name}_{symbol}")).collect::<Vec<_>>();
        let echoes = (0..CHANNELS).map(|index| format!("{name}_echo{index}"));
        let rows = || named(&FUNCTIONS).into_iter().chain(echoes);
        let (sources, sinks, functions): (&[&str], &[&str], Vec<_>) = match program {
            Program::Native(_) => (&["typed", "value"], &["rows", "bytes"], rows().chain(named(COLUMNAR)).collect()),
            Program::Python { .. } => (&["typed", "value"], &["rows", "bytes"], rows().collect()),
            Program::PythonColumns { .. } => (&[], &[], named(COLUMNAR)),
        };
        let manifest = json!({
            "version": "v1.0.0",
            "language": language,
            "executable": executable,
            "sources": named(sources),
            "sinks": named(sinks),
            "functions": functions,
        });
        fs::write(own.join(format!("{name}.json")), manifest.to_string()).map_err(failed())?;
        let mut builder = host(transport).format(format).plugin(own);
        if let Program::Python { python, .. } | Program::PythonColumns { python, .. } = program {
            builder = builder.python_bin(python.display().to_string());
        }
        Ok(Self { host: builder.build()?, name, _folder: folder })
    }

    pub(super) fn symbol(&self, symbol: &str) -> String {
        format!("{}_{symbol}", self.name)
    }

    pub(super) fn function(&self, symbol: &str) -> Result<Function> {
        Ok(self.host.function(&self.symbol(symbol))?)
    }

    /// Returns the plugin's processes.
    pub(super) fn pids(&self) -> Vec<u32> {
        let statuses = self.host.status(&self.name).into_iter();
        let of =
            |status: Status| status.pid.into_iter().chain(status.members.into_iter().filter_map(|member| member.pid));
        statuses.flat_map(of).collect()
    }

    /// Measures calls; see [`Peer::calls`](super::Peer::calls).
    ///
    /// # Errors
    /// The host's.
    pub fn calls(&self, pace: Pace, size: usize, channels: usize) -> Measured {
        let functions =
            (0..channels).map(|index| self.function(&format!("echo{index}"))).collect::<Result<Vec<_>>>()?;
        let text = text(size);
        let sample = clock::latencies(&self.pids(), channels, |index| {
            clock::calls(pace, || {
                let given: String = functions[index].call((text.as_str(),))?;
                check(given == text, "the function gave back another text")
            })
        })?;
        Ok(Some(sample))
    }

    /// Measures sources; see [`Peer::source`](super::Peer::source).
    ///
    /// # Errors
    /// The host's.
    pub fn source(&self, pace: Pace, record: Record, size: usize, channels: usize) -> Measured {
        let note = Reading::of_size(size).note;
        let symbol = self.symbol(if record == Record::Typed { "typed" } else { "value" });
        let sample = clock::streams(&self.pids(), channels, size, |index| {
            let source = self.host.source(&symbol).rule(format!("{}r{index}", self.name));
            let source = source.config(json!({ "note": note }));
            let over = || Error::Peer("the source has ended".into());
            let mut last = 0;
            let mut follows = |id: u64| {
                let follows = last == 0 || id == last + 1;
                last = id;
                check(follows, "a tuple is missing")
            };
            if record == Record::Typed {
                let mut source = source.open_as::<Reading>()?;
                clock::stream(pace, || {
                    follows(source.next().ok_or_else(over)??.message.id)?;
                    Ok(1)
                })
            } else {
                let mut source = source.open()?;
                clock::stream(pace, || {
                    follows(source.next().ok_or_else(over)??.message["id"].as_u64().unwrap_or(0))?;
                    Ok(1)
                })
            }
        })?;
        Ok(Some(sample))
    }

    /// Measures a sink; see [`Peer::sink`](super::Peer::sink).
    ///
    /// # Errors
    /// The host's.
    pub fn sink(&self, pace: Pace, ack: Ack, size: usize) -> Measured {
        let sink = self.host.sink(&self.symbol("rows")).require_ack(ack != Ack::None).open()?;
        let mut readings = vec![Reading::of_size(size); ROWS];
        let mut send_all = || {
            readings.iter_mut().for_each(|reading| reading.id += ROWS as u64);
            sink.send_all(&readings)?;
            Ok(ROWS as u64)
        };
        let mut reading = Reading::of_size(size);
        let mut send = || {
            reading.id += 1;
            sink.send(&reading)?;
            Ok(1)
        };
        clock::streams_here(&self.pids(), size, || match ack {
            Ack::None => clock::feed(pace, &mut send_all, || Ok(sink.flush(FLUSH)?)).map(Some),
            Ack::Each => clock::stream(pace, &mut send).map(Some),
            Ack::Window(window) => clock::stream(pace, windowed(&sink, window, Reading::of_size(size))).map(Some),
        })
    }

    /// Measures a sink of bytes; see [`Peer::bytes`](super::Peer::bytes).
    ///
    /// # Errors
    /// The host's.
    pub fn bytes(&self, pace: Pace, size: usize) -> Measured {
        let sink = self.host.sink(&self.symbol("bytes")).open()?;
        let message = text(size);
        let send = || {
            sink.send_bytes(message.as_bytes())?;
            Ok(1)
        };
        clock::streams_here(&self.pids(), size, || clock::feed(pace, send, || Ok(sink.flush(FLUSH)?)).map(Some))
    }

    /// Measures a function over many rows; see
    /// [`Peer::rows`](super::Peer::rows). The host is given `rows` rows at a
    /// time.
    ///
    /// # Errors
    /// The host's.
    pub fn rows(&self, pace: Pace, function: RowFunction, rows: usize) -> Measured {
        const WRONG: &str = "the function gave another result";
        match function {
            RowFunction::Double => {
                let double = self.function("double")?;
                clock::streams_here(&self.pids(), 8, || {
                    let next = || {
                        let results = double
                            .call_many::<f64, _>((0..rows).map(|row| (row as f64,)))
                            .map_err(ekuiper_host::Error::from)?;
                        let mut numbered = results.iter().enumerate();
                        check(results.len() == rows, WRONG)?;
                        check(numbered.all(|(row, result)| *result == Ok(row as f64 * 2.0)), WRONG)?;
                        Ok(rows as u64)
                    };
                    clock::stream_of(pace, 1, next).map(Some)
                })
            }
            RowFunction::Upper => {
                let upper = self.function("upper")?;
                let text = text(16);
                let expected = Ok(text.to_ascii_uppercase());
                clock::streams_here(&self.pids(), 16, || {
                    let next = || {
                        let arguments = std::iter::repeat_n((text.as_str(),), rows);
                        let results = upper.call_many::<String, _>(arguments).map_err(ekuiper_host::Error::from)?;
                        check(results.len() == rows && results.iter().all(|result| *result == expected), WRONG)?;
                        Ok(rows as u64)
                    };
                    clock::stream_of(pace, 1, next).map(Some)
                })
            }
        }
    }
}

#[cfg(feature = "columns")]
impl Hosted {
    /// Measures a function over columns; see
    /// [`Peer::columns`](super::Peer::columns).
    ///
    /// # Errors
    /// The host's.
    pub fn columns(&self, pace: Pace, function: RowFunction, rows: usize) -> Measured {
        use ekuiper_host::arrow59::call_columns;

        let function_over_columns = self.function(match function {
            RowFunction::Double => "double_columns",
            RowFunction::Upper => "upper_columns",
        })?;
        let columns = super::columns::Columns::of(function, rows)?;
        columns.measure(pace, &self.pids(), |batch| Ok(call_columns(&function_over_columns, batch)?))
    }
}

/// Sends one reading after the other, with so many unacknowledged.
pub(super) fn windowed(sink: &Sink, window: usize, mut reading: Reading) -> impl FnMut() -> Result<u64> {
    let mut under_way = VecDeque::with_capacity(window);
    move || {
        while under_way.len() < window {
            reading.id += 1;
            under_way.push_back(sink.send_async(&reading)?);
        }
        under_way.pop_front().map_or(Ok(()), PendingAck::wait)?;
        Ok(1)
    }
}

/// Measures the start of the measured plugin; see
/// [`Peer::start`](super::Peer::start).
///
/// # Errors
/// The host's.
pub fn start(program: &Program, transport: &str, format: Format) -> Measured {
    let hosted = Hosted::prepare(program, transport, format)?;
    started(&hosted.host, &hosted.name).map(Some)
}

/// Measures the time from a plugin's start to its handshake, and its resource
/// usage then.
///
/// # Errors
/// The host's.
pub fn started(host: &Host, plugin: &str) -> Result<Sample> {
    let begin = Instant::now();
    host.start(plugin)?;
    let millis = begin.elapsed().as_secs_f64() * 1e3;
    let pid = host.pid(plugin).ok_or_else(|| Error::Peer(format!("plugin {plugin} has ended")))?;
    Ok(Sample::default().with(Metric::StartMillis, millis).with(Metric::ResidentMib, resident_mib(pid)?))
}

/// Returns the builder of a host with this transport.
pub fn host(transport: &str) -> HostBuilder {
    Host::builder().transport(transport).log_level("error")
}

/// Checks whether a transport is built in.
///
/// # Errors
/// The host's text if it is not.
pub fn is_built_in(transport: &str) -> Result<(), String> {
    host(transport).build().map(|_| ()).map_err(|error| Chain(&error).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told() {
        assert!(check(true, "x").is_ok());
        assert_eq!(check(false, "a tuple is missing").unwrap_err().to_string(), "a tuple is missing");
        assert!(is_built_in("pigeon").unwrap_err().contains("pigeon"));
    }
}
