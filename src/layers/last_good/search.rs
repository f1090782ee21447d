//! An answer that is looked for elsewhere, while the upstream's is kept back.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::config::Embedding;
use crate::rt::timeout::Timeout;
use crate::store::{AnswerFuture, LastGoodAnswer};

/// A search that is under way.
pub(super) struct Search {
    source: Source,
    until: Instant,
    timeout: Timeout,
}

/// What is waited for.
pub(super) enum Source {
    /// The other processes, for an answer to the same request.
    Peers(AnswerFuture<Option<LastGoodAnswer>>),
    /// What the last message means, for an answer to a similar request.
    Embedder(Embedding),
}

/// What a search has led to; `None` where nothing came in time.
pub(super) enum Found {
    Answer(Option<LastGoodAnswer>),
    Meaning(Option<Vec<f32>>),
}

// === impl Search ===

impl Search {
    pub(super) fn new(source: Source, until: Instant) -> Self {
        Self { source, until, timeout: Timeout::default() }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Found> {
        let Self { source, until, timeout } = self;
        Poll::Ready(match source {
            Source::Peers(recalling) => {
                Found::Answer(ready!(poll_until(recalling.as_mut(), timeout, *until, cx)).flatten())
            }
            Source::Embedder(embedding) => {
                let vectors = ready!(poll_until(embedding.as_mut(), timeout, *until, cx)).and_then(Result::ok);
                Found::Meaning(vectors.and_then(|vectors| vectors.into_iter().next()))
            }
        })
    }
}

/// What the future returns, or `None` once `until` is over.
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
