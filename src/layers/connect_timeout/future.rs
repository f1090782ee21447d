use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use super::layer::Config;
use crate::error::{BoxError, ConnectElapsed};
use crate::event::Event;
use crate::policy::idle::Idle;
use crate::rt::clock;
use crate::rt::timer::LazyTimer;

pin_project! {
    /// The future of [`ConnectTimeout`](crate::ConnectTimeout).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ConnectTimeoutFuture<F> {
        #[pin]
        connecting: Option<F>,
        config: Config,
        wait: Idle,
        timer: LazyTimer,
    }
}

// === impl ConnectTimeoutFuture ===

impl<F> ConnectTimeoutFuture<F> {
    pub(super) fn new(connecting: F, config: Config) -> Self {
        Self { connecting: Some(connecting), config, wait: Idle::default(), timer: LazyTimer::default() }
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
        let Some(limit) = this.config.limit else { return Poll::Pending };
        this.wait.waiting(clock::now);
        let Some(at) = this.wait.until(limit) else { return Poll::Pending };
        ready!(this.timer.poll_until(at, cx));
        this.connecting.set(None);
        this.config.emitter.emit(&Event::ConnectElapsed { after: limit });
        Poll::Ready(Err(ConnectElapsed::new(limit).into()))
    }
}
