//! What a caller asked and was answered, and with which credential, is in no `Debug` and in no event.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_buttress::{
    CallBody, CallInfo, CircuitBreakerLayer, DeadlineLayer, DedupLayer, Event, FallbackLayer, FirstByteEvent,
    FirstByteTimeoutLayer, GrpcStatusLayer, IdleBodyTimeoutLayer, InspectRequestLayer, ObserveLayer, Observer,
    PaceLayer, QueueLayer, RejectionsAsErrorsLayer, Resumable, RetryAfterBackoffLayer, SseHeartbeatLayer,
    SupersedeLayer, TimeoutProfile, TimeoutProfileLayer, presets,
};
#[cfg(feature = "llm")]
use tower_buttress::{LastGoodLayer, ResumeLayer, StreamGuardLayer};

use crate::support::secs;

const PROMPT: &str = "secret-prompt";
const ANSWER: &str = "secret-answer";
const CREDENTIAL: &str = "secret-credential";

/// A body that shows nothing of itself.
type Opaque = UnsyncBoxBody<Bytes, Infallible>;

fn asked() -> Request<Opaque> {
    Request::post("/v1/chat/completions")
        // Not marked as sensitive: servers do not mark it.
        .header("authorization", CREDENTIAL)
        .header("idempotency-key", "k")
        .header("content-type", "application/json")
        .body(Full::from(format!(r#"{{"model":"m","stream":true,"input":"{PROMPT}"}}"#)).boxed_unsync())
        .unwrap()
}

/// An event stream that goes on after its first event.
fn answer() -> Response<Opaque> {
    let event = format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{ANSWER}\"}}}}]}}\n\n");
    let frames = [Ok(Frame::data(Bytes::from(event.clone()))), Ok(Frame::data(Bytes::from(event)))];
    let body = BodyExt::boxed_unsync(StreamBody::new(tokio_stream::iter(frames)));
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

#[track_caller]
fn shows_nothing(what: &str, shown: &str) {
    for secret in [PROMPT, ANSWER, CREDENTIAL] {
        assert!(!shown.contains(secret), "{what} shows {secret}: {shown}");
    }
}

/// Notes everything that it is told.
#[derive(Default)]
struct Notes(Mutex<String>);

impl Observer for Notes {
    fn on_event(&self, event: &Event, _call: Option<&CallInfo>) {
        self.0.lock().unwrap().push_str(&format!("{event:?} {event}\n"));
    }
}

/// Looks at the request below the layer, at the future under way, and at the answer, whole and half read.
async fn look<L, S, B>(name: &str, layer: L)
where
    L: Layer<Provider, Service = S>,
    S: Service<Request<Opaque>, Response = Response<B>, Future: std::fmt::Debug> + std::fmt::Debug,
    S::Error: std::fmt::Debug,
    B: http_body::Body<Data = Bytes> + std::fmt::Debug + Unpin,
    B::Error: std::fmt::Debug,
{
    let mut service = layer.layer(Provider);
    let mut future = Box::pin(service.ready().await.unwrap().call(asked()));
    shows_nothing(name, &format!("{future:?}"));
    let response = match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(response) => response,
        std::task::Poll::Pending => {
            shows_nothing(name, &format!("{future:?}"));
            future.as_mut().await
        }
    };
    shows_nothing(name, &format!("{future:?}"));
    drop(future);
    let mut response = response.unwrap();
    shows_nothing(name, &format!("{response:?}"));
    response.body_mut().frame().await.unwrap().unwrap();
    shows_nothing(name, &format!("{response:?}"));
    shows_nothing(name, &format!("{service:?}"));
}

/// Looks at every request, is pending once, and answers.
#[derive(Clone, Copy, Debug)]
struct Provider;

impl<B: std::fmt::Debug + Send + 'static> Service<Request<B>> for Provider {
    type Response = Response<Opaque>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answering {
        shows_nothing("the request below", &format!("{:?} {:?}", request.extensions(), request.body()));
        Answering { pending: true }
    }
}

#[derive(Debug)]
struct Answering {
    pending: bool,
}

impl Future for Answering {
    type Output = Result<Response<Opaque>, Infallible>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> std::task::Poll<Self::Output> {
        if std::mem::take(&mut self.pending) {
            cx.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(Ok(answer()))
    }
}

#[tokio::test(start_paused = true)]
async fn no_layer_shows_what_passes_through_it() {
    look("deadline", DeadlineLayer::new(secs(60))).await;
    look("idle", IdleBodyTimeoutLayer::new(secs(60))).await;
    look("first byte", FirstByteTimeoutLayer::new(secs(60))).await;
    look("first event", FirstByteTimeoutLayer::new(secs(60)).until(FirstByteEvent::SseEvent)).await;
    look("heartbeat", SseHeartbeatLayer::new(secs(15)).error_events(true)).await;
    look("inspect", InspectRequestLayer::new(|_, _| {})).await;
    look("supersede", SupersedeLayer::new(|parts| Some(parts.uri.path().into()))).await;
    look("retry", RetryAfterBackoffLayer::new()).await;
    look("fallback", FallbackLayer::new(Provider)).await;
    look("breaker", CircuitBreakerLayer::new()).await;
    look("dedup", DedupLayer::new()).await;
    look("resumable", DedupLayer::new().resumable(Resumable::at("/answers"))).await;
    look("queue", QueueLayer::new(4)).await;
    look("pace", PaceLayer::new()).await;
    look("profile", TimeoutProfileLayer::new(|_| Some(TimeoutProfile::FAST))).await;
    look("grpc", GrpcStatusLayer::new()).await;
    look("observe", ObserveLayer::new("stack")).await;
    look("errors", RejectionsAsErrorsLayer::new()).await;
}

#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn nor_do_those_that_read_what_models_say() {
    look("guard", StreamGuardLayer::new()).await;
    look("guard, holding", StreamGuardLayer::new().hold(1_024)).await;
    look("resume", ResumeLayer::new().verified_restart(true)).await;
    look("last good", LastGoodLayer::new()).await;
    #[cfg(feature = "schema")]
    look("structured output", tower_buttress::StructuredOutputLayer::new()).await;
}

#[tokio::test(start_paused = true)]
async fn no_event_tells_what_passes_through_a_stack() {
    let notes = Arc::new(Notes::default());
    let fails = service_fn(|request: Request<CallBody>| async move {
        shows_nothing("the request below", &format!("{:?} {:?}", request.extensions(), request.body()));
        Ok::<_, Infallible>(Response::builder().status(500).body(Full::<Bytes>::from(ANSWER)).unwrap())
    });
    let stack = presets::llm_gateway(TimeoutProfile::FAST).fallback(FallbackLayer::new(fails)).observer(notes.clone());
    for _ in 0..8 {
        let response = stack.layer(fails).oneshot(asked()).await.unwrap();
        let _ = response.into_body().collect().await;
    }
    let told = notes.0.lock().unwrap();
    assert!(told.contains("fell back") && told.contains("circuit"), "{told}");
    shows_nothing("an event", &told);
}
