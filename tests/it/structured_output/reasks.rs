//! How a model is asked again, and when not.

use std::time::Duration;

use tower_buttress::{DeadlineLayer, NoRetry, RetryBudget};

use super::*;
use crate::support::{Log, secs};

#[tokio::test(start_paused = true)]
async fn the_model_gets_the_complaint_in_a_call_of_its_own() {
    let (model, log) = (Model::new(&[Says::Text(BAD), Says::Text(GOOD)]), Arc::new(Log::default()));
    let service = StructuredOutputLayer::new().observer(log.clone()).layer(model.service());
    let mut keyed = request();
    keyed.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    keyed.headers_mut().insert("content-digest", "sha-256=:x:".parse().unwrap());
    let response = service.oneshot(keyed).await.unwrap();
    let usage = response.extensions().get::<OutputUsage>().unwrap();
    assert_eq!((usage.calls, usage.usage.input, usage.usage.output), (2, Some(20), Some(10)), "of both calls");

    let asked = model.asked.lock().unwrap();
    let (first, again) = (&asked[0], &asked[1]);
    assert_eq!((first.0["idempotency-key"].as_bytes(), first.0.contains_key("content-digest")), (&b"k"[..], true));
    assert_ne!(again.0["idempotency-key"], "k");
    assert!(!again.0.contains_key("content-digest"));
    assert_eq!(again.0["authorization"], "Bearer a");
    let messages = again.1["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 3);
    assert_eq!(messages[1], json!({ "role": "assistant", "content": BAD }));
    let complaint = messages[2]["content"].as_str().unwrap();
    assert!(complaint.contains("\"city\" is a required property"), "{complaint}");
    assert!(complaint.contains("town") && !complaint.contains("Paris"), "names, not values: {complaint}");
    assert_eq!(log.names(), ["output_asked_again: schema"]);
    assert!(log.events().iter().all(|event| !event.to_string().contains("Paris")));
}

#[tokio::test(start_paused = true)]
async fn after_two_the_answer_is_returned_as_it_is_and_marked() {
    let (model, log) = (Model::new(&[Says::Text("no"), Says::Text("no!"), Says::Text(BAD)]), Arc::new(Log::default()));
    let service = StructuredOutputLayer::new().max_reasks(9).observer(log.clone()).layer(model.service());
    assert_eq!(send(&service, request()).await, got(BAD, Some(OutputFault::Schema), 3));
    assert_eq!(log.names(), ["output_asked_again: syntax", "output_asked_again: syntax", "output_invalid: schema"]);

    let model = Model::new(&[Says::Text(""), Says::Text(" ")]);
    let service = StructuredOutputLayer::new().layer(model.service());
    assert_eq!(send(&service, request()).await.fault, Some(OutputFault::Empty), "an empty answer, once");
    assert_eq!(model.calls(), 2);

    let model = Model::new(&[Says::Text("no")]);
    let service = StructuredOutputLayer::new().max_reasks(0).layer(model.service());
    assert_eq!(send(&service, request()).await, got("no", Some(OutputFault::Syntax), 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_to_be_made_again_is_made_once() {
    for says in [BAD, ""] {
        let model = Model::new(&[Says::Text(says)]);
        let mut request = request();
        request.extensions_mut().insert(NoRetry);
        let got = send(&StructuredOutputLayer::new().layer(model.service()), request).await;
        assert!(got.fault.is_some() && model.calls() == 1, "{got:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_second_call_fails_the_first_answer_counts() {
    let cut = vec![Step::Data("{\"choices\""), Step::Fail("cut")];
    let breaks_off = Says::Raw(200, vec![("content-type", "application/json")], cut);
    for failure in [Says::Break, Says::Raw(503, vec![], vec![Step::Data("down")]), breaks_off] {
        let model = Model::new(&[Says::Text(BAD), failure]);
        let service = StructuredOutputLayer::new().layer(model.service());
        assert_eq!(send(&service, request()).await, got(BAD, Some(OutputFault::Schema), 1));
    }
    // Nor does one take its place that cannot be looked at. What that has cost is not known.
    let long: &'static str = Box::leak(answer(&"x".repeat(2_000)).into_boxed_str());
    for (kind, body) in [("text/plain", "what?"), ("application/json", long)] {
        let model =
            Model::new(&[Says::Text(BAD), Says::Raw(200, vec![("content-type", kind)], vec![Step::Data(body)])]);
        let service = StructuredOutputLayer::new().max_answer(1_000).layer(model.service());
        let response = service.oneshot(request()).await.unwrap();
        let usage = response.extensions().get::<OutputUsage>().unwrap();
        assert_eq!((usage.calls, usage.usage.input, usage.usage.output), (2, Some(10), Some(5)), "{kind}");
        assert_eq!(InvalidOutput::of(&response).unwrap().fault, OutputFault::Schema);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), answer(BAD));
    }
    let model = Model::new(&[Says::Break]);
    assert!(StructuredOutputLayer::new().layer(model.service()).oneshot(request()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_error_or_a_cut_answer_takes_the_place_of_no_whole_one() {
    let ends = |end: &str| answer(GOOD).replace("\"stop\"", &format!("\"{end}\""));
    let says = |body: String| {
        let body: &'static str = Box::leak(body.into_boxed_str());
        Says::Raw(200, vec![("content-type", "application/json")], vec![Step::Data(body)])
    };
    let error = json!({ "error": { "message": "overloaded", "code": 529 } }).to_string();
    let cut = answer(GOOD)[..40].to_owned();
    for second in [error, cut, ends("length"), ends("made_up")] {
        let model = Model::new(&[Says::Text(BAD), says(second.clone())]);
        let got_first = send(&StructuredOutputLayer::new().layer(model.service()), request()).await;
        assert_eq!(got_first, got(BAD, Some(OutputFault::Schema), 2), "{second}");
    }
    // What the model itself decided is the answer.
    for second in
        [ends("content_filter"), answer("").replace("\"content\":\"\"", "\"content\":null,\"refusal\":\"No.\"")]
    {
        let model = Model::new(&[Says::Text(BAD), says(second.clone())]);
        let response = StructuredOutputLayer::new().layer(model.service()).oneshot(request()).await.unwrap();
        assert_eq!(InvalidOutput::of(&response), None, "{second}");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), second);
    }
}

#[tokio::test(start_paused = true)]
async fn of_answers_that_are_all_invalid_the_nearest_is_returned() {
    for (says, text, fault) in [
        ([BAD, "no", ""], BAD, OutputFault::Schema),
        (["no", BAD, "no!"], BAD, OutputFault::Schema),
        (["no", "no!", ""], "no!", OutputFault::Syntax),
        ([BAD, "{}", "no"], "{}", OutputFault::Schema),
    ] {
        let model = Model::new(&says.map(Says::Text));
        let service = StructuredOutputLayer::new().layer(model.service());
        assert_eq!(send(&service, request()).await, got(text, Some(fault), 3), "{says:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_time_or_budget_nothing_is_asked_again() {
    let model = Model::new(&[Says::Text(BAD)]);
    let slow = {
        let model = model.service();
        service_fn(move |request: Request<CallBody>| {
            let model = model.clone();
            async move {
                tokio::time::sleep(secs(6)).await;
                model.oneshot(request).await
            }
        })
    };
    let service = DeadlineLayer::new(secs(10)).layer(StructuredOutputLayer::new().layer(slow));
    assert_eq!(send(&service, request()).await, got(BAD, Some(OutputFault::Schema), 1));

    let model = Model::new(&[Says::Text(BAD)]);
    let budget = RetryBudget::new(0, 0, Duration::from_secs(1));
    let service = StructuredOutputLayer::new().budget(budget).layer(model.service());
    assert_eq!(send(&service, request()).await, got(BAD, Some(OutputFault::Schema), 1));
}

#[tokio::test(start_paused = true)]
async fn each_dialect_is_asked_again_in_its_own_form() {
    let schema = schema();
    let is_json = || vec![("content-type", "application/json")];
    let said = |body: Value| -> Says {
        let body: &'static str = Box::leak(body.to_string().into_boxed_str());
        Says::Raw(200, is_json(), vec![Step::Data(body)])
    };
    type Dialect = (&'static str, Value, fn(&str) -> Value, &'static str);
    let dialects: [Dialect; 5] = [
        (
            "/v1/responses",
            json!({ "input": "q", "text": { "format": { "type": "json_schema", "schema": schema } } }),
            |text| json!({ "status": "completed", "usage": { "input_tokens": 10, "output_tokens": 5 }, "output": [{ "type": "message", "content": [{ "type": "output_text", "text": text }] }] }),
            "/input/2/content",
        ),
        (
            "/v1/messages",
            json!({ "messages": [{ "role": "user", "content": "q" }], "output_config": { "format": { "type": "json_schema", "schema": schema } } }),
            |text| json!({ "type": "message", "usage": { "input_tokens": 10, "output_tokens": 5 }, "content": [{ "type": "text", "text": text }], "stop_reason": "end_turn" }),
            "/messages/2/content",
        ),
        (
            "/v1beta/models/g:generateContent",
            json!({ "contents": [{ "parts": [{ "text": "q" }] }], "generationConfig": { "responseJsonSchema": schema } }),
            |text| json!({ "candidates": [{ "content": { "parts": [{ "text": text }] }, "finishReason": "STOP" }], "usageMetadata": { "promptTokenCount": 10, "candidatesTokenCount": 3, "thoughtsTokenCount": 2 } }),
            "/contents/2/parts/0/text",
        ),
        (
            "/v2/chat",
            json!({ "messages": [{ "role": "user", "content": "q" }], "response_format": { "type": "json_object", "schema": schema } }),
            |text| json!({ "finish_reason": "COMPLETE", "usage": { "tokens": { "input_tokens": 10, "output_tokens": 5 } }, "message": { "content": [{ "type": "text", "text": text }] } }),
            "/messages/2/content",
        ),
        (
            "/api/chat",
            json!({ "messages": [{ "role": "user", "content": "q" }], "format": schema, "stream": false }),
            |text| json!({ "model": "m", "message": { "content": text }, "done": true, "done_reason": "stop", "prompt_eval_count": 10, "eval_count": 5 }),
            "/messages/2/content",
        ),
    ];
    for (path, body, answer, complaint) in dialects {
        let model = Model::new(&[said(answer(BAD)), said(answer(&format!("So: {GOOD}")))]);
        let service = StructuredOutputLayer::new().layer(model.service());
        let response = service.oneshot(post(path, &body)).await.unwrap();
        let usage = *response.extensions().get::<OutputUsage>().unwrap();
        assert_eq!((usage.calls, usage.usage.input, usage.usage.output), (2, Some(20), Some(10)), "{path}");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), answer(GOOD).to_string(), "{path}");
        let asked = model.asked.lock().unwrap()[1].1.clone();
        let complaint = asked.pointer(complaint).and_then(Value::as_str).unwrap();
        assert!(complaint.contains("required property"), "{path}: {complaint}");
    }
}

/// A request that offers a tool, and may have to call it.
fn tool_request(choice: &str) -> Request<Full<Bytes>> {
    let tool = json!({ "type": "function", "function": { "name": "weather", "parameters": schema() } });
    let messages = json!([{ "role": "user", "content": "Which?" }]);
    post("/v1/chat/completions", &json!({ "messages": messages, "tools": [tool], "tool_choice": choice }))
}

fn calls_tool(arguments: &str) -> Says {
    let call = json!({ "id": "t", "type": "function", "function": { "name": "weather", "arguments": arguments } });
    let body = json!({
        "choices": [{ "index": 0, "message": { "content": null, "tool_calls": [call] }, "finish_reason": "tool_calls" }],
        "usage": { "prompt_tokens": 10, "completion_tokens": 5 },
    });
    let body: &'static str = Box::leak(body.to_string().into_boxed_str());
    Says::Raw(200, vec![("content-type", "application/json")], vec![Step::Data(body)])
}

#[tokio::test(start_paused = true)]
async fn calls_of_tools_are_checked_where_that_is_asked_for() {
    for choice in ["auto", "required"] {
        let (model, log) =
            (Model::new(&[calls_tool(BAD), calls_tool("{"), calls_tool(GOOD)]), Arc::new(Log::default()));
        let service = StructuredOutputLayer::new().tool_calls(true).observer(log.clone()).layer(model.service());
        let response = service.oneshot(tool_request(choice)).await.unwrap();
        let usage = response.extensions().get::<OutputUsage>().unwrap();
        assert_eq!((usage.calls, usage.usage.output, InvalidOutput::of(&response)), (3, Some(15), None));
        let body: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], GOOD);
        assert_eq!(log.names(), ["output_asked_again: schema", "output_asked_again: syntax"]);
        let asked = model.asked.lock().unwrap();
        let messages = &asked[1].1["messages"];
        assert_eq!(messages[1], json!({ "role": "assistant", "content": format!("weather({BAD})") }));
        let complaint = messages[2]["content"].as_str().unwrap();
        assert!(complaint.contains("weather: \"city\" is a required property") && !complaint.contains("Paris"));
    }

    let model = Model::new(&[calls_tool(BAD), calls_tool(BAD), calls_tool(BAD)]);
    let service = StructuredOutputLayer::new().tool_calls(true).layer(model.service());
    assert_eq!(
        send(&service, tool_request("auto")).await.fault,
        Some(OutputFault::Schema),
        "what stays wrong is marked"
    );

    // A text is no call, and where no JSON is asked for it may say anything.
    let model = Model::new(&[Says::Text("Paris")]);
    let service = StructuredOutputLayer::new().tool_calls(true).layer(model.service());
    assert_eq!(send(&service, tool_request("auto")).await, got("Paris", None, 1));

    let model = Model::new(&[calls_tool(BAD)]);
    let passed = send(&StructuredOutputLayer::new().layer(model.service()), tool_request("auto")).await;
    assert_eq!((passed.fault, passed.calls), (None, None), "they pass by default");
}
