//! Beside other layers.

use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::{
    Ending, FallbackLayer, IdleActivity, IdleBodyTimeoutLayer, MissingEnd, PinTo, ResumeBy, ResumeLayer,
    SseHeartbeatLayer, StreamGuardLayer, TimeoutProfile, presets, proto::dialect::End,
};

use super::{Answer, ONE, THREE, TWO, Upstream, events, post, read, stream};
use crate::support::Step::{Data, Fail, Hang, Wait};
use crate::support::{Log, secs, trace};

const CREATED: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_1\",\"background\":true,\"model\":\"m\"}}\n\n";
const HELLO: &str = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"delta\":\"hello\"}\n\n";
const WORLD: &str = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":2,\"delta\":\" world\"}\n\n";
const COMPLETED: &str = "event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":3,\"response\":{\"id\":\"resp_1\",\"status\":\"completed\"}}\n\n";

#[tokio::test(start_paused = true)]
async fn what_the_backup_began_goes_on_at_the_backup() {
    for forward in [true, false] {
        let primary = Upstream::new([Answer::Status(503, "down")]);
        let backup = Upstream::new([stream([Data(ONE), Data(TWO), Fail("cut")]), stream([Data(THREE)])]);
        let (asked_first, asked_then) = (primary.clone(), backup.clone());
        let service = ServiceBuilder::new()
            .layer(ResumeLayer::new())
            .layer(
                FallbackLayer::new(service_fn(move |request| backup.clone().answer(request)))
                    .name("eu-west")
                    .forward_credentials(forward)
                    .own_credentials(!forward),
            )
            .service(service_fn(move |request| primary.clone().answer(request)));
        let (text, error) = read(service.oneshot(events("/events")).await.unwrap()).await;
        assert_eq!((text, error.map(|err| err.to_string())), ([ONE, TWO, THREE].concat(), None));
        assert_eq!((asked_first.asked().len(), asked_then.asked().len()), (1, 2), "the primary is not asked for it");
        let asked = asked_then.asked();
        assert_eq!(
            (&asked[1].headers["last-event-id"], &asked[1].pin),
            (&"2".parse().unwrap(), &Some(PinTo::primary()))
        );
        // The rest is asked for with the credentials that the answer was asked for with.
        assert!(asked.iter().all(|asked| asked.headers.contains_key("authorization") == forward));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_primary_began_is_not_asked_of_the_backup() {
    let primary =
        Upstream::new([stream([Data(ONE), Fail("cut")]), Answer::Status(500, "x"), Answer::Lost, Answer::Lost]);
    let backup = Upstream::new([]);
    let asked = primary.clone();
    let service = ServiceBuilder::new()
        .layer(ResumeLayer::new())
        .layer(FallbackLayer::new(service_fn(move |request| backup.clone().answer(request))).own_credentials(true))
        .service(service_fn(move |request| primary.clone().answer(request)));
    let (text, error) = read(service.oneshot(events("/events")).await.unwrap()).await;
    assert_eq!((text.as_str(), error.map(|err| err.to_string()).as_deref()), (ONE, Some("cut")));
    assert_eq!(asked.asked().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stalls_goes_on_and_its_reader_gets_heartbeats_meanwhile() {
    let upstream = Upstream::new([
        stream([Data(ONE), Data(TWO), Hang]),
        // A server that is down for a while, and then slow to answer.
        Answer::Status(429, "x"),
        stream([Wait(secs(12)), Data(THREE)]),
    ]);
    let service = ServiceBuilder::new()
        .layer(SseHeartbeatLayer::new(secs(5)))
        .layer(ResumeLayer::new())
        .layer(IdleBodyTimeoutLayer::new(secs(20)).activity(IdleActivity::SseEvents))
        .service(service_fn(move |request| upstream.clone().answer(request)));
    let response = service.oneshot(events("/events")).await.unwrap();
    let trace = trace(response.into_body()).await;
    let beat = |at: u32| format!("+{at}s : keepalive\n");
    let expected = [
        format!("+0s {ONE}"),
        format!("+0s {TWO}"),
        beat(5),
        beat(10),
        beat(15),
        beat(20),
        beat(25),
        beat(30),
        format!("+34s {THREE}"),
        "+34s end".to_owned(),
    ];
    assert_eq!(trace, expected);
}

#[tokio::test(start_paused = true)]
async fn the_guard_tells_what_is_cut_and_the_ending_is_that_of_the_whole() {
    let first = stream([Data(CREATED), Data(HELLO)]);
    let upstream = Upstream::new([first, stream([Data(WORLD), Data(COMPLETED)])]);
    let service = ServiceBuilder::new()
        .layer(ResumeLayer::new())
        .layer(StreamGuardLayer::new())
        .service(service_fn(move |request| upstream.clone().answer(request)));
    let response = service.oneshot(post("/v1/responses", "{}")).await.unwrap();
    let ending = Ending::of(&response).unwrap().clone();
    let (text, error) = read(response).await;
    assert_eq!((text, error.map(|err| err.to_string())), ([CREATED, HELLO, WORLD, COMPLETED].concat(), None));
    assert_eq!(ending.get(), Some(End::Whole));
}

/// The guard of the first answer does not see whether the rest has ids.
#[tokio::test(start_paused = true)]
async fn heartbeats_within_the_rest_take_no_place_for_granted() {
    let rest = stream([Data(WORLD), Wait(secs(20)), Data(COMPLETED)]);
    let upstream = Upstream::new([stream([Data(CREATED), Data(HELLO), Wait(secs(20))]), rest]);
    let service = ServiceBuilder::new()
        .layer(SseHeartbeatLayer::new(secs(15)))
        .layer(ResumeLayer::new())
        .layer(StreamGuardLayer::new())
        .service(service_fn(move |request| upstream.clone().answer(request)));
    let trace = trace(service.oneshot(post("/v1/responses", "{}")).await.unwrap().into_body()).await;
    let beats: Vec<&String> = trace.iter().filter(|event| event.contains("keepalive")).collect();
    assert_eq!(beats, ["+15s : keepalive\n\n", "+35s : keepalive\n"], "{trace:?}");
}

/// A comment would break Gemini's clients.
#[tokio::test(start_paused = true)]
async fn heartbeats_within_the_rest_are_those_of_its_dialect() {
    const HEL: &str = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hel\"}],\"role\":\"model\"},\"index\":0}],\"modelVersion\":\"m\",\"responseId\":\"r\"}\n\n";
    const LO: &str = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"lo\"}],\"role\":\"model\"},\"finishReason\":\"STOP\",\"index\":0}],\"modelVersion\":\"m\",\"responseId\":\"r\"}\n\n";
    let upstream = Upstream::new([stream([Data(HEL), Fail("cut")]), stream([Wait(secs(20)), Data(HEL), Data(LO)])]);
    let service = ServiceBuilder::new()
        .layer(SseHeartbeatLayer::new(secs(15)))
        .layer(ResumeLayer::new().verified_restart(true))
        .layer(StreamGuardLayer::new())
        .service(service_fn(move |request| upstream.clone().answer(request)));
    let request = post("/v1beta/models/g:streamGenerateContent?alt=sse", "{}");
    let trace = trace(service.oneshot(request).await.unwrap().into_body()).await;
    assert!(trace.iter().any(|event| event == "+15s \n"), "{trace:?}");
    assert!(!trace.iter().any(|event| event.contains("s :")), "{trace:?}");
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_an_answer_may_be_its_marker_alone() {
    const A: &str = "id: 1\ndata: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n";
    const DONE: &str = "data: [DONE]\n\n";
    let upstream = Upstream::new([stream([Data(A), Fail("cut")]), stream([Data(DONE)])]);
    let service = ServiceBuilder::new()
        .layer(ResumeLayer::new().resume_by(ResumeBy::sse_id().resend(true)))
        .layer(StreamGuardLayer::new().missing_end(MissingEnd::Error))
        .service(service_fn(move |request| upstream.clone().answer(request)));
    let (text, error) = read(service.oneshot(post("/v1/chat/completions", "{}")).await.unwrap()).await;
    assert_eq!((text, error.map(|err| err.to_string())), ([A, DONE].concat(), None));
}

#[tokio::test(start_paused = true)]
async fn an_error_that_the_answer_itself_ends_with_is_returned() {
    const FAILED: &str = "event: response.failed\ndata: {\"type\":\"response.failed\",\"sequence_number\":2,\"response\":{\"id\":\"resp_1\",\"status\":\"failed\",\"error\":{\"code\":\"server_error\",\"message\":\"x\"}}}\n\n";
    let upstream = Upstream::new([stream([Data(CREATED), Data(HELLO), Data(FAILED)]), stream([Data(FAILED)])]);
    let asked = upstream.clone();
    let service = ServiceBuilder::new()
        .layer(ResumeLayer::new())
        .layer(StreamGuardLayer::new())
        .service(service_fn(move |request| upstream.clone().answer(request)));
    let (text, error) = read(service.oneshot(post("/v1/responses", "{}")).await.unwrap()).await;
    assert_eq!(text, [CREATED, HELLO].concat());
    assert!(tower_buttress::error::find::<tower_buttress::error::UpstreamError>(&error.unwrap()).is_some());
    assert_eq!(asked.asked().len(), 2, "it is heard once more, and then believed");
}

#[tokio::test(start_paused = true)]
async fn the_presets_for_models_go_on() {
    let log = Arc::new(Log::default());
    for preset in [presets::llm_client(TimeoutProfile::STANDARD), presets::llm_gateway(TimeoutProfile::STANDARD)] {
        let upstream =
            Upstream::new([stream([Data(CREATED), Data(HELLO), Fail("cut")]), stream([Data(WORLD), Data(COMPLETED)])]);
        let service = preset.observer(log.clone()).layer(service_fn(move |request| upstream.clone().answer(request)));
        let request =
            http::Request::post("/v1/responses").body(Full::<bytes::Bytes>::from("{\"stream\":true}")).unwrap();
        let body = service.oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, [CREATED, HELLO, WORLD, COMPLETED].concat());
    }
    assert_eq!(log.names().iter().filter(|name| *name == "stream_resumed: cursor").count(), 2);
    let off = presets::llm_client(TimeoutProfile::STANDARD).resume(|_| ResumeLayer::disabled());
    let upstream = Upstream::new([stream([Data(CREATED), Data(HELLO), Fail("cut")])]);
    let service = off.layer(service_fn(move |request| upstream.clone().answer(request)));
    let request = http::Request::post("/v1/responses").body(Full::<bytes::Bytes>::from("{\"stream\":true}")).unwrap();
    assert!(service.oneshot(request).await.unwrap().into_body().collect().await.is_err());
}

/// A server that has forgotten the stream answers so, too.
#[tokio::test(start_paused = true)]
async fn a_marker_alone_does_not_make_a_cut_answer_whole() {
    const A: &str =
        "id: 1\ndata: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    const UNKNOWN: &str = "id: 1\ndata: a\n\n";
    for (path, first) in [("/v1/chat/completions", A), ("/unknown", UNKNOWN)] {
        let upstream = Upstream::new([stream([Data(first), Fail("cut")]), stream([Data("data: [DONE]\n\n")])]);
        let service = ServiceBuilder::new()
            .layer(ResumeLayer::new().resume_by(ResumeBy::sse_id().resend(true)))
            .service(service_fn(move |request| upstream.clone().answer(request)));
        let (text, error) = read(service.oneshot(post(path, "{}")).await.unwrap()).await;
        assert_eq!((text, error.map(|err| err.to_string())), (first.to_owned(), Some("cut".to_owned())), "{path}");
    }
}
