//! Measures iceoryx2, shared memory without copies and without access control,
//! with two processes of this program: `measure` starts `serve` and prints the
//! figures as JSON. What travels is bytes, which both sides copy once; there is
//! no codec in it. Both sides busy-poll, which is iceoryx2's fastest way.

use std::error::Error;
use std::hint::spin_loop;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use iceoryx2::config::Config;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::PortFactory as _;
use iceoryx2::service::port_factory::request_response::PortFactory;

const USAGE: &str = "usage: iceoryx2-bench measure calls|source|sink SIZE CHANNELS SECONDS WARM-UP";

/// Bounds every wait: whoever waits longer has lost its peer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Samples that may be on their way.
const BUFFER: usize = 1024;

/// Samples between two looks whether to stop.
const BETWEEN_LOOKS: usize = 256;

/// Messages shorter than any that is measured.
const READ_ALL: &[u8] = &[0];
const STOP: &[u8] = &[0, 0];

type Done<T = ()> = Result<T, Box<dyn Error>>;
type Calls = PortFactory<ipc::Service, [u8], (), [u8], ()>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = run(&arguments) {
        eprintln!("iceoryx2-bench: {error}");
        std::process::exit(1);
    }
}

fn run(arguments: &[String]) -> Done {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["measure", mode, size, channels, measured, warm_up] => {
            if channels.parse() != Ok(1) {
                return Err("one channel is measured".into());
            }
            let [warm_up, measured] = [warm_up.parse()?, measured.parse()?].map(Duration::from_secs_f64);
            measure(mode, size.parse()?, warm_up, measured)
        }
        ["serve", mode, size, folder] => serve(mode, &vec![0; size.parse()?], &Site::new(folder)?),
        _ => Err(USAGE.into()),
    }
}

/// The node of one process, with its files in a folder of the measurement's.
struct Site {
    node: Node<ipc::Service>,
    name: String,
}

impl Site {
    fn new(folder: &str) -> Done<Self> {
        set_log_level(LogLevel::Error);
        let mut config = Config::default();
        config.global.set_root_path(&folder.try_into()?);
        config.global.prefix = prefix(folder).as_str().try_into()?;
        let node = NodeBuilder::new().config(&config).create::<ipc::Service>()?;
        Ok(Self { node, name: folder.to_owned() })
    }

    fn calls(&self) -> Done<Calls> {
        let service = self.node.service_builder(&self.name.as_str().try_into()?);
        Ok(service.request_response::<[u8], [u8]>().open_or_create()?)
    }

    fn publisher(&self, what: &str, size: usize) -> Done<Publisher<ipc::Service, [u8], ()>> {
        let (name, size) = (format!("{}{what}", self.name), size.max(STOP.len()));
        let service = self.node.service_builder(&name.as_str().try_into()?).publish_subscribe::<[u8]>();
        let service = service.enable_safe_overflow(false).subscriber_max_buffer_size(BUFFER).open_or_create()?;
        let publisher = service.publisher_builder().initial_max_slice_len(size);
        Ok(publisher.backpressure_strategy(BackpressureStrategy::RetryUntilDelivered).create()?)
    }

    fn subscriber(&self, what: &str) -> Done<Subscriber<ipc::Service, [u8], ()>> {
        let name = format!("{}{what}", self.name);
        let service = self.node.service_builder(&name.as_str().try_into()?).publish_subscribe::<[u8]>();
        let service = service.enable_safe_overflow(false).subscriber_max_buffer_size(BUFFER).open_or_create()?;
        Ok(service.subscriber_builder().create()?)
    }
}

/// What the names of a measurement's shared memory begin with.
fn prefix(folder: &str) -> String {
    folder.trim_start_matches('/').replace('/', "-")
}

/// Removes the shared memory that iceoryx2 leaves.
struct Swept(String);

impl Drop for Swept {
    fn drop(&mut self) {
        for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&self.0) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

fn publish(publisher: &Publisher<ipc::Service, [u8], ()>, message: &[u8]) -> Done {
    publisher.loan_slice_uninit(message.len())?.write_from_slice(message).send()?;
    Ok(())
}

/// Busy-polls until there is something.
fn poll<T>(what: &str, mut look: impl FnMut() -> Done<Option<T>>) -> Done<T> {
    let mut give_up = None;
    for turn in 1u64.. {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if turn % 0x10000 == 0 && Instant::now() > *give_up.get_or_insert_with(|| Instant::now() + PATIENCE) {
            break;
        }
        spin_loop();
    }
    Err(format!("{what}: not within {PATIENCE:?}").into())
}

/// Ends the other process with this one.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(mode: &str, size: usize, warm_up: Duration, measured: Duration) -> Done {
    let folder = tempfile::tempdir()?;
    let path = folder.path().to_str().ok_or("the folder for temporary files is no text")?;
    let _swept = Swept(prefix(path));
    let site = Site::new(path)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", mode, &size.to_string(), path]).stdin(Stdio::null());
    let message = vec![b'x'; size];
    let mut buffer = vec![0; size];
    let phases = [warm_up, measured];
    let (mut all, mut last) = (0, Phase::default());
    let mut add = |phase: Phase| {
        all += phase.count;
        last = phase;
    };
    let (mut server, theirs);
    match mode {
        "calls" => {
            let service = site.calls()?;
            let client = service.client_builder().initial_max_slice_len(size).create()?;
            server = Server(command.spawn()?);
            poll("the server's start", || Ok((service.dynamic_config().number_of_servers() > 0).then_some(())))?;
            for time in phases {
                add(Phase::of(time, true, || {
                    let pending = client.loan_slice_uninit(size)?.write_from_slice(&message).send()?;
                    let response = poll("a response", || Ok(pending.receive()?))?;
                    buffer.copy_from_slice(response.payload());
                    Ok(())
                })?);
            }
            theirs = used_by(&server)?;
            let _unanswered = client.loan_slice_uninit(STOP.len())?.write_from_slice(STOP).send()?;
            await_end(&mut server, || Ok(()))?;
        }
        "source" => {
            let (rows, stop) = (site.subscriber("rows")?, site.publisher("stop", 0)?);
            server = Server(command.spawn()?);
            for time in phases {
                add(Phase::of(time, false, || {
                    buffer.copy_from_slice(poll("a row", || Ok(rows.receive()?))?.payload());
                    Ok(())
                })?);
            }
            theirs = used_by(&server)?;
            publish(&stop, STOP)?;
            await_end(&mut server, || {
                while rows.receive()?.is_some() {}
                Ok(())
            })?;
        }
        "sink" => {
            let (rows, acks) = (site.publisher("rows", size)?, site.subscriber("acks")?);
            server = Server(command.spawn()?);
            let read_all = || -> Done {
                publish(&rows, READ_ALL)?;
                poll("the acknowledgement", || Ok(acks.receive()?)).map(drop)
            };
            poll("the server's start", || Ok(acks.receive()?))?;
            for time in phases {
                let mut phase = Phase::of(time, false, || publish(&rows, &message))?;
                let since = Instant::now();
                read_all()?;
                phase.elapsed += since.elapsed();
                add(phase);
            }
            theirs = used_by(&server)?;
            publish(&rows, STOP)?;
            await_end(&mut server, || Ok(()))?;
        }
        _ => return Err(USAGE.into()),
    }
    let mut figures = serde_json::json!({
        "per_second": last.count as f64 / last.elapsed.as_secs_f64(),
        "messages": all,
        "cpu_seconds": used("self")? + theirs,
    });
    last.times.sort_unstable();
    if let (Some(p50), Some(p99)) = (last.percentile(50), last.percentile(99)) {
        figures["p50_us"] = p50.into();
        figures["p99_us"] = p99.into();
    }
    println!("{figures}");
    Ok(())
}

/// What one phase of a measurement came to.
#[derive(Default)]
struct Phase {
    count: usize,
    elapsed: Duration,
    times: Vec<Duration>,
}

impl Phase {
    fn of(time: Duration, is_timed: bool, mut step: impl FnMut() -> Done) -> Done<Self> {
        let mut phase = Self::default();
        let start = Instant::now();
        let mut before = start;
        loop {
            step()?;
            phase.count += 1;
            // The clock costs more than a row.
            if is_timed || phase.count % 64 == 0 {
                let now = Instant::now();
                if is_timed {
                    phase.times.push(now - before);
                    before = now;
                }
                phase.elapsed = now - start;
                if phase.elapsed >= time {
                    return Ok(phase);
                }
            }
        }
    }

    /// Returns microseconds.
    fn percentile(&self, percent: usize) -> Option<f64> {
        let rank = (self.times.len() * percent).div_ceil(100).max(1);
        Some(self.times.get(rank - 1)?.as_secs_f64() * 1e6)
    }
}

fn await_end(server: &mut Server, mut meanwhile: impl FnMut() -> Done) -> Done {
    let status = poll("the server's end", || {
        meanwhile()?;
        Ok(server.0.try_wait()?)
    })?;
    if status.success() { Ok(()) } else { Err(format!("the server ended with {status}").into()) }
}

fn used_by(server: &Server) -> Done<f64> {
    used(&server.0.id().to_string())
}

/// Returns the CPU time of a process with one thread, in seconds.
fn used(process: &str) -> Done<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/schedstat"))?;
    let nanoseconds: f64 = text.split(' ').next().ok_or("schedstat is empty")?.parse()?;
    Ok(nanoseconds / 1e9)
}

fn serve(mode: &str, message: &[u8], site: &Site) -> Done {
    let mut buffer = message.to_vec();
    match mode {
        "calls" => {
            let server = site.calls()?.server_builder().initial_max_slice_len(message.len()).create()?;
            loop {
                let request = poll("a request", || Ok(server.receive()?))?;
                if *request.payload() == *STOP {
                    return Ok(());
                }
                buffer.copy_from_slice(request.payload());
                request.loan_slice_uninit(buffer.len())?.write_from_slice(&buffer).send()?;
            }
        }
        "source" => {
            let (rows, stop) = (site.publisher("rows", message.len())?, site.subscriber("stop")?);
            while stop.receive()?.is_none() {
                for _ in 0..BETWEEN_LOOKS {
                    publish(&rows, message)?;
                }
            }
            Ok(())
        }
        "sink" => {
            let (rows, acks) = (site.subscriber("rows")?, site.publisher("acks", 0)?);
            publish(&acks, READ_ALL)?;
            loop {
                let row = poll("a row", || Ok(rows.receive()?))?;
                match row.payload() {
                    STOP => return Ok(()),
                    READ_ALL => publish(&acks, READ_ALL)?,
                    payload => buffer.copy_from_slice(payload),
                }
            }
        }
        _ => Err(USAGE.into()),
    }
}
