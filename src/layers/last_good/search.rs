//! A search for an answer elsewhere, while the upstream's failure is withheld.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::config::Embedding;
use crate::rt::timeout::Timeout;
use crate::store::{AnswerFuture, LastGoodAnswer};

/// A search in progress.
pub(super) struct Search {
    source: SearchSource,
    until: Instant,
    timeout: Timeout,
}

/// The source that is waited for.
pub(super) enum SearchSource {
    /// The other processes, for an answer to the same request.
    Peers(AnswerFuture<Option<LastGoodAnswer>>),
    /// The meaning of the last message, for an answer to a similar request.
    Embedder(Embedding),
}

/// The result of a search; `None` if nothing came in time.
pub(super) enum Found {
    Answer(Option<LastGoodAnswer>),
    Meaning(Option<Vec<f32>>),
}

// === impl Search ===

impl Search {
    pub(super) fn new(source: SearchSource, until: Instant) -> Self {
        Self { source, until, timeout: Timeout::default() }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Found> {
        let Self { source, until, timeout } = self;
        Poll::Ready(match source {
            SearchSource::Peers(recalling) => {
                Found::Answer(ready!(poll_until(recalling.as_mut(), timeout, *until, cx)).flatten())
            }
            SearchSource::Embedder(embedding) => {
                let vectors = ready!(poll_until(embedding.as_mut(), timeout, *until, cx)).and_then(Result::ok);
                Found::Meaning(vectors.and_then(|vectors| vectors.into_iter().next()))
            }
        })
    }
}

/// Returns the future's result, or `None` after `until`.
fn poll_until<T>(
    future: Pin<&mut (dyn Future<Output = T> + Send)>,
    timeout: &mut Timeout,
    until: Instant,
    cx: &mut Context<'_>,
) -> Poll<Option<T>> {
    match future.poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => timeout.poll_until(until, cx).map(|()| None),
    }
}
