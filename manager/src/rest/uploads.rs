//! `/config/uploads`: packages that are sent to the manager, to be installed
//! from where they lie then.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::multipart::{MultipartError, MultipartRejection};
use axum::extract::{Multipart, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use ekuiper_core::Chain;
use ekuiper_core::printable::excerpt;

use super::body::BROKE_OFF;
use super::ending::is_ending;
use super::extract::Path;
use super::{Answer, Refusal, blocking, json, status_of};
use crate::ending::{End, Stage};
use crate::{Error, Manager};

/// Maximum pause in a form's arrival: a request that hangs must not keep others
/// out for ever.
const PAUSE: Duration = Duration::from_secs(60);

/// Name of the form's field, the engine's.
const FIELD: &str = "uploadFile";

/// Lists the paths of the files.
pub(super) async fn list(State(manager): State<Arc<Manager>>) -> Answer {
    blocking(move || {
        let failed = |problem: Error| format!("list uploads error: {}", Chain(&problem));
        let paths = manager.uploads().map_err(|problem| Refusal::new(status_of(&problem), failed(problem)))?;
        json(&paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>())
    })
    .await
}

/// Stores the file of a form; the answer is its path.
pub(super) async fn add(
    State(manager): State<Arc<Manager>>,
    headers: HeaderMap,
    form: Result<Multipart, MultipartRejection>,
) -> Answer {
    let wanted = format!("the body is to be a form, multipart/form-data: curl -F {FIELD}=@PACKAGE.zip");
    let mut form = form.map_err(|_| bad(wanted))?;
    let failed = |problem: Error| match problem {
        Error::Fetch { .. } => Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, ..bad(Chain(&problem).to_string()) },
        problem => failed(&problem),
    };
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    manager.check_form(length.unwrap_or(0)).map_err(failed)?;
    let end = manager.ending.watch();
    while let Some(mut field) = in_time(&end, form.next_field()).await? {
        if field.name() != Some(FIELD) {
            continue;
        }
        let name = field.file_name().unwrap_or_default().to_owned();
        let mut upload = manager.begin_upload(&name).map_err(failed)?;
        while let Some(bytes) = in_time(&end, field.chunk()).await? {
            upload.add(&bytes).map_err(failed)?;
        }
        let path = upload.keep().map_err(failed)?;
        return Ok((StatusCode::CREATED, path.display().to_string()).into_response());
    }
    Err(bad(format!("the form has no file {FIELD}")))
}

/// Waits for the next piece of a form.
async fn in_time<T>(end: &End, next: impl Future<Output = Result<T, MultipartError>>) -> Result<T, Refusal> {
    let next = tokio::select! {
        biased;
        next = tokio::time::timeout(PAUSE, next) => next,
        () = end.comes(Stage::Shutdown) => return Err(is_ending("and nothing was uploaded: not all of the form has come")),
    };
    match next {
        Ok(piece) => piece.map_err(|problem| bad(reason(&problem))),
        Err(_) => Err(bad(format!("nothing more of the form came for {PAUSE:?}"))),
    }
}

/// What is wrong with a form. Its errors differ in their texts alone.
fn reason(problem: &MultipartError) -> String {
    let text = problem.body_text();
    match text.contains("incomplete") || text.contains("failed to read") {
        true => format!("the form {BROKE_OFF}"),
        false => text,
    }
}

/// Removes a file that was uploaded.
pub(super) async fn remove(State(manager): State<Arc<Manager>>, Path(name): Path<String>) -> Answer {
    blocking(move || match manager.remove_upload(&name) {
        Ok(true) => Ok("ok".into_response()),
        Ok(false) => Err(bad(format!("there is no upload {}", excerpt(&name)))),
        Err(problem) => Err(failed(&problem)),
    })
    .await
}

fn failed(problem: &Error) -> Refusal {
    Refusal { status: status_of(problem), ..bad(Chain(problem).to_string()) }
}

fn bad(text: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, format!("upload error: {text}"))
}
