//! Writes one log line and a few metrics per call when its answer ends.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_buttress::error::BoxError;
use tower_buttress::proto::dialect::End;
use tower_buttress::{Ending, Model, OutputUsage, Tenant};

use super::answer_body::AnswerBody;
use super::attempts::{ATTEMPTS, Cause};
use super::calls::{CallState, CallsInFlight, UnderWay};
use super::figures::{CallFigures, CallOutcome};
use super::ids::{self, RequestId};
use super::proxy::DEDUP;
use super::routes::RouteName;
use super::upstream::UpstreamCalls;
use super::{answers, problem, telemetry};

/// A call, from its head to the end of its answer. Dropped earlier, it counts as left by its client.
#[derive(Debug)]
pub(crate) struct Access {
    under_way: UnderWay,
    id: RequestId,
    trace_id: Option<String>,
    method: Method,
    path: String,
    tenant: Option<Tenant>,
    begun: Instant,
    head: AnswerHead,
    first_byte: Option<Duration>,
    bytes: u64,
    outcome: CallOutcome,
    error: Option<String>,
}

/// What the head of an answer says.
#[derive(Debug, Default)]
struct AnswerHead {
    status: Option<StatusCode>,
    served_by: Option<HeaderValue>,
    dedup: Option<HeaderValue>,
    route: Option<RouteName>,
    attempts: Option<HeaderValue>,
    model: Option<Model>,
    asked: Option<UpstreamCalls>,
    ending: Option<Ending>,
    /// The tokens of all model calls behind one JSON answer, including repeated ones.
    cost: Option<OutputUsage>,
}

pin_project! {
    /// A body that reports its progress to its call.
    #[derive(Debug)]
    pub(crate) struct TrackedBody {
        body: AnswerBody,
        access: Option<Access>,
    }

    impl PinnedDrop for TrackedBody {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            // A server does not poll again after the last byte of a known length.
            if let (Some(access), true) = (this.access, this.body.is_end_stream()) {
                access.complete();
            }
        }
    }
}

// === impl Access ===

impl Access {
    pub(crate) fn begin<B>(request: &Request<B>, id: RequestId, calls: &CallsInFlight) -> Self {
        CallFigures::of_this_process().began();
        Self {
            under_way: calls.begin(id.as_str()),
            id,
            trace_id: ids::trace_id(request.headers()),
            method: request.method().clone(),
            // Not the query: people put secrets there.
            path: answers::logged(request.uri().path()),
            tenant: None,
            begun: Instant::now(),
            head: AnswerHead::default(),
            first_byte: None,
            bytes: 0,
            outcome: CallOutcome::ClientLeft,
            error: None,
        }
    }

    /// Sets the tenant of the call, once authentication knows it.
    pub(crate) fn of_tenant(&mut self, tenant: Option<&Tenant>) {
        self.under_way.call().of_tenant(tenant);
        self.tenant = tenant.cloned();
    }

    /// The call as the page shows it.
    pub(crate) fn call(&self) -> &CallState {
        self.under_way.call()
    }

    /// Follows the answer to its end.
    pub(crate) fn follow(mut self, response: Response<AnswerBody>) -> Response<TrackedBody> {
        let (headers, extensions) = (response.headers(), response.extensions());
        self.head = AnswerHead {
            status: Some(response.status()),
            served_by: headers.get(problem::SERVED_BY).cloned(),
            dedup: headers.get(DEDUP).cloned(),
            route: extensions.get().cloned(),
            attempts: headers.get(ATTEMPTS).cloned(),
            model: extensions.get().cloned(),
            asked: extensions.get().cloned(),
            ending: extensions.get().cloned(),
            cost: extensions.get().copied(),
        };
        self.error = extensions.get::<Cause>().map(|cause| cause.0.clone());
        response.map(|body| TrackedBody { body, access: Some(self) })
    }

    fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.first_byte.get_or_insert_with(|| self.begun.elapsed());
            self.bytes += data.len() as u64;
            self.under_way.call().answered(data.len());
        } else if frame.is_trailers() {
            // A server does not poll the bodies of these answers either.
            self.complete();
        }
    }

    fn complete(&mut self) {
        if self.outcome == CallOutcome::ClientLeft {
            self.outcome = CallOutcome::Complete;
        }
    }

    fn failed(&mut self, error: &BoxError) {
        self.outcome = CallOutcome::Failed;
        self.error = Some(telemetry::chain(error.as_ref()));
    }
}

impl AnswerHead {
    /// An answer that began early has no header with the number of attempts: they are counted until its end.
    fn attempts(&self) -> Option<u32> {
        let reported = self.attempts.as_ref().and_then(|attempts| attempts.to_str().ok()?.parse().ok());
        reported.or_else(|| self.asked.as_ref().map(UpstreamCalls::times)).filter(|attempts| *attempts > 0)
    }

    fn ending(&self) -> Option<&'static str> {
        Some(match self.ending.as_ref()?.get()? {
            End::Whole => "whole",
            End::Limit => "limit",
            End::Filtered => "filtered",
            End::Refused => "refused",
            End::Paused => "paused",
            _ => "unknown",
        })
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let total = self.begun.elapsed();
        let AnswerHead { status, served_by, dedup, route, model, ending, cost, .. } = &self.head;
        CallFigures::of_this_process().ended(*status, self.outcome, total, self.first_byte);
        let usage = cost.map(|cost| cost.usage).or_else(|| ending.as_ref().and_then(Ending::total_usage));
        tracing::info!(
            id = self.id.as_str(),
            trace_id = self.trace_id,
            method = %self.method,
            path = self.path,
            tenant = self.tenant.as_ref().map(Tenant::as_str),
            route = route.as_ref().map(RouteName::as_str),
            model = model.as_ref().map(Model::as_str),
            status = status.map(|status| status.as_u16()),
            outcome = self.outcome.as_str(),
            ending = self.head.ending(),
            error = self.error,
            attempts = self.head.attempts(),
            served_by = served_by.as_ref().and_then(|name| name.to_str().ok()),
            dedup = dedup.as_ref().and_then(|role| role.to_str().ok()),
            bytes = self.bytes,
            input_tokens = usage.and_then(|usage| usage.input),
            output_tokens = usage.and_then(|usage| usage.output),
            first_data_ms = self.first_byte.map(millis),
            total_ms = millis(total),
            "call"
        );
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

// === impl Followed ===

impl TrackedBody {
    /// A body that is not counted: load balancers request the health every few seconds.
    pub(crate) fn uncounted(body: AnswerBody) -> Self {
        Self { body, access: None }
    }
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let polled = Pin::new(this.body).poll_frame(cx);
        if let (Poll::Ready(polled), Some(access)) = (&polled, this.access) {
            match polled {
                Some(Ok(frame)) => access.frame(frame),
                Some(Err(error)) => access.failed(error),
                None => access.complete(),
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use http_body_util::{BodyExt, StreamBody};

    /// The outcome of a call after `taken` frames of its answer, data and trailers, were read.
    async fn outcome(taken: usize) -> &'static str {
        let frames = [Frame::data(Bytes::from_static(b"data")), Frame::trailers(HeaderMap::new())];
        let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok))).boxed_unsync();
        let id = RequestId::assign(&mut HeaderMap::new());
        let mut followed =
            Access::begin(&Request::new(()), id, &CallsInFlight::default()).follow(Response::new(body)).into_body();
        for _ in 0..taken {
            let _ = followed.frame().await;
        }
        followed.access.as_ref().map_or("uncounted", |access| access.outcome.as_str())
    }

    #[tokio::test]
    async fn an_answer_is_complete_with_its_trailers() {
        assert_eq!([outcome(1).await, outcome(2).await, outcome(3).await], ["client left", "complete", "complete"]);
    }
}
