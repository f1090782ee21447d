use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::error::{BoxError, ConnectElapsed};
use crate::event::{Emitter, Event};
use crate::rt::timeout::Timeout;

pin_project! {
    /// The future of [`ConnectTimeout`](crate::connect_timeout::ConnectTimeout).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ConnectTimeoutFuture<F> {
        // `None`: timed out.
        #[pin]
        connecting: Option<F>,
        // `None`: the layer is off.
        limit: Option<Duration>,
        timeout: Timeout,
        emitter: Emitter,
    }
}

// === impl ConnectTimeoutFuture ===

impl<F> ConnectTimeoutFuture<F> {
    pub(super) fn new(connecting: F, limit: Option<Duration>, emitter: Emitter) -> Self {
        Self { connecting: Some(connecting), limit, timeout: Timeout::default(), emitter }
    }
}

impl<F, T, E> Future for ConnectTimeoutFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // Polled again after it gave up.
        let Some(connecting) = this.connecting.as_mut().as_pin_mut() else { return Poll::Pending };
        if let Poll::Ready(connected) = connecting.poll(cx) {
            return Poll::Ready(connected.map_err(Into::into));
        }
        let Some(limit) = *this.limit else { return Poll::Pending };
        ready!(this.timeout.poll_after(limit, cx));
        this.connecting.set(None);
        this.emitter.emit(&Event::ConnectElapsed { after: limit });
        Poll::Ready(Err(ConnectElapsed::new(limit).into()))
    }
}
