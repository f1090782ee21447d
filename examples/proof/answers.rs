//! Records the providers' answers, to compare them with what callers hold.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::Response;
use http_body_util::BodyExt;

/// Every answer of each call, as its bytes left the provider.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(Arc<Mutex<HashMap<u64, Vec<Said>>>>);

/// One answer, as far as the provider sent it.
#[derive(Debug, Default)]
struct Said {
    bytes: Vec<u8>,
    /// The number of this answer to the call: another answer has other words.
    version: u32,
}

/// How a caller's text compares with the providers' answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// The bytes of one whole answer.
    Bytes,
    /// The text of one whole answer, in other bytes.
    Text,
    /// Not the text of one whole answer: parts of several, or with gaps or repetitions.
    Mixed,
}

/// The end marker of a whole answer in OpenAI's format.
pub(crate) const DONE: &[u8] = b"data: [DONE]";

// === impl Answers ===

impl Answers {
    /// The version of the next answer to `call`: the last broken one if its rest is requested, else a new one.
    pub(crate) fn version(&self, call: u64, rest: bool) -> u32 {
        let answers = self.lock();
        let last = answers.get(&call).and_then(|answers| answers.last());
        last.map_or(0, |last| if rest { last.version } else { last.version + 1 })
    }

    /// Records the response if it is an answer, from behind the event `after` if it continues a broken one.
    pub(crate) fn record(&self, call: u64, version: u32, after: Option<&str>, response: Response) -> Response {
        if response.status() != StatusCode::OK {
            return response;
        }
        let nth = {
            let mut answers = self.lock();
            let answers = answers.entry(call).or_default();
            let begun = after.zip(answers.last()).and_then(|(after, last)| up_to_event(&last.bytes, after));
            answers.push(Said { bytes: begun.unwrap_or_default().to_vec(), version });
            answers.len() - 1
        };
        let answers = self.clone();
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                if let Some(data) = frame.data_ref() {
                    answers.say(call, nth, data);
                }
                frame
            }))
        })
    }

    /// The number of answers so far.
    pub(crate) fn begun(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    fn say(&self, call: u64, nth: usize, data: &Bytes) {
        if let Some(said) = self.lock().get_mut(&call).and_then(|answers| answers.get_mut(nth)) {
            said.bytes.extend_from_slice(data);
        }
    }

    /// Classifies `stream`, which a caller of `call` takes for whole.
    pub(crate) fn compare(&self, call: u64, stream: &[u8]) -> Held {
        let answers = self.lock();
        let whole = || answers.get(&call).into_iter().flatten().filter(|said| contains(&said.bytes, DONE));
        if whole().any(|said| said.bytes == stream) {
            return Held::Bytes;
        }
        let held = content(stream);
        if held.is_some() && whole().any(|said| content(&said.bytes) == held) { Held::Text } else { Held::Mixed }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Vec<Said>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `bytes` up to the end of the event with this id.
fn up_to_event<'a>(bytes: &'a [u8], id: &str) -> Option<&'a [u8]> {
    let line = format!("id: {id}\n");
    let at = find(bytes, line.as_bytes())?;
    let end = find(bytes.get(at..)?, b"\n\n")?;
    bytes.get(..at + end + 2)
}

/// The combined text of the events; `None`: an event is not JSON.
fn content(stream: &[u8]) -> Option<String> {
    let lines = std::str::from_utf8(stream).ok()?.lines();
    let events = lines.filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    events
        .map(|data| {
            let event: serde_json::Value = serde_json::from_str(data).ok()?;
            Some(event["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned())
        })
        .collect()
}

pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

pub(crate) fn contains(bytes: &[u8], what: &[u8]) -> bool {
    find(bytes, what).is_some()
}
