//! What requests are answered that are under way when the manager ends.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Refusal;
use crate::Manager;
use crate::ending::Stage;

/// Why something was not done, or not to its end.
pub(super) const ENDING: &str = "the server is ending";

/// The refusal of what is under way when the manager ends; what has become of it,
/// as the rest of a sentence.
pub(super) fn is_ending(fate: &str) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("{ENDING}, {fate}"))
}

/// Answers a request that nobody else answers before the manager has ended.
pub(super) async fn answer_at_the_end(State(manager): State<Arc<Manager>>, request: Request, next: Next) -> Response {
    let end = manager.ending.watch();
    drop(manager);
    tokio::select! {
        biased;
        answer = next.run(request) => answer,
        () = end.comes(Stage::Over) => is_ending("and what became of this request is unknown").into_response(),
    }
}
