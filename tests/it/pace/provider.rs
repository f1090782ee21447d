//! A provider that allows so much a minute, and answers who overruns it with a ban of five minutes.

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tower::Layer;
use tower_buttress::{Rate, TokenEstimate};

use super::*;
use crate::support::secs;

const MINUTE: Duration = secs(60);

/// Counts requests over a sliding minute, and has tokens in a bucket that refills all the time, as OpenAI's headers describe
/// theirs.
#[derive(Clone, Debug)]
struct Provider(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    requests: usize,
    taken: VecDeque<Instant>,
    tokens: f64,
    left: f64,
    at: Instant,
    banned: Option<Instant>,
    served: u64,
    used: u64,
    refused: Vec<Instant>,
}

impl Provider {
    fn new(requests: usize, tokens: u32) -> Self {
        let tokens = f64::from(tokens);
        Self(Arc::new(Mutex::new(State {
            requests,
            taken: VecDeque::new(),
            tokens,
            left: tokens,
            at: Instant::now(),
            banned: None,
            served: 0,
            used: 0,
            refused: Vec::new(),
        })))
    }

    /// Other clients have used this much of the minute.
    fn taken(self, requests: usize) -> Self {
        self.0.lock().unwrap().taken.extend((0..requests).map(|_| Instant::now()));
        self
    }

    fn serve(&self, tokens: u32) -> Answer {
        let mut state = self.0.lock().unwrap();
        let now = Instant::now();
        while state.taken.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
            state.taken.pop_front();
        }
        let refilled = state.tokens * now.duration_since(state.at).as_secs_f64() / 60.0;
        (state.left, state.at) = ((state.left + refilled).min(state.tokens), now);
        let overrun = state.taken.len() >= state.requests || state.left < f64::from(tokens);
        let banned = state.banned.is_some_and(|until| now < until);
        if overrun || banned {
            let first = state.refused.is_empty();
            state.refused.push(now);
            // The first is a warning.
            let until = if first && !banned { state.taken[0] + MINUTE } else { now + 5 * MINUTE };
            if !first {
                state.banned = Some(until);
            }
            let wait = until.duration_since(now).as_millis().to_string();
            return answer(429, &[("retry-after-ms", &wait)]);
        }
        state.taken.push_back(now);
        state.left -= f64::from(tokens);
        (state.served, state.used) = (state.served + 1, state.used + u64::from(tokens));
        let usage = format!(r#"{{"choices":[],"usage":{{"prompt_tokens":{tokens},"completion_tokens":0}}}}"#);
        let mut answer = answer(200, &[("content-type", "application/json")]);
        *answer.body_mut() = Full::from(usage);
        answer
    }
}

/// Two hundred callers, each of which calls again when it was answered, or when it is told to come back. Calls take half a
/// second. Returns how many calls, and how many tokens, each minute served.
async fn two_hundred_callers(
    layer: PaceLayer,
    provider: &Provider,
    call: impl Fn(u32) -> (u32, TokenEstimate),
    minutes: usize,
) -> (Vec<u64>, Vec<u64>) {
    let served = provider.clone();
    let service = layer.layer(service_fn(move |request: Ask| {
        let (provider, tokens) = (served.clone(), *request.extensions().get::<u32>().unwrap());
        async move {
            let answer = provider.serve(tokens);
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok::<_, Infallible>(answer)
        }
    }));
    let mut callers = JoinSet::new();
    for caller in 0..200 {
        let (service, (tokens, estimate)) = (service.clone(), call(caller));
        callers.spawn(async move {
            loop {
                let mut request = ask(&format!("tenant {}", caller % 7));
                *request.uri_mut() = "http://provider/v1/chat/completions".parse().unwrap();
                request.extensions_mut().insert(tokens);
                request.extensions_mut().insert(estimate);
                let answer = service.clone().oneshot(request).await.unwrap();
                let again = (answer.status() == 429).then(|| secs(retry_after_or(&answer, 1)));
                answer.into_body().collect().await.unwrap();
                tokio::time::sleep(again.unwrap_or_default()).await;
            }
        });
    }
    let (mut calls, mut tokens) = (Vec::new(), Vec::new());
    let mut before = (0, 0);
    for _ in 0..minutes {
        tokio::time::sleep(MINUTE).await;
        let state = provider.0.lock().unwrap();
        calls.push(state.served - before.0);
        tokens.push(state.used - before.1);
        before = (state.served, state.used);
    }
    callers.shutdown().await;
    (calls, tokens)
}

fn retry_after_or<B>(answer: &Response<B>, or: u64) -> u64 {
    answer.headers().get("retry-after").map_or(or, |value| value.to_str().unwrap().parse().unwrap())
}

fn small(_: u32) -> (u32, TokenEstimate) {
    (0, TokenEstimate::new())
}

#[tokio::test(start_paused = true)]
async fn two_hundred_callers_get_all_of_sixty_requests_a_minute_and_no_ban() {
    let provider = Provider::new(60, u32::MAX);
    let layer = PaceLayer::new().requests(Rate::per_minute(60));
    let (calls, _) = two_hundred_callers(layer, &provider, small, 10).await;
    assert!(calls.iter().all(|served| (59..=61).contains(served)), "{calls:?}");
    assert_eq!(provider.0.lock().unwrap().refused, []);
}

#[tokio::test(start_paused = true)]
async fn after_one_429_there_is_no_other() {
    // Others have used the minute up.
    let provider = Provider::new(60, u32::MAX).taken(60);
    let layer = PaceLayer::new().requests(Rate::per_minute(60));
    let (calls, _) = two_hundred_callers(layer, &provider, small, 10).await;
    assert_eq!(calls[0], 0);
    assert!(calls[1..].iter().all(|served| (59..=61).contains(served)), "{calls:?}");
    assert_eq!(provider.0.lock().unwrap().refused.len(), 1);
}

/// Of 100 to 3,000 tokens a call, of which callers guess so many percent.
#[cfg(feature = "llm")]
async fn limits_of_tokens_are_used(percent: u32) {
    let call = |caller| {
        let tokens = 100 + caller * 2_900 / 199;
        (tokens, TokenEstimate::new().input(u64::from(tokens * percent / 100)).max_output(0))
    };
    let provider = Provider::new(usize::MAX, 60_000);
    let layer = PaceLayer::new().tokens(Rate::per_minute(60_000));
    let (_, tokens) = two_hundred_callers(layer, &provider, call, 10).await;
    assert!(tokens.iter().all(|tokens| (57_000..=63_000).contains(tokens)), "{tokens:?}");
    assert_eq!(provider.0.lock().unwrap().refused, []);
}

#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn limits_of_tokens_are_used_to_five_percent_with_any_guess() {
    limits_of_tokens_are_used(100).await;
    limits_of_tokens_are_used(150).await;
    limits_of_tokens_are_used(60).await;
}
