//! What is reserved of a limit of tokens, and what it is corrected to.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use http_body::{Body, Frame, SizeHint};
use tower::Layer;
use tower_buttress::{CallBody, Rate, TokenEstimate};

use super::*;
use crate::support::secs;

fn chat(estimate: TokenEstimate) -> Ask {
    let mut request = ask("a");
    *request.uri_mut() = "http://provider/v1/chat/completions".parse().unwrap();
    request.extensions_mut().insert(estimate);
    request
}

fn says(content_type: &str, body: &str) -> Answer {
    let mut answer = answer(200, &[("content-type", content_type)]);
    *answer.body_mut() = Full::from(body.to_owned());
    answer
}

/// How long a call waits after another one that was answered so, and whose body was read or not: a thousand tokens a minute,
/// of which each reserves all.
async fn waits_after(answer: Answer, read: bool) -> f64 {
    let calls = Calls::new();
    let layer = PaceLayer::new().tokens(Rate::per_minute(1_000).burst(1_000)).max_wait(secs(1_000));
    let service = layer.layer(upstream(&calls, move |_| answer.clone()));
    let estimate = TokenEstimate::new().input(400).max_output(512);
    let first = service.clone().oneshot(chat(estimate)).await.unwrap();
    if read {
        http_body_util::BodyExt::collect(first.into_body()).await.unwrap();
    } else {
        drop(first);
    }
    service.clone().oneshot(chat(TokenEstimate::new().input(1_000).max_output(0))).await.unwrap();
    calls.times()[1]
}

#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn what_an_answer_says_that_it_used_is_what_it_costs() {
    let json =
        r#"{"choices":[{"index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":50}}"#;
    for name in ["application/json", "application/vnd.acme+json; charset=utf-8"] {
        assert_eq!(waits_after(says(name, json), true).await, 9.0, "{name}");
    }
    let stream = concat!(
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":200,\"completion_tokens\":100}}\n\n",
        "data: [DONE]\n\n",
    );
    assert_eq!(waits_after(says("text/event-stream", stream), true).await, 18.0);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_said_costs_what_was_reserved_and_an_error_nothing() {
    assert_eq!(waits_after(says("text/plain", "hello"), true).await, 54.72);
    let mut error = says("application/json", "{}");
    *error.status_mut() = http::StatusCode::BAD_REQUEST;
    assert_eq!(waits_after(error, true).await, 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_has_used_its_prompt_and_what_it_saw() {
    assert_eq!(waits_after(says("text/plain", "hello"), false).await, 24.0);
}

/// Its upstream may have thought about the answer all that time.
#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_before_its_answer_says_what_it_used_has_used_what_was_reserved() {
    let call = || chat(TokenEstimate::new().input(100));
    let layer = || PaceLayer::per_caller().tokens(Rate::per_minute(1_000));
    let hangs = layer().layer(service_fn(|_: Ask| std::future::pending::<Result<Answer, Infallible>>()));
    assert!(tokio::time::timeout(secs(1), hangs.clone().oneshot(call())).await.is_err());
    let refused = hangs.oneshot(call()).now_or_never().expect("it is refused at once").unwrap();
    assert_eq!(kind(&refused), Some(RejectionKind::Paced));

    let begins = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n";
    let thinks = layer().layer(upstream(&Calls::new(), move |_| says("text/event-stream", begins)));
    drop(thinks.clone().oneshot(call()).await.unwrap());
    assert_eq!(kind(&thinks.oneshot(call()).await.unwrap()), Some(RejectionKind::Paced));
}

/// How many tokens of its answer a caller pays for that leaves after this time, without having heard what the call used.
#[cfg(feature = "llm")]
async fn pays(body: &'static str, leaves_after: std::time::Duration) -> u64 {
    let layer = PaceLayer::per_caller().output_tokens(Rate::new(10_000, secs(100_000_000)));
    let service = layer.layer(service_fn(async |request: Request<CallBody>| {
        if request.headers().contains_key("hangs") {
            std::future::pending::<()>().await;
        }
        Ok::<_, Infallible>(answer(200, &[]))
    }));
    let mut hangs = with_body(CallBody::from(body));
    hangs.headers_mut().insert("hangs", "1".parse().unwrap());
    assert!(tokio::time::timeout(leaves_after, service.clone().oneshot(hangs)).await.is_err());
    let free = service.oneshot(with_body(CallBody::from(r#"{"max_tokens":0}"#))).await.unwrap();
    let (_, left) = free.headers()["ratelimit"].to_str().unwrap().split_once(";r=").unwrap();
    10_000 - left.split(';').next().unwrap().parse::<u64>().unwrap()
}

#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn a_request_that_limits_its_answer_costs_no_more_than_that() {
    assert_eq!(pays(r#"{"max_tokens":50}"#, secs(1)).await, 50);
    assert_eq!(pays(r#"{"generationConfig":{"maxOutputTokens":50}}"#, secs(1)).await, 50);
    // As much as answers have that nothing is known of.
    assert_eq!(pays(r#"{"max_tokens":5000}"#, secs(1)).await, 512);
    assert_eq!(pays("{}", secs(1)).await, 512);
}

/// A model that thinks for a minute has written more than what answers were like before, or were made to be like.
#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_late_pays_for_the_time() {
    assert_eq!(pays("{}", secs(60)).await, 6_000);
    assert_eq!(pays(r#"{"max_tokens":1000}"#, secs(60)).await, 1_000);
    assert_eq!(pays("{}", secs(600)).await, 10_000, "no more than the limit");
}

#[tokio::test(start_paused = true)]
async fn without_an_estimate_the_length_of_the_body_is_one() {
    let calls = Calls::new();
    let layer = PaceLayer::new().input_tokens(Rate::per_minute(1_000)).max_wait(secs(1_000));
    let service = layer.layer(upstream(&calls, |_| answer(200, &[])));
    for _ in 0..2 {
        let mut request = ask("a");
        *request.body_mut() = "four".repeat(500);
        service.clone().oneshot(request).await.unwrap();
    }
    // Five hundred tokens each.
    assert_eq!(calls.times(), [0.0, 30.0]);
}

#[tokio::test(start_paused = true)]
async fn what_a_429_did_not_use_is_given_back_once() {
    let calls = Calls::new();
    let layer = PaceLayer::new().tokens(Rate::per_minute(1_000).burst(1_000)).max_wait(secs(1_000));
    let service = layer.layer(upstream(&calls, |call| match call {
        1 => answer(429, &[("retry-after", "20")]),
        _ => answer(200, &[]),
    }));
    for _ in 0..3 {
        let estimate = TokenEstimate::new().input(600).max_output(0);
        let answer = service.clone().oneshot(chat(estimate)).await.unwrap();
        http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    }
    // When the pause is over there is room for one of them, and for the next when a minute has brought as many tokens.
    assert_eq!(calls.times(), [0.0, 20.0, 56.0]);
}

/// A body that is said to be so long, and of which nothing comes.
struct Promised(u64);

impl Body for Promised {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

fn with_body(body: CallBody) -> Request<CallBody> {
    Request::builder().method("POST").uri("http://provider/v1/chat/completions").body(body).unwrap()
}

/// An upstream that reads the whole request, and says so.
async fn reads(request: Request<CallBody>) -> Result<Answer, Infallible> {
    let _ = http_body_util::BodyExt::collect(request.into_body()).await;
    Ok(answer(200, &[]))
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_comes_takes_no_tokens_from_the_others() {
    let layer = PaceLayer::new().tokens(Rate::per_minute(60_000).burst(60_000));
    let service = layer.layer(service_fn(reads));
    let mut promised = Box::pin(service.clone().oneshot(with_body(CallBody::new(Promised(100_000_000)))));
    assert!(promised.as_mut().now_or_never().is_none());
    drop(promised);
    let start = Instant::now();
    assert_eq!(service.clone().oneshot(with_body(CallBody::from("hello"))).await.unwrap().status(), 200);
    assert_eq!(start.elapsed(), secs(0));
}

/// Its sender broke off, and the upstream was told so.
#[tokio::test(start_paused = true)]
async fn a_request_that_breaks_off_takes_no_tokens_either() {
    let layer = PaceLayer::new().tokens(Rate::per_minute(60_000).burst(60_000));
    let service = layer.layer(service_fn(|request: Request<CallBody>| async move {
        let read = http_body_util::BodyExt::collect(request.into_body()).await;
        read.map(|_| answer(200, &[])).map_err(std::io::Error::other)
    }));
    let broken = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"{"))), Err("the caller has left")]);
    let broken = CallBody::new(http_body_util::StreamBody::new(broken));
    service.clone().oneshot(with_body(broken)).await.unwrap_err();
    let start = Instant::now();
    for _ in 0..4 {
        let whole = CallBody::from("four".repeat(14_000));
        assert_eq!(service.clone().oneshot(with_body(whole)).await.unwrap().status(), 200);
    }
    assert_eq!(start.elapsed(), secs(0));
}

#[tokio::test(start_paused = true)]
async fn a_prompt_whose_length_is_not_said_costs_what_came() {
    let layer = PaceLayer::new().input_tokens(Rate::per_minute(1_000).burst(20_000));
    let service = layer.layer(service_fn(reads));
    let start = Instant::now();
    for _ in 0..100 {
        let chunk = futures_util::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'a'; 40])))]);
        let chunked = CallBody::new(http_body_util::StreamBody::new(chunk));
        assert_eq!(service.clone().oneshot(with_body(chunked)).await.unwrap().status(), 200);
    }
    assert_eq!(start.elapsed(), secs(0));
}

/// The first event of Anthropic's says that one token has come.
#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_left_costs_the_text_that_came() {
    let begun = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\n";
    let delta = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"another\"}}\n\n";
    let text = begun.to_owned() + &delta.repeat(600);
    let layer = PaceLayer::new().tokens(Rate::per_minute(1_000).burst(1_000)).max_wait(secs(1_000));
    let service = layer.layer(service_fn(move |_: Request<CallBody>| {
        let frames = [Bytes::from(text.clone()), Bytes::from_static(b": more\n\n")].map(Frame::data);
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
        let response = Response::builder().header("content-type", "text/event-stream").body(body);
        async { Ok::<_, Infallible>(response.unwrap()) }
    }));
    let ask = || {
        let request =
            Request::post("http://provider/v1/messages").extension(TokenEstimate::new().input(400).max_output(512));
        service.clone().oneshot(request.body(CallBody::from("hi")).unwrap())
    };
    let mut body = ask().await.unwrap().into_body();
    http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
    drop(body);
    // Twelve hundred for the text, 3 for the prompt, and there were a thousand: the next takes 912.
    let start = Instant::now();
    ask().await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 66);
}

#[tokio::test(start_paused = true)]
async fn a_call_takes_no_more_tokens_than_the_limit_has() {
    let layer = PaceLayer::new().tokens(Rate::per_minute(60_000)).max_wait(secs(100));
    let service = layer.layer(service_fn(reads));
    let mut promised = Box::pin(service.clone().oneshot(with_body(CallBody::new(Promised(100_000_000)))));
    assert!(promised.as_mut().now_or_never().is_none());
    let start = Instant::now();
    assert_eq!(service.clone().oneshot(with_body(CallBody::from("hello"))).await.unwrap().status(), 200);
    assert!(start.elapsed() <= secs(62), "{:?}", start.elapsed());
}

#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn an_answer_that_claims_to_have_used_all_tokens_there_are_ends_no_limit() {
    let calls = Calls::new();
    let layer = PaceLayer::new().tokens(Rate::per_second(1_000_000).burst(1_000_000)).max_wait(secs(60));
    let lie = r#"{"choices":[{"index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":18446744073709551615,"completion_tokens":18446744073709551615}}"#;
    let service = layer.layer(upstream(&calls, move |_| says("application/json", lie)));
    for _ in 0..2 {
        let answer = service.clone().oneshot(chat(TokenEstimate::new().input(1_000))).await.unwrap();
        assert_eq!(answer.status(), 200);
        http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    }
    // Of a prompt and an answer, sixteen million tokens each are believed.
    assert!((30.0..=34.0).contains(&calls.times()[1]), "{:?}", calls.times());
}

/// As an `OpenAI` stream comes when it was not asked to say what it used.
#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_say_what_it_used_costs_the_text_that_came() {
    let mut stream = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"another\"}}]}\n\n".repeat(600);
    stream += "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    // Twelve hundred for the answer, and its prompt.
    assert_eq!(waits_after(says("text/event-stream", &stream), true).await, 96.0);
}

#[tokio::test(start_paused = true)]
async fn a_prompt_whose_length_is_not_said_is_not_free() {
    let layer = PaceLayer::new().input_tokens(Rate::per_minute(1_000).burst(1_000)).max_wait(secs(1_000));
    let service = layer.layer(service_fn(reads));
    let start = Instant::now();
    let chunks =
        futures_util::stream::iter((0..16).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'a'; 65_536])))));
    let chunked = CallBody::new(http_body_util::StreamBody::new(chunks));
    service.clone().oneshot(with_body(chunked)).await.unwrap();
    let two_thousand_bytes = CallBody::from("four".repeat(500));
    service.clone().oneshot(with_body(two_thousand_bytes)).await.unwrap();
    assert_eq!(start.elapsed(), secs(30));
}
