//! The ways to use a host, for a plugin under our host.

use std::time::Duration;

use ekuiper_host::{AsyncSink, AsyncSource};
use futures::executor::block_on;
use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use serde_json::json;

use super::hosted::{FLUSH, Hosted, windowed};
use super::{Measured, Way};
use crate::clock::{self, Pace};
use crate::machine::{descriptors, threads};
use crate::metric::{Metric, Sample};
use crate::reading::{Reading, text};
use crate::{Error, check};

/// Number of messages that a task awaits between two looks at the clock.
const BURST: u64 = 64;

/// Time that a row of [`Way::Busy`] takes, in microseconds, and the number of
/// rows in a call.
const BUSY: u64 = 50;
const BUSY_ROWS: usize = 1024;

/// Time in which a host ends the threads that it needs no more.
const SETTLE: Duration = Duration::from_millis(1500);

impl Hosted {
    /// Measures a way to use the host; see [`Peer::way`](super::Peer::way).
    ///
    /// # Errors
    /// The host's.
    pub fn way(&self, pace: Pace, way: Way, size: usize) -> Measured {
        match way {
            Way::Call | Way::SpawnBlocking | Way::CallMany(_) | Way::CallAsync(_) => self.call(pace, way, size),
            Way::Busy(processes) => self.compute(pace, processes),
            Way::Source | Way::AsyncSource | Way::Chunks(_) => self.read(pace, way, size),
            Way::Sink | Way::SinkRows(_) | Way::AsyncSink | Way::SinkAcks(_) | Way::AsyncSinkAcks => {
                self.write(pace, way, size)
            }
        }
    }

    fn call(&self, pace: Pace, way: Way, size: usize) -> Measured {
        let echo = self.function("echo0")?;
        let text = text(size);
        let text = text.as_str();
        let right = |given: &str| check(given == text, "the function gave back another text");
        clock::streams_here(&self.pids(), size, || match way {
            Way::SpawnBlocking => {
                let runtime = tokio::runtime::Builder::new_current_thread().build();
                let runtime = runtime.map_err(Error::io("start a runtime"))?;
                let next = || {
                    let (echo, given) = (echo.clone(), text.to_owned());
                    let call = runtime.spawn_blocking(move || echo.call::<String>((given,)));
                    let called = runtime.block_on(call);
                    right(&called.map_err(|_| Error::Peer("a call panicked".into()))??)?;
                    Ok(1)
                };
                clock::stream_of(pace, 1, next).map(Some)
            }
            Way::CallMany(rows) => {
                let next = || {
                    let results = echo
                        .call_many::<String, _>(std::iter::repeat_n((text,), rows))
                        .map_err(ekuiper_host::Error::from)?;
                    results.iter().try_for_each(|result| right(result.as_deref().unwrap_or_default()))?;
                    Ok(rows as u64)
                };
                clock::stream_of(pace, 1, next).map(Some)
            }
            Way::CallAsync(under_way) => {
                let mut calls = FuturesUnordered::new();
                let next = || {
                    block_on(async {
                        for _ in 0..BURST {
                            while calls.len() < under_way {
                                calls.push(echo.call_async::<String>((text,))?);
                            }
                            let result = calls.next().await.expect("there are some");
                            right(&result?)?;
                        }
                        Ok(BURST)
                    })
                };
                clock::stream_of(pace, 1, next).map(Some)
            }
            _ => clock::stream(pace, || right(&echo.call::<String>((text,))?).map(|()| 1)).map(Some),
        })
    }

    fn compute(&self, pace: Pace, processes: Option<usize>) -> Measured {
        let function = self.function("busy")?;
        let pool = self.host.function_pool(&self.symbol("busy")).size(processes.unwrap_or(1)).open()?;
        let rows = || std::iter::repeat_n((BUSY,), BUSY_ROWS);
        let next = || {
            let results = match processes {
                Some(_) => pool.call_many::<u64, _>(rows()),
                None => function.call_many::<u64, _>(rows()),
            };
            let results = results.map_err(ekuiper_host::Error::from)?;
            check(results.iter().all(|result| *result == Ok(BUSY)), "the function gave back another number")?;
            Ok(BUSY_ROWS as u64)
        };
        // All processes have been started then.
        next()?;
        clock::streams_here(&self.pids(), 0, || clock::stream_of(pace, 1, next).map(Some))
    }

    fn read(&self, pace: Pace, way: Way, size: usize) -> Measured {
        let note = Reading::of_size(size).note;
        let source = self.host.source(&self.symbol("typed")).rule(format!("{}r", self.name));
        let source = source.config(json!({ "note": note }));
        let over = || Error::Peer("the source has ended".into());
        let mut last = 0;
        let mut follows = |id: u64| {
            let follows = last == 0 || id == last + 1;
            last = id;
            check(follows, "a tuple is missing")
        };
        clock::streams_here(&self.pids(), size, || match way {
            Way::AsyncSource => {
                let mut source: AsyncSource<Reading> = block_on(source.open_async())?;
                let next = || {
                    block_on(async {
                        for _ in 0..BURST {
                            follows(source.next().await.ok_or_else(over)??.message.id)?;
                        }
                        Ok(BURST)
                    })
                };
                clock::stream_of(pace, 1, next).map(Some)
            }
            Way::Chunks(rows) => {
                let mut source: AsyncSource<Reading> = block_on(source.open_async())?;
                let next = || {
                    let chunk = block_on(source.next_chunk(rows, FLUSH))?.ok_or_else(over)?;
                    chunk.iter().try_for_each(|tuple| follows(tuple.message.id))?;
                    Ok(chunk.len() as u64)
                };
                clock::stream_of(pace, 1, next).map(Some)
            }
            _ => {
                let mut source = source.open_as::<Reading>()?;
                let next = || follows(source.next().ok_or_else(over)??.message.id).map(|()| 1);
                clock::stream(pace, next).map(Some)
            }
        })
    }

    fn write(&self, pace: Pace, way: Way, size: usize) -> Measured {
        let has_acks = matches!(way, Way::SinkAcks(_) | Way::AsyncSinkAcks);
        let sink = self.host.sink(&self.symbol("rows")).rule(format!("{}r", self.name)).require_ack(has_acks);
        let mut reading = Reading::of_size(size);
        let mut next = || {
            reading.id += 1;
            reading.clone()
        };
        clock::streams_here(&self.pids(), size, || match way {
            Way::AsyncSink | Way::AsyncSinkAcks => {
                let mut sink: AsyncSink = block_on(sink.open_async())?;
                let feed = || {
                    block_on(async {
                        for _ in 0..BURST {
                            sink.feed(next()).await?;
                        }
                        if has_acks {
                            SinkExt::<Reading>::flush(&mut sink).await?;
                        }
                        Ok(BURST)
                    })
                };
                clock::stream_of(pace, 1, feed).map(Some)
            }
            Way::SinkAcks(window) => {
                let sink = sink.open()?;
                clock::stream(pace, windowed(&sink, window, Reading::of_size(size))).map(Some)
            }
            Way::SinkRows(count) => {
                let (sink, rows) = (sink.open()?, vec![next(); count]);
                clock::stream_of(pace, 1, || Ok(sink.send_all(&rows).map(|()| count as u64)?)).map(Some)
            }
            _ => {
                let sink = sink.open()?;
                clock::stream(pace, || sink.send(&next()).map(|()| 1).map_err(Error::from)).map(Some)
            }
        })
    }

    /// Counts the threads and descriptors of this process that so many open
    /// sources of tasks cost.
    ///
    /// # Errors
    /// The host's.
    pub fn handles(&self, sources: usize) -> Measured {
        let before = (threads()?, descriptors()?);
        let open = |number| {
            let source = self.host.source(&self.symbol("typed")).rule(format!("{}r{number}", self.name));
            source.config(json!({ "note": "" })).open_async::<Reading>()
        };
        let mut opened = Vec::new();
        block_on(async {
            for number in 0..sources {
                opened.push(open(number).await?);
            }
            for source in &mut opened {
                source.next().await.transpose()?;
            }
            Ok::<_, Error>(())
        })?;
        // The threads that opened them end.
        std::thread::sleep(SETTLE);
        let sample = Sample::default()
            .with(Metric::Threads, threads()?.saturating_sub(before.0) as f64)
            .with(Metric::Descriptors, descriptors()?.saturating_sub(before.1) as f64);
        Ok(Some(sample))
    }
}
