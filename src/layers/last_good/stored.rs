//! The stored answers.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};

use super::config::NAME;
use crate::call::{Reservation, ServedBy, Stale, StaleKind};
use crate::policy::last_good::cache::AnswerCache;
use crate::policy::last_good::cache_control;
use crate::rt::clock;
use crate::rt::sync::lock;
use crate::store::Head;

/// A complete answer, and its share of the stack's memory.
pub(super) struct StoredAnswer {
    pub(super) head: Head,
    pub(super) body: Bytes,
    /// None for another process's answer, which the caller reads like an upstream's.
    pub(super) _reservation: Option<Reservation>,
}

/// The meaning of the last message of a stored answer's request.
pub(super) struct MeaningVector {
    pub(super) text: Box<str>,
    pub(super) vector: Box<[f32]>,
    pub(super) _reservation: Reservation,
}

/// The store for all services of a layer.
pub struct AnswerStore(Mutex<AnswerCache<StoredAnswer, MeaningVector>>);

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const SIMILARITY: HeaderName = HeaderName::from_static("x-buttress-similarity");

/// Says of an answer that it is the operator's text.
pub(super) fn mark_template(response: &mut Response<Bytes>) {
    let status = HeaderValue::from_static("buttress; fwd=miss; detail=last-good-template");
    response.headers_mut().insert(CACHE_STATUS, status);
    mark(response, StaleKind::Template, Duration::ZERO);
}

fn mark(response: &mut Response<Bytes>, kind: StaleKind, age: Duration) {
    response.extensions_mut().insert(Stale::new(kind, age));
    response.extensions_mut().insert(ServedBy::new(NAME));
}

// === impl StoredAnswer ===

impl StoredAnswer {
    /// The age of the answer, its `Age` header included.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.head.full_age(now)
    }

    /// Returns the answer as a response to a failed call.
    pub(super) fn to_response(&self, kind: StaleKind, now: Instant) -> Response<Bytes> {
        let age = self.age(now);
        let mut response = self.head.to_aged(self.body.clone(), now);
        response.headers_mut().append(CACHE_STATUS, self.cache_status(kind, age.as_secs()));
        mark(&mut response, kind, age);
        response
    }

    /// The same, for a request whose last message is similar.
    pub(super) fn to_similar(&self, cosine: f32, now: Instant) -> Response<Bytes> {
        let mut response = self.to_response(StaleKind::Similar, now);
        if let Ok(cosine) = HeaderValue::try_from(format!("{cosine:.3}")) {
            response.headers_mut().insert(SIMILARITY, cosine);
        }
        response
    }

    /// RFC 9211. The time to live of a stale answer is negative.
    fn cache_status(&self, kind: StaleKind, age: u64) -> HeaderValue {
        let fresh = cache_control::freshness(self.head.headers()).as_secs();
        let (sign, ttl) = if fresh > age { ("", fresh - age) } else { ("-", age - fresh) };
        let sign = if ttl == 0 { "" } else { sign };
        let value = format!("buttress; hit; ttl={sign}{ttl}; detail=last-good-{kind}");
        HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("buttress; hit"))
    }
}

// === impl AnswerStore ===

impl AnswerStore {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Mutex::new(AnswerCache::new(bytes)))
    }

    /// Gives access to the store. The result of `with` is dropped outside the lock.
    pub(super) fn with<R>(&self, with: impl FnOnce(&mut AnswerCache<StoredAnswer, MeaningVector>) -> R) -> R {
        with(&mut lock(&self.0))
    }

    /// Removes expired answers, which take room in the shared memory. For a call whose answer is not stored; storing does
    /// the same.
    pub(super) fn reap(&self) {
        let over = self.with(|answers| answers.reap(clock::now()));
        drop(over);
    }
}

impl fmt::Debug for AnswerStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (answers, bytes) = self.with(|answers| answers.size());
        f.debug_struct("AnswerStore").field("answers", &answers).field("bytes", &bytes).finish()
    }
}
