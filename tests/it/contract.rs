//! What every body of the crate owes the body inside: one suite, run over each layer, on and off.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_buttress::error::BoxError;
use tower_buttress::fallback::Fallback;
use tower_buttress::{
    CircuitBreakerLayer, DeadlineLayer, DedupLayer, FallbackLayer, FirstByteEvent, FirstByteTimeoutLayer,
    GrpcStatusLayer, IdleActivity, IdleBodyTimeoutLayer, InspectRequestLayer, PaceLayer, QueueLayer, Rate,
    RejectionsAsErrorsLayer, SseHeartbeatLayer,
};

use crate::support::{Script, Step, secs, trace};

type Request0 = Request<Empty<Bytes>>;

/// Sends one request through `layer` to a service that answers with `script`; the body that comes back.
macro_rules! through {
    ($layer:expr, $script:expr) => {{
        let script = Arc::new(Mutex::new(Some($script)));
        let service = $layer.layer(service_fn(move |_| {
            let body = script.lock().unwrap().take().unwrap();
            async move { Ok::<_, Infallible>(Response::new(body)) }
        }));
        let request: Request0 = Request::new(Empty::new());
        service.oneshot(request).await.unwrap().into_body()
    }};
}

/// Runs the suite over a layer.
macro_rules! contract {
    ($($name:ident => $layer:expr;)+) => {$(
        mod $name {
            use super::*;

            #[tokio::test(start_paused = true)]
            async fn passes_frames_trailers_and_pauses() {
                let script = [Step::Wait(secs(1)), Step::Data("a"), Step::Wait(secs(1)), Step::Data("b"), Step::Trailers];
                assert_passes(through!($layer, Script::new(script))).await;
            }

            #[tokio::test(start_paused = true)]
            async fn forwards_the_length_and_the_end() {
                let body = through!($layer, Script::new([Step::Data("abc"), Step::Data("de")]));
                assert_length(body).await;
                let body = through!($layer, Script::new([]));
                assert!(body.is_end_stream());
                assert_eq!(body.size_hint().exact(), Some(0));
            }

            #[tokio::test(start_paused = true)]
            async fn is_fused_after_an_error_and_lets_go_of_the_inner_body() {
                let script = Script::new([Step::Data("a"), Step::Fail("cut")]);
                let dropped = script.dropped();
                assert_fused(through!($layer, script), "cut", dropped).await;
            }

            #[tokio::test(start_paused = true)]
            async fn is_fused_after_the_end_and_lets_go_of_the_inner_body() {
                let script = Script::new([Step::Data("a")]);
                let dropped = script.dropped();
                assert_over(through!($layer, script), dropped).await;
            }

            #[tokio::test(start_paused = true)]
            async fn dropping_it_drops_the_inner_body() {
                let script = Script::new([Step::Data("a"), Step::Hang]);
                let dropped = script.dropped();
                let mut body = through!($layer, script);
                body.frame().await.unwrap().unwrap();
                assert!(!dropped());
                drop(body);
                assert!(dropped());
            }
        }
    )+};
}

contract! {
    idle => IdleBodyTimeoutLayer::new(secs(15));
    idle_by_events => IdleBodyTimeoutLayer::new(secs(15)).activity(IdleActivity::SseEvents);
    idle_off => IdleBodyTimeoutLayer::disabled();
    first_byte => FirstByteTimeoutLayer::new(secs(20));
    first_byte_by_headers => FirstByteTimeoutLayer::new(secs(20)).until(FirstByteEvent::Headers);
    first_byte_off => FirstByteTimeoutLayer::disabled();
    deadline => DeadlineLayer::new(secs(60));
    deadline_unlimited => DeadlineLayer::new(Duration::MAX);
    deadline_off => DeadlineLayer::disabled();
    pace => PaceLayer::new();
    pace_by_tokens => PaceLayer::new().tokens(Rate::per_minute(1_000_000)).concurrency(5);
    pace_off => PaceLayer::disabled();
    queue => QueueLayer::new(10);
    queue_off => QueueLayer::disabled();
    breaker => CircuitBreakerLayer::new();
    breaker_off => CircuitBreakerLayer::disabled();
    dedup_steps_aside => DedupLayer::new();
    dedup_off => DedupLayer::disabled();
    heartbeat_elsewhere => SseHeartbeatLayer::new(secs(15));
    heartbeat_off => SseHeartbeatLayer::disabled();
    early_heartbeat_elsewhere => SseHeartbeatLayer::new(secs(15)).before_headers(secs(10));
    grpc_status => GrpcStatusLayer::new();
    grpc_status_off => GrpcStatusLayer::disabled();
    fallback => FallbackLayer::new(Down);
    fallback_to_the_backup => ToTheBackup;
    fallback_off => FallbackLayer::<Down>::disabled();
}

#[cfg(feature = "schema")]
mod structured_output {
    use tower_buttress::StructuredOutputLayer;

    use super::*;

    contract! {
        steps_aside => StructuredOutputLayer::new();
        off => StructuredOutputLayer::disabled();
    }
}

#[cfg(feature = "llm")]
mod last_good {
    use http::Method;
    use tower::ServiceBuilder;
    use tower_buttress::LastGoodLayer;

    use super::*;

    contract! {
        steps_aside => LastGoodLayer::new();
        off => LastGoodLayer::disabled();
        recorded => ServiceBuilder::new().map_request(chat).layer(LastGoodLayer::new()).map_response(as_json).into_inner();
    }

    /// A request whose answer may be kept.
    fn chat(mut request: Request0) -> Request0 {
        *request.method_mut() = Method::POST;
        *request.uri_mut() = "/v1/chat/completions".parse().unwrap();
        request.headers_mut().insert("authorization", "Bearer a".parse().unwrap());
        request
    }

    fn as_json(mut response: Response<Script>) -> Response<Script> {
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        response
    }
}

#[cfg(feature = "llm")]
contract! {
    resume_elsewhere => tower_buttress::ResumeLayer::new().verified_restart(true);
    resume_off => tower_buttress::ResumeLayer::disabled();
}

/// A service that is always down.
#[derive(Clone)]
struct Down;

impl<R> Service<R> for Down {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: R) -> Self::Future {
        std::future::ready(Ok(Response::builder().status(503).body(Empty::new()).unwrap()))
    }
}

/// Puts a service where the backup is, of a primary that is down.
struct ToTheBackup;

impl<S> Layer<S> for ToTheBackup {
    type Service = Fallback<Down, S>;

    fn layer(&self, inner: S) -> Self::Service {
        FallbackLayer::new(inner).layer(Down)
    }
}

fn is_send_sync_unpin<T: Send + Sync + Unpin>(_: &T) {}

async fn assert_passes(body: impl Body<Data = Bytes, Error = BoxError> + Send + Sync + Unpin) {
    is_send_sync_unpin(&body);
    let (mut seen, mut times) = (Vec::new(), Vec::new());
    for entry in trace(body).await {
        let (at, what) = entry.split_once(' ').unwrap();
        times.push(at.to_owned());
        seen.push(what.to_owned());
    }
    assert_eq!(seen, ["a", "b", "trailers", "end"]);
    // Nothing waits for more than what it hands on: the second frame comes a second after the first.
    assert!(times == ["+1s", "+2s", "+2s", "+2s"] || times == ["+0s", "+1s", "+1s", "+1s"], "{times:?}");
}

async fn assert_length(mut body: impl Body<Data = Bytes, Error = BoxError> + Unpin) {
    assert_eq!(body.size_hint().exact(), Some(5));
    assert!(!body.is_end_stream());
    body.frame().await.unwrap().unwrap();
    assert_eq!(body.size_hint().exact(), Some(2));
    body.frame().await.unwrap().unwrap();
    assert!(body.is_end_stream());
}

async fn assert_fused(
    mut body: impl Body<Data = Bytes, Error = BoxError> + Unpin,
    why: &str,
    dropped: impl Fn() -> bool,
) {
    body.frame().await.unwrap().unwrap();
    assert!(!dropped());
    assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), why);
    assert!(dropped(), "the inner body outlives its error");
    assert_ended(body);
}

async fn assert_over(mut body: impl Body<Data = Bytes, Error = BoxError> + Unpin, dropped: impl Fn() -> bool) {
    body.frame().await.unwrap().unwrap();
    assert!(body.frame().await.is_none());
    assert!(dropped(), "the inner body outlives its end");
    assert_ended(body);
}

fn assert_ended(mut body: impl Body<Data = Bytes, Error = BoxError> + Unpin) {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for _ in 0..2 {
        assert!(matches!(Pin::new(&mut body).poll_frame(&mut cx), Poll::Ready(None)));
    }
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
}

#[test]
fn layers_and_services_are_cloned_debugged_and_sent() {
    fn check<L: Layer<()> + Clone + std::fmt::Debug + Send + Sync + 'static>(layer: &L)
    where
        L::Service: Clone + std::fmt::Debug + Send + Sync,
    {
        assert!(!format!("{layer:?} {:?}", layer.layer(())).is_empty());
    }
    check(&IdleBodyTimeoutLayer::new(secs(1)));
    check(&FirstByteTimeoutLayer::new(secs(1)));
    check(&DeadlineLayer::new(secs(1)));
    check(&tower_buttress::ConnectTimeoutLayer::new(secs(1)));
    check(&RejectionsAsErrorsLayer::new());
    check(&GrpcStatusLayer::new());
    check(&InspectRequestLayer::new(|_, _| {}));
}

#[test]
fn futures_are_unpin_and_sent_where_the_inner_one_is() {
    type Inner = std::future::Ready<Result<Response<Empty<Bytes>>, Infallible>>;
    fn check<S: Service<Request0, Future: Send + Sync + Unpin>>(_: S) {}
    fn answer<B>(_: Request<B>) -> Inner {
        std::future::ready(Ok(Response::new(Empty::new())))
    }
    check(IdleBodyTimeoutLayer::new(secs(1)).layer(service_fn(answer)));
    check(FirstByteTimeoutLayer::new(secs(1)).layer(service_fn(answer)));
    check(DeadlineLayer::new(secs(1)).layer(service_fn(answer)));
    check(RejectionsAsErrorsLayer::new().layer(service_fn(answer)));
    check(GrpcStatusLayer::new().layer(service_fn(answer)));
    check(tower_buttress::ConnectTimeoutLayer::new(secs(1)).layer(service_fn(answer)));
}
