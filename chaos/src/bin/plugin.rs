//! The plugin on our SDK that is put through the faults: functions that report
//! which call they answer, a source that counts, sinks that acknowledge what
//! they have recorded. `plugin/chaos.py` is the same on the official SDK.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use chaos::record::{CALLS, Entry, Log, MESSAGES};
use ekuiper_core::sync::lock;
use ekuiper_sdk::prelude::*;
use serde::Deserialize;

fn main() -> ExitCode {
    let folder = std::env::current_dir().unwrap_or_default();
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A write beyond the file size limit is an error for its caller, and must
    // not end the process.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
    let record = match Record::open(&folder.join(CALLS)) {
        Ok(record) => Arc::new(record),
        Err(error) => {
            tracing::error!(%error, "cannot open the record");
            return ExitCode::FAILURE;
        }
    };
    let slow = Exec { record: record.clone(), takes: Duration::from_millis(20) };
    let mut plugin = Plugin::new(&name);
    for number in 0..MANY {
        let exec = Exec { record: record.clone(), takes: Duration::ZERO };
        plugin = plugin.function(format!("{name}_many{number}"), exec);
    }
    plugin
        .source(format!("{name}_count"), Count::default)
        .source(format!("{name}_few"), Few::default)
        .source(format!("{name}_fail"), Fail::default)
        .sink(format!("{name}_keep"), Keep::default)
        .sink(format!("{name}_hold"), Keep::default)
        .function(format!("{name}_fast"), Exec { record, takes: Duration::ZERO })
        .function(format!("{name}_slow"), slow)
        .run()
}

/// Number of functions of the manifest besides the others.
const MANY: usize = 12;

struct Record {
    log: Mutex<Log>,
    sequence: AtomicU32,
}

impl Record {
    fn open(path: &Path) -> Result<Self> {
        Ok(Self { log: Mutex::new(Log::open(path)?), sequence: AtomicU32::new(0) })
    }

    fn write(&self, id: u64) -> Result<Entry> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { id, pid: std::process::id(), sequence };
        lock(&self.log).write(entry)?;
        Ok(entry)
    }
}

/// A function of a number and a text of any length: returns its execution, its
/// process, and the text's length.
struct Exec {
    record: Arc<Record>,
    takes: Duration,
}

impl Function for Exec {
    fn exec(&mut self, args: &[Value], _ctx: &FunctionContext) -> Result<Value> {
        let [id, text] = args else { return Err("takes a number and a text".into()) };
        let entry = self.record.write(id.as_u64().ok_or("the first argument is no number")?)?;
        std::thread::sleep(self.takes);
        let length = text.as_str().ok_or("the second argument is no text")?.len();
        Ok(json!({ "id": entry.id, "pid": entry.pid, "sequence": entry.sequence, "length": length }))
    }
}

/// A source that counts, one number every two milliseconds.
#[derive(Default)]
struct Count;

impl Source for Count {
    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        let (pid, run) = run_of_a_source()?;
        let mut n = 0u64;
        while ctx.sleep(Duration::from_millis(2)) {
            n += 1;
            ctx.emit(&json!({ "pid": pid, "run": run, "n": n }))?;
        }
        Ok(())
    }
}

/// A source that emits as many rows as configured, and ends.
#[derive(Default)]
struct Few {
    rows: u64,
}

impl Source for Few {
    fn configure(&mut self, _datasource: &str, config: &Config) -> Result<()> {
        #[derive(Deserialize)]
        struct Settings {
            rows: u64,
        }
        self.rows = config.parse::<Settings>()?.rows;
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        let (pid, run) = run_of_a_source()?;
        for n in 1..=self.rows {
            ctx.emit(&json!({ "pid": pid, "run": run, "n": n }))?;
        }
        Ok(())
    }
}

/// A source that fails without a row.
#[derive(Default)]
struct Fail;

impl Source for Fail {
    fn open(&mut self, _ctx: &SourceContext) -> Result<()> {
        Err("it fails".into())
    }
}

/// Returns this process's id, and a number unique to this run of a source.
fn run_of_a_source() -> Result<(u32, u64)> {
    Ok((std::process::id(), SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64))
}

/// A sink that records the number of each message. A message may request a
/// pause.
#[derive(Default)]
struct Keep {
    record: Option<Record>,
}

#[derive(Deserialize)]
struct Message {
    id: u64,
    pause: u64,
}

impl Sink for Keep {
    fn open(&mut self, _ctx: &SinkContext) -> Result<()> {
        self.record = Some(Record::open(Path::new(MESSAGES))?);
        Ok(())
    }

    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
        let record = self.record.as_ref().ok_or("it is not open")?;
        for Message { id, pause } in ctx.rows(data)? {
            std::thread::sleep(Duration::from_millis(pause));
            record.write(id)?;
        }
        Ok(())
    }
}
