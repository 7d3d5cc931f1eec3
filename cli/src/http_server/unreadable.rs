//! What is answered to a request whose head cannot be read: hyper answers that
//! with a status alone, and here gets a sentence.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Answers without a body that hyper writes by itself, and what is said there. No
/// route answers so.
const ANSWERS: [(&[u8], &str); 3] = [
    (
        b"HTTP/1.1 400 Bad Request\r\n",
        "the request's first line or its headers cannot be read: in a URL, a space is percent-encoded, as %20, and so is \
         what is not ASCII; Content-Length is given once, and is a number",
    ),
    (b"HTTP/1.1 414 URI Too Long\r\n", "the URL is too long: send what can be longer as a body"),
    (b"HTTP/1.1 431 Request Header Fields Too Large\r\n", "the request has too many headers, or too long ones"),
];

const NO_BODY: &str = "content-length: 0\r\n";

/// A stream on which such answers have a sentence.
pub(super) struct Explained<S> {
    stream: S,
    /// What of an answer is still to be written.
    rest: Vec<u8>,
}

impl<S: AsyncWrite + Unpin> Explained<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, rest: Vec::new() }
    }

    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, &self.rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.rest.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Explained<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Explained<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_rest(context))?;
        match explained(bytes) {
            // It is written when the stream is flushed.
            Some(answer) => {
                self.rest = answer;
                Poll::Ready(Ok(bytes.len()))
            }
            None => Pin::new(&mut self.stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices {
            [bytes] => self.poll_write(context, bytes),
            slices => {
                ready!(self.poll_rest(context))?;
                Pin::new(&mut self.stream).poll_write_vectored(context, slices)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Returns an answer with its sentence, if it is one of those.
fn explained(bytes: &[u8]) -> Option<Vec<u8>> {
    let (_, sentence) = ANSWERS.iter().find(|(line, _)| bytes.starts_with(line))?;
    let head = std::str::from_utf8(bytes).ok()?;
    let is_head = head.find("\r\n\r\n").is_some_and(|end| end + 4 == head.len());
    if !is_head || !head.contains(NO_BODY) {
        return None;
    }
    // As the routes refuse.
    let body = format!("{}\n", json!({ "error": 1000, "message": sentence }));
    let fields = format!(
        "content-type: application/json\r\nx-content-type-options: nosniff\r\ncontent-length: {}\r\n",
        body.len()
    );
    Some((head.replacen(NO_BODY, &fields, 1) + &body).into_bytes())
}
