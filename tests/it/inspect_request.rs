//! What a request's body says decides how it is treated.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::error::BoxError;
use tower_buttress::{CallBody, Event, ExpectsEventStream, InspectRequestLayer, Rejection, TimeoutProfile, presets};

use crate::support::upstream::{Answer, Upstream};
use crate::support::{Log, Script, Step, secs, trace, trailers};

fn json<B>(body: B) -> Request<B> {
    Request::post("/v1/chat").header("content-type", "application/json").body(body).unwrap()
}

/// Answers with what it was sent.
async fn echo<B>(request: Request<B>) -> Result<Response<B>, Infallible> {
    Ok(Response::new(request.into_body()))
}

/// What was seen of the requests that were read.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Bytes>>>);

impl Seen {
    fn layer(&self) -> InspectRequestLayer {
        let seen = self.0.clone();
        InspectRequestLayer::new(move |_, body| seen.lock().unwrap().push(body.clone()))
    }

    fn bodies(&self) -> Vec<Bytes> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn the_model_chooses_the_limits() {
    let silent = service_fn(|_| std::future::pending::<Result<Response<Script>, Infallible>>());
    let service = ServiceBuilder::new()
        .layer(InspectRequestLayer::new(|head, body| {
            if let Ok(asked) = serde_json::from_slice::<serde_json::Value>(body) {
                let profile = if asked["model"] == "deep" { TimeoutProfile::DEEP } else { TimeoutProfile::FAST };
                head.extensions.insert(profile);
            }
        }))
        .layer(presets::llm_client(TimeoutProfile::STANDARD))
        .service(silent);
    for (body, limit) in [(r#"{"model":"deep"}"#, 110), (r#"{"model":"quick"}"#, 18), ("no JSON", 50)] {
        let start = Instant::now();
        let response = service.clone().oneshot(json(Full::<Bytes>::from(body))).await.unwrap();
        assert!(Rejection::of(&response).is_some());
        assert_eq!(start.elapsed(), secs(limit), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_body_goes_on_as_it_came() {
    let seen = Seen::default();
    let body = Script::new([Step::Data("{\"a\":"), Step::Wait(secs(3)), Step::Data("1}"), Step::Trailers]);
    let response = seen.layer().layer(service_fn(echo)).oneshot(json(body)).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers(), Some(&trailers()));
    assert_eq!(collected.to_bytes(), "{\"a\":1}");
    assert_eq!(seen.bodies(), ["{\"a\":1}"]);
}

#[tokio::test]
async fn trailers_reach_an_upstream_that_speaks_http_1() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let app = axum::Router::new().fallback(|request: axum::extract::Request| async {
        let collected = request.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers()));
        collected.to_bytes()
    });
    tokio::spawn(axum::serve(listener, app).into_future());
    let http = Client::builder(TokioExecutor::new()).build_http();
    let mut request = json(Script::new([Step::Data("{}"), Step::Trailers]).unsized_());
    *request.uri_mut() = url.parse().unwrap();
    // hyper sends none that are not announced.
    request.headers_mut().insert("trailer", "x-checksum".parse().unwrap());
    let response = Seen::default().layer().layer(http).oneshot(request).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.into_body().collect().await.unwrap().to_bytes()[..]),
        (200, &b"{}"[..])
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_long_passes_unread() {
    let (seen, log) = (Seen::default(), Arc::new(Log::default()));
    let service = seen.layer().max_body_bytes(5).observer(log.clone()).layer(service_fn(echo));
    let long = Script::new([Step::Data("123"), Step::Data("456"), Step::Wait(secs(1)), Step::Data("789")]).unsized_();
    let response = service.clone().oneshot(json(long)).await.unwrap();
    assert_eq!(trace(response.into_body()).await, ["+0s 123", "+0s 456", "+1s 789", "+1s end"]);
    assert!(seen.bodies().is_empty());
    assert!(matches!(log.events()[..], [Event::Bypassed { layer: "inspect-request", .. }]));

    let fits = service.oneshot(json(Script::new([Step::Data("12345")]))).await.unwrap();
    assert_eq!(fits.into_body().collect().await.unwrap().to_bytes(), "12345");
    assert_eq!(seen.bodies(), ["12345"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_takes_too_long_passes_unread() {
    let (seen, log) = (Seen::default(), Arc::new(Log::default()));
    let service = seen.layer().observer(log.clone()).layer(service_fn(echo));
    let slow =
        Script::new([Step::Data("a"), Step::Wait(secs(29)), Step::Data("b"), Step::Wait(secs(2)), Step::Data("c")]);
    let start = Instant::now();
    let response = service.oneshot(json(slow.unsized_())).await.unwrap();
    assert_eq!(start.elapsed(), secs(30));
    assert_eq!(trace(response.into_body()).await, ["+0s a", "+0s b", "+1s c", "+1s end"]);
    assert!(seen.bodies().is_empty());
    assert_eq!(log.names(), ["bypassed: inspect-request"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_fails_where_it_is_sent() {
    let seen = Seen::default();
    let broken = Script::new([Step::Data("{"), Step::Fail("gone")]);
    let response = seen.layer().layer(service_fn(echo)).oneshot(json(broken)).await.unwrap();
    assert_eq!(trace(response.into_body()).await, ["+0s error: gone", "+0s end"]);
    assert!(seen.bodies().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_need_not_be_read_is_not_waited_for() {
    let never = || Script::new([Step::Hang]).unsized_();
    let seen = Seen::default();
    let grpc = Request::post("/").header("content-type", "application/grpc").body(never()).unwrap();
    seen.layer().layer(service_fn(echo)).oneshot(grpc).await.unwrap();
    seen.layer().filter(|_| false).layer(service_fn(echo)).oneshot(json(never())).await.unwrap();
    InspectRequestLayer::disabled().layer(service_fn(echo)).oneshot(json(never())).await.unwrap();
    assert!(seen.bodies().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_service_that_was_ready_is_called() {
    // `Upstream` panics where it is called on a clone that was not polled ready.
    let upstream = Upstream::new([Answer::status(200), Answer::status(200)]);
    let mut service = Seen::default().layer().layer(upstream.clone());
    for body in ["a", "b"] {
        let slow = Script::new([Step::Wait(secs(1)), Step::Data(body)]);
        let service = ServiceExt::<Request<Script>>::ready(&mut service).await.unwrap();
        service.call(json(slow)).await.unwrap();
    }
    assert_eq!(upstream.times(), [1.0, 2.0]);
}

/// A place behind a limit is not held by a caller who is still sending.
#[tokio::test(start_paused = true)]
async fn no_readiness_is_held_while_a_request_comes() {
    let service = ServiceBuilder::new()
        .layer(Seen::default().layer())
        .layer(tower::limit::ConcurrencyLimitLayer::new(1))
        .service_fn(|_: Request<CallBody>| async { Ok::<_, Infallible>(Response::new("ok")) });
    let slow = Script::new([Step::Data("{"), Step::Wait(secs(20)), Step::Data("}")]).unsized_();
    let mut waits = std::pin::pin!(service.clone().oneshot(json(slow)));
    assert!(futures_util::poll!(waits.as_mut()).is_pending());
    let start = Instant::now();
    service.oneshot(json(Full::<Bytes>::from("{}"))).await.unwrap();
    assert_eq!(start.elapsed(), std::time::Duration::ZERO);
    waits.await.unwrap();
    assert_eq!(start.elapsed(), secs(20));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_is_the_answer() {
    let upstream = Upstream::new([]).ready_fails_after(1, std::io::ErrorKind::BrokenPipe);
    let slow = Script::new([Step::Wait(secs(1)), Step::Data("{}")]).unsized_();
    let failed = Seen::default().layer().layer(upstream).oneshot(json(slow)).await.unwrap_err();
    assert_eq!(failed.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn streams_are_marked_in_every_form_of_the_body() {
    let service = InspectRequestLayer::llm().layer(service_fn(|request: Request<CallBody>| async move {
        let marked = request.extensions().get::<ExpectsEventStream>().is_some();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok::<_, Infallible>(Response::new((marked, body)))
    }));
    for (parts, marked) in [(["{\"str", "eam\": true}"], true), (["{\"a\": {\"stream\"", ": true}}"], false)] {
        let whole = parts.concat();
        let streamed = Script::new(parts.map(Step::Data)).unsized_();
        assert_eq!(service.clone().oneshot(json(streamed)).await.unwrap().into_body(), (marked, whole.clone().into()));
        let full = Full::<Bytes>::from(whole.clone());
        assert_eq!(service.clone().oneshot(json(full)).await.unwrap().into_body(), (marked, whole.into()));
    }
}

#[test]
fn its_body_is_sent_where_the_inner_one_is() {
    fn check<B: Body<Data = Bytes, Error = BoxError> + Send + Sync + Unpin>() {}
    check::<CallBody>();
}

#[tokio::test(start_paused = true)]
async fn other_requests_are_read_first_and_not_shown_where_that_is_wanted() {
    let slow = || Script::new([Step::Data("a"), Step::Wait(secs(5)), Step::Data("b")]).unsized_();
    let seen = Seen::default();
    for (layer, read) in [
        (seen.layer(), false),
        (seen.layer().read_all(true), true),
        (InspectRequestLayer::disabled().read_all(true), true),
    ] {
        let start = Instant::now();
        let service = layer.layer(service_fn(echo));
        let whole =
            |content_type: &'static str| Request::post("/").header("content-type", content_type).body(slow()).unwrap();
        let answer = service.clone().oneshot(whole("text/plain")).await.unwrap();
        assert_eq!(start.elapsed(), if read { secs(5) } else { secs(0) });
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ab");
        // What goes both ways is not.
        let start = Instant::now();
        service.oneshot(whole("application/grpc")).await.unwrap();
        assert_eq!(start.elapsed(), secs(0));
    }
    assert_eq!(seen.bodies(), [""; 0]);
}
