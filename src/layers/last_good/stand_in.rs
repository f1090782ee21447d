//! Finds a replacement for a failed answer.

use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use super::body::LastGoodBody;
use super::config::{Config, Similar};
use super::key::RequestKeys;
use super::recorder::AnswerRecorder;
use super::search::{Found, Search, SearchSource};
use super::stored::{AnswerStore, StoredAnswer, mark_template};
use crate::body::request::{CallBody, share_of};
use crate::body::response::ResponseBody;
use crate::call::{Reservation, StaleKind};
use crate::error::BoxError;
use crate::event::Event;
use crate::policy::last_good::may_stand_in;
use crate::policy::last_good::template::UnansweredRequest;
use crate::policy::verdict::{Classifier, Outcome};
use crate::rt::clock;
use crate::rt::deadline::CallDeadline;
use crate::rt::timeout::Timeout;
use crate::store::LastGoodAnswer;

/// The state to answer a call from memory if it fails.
pub(super) struct StandIn {
    request: RequestKeys,
    /// Set if there is a template.
    unanswered: Option<Box<UnansweredRequest>>,
    /// For a new answer.
    share: Reservation,
    classifier: Classifier,
    deadline: Option<CallDeadline>,
    watch: DeadlineWatch,
    store: Arc<AnswerStore>,
    config: Arc<Config>,
}

/// The next step after a call.
pub(super) enum AfterCall {
    /// Return the upstream's answer.
    Upstream,
    Stored(Response<Bytes>),
    /// Search elsewhere first.
    Search(Search),
}

/// Whether the deadline is watched.
enum DeadlineWatch {
    /// Not decided yet: nothing had to be waited for.
    Unknown,
    /// There is a stored answer: it is returned `reserve` before the deadline.
    Until { reserve: Duration, timeout: Timeout },
    /// There is no answer, or no deadline.
    No,
}

/// The most questions, the nearest ones, that are compared word by word with the caller's.
const MAX_COMPARED: usize = 64;

/// A caller that is about to get an error waits no longer for the other processes.
const RECALL: Duration = Duration::from_millis(500);

// === impl StandIn ===

impl StandIn {
    pub(super) fn new(
        request: RequestKeys,
        unanswered: Option<Box<UnansweredRequest>>,
        upstream: &Request<CallBody>,
        store: Arc<AnswerStore>,
        config: Arc<Config>,
    ) -> Self {
        Self {
            request,
            unanswered,
            share: share_of(&config.memory, upstream.headers(), upstream.extensions()),
            classifier: Classifier::clone(&config.classifier).for_call(upstream),
            deadline: CallDeadline::earliest(upstream.extensions(), None),
            watch: DeadlineWatch::Unknown,
            store,
            config,
        }
    }

    /// Decides on the upstream's answer, or error.
    pub(super) fn settle<B, E: Error + 'static>(&self, result: &Result<Response<B>, E>) -> AfterCall {
        if !may_stand_in(&self.classifier.classify(&Outcome::of(result))) {
            return AfterCall::Upstream;
        }
        if let Some(stored) = self.find() {
            return AfterCall::Stored(stored);
        }
        match self.recall().or_else(|| self.embed()) {
            Some(search) => AfterCall::Search(search),
            None => self.fill_in().map_or(AfterCall::Upstream, AfterCall::Stored),
        }
    }

    /// Asks the other processes, if there are any and the caller accepts an earlier answer.
    fn recall(&self) -> Option<Search> {
        let (peers, max_age) = self.config.peers.as_ref().zip(self.request.max_age)?;
        let until = self.by(RECALL)?;
        Some(Search::new(SearchSource::Peers(peers.find(self.request.shared(), max_age)), until))
    }

    /// Returns the earlier of `limit` from now and half of the time to the deadline.
    fn by(&self, limit: Duration) -> Option<Instant> {
        let now = clock::now();
        let left = self.deadline.as_ref().and_then(CallDeadline::get).map(|deadline| deadline.remaining_at(now) / 2);
        now.checked_add(left.map_or(limit, |left| left.min(limit)))
    }

    /// Forwards the upstream's answer, and records it if it may be stored.
    pub(super) fn forward<B, E>(&self, result: Result<Response<B>, E>) -> Result<Response<LastGoodBody<B>>, E>
    where
        B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
    {
        result.map(|response| {
            let recorder = AnswerRecorder::of(&response, self.request.clone(), &self.share, &self.store, &self.config);
            if recorder.is_none() {
                self.store.reap();
            }
            response.map(|body| LastGoodBody::new(ResponseBody::inner(body), recorder.map(Box::new)))
        })
    }

    /// Polls for the answer of the search, or `None` if there is none in time.
    pub(super) fn poll_search(&self, search: &mut Search, cx: &mut Context<'_>) -> Poll<Option<Response<Bytes>>> {
        loop {
            let found = match ready!(search.poll(cx)) {
                Found::Meaning(vector) => self.find_similar(vector),
                Found::Answer(answer) => {
                    let recalled = answer.and_then(|answer| self.recalled(answer));
                    let next = if recalled.is_none() { self.embed() } else { None };
                    if let Some(next) = next {
                        *search = next;
                        continue;
                    }
                    recalled
                }
            };
            return Poll::Ready(found.or_else(|| self.fill_in()));
        }
    }

    /// Returns another process's answer, if it is recent enough.
    fn recalled(&self, answer: LastGoodAnswer) -> Option<Response<Bytes>> {
        let now = clock::now();
        let kind = if answer.is_exact { StaleKind::Exact } else { StaleKind::Normalized };
        let stored = StoredAnswer { head: answer.head, body: answer.body, _reservation: None };
        let age = stored.age(now);
        if age > self.request.max_age? || stored.body.len() > self.config.max_answer {
            return None;
        }
        self.config.emitter.emit(&Event::StaleServed { kind, age });
        Some(stored.to_response(kind, now))
    }

    /// Embeds the last message, if there is a question to compare with; returns the time limit too.
    fn embed(&self) -> Option<Search> {
        let (similar, question) = self.config.similar.as_ref().zip(self.request.question.as_ref())?;
        self.request.max_age?;
        if !self.store.with(|answers| answers.has_scope(question.scope)) {
            return None;
        }
        let until = self.by(similar.timeout)?;
        Some(Search::new(SearchSource::Embedder(similar.embed(question.text.clone())), until))
    }

    /// Returns the answer to the most similar request, if one is similar enough and agrees.
    fn find_similar(&self, vector: Option<Vec<f32>>) -> Option<Response<Bytes>> {
        let (similar, question) = self.config.similar.as_ref().zip(self.request.question.as_ref())?;
        let (vector, max_age, now) = (vector?, self.request.max_age?, clock::now());
        let candidates = self.store.with(|answers| answers.candidates(question.scope, now));
        let young = candidates.into_iter().filter(|(_, stored)| stored.age(now) <= max_age);
        let near = young.filter_map(|(meaning, stored)| {
            let cosine = Similar::cosine(&meaning.vector, &vector).filter(|cosine| *cosine >= similar.threshold)?;
            Some((cosine, meaning, stored))
        });
        let mut near: Vec<_> = near.collect();
        near.sort_by(|(one, ..), (other, ..)| other.total_cmp(one));
        let mut nearest = near.into_iter().take(MAX_COMPARED);
        let (cosine, _, stored) = nearest.find(|(_, meaning, _)| Similar::agree(&meaning.text, &question.text))?;
        self.config.emitter.emit(&Event::StaleServed { kind: StaleKind::Similar, age: stored.age(now) });
        Some(stored.to_similar(cosine, now))
    }

    /// The operator's text.
    fn fill_in(&self) -> Option<Response<Bytes>> {
        let (template, unanswered) = self.config.template.as_ref().zip(self.unanswered.as_ref())?;
        let now = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut response = unanswered.answer(&**template, fastrand::u64(..), now.as_secs())?;
        mark_template(&mut response);
        self.config.emitter.emit(&Event::StaleServed { kind: StaleKind::Template, age: Duration::ZERO });
        Some(response)
    }

    /// Ready with an earlier answer, shortly before the deadline.
    pub(super) fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Response<Bytes>> {
        let deadline = self.deadline.as_ref().and_then(CallDeadline::get);
        if matches!(self.watch, DeadlineWatch::Unknown) {
            self.watch = match deadline {
                Some(deadline) if self.look(clock::now()).is_some() || self.unanswered.is_some() => {
                    // A call with little time keeps most of it.
                    let reserve = self.config.reserve.min(deadline.remaining() / 4);
                    DeadlineWatch::Until { reserve, timeout: Timeout::default() }
                }
                _ => DeadlineWatch::No,
            };
        }
        let DeadlineWatch::Until { reserve, timeout } = &mut self.watch else { return Poll::Pending };
        let Some(at) = deadline.and_then(|deadline| deadline.instant().checked_sub(*reserve)) else {
            return Poll::Pending;
        };
        ready!(timeout.poll_until(at, cx));
        match self.find().or_else(|| self.fill_in()) {
            Some(stored) => Poll::Ready(stored),
            None => {
                self.watch = DeadlineWatch::No;
                Poll::Pending
            }
        }
    }

    /// Returns an earlier answer, and emits its event.
    fn find(&self) -> Option<Response<Bytes>> {
        let now = clock::now();
        let (stored, kind) = self.look(now)?;
        self.config.emitter.emit(&Event::StaleServed { kind, age: stored.age(now) });
        Some(stored.to_response(kind, now))
    }

    fn look(&self, now: Instant) -> Option<(Arc<StoredAnswer>, StaleKind)> {
        let max_age = self.request.max_age?;
        let keys = &self.request.keys;
        let young = |stored: &Arc<StoredAnswer>| stored.age(now) <= max_age;
        self.store.with(|answers| {
            let exact = answers.exact(keys.exact, now).filter(young).map(|stored| (stored, StaleKind::Exact));
            exact.or_else(|| {
                let stored = answers.normal(keys.normal?, now, young)?;
                Some((stored, StaleKind::Normalized))
            })
        })
    }
}
