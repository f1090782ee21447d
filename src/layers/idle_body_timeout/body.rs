use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::layer::{Activity, Config, IdleBodyTimeoutLayer};
use crate::body::boxed::Polled;
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
    scanner: Option<Box<Scanner>>,
    emitter: Emitter,
}

// === impl IdleBodyTimeoutBody ===

impl<B> IdleBodyTimeoutBody<B> {
    pub(super) fn new(body: B, config: Config) -> Self {
        let Config { limit, activity, emitter } = config;
        let scanner = (activity == Activity::SseEvents).then(Box::default);
        let silence = Silence { limit, idle: Idle::default(), timer: LazyTimer::default(), scanner, emitter };
        Self { body: ResponseBody::inner(body), silence }
    }
}

impl<B> Body for IdleBodyTimeoutBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let mut this = self.project();
        let mut polled = this.body.as_mut().poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => this.silence.broken_by(frame),
            Poll::Pending if this.silence.poll_limit(cx).is_ready() => {
                this.body.give_up();
                polled = Poll::Ready(Some(Err(this.silence.elapsed())));
            }
            _ => {}
        }
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
    #[inline]
    fn broken_by(&mut self, frame: &Frame<Bytes>) {
        match &mut self.scanner {
            None => self.idle.alive(),
            Some(scanner) => match frame.data_ref() {
                Some(data) if !scanner.scan(data).fields => self.idle.interrupted(clock::now()),
                _ => self.idle.alive(),
            },
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
        self.emitter.emit(&Event::BodyElapsed { layer: IdleBodyTimeoutLayer::NAME, after });
        IdleBodyElapsed::new(after).into()
    }
}
