use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Response;
use pin_project_lite::pin_project;

use super::head;
use crate::error::{BoxError, UnexpectedResponse, UpstreamError};
use crate::rejection::Rejection;
use crate::rt::timeout::Timeout;

pin_project! {
    /// A call whose head is sent early if its answer takes long.
    #[project = EarlyCallProj]
    pub(super) enum EarlyCall<F> {
        Never { #[pin] call: F },
        // The call is taken when the head is sent.
        After { call: Option<Pin<Box<F>>>, after: Duration, timeout: Timeout },
    }
}

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

// === impl EarlyCall ===

impl<F: Future> EarlyCall<F> {
    /// `after`: the time after which the head is sent; `None`: never.
    pub(super) fn new(call: F, after: Option<Duration>) -> Self {
        match after {
            None => Self::Never { call },
            Some(after) => Self::After { call: Some(Box::pin(call)), after, timeout: Timeout::default() },
        }
    }

    /// Ready with the answer, or with the call when its head is to be sent.
    pub(super) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<F::Output, Pin<Box<F>>>> {
        match self.project() {
            EarlyCallProj::Never { call } => call.poll(cx).map(Ok),
            EarlyCallProj::After { call: slot, after, timeout } => {
                // Polled again after its head was sent.
                let Some(call) = slot else { return Poll::Pending };
                if let Poll::Ready(answer) = call.as_mut().poll(cx) {
                    return Poll::Ready(Ok(answer));
                }
                ready!(timeout.poll_after(*after, cx));
                slot.take().map_or(Poll::Pending, |call| Poll::Ready(Err(call)))
            }
        }
    }
}

// === impl PendingAnswer ===

impl<B> PendingAnswer<B> {
    pub(super) fn new<F, E>(call: Pin<Box<F>>, json_lines: bool) -> Self
    where
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self { call: Mutex::new(Box::pin(async move { call.await.map_err(Into::into) })), json_lines }
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
