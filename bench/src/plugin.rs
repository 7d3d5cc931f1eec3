//! The measured plugin, on our SDK; `plugin/bench.py` is the same on the
//! official Python SDK.

use std::path::PathBuf;

#[cfg(feature = "columns")]
pub(crate) use ekuiper_sdk::columns::arrow_array::Array;
#[cfg(feature = "columns")]
use ekuiper_sdk::columns::arrow_array::{Float64Array, StringArray};
use ekuiper_sdk::prelude::*;
use serde::Deserialize;

use crate::peer::CHANNELS;
use crate::reading::Reading;

/// Serves the engine that has started this process. The plugin's name, a prefix
/// of its symbols' names, is that of its folder.
pub fn run() -> ExitCode {
    let name = folder();
    let named = |symbol: &str| format!("{name}_{symbol}");
    let plugin = Plugin::new(&name)
        .source(named("typed"), || Typed(Reading::of_size(0)))
        .source(named("value"), || Untyped(Value::Null))
        .sink(named("rows"), Rows::default)
        .sink(named("bytes"), || Bytes)
        .function(named("double"), |x: f64| x * 2.0)
        .function(named("upper"), |text: String| text.to_ascii_uppercase())
        .function(named("busy"), busy);
    #[cfg(feature = "columns")]
    let plugin = plugin.columnar(named("double_columns"), double).columnar(named("upper_columns"), upper);
    (0..CHANNELS)
        .fold(plugin, |plugin, index| plugin.function(named(&format!("echo{index}")), |text: String| text))
        .run()
}

/// Returns the name of the folder that this process was started in.
pub(crate) fn folder() -> String {
    let folder = std::env::current_dir().unwrap_or_default();
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Doubles a column.
#[cfg(feature = "columns")]
pub(crate) fn double(x: &Float64Array) -> Float64Array {
    x.unary(|x| x * 2.0)
}

/// Returns a column of ASCII in capitals, as DataFusion's `upper` does.
#[cfg(feature = "columns")]
#[allow(unsafe_code, reason = "arrow has no other way to change texts without checking them again")]
pub(crate) fn upper(texts: &StringArray) -> StringArray {
    let capitals = texts.value_data().to_ascii_uppercase();
    // SAFETY: ASCII letters are replaced by others, one byte by one byte, so what
    // was UTF-8 still is; offsets and nulls are those of the other array.
    unsafe { StringArray::new_unchecked(texts.offsets().clone(), capitals.into(), texts.nulls().cloned()) }
}

/// Computes for so many microseconds of its thread's CPU time, and gives their
/// number back.
fn busy(micros: u64) -> u64 {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
    };
    let until = now() + micros;
    while now() < until {
        std::hint::spin_loop();
    }
    micros
}

#[derive(Deserialize)]
struct Settings {
    note: String,
}

/// A source of endless readings, as a struct.
struct Typed(Reading);

impl Source for Typed {
    fn configure(&mut self, _datasource: &str, config: &Config) -> Result<()> {
        self.0 = Reading::with_note(config.parse::<Settings>()?.note);
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        loop {
            self.0.id += 1;
            ctx.emit(&self.0)?;
        }
    }
}

/// A source of endless readings, as untyped values.
struct Untyped(Value);

impl Source for Untyped {
    fn configure(&mut self, _datasource: &str, config: &Config) -> Result<()> {
        self.0 = serde_json::to_value(Reading::with_note(config.parse::<Settings>()?.note))?;
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        let mut id = self.0["id"].as_u64().unwrap_or(0);
        loop {
            id += 1;
            self.0["id"] = id.into();
            ctx.emit(&self.0)?;
        }
    }
}

/// A sink that decodes the rows, and sums them up; at its end it writes their
/// number into the file `count`, if it is configured.
#[derive(Default)]
struct Rows {
    sum: f64,
    count: u64,
    file: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Counting {
    count: Option<PathBuf>,
}

impl Sink for Rows {
    fn describe() -> SinkDescription {
        SinkDescription::new().rows()
    }

    fn configure(&mut self, config: &Config) -> Result<()> {
        self.file = config.parse::<Counting>()?.count;
        Ok(())
    }

    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
        for reading in ctx.rows::<Reading>(data)? {
            self.sum += reading.temperature;
            self.count += 1;
        }
        Ok(())
    }

    fn close(&mut self, _ctx: &SinkContext) -> Result<()> {
        match &self.file {
            Some(file) => Ok(std::fs::write(file, self.count.to_string())?),
            None => Ok(()),
        }
    }
}

/// A sink that takes bytes unchanged.
struct Bytes;

impl Sink for Bytes {
    fn collect(&mut self, _ctx: &SinkContext, _data: &[u8]) -> Result<()> {
        Ok(())
    }
}
