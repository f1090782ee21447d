//! What counts as the same request.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{CallBody, DedupLayer, DedupRole, InFlightPolicy, NoStore, Rejection, RejectionKind};

use super::{dedup, echo, post, post_key, role, send, settle, text, with_header};
use crate::support::{Log, trailers};

/// How often the upstream is called for these two.
async fn calls_for(layer: DedupLayer, one: Request<Full<Bytes>>, two: Request<Full<Bytes>>) -> usize {
    let (service, mut stage) = dedup(&layer);
    let first = send(&service, one).await;
    let second = send(&service, two).await;
    let mut calls = 0;
    while !(first.is_finished() && second.is_finished()) {
        stage.call().await.ok_with("answer");
        calls += 1;
        settle().await;
    }
    assert_eq!(text(first.await.unwrap().unwrap()).await, "answer");
    assert_eq!(text(second.await.unwrap().unwrap()).await, "answer");
    calls
}

async fn together(one: Request<Full<Bytes>>, two: Request<Full<Bytes>>) {
    assert_eq!(calls_for(DedupLayer::new(), one, two).await, 1);
}

async fn apart(one: Request<Full<Bytes>>, two: Request<Full<Bytes>>) {
    assert_eq!(calls_for(DedupLayer::new(), one, two).await, 2);
}

fn request(method: &'static str, uri: &'static str) -> Request<Full<Bytes>> {
    let builder = Request::builder().method(method).uri(uri).header("authorization", "Bearer a");
    builder.body(Full::from("hi")).unwrap()
}

#[tokio::test(start_paused = true)]
async fn without_a_key_a_post_is_recognised_by_what_it_says() {
    together(post("hi"), post("hi")).await;
    apart(post("hi"), post("ho")).await;
    together(request("POST", "/a?x=1"), request("POST", "/a?x=1")).await;
    apart(request("POST", "/a?x=1"), request("POST", "/a?x=2")).await;
    apart(request("POST", "/a?x=1"), request("POST", "/a")).await;
    apart(request("POST", "/a?"), request("POST", "/a")).await;
    apart(request("POST", "/a"), request("POST", "/b")).await;
    apart(request("POST", "http://one/a"), request("POST", "http://two/a")).await;
    apart(with_header(post("hi"), "host", "one"), with_header(post("hi"), "host", "two")).await;
}

#[tokio::test(start_paused = true)]
async fn other_methods_are_recognised_by_their_key_only() {
    for method in ["PUT", "PATCH", "DELETE", "FROBNICATE"] {
        apart(request(method, "/a"), request(method, "/a")).await;
        let with_key = || with_header(request(method, "/a"), "idempotency-key", "k");
        together(with_key(), with_key()).await;
    }
    // There is nothing to do once.
    for method in ["GET", "HEAD", "OPTIONS"] {
        let with_key = || with_header(request(method, "/a"), "idempotency-key", "k");
        apart(with_key(), with_key()).await;
    }
    let with_key = |method| with_header(request(method, "/a"), "idempotency-key", "k");
    apart(with_key("POST"), with_key("PUT")).await;
}

#[tokio::test(start_paused = true)]
async fn headers_that_make_another_request_are_part_of_its_identity() {
    for name in ["accept", "accept-encoding", "content-type", "cookie", "range", "anthropic-version", "openai-project"]
    {
        apart(with_header(post("hi"), name, "one"), with_header(post("hi"), name, "two")).await;
        apart(with_header(post("hi"), name, "one"), post("hi")).await;
        together(with_header(post("hi"), name, "one"), with_header(post("hi"), name, "one")).await;
    }
    // What it asks for, where, and on what condition.
    for name in [
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "content-range",
        "content-disposition",
        "x-http-method-override",
        "mcp-session-id",
        "last-event-id",
    ] {
        apart(with_header(post("hi"), name, "one"), with_header(post("hi"), name, "two")).await;
    }
    // A header is not its neighbour, and two lines are not one.
    apart(with_header(post("hi"), "accept", "x"), with_header(post("hi"), "accept-encoding", "x")).await;
    let two_lines = with_header(with_header(post("hi"), "accept", "x"), "accept", "y");
    apart(two_lines, with_header(post("hi"), "accept", "xy")).await;
    // What differs with every attempt makes no difference.
    for name in ["user-agent", "x-request-id", "traceparent", "x-stainless-retry-count"] {
        together(with_header(post("hi"), name, "one"), with_header(post("hi"), name, "two")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_chosen_header_can_be_part_of_the_identity() {
    let layer = || DedupLayer::new().fingerprint_header("x-feature".parse().unwrap());
    let with = |value| with_header(post("hi"), "x-feature", value);
    assert_eq!(calls_for(layer(), with("a"), with("b")).await, 2);
    assert_eq!(calls_for(layer(), with("a"), with("a")).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_the_same_quoted_or_bare_and_on_one_path_only() {
    together(post_key("k", "hi"), post_key("\"k\"", "hi")).await;
    apart(post_key("k", "hi"), post_key("K", "hi")).await;
    apart(post_key("k", "hi"), post("hi")).await;
    let on = |uri| with_header(request("POST", uri), "idempotency-key", "k");
    apart(on("/a"), on("/b")).await;
    apart(on("/a?x"), on("/a")).await;
    apart(on("http://one/a"), on("http://two/a")).await;
}

#[tokio::test(start_paused = true)]
async fn what_changes_between_attempts_does_not_change_what_a_key_stands_for() {
    for name in ["cookie", "accept", "x-request-id"] {
        together(with_header(post_key("k", "hi"), name, "one"), with_header(post_key("k", "hi"), name, "two")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_with_another_payload_is_refused_while_in_flight_and_afterwards() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let first = send(&service, post_key("k", "hi")).await;
    let others =
        || [post_key("k", "ho"), post_key("k", ""), with_header(post_key("k", "hi"), "content-type", "text/plain")];
    let refused = async |request| {
        let answer = send(&service, request).await.await.unwrap().unwrap();
        assert_eq!(answer.status(), 422);
        assert_eq!(Rejection::of(&answer).unwrap().kind(), RejectionKind::IdempotencyKeyReused);
        assert_eq!(role(&answer), None);
    };
    for other in others() {
        refused(other).await;
    }
    stage.call().await.ok_with("done");
    assert_eq!(text(first.await.unwrap().unwrap()).await, "done");
    for other in others() {
        refused(other).await;
    }
    assert!(stage.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_key_is_refused_before_the_body_is_read() {
    // It sends nothing, ever: its reader waits for ever.
    let (_sender, body) = Channel::<Bytes>::new(1);
    let service = DedupLayer::new()
        .layer(tower::service_fn(|_| async { Ok::<_, BoxError>(Response::new(Full::<Bytes>::default())) }));
    let long = "k".repeat(256);
    let request = Request::post("/").header("authorization", "a").header("idempotency-key", long).body(body).unwrap();
    let answer = service.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(Rejection::of(&answer).unwrap().kind(), RejectionKind::IdempotencyKeyInvalid);

    let (service, mut stage) = dedup(&DedupLayer::new());
    let twice = with_header(post_key("a", "hi"), "idempotency-key", "a");
    for bad in [post_key("a b", "hi"), post_key("\"a", "hi"), twice] {
        assert_eq!(service.clone().oneshot(bad).await.unwrap().status(), 400);
    }
    assert!(stage.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn an_empty_key_is_none() {
    for empty in ["", " ", "\"\""] {
        // Recognised by what they say, like a request without the header.
        together(post_key(empty, "hi"), post("hi")).await;
        apart(post_key(empty, "hi"), post_key(empty, "ho")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_may_be_required() {
    let layer = DedupLayer::new().key_required(true);
    let service = layer.layer(echo());
    for without in [post("hi"), post_key("", "hi"), post_key("\"\"", "hi")] {
        let answer = service.clone().oneshot(without).await.unwrap();
        assert_eq!(answer.status(), 400);
        assert_eq!(Rejection::of(&answer).unwrap().kind(), RejectionKind::IdempotencyKeyRequired);
    }
    assert_eq!(service.clone().oneshot(post_key("k", "hi")).await.unwrap().status(), 200);
    assert_eq!(service.oneshot(request("GET", "/")).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_caller_is_refused_in_grpc() {
    let (service, _stage) = dedup(&DedupLayer::new());
    let request = with_header(post_key("a b", "hi"), "content-type", "application/grpc");
    let answer = service.oneshot(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["grpc-status"]), (200, &"3".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_key_in_flight_may_be_refused() {
    let layer = DedupLayer::new().in_flight(InFlightPolicy::Reject);
    let (service, mut stage) = dedup(&layer);
    let first = send(&service, post_key("k", "hi")).await;
    let answer = service.clone().oneshot(post_key("k", "hi")).await.unwrap();
    assert_eq!(answer.status(), 409);
    assert_eq!(Rejection::of(&answer).unwrap().kind(), RejectionKind::IdempotencyKeyInFlight);
    assert_eq!(answer.headers()["retry-after"], "1");
    stage.call().await.ok_with("done");
    assert_eq!(text(first.await.unwrap().unwrap()).await, "done");
    let later = service.oneshot(post_key("k", "hi")).await.unwrap();
    assert_eq!((role(&later), text(later).await.as_str()), (Some(DedupRole::Replayed), "done"));
    // A double click is no mistake of the caller's.
    assert_eq!(calls_for(layer, post("hi"), post("hi")).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_for_another_answer_gets_one() {
    let anew = |value| with_header(post("hi"), "cache-control", value);
    for value in ["no-cache", "No-Cache", "max-age=0, no-cache", "no-store"] {
        apart(post("hi"), anew(value)).await;
        apart(anew(value), anew(value)).await;
    }
    together(anew("max-age=0"), anew("max-age=0")).await;

    let (service, mut stage) = dedup(&DedupLayer::new());
    let first = send(&service, post("hi")).await;
    stage.call().await.ok_with("one");
    assert_eq!(text(first.await.unwrap().unwrap()).await, "one");
    let again = send(&service, anew("no-cache")).await;
    stage.call().await.ok_with("two");
    assert_eq!(text(again.await.unwrap().unwrap()).await, "two");

    // A caller that gives it a name says that it is the same.
    let with_key = || with_header(post_key("k", "hi"), "cache-control", "no-cache");
    together(with_key(), with_key()).await;
}

#[tokio::test(start_paused = true)]
async fn upgrades_and_conversations_pass() {
    let upgrade = || with_header(with_header(post("hi"), "connection", "keep-alive, Upgrade"), "upgrade", "websocket");
    apart(upgrade(), upgrade()).await;
    // The JDK's client offers HTTP/2 with its first request, and takes whatever comes.
    let offer = |request| {
        let connection = with_header(request, "connection", "Upgrade, HTTP2-Settings");
        with_header(connection, "upgrade", "h2c")
    };
    together(offer(post("hi")), offer(post("hi"))).await;
    together(offer(post_key("k", "hi")), post_key("k", "hi")).await;
    let both = || with_header(offer(post("hi")), "upgrade", "websocket");
    apart(both(), both()).await;
    // Its request may end when its answer does.
    let grpc = || with_header(post("hi"), "content-type", "application/grpc+proto");
    apart(grpc(), grpc()).await;
    let grpc_key = || with_header(post_key("k", "hi"), "content-type", "application/grpc");
    together(grpc_key(), grpc_key()).await;
}

#[tokio::test(start_paused = true)]
async fn fingerprints_can_be_off() {
    let layer = DedupLayer::new().fingerprints(false);
    assert_eq!(calls_for(layer.clone(), post("hi"), post("hi")).await, 2);
    assert_eq!(calls_for(layer, post_key("k", "hi"), post_key("k", "hi")).await, 1);
}

#[tokio::test(start_paused = true)]
async fn the_layer_can_be_off() {
    let layer = DedupLayer::disabled().tenant(|_| Some("all"));
    assert_eq!(calls_for(layer.clone(), post_key("k", "hi"), post_key("k", "hi")).await, 2);
    assert_eq!(calls_for(layer, post_key("not a key", "hi"), post("hi")).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_can_ask_not_to_be_kept() {
    let unkept = || {
        let mut request = post_key("k", "hi");
        request.extensions_mut().insert(NoStore);
        request
    };
    assert_eq!(calls_for(DedupLayer::new(), unkept(), post_key("k", "hi")).await, 2);
    assert_eq!(calls_for(DedupLayer::new(), post_key("k", "hi"), unkept()).await, 2);
}

#[tokio::test(start_paused = true)]
async fn all_services_of_a_layer_share_what_they_know() {
    let layer = DedupLayer::new();
    let (one, mut stage) = dedup(&layer);
    let (two, mut other_stage) = dedup(&layer.clone());
    let first = send(&one, post("hi")).await;
    let second = send(&two, post("hi")).await;
    stage.call().await.ok_with("done");
    assert_eq!(text(first.await.unwrap().unwrap()).await, "done");
    assert_eq!(text(second.await.unwrap().unwrap()).await, "done");
    assert!(other_stage.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn the_request_reaches_the_upstream_as_it_was() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let (mut sender, body) = Channel::<Bytes>::new(8);
    sender.send_data("one ".into()).await.unwrap();
    sender.send_data("two".into()).await.unwrap();
    sender.send_trailers(trailers()).await.unwrap();
    drop(sender);
    let request = Request::post("/x").header("authorization", "a").header("x-kept", "1").body(body.boxed()).unwrap();
    let seen = Arc::new(std::sync::Mutex::new(None));
    let layer = DedupLayer::new();
    let (seen_by_service, service_fn) = (seen.clone(), tower::service_fn);
    let service2 = layer.layer(service_fn(move |request: Request<CallBody>| {
        let seen = seen_by_service.clone();
        async move {
            let (parts, body) = request.into_parts();
            let hint = http_body::Body::size_hint(&body);
            let body = body.collect().await.unwrap();
            *seen.lock().unwrap() = Some((parts.headers, hint.exact(), body.trailers().cloned(), body.to_bytes()));
            Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
        }
    }));
    service2.oneshot(request).await.unwrap();
    let (headers, exact, sent, data) = seen.lock().unwrap().take().unwrap();
    assert_eq!((headers["x-kept"].as_bytes(), data.as_ref()), (&b"1"[..], &b"one two"[..]));
    // Of no known length, as it came: there would be no room for trailers over HTTP/1.1.
    assert_eq!((exact, sent), (None, Some(trailers())));

    let _call = send(&service, post_key("\"k\"", "hi")).await;
    let call = stage.call().await;
    assert_eq!(call.request.headers()["idempotency-key"], "\"k\"");
    assert_eq!(call.read().await.0, "hi");
}

#[tokio::test(start_paused = true)]
async fn trailers_of_a_request_are_part_of_it() {
    let layer = DedupLayer::new();
    let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = calls.clone();
    let service = layer.layer(tower::service_fn(move |_: Request<CallBody>| {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async { Ok::<_, BoxError>(Response::new(Full::<Bytes>::default())) }
    }));
    for (with_trailers, expected) in [(false, 1), (true, 2), (true, 2), (false, 2)] {
        let body = Full::<Bytes>::from("hi").with_trailers(async move { with_trailers.then(|| Ok(trailers())) });
        let request = Request::post("/").header("authorization", "a").body(Box::pin(body)).unwrap();
        let answer = service.clone().oneshot(request).await.unwrap();
        answer.into_body().collect().await.unwrap();
        assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), expected);
    }
}

#[derive(Debug)]
struct BrokenUpload(String);

#[tokio::test(start_paused = true)]
async fn a_request_that_breaks_off_fails_as_it_would_have() {
    let service = DedupLayer::new().layer(tower::service_fn(|request: Request<CallBody>| async {
        let read = request.into_body().collect().await;
        read.map(|_| Response::new(Full::<Bytes>::default())).map_err(|err: BoxError| BrokenUpload(err.to_string()))
    }));
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(8);
    sender.send_data("one".into()).await.unwrap();
    sender.abort("cut".into());
    let request = Request::post("/x").header("authorization", "a").body(body).unwrap();
    assert_eq!(service.oneshot(request).await.unwrap_err().0, "cut");
}

#[tokio::test(start_paused = true)]
async fn a_request_too_long_to_read_passes_whole() {
    let log = Arc::new(Log::default());
    let layer = DedupLayer::new().max_body_bytes(5).observer(log.clone());
    assert_eq!(calls_for(layer.clone(), post("123456"), post("123456")).await, 2);
    assert_eq!(log.names(), ["bypassed: dedup", "bypassed: dedup"]);
    assert_eq!(calls_for(layer.clone(), post("12345"), post("12345")).await, 1);
    let answer = layer.layer(echo()).oneshot(post("123456")).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "123456");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_cannot_be_honoured_is_answered_with_a_word_about_it() {
    const IGNORED: &str = "idempotency-key-ignored";
    let log = Arc::new(Log::default());
    let layer = DedupLayer::new().max_body_bytes(5).observer(log.clone());
    let service = layer.layer(echo());
    let answer = service.clone().oneshot(post_key("k", "123456")).await.unwrap();
    assert_eq!(answer.headers()[IGNORED], "body-too-large");
    assert_eq!(log.names(), ["bypassed: dedup"]);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "123456");
    // Nothing was lost where there was no key, or where it was honoured.
    assert!(!service.clone().oneshot(post("123456")).await.unwrap().headers().contains_key(IGNORED));
    assert!(!service.oneshot(post_key("k", "12345")).await.unwrap().headers().contains_key(IGNORED));
}

#[cfg(feature = "json")]
#[tokio::test(start_paused = true)]
async fn the_order_of_members_makes_no_difference_where_that_is_wanted() {
    let json = |body| with_header(post(body), "content-type", "application/json; charset=utf-8");
    let canonical = || DedupLayer::new().json_canonical(true);
    let (one, other) = (r#"{"a":1,"b":[1,2]}"#, "{ \"b\":[1,2],\n\"a\":1 }");
    assert_eq!(calls_for(canonical(), json(one), json(other)).await, 1);
    assert_eq!(calls_for(DedupLayer::new(), json(one), json(other)).await, 2);
    // Not JSON, as far as its headers say.
    assert_eq!(calls_for(canonical(), post(one), post(other)).await, 2);
    for (one, other) in [
        (r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#),
        (r#"{"a":1}"#, r#"{"a":1.0}"#),
        (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
        (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
        (r#"{"a":1"#, r#"{"a": 1"#),
    ] {
        assert_eq!(calls_for(canonical(), json(one), json(other)).await, 2, "{one} {other}");
        assert_eq!(calls_for(canonical(), json(one), json(one)).await, 1, "{one}");
    }
    // The payload of a key as well.
    let key = |body| with_header(json(body), "idempotency-key", "k");
    assert_eq!(calls_for(canonical(), key(one), key(other)).await, 1);
}
