//! Behind the first content.

use std::time::Duration;

use http::Method;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};
use tower_buttress::error::{StreamTruncated, UpstreamError, find};
use tower_buttress::proto::dialect::{Channel, Dialect, End, Fact, Kind, StreamEvent};
use tower_buttress::{Ending, MissingEnd, StreamGuardLayer};

use super::{Answer, CHAT, DONE, HELLO, OVERLOADED, ROLE, STOP, ask, chat, post, read};
use crate::support::Step::{Data, Fail, Hang, Trailers};
use crate::support::{Log, Step};

#[tokio::test(start_paused = true)]
async fn a_whole_stream_passes_byte_for_byte() {
    let response = chat([Data(ROLE), Data(HELLO), Data(": ping\n\n"), Data(STOP), Data(DONE), Trailers]).await;
    let ending = Ending::of(&response).unwrap().clone();
    assert_eq!(ending.get(), None);
    let (text, error) = read(response).await;
    assert_eq!((text, error.is_none()), ([ROLE, HELLO, ": ping\n\n", STOP, DONE].concat(), true));
    assert_eq!(ending.get(), Some(End::Whole));
}

#[tokio::test(start_paused = true)]
async fn a_length_that_was_promised_hides_no_error() {
    let length = HELLO.len().to_string().leak();
    let cut = || Answer::stream([Data(HELLO)]).header("content-length", length);
    for (method, path) in [(Method::POST, CHAT), (Method::GET, "/events")] {
        let response = ask(StreamGuardLayer::new(), method, path, cut()).await;
        assert!(!response.headers().contains_key("content-length") && response.body().size_hint().upper().is_none());
    }
    // What was read to its end before keeps it.
    let held = ask(StreamGuardLayer::new().missing_end(MissingEnd::Allow).hold(1024), Method::POST, CHAT, cut()).await;
    assert_eq!(held.headers()["content-length"], *length);
}

#[tokio::test(start_paused = true)]
async fn a_clean_end_without_a_reason_is_an_error() {
    let response = chat([Data(HELLO)]).await;
    let ending = Ending::of(&response).unwrap().clone();
    let (text, error) = read(response).await;
    assert_eq!(text, HELLO);
    let frame = find::<StreamTruncated>(&error.unwrap()).unwrap().frame(tower_buttress::proto::sse::LineEnding::Lf);
    assert!(frame.starts_with("event: error\n") && frame.contains("\"code\":\"stream_truncated\""), "{frame}");
    assert_eq!(ending.get(), None);
}

#[tokio::test(start_paused = true)]
async fn an_error_behind_content_ends_the_body_with_the_event() {
    for (steps, before) in [
        (vec![Data(HELLO), Data(OVERLOADED), Data(DONE)], HELLO.to_owned()),
        (vec![Data(HELLO), Data([HELLO, OVERLOADED, DONE].concat().leak())], HELLO.repeat(2)),
        (vec![Data(HELLO), Data(&OVERLOADED[..20]), Data(&OVERLOADED[20..]), Hang], HELLO.to_owned()),
        (vec![Data(HELLO), Data([HELLO, &OVERLOADED[..9]].concat().leak()), Data(&OVERLOADED[9..])], HELLO.repeat(2)),
    ] {
        let (text, error) = read(chat(steps).await).await;
        assert_eq!(text, before);
        let error = error.unwrap();
        let error = find::<UpstreamError>(&error).unwrap();
        assert_eq!((error.status().as_u16(), error.frame().as_ref()), (529, OVERLOADED.as_bytes()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_clients_would_not_raise_is_written_so_that_they_do() {
    for (path, content, error, expected) in [
        // No client looks for the field `error`.
        (
            CHAT,
            HELLO,
            "error: {\"code\":500,\"message\":\"gone\",\"type\":\"server_error\"}\n\n",
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"server_error\",\"code\":null,\"message\":\"gone\",\"param\":null}}\n\n",
        ),
        // Vercel's provider ignores an error beside choices.
        (
            CHAT,
            HELLO,
            "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"error\"}],\"error\":{\"code\":502,\"message\":\"x\"}}\n\n",
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"code\":null,\"message\":\"x\",\"param\":null}}\n\n",
        ),
        (
            "/v1/responses",
            "data: {\"type\":\"response.output_text.delta\",\"sequence_number\":4,\"delta\":\"a\"}\n\n",
            "data: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"x\",\"sequence_number\":5}\n\n",
            "event: error\ndata: {\"type\":\"error\",\"sequence_number\":6,\"code\":\"server_error\",\"message\":\"x\",\"param\":null,\"error\":{\"type\":\"api_error\",\"code\":\"server_error\",\"message\":\"x\",\"param\":null}}\n\n",
        ),
        (
            "/v1beta/models/g:streamGenerateContent",
            "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}\n\n",
            "{\n \"error\": {\n  \"code\": 503,\n  \"message\": \"x\", \"status\": \"UNAVAILABLE\"\n }\n}\n",
            "data: {\"error\":{\"code\":503,\"message\":\"x\",\"status\":\"UNAVAILABLE\"}}\n\n",
        ),
    ] {
        let (text, err) = read(post(path, Answer::stream([Data(content), Data(error), Hang])).await).await;
        assert_eq!(text, content);
        let err = err.unwrap();
        assert_eq!(std::str::from_utf8(find::<UpstreamError>(&err).unwrap().frame()).unwrap(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn it_writes_the_event_itself_where_set_to() {
    let layer = StreamGuardLayer::new().error_events(true);
    let steps = [Data(HELLO), Data(OVERLOADED), Data(DONE)];
    let (text, error) = read(ask(layer.clone(), Method::POST, CHAT, Answer::stream(steps)).await).await;
    assert_eq!((text, error.is_some()), ([HELLO, OVERLOADED].concat(), true));
    let (text, error) = read(ask(layer, Method::POST, CHAT, Answer::stream([Data(HELLO)])).await).await;
    assert!(text.starts_with(&[HELLO, "event: error\n"].concat()) && text.ends_with("\n\n") && error.is_some());
}

/// Some servers keep the stream open after its last event: their idle connection was a failed call.
#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_silent_after_the_end_of_the_answer_has_ended_it() {
    let start = Instant::now();
    let response = chat([Data(HELLO), Data(STOP), Data(DONE), Hang]).await;
    let ending = Ending::of(&response).unwrap().clone();
    let (text, error) = read(response).await;
    assert_eq!((text, error.is_none(), ending.get()), ([HELLO, STOP, DONE].concat(), true, Some(End::Whole)));
    assert_eq!(start.elapsed().as_secs(), 1);

    // Without the dialect's last event it is not over, nor where more follows, or several answers may come.
    let at = |path, steps: Vec<Step>| ask(StreamGuardLayer::new(), Method::POST, path, Answer::stream(steps));
    for response in [
        at(CHAT, vec![Data(HELLO), Data(STOP), Hang]).await,
        at(CHAT, vec![Data(HELLO), Data(STOP), Data(DONE), Data(HELLO), Hang]).await,
        at(CHAT, vec![Data(HELLO), Data(STOP), Data(DONE), Data("data: {\"choi"), Hang]).await,
        at("/events", vec![Data(HELLO), Data(STOP), Data(DONE), Hang]).await,
    ] {
        let mut body = response.into_body();
        let silent = timeout(Duration::from_secs(60), async {
            while let Some(frame) = body.frame().await {
                frame.unwrap();
            }
        });
        assert!(silent.await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn only_whole_events_are_handed_on() {
    let (text, error) = read(chat([Data(HELLO), Data("data: {\"choi"), Fail("reset")]).await).await;
    assert_eq!((text.as_str(), error.unwrap().to_string().as_str()), (HELLO, "reset"));
    let (text, error) = read(chat([Data(HELLO), Data(STOP), Data(DONE), Data("data: {\"choi")]).await).await;
    assert_eq!((text, error.is_none()), ([HELLO, STOP, DONE, "data: {\"choi"].concat(), true), "the answer had ended");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_inside_of_an_event_was_cut_unless_it_was_closed_before() {
    let other = &HELLO.replace("\"index\":0", "\"index\":1");
    for cut in 1..other.len() {
        let response = chat([Data(HELLO), Data(STOP), Data(other[..cut].to_owned().leak())]).await;
        let ending = Ending::of(&response).unwrap().clone();
        let (text, error) = read(response).await;
        assert_eq!((text, ending.get()), ([HELLO, STOP].concat(), None), "cut at {cut}");
        assert!(find::<StreamTruncated>(&error.unwrap()).is_some(), "cut at {cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_leaves_inside_of_an_event_is_not_known_to_be_whole() {
    for (last, end) in [("data: {\"choi", None), (": a", Some(End::Whole))] {
        let response = chat([Data(HELLO), Data(STOP), Data(last), Hang]).await;
        let ending = Ending::of(&response).unwrap().clone();
        let mut body = response.into_body();
        for _ in 0..2 {
            body.frame().await.unwrap().unwrap();
        }
        let next = timeout(Duration::from_secs(1), body.frame());
        assert!(next.await.is_err(), "{last}");
        drop(body);
        assert_eq!(ending.get(), end, "{last}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_event_is_not_withheld() {
    let image = "x".repeat(100_000).leak();
    let steps = [Data(HELLO), Data("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\""), Data(image), Hang];
    let mut body = chat(steps).await.into_body();
    let mut read = 0;
    while read < 100_000 {
        let frame = body.frame().await.unwrap().unwrap();
        read += frame.into_data().unwrap().len();
    }
}

#[tokio::test(start_paused = true)]
async fn a_marker_is_enough_until_the_model_has_given_a_reason() {
    let layer = StreamGuardLayer::new();
    let ask = |steps: Vec<Step>| ask(layer.clone(), Method::POST, CHAT, Answer::stream(steps));
    let marked = ask(vec![Data(HELLO), Data(DONE)]).await;
    let ending = Ending::of(&marked).unwrap().clone();
    assert!(read(marked).await.1.is_none());
    assert_eq!(ending.get(), Some(End::Unknown));
    assert!(read(ask(vec![Data(HELLO), Data(STOP), Data(DONE)]).await).await.1.is_none());
    assert!(read(ask(vec![Data(HELLO), Data(DONE)]).await).await.1.is_some());
    let other = HELLO.replace("\"m\"", "\"other\"").leak();
    assert!(read(ask(vec![Data(other), Data(DONE)]).await).await.1.is_none(), "another model has not");
}

/// Clients read no further than a marker, and take for whole what came before it.
#[tokio::test(start_paused = true)]
async fn a_marker_that_proves_nothing_is_not_handed_on() {
    let other: &str = HELLO.replace("\"index\":0", "\"index\":1").leak();
    let created = "data: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"r\"}}\n\n";
    let delta = "data: {\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"delta\":\"a\"}\n\n";
    let cohere =
        "data: {\"type\":\"content-delta\",\"index\":0,\"delta\":{\"message\":{\"content\":{\"text\":\"a\"}}}}\n\n";
    let message =
        "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n";
    let stop = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let line = "{\"model\":\"m\",\"message\":{\"content\":\"a\"},\"done\":false}\n";
    let error = MissingEnd::Error;
    for (path, missing_end, said, marker) in [
        (CHAT, error, &[HELLO][..], DONE),
        // Another choice has a reason; and dialects whose end is no marker.
        (CHAT, MissingEnd::Auto, &[HELLO, other, STOP], DONE),
        ("/v1/responses", MissingEnd::Auto, &[created, delta], DONE),
        ("/v2/chat", MissingEnd::Auto, &[cohere], DONE),
        ("/v1/messages", error, &[message], stop),
        ("/api/chat", error, &[line], "{\"model\":\"m\",\"done\":true}\n"),
    ] {
        let said = said.concat();
        let all: &str = [&said, marker, marker].concat().leak();
        let (half, rest) = all.split_at(said.len() + 7);
        for steps in [vec![Data(&all[..said.len()]), Data(marker), Hang], vec![Data(all)], vec![Data(half), Data(rest)]]
        {
            let content_type = if path == "/api/chat" { "application/x-ndjson" } else { "text/event-stream" };
            let answer = || Answer::of(200, content_type, steps.clone());
            let layer = StreamGuardLayer::new().missing_end(missing_end);
            let response = ask(layer.clone(), Method::POST, path, answer()).await;
            let ending = Ending::of(&response).cloned();
            if response.status() == 200 {
                let (text, error) = read(response).await;
                assert_eq!(text, said, "{path}");
                assert!(find::<StreamTruncated>(&error.unwrap()).is_some(), "{path}");
            } else {
                // It came with the first content.
                assert_eq!((response.status().as_u16(), steps.len()), (502, 1), "{path}");
            }
            assert_eq!(ending.and_then(|ending| ending.get()), None);
            assert_eq!(ask(layer.hold(10_000), Method::POST, path, answer()).await.status(), 502);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_end_is_an_error_or_allowed() {
    let error = StreamGuardLayer::new().missing_end(MissingEnd::Error);
    let allow = StreamGuardLayer::new().missing_end(MissingEnd::Allow);
    let fails = async |layer: &StreamGuardLayer, steps: Vec<Step>| {
        read(ask(layer.clone(), Method::POST, CHAT, Answer::stream(steps)).await).await.1.is_some()
    };
    assert!(fails(&error, vec![Data(HELLO), Data(DONE)]).await);
    assert!(!fails(&error, vec![Data(HELLO), Data(STOP), Data(DONE)]).await);
    assert!(!fails(&allow, vec![Data(HELLO)]).await);
    assert!(fails(&allow, vec![Data(HELLO), Data("data: {")]).await, "within an event it was cut");
    assert!(fails(&allow, vec![Data(HELLO), Data(OVERLOADED)]).await);
}

#[tokio::test(start_paused = true)]
async fn limits_filters_and_refusals_are_the_truth() {
    for (reason, end) in [("length", End::Limit), ("content_filter", End::Filtered), ("odd", End::Unknown)] {
        let stop = STOP.replace("stop", reason).leak();
        let response = chat([Data(HELLO), Data(stop), Data(DONE)]).await;
        let ending = Ending::of(&response).unwrap().clone();
        assert!(read(response).await.1.is_none());
        assert_eq!(ending.get(), Some(end));
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_stops_reading_at_the_end_has_it_all() {
    let response = chat([Data(HELLO), Data(STOP), Hang]).await;
    let ending = Ending::of(&response).unwrap().clone();
    let mut body = response.into_body();
    for _ in 0..2 {
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    assert_eq!(ending.get(), Some(End::Whole));
}

#[tokio::test(start_paused = true)]
async fn streams_of_other_services_pass() {
    for (method, path) in [(Method::POST, "/mcp"), (Method::GET, "/events"), (Method::GET, CHAT)] {
        let steps = [Data("data: tick\n\n"), Data("data: 1\n\nda"), Data("ta: 2\n\n"), Data(": bye\n")];
        let response = ask(StreamGuardLayer::new(), method, path, Answer::stream(steps)).await;
        let (text, error) = read(response).await;
        assert_eq!((text.as_str(), error.is_none()), ("data: tick\n\ndata: 1\n\ndata: 2\n\n: bye\n", true));
    }
    let cut = [Data("data: tick\n\n"), Data("data: 1")];
    let (text, error) = read(post("/mcp", Answer::stream(cut)).await).await;
    assert_eq!((text.as_str(), error.is_some()), ("data: tick\n\n", true));
}

#[tokio::test(start_paused = true)]
async fn a_stream_at_an_unknown_path_is_recognised_by_its_events() {
    for method in [Method::GET, Method::POST] {
        let response = ask(StreamGuardLayer::new(), method, "/llm", Answer::stream([Data(HELLO)])).await;
        assert!(read(response).await.1.is_some());
    }
    let layer = StreamGuardLayer::new().dialect(Kind::OpenAiChat);
    assert_eq!(ask(layer, Method::POST, "/llm", Answer::stream([])).await.status(), 502);
}

/// Lines of text; the last one is a full stop.
#[derive(Debug)]
struct Telegraph;

impl Dialect for Telegraph {
    fn event(&mut self, event: &StreamEvent<'_>, facts: &mut dyn FnMut(Fact<'_>)) {
        match std::str::from_utf8(event.data) {
            Ok("STOP") => facts(Fact::Ended(End::Whole)),
            Ok(text) => facts(Fact::delta(0, Channel::Text, text)),
            Err(_) => facts(Fact::Unreadable),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dialect_of_ones_own_is_guarded_as_others() {
    let layer = StreamGuardLayer::new().custom_dialect(|| Telegraph);
    let whole = Answer::stream([Data("data: HELLO\n\n"), Data("data: STOP\n\n")]);
    assert!(read(ask(layer.clone(), Method::POST, "/wire", whole).await).await.1.is_none());
    let cut = Answer::stream([Data("data: HELLO\n\n")]);
    assert!(read(ask(layer, Method::POST, "/wire", cut).await).await.1.is_some());
}

/// What is handed on of an answer, with the event that tells of its error.
async fn shown(layer: StreamGuardLayer, path: &'static str, content_type: &'static str, steps: Vec<Step>) -> String {
    let layer = layer.error_events(true);
    let (text, error) = read(ask(layer, Method::POST, path, Answer::of(200, content_type, steps)).await).await;
    assert!(error.is_some(), "{text}");
    text
}

#[tokio::test(start_paused = true)]
async fn an_error_is_written_as_the_stream_is_framed() {
    let layer = StreamGuardLayer::new();
    let part = "[{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}\n";
    let failed = ",{\"error\":{\"code\":503,\"message\":\"x\",\"status\":\"UNAVAILABLE\"}}]";
    for steps in [vec![Data(part)], vec![Data(part), Data(failed)]] {
        let path = "/v1beta/models/g:streamGenerateContent";
        let text = shown(layer.clone(), path, "application/json", steps).await;
        assert_eq!(text.trim_end_matches(','), part, "an array has no place for it");
    }

    let lines = layer.clone().custom_dialect(|| Telegraph);
    let text = shown(lines, "/wire", "application/x-ndjson", vec![Data("HELLO\n")]).await;
    let told = text.strip_prefix("HELLO\n").unwrap();
    assert!(told.starts_with("{\"error\":\"") && told.ends_with("\"}\n") && told.lines().count() == 1, "{told}");

    let line = "data: {\"model\":\"m\",\"message\":{\"content\":\"a\"},\"done\":false}\n\n";
    for (steps, error) in [
        (vec![Data(line)], "event: error\ndata: {"),
        (vec![Data(line), Data("data: {\"error\":\"gone\"}\n\n")], "data: {\"error\":\"gone\"}\n\n"),
    ] {
        let text = shown(layer.clone().dialect(Kind::Ollama), "/events", "text/event-stream", steps).await;
        let told = text.strip_prefix(line).unwrap();
        assert!(told.starts_with(error) && told.ends_with("\n\n"), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_gemini_has_no_name() {
    let part = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}\n\n";
    let error = "data: {\"error\":{\"code\":503,\"message\":\"x\",\"status\":\"UNAVAILABLE\"}}\n\n";
    for name in ["", "event: error\n"] {
        let steps = vec![Data(part), Data([name, error].concat().leak())];
        let path = "/v1beta/models/g:streamGenerateContent";
        let text = shown(StreamGuardLayer::new(), path, "text/event-stream", steps).await;
        assert_eq!(text, [part, error].concat());
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_passes_with_an_event() {
    for (content_type, encoding) in [("text/event-stream", "gzip"), ("application/vnd.amazon.eventstream", "identity")]
    {
        let log = std::sync::Arc::new(Log::default());
        let layer = StreamGuardLayer::new().observer(log.clone());
        let answer = Answer::of(200, content_type, [Data("\x1f garbage")]).header("content-encoding", encoding);
        let (text, error) = read(ask(layer, Method::POST, CHAT, answer).await).await;
        assert_eq!((text.as_str(), error.is_none()), ("\x1f garbage", true));
        assert_eq!(log.names(), ["bypassed: stream-guard"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_is_off_passes_everything() {
    let response = ask(StreamGuardLayer::disabled(), Method::POST, CHAT, Answer::stream([Data(OVERLOADED)])).await;
    assert_eq!(read(response).await.0, OVERLOADED);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_reported_once() {
    let log = std::sync::Arc::new(Log::default());
    let layer = StreamGuardLayer::new().observer(log.clone());
    let _ = read(ask(layer.clone(), Method::POST, CHAT, Answer::stream([Data(HELLO)])).await).await;
    let _ = read(ask(layer.clone(), Method::POST, CHAT, Answer::stream([Data(HELLO), Data(OVERLOADED)])).await).await;
    let _ = ask(layer, Method::POST, CHAT, Answer::stream([Data(OVERLOADED)])).await;
    assert_eq!(
        log.names(),
        [
            "stream_failed: truncated",
            "stream_failed: upstream-error",
            "stream_failed: upstream-error",
            "refused: upstream-failed",
        ]
    );
}
