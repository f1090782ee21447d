//! Answers that are no stream.

use http::Method;
use http_body::Body;
use http_body_util::BodyExt;
use tower_buttress::error::{UpstreamError, find};
use tower_buttress::proto::dialect::End;
use tower_buttress::{Ending, Rejection, RejectionKind, StreamGuardLayer, TimeoutProfile};

use super::{Answer, CHAT, ask, post, read, status_and_code};
use crate::support::Step::{self, Data, Fail, Wait};
use crate::support::secs;

const WHOLE: &str = r#"{"choices":[{"index":0,"message":{"content":"a"},"finish_reason":"stop"}],"error":null}"#;

#[tokio::test(start_paused = true)]
async fn a_whole_answer_passes_byte_for_byte() {
    let response = post(
        CHAT,
        Answer::of(200, "application/json", [Data("\n\n"), Wait(secs(9)), Data(&WHOLE[..20]), Data(&WHOLE[20..])]),
    )
    .await;
    assert_eq!(Ending::of(&response).unwrap().get(), Some(End::Whole));
    assert_eq!(read(response).await.0, ["\n\n", WHOLE].concat());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_cut_at_a_limit_passes_and_its_ending_says_so() {
    let limited = WHOLE.replace("stop", "length").leak();
    let response = post(CHAT, Answer::json(200, limited)).await;
    assert_eq!(Ending::of(&response).unwrap().get(), Some(End::Limit));
}

#[tokio::test(start_paused = true)]
async fn an_error_inside_of_a_200_is_a_refusal_with_its_own_words() {
    let error =
        r#"{"error":{"code":502,"message":"Provider returned error","metadata":{"provider_name":"x"}},"user_id":"u"}"#;
    let response = post(CHAT, Answer::json(200, error)).await;
    assert_eq!(response.status(), 502);
    assert_eq!(Rejection::of(&response).unwrap().kind(), RejectionKind::UpstreamFailed);
    assert_eq!(read(response).await.0, error);
    let overloaded = r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#;
    assert_eq!(
        status_and_code(&post("/v1/messages", Answer::json(200, overloaded)).await),
        Some((529, "overloaded_error".to_owned()))
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_that_no_client_finds_in_an_answer_is_sent_in_a_form_that_they_do() {
    let chat = r#"{"choices":[{"index":0,"finish_reason":"error","error":{"code":502,"message":"gone"}}]}"#;
    let gemini = r#"{"candidates":[{"finishReason":"OTHER","finishMessage":"gone"}]}"#;
    let cohere = r#"{"finish_reason":"ERROR","error":"gone","message":{"role":"assistant"}}"#;
    let cloudflare = r#"{"success":false,"errors":[{"code":7003,"message":"gone"}]}"#;
    for (path, answer, beginning) in [
        (CHAT, chat, "{\"error\":{"),
        (CHAT, cloudflare, "{\"error\":{"),
        ("/v1beta/models/g:generateContent", gemini, "{\"error\":{\"code\":502,\"message\":\"gone\""),
        ("/v2/chat", cohere, "{\"message\":\"gone\"}"),
    ] {
        let response = post(path, Answer::json(200, answer)).await;
        assert_eq!(response.status(), 502);
        let (body, _) = read(response).await;
        assert!(body.starts_with(beginning) && body.contains("\"message\":\"gone\""), "{body}");
        assert!(!body.contains("choices") && !body.contains("errors"), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_cut_is_a_refusal() {
    for body in ["", "\n", &WHOLE[..30]] {
        assert_eq!(post(CHAT, Answer::of(200, "application/json", [Data(body)])).await.status(), 502, "{body:?}");
    }
    let failed = post(CHAT, Answer::of(200, "application/json", [Data(&WHOLE[..30]), Fail("reset")])).await;
    assert_eq!(Rejection::of(&failed).unwrap().kind(), RejectionKind::BodyFailed);
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_streams_on_and_is_judged_at_its_end() {
    let long = "x".repeat(300_000).leak();
    let head = r#"{"choices":[{"index":0,"message":{"content":""#;
    let tail = r#""},"finish_reason":"length"}]}"#;
    let response =
        post(CHAT, Answer::of(200, "application/json", [Data(head), Data(long), Wait(secs(9)), Data(tail)])).await;
    let ending = Ending::of(&response).unwrap().clone();
    assert_eq!(ending.get(), None);
    let (text, error) = read(response).await;
    assert_eq!((text, error.is_none()), ([head, long, tail].concat(), true));
    assert_eq!(ending.get(), Some(End::Limit));
    let cut = post(CHAT, Answer::of(200, "application/json", [Data(head), Data(long)])).await;
    assert!(read(cut).await.1.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_keeps_its_length_and_is_judged_before_its_last_byte() {
    let long: &'static str = "x".repeat(300_000).leak();
    let head = r#"{"choices":[{"index":0,"message":{"content":""#;
    let tail = r#""},"finish_reason":"stop"}]}"#;
    for (last, whole) in [(tail, true), (&tail[..tail.len() - 1], false)] {
        let length: &'static str = (head.len() + long.len() + last.len()).to_string().leak();
        let answer = Answer::of(200, "application/json", [Data(head), Data(long), Wait(secs(9)), Data(last)]);
        let answer = answer.header("content-length", length).sized();
        let response = post(CHAT, answer).await;
        assert_eq!((response.headers()["content-length"].to_str().unwrap(), response.status().as_u16()), (length, 200));
        let ending = Ending::of(&response).unwrap().clone();
        let mut body = response.into_body();
        assert_eq!(body.size_hint().exact(), length.parse().ok());
        let (mut read, mut error) = (0, None);
        // As a server: it reads nothing behind the last byte.
        while body.size_hint().exact() != Some(0) && error.is_none() {
            match body.frame().await.unwrap() {
                Ok(frame) => read += frame.into_data().unwrap().len(),
                Err(err) => error = Some(err),
            }
        }
        assert_eq!((error.is_none(), read == length.parse::<usize>().unwrap()), (whole, whole));
        assert_eq!(ending.get(), whole.then_some(End::Whole));
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_that_is_an_error_does_not_end_cleanly() {
    let long: &str = "x".repeat(300_000).leak();
    let head = r#"{"output":[{"type":"message","content":[{"type":"output_text","text":""#;
    for (tail, fails) in [
        (r#""}]}],"status":"failed","error":{"code":"server_error","message":"x"}}"#, true),
        (r#""}]}],"status":"completed","error":null}"#, false),
    ] {
        let answer = Answer::of(200, "application/json", [Data(head), Data(long), Data(tail)]);
        let response = post("/v1/responses", answer).await;
        let ending = Ending::of(&response).unwrap().clone();
        let (text, error) = read(response).await;
        assert_eq!((text, error.is_some()), ([head, long, tail].concat(), fails));
        assert_eq!(ending.get(), (!fails).then_some(End::Whole));
        assert!(error.is_none_or(|error| find::<UpstreamError>(&error).unwrap().code() == Some("server_error")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_has_no_digest_of_what_it_stands_for() {
    let error = r#"{"error":{"code":502,"message":"Provider returned error"}}"#;
    let answer = Answer::json(200, error).header("content-digest", "sha-256=:x:").header("x-request-id", "1");
    let response = post(CHAT, answer).await;
    assert!(response.status() == 502 && response.headers()["x-request-id"] == "1");
    assert!(!response.headers().contains_key("content-digest"));
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_whole_or_refused() {
    let long: &str = "x".repeat(300_000).leak();
    let (head, tail) = (r#"{"choices":[{"index":0,"message":{"content":""#, r#""},"finish_reason":"stop"}]}"#);
    let hold = |max, steps: Vec<Step>| {
        let layer = StreamGuardLayer::new().hold(max);
        ask(layer, Method::POST, CHAT, Answer::of(200, "application/json", steps))
    };
    let whole = || vec![Data(head), Data(long), Wait(secs(9)), Data(tail)];
    let response = hold(400_000, whole()).await;
    assert_eq!(Ending::of(&response).unwrap().get(), Some(End::Whole));
    assert_eq!(read(response).await.0, [head, long, tail].concat());
    assert_eq!(hold(400_000, vec![Data(head), Data(long)]).await.status(), 502);
    let failed = hold(400_000, vec![Data(head), Data(long), Fail("reset")]).await;
    assert_eq!(Rejection::of(&failed).unwrap().kind(), RejectionKind::BodyFailed);
    assert_eq!(status_and_code(&hold(270_000, whole()).await), Some((502, "answer_too_large".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn other_answers_are_not_judged() {
    let job = r#"{"id":"job_1","status":"running","error":{"message":"none so far"},"open":["#;
    for (method, path) in [(Method::GET, CHAT), (Method::POST, "/v1/jobs"), (Method::GET, "/v1/responses/resp_1")] {
        let response = ask(StreamGuardLayer::new(), method, path, Answer::json(200, job)).await;
        assert_eq!(response.status(), 200);
        assert!(Ending::of(&response).is_none());
        assert_eq!(read(response).await.0, job);
    }
    for body in [r#"{"id":"x","error":{}}"#, r#"{"choices":[],"error":null}"#, "plain {"] {
        assert_eq!(read(post(CHAT, Answer::json(200, body)).await).await.0, body);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_compressed_passes_unread() {
    let answer = Answer::json(200, &WHOLE[..30]).header("content-encoding", "gzip");
    assert_eq!(read(post(CHAT, answer).await).await.0, &WHOLE[..30]);
}

const GEMINI: &str = "/v1beta/models/gemini:streamGenerateContent";
const PART: &str = "[{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}\n";
const LAST: &str = ",\n{\"candidates\":[{\"content\":{\"parts\":[]},\"finishReason\":\"STOP\"}]}\n]\n";

#[tokio::test(start_paused = true)]
async fn an_array_of_gemini_streams() {
    let steps = [Data("\n"), Data(PART), Wait(secs(5)), Data(LAST)];
    let response = post(GEMINI, Answer::of(200, "application/json", steps)).await;
    let ending = Ending::of(&response).unwrap().clone();
    assert_eq!(ending.get(), None, "it was handed on before its end");
    assert_eq!(read(response).await.0, ["\n", PART, LAST].concat());
    assert_eq!(ending.get(), Some(End::Whole));
    let (text, error) = read(post(GEMINI, Answer::of(200, "application/json", [Data(PART)])).await).await;
    assert_eq!((text.as_str(), error.is_some()), (PART, true));
    let error = "[{\"error\":{\"code\":503,\"message\":\"x\",\"status\":\"UNAVAILABLE\"}}]";
    assert_eq!(status_and_code(&post(GEMINI, Answer::json(200, error)).await), Some((503, "UNAVAILABLE".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_profile_with_a_longer_wait_counts_for_an_array_too() {
    use tower::{Layer, ServiceExt, service_fn};

    let mut patient = TimeoutProfile::EXTENDED_THINKING;
    patient.first_byte = secs(200);
    for (profile, status) in [(None, 504), (Some(patient), 200)] {
        let upstream = service_fn(|_: http::Request<()>| async {
            let steps = [Data("["), Wait(secs(100)), Data(&PART[1..]), Data(LAST)];
            Ok::<_, std::convert::Infallible>(Answer::of(200, "application/json", steps).response())
        });
        let mut request = http::Request::post(GEMINI).body(()).unwrap();
        if let Some(profile) = profile {
            request.extensions_mut().insert(profile);
        }
        let response = StreamGuardLayer::new().layer(upstream).oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
    }
}

#[tokio::test(start_paused = true)]
async fn lines_of_ollama_are_a_stream() {
    let line = "{\"model\":\"m\",\"message\":{\"content\":\"a\"},\"done\":false}\n";
    let done = "{\"model\":\"m\",\"message\":{\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\"}\n";
    let lines = |steps: Vec<Step>| post("/api/chat", Answer::of(200, "application/x-ndjson", steps));
    assert!(read(lines(vec![Data(line), Data(done)]).await).await.1.is_none());
    assert!(read(lines(vec![Data(line)]).await).await.1.is_some());
    let (text, error) = read(lines(vec![Data(line), Data("{\"error\":\"runner stopped\"}\n")]).await).await;
    assert_eq!((text.as_str(), error.is_some()), (line, true));
    assert_eq!(lines(vec![Data("{\"error\":\"x\"}\n")]).await.status(), 502);
}
