use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::layer::{Config, IdleActivity, IdleBodyTimeoutLayer};
use crate::body::boxed::{self, Polled};
use crate::body::response::ResponseBody;
use crate::error::{BoxError, IdleBodyElapsed};
use crate::event::{Emitter, Event};
use crate::policy::idle::Idle;
use crate::proto::sse::Scanner;
use crate::rt::clock;
use crate::rt::timer::LazyTimer;

pin_project! {
    /// The response body of [`IdleBodyTimeout`](crate::IdleBodyTimeout).
    #[derive(Debug)]
    pub struct IdleBodyTimeoutBody<B> {
        #[pin]
        body: ResponseBody<B>,
        silence: Silence,
    }
}

#[derive(Debug)]
struct Silence {
    /// `None`: the layer is off.
    limit: Option<Duration>,
    idle: Idle,
    timer: LazyTimer,
    /// Where only events count.
    scanner: Option<Scanner>,
    emitter: Emitter,
}

// === impl IdleBodyTimeoutBody ===

impl<B> IdleBodyTimeoutBody<B> {
    pub(super) fn new(body: B, config: Config) -> Self {
        let Config { limit, activity, emitter } = config;
        let scanner = (activity == IdleActivity::SseEvents).then(Scanner::new);
        let silence = Silence { limit, idle: Idle::default(), timer: LazyTimer::default(), scanner, emitter };
        Self { body: ResponseBody::inner(body), silence }
    }

    /// Nothing has come.
    #[inline]
    fn poll_silence(body: Pin<&mut ResponseBody<B>>, silence: &mut Silence, cx: &mut Context<'_>) -> Polled {
        ready!(silence.poll_limit(cx));
        body.give_up();
        Poll::Ready(Some(Err(silence.elapsed())))
    }
}

impl<B> IdleBodyTimeoutBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    /// Where only events are a sign of life.
    #[inline(never)]
    fn poll_events(mut body: Pin<&mut ResponseBody<B>>, silence: &mut Silence, cx: &mut Context<'_>) -> Polled {
        let polled = body.as_mut().poll_frame(cx);
        match &polled {
            Poll::Pending => return Self::poll_silence(body, silence, cx),
            Poll::Ready(Some(Ok(frame))) => silence.judge(frame),
            Poll::Ready(_) => {}
        }
        polled
    }
}

impl<B> Body for IdleBodyTimeoutBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let mut this = self.project();
        if this.silence.scanner.is_some() {
            return Self::poll_events(this.body, this.silence, cx);
        }
        let polled = this.body.as_mut().poll_frame(cx);
        if polled.is_pending() {
            boxed::discard_pending(polled);
            return Self::poll_silence(this.body, this.silence, cx);
        }
        this.silence.idle.alive();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Silence ===

impl Silence {
    /// Whether this frame is a sign of life.
    fn judge(&mut self, frame: &Frame<Bytes>) {
        let alive = match (&mut self.scanner, frame.data_ref()) {
            (Some(scanner), Some(data)) => scanner.scan(data).fields,
            _ => true,
        };
        if alive {
            self.idle.alive();
        } else {
            self.idle.interrupted_within(self.limit.unwrap_or(Duration::MAX), clock::now());
        }
    }

    #[inline]
    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        self.idle.waiting(clock::now);
        // The instant only ever moves away: a timer that runs fires soon enough.
        if self.timer.will_wake(cx) { Poll::Pending } else { self.poll_timer(limit, cx) }
    }

    #[cold]
    fn poll_timer(&mut self, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        self.idle.until(limit).map_or(Poll::Pending, |at| self.timer.poll_until(at, cx))
    }

    #[cold]
    fn elapsed(&mut self) -> BoxError {
        let after = self.limit.unwrap_or_default();
        self.emitter.emit(&Event::BodyTimedOut { layer: IdleBodyTimeoutLayer::NAME, after });
        IdleBodyElapsed::new(after).into()
    }
}
