//! Answers that are made anew: the caller holds one whole answer, or the beginning of one and its error.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use proptest::prelude::*;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::proto::dialect::{Channel, End, Fact, Framing, Kind, StreamReader};
use tower_buttress::{Deadline, FallbackLayer, MissingEnd, NoRetry, PinTo, ResumeLayer, StreamGuardLayer};

use super::{Answer, Outcome, Upstream, post, read, send, stream};
use crate::support::Step::{self, Data, Fail, Wait};
use crate::support::secs;

pub(super) fn leak(text: String) -> &'static str {
    text.leak()
}

fn json(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// How the events of an answer look in a dialect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model {
    kind: Kind,
    /// Tells answers apart.
    id: &'static str,
    name: &'static str,
}

pub(super) const CHAT: Model = Model { kind: Kind::OpenAiChat, id: "one", name: "m" };
pub(super) const ANTHROPIC: Model = Model { kind: Kind::Anthropic, ..CHAT };
const GEMINI: Model = Model { kind: Kind::Gemini, ..CHAT };

impl Model {
    pub(super) fn path(self) -> &'static str {
        match self.kind {
            Kind::Anthropic => "/v1/messages",
            Kind::Gemini => "/v1beta/models/g:streamGenerateContent",
            _ => "/v1/chat/completions",
        }
    }

    pub(super) fn start(self) -> Vec<String> {
        let Self { id, name, .. } = self;
        match self.kind {
            Kind::Anthropic => vec![
                format!("event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"id\":\"{id}\",\"model\":\"{name}\"}}}}\n\n"),
                "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n".to_owned(),
            ],
            Kind::Gemini => vec![],
            _ => vec![self.chat("{\"role\":\"assistant\",\"content\":\"\"}", "null")],
        }
    }

    pub(super) fn chat(self, delta: &str, reason: &str) -> String {
        let Self { id, name, .. } = self;
        format!(
            "data: {{\"id\":\"{id}\",\"model\":\"{name}\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{reason}}}]}}\n\n"
        )
    }

    fn gemini(self, text: &str, reason: &str) -> String {
        let Self { id, name, .. } = self;
        format!(
            "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":{}}}],\"role\":\"model\"}}{reason}}}],\"modelVersion\":\"{name}\",\"responseId\":\"{id}\"}}\n\n",
            json(text)
        )
    }

    pub(super) fn text(self, text: &str) -> String {
        match self.kind {
            Kind::Anthropic => format!(
                "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":{}}}}}\n\n",
                json(text)
            ),
            Kind::Gemini => self.gemini(text, ""),
            _ => self.chat(&format!("{{\"content\":{}}}", json(text)), "null"),
        }
    }

    pub(super) fn end(self) -> Vec<String> {
        match self.kind {
            Kind::Anthropic => vec![
                "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n".to_owned(),
                "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n"
                    .to_owned(),
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n".to_owned(),
            ],
            Kind::Gemini => vec![self.gemini("", ",\"finishReason\":\"STOP\"")],
            _ => vec![self.chat("{}", "\"stop\""), "data: [DONE]\n\n".to_owned()],
        }
    }

    /// The events of an answer that says this, so many characters at a time.
    pub(super) fn answer(self, text: &str, size: usize) -> Vec<String> {
        let characters: Vec<char> = text.chars().collect();
        let pieces = characters.chunks(size).map(|piece| self.text(&piece.iter().collect::<String>()));
        self.start().into_iter().chain(pieces).chain(self.end()).collect()
    }

    pub(super) fn with(self, id: &'static str) -> Self {
        Self { id, ..self }
    }
}

fn steps(events: Vec<String>) -> Vec<Step> {
    events.into_iter().map(|event| Data(leak(event))).collect()
}

/// The first events, and then a break.
pub(super) fn cut(events: Vec<String>, after: usize) -> Answer {
    stream(steps(events).into_iter().take(after).chain([Fail("cut")]))
}

pub(super) fn whole(events: Vec<String>) -> Answer {
    stream(steps(events))
}

pub(super) fn restarting() -> ResumeLayer {
    ResumeLayer::new().verified_restart(true)
}

/// What a client makes of a stream: its text, and how it ended. It fails on what a client would.
pub(super) fn heard(kind: Kind, text: &str) -> (String, Option<End>) {
    let mut reader = StreamReader::of(kind, Framing::EventStream);
    let (mut said, mut open, mut started) = (String::new(), false, 0);
    let mut note = |fact: Fact<'_>, data: &[u8]| {
        let data = std::str::from_utf8(data).unwrap();
        if data.contains("message_start\"") {
            started += 1;
            assert_eq!(started, 1, "a message that begins twice");
        } else if data.contains("content_block_start\"") {
            assert!(!std::mem::replace(&mut open, true), "a block in a block");
        } else if data.contains("content_block_stop\"") {
            assert!(std::mem::replace(&mut open, false), "the end of no block");
        }
        match fact {
            Fact::Delta { channel: Channel::Text, text, .. } => {
                assert!(kind != Kind::Anthropic || open, "a text outside of a block");
                said += &text.decode();
            }
            Fact::Unreadable | Fact::Failed(_) => panic!("{data}"),
            _ => {}
        }
    };
    reader.read(text.as_bytes(), |fact, event| note(fact, event.data));
    reader.end(|_, _| {});
    (said, reader.ended())
}

async fn ask(layer: ResumeLayer, model: Model, answers: impl IntoIterator<Item = Answer>) -> Outcome {
    send(layer, post(model.path(), "{\"stream\":true}"), answers).await
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_begins_alike_goes_on_behind_what_the_caller_has() {
    for model in [CHAT, ANTHROPIC, GEMINI] {
        let text = "The sea is calm tonight, été, 😀.";
        let first = model.answer(text, 3);
        for after in 1..first.len() - 2 {
            for size in [1, 2, 5, 40] {
                let answers = [cut(first.clone(), after), whole(model.with("two").answer(text, size))];
                let outcome = ask(restarting(), model, answers).await;
                let told = (after, size, model.kind);
                assert_eq!(heard(model.kind, &outcome.text), (text.to_owned(), Some(End::Whole)), "{told:?}");
                assert_eq!(
                    (outcome.error, &outcome.events[..]),
                    (None, &["stream_resumed: verified-restart".to_owned()][..])
                );
                assert!(!outcome.text.contains("two"), "it has one id: {}", outcome.text);
                let [first, second] = &outcome.asked[..] else { panic!("one restart") };
                assert_eq!((&first.uri, &first.headers, &first.body), (&second.uri, &second.headers, &second.body));
                assert_eq!(second.pin, Some(PinTo::primary()));
            }
        }
    }
}

/// Many servers write what is not ASCII as escapes, and a character beyond 16 bits as two.
#[tokio::test(start_paused = true)]
async fn where_the_seam_lies_in_escapes_no_character_is_lost() {
    let text = "\u{e9}\t\"\u{1f600}\u{1f601}\\/\u{e9}t\u{e9}";
    let escaped = |events: Vec<String>| -> Vec<String> {
        let escape = |unit: u16| match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii() => String::from(char::from(byte)),
            _ => format!("\\u{unit:04x}"),
        };
        events.iter().map(|event| event.encode_utf16().map(escape).collect()).collect()
    };
    for model in [CHAT, ANTHROPIC, GEMINI] {
        for size in [1, 2, 3] {
            let first = model.answer(text, size);
            for (first, second) in [(escaped(first.clone()), false), (escaped(first.clone()), true), (first, true)] {
                for after in 1..first.len() - 2 {
                    for size in [1, 2, 3, 40] {
                        let answer = model.with("two").answer(text, size);
                        let answer = if second { escaped(answer) } else { answer };
                        let outcome = ask(restarting(), model, [cut(first.clone(), after), whole(answer)]).await;
                        let said = heard(model.kind, &outcome.text);
                        assert_eq!(said, (text.to_owned(), Some(End::Whole)), "{after} {size}: {}", outcome.text);
                        assert_eq!(outcome.error, None);
                    }
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_differs_is_not_handed_on() {
    for model in [CHAT, ANTHROPIC, GEMINI] {
        let first = model.answer("The sea is calm", 4);
        let had: String = first.iter().take(4).cloned().collect();
        for other in ["The sky is calm", "The", "", "A sea", "The seä is calm"] {
            let answers = [cut(first.clone(), 4), whole(model.with("two").answer(other, 2))];
            let outcome = ask(restarting(), model, answers).await;
            assert_eq!((outcome.text, outcome.error.as_deref()), (had.clone(), Some("cut")), "{other}");
            assert!(outcome.events[0].starts_with("not_resumed: "), "{:?}", outcome.events);
        }
    }
}

/// Also where nothing has come yet of any but the first.
#[tokio::test(start_paused = true)]
async fn several_answers_are_not_asked_for_again() {
    for (model, body) in [(CHAT, "{\"n\":2}"), (GEMINI, "{\"generationConfig\":{\"candidateCount\":2}}")] {
        let first = cut(model.answer("The sea is calm", 4), 3);
        let outcome = send(restarting(), post(model.path(), body), [first]).await;
        assert_eq!((outcome.error.as_deref(), outcome.asked.len()), (Some("cut"), 1), "{body}");
        assert!(outcome.events[0].starts_with("not_resumed: "), "{:?}", outcome.events);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_compared_is_not_asked_for_again() {
    let tool = CHAT
        .chat("{\"tool_calls\":[{\"index\":0,\"id\":\"t\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}", "null");
    let id_alone = CHAT.chat("{\"tool_calls\":[{\"index\":0,\"id\":\"t\",\"type\":\"function\"}]}", "null");
    let older = CHAT.chat("{\"function_call\":{\"id\":\"t\"}}", "null");
    let second_choice = CHAT.text("x").replace("\"index\":0", "\"index\":1");
    let logprobs = CHAT.text("x").replace("\"finish_reason\"", "\"logprobs\":{\"content\":[]},\"finish_reason\"");
    let spaced = logprobs.replace("\"logprobs\":", "\"logprobs\" : ");
    let anthropic_tool = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{}}}\n\n";
    let gemini_tool = GEMINI.text("x").replace("{\"text\":\"x\"}", "{\"functionCall\":{\"name\":\"f\",\"args\":{}}}");
    assert!(spaced.contains("\"logprobs\" : ") && gemini_tool.contains("functionCall"));
    let half = CHAT.text("x").replace("\"x\"", "\"\\ud83d\"");
    let signature = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"s\"}}\n\n";
    let cited = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"citations_delta\",\"citation\":{\"cited_text\":\"x\"}}}\n\n";
    let grounded = GEMINI
        .text("x")
        .replace("}],\"modelVersion\"", ",\"citationMetadata\":{\"citationSources\":[{}]}}],\"modelVersion\"");
    let annotated = CHAT.chat("{\"content\":\"x\",\"annotations\":[{\"type\":\"url_citation\"}]}", "null");
    assert!(grounded.contains("citationMetadata"));
    let tokens = CHAT.text("x").replace("\"finish_reason\"", "\"token_ids\":[7],\"finish_reason\"");
    assert!(tokens.contains("token_ids"));
    let unknown = CHAT.chat("{\"content\":\"x\",\"thinking_blocks\":[{\"signature\":\"s\"}]}", "null");
    for (model, event) in [
        (CHAT, tool),
        (CHAT, id_alone),
        (CHAT, older),
        (CHAT, second_choice),
        (CHAT, logprobs),
        (CHAT, spaced),
        (CHAT, half),
        (CHAT, unknown),
        (CHAT, annotated),
        (CHAT, tokens),
        (ANTHROPIC, signature.to_owned()),
        (ANTHROPIC, cited.to_owned()),
        (ANTHROPIC, anthropic_tool.to_owned()),
        (GEMINI, grounded),
        (GEMINI, gemini_tool),
    ] {
        let mut events = model.start();
        events.extend([model.text("hello"), event]);
        let outcome = ask(restarting(), model, [cut(events.clone(), 9)]).await;
        assert_eq!((outcome.text, outcome.error.as_deref()), (events.concat(), Some("cut")));
        assert_eq!(outcome.events, ["not_resumed: not-comparable"]);
    }
    let long = CHAT.answer(&"x".repeat(9_000), 1_000);
    let outcome = ask(restarting(), CHAT, [cut(long.clone(), 10)]).await;
    assert_eq!((outcome.events, outcome.asked.len()), (vec!["not_resumed: not-comparable".to_owned()], 1));
    let longer = restarting().max_prefix(10_000);
    let outcome = ask(longer, CHAT, [cut(long.clone(), 10), whole(long.clone())]).await;
    assert_eq!((outcome.text, outcome.error), (long.concat(), None));
}

/// What a deadline would end is billed all the same.
#[tokio::test(start_paused = true)]
async fn another_answer_is_asked_for_where_the_time_is_enough() {
    let answer = CHAT.answer("The sea is calm", 4);
    for (time, asked) in [(10, 1), (30, 2)] {
        let mut request = post(CHAT.path(), "{}");
        request.extensions_mut().insert(Deadline::after(secs(time)).unwrap());
        let mut first: Vec<Step> = answer[..3].iter().map(|event| Data(leak(event.clone()))).collect();
        first.splice(1..1, [Wait(secs(9))]);
        first.push(Fail("cut"));
        let outcome = send(restarting(), request, [stream(first), whole(answer.clone())]).await;
        assert_eq!((outcome.asked.len(), outcome.error.is_some()), (asked, asked == 1));
        assert_eq!(
            outcome.events[0],
            if asked == 1 { "not_resumed: deadline" } else { "stream_resumed: verified-restart" }
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_tool_within_what_the_caller_has_is_another_answer() {
    let tool = CHAT
        .chat("{\"tool_calls\":[{\"index\":0,\"id\":\"t\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}", "null");
    let mut other = CHAT.start();
    other.extend([CHAT.text("The"), tool.clone(), CHAT.text(" sea is calm")]);
    let first = CHAT.answer("The sea is calm", 7);
    let outcome = ask(restarting(), CHAT, [cut(first.clone(), 2), whole(other)]).await;
    assert_eq!((outcome.text, outcome.error.as_deref()), (first[..2].concat(), Some("cut")));
    // Behind it, it is a part of the answer that the caller gets.
    let mut other = CHAT.start();
    other.extend([
        CHAT.text("The sea is"),
        tool.clone(),
        CHAT.chat("{}", "\"tool_calls\""),
        "data: [DONE]\n\n".to_owned(),
    ]);
    let outcome = ask(restarting(), CHAT, [cut(first, 2), whole(other)]).await;
    assert!(outcome.text.contains(&tool) && outcome.error.is_none(), "{:?}", outcome.error);
}

#[tokio::test(start_paused = true)]
async fn there_is_one_restart() {
    let first = CHAT.answer("The sea is calm", 4);
    // It breaks before it has come as far: the first fault.
    let outcome = ask(restarting(), CHAT, [cut(first.clone(), 3), cut(CHAT.answer("The sea is calm", 1), 4)]).await;
    assert_eq!((outcome.text, outcome.error.as_deref()), (first[..3].concat(), Some("cut")));
    assert_eq!(outcome.events, ["not_resumed: restart-spent"]);
    // It breaks behind that: what the caller has is of the second answer.
    let outcome = ask(restarting(), CHAT, [cut(first.clone(), 3), cut(CHAT.answer("The sea is cold", 5), 4)]).await;
    assert_eq!(
        (heard(Kind::OpenAiChat, &outcome.text).0.as_str(), outcome.error.as_deref()),
        ("The sea is cold", Some("cut"))
    );
    for answer in [Answer::Status(503, "x"), Answer::Lost, Answer::Status(200, "{}")] {
        let outcome = ask(restarting(), CHAT, [cut(first.clone(), 3), answer]).await;
        assert_eq!((outcome.text, outcome.error.as_deref()), (first[..3].concat(), Some("cut")));
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_off_by_default_and_for_calls_that_say_so() {
    let first = CHAT.answer("The sea", 2);
    let outcome = ask(ResumeLayer::new(), CHAT, [cut(first.clone(), 3)]).await;
    assert_eq!((outcome.error.as_deref(), outcome.asked.len()), (Some("cut"), 1));
    let mut request = post(CHAT.path(), "{}");
    request.extensions_mut().insert(NoRetry);
    let outcome = send(restarting(), request, [cut(first.clone(), 3)]).await;
    assert_eq!((outcome.error.as_deref(), outcome.asked.len()), (Some("cut"), 1));
    let responses = "data: {\"type\":\"response.created\",\"response\":{\"id\":\"r\"}}\n\n";
    let outcome = send(restarting(), post("/v1/responses", "{}"), [stream([Data(responses), Fail("cut")])]).await;
    assert_eq!((outcome.error.as_deref(), outcome.asked.len()), (Some("cut"), 1));
}

pub(super) fn request() -> Request<Full<Bytes>> {
    post(CHAT.path(), "{}")
}

#[tokio::test(start_paused = true)]
async fn another_model_needs_a_word_and_two_hundred_characters() {
    let other = Model { name: "m2", id: "two", ..CHAT };
    let short = "The sea is calm tonight.";
    let long = short.repeat(12);
    for (text, allowed, goes_on) in [(&long[..], true, true), (&long, false, false), (short, true, false)] {
        let had = text.len() - 10;
        let first = CHAT.answer(text, had);
        let layer = restarting().other_model(allowed);
        let outcome = ask(layer, CHAT, [cut(first, 2), whole(other.answer(text, 7))]).await;
        assert_eq!(outcome.error.is_none(), goes_on, "{allowed} {}", text.len());
        let (said, _) = heard(Kind::OpenAiChat, &outcome.text);
        assert_eq!(said, if goes_on { text } else { &text[..had] });
    }
}

#[tokio::test(start_paused = true)]
async fn a_backup_makes_it_anew_only_where_another_model_may() {
    let text = "The sea is calm tonight. ".repeat(12);
    for allowed in [false, true] {
        let first = CHAT.answer(&text, 250);
        let primary = Upstream::new([cut(first.clone(), 2), Answer::Status(503, "down")]);
        let backup = Upstream::new([whole(CHAT.with("two").answer(&text, 9))]);
        let (asked, asked_backup) = (primary.clone(), backup.clone());
        let service = ServiceBuilder::new()
            .layer(restarting().other_model(allowed))
            .layer(FallbackLayer::new(service_fn(move |request| backup.clone().answer(request))).own_credentials(true))
            .layer(StreamGuardLayer::new())
            .service(service_fn(move |request| primary.clone().answer(request)));
        let (heard_text, error) = read(service.oneshot(request()).await.unwrap()).await;
        assert_eq!((asked.asked().len(), asked_backup.asked().len()), (2, usize::from(allowed)));
        let (said, _) = heard(Kind::OpenAiChat, &heard_text);
        assert_eq!((said.as_str(), error.is_none()), if allowed { (&text[..], true) } else { (&text[..250], false) });
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_early_or_tells_of_an_overload_is_made_anew() {
    const OVERLOADED: &str =
        "data: {\"error\":{\"message\":\"Overloaded\",\"type\":\"overloaded_error\",\"code\":null}}\n\n";
    let text = "The sea is calm";
    for end in [vec![], vec![Data(OVERLOADED)]] {
        let first: Vec<Step> = steps(CHAT.answer(text, 4)).into_iter().take(3).chain(end).collect();
        let upstream = Upstream::new([stream(first), whole(CHAT.with("two").answer(text, 6))]);
        let service = ServiceBuilder::new()
            .layer(restarting())
            .layer(StreamGuardLayer::new())
            .service(service_fn(move |request| upstream.clone().answer(request)));
        let (heard_text, error) = read(service.oneshot(request()).await.unwrap()).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(heard(Kind::OpenAiChat, &heard_text), (text.to_owned(), Some(End::Whole)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_whole_is_not_made_anew() {
    let done = "data: [DONE]\n\n";
    let mut without_reason = CHAT.start();
    without_reason.extend([CHAT.text("hello"), done.to_owned()]);
    let whole_answer = CHAT.answer("hello", 2);
    for events in [without_reason.clone(), whole_answer.clone()] {
        let outcome = ask(restarting(), CHAT, [whole(events.clone())]).await;
        assert_eq!((outcome.text, outcome.error, outcome.events), (events.concat(), None, vec![]));
        // The connection breaks behind it.
        let outcome = ask(restarting(), CHAT, [cut(events.clone(), 99)]).await;
        assert_eq!((outcome.text, outcome.error.as_deref()), (events.concat(), Some("cut")));
        assert!(outcome.events.is_empty());
    }
    // The guard says what may be missing.
    for (guard, events) in [
        (StreamGuardLayer::new(), &without_reason[..]),
        (StreamGuardLayer::new().missing_end(MissingEnd::Allow), &without_reason[..2]),
    ] {
        let upstream = Upstream::new([whole(events.to_vec())]);
        let service = ServiceBuilder::new()
            .layer(restarting())
            .layer(guard)
            .service(service_fn(move |request| upstream.clone().answer(request)));
        let (text, error) = read(service.oneshot(request()).await.unwrap()).await;
        assert_eq!((text, error.map(|err| err.to_string())), (events.concat(), None));
    }
    // Here it says that it was cut, and withholds the marker.
    let upstream = Upstream::new([whole(without_reason), whole(CHAT.with("two").answer("hello", 2))]);
    let service = ServiceBuilder::new()
        .layer(restarting())
        .layer(StreamGuardLayer::new().missing_end(MissingEnd::Error))
        .service(service_fn(move |request| upstream.clone().answer(request)));
    let (text, error) = read(service.oneshot(request()).await.unwrap()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(heard(Kind::OpenAiChat, &text), ("hello".to_owned(), Some(End::Whole)));
}

fn models() -> impl Strategy<Value = Model> {
    prop_oneof![Just(CHAT), Just(ANTHROPIC), Just(GEMINI)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A model that says something else from any position on, shorter or longer, in pieces of any size.
    #[test]
    fn the_caller_never_holds_what_no_single_answer_says(
        model in models(), text in "[abé😀\\n\"\\\\]{1,40}", other in "[abé😀\\n\"\\\\]{0,40}", agree in 0..41_usize,
        after in 0..50_usize, sizes in (1..6_usize, 1..6_usize), bytes in 1..200_usize,
    ) {
        let shared: String = text.chars().take(agree).collect();
        let second = shared + &other;
        let first = model.answer(&text, sizes.0);
        let after = after % first.len();
        let one: String = first.iter().take(after).cloned().collect();
        // The transport cuts the second answer anywhere.
        let two = model.with("two").answer(&second, sizes.1).concat();
        let mut pieces: Vec<Step> = Vec::new();
        let mut rest = two.as_str();
        while !rest.is_empty() {
            let mut at = bytes.min(rest.len());
            while !rest.is_char_boundary(at) { at += 1; }
            let (piece, behind) = rest.split_at(at);
            pieces.push(Data(leak(piece.to_owned())));
            rest = behind;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let outcome = runtime.block_on(ask(restarting(), model, [cut(first.clone(), after), stream(pieces)]));
        let (had, _) = heard(model.kind, &one);
        let (said, end) = heard(model.kind, &outcome.text);
        match outcome.error {
            None => {
                prop_assert_eq!(end, Some(End::Whole));
                prop_assert!(said == second, "whole, and the second");
            }
            Some(_) => {
                prop_assert!(said == had, "nothing of the second where it differs");
                // Where nothing was heard there is no model to compare; where the first has said that it ends, both end there.
                let is_other = !second.starts_with(&had) || after > first.len() - model.end().len() && second != text;
                prop_assert!(is_other || after == 0, "it is handed on where it is right");
            }
        }
    }
}

/// One character, and whether the model thinks it.
type Spoken = Vec<(bool, char)>;

fn spoken(kind: Kind, text: &str) -> Spoken {
    let mut spoken = Spoken::new();
    let mut reader = StreamReader::of(kind, Framing::EventStream);
    reader.read(text.as_bytes(), |fact, _| match fact {
        Fact::Delta { channel: Channel::Text, text, .. } => {
            spoken.extend(text.decode().chars().map(|one| (false, one)));
        }
        Fact::Delta { channel: Channel::Reasoning, text, .. } => {
            spoken.extend(text.decode().chars().map(|one| (true, one)));
        }
        Fact::Unreadable | Fact::Failed(_) => panic!("{text}"),
        _ => {}
    });
    spoken
}

/// The events of an answer whose text and thoughts come in turns, so many characters at a time.
fn thinking(model: Model, spoken: &[(bool, char)], size: usize) -> Vec<String> {
    let runs = spoken.chunk_by(|one, other| one.0 == other.0).flat_map(|run| run.chunks(size));
    let events = runs.map(|piece| {
        let text: String = piece.iter().map(|(_, one)| one).collect();
        match (model.kind, piece[0].0) {
            (_, false) => model.text(&text),
            (Kind::Gemini, true) => model.text(&text).replace("{\"text\"", "{\"thought\":true,\"text\""),
            (_, true) => model.text(&text).replace("\"content\"", "\"reasoning_content\""),
        }
    });
    model.start().into_iter().chain(events).chain(model.end()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The same of text and thoughts: neither is taken for the other.
    #[test]
    fn the_caller_never_holds_thoughts_and_text_of_two_answers(
        model in prop_oneof![Just(CHAT), Just(GEMINI)],
        first in proptest::collection::vec((any::<bool>(), proptest::char::range('a', 'b')), 1..30),
        other in proptest::collection::vec((any::<bool>(), proptest::char::range('a', 'b')), 0..30),
        agree in 0..31_usize, after in 1..40_usize, sizes in (1..4_usize, 1..4_usize),
    ) {
        let second: Spoken = first.iter().copied().take(agree).chain(other).collect();
        let events = thinking(model, &first, sizes.0);
        let after = after % events.len();
        let had = spoken(model.kind, &events[..after].concat());
        let answers = [cut(events, after), whole(thinking(model.with("two"), &second, sizes.1))];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let outcome = runtime.block_on(ask(restarting(), model, answers));
        let said = spoken(model.kind, &outcome.text);
        prop_assert_eq!(&said, if outcome.error.is_none() { &second } else { &had });
    }
}

#[test]
fn what_a_client_receives_is_what_was_said() {
    assert_eq!(heard(Kind::OpenAiChat, &CHAT.answer("été", 2).concat()), ("été".to_owned(), Some(End::Whole)));
    assert_eq!(heard(Kind::Anthropic, &ANTHROPIC.answer("été", 2).concat()), ("été".to_owned(), Some(End::Whole)));
    assert_eq!(heard(Kind::Gemini, &GEMINI.answer("été", 2).concat()), ("été".to_owned(), Some(End::Whole)));
}
