//! Callers come back to their answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::sleep;
use tower::ServiceExt;
use tower_buttress::dedup::Dedup;
use tower_buttress::proto::sse::{Item, Parser};
use tower_buttress::store::MemoryStore;
use tower_buttress::{Deadline, DedupLayer, DedupRole, Memory, Rejection, RejectionKind, Resumable, Tenant};

use super::{Answer, Say, Stage, Upstream, dedup, next, post, post_key, role, send, settle, text, with_header};
use crate::support::{Log, secs, trailers};

type Service = Dedup<Upstream, MemoryStore>;

pub(super) fn layer() -> DedupLayer {
    DedupLayer::new().resumable(Resumable::at("/answers"))
}

pub(super) fn event_stream() -> Response<()> {
    Response::builder().header("content-type", "text/event-stream").body(()).unwrap()
}

pub(super) fn get(location: &str) -> Request<Full<Bytes>> {
    Request::get(location).body(Full::default()).unwrap()
}

pub(super) fn get_after(location: &str, id: &str) -> Request<Full<Bytes>> {
    Request::get(location).header("last-event-id", id).body(Full::default()).unwrap()
}

pub(super) fn delete(location: &str) -> Request<Full<Bytes>> {
    Request::delete(location).body(Full::default()).unwrap()
}

pub(super) async fn ask(service: &Service, request: Request<Full<Bytes>>) -> Answer {
    service.clone().oneshot(request).await.unwrap()
}

pub(super) fn location(answer: &Answer) -> String {
    answer.headers()["content-location"].to_str().unwrap().to_owned()
}

pub(super) fn kind(answer: &Answer) -> Option<RejectionKind> {
    Rejection::of(answer).map(Rejection::kind)
}

/// A stream that has begun, and where its answer is.
pub(super) async fn begin(service: &Service, stage: &mut Stage, key: &'static str) -> (Answer, Say, String) {
    let call = send(service, post_key(key, "hi")).await;
    let say = stage.call().await.answer(event_stream());
    let answer = call.await.unwrap().unwrap();
    let location = location(&answer);
    (answer, say, location)
}

/// The data of the events in `text`, and the last id.
pub(super) fn events(text: &str) -> (Vec<String>, String) {
    let (mut parser, mut rest, mut events, mut last) = (Parser::new(), text.as_bytes(), Vec::new(), String::new());
    while let Some(item) = parser.next(&mut rest) {
        if let Item::Message(message) = item {
            events.push(message.data.to_string());
            last = message.last_event_id.to_string();
        }
    }
    (events, last)
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_was_cut_off_reads_the_rest_and_nothing_is_asked_again() {
    let (service, mut stage) = dedup(&layer());
    let (mut answer, say, location) = begin(&service, &mut stage, "k").await;
    let token = location.strip_prefix("/answers/").unwrap();
    assert!(token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit()));
    say.data("data: one\n\ndata: tw");
    let (read, id) = events(&next(&mut answer).await);
    assert_eq!(read, ["one"]);

    // It is cut off, for longer than the grace.
    drop(answer);
    sleep(secs(60)).await;
    say.data("o\n\ndata: three\n\n");
    let mut back = ask(&service, get_after(&location, &id)).await;
    assert_eq!((back.status().as_u16(), role(&back)), (200, Some(DedupRole::Resumed)));
    assert_eq!(back.headers()["cache-control"], "no-store");
    let (read, id) = {
        let first = next(&mut back).await;
        let second = next(&mut back).await;
        events(&format!("{first}{second}"))
    };
    assert_eq!(read, ["two", "three"]);
    // Live, from here on.
    say.data("data: four\n\n");
    let (read, last) = events(&next(&mut back).await);
    assert_eq!(read, ["four"]);
    say.end();
    assert_eq!(next(&mut back).await, "end");

    // And when it has ended: by the header or the query, of which the header wins.
    for request in [
        get_after(&location, &id),
        get(&format!("{location}?x=1&last_event_id={id}")),
        get_after(&format!("{location}?last_event_id={last}"), &id),
    ] {
        let back = ask(&service, request).await;
        assert_eq!(events(&text(back).await).0, ["four"]);
    }
    let back = ask(&service, get(&location)).await;
    assert_eq!(events(&text(back).await).0, ["one", "two", "three", "four"]);
    // An `EventSource` that connects again would do so for ever.
    let back = ask(&service, get_after(&location, &last)).await;
    assert_eq!((back.status().as_u16(), text(back).await.as_str()), (204, ""));
    assert!(stage.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn digests_of_what_has_no_ids_yet_are_not_handed_on() {
    let (service, mut stage) = dedup(&layer());
    let head = || Response::builder().header("content-type", "text/event-stream").header("repr-digest", "sha-256=:x:");
    for (request, changed) in [(post_key("k", "hi"), true), (post("hi"), false)] {
        let call = send(&service, request).await;
        let say = stage.call().await.answer(head().body(()).unwrap());
        say.data("data: one\n\n");
        say.trailers(trailers());
        say.end();
        let answer = call.await.unwrap().unwrap();
        let location = changed.then(|| location(&answer));
        let mut answers = vec![answer];
        if let Some(location) = location {
            answers.push(ask(&service, get(&location)).await);
        }
        for answer in answers {
            assert_eq!(answer.headers().contains_key("repr-digest"), !changed);
            let read = answer.into_body().collect().await.unwrap();
            assert_eq!(read.trailers().unwrap().contains_key("x-checksum"), !changed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_streams_for_a_key_can_be_come_back_to() {
    let (service, mut stage) = dedup(&layer());
    let json = Response::builder().header("content-type", "application/json").body(()).unwrap();
    let failed = Response::builder().status(500).header("content-type", "text/event-stream").body(()).unwrap();
    for (request, head) in [
        (post("hi"), event_stream()),
        (post_key("json", "hi"), json),
        (post_key("failed", "hi"), failed),
        (with_header(post_key("grpc", "hi"), "content-type", "application/grpc"), event_stream()),
    ] {
        let call = send(&service, request).await;
        let say = stage.call().await.answer(head);
        let answer = call.await.unwrap().unwrap();
        assert!(!answer.headers().contains_key("content-location"));
        say.data("data: x\n\n");
        say.end();
        assert_eq!(text(answer).await, "data: x\n\n");
    }
    // Without the setting it is the upstream's URL.
    let (service, mut stage) = dedup(&DedupLayer::new());
    let call = send(&service, get("/answers/00000000000000000000000000000000")).await;
    stage.call().await.ok_with("the upstream's own");
    assert_eq!(text(call.await.unwrap().unwrap()).await, "the upstream's own");
}

/// google-genai fails on ids.
#[tokio::test(start_paused = true)]
async fn a_dialect_without_ids_is_read_again_from_the_beginning() {
    let (service, mut stage) = dedup(&layer());
    let mut request = post_key("k", "hi");
    *request.uri_mut() = "/v1beta/models/gemini-3-pro:streamGenerateContent?alt=sse".parse().unwrap();
    let call = send(&service, request).await;
    let say = stage.call().await.answer(event_stream());
    let mut answer = call.await.unwrap().unwrap();
    let location = location(&answer);
    say.data("data: one\r\n\r\n");
    assert_eq!(next(&mut answer).await, "data: one\r\n\r\n");
    drop(answer);
    say.end();
    let back = ask(&service, get(&location)).await;
    assert_eq!(text(back).await, "data: one\r\n\r\n");
    let back = ask(&service, get_after(&location, "0000000000000000.9")).await;
    assert_eq!((back.status().as_u16(), kind(&back)), (412, Some(RejectionKind::EventIdUnknown)));
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_none_of_the_stream_is_refused() {
    let (service, mut stage) = dedup(&layer());
    let (mut answer, say, location) = begin(&service, &mut stage, "k").await;
    let (_other, other_say, other_location) = begin(&service, &mut stage, "other").await;
    other_say.data("data: one\n\n");
    say.data("data: one\n\ndata: two\n\n");
    let (_, id) = events(&next(&mut answer).await);
    let stream = id.split_once('.').unwrap().0;
    for (url, id) in [
        (&location, "7"),
        (&location, "x"),
        // Inside of an event, behind the end, and of another stream.
        (&location, &format!("{stream}.5")),
        (&location, &format!("{stream}.1000")),
        (&location, &format!("{stream}.{}", u64::MAX)),
        (&other_location, &id),
    ] {
        let back = ask(&service, get_after(url, id)).await;
        assert_eq!((back.status().as_u16(), kind(&back)), (412, Some(RejectionKind::EventIdUnknown)), "{id}");
    }
    // An id that is empty is none.
    let back = ask(&service, get_after(&location, "")).await;
    assert_eq!(back.status(), 200);
    assert!(stage.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_there_for_a_caller_without_the_token_or_of_another_tenant() {
    let (service, mut stage) = dedup(&layer());
    let (_answer, say, location) = begin(&service, &mut stage, "k").await;
    say.data("data: one\n\n");
    let wrong = format!("{}0", &location[..location.len() - 1]);
    let wrong = if wrong == location { format!("{}1", &location[..location.len() - 1]) } else { wrong };
    let mut other = get(&location);
    other.extensions_mut().insert(Tenant::new("b"));
    for request in [
        get(&wrong),
        with_header(get(&location), "authorization", "Bearer b"),
        with_header(get(&location), "x-api-key", "a"),
        get(&format!("{location}?key=b")),
        other,
    ] {
        let back = ask(&service, request).await;
        assert_eq!((back.status().as_u16(), kind(&back)), (410, Some(RejectionKind::AnswerGone)));
    }
    // Nor can they stop it.
    let stop = ask(&service, with_header(delete(&location), "authorization", "Bearer b")).await;
    assert_eq!(stop.status(), 204);
    let mut back = ask(&service, with_header(get(&location), "authorization", "Bearer a")).await;
    assert_eq!(events(&next(&mut back).await).0, ["one"]);
    // What does not have the form of a token is the upstream's.
    let upstreams = send(&service, get("/answers/mine")).await;
    stage.call().await.ok_with("mine");
    assert_eq!(text(upstreams.await.unwrap().unwrap()).await, "mine");
    let put = Request::put(&location).body(Full::default()).unwrap();
    let put = ask(&service, put).await;
    assert_eq!((put.status().as_u16(), put.headers()["allow"].as_bytes()), (405, &b"GET, HEAD, DELETE"[..]));
}

#[tokio::test(start_paused = true)]
async fn each_caller_has_a_token_of_its_own_and_none_is_shown() {
    let log = Arc::new(Log::default());
    let layer = layer().observer(log.clone());
    let (service, mut stage) = dedup(&layer);
    let (answer, say, location) = begin(&service, &mut stage, "k").await;
    let joined = ask(&service, post_key("k", "hi")).await;
    let other = self::location(&joined);
    assert_ne!(location, other);
    say.data("data: one\n\n");
    for url in [&location, &other] {
        let mut back = ask(&service, get(url)).await;
        assert_eq!(events(&next(&mut back).await).0, ["one"]);
    }
    let shown = format!("{:?} {layer:?} {answer:?} {joined:?}", log.events());
    for url in [location, other] {
        assert!(!shown.contains(url.rsplit('/').next().unwrap()), "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_broke_off_never_looks_complete() {
    let (service, mut stage) = dedup(&layer());
    let (mut answer, say, location) = begin(&service, &mut stage, "k").await;
    say.data("data: one\n\ndata: two\n\ndata: hal");
    let all = next(&mut answer).await;
    let (read, last) = events(&all);
    assert_eq!(read, ["one", "two"]);
    let first = all.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    say.fail("reset");
    assert!(next(&mut answer).await.contains("reset"));

    let mut back = ask(&service, get_after(&location, &first)).await;
    assert_eq!(events(&next(&mut back).await).0, ["two"]);
    assert!(next(&mut back).await.contains("reset"));
    // Half an event is nothing to come back for again and again.
    let back = ask(&service, get_after(&location, &last)).await;
    assert_eq!((back.status().as_u16(), kind(&back)), (410, Some(RejectionKind::AnswerGone)));
    // The key is free.
    let _again = send(&service, post_key("k", "hi")).await;
    let _upstream = stage.call().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_is_stopped_by_a_delete_and_by_no_other() {
    let (service, mut stage) = dedup(&layer());
    let (mut answer, say, location) = begin(&service, &mut stage, "k").await;
    say.data("data: one\n\n");
    next(&mut answer).await;
    assert_eq!(stage.alive(), 1);
    // While a caller reads, and again.
    for _ in 0..2 {
        let stop = ask(&service, delete(&location)).await;
        assert_eq!((stop.status().as_u16(), text(stop).await.as_str()), (204, ""));
        settle().await;
        assert_eq!(stage.alive(), 0);
    }
    assert!(next(&mut answer).await.starts_with("error: "));
    assert_eq!(ask(&service, get(&location)).await.status(), 410);

    // While none does.
    let (answer, _say, location) = begin(&service, &mut stage, "k").await;
    drop(answer);
    settle().await;
    assert_eq!(stage.alive(), 1);
    ask(&service, delete(&location)).await;
    settle().await;
    assert_eq!(stage.alive(), 0);

    // The upstream's own, with a key, passes.
    let own =
        Request::delete("/v1/responses/resp_1").header("authorization", "Bearer a").header("idempotency-key", "d");
    let own = send(&service, own.body(Full::default()).unwrap()).await;
    let call = stage.call().await;
    assert_eq!((call.request.method(), call.request.uri().path()), (&Method::DELETE, "/v1/responses/resp_1"));
    call.ok_with("deleted");
    assert_eq!(text(own.await.unwrap().unwrap()).await, "deleted");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_listeners_ends_with_the_window_and_so_does_its_answer() {
    let resumable = Resumable::at("/answers").window(secs(60));
    let (service, mut stage) = dedup(&DedupLayer::new().resumable(resumable));
    let (answer, _say, location) = begin(&service, &mut stage, "left").await;
    drop(answer);
    sleep(secs(59)).await;
    settle().await;
    assert_eq!(stage.alive(), 1);
    sleep(secs(2)).await;
    settle().await;
    assert_eq!(stage.alive(), 0);
    assert_eq!(ask(&service, get(&location)).await.status(), 410);

    let (answer, say, location) = begin(&service, &mut stage, "ended").await;
    sleep(secs(100)).await;
    say.data("data: one\n\n");
    say.end();
    text(answer).await;
    sleep(secs(59)).await;
    assert_eq!(ask(&service, get(&location)).await.status(), 200);
    sleep(secs(1)).await;
    assert_eq!(ask(&service, get(&location)).await.status(), 410);
}

/// Whatever it says of its own time: a token is enough to come back, and must not be enough to keep a call going.
#[tokio::test(start_paused = true)]
async fn coming_back_does_not_put_off_the_deadline_of_the_call() {
    let (service, mut stage) = dedup(&layer());
    for own in [None, Some(50), Some(150)] {
        let start = tokio::time::Instant::now();
        let mut request = post_key("k", "hi");
        request.extensions_mut().insert(Deadline::after(secs(100)).unwrap());
        let call = send(&service, request).await;
        let say = stage.call().await.answer(event_stream());
        let answer = call.await.unwrap().unwrap();
        let location = location(&answer);
        drop(answer);
        sleep(secs(20)).await;
        let mut again = get(&location);
        if let Some(own) = own {
            again.extensions_mut().insert(Deadline::after(secs(own - 20)).unwrap());
        }
        let mut back = ask(&service, again).await;
        say.data("data: one\n\n");
        assert_eq!(events(&next(&mut back).await).0, ["one"]);
        let ended = next(&mut back).await;
        assert!(ended.starts_with("error: the call did not finish within its budget of 80s"), "{own:?}: {ended}");
        assert_eq!(start.elapsed(), secs(100), "{own:?}");
        settle().await;
        assert_eq!(stage.alive(), 0, "{own:?}");
    }
    // Of one that has ended in time all can be read.
    let mut request = post_key("k", "hi");
    request.extensions_mut().insert(Deadline::after(secs(100)).unwrap());
    let call = send(&service, request).await;
    let say = stage.call().await.answer(event_stream());
    let answer = call.await.unwrap().unwrap();
    let location = location(&answer);
    drop(answer);
    let back = ask(&service, get(&location)).await;
    say.data("data: one\n\n");
    say.end();
    settle().await;
    sleep(secs(110)).await;
    for back in [back, ask(&service, get(&location)).await] {
        assert_eq!(events(&text(back).await).0, ["one"]);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_without_listeners_are_limited_per_tenant() {
    let (service, mut stage) = dedup(&layer());
    let mut says = Vec::new();
    let mut locations = Vec::new();
    for key in ["1", "2", "3", "4", "5", "6", "7", "8", "9"] {
        let (answer, say, location) = begin(&service, &mut stage, key).await;
        drop(answer);
        says.push(say);
        locations.push(location);
    }
    settle().await;
    assert_eq!(stage.alive(), 9);
    // The ninth goes on for the grace, as without the setting.
    sleep(secs(6)).await;
    settle().await;
    assert_eq!(stage.alive(), 8);
    assert_eq!(ask(&service, get(&locations[8])).await.status(), 410);

    // A caller that comes back makes room, as does the end of a call.
    let _back = ask(&service, get(&locations[0])).await;
    says[1].end();
    settle().await;
    for key in ["10", "11"] {
        let (answer, say, _) = begin(&service, &mut stage, key).await;
        drop(answer);
        says.push(say);
    }
    sleep(secs(6)).await;
    settle().await;
    assert_eq!(stage.alive(), 9);
}

/// Its bytes are there until the last reader has them.
#[tokio::test(start_paused = true)]
async fn what_is_read_of_an_answer_that_is_gone_still_counts() {
    let memory = Memory::new(1024 * 1024);
    let layer = DedupLayer::new().memory(memory.clone()).resumable(Resumable::at("/answers").window(secs(60)));
    let (service, mut stage) = dedup(&layer);
    for way in ["stopped", "forgotten", "expired"] {
        let (answer, say, location) = begin(&service, &mut stage, way).await;
        say.data(&format!("data: {}\n\n", "x".repeat(20_000)));
        say.end();
        text(answer).await;
        let slow = ask(&service, get(&location)).await;
        match way {
            "stopped" => assert_eq!(ask(&service, delete(&location)).await.status(), 204),
            "forgotten" => drop(layer.forget_all()),
            _ => sleep(secs(122)).await,
        }
        assert_eq!(ask(&service, get(&location)).await.status(), 410, "{way}");
        assert!(memory.used() >= 20_000, "{way}: {}", memory.used());
        assert!(text(slow).await.len() > 20_000);
        assert_eq!(memory.used(), 0, "{way}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_long_is_gone() {
    let resumable = Resumable::at("/answers").max_response(1000);
    let (service, mut stage) = dedup(&DedupLayer::new().max_response(100).resumable(resumable));
    let (mut answer, say, location) = begin(&service, &mut stage, "k").await;
    say.data(&format!("data: {}\n\n", "x".repeat(500)));
    next(&mut answer).await;
    assert_eq!(ask(&service, get(&location)).await.status(), 200);
    say.data(&format!("data: {}\n\n", "y".repeat(500)));
    assert!(next(&mut answer).await.contains('y'));
    assert_eq!(ask(&service, get(&location)).await.status(), 410);
    say.data("data: z\n\n");
    assert!(next(&mut answer).await.contains('z'));
}

fn later(service: &Service) -> impl Future<Output = Answer> + use<> {
    let service = service.clone();
    async move { service.oneshot(with_header(post("hi"), "prefer", "respond-async, wait=10, x=y")).await.unwrap() }
}

fn respond_async() -> DedupLayer {
    DedupLayer::new().resumable(Resumable::at("/answers").respond_async(true))
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_would_rather_not_wait_is_answered_later() {
    let (service, mut stage) = dedup(&respond_async());
    let start = tokio::time::Instant::now();
    let response = later(&service).await;
    assert_eq!((response.status().as_u16(), start.elapsed()), (202, secs(10)));
    let headers = response.headers();
    assert_eq!(headers["retry-after"], "10");
    assert_eq!(headers["preference-applied"], "respond-async, wait=10");
    let location = headers["location"].to_str().unwrap().to_owned();
    assert_eq!(text(response).await, "");

    // It asks again: with the same preference it is told the same, without it waits.
    sleep(secs(30)).await;
    let again = ask(&service, with_header(get(&location), "prefer", "respond-async, wait=5")).await;
    assert_eq!((again.status().as_u16(), again.headers()["location"].to_str().unwrap()), (202, &*location));
    // A time alone is no wish to be sent away.
    let waiting = send(&service, with_header(get(&location), "prefer", "wait=5")).await;
    sleep(secs(10)).await;
    let call = stage.call().await;
    assert_eq!(call.request.headers()["prefer"], "x=y", "what is ours does not go on");
    call.answer_with(
        Response::builder().status(201).header("content-type", "application/json").body(()).unwrap(),
        "{}",
    );
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), text(answer).await.as_str()), (201, "{}"));
    let again = ask(&service, get(&location)).await;
    assert_eq!((again.status().as_u16(), again.headers()["idempotent-replayed"].as_bytes()), (201, &b"true"[..]));
    assert_eq!(text(again).await, "{}");
    // For the window, and no longer.
    sleep(secs(362)).await;
    assert_eq!(kind(&ask(&service, get(&location)).await), Some(RejectionKind::AnswerGone));
    assert!(stage.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_later_may_be_a_live_stream_or_an_error() {
    let (service, mut stage) = dedup(&respond_async());
    let response = later(&service).await;
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let say = stage.call().await.answer(event_stream());
    let mut answer = ask(&service, get(&location)).await;
    say.data("data: one\n\n");
    let (read, id) = events(&next(&mut answer).await);
    assert_eq!(read, ["one"]);
    drop(answer);
    say.data("data: two\n\n");
    say.end();
    let answer = ask(&service, get_after(&location, &id)).await;
    assert_eq!(events(&text(answer).await).0, ["two"]);

    for failed in [503, 404] {
        let response = later(&service).await;
        let location = response.headers()["location"].to_str().unwrap().to_owned();
        stage.call().await.answer_with(Response::builder().status(failed).body(()).unwrap(), "no");
        for _ in 0..2 {
            let answer = ask(&service, get(&location)).await;
            assert_eq!((answer.status().as_u16(), text(answer).await.as_str()), (failed, "no"));
        }
    }
    // And where there is none.
    let response = later(&service).await;
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    stage.call().await.fail("broken");
    for _ in 0..2 {
        let answer = ask(&service, get(&location)).await;
        assert_eq!((answer.status().as_u16(), kind(&answer)), (502, Some(RejectionKind::SharedCallFailed)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_is_given_at_once() {
    let (service, mut stage) = dedup(&respond_async());
    let call = tokio::spawn(later(&service));
    let upstream = stage.call().await;
    sleep(secs(9)).await;
    upstream.ok_with("here");
    let answer = call.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(
        ["location", "content-location", "preference-applied"].iter().all(|name| !answer.headers().contains_key(*name))
    );
    assert_eq!(text(answer).await, "here");
    // And where it is not set, the preference is the upstream's.
    let (service, mut stage) = dedup(&layer());
    let call = tokio::spawn(later(&service));
    let upstream = stage.call().await;
    assert_eq!(upstream.request.headers()["prefer"], "respond-async, wait=10, x=y");
    sleep(secs(60)).await;
    upstream.ok_with("here");
    assert_eq!(call.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_place_for_it_a_caller_waits() {
    let resumable = Resumable::at("/answers").respond_async(true).unattended(1, 100);
    let (service, mut stage) = dedup(&DedupLayer::new().resumable(resumable));
    let first = later(&service).await;
    assert_eq!(first.status(), 202);
    let _hanging = stage.call().await;
    let second = service.clone().oneshot(with_header(post("another"), "prefer", "respond-async"));
    let second = tokio::spawn(second);
    let upstream = stage.call().await;
    sleep(secs(100)).await;
    upstream.ok_with("here");
    assert_eq!(second.await.unwrap().unwrap().status(), 200);
    // Stopped, its place is free.
    ask(&service, delete(first.headers()["location"].to_str().unwrap())).await;
    settle().await;
    assert_eq!(later(&service).await.status(), 202);
}

/// Credentials that are made up, one for each call, take no place from those that the upstream knows.
#[tokio::test(start_paused = true)]
async fn strangers_have_one_share_of_the_calls_without_a_listener() {
    let resumable = Resumable::at("/answers").respond_async(true).unattended(2, 4);
    let (service, mut stage) = dedup(&DedupLayer::new().resumable(resumable));
    let as_tenant = |bearer: &'static str, body: &'static str| {
        let request =
            Request::post("/v1/chat").header("authorization", bearer).header("prefer", "respond-async, wait=1");
        request.body(Full::from(body)).unwrap()
    };
    // One that the upstream knows.
    let known = send(&service, as_tenant("Bearer known", "first")).await;
    stage.call().await.ok_with("here");
    assert_eq!(known.await.unwrap().unwrap().status(), 200);

    let mut strangers = Vec::new();
    for bearer in ["Bearer 1", "Bearer 2", "Bearer 3", "Bearer 4", "Bearer 5"] {
        let call = send(&service, as_tenant(bearer, bearer)).await;
        strangers.push((call, stage.call().await));
    }
    sleep(secs(2)).await;
    let sent_away = strangers.iter().filter(|(call, _)| call.is_finished()).count();
    assert_eq!(sent_away, 2, "the others wait");
    for body in ["second", "third"] {
        let answer = ask(&service, as_tenant("Bearer known", body)).await;
        assert_eq!(answer.status(), 202, "{body}");
    }
    // Those that the upstream has answered are strangers no more.
    for (call, upstream) in strangers {
        upstream.ok_with("here");
        assert!([200, 202].contains(&call.await.unwrap().unwrap().status().as_u16()));
    }
    settle().await;
    for body in ["fourth", "fifth"] {
        assert_eq!(ask(&service, as_tenant("Bearer 1", body)).await.status(), 202, "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stranger_whose_call_is_answered_leaves_its_place_to_the_next() {
    let resumable = Resumable::at("/answers").respond_async(true).unattended(1, 100);
    let (service, mut stage) = dedup(&DedupLayer::new().resumable(resumable));
    let as_tenant = |bearer: &'static str, body: &'static str| {
        let request =
            Request::post("/v1/chat").header("authorization", bearer).header("prefer", "respond-async, wait=1");
        request.body(Full::from(body)).unwrap()
    };
    assert_eq!(ask(&service, as_tenant("Bearer 1", "hi")).await.status(), 202);
    let first = stage.call().await;
    let second = send(&service, as_tenant("Bearer 2", "hi")).await;
    let answered = stage.call().await;
    sleep(secs(2)).await;
    assert!(!second.is_finished(), "the place is taken");
    // One that was authenticated is no stranger.
    let mut named = as_tenant("Bearer 3", "hi");
    named.extensions_mut().insert(Tenant::new("acme"));
    assert_eq!(ask(&service, named).await.status(), 202);
    let _named = stage.call().await;

    let _say = first.answer(event_stream());
    answered.ok_with("here");
    assert_eq!(second.await.unwrap().unwrap().status(), 200);
    assert_eq!(ask(&service, as_tenant("Bearer 4", "hi")).await.status(), 202);
    assert_eq!(ask(&service, as_tenant("Bearer 2", "more")).await.status(), 202, "known, too");
}

/// A caller that looks for its answer, and leaves again, leaves the call as it was.
#[tokio::test(start_paused = true)]
async fn a_promised_answer_keeps_its_place_while_callers_come_and_go() {
    let resumable = Resumable::at("/answers").respond_async(true).unattended(1, 100);
    let (service, mut stage) = dedup(&DedupLayer::new().resumable(resumable));
    // One that the upstream knows.
    let known = send(&service, post("known")).await;
    stage.call().await.ok_with("here");
    assert_eq!(known.await.unwrap().unwrap().status(), 200);
    let location = later(&service).await.headers()["location"].to_str().unwrap().to_owned();
    let upstream = stage.call().await;
    for poll in 0..3 {
        let looking = send(&service, get(&location)).await;
        // Meanwhile another call is left by its caller: there is no place for it.
        let (other, _say, _) = begin(&service, &mut stage, ["a", "b", "c"][poll]).await;
        drop(other);
        looking.abort();
        sleep(secs(10)).await;
        settle().await;
        assert_eq!(stage.alive(), 1, "{poll}: the promised one goes on");
    }
    upstream.ok_with("here");
    settle().await;
    assert_eq!(text(ask(&service, get(&location)).await).await, "here");
    // Its place is free.
    let (other, _say, location) = begin(&service, &mut stage, "d").await;
    drop(other);
    sleep(secs(10)).await;
    settle().await;
    assert_eq!((stage.alive(), ask(&service, get(&location)).await.status().as_u16()), (1, 200));
}

#[tokio::test(start_paused = true)]
async fn how_many_calls_go_on_without_listeners_may_change_at_any_time() {
    let places = Arc::new(AtomicU32::new(1));
    let now = places.clone();
    let resumable = Resumable::at("/answers").unattended_total(move || now.load(Relaxed));
    let (service, mut stage) = dedup(&DedupLayer::new().resumable(resumable));
    let mut says = Vec::new();
    for (key, total, alive) in [("1", 1, 1), ("2", 1, 1), ("3", 2, 2), ("4", 0, 2)] {
        places.store(total, Relaxed);
        let (answer, say, _) = begin(&service, &mut stage, key).await;
        drop(answer);
        says.push(say);
        sleep(secs(10)).await;
        settle().await;
        assert_eq!(stage.alive(), alive, "{key}");
    }
}

/// Without a caller that comes: what is held counts for all calls.
#[tokio::test(start_paused = true)]
async fn the_memory_of_an_answer_is_given_back_when_its_window_has_passed() {
    let memory = Memory::new(1024 * 1024);
    let resumable = Resumable::at("/answers").window(secs(60));
    let (service, mut stage) = dedup(&DedupLayer::new().memory(memory.clone()).resumable(resumable));
    let mut locations = Vec::new();
    for key in ["1", "2", "3"] {
        let (answer, say, location) = begin(&service, &mut stage, key).await;
        say.data(&format!("data: {}\n\n", "x".repeat(20_000)));
        say.end();
        text(answer).await;
        locations.push(location);
        sleep(secs(10)).await;
    }
    let of_three = memory.used();
    assert!(of_three >= 60_000, "{of_three}");
    for (wait, left) in [(29, 3), (3, 2), (10, 1), (10, 0)] {
        sleep(secs(wait)).await;
        assert_eq!(memory.used(), of_three / 3 * left, "{left}");
    }
    // And again.
    let (answer, say, _) = begin(&service, &mut stage, "4").await;
    say.data(&format!("data: {}\n\n", "x".repeat(20_000)));
    say.end();
    text(answer).await;
    assert_eq!(memory.used(), of_three / 3);
    sleep(secs(62)).await;
    assert_eq!(memory.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_sixteen_callers_of_an_answer_get_its_url() {
    let (service, mut stage) = dedup(&layer());
    let (_first, say, _) = begin(&service, &mut stage, "k").await;
    let mut callers = Vec::new();
    for nth in 2..=18 {
        let joined = ask(&service, post_key("k", "hi")).await;
        assert_eq!(joined.headers().contains_key("content-location"), nth <= 16, "{nth}");
        callers.push(joined);
    }
    say.data("data: one\n\n");
    for (caller, is_told) in callers.iter_mut().zip((2..).map(|nth| nth <= 16)) {
        let read = next(caller).await;
        assert_eq!((events(&read).0, read.contains("id: ")), (vec!["one".to_owned()], is_told));
    }
}

/// Tokens are short, and there are many of them: what a frame costs beside its bytes is not what an answer is too long by.
#[tokio::test(start_paused = true)]
async fn an_answer_of_many_short_events_costs_its_bytes_only() {
    let resumable = Resumable::at("/answers").max_response(64 * 1024);
    let (service, mut stage) = dedup(&DedupLayer::new().max_response(1_000).resumable(resumable));
    let (mut answer, say, location) = begin(&service, &mut stage, "k").await;
    for word in 0..3_000 {
        say.data(&format!("data: {word:04}\n\n"));
        assert!(next(&mut answer).await.contains("data: "));
    }
    drop(answer);
    say.end();
    settle().await;
    let all = text(ask(&service, get(&location)).await).await;
    let expected: Vec<String> = (0..3_000).map(|word| format!("{word:04}")).collect();
    assert_eq!(events(&all).0, expected);
}
