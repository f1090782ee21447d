//! What was answered is answered again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::advance;
use tower_buttress::{Attempts, DedupLayer, DedupRole, Rejection, RejectionFormat, RejectionKind, ServedBy};

use super::{Answer, Stage, dedup, next, post, post_key, role, send, starts_a_new_call, text, with_header};
use crate::support::{Log, secs, trailers};

type Service = tower_buttress::dedup::Dedup<super::Upstream>;

/// One call that is answered with this head and body, and read to its end.
async fn answered(
    service: &Service,
    stage: &mut Stage,
    request: http::Request<http_body_util::Full<Bytes>>,
    head: Response<()>,
) {
    let call = send(service, request).await;
    stage.call().await.answer_with(head, "done");
    let answer = call.await.unwrap().unwrap();
    assert_eq!(role(&answer), Some(DedupRole::Leader));
    assert_eq!(text(answer).await, "done");
}

/// The answer to a request that does not reach the upstream.
async fn replayed(service: &Service, stage: &mut Stage, request: http::Request<http_body_util::Full<Bytes>>) -> Answer {
    let answer = send(service, request).await.await.unwrap().unwrap();
    assert_eq!(role(&answer), Some(DedupRole::Replayed));
    assert!(stage.is_quiet().await);
    answer
}

fn head(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn status_headers_frames_and_trailers_come_again_with_their_age() {
    let log = Arc::new(Log::default());
    let (service, mut stage) = dedup(&DedupLayer::new().observer(log.clone()));
    let call = send(&service, post_key("k", "hi")).await;
    let head = Response::builder()
        .status(201)
        .header("content-type", "text/plain")
        .header("x-request-id", "1")
        .header("set-cookie", "session=a")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .body(())
        .unwrap();
    let say = stage.call().await.answer(head);
    super::settle().await;
    say.data("one");
    advance(secs(10)).await;
    say.data("two");
    say.trailers(trailers());
    say.end();
    let leader = call.await.unwrap().unwrap();
    assert_eq!(leader.headers()["set-cookie"], "session=a");
    leader.into_body().collect().await.unwrap();

    advance(secs(20)).await;
    let mut answer = replayed(&service, &mut stage, post_key("k", "hi")).await;
    assert_eq!(answer.status(), 201);
    let mut names: Vec<_> = answer.headers().keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["age", "content-type", "idempotent-replayed", "x-request-id"]);
    assert_eq!(
        (&answer.headers()["age"], &answer.headers()["idempotent-replayed"]),
        (&"30".parse().unwrap(), &"true".parse().unwrap())
    );
    for frame in ["one", "two", "trailers", "end"] {
        assert_eq!(next(&mut answer).await, frame);
    }
    assert_eq!(log.names(), ["replayed: dedup"]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_joins_live_gets_the_cookie() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let _leader = send(&service, post("hi")).await;
    let say = stage.call().await.answer(Response::builder().header("set-cookie", "session=a").body(()).unwrap());
    say.data("one");
    let joined = send(&service, post("hi")).await.await.unwrap().unwrap();
    assert_eq!(joined.headers()["set-cookie"], "session=a");
    assert!(!joined.headers().contains_key("age"));
    assert!(!joined.headers().contains_key("idempotent-replayed"));
}

#[tokio::test(start_paused = true)]
async fn the_window_begins_at_the_end_and_ends() {
    let key = || post_key("k", "hi");
    // Without a key it is that of a double click, unless nothing else depends on the call.
    let click = || post("hi");
    let stateless = || with_header(post("hi"), "x-stateless", "1");
    let cases: [(&dyn Fn() -> _, u64); 3] = [(&key, 60), (&click, 2), (&stateless, 60)];
    for (request, seconds) in cases {
        let layer = DedupLayer::new()
            .fingerprint_header("x-stateless".parse().unwrap())
            .stateless(|head, body| head.headers.contains_key("x-stateless") && body == b"hi");
        let (service, mut stage) = dedup(&layer);
        let call = send(&service, request()).await;
        let say = stage.call().await.ok();
        advance(secs(300)).await;
        say.end();
        text(call.await.unwrap().unwrap()).await;
        advance(secs(seconds) - Duration::from_millis(1)).await;
        replayed(&service, &mut stage, request()).await;
        advance(Duration::from_millis(1)).await;
        starts_a_new_call(&service, &mut stage, request()).await;
        // And what that led to is replayed.
        assert_eq!(text(replayed(&service, &mut stage, request()).await).await, "new");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_window_nothing_is_replayed() {
    let (service, mut stage) = dedup(&DedupLayer::new().window(Duration::ZERO));
    answered(&service, &mut stage, post("hi"), head(200)).await;
    starts_a_new_call(&service, &mut stage, post("hi")).await;
}

#[tokio::test(start_paused = true)]
async fn a_window_without_end_is_no_overflow() {
    let layer = DedupLayer::new().window(Duration::MAX).fingerprint_window(Duration::MAX);
    let (service, mut stage) = dedup(&layer);
    for request in [|| post("hi"), || post_key("k", "hi")] {
        answered(&service, &mut stage, request(), head(200)).await;
        advance(secs(1_000_000)).await;
        replayed(&service, &mut stage, request()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_readers_is_replayed_if_it_came_to_its_end() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let call = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    say.data("one ");
    drop(call.await.unwrap().unwrap());
    super::settle().await;
    say.data("two");
    say.end();
    super::settle().await;
    assert_eq!(text(replayed(&service, &mut stage, post("hi")).await).await, "one two");
}

#[tokio::test(start_paused = true)]
async fn what_the_request_is_to_blame_for_is_the_answer_to_a_key_and_to_nothing_else() {
    for status in [400, 422] {
        let (service, mut stage) = dedup(&DedupLayer::new());
        answered(&service, &mut stage, post("hi"), head(status)).await;
        starts_a_new_call(&service, &mut stage, post("hi")).await;

        answered(&service, &mut stage, post_key("k", "hi"), head(status)).await;
        let answer = replayed(&service, &mut stage, post_key("k", "hi")).await;
        assert_eq!((answer.status().as_u16(), text(answer).await.as_str()), (status, "done"));
    }
    let (service, mut stage) = dedup(&DedupLayer::new());
    let may_retry = Response::builder().status(400).header("x-should-retry", "true").body(()).unwrap();
    answered(&service, &mut stage, post_key("k", "hi"), may_retry).await;
    starts_a_new_call(&service, &mut stage, post_key("k", "hi")).await;
}

#[tokio::test(start_paused = true)]
async fn after_any_other_answer_a_key_is_free_again() {
    for status in [300, 401, 403, 404, 405, 407, 408, 409, 413, 415, 429, 500, 502, 503, 504, 529] {
        let (service, mut stage) = dedup(&DedupLayer::new());
        answered(&service, &mut stage, post_key("k", "hi"), head(status)).await;
        starts_a_new_call(&service, &mut stage, post_key("k", "hi")).await;
    }
    // Our own refusals, whatever they say.
    let (service, mut stage) = dedup(&DedupLayer::new());
    let refusal = Rejection::new(RejectionKind::FirstByteTimeout).into_response(RejectionFormat::Http).map(drop);
    answered(&service, &mut stage, post_key("k", "hi"), refusal).await;
    starts_a_new_call(&service, &mut stage, post_key("k", "hi")).await;
    // gRPC says it in trailers.
    let (service, mut stage) = dedup(&DedupLayer::new());
    let call = send(&service, post_key("k", "hi")).await;
    let say = stage.call().await.ok();
    say.trailers([("grpc-status".parse().unwrap(), "14".parse().unwrap())].into_iter().collect());
    say.end();
    text(call.await.unwrap().unwrap()).await;
    starts_a_new_call(&service, &mut stage, post_key("k", "hi")).await;
}

#[tokio::test(start_paused = true)]
async fn an_error_is_shared_with_waiting_callers_only() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let waiting = [send(&service, post("hi")).await, send(&service, post("hi")).await];
    // Its body takes its time.
    let say = stage.call().await.answer(head(500));
    let mut answers = Vec::new();
    for call in waiting {
        answers.push(call.await.unwrap().unwrap());
    }
    starts_a_new_call(&service, &mut stage, post("hi")).await;
    say.data("sorry");
    say.end();
    for answer in answers {
        assert_eq!((answer.status().as_u16(), text(answer).await.as_str()), (500, "sorry"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_known_as_one_by_all_who_share_it() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let waiting = [send(&service, post("hi")).await, send(&service, post("hi")).await];
    let refusal = Rejection::new(RejectionKind::FirstByteTimeout).into_response(RejectionFormat::Http).map(drop);
    stage.call().await.answer_with(refusal, "");
    for call in waiting {
        let answer = call.await.unwrap().unwrap();
        assert_eq!(Rejection::of(&answer).unwrap().kind(), RejectionKind::FirstByteTimeout);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_shorter_or_longer_than_it_said_is_not_stored() {
    for length in ["3", "5", "18446744073709551615"] {
        let (service, mut stage) = dedup(&DedupLayer::new());
        let head = Response::builder().header("content-length", length).body(()).unwrap();
        answered(&service, &mut stage, post_key("k", "hi"), head).await;
        starts_a_new_call(&service, &mut stage, post_key("k", "hi")).await;
    }
    let (service, mut stage) = dedup(&DedupLayer::new());
    let head = Response::builder().header("content-length", "4").body(()).unwrap();
    answered(&service, &mut stage, post_key("k", "hi"), head).await;
    let answer = replayed(&service, &mut stage, post_key("k", "hi")).await;
    assert_eq!(answer.headers()["content-length"], "4");
}

#[tokio::test(start_paused = true)]
async fn a_grpc_answer_that_ends_without_its_status_is_not_stored() {
    let status = || [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect::<HeaderMap>();
    for (kind, said, kept) in [
        ("application/grpc", None, false),
        ("application/grpc+proto", Some(trailers()), false),
        ("application/grpc", Some(status()), true),
    ] {
        let (service, mut stage) = dedup(&DedupLayer::new());
        let request = || with_header(post_key("k", "hi"), "content-type", "application/grpc");
        let call = send(&service, request()).await;
        let say = stage.call().await.answer(Response::builder().header("content-type", kind).body(()).unwrap());
        say.data("half");
        if let Some(trailers) = said {
            say.trailers(trailers);
        }
        say.end();
        text(call.await.unwrap().unwrap()).await;
        let _again = send(&service, request()).await;
        assert_eq!(stage.is_quiet().await, kept, "{kind}");
    }
}

/// There the trailers are the last frame of the body.
#[tokio::test(start_paused = true)]
async fn a_grpc_web_answer_is_stored_by_the_status_in_its_body() {
    let (message, ok) = (&b"\0\0\0\0\x02hi"[..], &b"\x80\0\0\0\x10grpc-status: 0\r\n"[..]);
    let refused = &b"\x80\0\0\0\x11grpc-status: 16\r\n"[..];
    let text = &b"gAAAABBncnBjLXN0YXR1czogMA0K"[..];
    for (kind, parts, kept) in [
        ("application/grpc-web+proto", vec![message, ok], true),
        ("application/grpc-web", vec![message, &ok[..9], &ok[9..]], true),
        ("application/grpc-web+proto", vec![message, refused], false),
        ("application/grpc-web+proto", vec![message], false),
        ("application/grpc-web+proto", vec![message, &ok[..9]], false),
        // Not read: nothing shows a success.
        ("application/grpc-web-text", vec![text], false),
    ] {
        let (service, mut stage) = dedup(&DedupLayer::new());
        let request = || with_header(post_key("k", "hi"), "content-type", "application/grpc-web");
        let call = send(&service, request()).await;
        let say = stage.call().await.answer(Response::builder().header("content-type", kind).body(()).unwrap());
        for part in &parts {
            say.bytes(Bytes::from_static(part));
        }
        say.end();
        call.await.unwrap().unwrap().into_body().collect().await.unwrap();
        let _again = send(&service, request()).await;
        assert_eq!(stage.is_quiet().await, kept, "{kind} {parts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_end_proves_nothing_is_shared_and_not_kept() {
    for (kind, length, kept) in [
        ("text/event-stream", None, false),
        ("Text/Event-Stream; charset=utf-8", None, false),
        ("application/x-ndjson", None, false),
        // Complete, and of unknown content.
        ("text/event-stream", Some("4"), false),
        ("application/json", None, true),
    ] {
        for request in [|| post("hi"), || post_key("k", "hi")] {
            let (service, mut stage) = dedup(&DedupLayer::new());
            let calls = [send(&service, request()).await, send(&service, request()).await];
            let head = Response::builder().header("content-type", kind);
            let head = length.into_iter().fold(head, |head, length| head.header("content-length", length));
            stage.call().await.answer_with(head.body(()).unwrap(), "done");
            for call in calls {
                assert_eq!(text(call.await.unwrap().unwrap()).await, "done");
            }
            let _again = send(&service, request()).await;
            assert_eq!(stage.is_quiet().await, kept, "{kind} {length:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_says_who_gave_the_answer_and_after_how_many_attempts() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let extensions = |mut head: Response<()>| {
        head.extensions_mut().insert(ServedBy::new("backup"));
        head.extensions_mut().insert(Attempts(3));
        head.extensions_mut().insert("something else");
        head
    };
    answered(&service, &mut stage, post("hi"), extensions(head(200))).await;
    let answer = replayed(&service, &mut stage, post("hi")).await;
    assert_eq!((ServedBy::of(&answer), Attempts::of(&answer)), (Some("backup"), Attempts(3)));
    assert_eq!(answer.extensions().get::<&str>(), None);
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_body_is_replayed() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let call = send(&service, post_key("k", "hi")).await;
    stage.call().await.answer(head(204)).end();
    assert_eq!(text(call.await.unwrap().unwrap()).await, "");
    let answer = replayed(&service, &mut stage, post_key("k", "hi")).await;
    assert_eq!(answer.status(), 204);
    assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn many_replays_share_one_copy() {
    let (service, mut stage) = dedup(&DedupLayer::new());
    let call = send(&service, post("hi")).await;
    let say = stage.call().await.ok();
    let data = Bytes::from(vec![b'x'; 100_000]);
    say.bytes(data.clone());
    say.end();
    text(call.await.unwrap().unwrap()).await;
    for _ in 0..100 {
        let mut body = replayed(&service, &mut stage, post("hi")).await.into_body();
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame.as_ptr(), data.as_ptr());
        assert!(body.is_end_stream());
    }
}
