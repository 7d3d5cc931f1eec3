//! Measuring loops: sequential calls, and streams.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::machine::Usage;
use crate::metric::{Metric, Sample};
use crate::statistics::percentile;
use crate::{Error, Result};

/// Number of messages between two readings of the clock.
const LOOK_EVERY: usize = 16;

/// Whether all measurements are to end: a signal is for the whole process.
static IS_STOPPED: AtomicBool = AtomicBool::new(false);

/// Ends the measurement in progress, and every later one, with
/// [`Error::Stopped`].
pub fn stop() {
    IS_STOPPED.store(true, Ordering::Relaxed);
}

/// Returns whether [`stop`] was called.
pub fn is_stopped() -> bool {
    IS_STOPPED.load(Ordering::Relaxed)
}

/// # Errors
/// [`Error::Stopped`] after a call of [`stop`].
pub(crate) fn go_on() -> Result<()> {
    if is_stopped() { Err(Error::Stopped) } else { Ok(()) }
}

/// Duration of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time that is measured.
    pub measured: Duration,
    /// Time before that, which is not measured.
    pub warm_up: Duration,
}

impl Pace {
    /// Creates a measurement of this duration, with a quarter of it for the
    /// warm-up.
    pub fn new(measured: Duration) -> Self {
        Self { measured, warm_up: measured / 4 }
    }
}

/// Results of sequential calls.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// Duration of each call, in nanoseconds.
    pub latencies: Vec<u32>,
    /// Time from the first to the last call.
    pub elapsed: Duration,
    /// Number of calls before the measurement.
    pub warm_up: u64,
}

/// Results of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// Number of messages.
    pub messages: u64,
    /// Time from the first to the last message.
    pub elapsed: Duration,
    /// Number of messages before the measurement.
    pub warm_up: u64,
}

impl Count {
    /// Returns the messages per second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Makes sequential calls.
///
/// # Errors
/// A call's.
pub fn calls(pace: Pace, mut call: impl FnMut() -> Result<()>) -> Result<Calls> {
    let mut made = Calls { latencies: Vec::with_capacity(1 << 20), ..Calls::default() };
    let start = Instant::now();
    while start.elapsed() < pace.warm_up {
        go_on()?;
        call()?;
        made.warm_up += 1;
    }
    let start = Instant::now();
    let mut before = start;
    loop {
        call()?;
        let now = Instant::now();
        made.latencies.push((now - before).as_nanos().min(u32::MAX.into()) as u32);
        before = now;
        made.elapsed = now - start;
        if made.elapsed >= pace.measured {
            return Ok(made);
        }
        go_on()?;
    }
}

/// Receives messages as they arrive. `next` receives at least one, and returns
/// their number.
///
/// # Errors
/// Those of `next`.
pub fn stream(pace: Pace, next: impl FnMut() -> Result<u64>) -> Result<Count> {
    stream_of(pace, LOOK_EVERY, next)
}

/// Receives messages as [`stream`] does, reading the clock after each
/// `look_every` times.
///
/// # Errors
/// Those of `next`.
pub fn stream_of(pace: Pace, look_every: usize, mut next: impl FnMut() -> Result<u64>) -> Result<Count> {
    let warm_up = burst(pace.warm_up, look_every, &mut next)?;
    let start = Instant::now();
    let messages = burst(pace.measured, look_every, &mut next)?;
    Ok(Count { messages, elapsed: start.elapsed(), warm_up })
}

/// Sends messages for a time, then waits until all were received: `finish` is
/// part of the time.
///
/// # Errors
/// Those of `send` and `finish`.
pub fn feed(
    pace: Pace,
    mut send: impl FnMut() -> Result<u64>,
    mut finish: impl FnMut() -> Result<()>,
) -> Result<Count> {
    let warm_up = burst(pace.warm_up, LOOK_EVERY, &mut send)?;
    finish()?;
    let start = Instant::now();
    let messages = burst(pace.measured, LOOK_EVERY, &mut send)?;
    finish()?;
    Ok(Count { messages, elapsed: start.elapsed(), warm_up })
}

fn burst(time: Duration, look_every: usize, mut message: impl FnMut() -> Result<u64>) -> Result<u64> {
    let start = Instant::now();
    let mut messages = 0;
    while start.elapsed() < time {
        go_on()?;
        // Reading the clock costs as much as some messages do.
        for _ in 0..look_every {
            messages += message()?;
        }
    }
    Ok(messages)
}

/// Runs `work` on this many threads in parallel; on this thread, if it is one.
fn at_once<T: Send>(threads: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    if threads == 1 {
        return Ok(vec![work(0)?]);
    }
    std::thread::scope(|scope| {
        let work = &work;
        let started: Vec<_> = (0..threads).map(|index| scope.spawn(move || work(index))).collect();
        let joined = started.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(Error::Peer("a thread of the measurement panicked".into())))
        });
        joined.collect()
    })
}

/// Measures calls on one or several channels in parallel, and their resource
/// usage. `pids` are the other processes involved.
///
/// # Errors
/// A call's, or a process has ended.
pub fn latencies(pids: &[u32], channels: usize, work: impl Fn(usize) -> Result<Calls> + Sync) -> Result<Sample> {
    let before = Usage::with(pids)?;
    let made = at_once(channels, work)?;
    let used = Usage::with(pids)?.since(&before);
    let per_second =
        made.iter().map(|calls| calls.latencies.len() as f64 / calls.elapsed.as_secs_f64().max(1e-9)).sum();
    let warm_up: u64 = made.iter().map(|calls| calls.warm_up).sum();
    let mut times: Vec<u32> = made.into_iter().flat_map(|calls| calls.latencies).collect();
    times.sort_unstable();
    let sample = of_latencies(&times).with(Metric::PerSecond, per_second);
    Ok(with_usage(sample, used, warm_up + times.len() as u64, channels))
}

/// Measures one or several streams in parallel, and their resource usage.
/// `size` is a message's payload in bytes.
///
/// # Errors
/// A stream's, or a process has ended.
pub fn streams(
    pids: &[u32],
    channels: usize,
    size: usize,
    work: impl Fn(usize) -> Result<Count> + Sync,
) -> Result<Sample> {
    let before = Usage::with(pids)?;
    let counts = at_once(channels, work)?;
    let used = Usage::with(pids)?.since(&before);
    let messages = counts.iter().map(|count| count.warm_up + count.messages).sum();
    Ok(with_usage(of_rate(counts.iter().map(Count::rate).sum(), size), used, messages, channels))
}

/// Measures one stream from or to this thread, and its resource usage; `None`
/// if there is no such stream.
///
/// # Errors
/// The stream's, or a process has ended.
pub fn streams_here(pids: &[u32], size: usize, work: impl FnOnce() -> Result<Option<Count>>) -> Result<Option<Sample>> {
    let before = Usage::with(pids)?;
    let Some(count) = work()? else { return Ok(None) };
    let used = Usage::with(pids)?.since(&before);
    Ok(Some(with_usage(of_rate(count.rate(), size), used, count.warm_up + count.messages, 1)))
}

/// Returns the percentiles of sorted times in nanoseconds.
pub fn of_latencies(sorted: &[u32]) -> Sample {
    let micros = |percent| f64::from(percentile(sorted, percent)) / 1e3;
    Sample::default().with(Metric::P50, micros(50)).with(Metric::P99, micros(99))
}

/// Returns the rates for messages of this size.
pub fn of_rate(per_second: f64, size: usize) -> Sample {
    Sample::default()
        .with(Metric::PerSecond, per_second)
        .with(Metric::MegabytesPerSecond, per_second * size as f64 / 1e6)
}

fn with_usage(sample: Sample, used: Usage, messages: u64, channels: usize) -> Sample {
    let messages = messages.max(1) as f64;
    let sample = sample.with(Metric::CpuPerMillion, used.cpu / messages * 1e6);
    // Several channels have threads of their own, whose waits end with them.
    if channels == 1 { sample.with(Metric::Waits, used.waits as f64 / messages) } else { sample }
}
