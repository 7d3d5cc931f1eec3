//! How many requests are handled at the same time.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::Refusal;

/// Maximum number of requests that are handled at the same time, each of which
/// may hold a thread and a body.
const MOST: usize = 256;

/// Returns the room for requests.
pub(super) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MOST))
}

/// Refuses a request for which there is no room. It counts until its answer
/// begins.
pub(super) async fn refuse_beyond(State(room): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let Ok(_handled) = room.try_acquire() else {
        let text = format!("{MOST} requests are being handled: try again when one of them is done");
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    next.run(request).await
}
