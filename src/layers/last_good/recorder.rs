//! Records a passing answer, and stores it if it is complete.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};

use super::config::{Config, Similar};
use super::key::RequestKeys;
use super::stored::{AnswerStore, StoredAnswer};
use crate::body::ending::Ending;
use crate::body::observed::{BodyEnd, BodyObserver};
use crate::call::{InvalidOutput, Reservation, Stale};
use crate::policy::last_good::cache::OVERHEAD;
use crate::policy::last_good::cache_control;
use crate::proto::dialect::{AnswerReader, End, Framing, Kind, StreamReader};
use crate::proto::fingerprint::Fingerprint;
use crate::proto::media_type::{self, BodyForm};
use crate::rejection::Rejection;
use crate::rt::clock;
use crate::store::{Head, LastGoodAnswer, SharedLastGood};

/// Records an answer, and stores it at its end.
pub struct AnswerRecorder {
    store: Arc<AnswerStore>,
    request: RequestKeys,
    form: BodyKind,
    head: Head,
    lifetime: Duration,
    /// A layer inside that follows the answer reports here how it ended.
    ending: Option<Ending>,
    /// The remaining bytes of the body, if its head names the length.
    missing: Option<u64>,
    data: Vec<u8>,
    max: usize,
    reservation: Option<Reservation>,
    /// Memory for the meaning of the request.
    meaning: Option<Reservation>,
    similar: Option<Similar>,
    peers: Option<Arc<dyn SharedLastGood>>,
}

/// The format of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyKind {
    Stream(Framing),
    Json,
}

/// The room that a new answer of this tenant may take.
struct TenantRoom<'a> {
    store: &'a AnswerStore,
    tenant: Fingerprint,
}

// === impl TenantRoom ===

impl TenantRoom<'_> {
    /// Takes shared memory with `take`; if there is none, evicts earlier answers of `bytes` in total first. Returns
    /// whether it was taken.
    fn make(&self, bytes: usize, mut take: impl FnMut() -> bool) -> bool {
        if take() {
            return true;
        }
        let dropped = self.store.with(|answers| answers.make_room(self.tenant, bytes, clock::now()));
        let is_more = !dropped.is_empty();
        drop(dropped);
        is_more && take()
    }
}

// === impl AnswerRecorder ===

impl AnswerRecorder {
    /// `None` if the answer must not be stored, whatever its body.
    pub(super) fn of<B>(
        response: &Response<B>,
        request: RequestKeys,
        share: &Reservation,
        store: &Arc<AnswerStore>,
        config: &Config,
    ) -> Option<Self> {
        let (headers, extensions) = (response.headers(), response.extensions());
        let unfit = extensions.get::<Rejection>().is_some() || Stale::in_extensions(extensions).is_some();
        let unfit = unfit || InvalidOutput::in_extensions(extensions).is_some();
        if !request.keep || response.status() != StatusCode::OK || unfit {
            return None;
        }
        let form = BodyKind::of(request.kind, headers)?;
        let is_stream = form == BodyKind::Stream(Framing::EventStream);
        let lifetime = cache_control::lifetime(headers, config.ttl, is_stream)?;
        let missing = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if missing.is_some_and(|length| length > config.max_answer as u64) {
            return None;
        }
        let head = Head::new(response.status(), response.version(), headers.clone(), clock::now()).compact();
        Some(Self {
            store: Arc::clone(store),
            request,
            form,
            head,
            lifetime,
            ending: extensions.get().cloned(),
            missing,
            data: Vec::new(),
            max: config.max_answer,
            reservation: Some(share.sibling()),
            meaning: config.similar.as_ref().map(|_| share.sibling()),
            similar: config.similar.clone(),
            peers: config.peers.clone(),
        })
    }

    /// Stops recording.
    fn discard(&mut self) {
        (self.reservation, self.data) = (None, Vec::new());
    }

    /// Records `data`; returns whether there was room for it. Memory is counted before it is allocated.
    fn append(&mut self, data: &[u8]) -> bool {
        let Some(reservation) = &mut self.reservation else { return false };
        let length = self.data.len().saturating_add(data.len());
        if length > self.max {
            return false;
        }
        if length > self.data.capacity() {
            let capacity = self.data.capacity().saturating_mul(2).clamp(length, self.max);
            let cost = capacity.saturating_add(self.head.cost());
            let room = TenantRoom { store: &self.store, tenant: self.request.keys.tenant };
            if !room.make(cost.saturating_add(Reservation::STEP), || reservation.set(cost)) {
                return false;
            }
            self.data.reserve_exact(capacity - self.data.len());
        }
        self.data.extend_from_slice(data);
        true
    }

    /// Whether the complete answer is complete by its content, and no error.
    fn is_whole(&self) -> bool {
        if self.missing.is_some_and(|missing| missing != 0) {
            return false;
        }
        match (&self.ending, self.form) {
            (Some(ending), _) => ending.get() == Some(End::Whole),
            (None, BodyKind::Stream(framing)) => {
                let framing = if self.is_array() { Framing::Array } else { framing };
                let mut reader = StreamReader::new(Some(self.request.kind), framing);
                reader.read(&self.data, |_, _| {});
                let inside = reader.in_event();
                reader.end(|_, _| {});
                !inside && reader.ended() == Some(End::Whole)
            }
            (None, BodyKind::Json) => {
                let mut reader = AnswerReader::new();
                reader.read(&self.data);
                let is_cut = reader.is_cut();
                let answer = reader.end(&mut *self.request.kind.dialect());
                !is_cut && answer.fault.is_none() && answer.end == Some(End::Whole)
            }
        }
    }

    /// Gemini without `alt=sse` streams one JSON array.
    fn is_array(&self) -> bool {
        self.request.kind == Kind::Gemini && self.data.trim_ascii_start().first() == Some(&b'[')
    }

    /// Stores the answer. Returns whether it was stored.
    fn keep(&mut self) -> bool {
        if self.is_array() && self.form == BodyKind::Json {
            self.form = BodyKind::Stream(Framing::Array);
        }
        let Some(mut reservation) = self.reservation.take().filter(|_| self.is_whole()) else { return false };
        let now = clock::now();
        let left = self.lifetime.saturating_sub(cache_control::age(self.head.headers()));
        let Some(expires) = now.checked_add(left).filter(|expires| *expires > now) else { return false };
        // Drops spare capacity.
        let body = Bytes::from(std::mem::take(&mut self.data).into_boxed_slice());
        let bytes = body.len().saturating_add(self.head.cost());
        let cost = bytes.saturating_add(OVERHEAD);
        let room = TenantRoom { store: &self.store, tenant: self.request.keys.tenant };
        if !room.make(cost, || reservation.set_exactly(cost)) {
            return false;
        }
        if let Some(peers) = &self.peers {
            let head = self.head.stored().into_owned();
            peers.keep(self.request.shared(), LastGoodAnswer::new(head, body.clone()), left);
        }
        let stored = StoredAnswer { head: self.head.clone(), body, _reservation: Some(reservation) };
        let dropped = self.store.with(|answers| answers.insert(self.request.keys, stored, bytes, expires, now));
        drop(dropped);
        let meant = self.request.question.take().zip(self.meaning.take());
        if let (Some(similar), Some((question, reservation))) = (&self.similar, meant) {
            similar.embed_kept(question, self.request.keys.exact, Arc::clone(&self.store), reservation);
        }
        true
    }
}

impl fmt::Debug for AnswerRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerRecorder").finish_non_exhaustive()
    }
}

impl BodyObserver for AnswerRecorder {
    const READS: bool = true;

    fn data(&mut self, _empty: bool) {}

    fn bytes(&mut self, data: &Bytes) {
        if self.reservation.is_none() {
            return;
        }
        // Too many bytes wrap around to a length that never matches.
        self.missing = self.missing.map(|missing| missing.wrapping_sub(data.len() as u64));
        if !self.append(data) {
            self.discard();
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        // No LLM API sends trailers: their meaning is unknown.
        if !trailers.is_empty() {
            self.discard();
        }
    }

    fn over(&mut self, end: BodyEnd<'_>) {
        let is_kept = matches!(end, BodyEnd::Complete) && self.keep();
        if !is_kept {
            self.discard();
            self.store.reap();
        }
    }
}

// === impl BodyKind ===

impl BodyKind {
    fn of(kind: Kind, headers: &HeaderMap) -> Option<Self> {
        if media_type::is_encoded(headers) {
            return None;
        }
        match BodyForm::of(headers) {
            BodyForm::EventStream => Some(Self::Stream(Framing::EventStream)),
            BodyForm::JsonLines if kind == Kind::Ollama => Some(Self::Stream(Framing::Lines)),
            BodyForm::Json => Some(Self::Json),
            BodyForm::JsonLines | BodyForm::Other => None,
        }
    }
}
