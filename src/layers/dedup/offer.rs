//! Tells a caller the URL of its answer.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_LOCATION, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::proto::digests;
use crate::proto::sse::EventIds;
use crate::rt::cancellation::GoesOn;
use crate::rt::timeout::Timeout;
use crate::store::answers::{Issued, ResumableAnswers, TokenCaller};

/// Tells one caller the URL of its answer, with its head or, if it prefers not to wait, before.
pub(super) struct Offer {
    answers: Arc<ResumableAnswers>,
    number: u64,
    later: Option<Later>,
    caller: TokenCaller,
}

/// The longest that the caller waits.
#[derive(Debug)]
pub(super) struct Later {
    wait: Duration,
    timeout: Timeout,
}

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The range of waits for `respond-async`, in seconds.
const WAITS: std::ops::RangeInclusive<u64> = 1..=60;

// === impl Offer ===

impl Offer {
    pub(super) fn new(
        answers: Arc<ResumableAnswers>,
        number: u64,
        wait: Option<Duration>,
        caller: TokenCaller,
    ) -> Self {
        Self { answers, number, later: wait.map(Later::new), caller }
    }

    /// Adds the URL to the head. Returns the writer of the events' ids.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) -> Option<EventIds> {
        let Issued { location, ids } = self.answers.issue_for_head(self.number, &self.caller)?;
        headers.insert(CONTENT_LOCATION, location);
        if ids.is_some() {
            headers.remove(CONTENT_LENGTH);
            digests::remove(headers);
        }
        ids
    }

    /// There is no head yet. Ready when the caller gets a 202.
    pub(super) fn poll_later(&mut self, cx: &mut Context<'_>) -> Poll<Response<()>> {
        let Some(later) = &mut self.later else { return Poll::Pending };
        let wait = ready!(later.poll(cx));
        self.later = None;
        // Without a place for it the preference is ignored: the caller waits.
        match self.answers.promise(self.number, &self.caller) {
            Some(Issued { location, .. }) => Poll::Ready(accepted(location, wait)),
            None => Poll::Pending,
        }
    }
}

/// The answer is not there yet, and will be at `location`.
pub(super) fn accepted(location: HeaderValue, wait: Duration) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::ACCEPTED;
    response.extensions_mut().insert(GoesOn);
    let headers = response.headers_mut();
    headers.insert(LOCATION, location);
    headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs()));
    let applied = format!("respond-async, wait={}", wait.as_secs());
    headers.extend(HeaderValue::from_str(&applied).ok().map(|applied| (PREFERENCE_APPLIED, applied)));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

// === impl Later ===

impl Later {
    pub(super) fn new(wait: Duration) -> Self {
        Self { wait, timeout: Timeout::default() }
    }

    /// Ready when the caller has waited as long as it prefers.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        self.timeout.poll_after(self.wait, cx).map(|()| self.wait)
    }
}

/// How long a caller waits, given its preference.
pub(super) fn wait(preferred: Option<Duration>) -> Duration {
    let seconds = preferred.map_or(*WAITS.start(), |wait| wait.as_secs());
    Duration::from_secs(seconds.clamp(*WAITS.start(), *WAITS.end()))
}
