use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::IdleBodyTimeoutBody;
use super::config::{IdleActivity, NAME};
use super::silence::Silence;
use crate::error::BoxError;
use crate::event::{Emitter, Event};
use crate::proto::event_stream::EventStream;

pin_project! {
    /// The future of [`IdleBodyTimeout`](crate::idle_body_timeout::IdleBodyTimeout).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct IdleBodyTimeoutFuture<F> {
        #[pin]
        inner: F,
        // `None`: the layer is off.
        limit: Option<Duration>,
        activity: IdleActivity,
        emitter: Emitter,
    }
}

// === impl IdleBodyTimeoutFuture ===

impl<F> IdleBodyTimeoutFuture<F> {
    pub(super) fn new(inner: F, limit: Option<Duration>, activity: IdleActivity, emitter: Emitter) -> Self {
        Self { inner, limit, activity, emitter }
    }
}

impl<F, B, E> Future for IdleBodyTimeoutFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Output = Result<Response<IdleBodyTimeoutBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let activity = match this.activity {
            IdleActivity::SseEvents if this.limit.is_some() => activity_of(&response, this.emitter),
            _ => IdleActivity::Bytes,
        };
        let silence = Silence::new(*this.limit, activity, std::mem::take(this.emitter));
        Poll::Ready(Ok(response.map(|body| IdleBodyTimeoutBody::new(body, Some(silence)))))
    }
}

/// The activity that can be seen in this answer, if events should count.
fn activity_of<B>(response: &Response<B>, emitter: &Emitter) -> IdleActivity {
    match EventStream::of(response.headers()) {
        EventStream::Plain => IdleActivity::SseEvents,
        EventStream::No => IdleActivity::Bytes,
        EventStream::Encoded => {
            let reason = "a compressed event stream is judged by its bytes";
            emitter.emit(&Event::Bypassed { layer: NAME, reason });
            IdleActivity::Bytes
        }
    }
}
