//! What is taken of a request's path and query, with refusals in the form of all
//! others.

use std::collections::BTreeSet;

use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{self, FromRequestParts};
use axum::http::StatusCode;
use axum::http::request::Parts;
use ekuiper_core::printable::excerpt;
use serde::de::DeserializeOwned;

use super::Refusal;

/// The names in a request's path.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let taken = extract::Path::from_request_parts(parts, state).await;
        taken.map(|extract::Path(taken)| Self(taken)).map_err(|problem| {
            let text = match &problem {
                PathRejection::FailedToDeserializePathParams(problem)
                    if matches!(problem.kind(), ErrorKind::InvalidUtf8InPathParam { .. }) =>
                {
                    "the path is not UTF-8 where it is decoded".to_owned()
                }
                problem => format!("the path cannot be used: {}", excerpt(&problem.body_text())),
            };
            Refusal::new(StatusCode::BAD_REQUEST, text)
        })
    }
}

/// The parameters of a request's query.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        // A map or a structure would keep one of them.
        let pairs = extract::Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let mut names = BTreeSet::new();
        let twice = pairs.iter().flat_map(|pairs| &pairs.0).find(|(name, _)| !names.insert(name));
        if let Some((twice, _)) = twice {
            let text = format!("the query has {:?} more than once: give it once", excerpt(twice));
            return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        }
        let taken = extract::Query::from_request_parts(parts, state).await;
        taken.map(|extract::Query(taken)| Self(taken)).map_err(|problem| {
            let text = format!("the query cannot be used: {}", excerpt(&problem.body_text()));
            Refusal::new(StatusCode::BAD_REQUEST, text)
        })
    }
}
