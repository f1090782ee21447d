use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use http::Response;

use super::head;
use crate::error::{BoxError, UnexpectedResponse, UpstreamError};
use crate::rejection::Rejection;

/// A call whose head was sent before its answer.
///
/// It is `Sync` for any call, since some servers and clients require it of a body. Polling has exclusive access and takes
/// no lock.
pub(super) struct PendingAnswer<B> {
    call: Mutex<PendingCall<B>>,
    /// The head announced JSON lines instead of an event stream.
    json_lines: bool,
}

type PendingCall<B> = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

/// The call, with its error boxed.
struct Boxing<F>(Pin<Box<F>>);

// === impl PendingAnswer ===

impl<B> PendingAnswer<B> {
    pub(super) fn new<F, E>(call: Pin<Box<F>>, json_lines: bool) -> Self
    where
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self { call: Mutex::new(Box::pin(Boxing(call))), json_lines }
    }

    /// Returns the answer, if it can follow the sent head.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<B>, BoxError>> {
        let call = self.call.get_mut().unwrap_or_else(PoisonError::into_inner);
        let json_lines = self.json_lines;
        call.as_mut().poll(cx).map(|answer| answer.and_then(|answer| judge(answer, json_lines)))
    }
}

fn judge<B>(response: Response<B>, json_lines: bool) -> Result<Response<B>, BoxError> {
    if head::is_stream(response.status(), response.headers(), json_lines) {
        return Ok(response);
    }
    Err(match (Rejection::of(&response), response.extensions().get::<UpstreamError>()) {
        (Some(rejection), _) => rejection.clone().into(),
        // The stream guard has read the body of this 4xx or 5xx.
        (None, Some(error)) => error.clone().into(),
        (None, None) => UnexpectedResponse::new(response.status()).into(),
    })
}

impl<B> fmt::Debug for PendingAnswer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingAnswer").finish_non_exhaustive()
    }
}

// === impl Boxing ===

impl<F, B, E> Future for Boxing<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<B>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map_err(Into::into)
    }
}
