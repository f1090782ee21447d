//! Sends the calls, and judges the answers.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use indicatif::ProgressBar;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tower::ServiceExt;

use super::answers::{Answers, DONE, Held, contains, find};
use super::clients::Client;
use super::faults::CALL;
use super::scale::{SECOND_CLICK, TOTAL};

/// The number and rate of calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) calls: u32,
    pub(crate) rate: u32,
}

/// The results of all requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u32,
    /// No data at all.
    pub(crate) failed: u32,
    /// Data, then an error.
    pub(crate) cut: u32,
    /// Data of a truncated answer, then a clean end.
    pub(crate) taken_for_whole: u32,
    /// A clean end, with a text that is not one whole answer.
    pub(crate) mixed: u32,
    /// Whole answers with the provider's bytes; the others have its text in other bytes.
    pub(crate) unchanged: u32,
    /// The duration of each whole answer.
    pub(crate) whole: Vec<Duration>,
    /// Calls of which some click got no whole answer.
    pub(crate) unserved: HashSet<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Whole { took: Duration, unchanged: bool },
    Failed,
    Cut,
    TakenForWhole,
    Mixed,
}

/// One in this number of calls is a double click.
const DOUBLE_CLICK: u32 = 20;
/// An error in a stream of OpenAI's format, which SDKs raise.
const ERROR: &[u8] = b"data: {\"error\":";
/// The beginning of a content event; the first event has no content.
const CONTENT: &[u8] = b"\"delta\":{\"content\":";

// === impl Load ===

impl Load {
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(1) * self.calls / self.rate
    }

    /// Calls, and second clicks.
    pub(crate) fn requests(&self) -> u32 {
        self.calls + self.calls.div_ceil(DOUBLE_CLICK)
    }
}

// === impl Tally ===

impl Tally {
    fn add(&mut self, call: u64, outcome: Outcome) {
        self.requests += 1;
        if !matches!(outcome, Outcome::Whole { .. }) {
            self.unserved.insert(call);
        }
        match outcome {
            Outcome::Whole { took, unchanged } => {
                self.unchanged += u32::from(unchanged);
                self.whole.push(took);
            }
            Outcome::Mixed => self.mixed += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Cut => self.cut += 1,
            Outcome::TakenForWhole => self.taken_for_whole += 1,
        }
    }
}

/// Sends the calls, and compares the answers with the recorded ones.
pub(crate) async fn run(client: Client, load: Load, answers: &Answers, progress: &ProgressBar) -> Tally {
    let start = Instant::now();
    let mut requests = JoinSet::new();
    for nth in 0..load.calls {
        let at = start + Duration::from_secs(1) * nth / load.rate;
        requests.spawn(asked(client.clone(), nth, at, answers.clone()));
        if nth % DOUBLE_CLICK == 0 {
            requests.spawn(asked(client.clone(), nth, at + SECOND_CLICK, answers.clone()));
        }
    }
    let mut tally = Tally::default();
    while let Some(asked) = requests.join_next().await {
        // A task that panicked got no answer; its call is unknown.
        let (call, outcome) = asked.unwrap_or((u64::MAX, Outcome::Failed));
        tally.add(call, outcome);
        progress.set_position(tally.requests.into());
        let bad = tally.failed + tally.cut + tally.taken_for_whole + tally.mixed;
        progress.set_message(format!("{bad} failed"));
    }
    tally
}

async fn asked(client: Client, nth: u32, at: Instant, answers: Answers) -> (u64, Outcome) {
    (nth.into(), ask(client, nth, at, answers).await)
}

async fn ask(client: Client, nth: u32, at: Instant, answers: Answers) -> Outcome {
    sleep_until(at).await;
    let patience = at + TOTAL;
    let Ok(Ok(response)) = timeout_at(patience, client.oneshot(request(nth))).await else { return Outcome::Failed };
    if response.status() != StatusCode::OK {
        return Outcome::Failed;
    }
    let mut body = response.into_body();
    let mut text = Vec::new();
    loop {
        match timeout_at(patience, body.frame()).await {
            Ok(Some(Ok(frame))) => text.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Ok(Some(Err(_))) | Err(_) if text.is_empty() => return Outcome::Failed,
            Ok(Some(Err(_))) | Err(_) => return Outcome::Cut,
            Ok(None) => return judge(&text, at.elapsed(), |text| answers.compare(nth.into(), text)),
        }
    }
}

/// The judgement of an SDK on a body that ended without an error.
fn judge(text: &[u8], took: Duration, compare: impl FnOnce(&[u8]) -> Held) -> Outcome {
    match find(text, ERROR) {
        Some(at) if at <= find(text, CONTENT).unwrap_or(at) => Outcome::Failed,
        Some(_) => Outcome::Cut,
        None if !contains(text, DONE) => Outcome::TakenForWhole,
        None => match compare(text) {
            Held::Mixed => Outcome::Mixed,
            held => Outcome::Whole { took, unchanged: held == Held::Bytes },
        },
    }
}

pub(crate) fn request(nth: u32) -> Request<Full<Bytes>> {
    let body = format!(r#"{{"model":"sim","stream":true,"messages":[{{"role":"user","content":"question {nth}"}}]}}"#);
    let mut request = Request::new(Full::from(body));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static("http://provider/v1/chat/completions");
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    headers.insert(AUTHORIZATION, http::HeaderValue::from_static("Bearer proof"));
    headers.insert(CALL, nth.into());
    request
}
