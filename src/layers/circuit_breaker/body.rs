use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::circuit::Started;
use super::classification::{SUCCEEDED, SlowCallBy};
use super::permit::Permit;
use crate::body::boxed::Polled;
use crate::body::observed::{BodyObserver, Observed, Outcome};
use crate::body::response::ResponseBody;
use crate::error::BoxError;
use crate::policy::breaker::CallResult;
use crate::rt::clock;

pin_project! {
    /// The response body of [`CircuitBreaker`](crate::CircuitBreaker): how it ends is how the call ended.
    #[derive(Debug)]
    pub struct CircuitBreakerBody<B> {
        #[pin]
        body: Observed<ResponseBody<B>, Watching>,
    }
}

/// Sees a body end.
#[derive(Debug)]
pub(super) struct Watching {
    /// `None`: it has been told already how the call ended.
    permit: Option<Permit>,
    started: Started,
    /// Whether the first data makes a difference, and has not come.
    awaits_data: bool,
    /// Whether trailers must come before the end, and have not.
    awaits_status: bool,
    slow: bool,
    /// What the trailers said, if it was nothing good.
    said: Option<Box<CallResult>>,
}

// === impl CircuitBreakerBody ===

impl<B> CircuitBreakerBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    #[inline]
    pub(super) fn new(body: ResponseBody<B>, watching: Option<Watching>) -> Self {
        Self { body: Observed::new(body, watching) }
    }
}

impl<B> Body for CircuitBreakerBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Watching ===

impl Watching {
    #[inline]
    pub(super) fn new(permit: Permit, started: Started, awaits_status: bool) -> Self {
        let awaits_data = started.is_asked() || permit.probe().is_some();
        Self { permit: Some(permit), started, awaits_data, awaits_status, slow: false, said: None }
    }

    /// It is the consumer's turn all the same.
    #[cold]
    fn no_data_yet(&self) {
        if let Some(probe) = self.permit.as_ref().and_then(Permit::probe) {
            probe.rests();
        }
    }

    #[cold]
    fn first_data(&mut self) {
        self.awaits_data = false;
        let Some(permit) = &self.permit else { return };
        let lane = permit.lane();
        let slow = lane.judge.slow_by == SlowCallBy::FirstData && lane.is_slow(self.started);
        match permit.probe() {
            // It has shown what it had to. A stream of minutes must not keep everybody waiting.
            Some(probe) => self.permit = probe.exchange(CallResult { slow, ..SUCCEEDED }, clock::now()),
            None => self.slow = slow,
        }
    }

    /// Whether the call has been slow, now that it is over.
    #[inline]
    fn is_slow(&self, permit: &Permit) -> bool {
        let lane = permit.lane();
        let undecided = self.awaits_data || lane.judge.slow_by == SlowCallBy::WholeBody;
        self.slow || (undecided && lane.is_slow(self.started))
    }
}

impl BodyObserver for Watching {
    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Polled) -> Polled {
        Permit::poll(&mut self.permit, cx, poll)
    }

    #[inline]
    fn data(&mut self, empty: bool) {
        if self.awaits_data {
            if empty { self.no_data_yet() } else { self.first_data() }
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(permit) = &self.permit {
            let ended = permit.lane().judge.trailers(trailers);
            self.said = (ended != SUCCEEDED).then(|| Box::new(ended));
            self.awaits_status = false;
        }
    }

    #[inline]
    fn over(&mut self, outcome: Outcome<'_>) {
        let Some(permit) = &self.permit else { return };
        let ended = match outcome {
            Outcome::Complete if self.awaits_status => permit.lane().judge.no_trailers(),
            Outcome::Complete => self.said.as_deref().map_or(SUCCEEDED, |said| *said),
            Outcome::Failed(err) => permit.lane().judge.error(&**err),
            // Neutral: it says nothing, and goes.
            Outcome::Dropped => return,
        };
        permit.settle(CallResult { slow: self.is_slow(permit), ..ended }, clock::now());
        self.permit = None;
    }
}
