//! gRPC over a Unix socket, with tonic: what another author might have chosen.
//! The service is written by hand, as `tonic-build` would generate it.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ekuiper_core::sync::lock;
use prost::bytes::Bytes;
use tokio::runtime::Runtime;
use tokio_stream::{Stream, StreamExt};
use tonic::client::Grpc as Client;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{Body, BoxFuture, BoxStream, Service, StdError, http};
use tonic::server::{ClientStreamingService, Grpc, ServerStreamingService, StreamingService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::flight;
use super::{Ack, Measured, Peer, Record, RowFunction};
use crate::child::Child;
use crate::clock::{self, Count, Pace};
use crate::machine::resident_mib;
use crate::metric::{Metric, Sample};
use crate::reading::text;
use crate::{Error, Result, check};

/// Maximum time for the other process to be ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// Number of rows in a batch.
const ROWS: usize = 1024;

const ECHO: &str = "/bench.Bench/Echo";
const READ: &str = "/bench.Bench/Read";
const TAKE: &str = "/bench.Bench/Take";
const DROP: &str = "/bench.Bench/Drop";
const ACKNOWLEDGE: &str = "/bench.Bench/Acknowledge";
const COMPUTE: &str = "/bench.Bench/Compute";

/// The record, as [`crate::reading::Reading`].
#[derive(Clone, PartialEq, prost::Message)]
struct Reading {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(double, tag = "2")]
    temperature: f64,
    #[prost(double, tag = "3")]
    humidity: f64,
    #[prost(bool, tag = "4")]
    alarm: bool,
    #[prost(string, tag = "5")]
    note: String,
}

impl Reading {
    fn of_size(size: usize) -> Self {
        let crate::reading::Reading { id, temperature, humidity, alarm, note } = crate::reading::Reading::of_size(size);
        Self { id, temperature, humidity, alarm, note }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Blob {
    #[prost(bytes = "bytes", tag = "1")]
    bytes: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

/// Rows of either kind.
#[derive(Clone, PartialEq, prost::Message)]
struct Rows {
    #[prost(double, repeated, tag = "1")]
    numbers: Vec<f64>,
    #[prost(string, repeated, tag = "2")]
    texts: Vec<String>,
}

/// The service.
#[derive(Clone)]
struct Bench;

impl<B> Service<http::Request<B>> for Bench
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        Box::pin(async move {
            Ok(match request.uri().path() {
                ECHO => Grpc::new(ProstCodec::default()).unary(Echo, request).await,
                READ => Grpc::new(ProstCodec::default()).server_streaming(Read, request).await,
                TAKE => Grpc::new(ProstCodec::default()).client_streaming(Take, request).await,
                DROP => Grpc::new(ProstCodec::default()).client_streaming(Drop, request).await,
                ACKNOWLEDGE => Grpc::new(ProstCodec::default()).streaming(Acknowledge, request).await,
                flight::EXCHANGE => Grpc::new(ProstCodec::default()).streaming(flight::Exchange, request).await,
                COMPUTE => Grpc::new(ProstCodec::default()).unary(Compute, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

struct Echo;

impl UnaryService<Text> for Echo {
    type Response = Text;
    type Future = BoxFuture<Response<Text>, Status>;

    fn call(&mut self, request: Request<Text>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}

/// Sends endless readings, whose note is the request's.
struct Read;

impl ServerStreamingService<Text> for Read {
    type Response = Reading;
    type ResponseStream = BoxStream<Reading>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Text>) -> Self::Future {
        Box::pin(async move {
            let mut reading = Reading::of_size(0);
            reading.note = request.into_inner().text;
            let readings = std::iter::repeat_with(move || {
                reading.id += 1;
                Ok(reading.clone())
            });
            Ok(Response::new(Box::pin(tokio_stream::iter(readings)) as Self::ResponseStream))
        })
    }
}

/// Receives readings, and sums them up.
struct Take;

impl ClientStreamingService<Reading> for Take {
    type Response = Empty;
    type Future = BoxFuture<Response<Empty>, Status>;

    fn call(&mut self, request: Request<Streaming<Reading>>) -> Self::Future {
        Box::pin(async move {
            let mut readings = request.into_inner();
            let mut sum = 0.0;
            while let Some(reading) = readings.message().await? {
                sum += reading.temperature;
            }
            if sum < 0.0 { Err(Status::internal("a negative sum")) } else { Ok(Response::new(Empty {})) }
        })
    }
}

struct Drop;

impl ClientStreamingService<Blob> for Drop {
    type Response = Empty;
    type Future = BoxFuture<Response<Empty>, Status>;

    fn call(&mut self, request: Request<Streaming<Blob>>) -> Self::Future {
        Box::pin(async move {
            let mut blobs = request.into_inner();
            while blobs.message().await?.is_some() {}
            Ok(Response::new(Empty {}))
        })
    }
}

/// Acknowledges each reading.
struct Acknowledge;

impl StreamingService<Reading> for Acknowledge {
    type Response = Empty;
    type ResponseStream = BoxStream<Empty>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Reading>>) -> Self::Future {
        Box::pin(async move {
            let acks = request.into_inner().map(|reading| reading.map(|_| Empty {}));
            Ok(Response::new(Box::pin(acks) as Self::ResponseStream))
        })
    }
}

struct Compute;

impl UnaryService<Rows> for Compute {
    type Response = Rows;
    type Future = BoxFuture<Response<Rows>, Status>;

    fn call(&mut self, request: Request<Rows>) -> Self::Future {
        Box::pin(async move {
            let Rows { mut numbers, mut texts } = request.into_inner();
            numbers.iter_mut().for_each(|number| *number *= 2.0);
            texts.iter_mut().for_each(|text| text.make_ascii_uppercase());
            Ok(Response::new(Rows { numbers, texts }))
        })
    }
}

/// Runs the other process.
///
/// # Errors
/// It cannot listen.
pub(crate) fn serve(path: &Path) -> Result<()> {
    runtime()?.block_on(async {
        let listener = tokio::net::UnixListener::bind(path).map_err(Error::io("listen on the gRPC socket"))?;
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        Server::builder().serve_with_incoming(Bench, incoming).await.map_err(failed)
    })
}

/// Creates a runtime with one thread on each side: with tokio's default of one
/// per processor the same calls take longer.
fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io("start tokio"))
}

pub(super) fn failed(error: impl std::fmt::Display) -> Error {
    Error::Peer(format!("gRPC: {error}"))
}

/// The peer gRPC, with this process and the other one.
pub struct GrpcPeer {
    program: PathBuf,
}

/// A running server.
pub(super) struct Running {
    child: Child,
    folder: tempfile::TempDir,
}

/// A connection to the server.
pub(super) struct Connection {
    runtime: Runtime,
    grpc: Client<Channel>,
}

impl GrpcPeer {
    /// Creates the peer; `program` does what [`crate::child::run`] does.
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    pub(super) fn start(&self) -> Result<Running> {
        let folder = tempfile::tempdir().map_err(Error::io("make a folder for the socket"))?;
        let child = Child::start(&self.program, ["grpc".into(), folder.path().join("grpc").into()])?;
        Ok(Running { child, folder })
    }
}

impl Running {
    pub(super) fn pids(&self) -> [u32; 1] {
        [self.child.pid()]
    }

    /// Connects as soon as the server listens.
    pub(super) fn connect(&mut self) -> Result<Connection> {
        let runtime = runtime()?;
        let endpoint = format!("unix://{}", self.folder.path().join("grpc").display());
        let endpoint = Endpoint::from_shared(endpoint).map_err(failed)?;
        let give_up = Instant::now() + PATIENCE;
        loop {
            match runtime.block_on(endpoint.connect()) {
                Ok(channel) => return Ok(Connection { runtime, grpc: Client::new(channel) }),
                Err(error) if self.child.has_ended() || Instant::now() > give_up => return Err(failed(error)),
                Err(_) => std::thread::sleep(Duration::from_micros(100)),
            }
        }
    }

    fn connections(&mut self, channels: usize) -> Result<Vec<std::sync::Mutex<Connection>>> {
        (0..channels).map(|_| self.connect().map(std::sync::Mutex::new)).collect()
    }
}

impl Connection {
    fn call<M, N>(&mut self, path: &'static str, message: M) -> Result<N>
    where
        M: prost::Message + Send + Sync + 'static,
        N: prost::Message + Default + Send + Sync + 'static,
    {
        let grpc = &mut self.grpc;
        self.runtime.block_on(async {
            grpc.ready().await.map_err(failed)?;
            let path = PathAndQuery::from_static(path);
            let answer = grpc.unary(Request::new(message), path, ProstCodec::default()).await;
            answer.map(Response::into_inner).map_err(failed)
        })
    }

    /// Sends copies of a message for this long; returns how many the other side
    /// received.
    fn pour<M>(&mut self, path: &'static str, message: M, time: Duration) -> Result<(u64, Duration)>
    where
        M: prost::Message + Clone + Send + Sync + 'static,
    {
        let sent = Arc::new(AtomicU64::new(0));
        let counter = sent.clone();
        let start = Instant::now();
        let messages = std::iter::from_fn(move || {
            let number = counter.fetch_add(1, Ordering::Relaxed);
            let is_over = number.is_multiple_of(16) && start.elapsed() >= time;
            (!is_over).then(|| message.clone())
        });
        let grpc = &mut self.grpc;
        self.runtime.block_on(async {
            grpc.ready().await.map_err(failed)?;
            let path = PathAndQuery::from_static(path);
            let request = Request::new(tokio_stream::iter(messages));
            let answer = grpc.client_streaming::<_, M, Empty, _>(request, path, ProstCodec::default()).await;
            answer.map_err(failed)
        })?;
        Ok((sent.load(Ordering::Relaxed) - 1, start.elapsed()))
    }

    fn poured<M>(&mut self, path: &'static str, message: M, pace: Pace) -> Result<Count>
    where
        M: prost::Message + Clone + Send + Sync + 'static,
    {
        let (warm_up, _) = self.pour(path, message.clone(), pace.warm_up)?;
        let (messages, elapsed) = self.pour(path, message, pace.measured)?;
        Ok(Count { messages, elapsed, warm_up })
    }

    /// Sends a stream of messages, and returns that of the answers.
    pub(super) fn exchange<M, N>(
        &mut self,
        path: &'static str,
        messages: impl Stream<Item = M> + Send + 'static,
    ) -> Result<Streaming<N>>
    where
        M: prost::Message + Send + Sync + 'static,
        N: prost::Message + Default + Send + Sync + 'static,
    {
        let grpc = &mut self.grpc;
        self.runtime.block_on(async {
            grpc.ready().await.map_err(failed)?;
            let path = PathAndQuery::from_static(path);
            let answer = grpc.streaming(Request::new(messages), path, ProstCodec::default()).await;
            answer.map(Response::into_inner).map_err(failed)
        })
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Sends readings, with at most `window` of them unacknowledged.
    fn acknowledged(&mut self, pace: Pace, reading: Reading, window: usize) -> Result<Count> {
        let (sender, receiver) = tokio::sync::mpsc::channel(window);
        let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut acks = self.exchange::<Reading, Empty>(ACKNOWLEDGE, requests)?;
        let mut under_way = 0;
        let runtime = &self.runtime;
        clock::stream(pace, || {
            runtime.block_on(async {
                while under_way < window {
                    sender.send(reading.clone()).await.map_err(failed)?;
                    under_way += 1;
                }
                next(&mut acks).await?;
                under_way -= 1;
                Ok(1)
            })
        })
    }
}

async fn next<M>(messages: &mut (impl Stream<Item = Result<M, Status>> + Unpin)) -> Result<M> {
    match messages.next().await {
        Some(message) => message.map_err(failed),
        None => Err(failed("the stream has ended")),
    }
}

impl Peer for GrpcPeer {
    fn name(&self) -> &str {
        "grpc"
    }

    fn title(&self) -> &str {
        "gRPC (tonic)"
    }

    fn about(&self) -> String {
        "gRPC over a Unix socket: tonic and prost, unary calls and streams, batches of 1,024 rows".into()
    }

    fn calls(&self, pace: Pace, size: usize, channels: usize) -> Measured {
        let mut running = self.start()?;
        let connections = running.connections(channels)?;
        let message = Text { text: text(size) };
        let sample = clock::latencies(&running.pids(), channels, |index| {
            let mut connection = lock(&connections[index]);
            clock::calls(pace, || {
                let given: Text = connection.call(ECHO, message.clone())?;
                check(given == message, "gRPC gave back another text")
            })
        })?;
        Ok(Some(sample))
    }

    fn source(&self, pace: Pace, record: Record, size: usize, channels: usize) -> Measured {
        if record != Record::Typed {
            return Ok(None);
        }
        let mut running = self.start()?;
        let connections = running.connections(channels)?;
        let note = crate::reading::Reading::of_size(size).note;
        let sample = clock::streams(&running.pids(), channels, size, |index| {
            let mut connection = lock(&connections[index]);
            let Connection { runtime, grpc } = &mut *connection;
            let mut readings = runtime.block_on(async {
                grpc.ready().await.map_err(failed)?;
                let request = Request::new(Text { text: note.clone() });
                let path = PathAndQuery::from_static(READ);
                let answer = grpc.server_streaming::<_, Reading, _>(request, path, ProstCodec::default()).await;
                answer.map(Response::into_inner).map_err(failed)
            })?;
            let mut last = None;
            clock::stream(pace, || {
                let reading = runtime.block_on(next(&mut readings))?;
                let follows = last.replace(reading.id).is_none_or(|last| reading.id == last + 1);
                check(follows, "a reading is missing")?;
                Ok(1)
            })
        })?;
        Ok(Some(sample))
    }

    fn sink(&self, pace: Pace, ack: Ack, size: usize) -> Measured {
        let mut running = self.start()?;
        let mut connection = running.connect()?;
        let reading = Reading::of_size(size);
        clock::streams_here(&running.pids(), size, || match ack {
            Ack::None => connection.poured(TAKE, reading, pace).map(Some),
            Ack::Each => connection.acknowledged(pace, reading, 1).map(Some),
            Ack::Window(window) => connection.acknowledged(pace, reading, window).map(Some),
        })
    }

    fn bytes(&self, pace: Pace, size: usize) -> Measured {
        let mut running = self.start()?;
        let mut connection = running.connect()?;
        let blob = Blob { bytes: text(size).into() };
        clock::streams_here(&running.pids(), size, || connection.poured(DROP, blob, pace).map(Some))
    }

    fn rows(&self, pace: Pace, function: RowFunction) -> Measured {
        let mut running = self.start()?;
        let mut connection = running.connect()?;
        let (size, rows) = match function {
            RowFunction::Double => (8, Rows { numbers: (0..ROWS).map(|row| row as f64).collect(), texts: vec![] }),
            RowFunction::Upper => (16, Rows { numbers: vec![], texts: vec![text(16); ROWS] }),
        };
        clock::streams_here(&running.pids(), size, || {
            let next = || {
                let given: Rows = connection.call(COMPUTE, rows.clone())?;
                check(given.numbers.len() + given.texts.len() == ROWS, "gRPC gave another number of rows")?;
                Ok(ROWS as u64)
            };
            clock::stream(pace, next).map(Some)
        })
    }

    fn start(&self) -> Measured {
        let begin = Instant::now();
        let mut running = self.start()?;
        let mut connection = running.connect()?;
        let _: Text = connection.call(ECHO, Text::default())?;
        let millis = begin.elapsed().as_secs_f64() * 1e3;
        let resident = resident_mib(running.child.pid())?;
        Ok(Some(Sample::default().with(Metric::StartMillis, millis).with(Metric::ResidentMib, resident)))
    }
}
