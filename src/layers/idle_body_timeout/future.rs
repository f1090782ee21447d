use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::IdleBodyTimeoutBody;
use super::layer::{Config, IdleActivity, IdleBodyTimeoutLayer};
use crate::error::BoxError;
use crate::event::Event;
use crate::proto::event_stream::EventStream;

pin_project! {
    /// The future of [`IdleBodyTimeout`](crate::IdleBodyTimeout).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct IdleBodyTimeoutFuture<F> {
        #[pin]
        inner: F,
        config: Config,
    }
}

// === impl IdleBodyTimeoutFuture ===

impl<F> IdleBodyTimeoutFuture<F> {
    pub(super) fn new(inner: F, config: Config) -> Self {
        Self { inner, config }
    }
}

impl<F, B, E> Future for IdleBodyTimeoutFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Output = Result<Response<IdleBodyTimeoutBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        if this.config.limit.is_some() && this.config.activity == IdleActivity::SseEvents {
            this.config.activity = sign_of_life(&response, this.config);
        }
        Poll::Ready(Ok(response.map(|body| IdleBodyTimeoutBody::new(body, this.config.clone()))))
    }
}

fn sign_of_life<B>(response: &Response<B>, config: &Config) -> IdleActivity {
    match EventStream::of(response.headers()) {
        EventStream::Plain => IdleActivity::SseEvents,
        EventStream::No => IdleActivity::Bytes,
        EventStream::Encoded => {
            let reason = "a compressed event stream is judged by its bytes";
            config.emitter.emit(&Event::Bypassed { layer: IdleBodyTimeoutLayer::NAME, reason });
            IdleActivity::Bytes
        }
    }
}
