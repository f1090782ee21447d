//! With a stream guard inside, an event stream is kept when the model has ended its answer, and only then.

use http::Response;
use tower::ServiceBuilder;
use tower_buttress::{DeadlineLayer, DedupLayer, DedupRole, Resumable, SseHeartbeatLayer, StreamGuardLayer};

use super::{post, post_key, role, upstream};
use crate::support::secs;

const HELLO: &str =
    "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const FAILED: &str = "data: {\"error\":{\"message\":\"Overloaded\",\"type\":\"overloaded_error\",\"code\":null}}\n\n";

fn ended(reason: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"{reason}\"}}]}}\n\n"
    )
}

fn event_stream() -> Response<()> {
    Response::builder().header("content-type", "text/event-stream").body(()).unwrap()
}

/// The first answer to `request` is read, whole or not. Returns whether the second request is given it again.
async fn is_kept(with_key: bool, head: Response<()>, said: &[&str], broken: bool) -> bool {
    let (upstream, mut stage) = upstream();
    let service = ServiceBuilder::new().layer(DedupLayer::new()).layer(StreamGuardLayer::new()).service(upstream);
    let request = || {
        let mut request = if with_key { post_key("k", "{}") } else { post("{}") };
        *request.uri_mut() = "/v1/chat/completions".parse().unwrap();
        tower::ServiceExt::oneshot(service.clone(), request)
    };
    let first = tokio::spawn(request());
    let say = stage.call().await.answer(head);
    said.iter().for_each(|data| say.data(data));
    if broken {
        say.fail("reset");
    } else {
        say.end();
    }
    let first = first.await.unwrap().unwrap();
    http_body_util::BodyExt::collect(first.into_body()).await.ok();
    let again = tokio::spawn(request());
    let is_quiet = stage.is_quiet().await;
    if is_quiet {
        let again = again.await.unwrap().unwrap();
        assert_eq!(role(&again), Some(DedupRole::Replayed));
        let again = http_body_util::BodyExt::collect(again.into_body()).await.unwrap().to_bytes();
        assert_eq!(again, said.concat());
    }
    is_quiet
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_model_has_ended_is_kept() {
    for (reason, by_key, by_fingerprint) in [
        ("stop", true, true),
        ("tool_calls", true, true),
        ("length", true, true),
        // Asked again, it may say something else.
        ("content_filter", true, false),
        // Whether it is whole cannot be told.
        ("a_new_reason", false, false),
    ] {
        let end = ended(reason);
        for said in [&[HELLO, &end, DONE][..], &[HELLO, &end]] {
            assert_eq!(is_kept(true, event_stream(), said, false).await, by_key, "{reason}");
            assert_eq!(is_kept(false, event_stream(), said, false).await, by_fingerprint, "{reason}");
        }
    }
}

/// What it ended with was in an event too large to be looked at.
#[tokio::test(start_paused = true)]
async fn a_stream_of_which_the_guard_has_not_read_all_is_not_kept() {
    let unread = format!("data: {{\"logprobs\":[{}1],\"choices\":[]}}\n\n", "1,".repeat(600 * 1024));
    for with_key in [true, false] {
        assert!(!is_kept(with_key, event_stream(), &[HELLO, &unread], false).await);
        assert!(!is_kept(with_key, event_stream(), &[HELLO, &unread, DONE], false).await);
    }
}

/// Another API, at a path that looks like OpenAI's: it passes, and nothing proves that it is whole.
#[tokio::test(start_paused = true)]
async fn a_stream_of_another_api_is_not_kept() {
    let token = "data: {\"content\":\"Hi\",\"stop\":false}\n\n";
    for with_key in [true, false] {
        assert!(!is_kept(with_key, event_stream(), &[token, token], false).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_broke_off_or_reported_an_error_is_not_kept() {
    let stop = ended("stop");
    for (said, broken) in [
        // A clean end without a reason, with and without its marker, and inside of an event.
        (&[HELLO][..], false),
        (&[HELLO, "data: {"], false),
        (&[HELLO, DONE], false),
        (&[HELLO], true),
        (&[HELLO, &stop, DONE], true),
        (&[HELLO, FAILED], false),
        (&[HELLO, FAILED, DONE], false),
        (&[HELLO, &stop, FAILED], false),
        (&[FAILED], false),
    ] {
        for with_key in [true, false] {
            assert!(!is_kept(with_key, event_stream(), said, broken).await, "{said:?}");
        }
    }
}

/// Its framing says that it is complete, and the model that it is not.
#[tokio::test(start_paused = true)]
async fn the_length_of_a_stream_is_no_proof() {
    let stop = ended("stop");
    for (said, kept) in [(&[HELLO][..], false), (&[HELLO, FAILED], false), (&[HELLO, &stop], true)] {
        let mut head = event_stream();
        head.headers_mut().insert("content-length", said.concat().len().into());
        assert_eq!(is_kept(true, head, said, false).await, kept, "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_encoded_stream_cannot_be_read_and_is_not_kept() {
    let mut head = event_stream();
    head.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    assert!(!is_kept(true, head, &["\u{1f}\u{8b}"], false).await);
}

/// Heartbeats outside learn of the ids that events are given for those who come back.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_given_ids_has_heartbeats_without_blank_lines() {
    let resumable = DedupLayer::new().resumable(Resumable::at("/answers"));
    for (layer, beat) in [(DedupLayer::new(), ": keepalive\n\n"), (resumable, ": keepalive\n")] {
        let (upstream, mut stage) = upstream();
        let service = ServiceBuilder::new()
            .layer(SseHeartbeatLayer::new(secs(15)))
            .layer(layer)
            .layer(StreamGuardLayer::new())
            .service(upstream);
        let mut request = post_key("k", "{}");
        *request.uri_mut() = "/v1/chat/completions".parse().unwrap();
        let call = tokio::spawn(tower::ServiceExt::oneshot(service, request));
        let say = stage.call().await.answer(event_stream());
        say.data(HELLO);
        let mut body = call.await.unwrap().unwrap().into_body();
        http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
        let frame = http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), beat);
    }
}

/// The guard reads as far as the fastest of them.
#[tokio::test(start_paused = true)]
async fn the_event_of_an_error_has_the_number_that_comes_next_for_its_reader() {
    use http_body_util::BodyExt;

    let event = |number: usize| {
        let data = "\"type\":\"response.output_text.delta\",\"output_index\":0,\"delta\":\"a\"";
        format!("data: {{\"sequence_number\":{number},{data}}}\n\n")
    };
    let (upstream, mut stage) = upstream();
    let service = ServiceBuilder::new()
        .layer(SseHeartbeatLayer::new(secs(300)).error_events(true))
        .layer(DeadlineLayer::new(secs(60)))
        .layer(DedupLayer::new())
        .layer(StreamGuardLayer::new())
        .service(upstream);
    let ask = || {
        let mut request = post_key("k", "{}");
        *request.uri_mut() = "/v1/responses".parse().unwrap();
        tower::ServiceExt::oneshot(service.clone(), request)
    };
    let read = |text: &str| text.matches("output_text.delta").count();
    let first = tokio::spawn(ask());
    let say = stage.call().await.answer(event_stream());
    say.data(&event(0));
    let mut first = first.await.unwrap().unwrap().into_body();
    let second = ask().await.unwrap();
    assert_eq!(role(&second), Some(DedupRole::Joined));
    (1..6).for_each(|number| say.data(&event(number)));
    let mut text = String::new();
    while read(&text) < 6 {
        let data = first.frame().await.unwrap().unwrap().into_data().unwrap();
        text += std::str::from_utf8(&data).unwrap();
    }
    let (mut body, mut text) = (second.into_body(), String::new());
    let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
    text += std::str::from_utf8(&data).unwrap();
    tokio::time::advance(secs(61)).await;
    while let Some(Ok(frame)) = body.frame().await {
        text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
    }
    let expected = format!("\"type\":\"error\",\"sequence_number\":{},", read(&text));
    assert!(text.contains(&expected), "{text}");
}
