//! Why a caller has to wait, as its stream says it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::error::BoxError;
use tower_buttress::{
    CallBody, DedupLayer, ExpectsEventStream, FallbackLayer, HeadersSentEarly, Notice, PaceLayer, PacePeers, PeerLimit,
    PeerPause, PeerReserving, PeerTurn, QueueLayer, Rate, RateCost, RetryAfterBackoffLayer, SseHeartbeatLayer, Tenant,
};

use super::{Asked, asked, events};
use crate::support::{Script, Step, secs, trace};

/// Begins after 5 s, with heartbeats that are rare.
fn layer() -> SseHeartbeatLayer {
    SseHeartbeatLayer::new(secs(100)).before_headers(secs(5)).notices(|notice, headers| {
        let german = headers.get("accept-language").is_some_and(|value| value == "de");
        match notice {
            Notice::Retry { wait, .. } if german => Some(format!("Noch einmal in {} s.", wait.as_secs())),
            Notice::Retry { wait, .. } => Some(format!("Again in {} s.", wait.as_secs())),
            Notice::Fallback { to, .. } => Some(format!("Now {to}.\nIt is faster.")),
            Notice::Queue { .. } => Some("Busy.".to_owned()),
            Notice::Pace { expected, .. } => Some(format!("In {} s.", expected.unwrap_or_default().as_secs())),
            _ => None,
        }
    })
}

fn to(path: &'static str) -> Asked {
    let mut request = asked();
    *request.uri_mut() = http::Uri::from_static(path);
    request.headers_mut().insert("accept", HeaderValue::from_static("text/event-stream"));
    request
}

/// A 503 after 10 s, and then an answer of these steps after another 10 s.
fn busy_at_first(
    steps: &'static [Step],
) -> impl Service<Request<CallBody>, Response = Response<Script>, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ 'static {
    let calls = Arc::<AtomicU32>::default();
    service_fn(move |_: Request<CallBody>| {
        let first = calls.fetch_add(1, SeqCst) == 0;
        async move {
            tokio::time::sleep(secs(10)).await;
            let mut response = events(Script::new(steps.iter().cloned()).unsized_());
            if first {
                *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            }
            Ok(response)
        }
    })
}

fn retry() -> RetryAfterBackoffLayer {
    RetryAfterBackoffLayer::new().backoff_base(Duration::ZERO)
}

const A: &[Step] = &[Step::Data("data: a\n\n")];
const RETRY: &str = ": notice {\"type\":\"retry\",\"message\":\"Again in 0 s.\"}\n\n";

async fn text(response: Response<impl http_body::Body<Data = Bytes, Error = BoxError> + Unpin>) -> Vec<String> {
    trace(response.into_body()).await
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_a_notice_in_the_dialect_of_a_stream_that_has_begun() {
    const CHUNK: &str = "data: {\"id\":\"chatcmpl-notice\",\"object\":\"chat.completion.chunk\",\"created\":0,\"model\":\"\",\
                         \"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":null}],\"x_notice\":{\"type\":\"retry\",\
                         \"message\":\"Noch einmal in 0 s.\"}}\n\n";
    for (path, language, notice) in [
        ("/v1/responses", "en", RETRY),
        ("/v1/chat/completions", "de", CHUNK),
        (
            "/v1/messages",
            "en",
            "event: ping\ndata: {\"type\":\"ping\",\"x_notice\":{\"type\":\"retry\",\"message\":\"Again in 0 s.\"}}\n\n",
        ),
    ] {
        let service = ServiceBuilder::new().layer(layer()).layer(retry()).service(busy_at_first(A));
        let mut request = to(path);
        request.headers_mut().insert("accept-language", HeaderValue::from_static(language));
        let response = service.oneshot(request).await.unwrap();
        // The head came after 5 s, the 503 after 10.
        assert_eq!(
            text(response).await,
            ["+0s : keepalive\n\n", &format!("+5s {notice}"), "+15s data: a\n\n", "+15s end"],
            "{path}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_notice_begins_no_stream_and_is_sent_while_the_one_that_began_is_silent() {
    const THINKS: &[Step] = &[Step::Wait(secs(3)), Step::Data("data: a\n\n")];
    const BREAK: &[Step] = &[Step::Data("data: a\n\n"), Step::Wait(secs(3)), Step::Data("data: b\n\n")];
    for (steps, told) in [
        (THINKS, &[&format!("+0s {RETRY}") as &str, "+3s data: a\n\n", "+3s end"][..]),
        // Once data has come, why one had to wait is no news.
        (BREAK, &["+0s data: a\n\n", "+3s data: b\n\n", "+3s end"][..]),
    ] {
        let layer = layer().before_headers(Duration::MAX);
        let service = ServiceBuilder::new().layer(layer).layer(retry()).service(busy_at_first(steps));
        let start = tokio::time::Instant::now();
        let response = service.oneshot(to("/v1/responses")).await.unwrap();
        assert_eq!(start.elapsed(), secs(20));
        assert_eq!(text(response).await, told);
    }
}

#[tokio::test(start_paused = true)]
async fn ollamas_lines_have_notices_for_which_they_begin_without_heartbeats() {
    const FIRST: &str = "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"a\"},\"done\":false}\n";
    const LAST: &str = "{\"model\":\"m\",\"done\":true}\n";
    const LINES: &[Step] = &[Step::Wait(secs(3)), Step::Data(FIRST), Step::Wait(secs(200)), Step::Data(LAST)];
    const NOTICE: &str = "{\"model\":\"\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":false,\
                          \"x_notice\":{\"type\":\"retry\",\"message\":\"Again in 0 s.\"}}\n";
    let upstream = || {
        ServiceExt::<Request<CallBody>>::map_response(busy_at_first(LINES), |mut response: Response<Script>| {
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/x-ndjson"));
            response
        })
    };
    let ask = |streams: bool| {
        let mut request = asked();
        *request.uri_mut() = http::Uri::from_static("/api/chat");
        if streams {
            request.extensions_mut().insert(ExpectsEventStream);
        }
        request
    };
    let service = ServiceBuilder::new().layer(layer()).layer(retry());
    let response = service.clone().service(upstream()).oneshot(ask(true)).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    assert!(response.extensions().get::<HeadersSentEarly>().is_some());
    let told = text(response).await;
    let expected = [format!("+5s {NOTICE}"), format!("+18s {FIRST}"), format!("+218s {LAST}"), "+218s end".to_owned()];
    assert_eq!(told, expected);

    // Where it is not known that lines are wanted, the head waits for the answer's.
    let response = service.clone().service(upstream()).oneshot(ask(false)).await.unwrap();
    assert!(response.extensions().get::<HeadersSentEarly>().is_none());
    assert_eq!(text(response).await[..2], [format!("+0s {NOTICE}"), format!("+3s {FIRST}")]);

    // What fails once the head was sent is told in a line, which Ollama's clients raise.
    let refused = service_fn(|_: Request<CallBody>| async {
        tokio::time::sleep(secs(10)).await;
        let response = Response::builder().status(400).body(Script::new([Step::Data("no")]).unsized_());
        Ok::<_, Infallible>(response.unwrap())
    });
    let told = text(service.service(refused).oneshot(ask(true)).await.unwrap()).await;
    assert_eq!(told[0], "+5s {\"error\":\"The upstream answered 400 where a stream was expected.\"}\n");
    assert!(told[1].starts_with("+5.05s error"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn there_are_none_by_default_and_none_where_the_operator_has_no_text() {
    let silent = SseHeartbeatLayer::new(secs(100)).before_headers(secs(5));
    for layer in [silent.clone(), silent.notices(|_, _| None), layer().notices(|_, _| Some(" \n".to_owned()))] {
        let service = ServiceBuilder::new().layer(layer).layer(retry()).service(busy_at_first(A));
        let response = service.oneshot(to("/v1/responses")).await.unwrap();
        assert_eq!(text(response).await, ["+0s : keepalive\n\n", "+15s data: a\n\n", "+15s end"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_backup_and_a_queue_are_notices_too() {
    let backup = FallbackLayer::new(busy_at_first(A)).name("small").own_credentials(true);
    let down = service_fn(|_: Request<CallBody>| async {
        tokio::time::sleep(secs(10)).await;
        Err::<Response<Script>, _>(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    });
    let service = ServiceBuilder::new().layer(layer()).layer(backup).service(down);
    let notice = "+5s : notice {\"type\":\"fallback\",\"message\":\"Now small. It is faster.\"}\n\n";
    let told = text(service.oneshot(to("/v1/responses")).await.unwrap()).await;
    assert_eq!(told[..2], ["+0s : keepalive\n\n", notice]);

    // The first call holds the only place for 10 s.
    let queue = QueueLayer::new(1);
    let thinks = service_fn(|_: Asked| async {
        tokio::time::sleep(secs(10)).await;
        Ok::<_, Infallible>(events(Script::new(A.iter().cloned()).unsized_()))
    });
    let service = ServiceBuilder::new().layer(layer()).layer(queue).service(thinks);
    let (first, second) =
        tokio::join!(async { text(service.clone().oneshot(to("/v1/responses")).await.unwrap()).await }, async {
            text(service.clone().oneshot(to("/v1/responses")).await.unwrap()).await
        },);
    assert_eq!(first, ["+0s : keepalive\n\n", "+5s data: a\n\n", "+5s end"]);
    let notice = "+0s : notice {\"type\":\"queue\",\"message\":\"Busy.\"}\n\n";
    assert_eq!(second, ["+0s : keepalive\n\n", notice, "+15s data: a\n\n", "+15s end"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_rate_limit_gets_the_time_as_a_notice() {
    let pace = PaceLayer::new().requests(Rate::per_minute(3));
    let answers =
        service_fn(|_: Asked| async { Ok::<_, Infallible>(events(Script::new(A.iter().cloned()).unsized_())) });
    let service = ServiceBuilder::new().layer(layer()).layer(pace).service(answers);
    let first = text(service.clone().oneshot(to("/v1/responses")).await.unwrap()).await;
    assert_eq!(first, ["+0s data: a\n\n", "+0s end"]);
    let second = text(service.oneshot(to("/v1/responses")).await.unwrap()).await;
    let notice = "+0s : notice {\"type\":\"pace\",\"message\":\"In 20 s.\"}\n\n";
    assert_eq!(second, ["+0s : keepalive\n\n", notice, "+15s data: a\n\n", "+15s end"]);
}

/// Says to each call that its turn comes in 20 s.
struct Busy;

impl PacePeers for Busy {
    fn on_new(&self, _: PeerLimit) {}

    fn on_pause(&self, _: PeerLimit, _: PeerPause) {}

    fn shares_rates(&self) -> bool {
        true
    }

    fn reserve(&self, _: PeerLimit, _: Vec<RateCost>, _: Duration, _: Duration) -> PeerReserving {
        Box::pin(std::future::ready(PeerTurn::go(secs(20))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_turn_in_a_fleet_gets_the_time_as_a_notice() {
    let pace = PaceLayer::new().requests(Rate::per_minute(3)).share(Arc::new(Busy));
    let answers =
        service_fn(|_: Asked| async { Ok::<_, Infallible>(events(Script::new(A.iter().cloned()).unsized_())) });
    let service = ServiceBuilder::new().layer(layer()).layer(pace).service(answers);
    let told = text(service.oneshot(to("/v1/responses")).await.unwrap()).await;
    let notice = "+0s : notice {\"type\":\"pace\",\"message\":\"In 20 s.\"}\n\n";
    assert_eq!(told, ["+0s : keepalive\n\n", notice, "+15s data: a\n\n", "+15s end"]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_joins_a_call_gets_no_notice_of_that() {
    let service =
        ServiceBuilder::new().layer(layer()).layer(DedupLayer::new()).layer(retry()).service(busy_at_first(A));
    let request = || {
        let mut request = to("/v1/responses");
        *request.method_mut() = http::Method::POST;
        request.headers_mut().insert("idempotency-key", HeaderValue::from_static("1"));
        request.extensions_mut().insert(Tenant::new("a"));
        request
    };
    let (leader, follower) =
        tokio::join!(async { text(service.clone().oneshot(request()).await.unwrap()).await }, async {
            text(service.clone().oneshot(request()).await.unwrap()).await
        },);
    assert_eq!(leader, ["+0s : keepalive\n\n", &format!("+5s {RETRY}"), "+15s data: a\n\n", "+15s end"]);
    assert_eq!(follower, ["+0s : keepalive\n\n", "+15s data: a\n\n", "+15s end"]);
}

#[tokio::test(start_paused = true)]
async fn a_notice_is_no_sign_of_life_of_the_upstream() {
    let layer = layer().max_silence(secs(12));
    let service = ServiceBuilder::new().layer(layer).layer(retry()).service(busy_at_first(A));
    let told = text(service.oneshot(to("/v1/responses")).await.unwrap()).await;
    assert_eq!(told[1], format!("+5s {RETRY}"));
    assert!(told[2].starts_with("+12s event: error\n"), "{told:?}");
}

#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn a_stream_that_goes_on_behind_a_cut_says_so_between_its_events() {
    use http_body_util::BodyExt;

    let answers = Arc::<AtomicU32>::default();
    let upstream = service_fn(move |_: Request<CallBody>| {
        let first = answers.fetch_add(1, SeqCst) == 0;
        async move {
            tokio::time::sleep(secs(1)).await;
            let steps = if first {
                [Step::Data("id: 1\ndata: a\n\n"), Step::Fail("cut")]
            } else {
                [Step::Data("id: 2\ndata: b\n\n"), Step::Hang]
            };
            Ok::<_, std::io::Error>(events(Script::new(steps).unsized_()))
        }
    });
    let layer = SseHeartbeatLayer::new(secs(100)).notices(|notice, _| Some(notice.name().to_owned()));
    let service = ServiceBuilder::new().layer(layer).layer(tower_buttress::ResumeLayer::new()).service(upstream);
    let mut body = service.oneshot(to("/events")).await.unwrap().into_body();
    let mut text = String::new();
    while !text.contains("data: b") {
        text.push_str(std::str::from_utf8(body.frame().await.unwrap().unwrap().data_ref().unwrap()).unwrap());
    }
    let notice = ": notice {\"type\":\"resume\",\"message\":\"resume\"}\n";
    assert_eq!(text, format!("id: 1\ndata: a\n\n{notice}id: 2\ndata: b\n\n"));
}
