//! Which answers are looked at, and what becomes of them.

use tower_buttress::OutputSchema;

use super::*;
use crate::support::Log;

#[tokio::test(start_paused = true)]
async fn an_answer_in_its_form_is_returned_byte_for_byte() {
    let spaced = format!(" {} \n", answer(GOOD));
    let body: &'static str = Box::leak(spaced.into_boxed_str());
    let headers = vec![("content-type", "application/json"), ("etag", "\"e\"")];
    let model =
        Model::new(&[Says::Raw(200, headers, vec![Step::Data(&body[..30]), Step::Data(&body[30..]), Step::Trailers])]);
    let log = Arc::new(Log::default());
    let service = StructuredOutputLayer::new().observer(log.clone()).layer(model.service());
    let response = service.oneshot(request()).await.unwrap();
    assert_eq!(response.headers()["etag"], "\"e\"");
    let usage = response.extensions().get::<OutputUsage>().unwrap();
    assert_eq!((usage.calls, usage.usage.input, usage.usage.output), (1, Some(10), Some(5)));
    let body_read = response.into_body().collect().await.unwrap();
    assert!(body_read.trailers().is_some());
    assert_eq!(body_read.to_bytes(), body);
    assert!(log.names().is_empty());
    // The request too.
    assert_eq!(model.asked.lock().unwrap()[0].1["messages"].as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_a_sentence_takes_the_place_of_the_text() {
    for said in [
        "Sure! Here it is:\n```json\n{\"city\":\"Paris\"}\n```",
        "{\"city\":\"Paris\",}",
        "The answer [1] is {\"city\":\"Paris\"}.",
    ] {
        let model = Model::new(&[Says::Text(said)]);
        let response = StructuredOutputLayer::new().layer(model.service()).oneshot(request()).await.unwrap();
        assert!(!response.headers().contains_key("etag"), "it is another answer");
        let length = response.headers()["content-length"].to_str().unwrap().parse::<usize>().unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(length, body.len());
        assert_eq!(body, answer(GOOD), "{said}");
    }
    // What was said of its bytes, before and after them, is said no more.
    let said: &'static str = Box::leak(answer("{\"city\":\"Paris\",}").into_boxed_str());
    let headers = vec![("content-type", "application/json"), ("signature", "sig=:x:"), ("digest", "sha-256=x")];
    let model = Model::new(&[Says::Raw(200, headers, vec![Step::Data(said), Step::Trailers])]);
    let response = StructuredOutputLayer::new().layer(model.service()).oneshot(request()).await.unwrap();
    assert!(!response.headers().contains_key("signature") && !response.headers().contains_key("digest"));
    let read = response.into_body().collect().await.unwrap();
    assert!(!read.trailers().is_some_and(|trailers| trailers.contains_key("x-checksum")));
    assert_eq!(read.to_bytes(), answer(GOOD));
    let model = Model::new(&[Says::Text("Sure: {\"city\":\"Paris\"}"), Says::Text(GOOD)]);
    let service = StructuredOutputLayer::new().extract(false).layer(model.service());
    assert_eq!(send(&service, request()).await, got(GOOD, None, 2), "asked again where nothing may be changed");
}

#[tokio::test(start_paused = true)]
async fn refusals_filters_limits_and_tools_are_returned_as_they_are() {
    let ends = |end: &str| answer("no JSON").replace("\"stop\"", &format!("\"{end}\""));
    for body in [
        ends("length"),
        ends("content_filter"),
        ends("made_up"),
        answer("no").replace("\"content\":\"no\"", "\"content\":\"no\",\"refusal\":\"I will not.\""),
        answer("no").replace(
            "\"content\":\"no\"",
            "\"content\":null,\"tool_calls\":[{\"id\":\"t\",\"function\":{\"name\":\"f\"}}]",
        ),
        json!({ "error": { "message": "no", "code": 500 } }).to_string(),
        "{\"choices\":[{\"message\":{\"content\":\"cut".to_owned(),
    ] {
        let body: &'static str = Box::leak(body.into_boxed_str());
        let model = Model::new(&[Says::Raw(200, vec![("content-type", "application/json")], vec![Step::Data(body)])]);
        let service = StructuredOutputLayer::new().layer(model.service());
        let response = service.oneshot(request()).await.unwrap();
        assert_eq!(InvalidOutput::of(&response), None);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_no_attempt_at_json_pass() {
    let plain = post("/v1/chat/completions", &json!({ "messages": [] }));
    let text = || Says::Text("Paris");
    for (says, request) in [
        (text(), plain),
        (text(), request_with(&json!({ "type": "text" }))),
        (text(), post("/v1/embeddings", &json!({ "response_format": { "type": "json_object" } }))),
        (text(), post("/v1/chat/completions", &json!({ "n": 2, "response_format": { "type": "json_object" } }))),
        (
            text(),
            post("/v1/chat/completions", &json!({ "stream": true, "response_format": { "type": "json_object" } })),
        ),
        (
            text(),
            post(
                "/v1/chat/completions",
                &json!({ "tool_choice": "required", "response_format": { "type": "json_object" } }),
            ),
        ),
        // What follows behind a "{" that the caller wrote is no JSON by itself.
        (
            text(),
            post(
                "/v1/chat/completions",
                &json!({
                    "messages": [{ "role": "user", "content": "Which?" }, { "role": "assistant", "content": "{" }],
                    "response_format": { "type": "json_object" },
                }),
            ),
        ),
        (Says::Raw(503, vec![], vec![Step::Data("Paris")]), request()),
        (Says::Raw(200, vec![("content-type", "text/plain")], vec![Step::Data("Paris")]), request()),
        (
            Says::Raw(
                200,
                vec![("content-type", "application/json"), ("content-encoding", "gzip")],
                vec![Step::Data("Paris")],
            ),
            request(),
        ),
    ] {
        let model = Model::new(&[says]);
        let got = send(&StructuredOutputLayer::new().layer(model.service()), request).await;
        assert_eq!((got.text.as_str(), got.fault, got.calls), ("Paris", None, None));
    }
    let model = Model::new(&[text()]);
    assert_eq!(send(&StructuredOutputLayer::disabled().layer(model.service()), request()).await.text, "Paris");
}

#[tokio::test(start_paused = true)]
async fn a_schema_may_be_given_by_the_layer_or_the_request() {
    let other = OutputSchema::new(&json!({ "type": "object", "required": ["town"] })).unwrap();
    let plain = || post("/v1/chat/completions", &json!({ "messages": [{ "role": "user", "content": "q" }] }));
    let model = Model::new(&[Says::Text(GOOD), Says::Text(BAD)]);
    let service = StructuredOutputLayer::new().schema(other.clone()).layer(model.service());
    assert_eq!(send(&service, plain()).await, got(BAD, None, 2), "the layer's");

    let model = Model::new(&[Says::Text(GOOD), Says::Text(BAD)]);
    let mut given = request();
    given.extensions_mut().insert(other);
    assert_eq!(
        send(&StructuredOutputLayer::new().layer(model.service()), given).await,
        got(BAD, None, 2),
        "the request's"
    );
}

#[tokio::test(start_paused = true)]
async fn a_schema_beyond_the_bounds_is_not_used_and_json_is_asked_for_all_the_same() {
    for hostile in [
        json!({ "$ref": "#" }),
        json!({ "$ref": "http://169.254.169.254/latest" }),
        json!({ "type": "object", "pattern": "(?=a)" }),
        json!({ "description": "x".repeat(70_000) }),
        json!({ "type": 1 }),
    ] {
        let (model, log) = (Model::new(&[Says::Text("no"), Says::Text("[1]")]), Arc::new(Log::default()));
        let service = StructuredOutputLayer::new().observer(log.clone()).layer(model.service());
        let format = json!({ "type": "json_schema", "json_schema": { "schema": hostile } });
        assert_eq!(send(&service, request_with(&format)).await, got("[1]", None, 2));
        assert_eq!(log.names(), ["bypassed: structured-output", "output_asked_again: syntax"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_long_or_breaks_off_passes() {
    let (model, log) = (Model::new(&[Says::Text(BAD)]), Arc::new(Log::default()));
    let service = StructuredOutputLayer::new().max_answer(20).observer(log.clone()).layer(model.service());
    let long = send(&service, request()).await;
    assert_eq!((long.text.as_str(), long.fault, long.calls), (BAD, None, None));
    assert_eq!(log.names(), ["bypassed: structured-output"]);

    let cut = vec![Step::Data("{\"choices\""), Step::Fail("cut")];
    let model = Model::new(&[Says::Raw(200, vec![("content-type", "application/json")], cut)]);
    let response = StructuredOutputLayer::new().layer(model.service()).oneshot(request()).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn a_large_answer_is_looked_at_too() {
    let text: &'static str = Box::leak(format!("Here: {{\"city\":\"{}\"}}", "x".repeat(200_000)).into_boxed_str());
    let model = Model::new(&[Says::Text(text)]);
    let got = send(&StructuredOutputLayer::new().layer(model.service()), request()).await;
    assert_eq!((got.text.as_str(), got.calls), (&text[6..], Some(1)));
}

#[tokio::test(start_paused = true)]
async fn a_held_stream_is_checked_and_returned_as_it_came() {
    let model = Model::new(&[held_stream(&["{\"town\":", "1}"]), held_stream(&["{\"city\":", "\"Paris\"}"])]);
    let service = StructuredOutputLayer::new().hold_streams(64 * 1024).layer(model.service());
    let checked = send(&service, streaming_request()).await;
    let good = [chunk("{\"city\":"), chunk("\"Paris\"}"), STREAM_END].concat();
    assert_eq!((checked.text, checked.fault, checked.calls), (good, None, Some(2)));

    // In a sentence: the stream cannot be changed. One that is cut takes the place of no whole one.
    let is_stream = || vec![("content-type", "text/event-stream")];
    let cut = || Says::Raw(200, is_stream(), vec![Step::Data(chunk("no"))]);
    let error = || Says::Raw(200, is_stream(), vec![Step::Data("data: {\"error\":{\"message\":\"overloaded\"}}\n\n")]);
    let spoken = "Here: {\"city\":\"Paris\"}";
    let first = [chunk(spoken), STREAM_END].concat();
    for second in [cut(), error()] {
        let model = Model::new(&[held_stream(&[spoken]), second]);
        let service = StructuredOutputLayer::new().hold_streams(64 * 1024).layer(model.service());
        let kept = send(&service, streaming_request()).await;
        assert_eq!((kept.text.as_str(), kept.fault, kept.calls), (first.as_str(), Some(OutputFault::Syntax), Some(2)));
    }
    // Where there is no other, it is for a stream guard.
    let model = Model::new(&[cut()]);
    let service = StructuredOutputLayer::new().hold_streams(64 * 1024).layer(model.service());
    let passed = send(&service, streaming_request()).await;
    assert_eq!((passed.text.as_str(), passed.fault, passed.calls), (chunk("no"), None, Some(1)));

    let model = Model::new(&[held_stream(&["no"])]);
    let passed = send(&StructuredOutputLayer::new().layer(model.service()), streaming_request()).await;
    assert_eq!((passed.fault, passed.calls), (None, None), "streams pass by default");
}

/// A check that other calls would wait for is made where they do not.
#[test]
fn a_schema_that_costs_much_holds_up_no_other_call_though_the_answer_is_short() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_time().build().unwrap();
    runtime.block_on(async {
        // Within the bounds: 6,000 parts for each item.
        let all: Vec<_> = (0..3_000).map(|_| json!({ "type": "string" })).collect();
        let costly = OutputSchema::new(&json!({ "items": { "allOf": all } })).unwrap();
        let costly_by_pattern = OutputSchema::new(&json!({ "items": { "pattern": "^(a|b)+$" } })).unwrap();
        let usual = OutputSchema::new(&json!({ "items": { "type": "string" } })).unwrap();
        // The only thread for blocking work has something to do.
        let (release, released) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || released.recv());
        let model =
            Model::new(&[Says::Text("[\"a\",\"b\"]"), Says::Text("[\"a\",\"b\"]"), Says::Text("[\"a\",\"b\"]")]);
        let check = |schema: OutputSchema| {
            let service = StructuredOutputLayer::new().schema(schema).layer(model.service());
            tokio::spawn(async move { send(&service, request()).await })
        };
        assert_eq!(check(usual).await.unwrap().calls, Some(1), "a usual check is made at once");
        let costly = [check(costly), check(costly_by_pattern)];
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(costly.iter().all(|check| !check.is_finished()), "others go on");
        release.send(()).unwrap();
        busy.await.unwrap().unwrap();
        for check in costly {
            assert_eq!(check.await.unwrap().fault, None);
        }
    });
}
