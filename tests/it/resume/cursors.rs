//! Each server's own cursor.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::{CallBody, PinTo, ResumeBy, ResumeLayer};

use super::{FOUR, ONE, THREE, TWO, events, post, send, stream};
use crate::support::Script;
use crate::support::Step::{Data, Fail, Trailers};

const RESPONSES: &str = "/v1/responses";

/// The events of an answer in Responses, made in the background.
const CREATED: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_1\",\"background\":true,\"model\":\"m\"}}\n\n";
const ITEM: &str = "event: response.output_item.added\ndata: {\"type\":\"response.output_item.added\",\"sequence_number\":1,\"output_index\":0,\"item\":{\"id\":\"msg_1\",\"type\":\"message\"}}\n\n";
const HELLO: &str = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":2,\"item_id\":\"msg_1\",\"delta\":\"hello\"}\n\n";
const WORLD: &str = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":3,\"item_id\":\"msg_1\",\"delta\":\" world\"}\n\n";
const COMPLETED: &str = "event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":4,\"response\":{\"id\":\"resp_1\",\"status\":\"completed\"}}\n\n";

#[tokio::test(start_paused = true)]
async fn an_event_stream_goes_on_behind_its_last_id() {
    let first = stream([Data(ONE), Data(TWO), Data("id: 3\nda"), Fail("cut")]);
    let rest = stream([Data(": hello\n\n"), Data(THREE), Data(FOUR)]);
    let outcome = send(ResumeLayer::new(), events("http://h/events?x=1"), [first, rest]).await;
    assert_eq!(outcome.text, [ONE, TWO, ": hello\n\n", THREE, FOUR].concat(), "half an event is not handed on");
    assert_eq!((outcome.error, outcome.events), (None, vec!["stream_resumed: cursor".to_owned()]));
    let [first, rest] = &outcome.asked[..] else { panic!("{:?}", outcome.asked) };
    assert!(!first.headers.contains_key("last-event-id") && first.pin.is_none());
    assert_eq!(
        (rest.uri.to_string().as_str(), &rest.headers["last-event-id"]),
        ("http://h/events?x=1", &"2".parse().unwrap())
    );
    assert_eq!(rest.headers["authorization"], "Bearer caller");
    assert_eq!((rest.pin.as_ref(), rest.no_retry), (Some(&PinTo::primary()), true));
}

#[tokio::test(start_paused = true)]
async fn digests_of_one_of_its_parts_are_not_handed_on() {
    for (parts, checksum) in [
        (vec![vec![Data(ONE), Trailers]], true),
        // It is the checksum of the rest.
        (vec![vec![Data(ONE), Fail("cut")], vec![Data(TWO), Trailers]], false),
    ] {
        let parts = Arc::new(Mutex::new(parts.into_iter()));
        let upstream = service_fn(move |_: Request<CallBody>| {
            let body = Script::new(parts.lock().unwrap().next().unwrap()).unsized_();
            let head = Response::builder().header("content-type", "text/event-stream").header("repr-digest", "x");
            async { Ok::<_, Infallible>(head.body(body).unwrap()) }
        });
        let response = ResumeLayer::new().layer(upstream).oneshot(events("/events")).await.unwrap();
        assert!(!response.headers().contains_key("repr-digest"), "of other bytes, if it breaks");
        let read = response.into_body().collect().await.unwrap();
        assert_eq!(read.trailers().unwrap().contains_key("x-checksum"), checksum);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_cut_before_any_event_repeats_the_cursor() {
    let cut = || stream([Data("id: 3\nd"), Fail("cut")]);
    let answers = [stream([Data(ONE), Data(TWO), Fail("cut")]), cut(), cut(), stream([Data(THREE)])];
    let outcome = send(ResumeLayer::new(), events("/events"), answers).await;
    assert_eq!((outcome.text, outcome.error), ([ONE, TWO, THREE].concat(), None));
    let ids: Vec<_> = outcome.asked[1..].iter().map(|asked| asked.headers["last-event-id"].to_str().unwrap()).collect();
    assert_eq!(ids, ["2", "2", "2"]);
}

#[tokio::test(start_paused = true)]
async fn responses_go_on_at_their_own_url() {
    for (first, rest) in [
        (vec![Data(CREATED), Data(ITEM), Data(HELLO), Fail("cut")], vec![Data(WORLD), Data(COMPLETED)]),
        // It ends cleanly, and too early.
        (vec![Data(CREATED), Data(ITEM), Data(HELLO)], vec![Data(WORLD), Data(COMPLETED)]),
        (
            vec![Data(CREATED), Data(ITEM), Fail("cut")],
            vec![Data(HELLO), Data(WORLD), Data(COMPLETED), Data("data: [DONE]\n\n")],
        ),
        (vec![Data(CREATED), Fail("cut")], vec![Data(ITEM), Data(HELLO), Data(WORLD), Data(COMPLETED)]),
    ] {
        let answers = [stream(first.clone()), stream(rest)];
        let outcome = send(ResumeLayer::new(), post(RESPONSES, r#"{"background":true}"#), answers).await;
        let whole = [CREATED, ITEM, HELLO, WORLD, COMPLETED].concat();
        assert!(outcome.text.starts_with(&whole) && outcome.error.is_none(), "{}", outcome.text);
        let rest = &outcome.asked[1];
        let number = first.iter().filter(|step| matches!(step, Data(_))).count() - 1;
        assert_eq!(rest.uri.to_string(), format!("/v1/responses/resp_1?stream=true&starting_after={number}"));
        assert_eq!((rest.method.as_str(), rest.body.as_str()), ("GET", ""));
        assert!(!rest.headers.contains_key("content-type") && !rest.headers.contains_key("idempotency-key"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_ends_with_its_connection_is_not_asked_for() {
    for background in ["\"background\":false", "\"x\":1"] {
        let created = CREATED.replace("\"background\":true", background).leak();
        let answers = [stream([Data(created), Data(ITEM), Data(HELLO), Fail("cut")])];
        let outcome = send(ResumeLayer::new(), post(RESPONSES, "{}"), answers).await;
        assert_eq!((outcome.text, outcome.error.as_deref()), ([created, ITEM, HELLO].concat(), Some("cut")));
        assert!(outcome.events.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn the_events_of_an_answer_go_on_behind_the_number() {
    let request = events("/v1/responses/resp_1?stream=true&starting_after=1");
    let outcome =
        send(ResumeLayer::new(), request, [stream([Data(HELLO), Fail("cut")]), stream([Data(WORLD), Data(COMPLETED)])])
            .await;
    assert_eq!((outcome.text, outcome.error), ([HELLO, WORLD, COMPLETED].concat(), None));
    assert_eq!(outcome.asked[1].uri, "/v1/responses/resp_1?stream=true&starting_after=2");
}

const CHUNKS: [&str; 4] = [
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n",
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\n",
    ":\n\n",
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
];

fn conversation() -> Request<Full<bytes::Bytes>> {
    let mut request = post("http://h/v1/chat/completions", "{\"stream\":true}");
    request.headers_mut().insert("x-conversation-id", "conv/1".parse().unwrap());
    request
}

#[tokio::test(start_paused = true)]
async fn llama_goes_on_behind_the_bytes() {
    let first = stream([Data(CHUNKS[0]), Data(CHUNKS[1]), Data(CHUNKS[2]), Data("data: {\"id\""), Fail("cut")]);
    let outcome = send(ResumeLayer::new(), conversation(), [first, stream([Data(CHUNKS[3])])]).await;
    assert_eq!((outcome.text, outcome.error), (CHUNKS.concat(), None));
    let bytes = CHUNKS[..3].concat().len();
    assert_eq!(outcome.asked[1].uri.to_string(), format!("http://h/v1/stream?conv_id=conv%2F1&from={bytes}"));
}

#[tokio::test(start_paused = true)]
async fn another_server_is_asked_as_was_said() {
    const A: &str = "data: {\"token\":7}\n\n";
    const B: &str = "data: {\"token\":8}\n\n";
    let layer = ResumeLayer::new().resume_by(ResumeBy::json_pointer("/token").in_json_field("resume_from"));
    let outcome =
        send(layer, post("/generate", r#"{"prompt":"p"}"#), [stream([Data(A), Fail("cut")]), stream([Data(B)])]).await;
    assert_eq!((outcome.text, outcome.error), ([A, B].concat(), None));
    let rest = &outcome.asked[1];
    assert_eq!((rest.method.as_str(), rest.body.as_str()), ("POST", r#"{"prompt":"p","resume_from":7}"#));
    assert_eq!(rest.headers["content-length"], rest.body.len().to_string());

    let layer = ResumeLayer::new().resume_by(ResumeBy::sse_id().resend(true));
    let outcome = send(layer, post("/generate", "same"), [stream([Data(ONE), Fail("cut")]), stream([Data(TWO)])]).await;
    assert_eq!((outcome.text, outcome.error), ([ONE, TWO].concat(), None));
    let rest = &outcome.asked[1];
    assert_eq!(
        (rest.method.as_str(), rest.body.as_str(), &rest.headers["last-event-id"]),
        ("POST", "same", &"1".parse().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn a_byte_order_mark_is_no_part_of_the_rest() {
    let answers =
        [stream([Data("\u{feff}"), Data(ONE), Fail("cut")]), stream([Data("\u{feff}id: 2\nda"), Data("ta: two\n\n")])];
    let outcome = send(ResumeLayer::new(), events("/events"), answers).await;
    assert_eq!((outcome.text, outcome.error), (["\u{feff}", ONE, TWO].concat(), None));
}

#[tokio::test(start_paused = true)]
async fn where_the_last_event_has_no_id_there_is_no_cursor() {
    let answers = [stream([Data(ONE), Data("data: more\n\n"), Fail("cut")])];
    let outcome = send(ResumeLayer::new(), events("/events"), answers).await;
    assert_eq!((outcome.text, outcome.error.as_deref()), ([ONE, "data: more\n\n"].concat(), Some("cut")));
    assert_eq!(outcome.events, ["not_resumed: no-cursor"]);
}

#[tokio::test(start_paused = true)]
async fn lines_that_end_in_crlf_stay_whole_at_the_seam() {
    const A: &str = "id: 1\r\ndata: a\r\n\r\n";
    const B: &str = "id: 2\r\ndata: b\r\n\r\n";
    let cut_after_the_cr = A.split_at(A.len() - 1);
    for first in [
        vec![Data(A), Fail("cut")],
        vec![Data(A), Data("id: 2\r\nda"), Fail("cut")],
        vec![Data(cut_after_the_cr.0), Data(cut_after_the_cr.1), Fail("cut")],
        vec![Data(cut_after_the_cr.0), Data("\nid: 2\r\n"), Fail("cut")],
    ] {
        let outcome = send(ResumeLayer::new(), events("/events"), [stream(first), stream([Data(B)])]).await;
        assert_eq!((outcome.text, outcome.error), ([A, B].concat(), None));
    }
}
