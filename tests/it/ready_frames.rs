//! A peer whose frames are always there, and empty: no poll reads them for ever.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};
use tower_buttress::{CallBody, DedupLayer, FallbackLayer, FirstByteTimeoutLayer, InspectRequestLayer};

use crate::support::secs;

const ENDLESS: usize = 100_000;

/// So many frames without a byte, and how many of them were read.
#[derive(Clone, Default)]
struct Empties(Arc<AtomicUsize>);

impl Body for Empties {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let read = self.0.fetch_add(1, Relaxed);
        if read < ENDLESS { Poll::Ready(Some(Ok(Frame::data(Bytes::new())))) } else { Poll::Pending }
    }
}

impl Empties {
    /// How many frames one poll of `future` reads. It has to ask to be polled again.
    #[track_caller]
    fn check<F: Future>(&self, future: F) {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        assert!(pin!(future).as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let read = self.0.load(Relaxed);
        assert!((1..1_000).contains(&read), "{read} frames in one poll");
        assert!(woken.0.load(Relaxed) > 0, "and none after it");
    }

    fn post(&self) -> Request<Self> {
        let request = Request::post("/").header("authorization", "Bearer a").header("content-type", "application/json");
        request.body(self.clone()).unwrap()
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

async fn fails(_: Request<CallBody>) -> Result<Response<Empty<Bytes>>, Infallible> {
    Ok(Response::builder().status(503).body(Empty::new()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn before_the_first_byte() {
    let body = Empties::default();
    let answer = body.clone();
    let mut service = FirstByteTimeoutLayer::new(secs(1)).layer(service_fn(move |_| {
        let answer = answer.clone();
        async { Ok::<_, Infallible>(Response::new(answer)) }
    }));
    body.check(service.call(Request::new(Empty::<Bytes>::new())));
}

#[tokio::test(start_paused = true)]
async fn of_a_request_that_is_recognised() {
    let body = Empties::default();
    body.check(DedupLayer::new().layer(service_fn(fails)).call(body.post()));
}

#[tokio::test(start_paused = true)]
async fn of_a_request_that_is_inspected() {
    let body = Empties::default();
    body.check(InspectRequestLayer::new(|_, _| {}).layer(service_fn(fails)).call(body.post()));
}

#[tokio::test(start_paused = true)]
async fn of_a_request_that_a_backup_is_to_have() {
    let body = Empties::default();
    let mut service = FallbackLayer::new(service_fn(fails)).rewrite(|request| request).layer(service_fn(fails));
    body.check(service.call(body.post()));
}

/// A stream of events, asked for by `request`.
#[cfg(feature = "llm")]
fn guarded(
    answer: &Empties,
    request: Request<Empty<Bytes>>,
) -> impl Future<Output = Result<Response<tower_buttress::stream_guard::StreamGuardBody<Empties>>, Infallible>> + use<>
{
    let answer = answer.clone();
    let upstream = service_fn(move |_: Request<Empty<Bytes>>| {
        let response = Response::builder().header("content-type", "text/event-stream").body(answer.clone()).unwrap();
        async { Ok::<_, Infallible>(response) }
    });
    tower_buttress::StreamGuardLayer::new().layer(upstream).call(request)
}

#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn while_a_stream_is_withheld() {
    let body = Empties::default();
    body.check(guarded(&body, Request::post("/v1/chat/completions").body(Empty::new()).unwrap()));
}

#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn of_a_stream_that_is_guarded() {
    use http_body_util::BodyExt;

    let body = Empties::default();
    let response = guarded(&body, Request::get("/events").body(Empty::new()).unwrap()).await.unwrap();
    let mut answer = response.into_body();
    body.check(answer.frame());
}
