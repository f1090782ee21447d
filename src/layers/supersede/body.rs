use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;

use super::config::Config;
use super::shared::ConversationCall;
use crate::body::boxed::{self, Polled};
use crate::body::monitored::{Monitor, MonitoredBody};
use crate::body::observed::{BodyEnd, BodyObserver, Observed};
use crate::body::response::ResponseBody;
use crate::error::{BoxError, Superseded};
use crate::event::Event;
use crate::rt::cancellation::Cancellation;

/// The response body of [`Supersede`](crate::supersede::Supersede): it fails when a newer message replaces its own.
pub type SupersedeBody<B> = MonitoredBody<Observed<B, Box<EndObserver>>, CancelWatch>;

/// Holds a call until its body has ended.
#[derive(Debug)]
pub struct EndObserver {
    call: Option<ConversationCall>,
    /// Whether clients do not retry the complete answer.
    is_final: bool,
}

/// Ends the body when its call is cancelled.
#[derive(Debug)]
pub struct CancelWatch {
    cancellation: Cancellation,
    config: Arc<Config>,
}

// === impl SupersedeBody ===

impl<B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static> SupersedeBody<B> {
    /// That of a request that passes.
    pub(super) fn untouched(body: B) -> Self {
        Self::new(Observed::new(body, None), None)
    }

    /// That of a message.
    pub(super) fn watched(body: B, call: ConversationCall, is_final: bool, config: Arc<Config>) -> Self {
        let watch = CancelWatch { cancellation: call.cancellation().clone(), config };
        let observer = EndObserver { call: Some(call), is_final };
        Self::new(Observed::new(body, Some(Box::new(observer))), Some(watch))
    }
}

// === impl CancelWatch ===

impl<B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static> Monitor<B> for CancelWatch {
    #[inline]
    fn poll_frame(&mut self, mut body: Pin<&mut ResponseBody<B>>, cx: &mut Context<'_>) -> Polled {
        if self.cancellation.is_cancelled() {
            return self.end(body);
        }
        let polled = body.as_mut().poll_frame(cx);
        if polled.is_pending() {
            boxed::discard_pending(polled);
            ready!(self.cancellation.poll(cx));
            return self.end(body);
        }
        polled
    }
}

impl CancelWatch {
    /// Drops the inner body first, which ends the upstream call.
    #[cold]
    fn end<B>(&self, body: Pin<&mut ResponseBody<B>>) -> Polled {
        if body.is_over() {
            return Poll::Ready(None);
        }
        body.drop_inner();
        self.config.emitter.emit(&Event::Superseded);
        Poll::Ready(Some(Err(Superseded::new().into())))
    }
}

// === impl EndObserver ===

impl BodyObserver for EndObserver {
    fn data(&mut self, _empty: bool) {}

    fn trailers(&mut self, _trailers: &HeaderMap) {}

    fn over(&mut self, end: BodyEnd<'_>) {
        let call = self.call.take();
        if let (BodyEnd::Complete, true, Some(call)) = (end, self.is_final, call) {
            call.answered();
        }
    }
}
