//! Arrow Flight over a Unix socket, with the crate `arrow-flight`: what another
//! author might have chosen for columns. Each function is one exchange, on which
//! one batch after the other is sent and answered.

use std::path::PathBuf;
use std::sync::Arc;

use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use ekuiper_host::arrow59::arrow_array::{ArrayRef, RecordBatch};
use futures::{StreamExt, TryStreamExt};
use tonic::codegen::{BoxFuture, BoxStream};
use tonic::server::StreamingService;
use tonic::{Request, Response, Status, Streaming};

use super::columns::Columns;
use super::grpc::{self, GrpcPeer, failed};
use super::{Measured, Peer, RowFunction};
use crate::clock::Pace;
use crate::plugin;

/// The method's path.
pub(super) const EXCHANGE: &str = "/arrow.flight.protocol.FlightService/DoExchange";

/// Computes each batch: numbers are doubled, texts returned in capitals.
pub(super) struct Exchange;

impl StreamingService<FlightData> for Exchange {
    type Response = FlightData;
    type ResponseStream = BoxStream<FlightData>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<FlightData>>) -> Self::Future {
        Box::pin(async move {
            let given = request.into_inner().map_err(FlightError::from);
            let computed = FlightRecordBatchStream::new_from_flight_data(given).map(|batch| {
                let column = compute(batch?.column(0))?;
                Ok(RecordBatch::try_from_iter([("result", column)])?)
            });
            let answer = encoder().build(computed).map_err(Status::from);
            Ok(Response::new(Box::pin(answer) as Self::ResponseStream))
        })
    }
}

/// Returns an encoder that never splits a batch, so that each has one answer.
fn encoder() -> FlightDataEncoderBuilder {
    FlightDataEncoderBuilder::new().with_max_flight_data_size(usize::MAX)
}

fn compute(column: &dyn plugin::Array) -> Result<ArrayRef, FlightError> {
    let refused = |error: String| FlightError::ExternalError(error.into());
    if let Some(numbers) = column.as_any().downcast_ref() {
        return Ok(Arc::new(plugin::double(numbers)));
    }
    let texts = column.as_any().downcast_ref().ok_or_else(|| refused("neither numbers nor texts".into()))?;
    Ok(Arc::new(plugin::upper(texts)))
}

/// The peer Arrow Flight, on the server of gRPC.
pub struct FlightPeer(GrpcPeer);

impl FlightPeer {
    /// Creates the peer; `program` does what [`crate::child::run`] does.
    pub fn new(program: PathBuf) -> Self {
        Self(GrpcPeer::new(program))
    }
}

impl Peer for FlightPeer {
    fn name(&self) -> &str {
        "flight"
    }

    fn title(&self) -> &str {
        "Arrow Flight"
    }

    fn about(&self) -> String {
        "Arrow Flight over a Unix socket: arrow-flight and tonic, one exchange for all batches".into()
    }

    fn columns(&self, pace: Pace, function: RowFunction, rows: usize) -> Measured {
        let columns = Columns::of(function, rows)?;
        let mut running = self.0.start()?;
        let mut connection = running.connect()?;
        let (sender, batches) = tokio::sync::mpsc::channel::<RecordBatch>(1);
        let given = tokio_stream::wrappers::ReceiverStream::new(batches).map(Ok);
        // A batch that cannot be encoded ends the stream, and so the measurement.
        let given = encoder().build(given).filter_map(|data| async { data.ok() });
        let answers = connection.exchange(EXCHANGE, given)?;
        let mut results = FlightRecordBatchStream::new_from_flight_data(answers.map_err(FlightError::from));
        columns.measure(pace, &running.pids(), |batch| {
            connection.runtime().block_on(async {
                sender.send(batch.clone()).await.map_err(failed)?;
                match results.next().await {
                    Some(batch) => Ok(batch.map_err(failed)?.column(0).clone()),
                    None => Err(grpc::failed("the exchange has ended")),
                }
            })
        })
    }
}
