//! The spans of a call and of its attempts, as a subscriber of `tracing` sees them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::proto::trace_context::TraceContext;
use tower_buttress::{
    CallBody, CallInfo, DedupLayer, Event, FirstByteTimeoutLayer, ObserveLayer, RetryAfterBackoffLayer,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::support::secs;

/// All spans of this thread, and the events that are told in them.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Span>>>);

#[derive(Clone, Debug, Default)]
struct Span {
    id: u64,
    name: &'static str,
    parent: Option<u64>,
    fields: HashMap<&'static str, String>,
    events: Vec<String>,
    is_closed: bool,
}

struct Fields<'a>(&'a mut HashMap<&'static str, String>);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Spans {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        // Where there is only one, an event that is met first on a thread without it is taken for one that no subscriber wants, on all
        // threads.
        static ANOTHER: LazyLock<tracing::Dispatch> = LazyLock::new(|| tracing::Dispatch::new(Registry::default()));
        LazyLock::force(&ANOTHER);
        tracing::subscriber::set_default(Registry::default().with(self.clone()))
    }

    fn named(&self, name: &str) -> Vec<Span> {
        self.0.lock().unwrap().iter().filter(|span| span.name == name).cloned().collect()
    }

    fn with(&self, id: &Id, change: impl FnOnce(&mut Span)) {
        // An id may be given again when its span is closed.
        if let Some(span) = self.0.lock().unwrap().iter_mut().rfind(|span| span.id == id.into_u64()) {
            change(span);
        }
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut span = Span { id: id.into_u64(), name: attributes.metadata().name(), ..Span::default() };
        span.parent = context.span(id).and_then(|span| span.parent().map(|parent| parent.id().into_u64()));
        attributes.record(&mut Fields(&mut span.fields));
        self.0.lock().unwrap().push(span);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, _: Context<'_, S>) {
        self.with(id, |span| record.record(&mut Fields(&mut span.fields)));
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let Some(id) = context.event_span(event).map(|span| span.id()) else { return };
        let mut fields = HashMap::new();
        event.record(&mut Fields(&mut fields));
        let told = fields.remove("event").or_else(|| fields.remove("message")).unwrap_or_default();
        let status = fields.remove("status").map(|status| format!(" {status}")).unwrap_or_default();
        self.with(&id, |span| span.events.push(format!("{told}{status}")));
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.with(&id, |span| span.is_closed = true);
    }
}

fn request(headers: &[(&'static str, &'static str)]) -> Request<CallBody> {
    let mut request = Request::post("http://model.example/").body(CallBody::from("{}")).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(HeaderName::from_static(name), value.parse().unwrap());
    }
    request
}

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const KEY: (&str, &str) = ("idempotency-key", "k");
const CREDENTIAL: (&str, &str) = ("authorization", "Bearer a");

/// A call that is answered by the second attempt: the first gets a 503.
async fn second_attempt_answers(trace_context: bool, request: Request<CallBody>) -> Vec<HeaderMap> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sees = seen.clone();
    let service = ServiceBuilder::new()
        .layer(ObserveLayer::new("chat").trace_context(trace_context))
        .layer(RetryAfterBackoffLayer::new().attempts(3))
        .layer(ObserveLayer::attempts("upstream"))
        .layer(FirstByteTimeoutLayer::new(secs(1)))
        .service(service_fn(move |request: Request<CallBody>| {
            let mut seen = sees.lock().unwrap();
            seen.push(request.headers().clone());
            let status = if seen.len() == 1 { 503 } else { 200 };
            let answer = Response::builder().status(status).header("retry-after", "0");
            std::future::ready(Ok::<_, Infallible>(answer.body(Full::<Bytes>::from("hello")).unwrap()))
        }));
    let answer = service.oneshot(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    Arc::try_unwrap(seen).unwrap_or_default().into_inner().unwrap()
}

/// The request as a stack that passes the trace on hands it to the service inside.
async fn begun_around(request: Request<CallBody>) -> Request<CallBody> {
    let (send, receive) = std::sync::mpsc::channel();
    let inner = service_fn(move |request: Request<CallBody>| {
        send.send(request).unwrap();
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    });
    ObserveLayer::new("around").trace_context(true).layer(inner).oneshot(request).await.unwrap();
    receive.recv().unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_a_span_in_that_of_its_call() {
    let spans = Spans::default();
    let _listening = spans.listen();
    second_attempt_answers(false, request(&[KEY])).await;
    let calls = spans.named("call");
    assert_eq!((calls.len(), calls[0].parent), (1, None));
    let attempts = spans.named("attempt");
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    for (attempt, (number, told)) in attempts.iter().zip([("1", "attempt ended 503"), ("2", "attempt ended 200")]) {
        assert_eq!(attempt.parent, Some(calls[0].id));
        assert_eq!((&*attempt.fields["upstream"], &*attempt.fields["attempt"]), ("upstream", number));
        assert_eq!(attempt.events, [told]);
        assert!(attempt.is_closed && !attempt.fields.contains_key("trace_id"));
    }
    assert_eq!(calls[0].events, ["retry_scheduled", "call ended 200"]);
    assert!(calls[0].is_closed);
}

#[tokio::test(start_paused = true)]
async fn the_upstream_goes_on_with_the_trace_at_the_attempt() {
    let spans = Spans::default();
    let _listening = spans.listen();
    let seen = second_attempt_answers(true, request(&[KEY, ("traceparent", CALLER), ("tracestate", "vendor=x")])).await;
    let call = spans.named("call").remove(0);
    assert_eq!(call.fields["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(call.fields["parent_id"], "00f067aa0ba902b7");
    let attempts = spans.named("attempt");
    for (attempt, seen) in attempts.iter().zip(&seen) {
        let place = TraceContext::of(seen).unwrap();
        assert_eq!(
            (place.trace_id(), place.span_id()),
            (call.fields["trace_id"].clone(), attempt.fields["span_id"].clone())
        );
        assert_eq!(attempt.fields["parent_id"], call.fields["span_id"]);
        assert!(place.to_string().ends_with("-01"), "sampled, as the caller says");
        assert_eq!(seen["tracestate"], "vendor=x");
    }
    let ids = [&call, &attempts[0], &attempts[1]].map(|span| &span.fields["span_id"]);
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
}

#[tokio::test(start_paused = true)]
async fn a_trace_that_is_none_of_ours_passes_as_it_came() {
    let seen = second_attempt_answers(false, request(&[KEY, ("traceparent", CALLER)])).await;
    assert!(seen.iter().all(|headers| headers["traceparent"] == CALLER), "it is off");
    let seen = second_attempt_answers(false, begun_around(request(&[KEY, ("traceparent", CALLER)])).await).await;
    assert!(seen.iter().all(|headers| headers["traceparent"] == CALLER), "it is off here, and on around it");
    let seen = second_attempt_answers(true, request(&[KEY, ("traceparent", "malformed")])).await;
    assert!(seen.iter().all(|headers| headers["traceparent"] == "malformed"));
    let seen = second_attempt_answers(true, request(&[KEY])).await;
    assert!(seen.iter().all(|headers| !headers.contains_key("traceparent")));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_goes_on_without_its_caller_is_in_the_span_of_its_call() {
    let spans = Spans::default();
    let _listening = spans.listen();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tells = told.clone();
    let observer = Arc::new(move |event: &Event, call: Option<&CallInfo>| {
        tells.lock().unwrap().push(format!("{}: {}", call.map_or("-", CallInfo::id), event.name()));
    });
    let service = ServiceBuilder::new()
        .layer(ObserveLayer::new("chat").request_id(HeaderName::from_static("x-request-id")))
        .layer(DedupLayer::new().finish_abandoned(true))
        .layer(ObserveLayer::attempts("upstream"))
        .layer(FirstByteTimeoutLayer::new(secs(10)).observer(observer))
        .service(service_fn(|_: Request<CallBody>| {
            std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
        }));
    let call = service.clone().oneshot(request(&[KEY, CREDENTIAL, ("x-request-id", "7")]));
    assert!(tokio::time::timeout(secs(1), call).await.is_err(), "its caller leaves");
    tokio::time::sleep(Duration::from_secs(30)).await;
    let attempt = spans.named("attempt").remove(0);
    assert_eq!(attempt.parent, Some(spans.named("call")[0].id));
    assert_eq!(*told.lock().unwrap(), ["7: refused"]);
    assert!(attempt.events.contains(&"refused".to_owned()), "{attempt:?}");
    assert!(attempt.is_closed && spans.named("call")[0].is_closed);
}
