//! Answers of other APIs, at paths that look like those of a dialect.

use http::Method;
use tokio::time::Instant;
use tower_buttress::error::{StreamTruncated, find};
use tower_buttress::proto::dialect::Kind;
use tower_buttress::{Ending, MissingEnd, StreamGuardLayer};

use super::{Answer, CHAT, ask, post, read, status_and_code};
use crate::support::Step::{self, Data, Wait};
use crate::support::secs;

const PATHS: [&str; 8] = [
    "/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/projects/p/publishers/anthropic/models/c:streamRawPredict",
    "/v1beta/models/g:streamGenerateContent",
    "/v2/chat",
    "/api/chat",
];
/// llama.cpp's own API; the events of an AI SDK's front end; what a service has made up.
const EVENTS: [(&str, &str); 3] = [
    (
        "data: {\"index\":0,\"content\":\"Hi\",\"tokens\":[1],\"stop\":false,\"id_slot\":0,\"tokens_predicted\":1}\n\n",
        "data: {\"index\":0,\"content\":\"\",\"tokens\":[],\"stop\":true,\"stop_type\":\"eos\",\"timings\":{}}\n\n",
    ),
    ("data: {\"type\":\"text-delta\",\"id\":\"0\",\"delta\":\"Hi\"}\n\n", "data: [DONE]\n\n"),
    ("event: token\r\ndata: \"Hi\"\r\n\r\n", ": bye\r\n\r\n"),
];

fn layers() -> [StreamGuardLayer; 3] {
    let layer = StreamGuardLayer::new();
    [layer.clone(), layer.clone().missing_end(MissingEnd::Error), layer.hold(1024)]
}

/// That an answer passes as it comes, however long it is silent, and that nothing is said of its end.
#[track_caller]
fn passes(answer: impl Fn() -> Answer, path: &'static str, text: String) -> impl Future<Output = ()> {
    let [layer, strict, _] = layers();
    let answers = [layer, strict].map(|layer| (layer, answer()));
    async move {
        for (layer, answer) in answers {
            let start = Instant::now();
            let response = ask(layer, Method::POST, path, answer).await;
            assert_eq!((response.status().as_u16(), start.elapsed()), (200, secs(0)), "{path}: {text}");
            let ending = Ending::of(&response).unwrap().clone();
            let (read, error) = read(response).await;
            assert_eq!((&read, error.map(|error| error.to_string())), (&text, None), "{path}");
            assert_eq!((ending.get(), start.elapsed()), (None, secs(200)), "{path}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_stream_of_another_api_passes_as_it_comes() {
    for path in PATHS {
        for (event, last) in EVENTS {
            for (before, behind) in [("", event), (": ping\n\n", event), (event, "")] {
                let steps = || [Data(before), Data(event), Wait(secs(200)), Data(behind), Data(last)];
                let steps = || steps().into_iter().filter(|step| !matches!(step, Data("")));
                passes(|| Answer::stream(steps()), path, [before, event, behind, last].concat()).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lines_and_arrays_of_another_api_pass_as_they_come() {
    let (line, last) = ("{\"token\":\"Hi\"}\n", "{\"token\":\"\",\"stop\":true}");
    let steps = [Data(line), Wait(secs(200)), Data(line), Data(last)];
    passes(|| Answer::of(200, "application/x-ndjson", steps.clone()), "/api/chat", [line, line, last].concat()).await;
    for (first, rest) in [("[{\"token\":\"Hi\"}", ",{\"token\":\"\"}]"), ("[1", ",2]"), ("[[", "]]")] {
        let steps = [Data(first), Wait(secs(200)), Data(rest)];
        let path = "/v1beta/models/g:streamGenerateContent";
        passes(|| Answer::of(200, "application/json", steps.clone()), path, [first, rest].concat()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_ends_inside_of_an_event_was_cut() {
    for path in PATHS {
        for (event, last) in EVENTS {
            let cut = Answer::stream([Data(event), Data("data: {\"content\":")]);
            let (text, error) = read(post(path, cut).await).await;
            assert_eq!(text, event, "{path}");
            assert!(find::<StreamTruncated>(&error.unwrap()).is_some(), "{path}, {last}");
        }
    }
    let line = "{\"token\":\"Hi\"}\n";
    let cut = Answer::of(200, "application/x-ndjson", [Data(line), Data("{\"token\":\"")]);
    let (text, error) = read(post("/api/chat", cut).await).await;
    assert_eq!((text.as_str(), error.is_some()), (line, true));
    let cut = Answer::of(200, "application/json", [Data("[{\"token\":\"Hi\"},")]);
    assert!(read(post("/v1beta/models/g:streamGenerateContent", cut).await).await.1.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_json_answer_of_another_api_passes_and_is_whole_or_refused() {
    let body = "{\"content\":\"Hi\",\"stop\":true,\"error\":null,\"timings\":{\"predicted_ms\":5}}";
    for path in PATHS {
        for layer in layers() {
            let response = ask(layer, Method::POST, path, Answer::json(200, body)).await;
            let (text, error) = read(response).await;
            assert_eq!((text.as_str(), error.is_none()), (body, true), "{path}");
        }
        let cut = Answer::of(200, "application/json", [Data(&body[..body.len() - 1])]);
        assert_eq!(post(path, cut).await.status(), 502, "{path}");
    }
}

/// A gateway that has a word of its own to say first: from then on nothing is withheld, and the end still counts.
#[tokio::test(start_paused = true)]
async fn a_foreign_event_before_those_of_the_dialect_hides_no_cut() {
    let own = "event: gateway\ndata: {\"region\":\"eu\"}\n\n";
    let response = super::chat([Data(own), Data(super::ROLE), Data(super::HELLO)]).await;
    let (text, error) = read(response).await;
    assert_eq!(text, [own, super::ROLE, super::HELLO].concat());
    assert!(find::<StreamTruncated>(&error.unwrap()).is_some());
    let whole = super::chat([Data(own), Data(super::HELLO), Data(super::STOP), Data(super::DONE)]).await;
    assert!(read(whole).await.1.is_none());
}

#[tokio::test(start_paused = true)]
async fn many_foreign_events_before_those_of_the_dialect_hide_no_cut() {
    let own = "data: {\"event\":{\"type\":\"status\",\"text\":\"waiting\"}}\n\n";
    let steps = std::iter::repeat_n(Data(own), 5).chain([Data(super::HELLO)]);
    let (text, error) = read(super::chat(steps.clone()).await).await;
    assert_eq!(text, [own.repeat(5).as_str(), super::HELLO].concat());
    assert!(find::<StreamTruncated>(&error.unwrap()).is_some());
    let whole = steps.chain([Data(super::STOP), Data(super::DONE)]);
    assert!(read(super::chat(whole).await).await.1.is_none());
}

#[tokio::test(start_paused = true)]
async fn with_hold_nothing_of_a_foreign_stream_is_handed_on_before_its_end() {
    let hold = |steps: Vec<Step>| ask(StreamGuardLayer::new().hold(1024), Method::POST, CHAT, Answer::stream(steps));
    let own = "data: {\"region\":\"eu\"}\n\n";
    assert_eq!(hold(vec![Data(own), Data(super::HELLO)]).await.status(), 502);
    let overloaded = hold(vec![Data(own), Data(super::HELLO), Data(super::OVERLOADED)]).await;
    assert_eq!(status_and_code(&overloaded), Some((529, "overloaded_error".to_owned())));
    assert_eq!(hold(vec![Data(own), Data("data: {\"region\":")]).await.status(), 502);
    let large = hold(std::iter::repeat_n(Data(own), 100).collect()).await;
    assert_eq!(status_and_code(&large), Some((502, "answer_too_large".to_owned())));
    for rest in [vec![Data(own)], vec![Data(super::HELLO), Data(super::STOP), Data(super::DONE)]] {
        let start = Instant::now();
        let steps = [Data(own), Wait(secs(200))].into_iter().chain(rest).collect();
        let response = hold(steps).await;
        assert_eq!((response.status().as_u16(), start.elapsed()), (200, secs(200)));
        let (text, error) = read(response).await;
        assert!(text.starts_with(own) && error.is_none());
    }
}

/// No dialect has it in this form, and no answer begins with it.
#[tokio::test(start_paused = true)]
async fn an_error_without_an_object_around_it_is_no_answer() {
    for event in [
        "data: {\"code\":\"InternalError\",\"message\":\"An internal error\",\"request_id\":\"x\"}\n\n",
        "data: {\"detail\":\"gone\"}\n\n",
        "data: {\"code\":500,\"msg\":\"gone\",\"success\":false}\n\n",
        "data: {\"message\":\"gone\",\"type\":\"limit\",\"code\":429}\n\n",
        "data: {\"status\":\"error\",\"message\":\"gone\"}\n\n",
    ] {
        for path in [CHAT, "/v1/responses", "/v1/messages", "/v1beta/models/g:streamGenerateContent", "/v2/chat"] {
            assert_eq!(post(path, Answer::stream([Data(event)])).await.status(), 502, "{path}: {event}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_behind_an_event_that_its_dialect_may_have_added_is_a_refusal() {
    let added = "data: {\"type\":\"some_new_event\"}\n\n";
    let overloaded =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"m\"}}\n\n";
    let response = post("/v1/messages", Answer::stream([Data(added), Data(overloaded)])).await;
    assert_eq!(status_and_code(&response), Some((529, "overloaded_error".to_owned())));
    let added = "data: {\"type\":\"codex.rate_limits\",\"plan\":\"x\"}\n\n";
    let created = "data: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"status\":\"in_progress\"}}\n\n";
    let failed = "data: {\"type\":\"error\",\"code\":\"insufficient_quota\",\"message\":\"You\",\"param\":null}\n\n";
    let response = post("/v1/responses", Answer::stream([Data(added), Data(created), Data(failed)])).await;
    assert_eq!(status_and_code(&response), Some((429, "insufficient_quota".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_dialect_that_was_set_is_held_to_its_end() {
    let layer = StreamGuardLayer::new().dialect(Kind::OpenAiChat);
    let steps: Vec<Step> = vec![Data(EVENTS[0].0), Data(EVENTS[0].1)];
    assert_eq!(ask(layer, Method::POST, "/completion", Answer::stream(steps)).await.status(), 502);
}

#[tokio::test(start_paused = true)]
async fn an_error_or_garbage_in_the_place_of_the_first_event_is_still_refused() {
    for before in ["", "data: {}\n\n", "data: {\"type\":\"ping\"}\n\n", "data:\n\n", "id: 1\ndata:\n\n"] {
        let steps = || [Data(before), Data(super::OVERLOADED)].into_iter().filter(|step| !matches!(step, Data("")));
        let response = post(CHAT, Answer::stream(steps())).await;
        assert_eq!(status_and_code(&response), Some((529, "overloaded_error".to_owned())), "{before}");
    }
    assert_eq!(post(CHAT, Answer::stream([Data("data: <html>\n\n")])).await.status(), 502);
}

/// Its first event has an id and empty data, so that clients can come back, and it may close the stream on purpose.
#[tokio::test(start_paused = true)]
async fn a_stream_of_an_mcp_server_passes() {
    let (first, retry) = ("id: 1\ndata:\n\n", "retry: 500\n\n");
    let answer = "id: 2\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"error\":{\"code\":-32603,\"message\":\"x\"}}\n\n";
    for steps in [vec![Data(first), Data(retry)], vec![Data(first), Wait(secs(200)), Data(answer)]] {
        for layer in layers() {
            let response = ask(layer, Method::POST, "/mcp", Answer::stream(steps.clone())).await;
            let (_, error) = read(response).await;
            assert!(error.is_none());
        }
    }
}
