//! Before the first content.

use http::Method;
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower_buttress::error::{FirstContentElapsed, StreamTruncated, UpstreamError, find};
use tower_buttress::verdict::{Classify, Outcome, Standard};
use tower_buttress::{Rejection, RejectionKind, StreamGuardLayer, TimeoutProfile};

use super::{Answer, CHAT, DONE, HELLO, OVERLOADED, ROLE, STOP, ask, chat, post, read, status_and_code};
use crate::support::Step::{Data, Fail, Hang, Trailers, Wait};
use crate::support::{secs, trace};

#[tokio::test(start_paused = true)]
async fn an_error_before_content_is_a_refusal_with_its_status() {
    for before in [&[][..], &[Data(": ping\n\n")], &[Data(ROLE)], &[Data(": a\n\n"), Data(ROLE), Data(": b\n\n")]] {
        let steps = before.iter().cloned().chain([Data(OVERLOADED), Data(DONE)]);
        let response = chat(steps).await;
        assert_eq!(status_and_code(&response), Some((529, "overloaded_error".to_owned())));
        assert_eq!(response.headers()["content-type"], "application/json");
        let length = response.headers()["content-length"].to_str().unwrap().parse::<usize>().unwrap();
        let (body, error) = read(response).await;
        assert_eq!(body, "{\"error\":{\"message\":\"Overloaded\",\"type\":\"overloaded_error\",\"code\":null}}");
        assert_eq!((body.len(), error.is_none()), (length, true));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_is_cut_into_pieces_is_one_too() {
    let bytes = OVERLOADED.as_bytes().chunks(1).map(|byte| Data(std::str::from_utf8(byte).unwrap()));
    assert_eq!(
        status_and_code(&chat([Data(ROLE)].into_iter().chain(bytes)).await),
        Some((529, "overloaded_error".to_owned()))
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_without_the_end_of_its_line_is_one_too() {
    let body = "{\"error\":{\"message\":\"x\",\"code\":\"insufficient_quota\"}}";
    let pretty = "{\n  \"error\": {\n    \"message\": \"x\",\n    \"code\": \"insufficient_quota\"\n  }\n}";
    let field = "error: {\"message\":\"x\",\"code\":\"insufficient_quota\"}";
    for (text, own) in [(body, body), (pretty, pretty), (field, ""), (["data: ", body].concat().leak(), body)] {
        for end in ["", "\n"] {
            let response = chat([Data(text), Data(end)].into_iter().filter(|step| !matches!(step, Data("")))).await;
            assert_eq!(status_and_code(&response), Some((429, "insufficient_quota".to_owned())), "{text}{end}");
            assert!(read(response).await.0.starts_with(own), "{text}{end}");
        }
        let error = read(chat([Data(HELLO), Data(text)]).await).await.1.unwrap();
        assert_eq!(find::<UpstreamError>(&error).unwrap().code(), Some("insufficient_quota"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_is_spent_after_the_start_is_seen() {
    let created = "data: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"status\":\"in_progress\"}}\n\n";
    let failed = "data: {\"type\":\"error\",\"code\":\"insufficient_quota\",\"message\":\"You\",\"param\":null}\n\n";
    let response = post("/v1/responses", Answer::stream([Data(created), Data(failed)])).await;
    assert_eq!(status_and_code(&response), Some((429, "insufficient_quota".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn when_to_come_back_is_said() {
    let limited = "data: {\"error\":{\"message\":\"Please try again in 7s\",\"code\":\"rate_limit_exceeded\"}}\n\n";
    let response = chat([Data(limited)]).await;
    assert_eq!(response.headers()["retry-after"], "7");
    assert_eq!(Rejection::of(&response).unwrap().retry_after(), Some(secs(7)));
    let hint = |response| Standard::new().classify(&Outcome::head(response)).retry_after().unwrap();
    assert!(hint(&response).is_advice(), "a wait in prose shortens none");
    let answer = Answer::stream([Data(limited)]).header("retry-after", "3");
    let after = hint(&post(CHAT, answer).await);
    assert_eq!((after.is_advice(), after.wait(std::time::SystemTime::UNIX_EPOCH)), (false, secs(3)));
}

#[tokio::test(start_paused = true)]
async fn what_the_head_said_beside_is_kept() {
    let answer = Answer::stream([Data(OVERLOADED)]).header("x-request-id", "req_1").header("cache-control", "no-cache");
    let response = post(CHAT, answer).await;
    assert_eq!(response.headers()["x-request-id"], "req_1");
    assert!(!response.headers().contains_key("cache-control"));
}

#[tokio::test(start_paused = true)]
async fn a_clean_end_before_content_is_a_refusal() {
    for steps in [vec![], vec![Data(ROLE)], vec![Data(DONE)], vec![Data(ROLE), Data(DONE)], vec![Data("data: {\"choi")]]
    {
        let response = chat(steps).await;
        assert_eq!(response.status(), 502);
        let rejection = Rejection::of(&response).unwrap();
        assert_eq!(rejection.kind(), RejectionKind::UpstreamFailed);
        assert!(find::<StreamTruncated>(rejection as &(dyn std::error::Error + 'static)).is_some());
        assert!(read(response).await.0.contains("\"code\":\"stream_truncated\""));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_before_content_is_a_refusal() {
    let response = chat([Data(ROLE), Fail("reset")]).await;
    assert_eq!(Rejection::of(&response).unwrap().kind(), RejectionKind::BodyFailed);
}

#[tokio::test(start_paused = true)]
async fn a_ping_before_content_is_no_garbage() {
    let content = [HELLO, STOP, DONE].concat().leak();
    for ping in ["event: ping\ndata:\n\n", "event: ping\ndata: 1764201600\n\n", "event: keepalive\ndata: ok\n\n"] {
        let response = chat([Data(ping), Wait(secs(30)), Data(ping), Data(content)]).await;
        let (text, error) = read(response).await;
        assert_eq!((text.as_str(), error.is_none()), ([ping, ping, content].concat().as_str(), true));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_content_is_no_garbage_whatever_stands_behind_its_end() {
    let gemini = "data: {\"candidates\":[{\"content\":{},\"finishReason\":\"STOP\"}]}\n\ndata: [DONE]\n\n";
    let anthropic = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n\
                     event: message_stop\ndata: {\"type\":\"message_stop\"}\n\ndata: [DONE]\n\n";
    for (path, stream) in [("/v1beta/models/g:streamGenerateContent", gemini), ("/v1/messages", anthropic)] {
        let (text, error) = read(post(path, Answer::stream([Data(stream)])).await).await;
        assert_eq!((text.as_str(), error.is_none()), (stream, true));
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_is_a_refusal() {
    let response = chat([Data("data: <html>\n\n"), Hang]).await;
    assert_eq!(status_and_code(&response), Some((502, "invalid_stream".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_content_that_ends_with_a_reason_is_an_answer() {
    let (text, error) = read(chat([Data(ROLE), Data(STOP), Data(DONE)]).await).await;
    assert_eq!((text, error.is_none()), ([ROLE, STOP, DONE].concat(), true));
}

#[tokio::test(start_paused = true)]
async fn the_first_content_is_not_delayed_and_the_rest_streams() {
    let start = Instant::now();
    let response = chat([Data(ROLE), Wait(secs(1)), Data(HELLO), Wait(secs(5)), Data(STOP)]).await;
    assert_eq!(start.elapsed(), secs(1));
    let expected = [format!("+0s {ROLE}"), format!("+0s {HELLO}"), format!("+5s {STOP}"), "+5s end".to_owned()];
    assert_eq!(trace(response.into_body()).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_thinks_for_long_is_let_go_with_its_id() {
    let start = Instant::now();
    let response = chat([Data(ROLE), Wait(secs(60)), Data(HELLO), Data(STOP), Data(DONE)]).await;
    assert_eq!((response.status().as_u16(), start.elapsed()), (200, secs(2)));
    let (text, error) = read(response).await;
    assert_eq!((text, error.is_none()), ([ROLE, HELLO, STOP, DONE].concat(), true));
}

#[tokio::test(start_paused = true)]
async fn comments_do_not_let_a_stream_go() {
    let start = Instant::now();
    let pings = (0..80).flat_map(|_| [Data(": ping\n\n"), Wait(secs(1))]);
    let response = chat(pings.chain([Data(OVERLOADED)])).await;
    assert_eq!(response.status(), 529);
    assert_eq!(start.elapsed(), secs(80));
}

#[tokio::test(start_paused = true)]
async fn pings_are_no_content_for_ever() {
    let start = Instant::now();
    let pings = (0..200).flat_map(|_| [Data(": ping\n\n"), Wait(secs(1))]);
    let response = chat(pings).await;
    assert_eq!(Rejection::of(&response).unwrap().kind(), RejectionKind::FirstByteTimeout);
    assert_eq!((response.status().as_u16(), start.elapsed()), (504, secs(90)));
}

#[tokio::test(start_paused = true)]
async fn the_limit_holds_behind_the_head_too() {
    let ping = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\"}}\n\n";
    let pings = (0..200).flat_map(|_| [Data(ping), Wait(secs(1))]);
    let at = Instant::now();
    let response = post("/v1/messages", Answer::stream([Data(start)].into_iter().chain(pings))).await;
    assert_eq!(response.status(), 200);
    let (_, error) = read(response).await;
    assert_eq!(find::<FirstContentElapsed>(&error.unwrap()).unwrap().after, secs(90));
    assert_eq!(at.elapsed(), secs(90));
}

/// Its timers have passed when it goes on, and are seen before its sockets are.
#[tokio::test(start_paused = true)]
async fn a_process_that_was_suspended_does_not_lose_the_content_that_came_meanwhile() {
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\"}}\n\n";
    let text = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n";
    for (came_after, arrives) in [(400, true), (600, false)] {
        let came = [Wait(secs(200)), Wait(std::time::Duration::from_millis(came_after))];
        let mut call = Box::pin(chat([Data(": ping\n\n")].into_iter().chain(came.clone()).chain([Data(HELLO)])));
        assert!(futures_util::poll!(&mut call).is_pending());
        tokio::time::advance(secs(200)).await;
        assert_eq!(call.await.status() == 200, arrives);

        let steps = [Data(start)].into_iter().chain(came).chain([Data(text)]);
        let mut body = post("/v1/messages", Answer::stream(steps)).await.into_body();
        body.frame().await.unwrap().unwrap();
        assert!(futures_util::poll!(Box::pin(body.frame())).is_pending());
        tokio::time::advance(secs(198)).await;
        assert_eq!(body.frame().await.unwrap().is_ok(), arrives);
    }
}

#[tokio::test(start_paused = true)]
async fn a_profile_with_a_longer_wait_counts() {
    use tower::{Layer, ServiceExt, service_fn};

    let mut profile = TimeoutProfile::EXTENDED_THINKING;
    profile.first_byte = secs(600);
    let upstream = service_fn(|_: http::Request<()>| async {
        let answer = Answer::stream([Data(ROLE), Wait(secs(500)), Data(HELLO), Data(STOP)]);
        Ok::<_, std::convert::Infallible>(answer.response())
    });
    let request = http::Request::post(CHAT).extension(profile).body(()).unwrap();
    let response = StreamGuardLayer::new().layer(upstream).oneshot(request).await.unwrap();
    assert!(read(response).await.1.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_is_withheld_is_bounded() {
    let roles = std::iter::repeat_n(Data(ROLE), 70);
    let response = chat(roles.chain([Hang])).await;
    assert_eq!(response.status(), 200);
    let large = format!(": {}\n\n", "x".repeat(300 * 1024)).leak();
    assert_eq!(chat([Data(large), Hang]).await.status(), 200);
    let pieces = std::iter::repeat_n(Data(":\n"), 1_100);
    assert_eq!(chat(pieces.chain([Hang])).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_whole_or_refused() {
    let hold = |steps: Vec<crate::support::Step>| {
        ask(StreamGuardLayer::new().hold(10_000), Method::POST, CHAT, Answer::stream(steps))
    };
    let start = Instant::now();
    let response = hold(vec![Data(HELLO), Wait(secs(200)), Data(STOP), Data(DONE), Trailers]).await;
    assert_eq!((response.status().as_u16(), start.elapsed()), (200, secs(200)));
    assert_eq!(tower_buttress::Ending::of(&response).unwrap().get(), Some(tower_buttress::proto::dialect::End::Whole));
    assert_eq!(read(response).await.0, [HELLO, STOP, DONE].concat());

    assert_eq!(
        status_and_code(&hold(vec![Data(HELLO), Data(OVERLOADED)]).await),
        Some((529, "overloaded_error".to_owned()))
    );
    assert_eq!(hold(vec![Data(HELLO), Data(DONE), Data(STOP)]).await.status(), 200);
    let open = hold(vec![Data(HELLO), Data(STOP), Data(DONE), Hang]).await;
    assert_eq!(read(open).await.0, [HELLO, STOP, DONE].concat(), "its connection is silent, and the answer whole");
    assert_eq!(hold(vec![Data(HELLO)]).await.status(), 502);
    let many = std::iter::repeat_n(Data(HELLO), 1_000).collect();
    assert_eq!(status_and_code(&hold(many).await), Some((502, "answer_too_large".to_owned())));
}
