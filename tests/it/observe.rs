//! Which call an event is about.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::{
    CallBody, CallInfo, Event, IdleBodyTimeoutLayer, InspectRequestLayer, Model, ObserveLayer, Observer,
    RetryAfterBackoffLayer,
};

use crate::support::{Script, Step, secs};

/// What was told, with the call that it was about.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn observer(&self) -> Arc<dyn Observer> {
        let told = self.clone();
        Arc::new(move |event: &Event, call: Option<&CallInfo>| {
            let call = call.map_or_else(
                || "no call".to_owned(),
                |call| {
                    let model = call.model().unwrap_or("-");
                    format!("{} {} {} {}", call.stack(), call.id(), call.attempt(), model)
                },
            );
            told.0.lock().unwrap().push(format!("{call}: {}", event.name()));
        })
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn request(id: &str) -> Request<CallBody> {
    Request::post("http://model.example/")
        .header("content-type", "application/json")
        .header("x-request-id", id)
        .header("idempotency-key", id)
        .body(CallBody::from("{}"))
        .unwrap()
}

fn layer() -> ObserveLayer {
    ObserveLayer::new("chat").request_id(HeaderName::from_static("x-request-id"))
}

#[tokio::test(start_paused = true)]
async fn events_of_concurrent_calls_carry_their_own_call() {
    let told = Told::default();
    let service = ServiceBuilder::new()
        .layer(layer())
        .layer(InspectRequestLayer::new(|head, _| {
            head.extensions.insert(Model::new("small"));
        }))
        .layer(RetryAfterBackoffLayer::new().attempts(3).observer(told.observer()))
        .service(service_fn(|request: Request<CallBody>| async move {
            // The one that came first is answered last.
            let first = request.headers()["x-request-id"] == "a";
            tokio::time::sleep(secs(if first { 3 } else { 1 })).await;
            let answer = Response::builder().status(503).header("retry-after", "0");
            Ok::<_, Infallible>(answer.body(Full::<Bytes>::default()).unwrap())
        }));
    let call = |id: &'static str| service.clone().oneshot(request(id));
    let (a, b) = tokio::join!(call("a"), call("b"));
    assert_eq!((a.unwrap().status(), b.unwrap().status()), (503.try_into().unwrap(), 503.try_into().unwrap()));
    let of = |id: &str| told.lines().into_iter().filter(|line| line.contains(id)).collect::<Vec<_>>();
    for id in ["chat a", "chat b"] {
        let lines = ["1 small: retry_scheduled", "2 small: retry_scheduled", "3 small: not_retried"];
        assert_eq!(of(id), lines.map(|line| format!("{id} {line}")));
    }
    assert_eq!(told.lines().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn what_the_body_meets_is_about_its_call() {
    let told = Told::default();
    let service = ServiceBuilder::new()
        .layer(layer())
        .layer(IdleBodyTimeoutLayer::new(secs(5)).observer(told.observer()))
        .service(service_fn(|_: Request<CallBody>| async {
            Ok::<_, Infallible>(Response::new(Script::new([Step::Data("hello"), Step::Hang])))
        }));
    let response = service.oneshot(request("7")).await.unwrap();
    response.into_body().collect().await.unwrap_err();
    assert_eq!(told.lines(), ["chat 7 1 -: body_timed_out"]);
}

#[tokio::test(start_paused = true)]
async fn a_stack_within_a_stack_has_its_own_name_and_the_same_id() {
    let told = Told::default();
    let inner = ServiceBuilder::new()
        .layer(ObserveLayer::new("inner"))
        .layer(RetryAfterBackoffLayer::new().attempts(2).observer(told.observer()))
        .service(service_fn(|request: Request<CallBody>| async move {
            let call = request.extensions().get::<CallInfo>().unwrap();
            assert_eq!((call.stack(), call.id(), call.host()), ("inner", "9", Some("model.example")));
            Ok::<_, Infallible>(Response::builder().status(503).body(Full::<Bytes>::default()).unwrap())
        }));
    layer().layer(inner).oneshot(request("9")).await.unwrap();
    assert!(told.lines().iter().all(|line| line.starts_with("inner 9 ")), "{:?}", told.lines());
    assert_eq!(told.lines().len(), 2);
    assert!(CallInfo::current().is_none());
}

#[tokio::test]
async fn a_layer_that_is_off_tells_of_no_call() {
    let service = ObserveLayer::disabled().layer(service_fn(|request: Request<CallBody>| async move {
        assert!(request.extensions().get::<CallInfo>().is_none());
        assert!(CallInfo::current().is_none());
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
    }));
    let response = service.oneshot(request("1")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
}
