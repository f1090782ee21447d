//! What providers send that is easily taken for something else.

use crate::proto::dialect::{AnswerReader, End, Framing, Kind, StreamReader};

use super::{Read, at_once};

fn sse(kind: Kind, events: &[&str]) -> Read {
    let stream: String = events.iter().map(|data| format!("data: {data}\n\n")).collect();
    at_once(kind, Framing::EventStream, &stream)
}

fn failed(read: &Read) -> bool {
    read.facts.iter().any(|fact| fact.starts_with("Fault"))
}

const HELLO: &str = r#"{"choices":[{"index":0,"delta":{"content":"hello"}}]}"#;
const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const DONE: &str = "[DONE]";

#[test]
fn done_proves_nothing() {
    let read = sse(Kind::OpenAiChat, &[HELLO, DONE]);
    assert_eq!((read.ended, read.closed), (None, true));
    let read = sse(Kind::OpenAiChat, &[HELLO, r#"{"choices":[{"index":0,"delta":{},"finish_reason":""}]}"#, DONE]);
    assert_eq!((read.ended, read.closed), (None, true), "an empty reason is none");
}

#[test]
fn done_may_be_missing() {
    assert_eq!(sse(Kind::OpenAiChat, &[HELLO, STOP]).ended, Some(End::Whole));
}

#[test]
fn done_behind_an_error_does_not_mend_it() {
    for error in [
        r#"{"error":{"message":"The server had an error","type":"server_error","code":null}}"#,
        r#"{"object":"error","message":"EngineDead","type":"InternalServerError","code":500}"#,
        r#"{"id":"gen","choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}],"error":{"code":502,"message":"x"}}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"insufficient_system_resource"}]}"#,
    ] {
        for events in [&[HELLO, error, DONE][..], &[HELLO, error, STOP, DONE], &[error, DONE], &[error]] {
            let read = sse(Kind::OpenAiChat, events);
            assert!(failed(&read) && read.ended.is_none(), "{error}: {:?}", read.facts);
        }
    }
}

#[test]
fn an_error_where_no_reader_looks_is_found() {
    let stream =
        format!("data: {HELLO}\n\nerror: {{\"code\":500,\"message\":\"slot gone\",\"type\":\"server_error\"}}\n\n");
    let read = at_once(Kind::OpenAiChat, Framing::EventStream, &stream);
    assert!(failed(&read) && read.ended.is_none(), "{:?}", read.facts);

    let chunk = r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}"#;
    let stream = format!(
        "data: {chunk}\r\n\r\n{{\n  \"error\": {{\n    \"code\": 503,\n    \"status\": \"UNAVAILABLE\"\n  }}\n}}\n"
    );
    let read = at_once(Kind::Gemini, Framing::EventStream, &stream);
    assert!(failed(&read) && read.ended.is_none(), "{:?}", read.facts);
    let in_array = at_once(Kind::Gemini, Framing::Array, &format!("[{chunk},\n{{\"error\":{{\"code\":503}}}}]"));
    assert!(failed(&in_array) && in_array.ended.is_none());
}

#[test]
fn an_error_needs_no_end_of_its_last_line() {
    let quota = r#"{"error":{"message":"x","code":"insufficient_quota"}}"#;
    let gemini = r#"{"error":{"code":429,"message":"x","status":"RESOURCE_EXHAUSTED"}}"#;
    let anthropic = r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#;
    let ended = r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error"}}}"#;
    let cohere = r#"{"type":"message-end","delta":{"finish_reason":"ERROR","error":"x"}}"#;
    for (kind, error) in [
        (Kind::OpenAiChat, quota.to_owned()),
        (Kind::OpenAiChat, quota.replace(",", "\n,\n")),
        (Kind::OpenAiChat, format!("error: {quota}")),
        (Kind::OpenAiChat, format!("data: {quota}")),
        (Kind::OpenAiChat, format!("data: {quota}\n")),
        (Kind::OpenAiResponses, format!("event: response.failed\ndata: {ended}")),
        (Kind::Anthropic, anthropic.to_owned()),
        (Kind::Anthropic, format!("event: error\ndata: {anthropic}\n")),
        (Kind::Gemini, format!("data: {gemini}\r\n")),
        (Kind::Gemini, gemini.replace(":{", ": {\r\n  ")),
        (Kind::Cohere, format!("event: message-end\ndata: {cohere}")),
    ] {
        for end in ["", "\n\n"] {
            let read = at_once(kind, Framing::EventStream, &format!("{error}{end}"));
            assert!(failed(&read) && read.facts.len() == 1, "{error}{end}: {:?}", read.facts);
        }
    }
}

#[test]
fn an_event_without_its_end_says_nothing_but_an_error() {
    for event in [HELLO, STOP, DONE] {
        for end in ["", "\n"] {
            let read = at_once(Kind::OpenAiChat, Framing::EventStream, &format!("data: {HELLO}\n\ndata: {event}{end}"));
            assert_eq!((read.facts.len(), read.ended, read.closed), (1, None, false), "{event}");
        }
    }
}

#[test]
fn the_marker_of_an_end_needs_no_blank_line() {
    for (events, marker, ended) in [
        ([HELLO, STOP].as_slice(), "[DONE]", Some(End::Whole)),
        (&[HELLO], "[DONE]", None),
        (&[HELLO, STOP], "[DO", None),
    ] {
        let before: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        for end in ["", "\n"] {
            let read = at_once(Kind::OpenAiChat, Framing::EventStream, &format!("{before}data: {marker}{end}"));
            assert_eq!(read.ended, ended, "{before}{marker}");
        }
    }
}

#[test]
fn the_reason_may_come_with_the_last_piece_of_text() {
    let last = r#"{"choices":[{"index":0,"delta":{"content":"!"},"finish_reason":"stop"}]}"#;
    let read = sse(Kind::OpenAiChat, &[HELLO, last]);
    assert_eq!((read.ended, read.text.as_str()), (Some(End::Whole), "hello!"));
}

#[test]
fn usage_may_follow_the_reason() {
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    assert_eq!(sse(Kind::OpenAiChat, &[HELLO, STOP, usage, DONE]).ended, Some(End::Whole));
}

#[test]
fn every_choice_must_end() {
    let other = r#"{"choices":[{"index":1,"delta":{"role":"assistant","content":""}}]}"#;
    let read = sse(Kind::OpenAiChat, &[HELLO, other, STOP, DONE]);
    assert_eq!(
        (read.ended, read.closed),
        (None, false),
        "the marker excuses nothing where another choice has a reason"
    );
    let last = r#"{"choices":[{"index":1,"delta":{},"finish_reason":"content_filter"}]}"#;
    assert_eq!(sse(Kind::OpenAiChat, &[HELLO, other, STOP, last, DONE]).ended, Some(End::Filtered));
}

#[test]
fn a_choice_that_begins_behind_the_end_of_another_is_not_lost() {
    let chat = |choice: u32, more: &str| {
        format!("data: {{\"choices\":[{{\"index\":{choice},\"delta\":{{\"content\":\"a\"}}{more}}}]}}\n\n")
    };
    let gemini = |choice: u32, more: &str| {
        format!(
            "data: {{\"candidates\":[{{\"index\":{choice},\"content\":{{\"parts\":[{{\"text\":\"a\"}}]}}{more}}}]}}\n\n"
        )
    };
    let check = |kind, first: String, second: String| {
        for cut in 1..second.len() - 1 {
            let read = at_once(kind, Framing::EventStream, &[&first, &second[..cut]].concat());
            assert_eq!(read.ended, None, "{kind:?}, cut at {cut}");
        }
        assert_eq!(at_once(kind, Framing::EventStream, &[first, second].concat()).ended, Some(End::Whole));
    };
    let stop = ",\"finish_reason\":\"stop\"";
    check(Kind::OpenAiChat, chat(0, "") + &chat(0, stop), chat(1, stop));
    let stop = ",\"finishReason\":\"STOP\"";
    check(Kind::Gemini, gemini(0, "") + &gemini(0, stop), gemini(1, stop));
}

#[test]
fn an_array_that_goes_on_as_something_else_is_not_whole() {
    let element = r#"{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}]}"#;
    for (behind, end) in [("]", Some(End::Whole)), ("", None), (",", None), ("oops", None), (",1]", None)] {
        assert_eq!(at_once(Kind::Gemini, Framing::Array, &format!("[{element}{behind}")).ended, end, "{behind}");
    }
}

#[test]
fn reasons_that_are_not_known_are_an_end_and_not_a_whole_one() {
    let reason = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tired"}]}"#;
    assert_eq!(sse(Kind::OpenAiChat, &[HELLO, reason, DONE]).ended, Some(End::Unknown));
    let gemini = r#"{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"TIRED"}]}"#;
    assert_eq!(sse(Kind::Gemini, &[gemini]).ended, Some(End::Unknown));
}

#[test]
fn the_models_of_ollama_may_be_lost() {
    let lines = |last: &str| {
        let stream = format!("{{\"model\":\"m\",\"message\":{{\"content\":\"a\"}},\"done\":false}}\n{last}\n");
        at_once(Kind::Ollama, Framing::Lines, &stream)
    };
    let read = lines(r#"{"model":"m","message":{"content":""},"done":true,"done_reason":""}"#);
    assert!(failed(&read) && read.ended.is_none());
    let read = lines(r#"{"model":"m","message":{"content":""},"done":true}"#);
    assert_eq!((read.ended, read.closed), (None, true));
    assert!(failed(&lines(r#"{"error":"an error was encountered while running the model"}"#)));
    assert_eq!(lines(r#"{"model":"m","done":true,"done_reason":"length"}"#).ended, Some(End::Limit));
}

#[test]
fn gemini_may_want_to_be_asked_for_the_rest() {
    let part = r#"{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"CONTINUATION"}],"continuationToken":"t"}"#;
    assert_eq!(sse(Kind::Gemini, &[part]).ended, Some(End::Paused));
}

#[test]
fn gemini_blocks_prompts_and_answers_without_a_candidate() {
    assert_eq!(sse(Kind::Gemini, &[r#"{"promptFeedback":{"blockReason":"SAFETY"}}"#]).ended, Some(End::Filtered));
    let broken =
        r#"{"candidates":[{"content":{},"finishReason":"MALFORMED_FUNCTION_CALL","finishMessage":"Malformed"}]}"#;
    assert!(failed(&sse(Kind::Gemini, &[broken])));
}

#[test]
fn responses_may_fail_behind_their_start() {
    let created =
        r#"{"type":"response.created","sequence_number":0,"response":{"id":"r","status":"in_progress","error":null}}"#;
    for error in [
        r#"{"type":"error","code":"insufficient_quota","message":"You exceeded","param":null,"sequence_number":1}"#,
        r#"{"type":"error","sequence_number":1,"error":{"type":"insufficient_quota","code":"insufficient_quota","message":"x"}}"#,
        r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"insufficient_quota","message":"x"}}}"#,
    ] {
        let read = sse(Kind::OpenAiResponses, &[created, error, DONE]);
        assert!(read.facts.iter().any(|fact| fact.contains("insufficient_quota")), "{:?}", read.facts);
        assert_eq!((read.ended, read.closed), (None, false));
    }
}

#[test]
fn responses_tell_how_they_are_incomplete() {
    let end = |details: &str| {
        sse(
            Kind::OpenAiResponses,
            &[&format!(r#"{{"type":"response.incomplete","response":{{"status":"incomplete","incomplete_details":{details}}}}}"#)],
        )
        .ended
    };
    assert_eq!(end(r#"{"reason":"max_output_tokens"}"#), Some(End::Limit));
    assert_eq!(end(r#"{"reason":"content_filter"}"#), Some(End::Filtered));
    assert_eq!(end("null"), Some(End::Unknown));
}

#[test]
fn responses_are_completed_if_their_status_says_so() {
    let completed = |response: &str| {
        let read =
            sse(Kind::OpenAiResponses, &[&format!(r#"{{"type":"response.completed","response":{{{response}}}}}"#)]);
        (read.ended, read.facts.iter().any(|fact| fact.contains("server_error")))
    };
    assert_eq!(completed(r#""status":"failed","error":{"code":"server_error","message":"x"}"#), (None, true));
    let limit = r#""status":"incomplete","incomplete_details":{"reason":"max_output_tokens"}"#;
    assert_eq!(completed(limit), (Some(End::Limit), false));
    assert_eq!(completed(r#""status":"cancelled""#), (Some(End::Unknown), false));
    assert_eq!(completed(r#""status":"in_progress""#), (Some(End::Unknown), false));
    for whole in ["", r#""status":null"#, r#""status":"completed","error":null"#] {
        assert_eq!(completed(whole), (Some(End::Whole), false), "{whole}");
    }
}

#[test]
fn anthropic_needs_both_a_reason_and_a_stop() {
    let reason = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#;
    let stop = r#"{"type":"message_stop"}"#;
    let read = sse(Kind::Anthropic, &[reason]);
    assert_eq!((read.ended, read.closed), (None, false));
    let read = sse(Kind::Anthropic, &[stop]);
    assert_eq!((read.ended, read.closed), (None, true));
    assert_eq!(sse(Kind::Anthropic, &[reason, stop]).ended, Some(End::Whole));
    let paused = r#"{"type":"message_delta","delta":{"stop_reason":"pause_turn"}}"#;
    assert_eq!(sse(Kind::Anthropic, &[paused, stop]).ended, Some(End::Paused));
}

#[test]
fn a_ping_need_not_be_json() {
    let kinds = [Kind::OpenAiChat, Kind::OpenAiResponses, Kind::Anthropic, Kind::Gemini, Kind::Cohere];
    for kind in kinds {
        for event in [
            "event: ping\ndata:\n\n",
            "event: ping\ndata: 1764201600\n\n",
            "event: keepalive\ndata: ok\n\n",
            "event: keep-alive\ndata\n\n",
            "event: heartbeat\ndata: \"2026-11-27T00:00:00Z\"\n\n",
            "event: open\ndata:\n\n",
            "data:\n\n",
        ] {
            for reader in
                [StreamReader::new(Some(kind), Framing::EventStream), StreamReader::of(kind, Framing::EventStream)]
            {
                assert_eq!(super::read(reader, [event.as_bytes()]).facts, ["KeepAlive"], "{kind:?}: {event}");
            }
        }
        let error = "event: ping\ndata: {\"error\":{\"message\":\"x\"}}\n\n";
        assert!(failed(&at_once(kind, Framing::EventStream, error)), "{kind:?}");
    }
    assert!(failed(&at_once(Kind::Anthropic, Framing::EventStream, "event: error\ndata:\n\n")));
}

#[test]
fn a_call_of_a_tool_begins_with_its_item() {
    let added =
        r#"{"type":"response.output_item.added","output_index":1,"item":{"type":"function_call","name":"look"}}"#;
    assert_eq!(sse(Kind::OpenAiResponses, &[added]).facts, ["0 ToolCall { index: 1 } \"look\""]);
    let message = r#"{"type":"response.output_item.added","output_index":1,"item":{"type":"message","name":"x"}}"#;
    assert_eq!(sse(Kind::OpenAiResponses, &[message]).facts, ["Other"]);
}

#[test]
fn the_numbers_of_responses_are_followed_and_no_others() {
    for (kind, event, next) in [
        (Kind::OpenAiResponses, r#"{"type":"response.created","sequence_number": 6,"response":{}}"#, 7),
        (Kind::OpenAiResponses, r#"{"type":"response.created","response":{}}"#, 0),
        (Kind::OpenAiChat, r#"{"choices":[],"sequence_number":6}"#, 0),
    ] {
        let mut reader = StreamReader::of(kind, Framing::EventStream);
        reader.read(format!("data: {event}\n\n").as_bytes(), |_, _| {});
        assert_eq!(reader.next_sequence(), next, "{event}");
    }
}

#[test]
fn a_stream_has_begun_with_an_id_or_a_model() {
    let begun = |kind, event: &str| sse(kind, &[event]).facts.first().is_some_and(|fact| fact.starts_with("Started"));
    assert!(begun(Kind::Gemini, r#"{"candidates":[],"responseId":"r"}"#));
    assert!(begun(Kind::Gemini, r#"{"candidates":[],"modelVersion":"m"}"#));
    assert!(!begun(Kind::Gemini, r#"{"candidates":[]}"#));
    assert!(begun(Kind::OpenAiChat, r#"{"choices":[],"id":"c"}"#));
    assert!(begun(Kind::OpenAiChat, r#"{"choices":[],"model":"m"}"#));
    assert!(!begun(Kind::OpenAiChat, r#"{"choices":[]}"#));
}

#[test]
fn how_an_answer_ended_may_be_in_what_was_not_read_unless_it_goes_on() {
    let huge = format!(r#"{{"choices":[],"logprobs":[{}1]}}"#, "1,".repeat(600 * 1024));
    let other = HELLO.replace("\"index\":0", "\"index\":1");
    let unread = |events: &[&str]| {
        let mut reader = StreamReader::new(Some(Kind::OpenAiChat), Framing::EventStream);
        let stream: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        reader.read(stream.as_bytes(), |_, _| {});
        reader.has_unread()
    };
    assert!(!unread(&[HELLO]) && unread(&[HELLO, &huge]) && unread(&[&huge]) && unread(&[HELLO, &huge, DONE]));
    // Parsed, and recognised by its likeness.
    assert!(!unread(&[&huge, HELLO]) && !unread(&[HELLO, &huge, HELLO]) && unread(&[HELLO, &huge, HELLO, &huge]));
    assert!(unread(&[HELLO, &other, &huge, HELLO]), "the other choice may have ended");
}

#[test]
fn cohere_fails_in_its_last_event() {
    let read = sse(Kind::Cohere, &[r#"{"type":"message-end","delta":{"finish_reason":"ERROR","error":"boom"}}"#, DONE]);
    assert!(failed(&read) && read.ended.is_none());
}

#[test]
fn an_image_in_one_event_does_not_hide_the_end() {
    let image = "A".repeat(3_000_000);
    let chunk = format!(
        r#"{{"candidates":[{{"content":{{"parts":[{{"inlineData":{{"mimeType":"image/png","data":"{image}"}}}}]}},"finishReason":"STOP"}}]}}"#
    );
    let read = sse(Kind::Gemini, &[&chunk]);
    assert_eq!(read.ended, Some(End::Whole), "{:?}", read.facts);
}

#[test]
fn half_a_character_is_not_an_error() {
    let half = r#"{"choices":[{"index":0,"delta":{"content":"\ud83d"}}]}"#;
    let read = sse(Kind::OpenAiChat, &[HELLO, half, STOP]);
    assert_eq!((read.ended, read.text.as_str()), (Some(End::Whole), "hello\u{FFFD}"));
}

/// Ended, failed and cut, by the body of an answer.
fn answer(kind: Kind, body: &str) -> (Option<End>, bool, bool) {
    let mut reader = AnswerReader::new();
    for byte in body.as_bytes().chunks(1) {
        reader.read(byte);
    }
    let cut = reader.is_cut();
    let answer = reader.end(&mut *kind.dialect());
    (answer.end, answer.fault.is_some(), cut)
}

#[test]
fn answers_that_are_no_stream_tell_how_they_ended() {
    let ended = |kind, body: &str| {
        let (end, failed, cut) = answer(kind, body);
        assert!(!failed && !cut, "{body}");
        end
    };
    let chat = |reason: &str| {
        ended(
            Kind::OpenAiChat,
            &format!(r#"{{"choices":[{{"index":0,"message":{{"content":"a"}},"finish_reason":{reason}}}]}}"#),
        )
    };
    assert_eq!(chat("\"stop\""), Some(End::Whole));
    assert_eq!(chat("\"length\""), Some(End::Limit));
    assert_eq!(chat("null"), None);
    assert_eq!(
        ended(Kind::Anthropic, r#"{"type":"message","content":[],"stop_reason":"max_tokens"}"#),
        Some(End::Limit)
    );
    assert_eq!(ended(Kind::Gemini, r#"{"candidates":[{"finishReason":"MAX_TOKENS"}]}"#), Some(End::Limit));
    assert_eq!(ended(Kind::Cohere, r#"{"message":{},"finish_reason":"COMPLETE"}"#), Some(End::Whole));
    assert_eq!(ended(Kind::Ollama, r#"{"done":true,"done_reason":"stop","response":"a"}"#), Some(End::Whole));
    assert_eq!(ended(Kind::OpenAiResponses, r#"{"status":"completed","error":null,"output":[]}"#), Some(End::Whole));
    assert_eq!(ended(Kind::OpenAiResponses, r#"{"status":"queued","error":null}"#), Some(End::Paused));
}

#[test]
fn an_error_inside_an_answer_is_found_and_nothing_else_is_taken_for_one() {
    for (kind, body) in [
        (Kind::OpenAiChat, r#"{"error":{"code":502,"message":"Provider returned error","metadata":{}}}"#),
        (Kind::OpenAiChat, r#"{"choices":[{"index":0,"error":{"code":502,"message":"x"},"finish_reason":"error"}]}"#),
        (Kind::OpenAiChat, r#"{"success":false,"errors":[{"code":7003,"message":"x"}]}"#),
        (Kind::OpenAiResponses, r#"{"status":"failed","error":{"code":"server_error","message":"x"}}"#),
        (Kind::OpenAiResponses, r#"{"status":"error","error":{"code":"insufficient_quota","message":"x"}}"#),
        (Kind::OpenAiResponses, r#"{"status":"queued","error":{"code":"insufficient_quota","message":"x"}}"#),
        (Kind::Cohere, r#"{"finish_reason":null,"error":{"message":"x"}}"#),
        (Kind::Cohere, r#"{"finish_reason":"","error":"x"}"#),
        (Kind::Anthropic, r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#),
        (Kind::Anthropic, r#"{"content":[],"error":{"message":"x"}}"#),
        (Kind::Gemini, r#"{"error":{"code":503,"message":"x","status":"UNAVAILABLE"}}"#),
        (Kind::Ollama, r#"{"error":"model runner has unexpectedly stopped"}"#),
    ] {
        assert_eq!(answer(kind, body), (None, true, false), "{body}");
    }
    for (kind, body) in [
        (Kind::OpenAiChat, r#"{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"error":null}"#),
        (
            Kind::OpenAiChat,
            r#"{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"error":{"message":"later"}}"#,
        ),
        (
            Kind::Anthropic,
            r#"{"content":[{"type":"text","text":"a"}],"stop_reason":"end_turn","error":{"message":"later"}}"#,
        ),
        (Kind::OpenAiChat, r#"{"id":"x","error":{}}"#),
        (Kind::OpenAiResponses, r#"{"status":"completed","error":{}}"#),
    ] {
        assert!(!answer(kind, body).1, "{body}");
    }
}

#[test]
fn an_answer_that_is_cut_is_not_balanced() {
    let body = r#"{"choices":[{"index":0,"message":{"content":"} \" ]"},"finish_reason":"stop"}]}"#;
    for cut in 1..body.len() {
        assert!(answer(Kind::OpenAiChat, &body[..cut]).2, "cut at {cut}");
    }
    assert_eq!(answer(Kind::OpenAiChat, body), (Some(End::Whole), false, false));
    assert!(!answer(Kind::OpenAiChat, &format!("\n\n \n{body}\n")).2, "DeepSeek sends blank lines while it waits");
    assert!(!answer(Kind::OpenAiChat, "plain text {").2, "what is no JSON is not judged");
}
