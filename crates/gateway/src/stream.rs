//! Resets an HTTP/2 stream whose client does not read.
//!
//! hyper runs each stream in its own task and polls its body only when the client has opened the window. A client that
//! never does, on a connection that is otherwise alive, would hold the upstream for ever. The body notes whether the
//! stream waits for the client or the upstream. The task ends when it waits for the client too long, which resets the
//! stream and drops the upstream call.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;
use tokio::time::{Sleep, sleep};

use super::grace;

/// Counts changes: even while the stream waits for the upstream, odd while it waits for the client.
type TurnCount = Arc<AtomicU64>;

tokio::task_local! {
    static TURNS: TurnCount;
}

/// Spawns hyper's tasks, and limits those of streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BoundedStreams {
    pub(crate) limit: Option<Duration>,
}

pin_project! {
    struct Bounded<F> {
        #[pin]
        stream: TaskLocalFuture<TurnCount, F>,
        turns: TurnCount,
        limit: Duration,
        timer: Option<Pin<Box<Sleep>>>,
        timed: u64,
        // Whether a late end was extended in this turn.
        put_off: bool,
    }
}

pin_project! {
    /// Tells the stream's task whom it waits for. Does nothing in HTTP/1.1.
    #[derive(Debug)]
    pub(crate) struct TurnTaking<B> {
        #[pin]
        body: B,
        turns: Option<TurnCount>,
    }
}

// === impl BoundedStreams ===

impl<F> Executor<F> for BoundedStreams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let Some(limit) = self.limit else {
            tokio::spawn(stream);
            return;
        };
        let turns = TurnCount::default();
        let stream = TURNS.scope(turns.clone(), stream);
        tokio::spawn(Bounded { stream, turns, limit, timer: None, timed: 0, put_off: false });
    }
}

// === impl Bounded ===

impl<F: Future<Output = ()>> Future for Bounded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let turn = this.turns.load(Ordering::Relaxed);
        if turn.is_multiple_of(2) {
            return Poll::Pending;
        }
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(*this.limit)));
        if std::mem::replace(this.timed, turn) != turn {
            timer.set(sleep(*this.limit));
            *this.put_off = false;
        }
        let mut elapsed = timer.as_mut().poll(cx);
        if elapsed.is_ready()
            && !std::mem::replace(this.put_off, true)
            && let Some(later) = grace::put_off(timer.deadline())
        {
            timer.as_mut().reset(later);
            elapsed = timer.as_mut().poll(cx);
        }
        if elapsed.is_ready() {
            tracing::info!("a client did not read its stream; the stream is reset");
        }
        elapsed
    }
}

// === impl TurnTaking ===

impl<B> TurnTaking<B> {
    /// The body of the answer to a request that this task serves.
    pub(crate) fn new(body: B) -> Self {
        Self { body, turns: TURNS.try_with(TurnCount::clone).ok() }
    }
}

/// Notes whether the stream waits for the client.
fn turn(turns: Option<&TurnCount>, client: bool) {
    let Some(turns) = turns else { return };
    let turn = turns.load(Ordering::Relaxed);
    if (turn % 2 == 1) != client {
        turns.store(turn + 1, Ordering::Relaxed);
    }
}

impl<B: Body<Data = Bytes>> Body for TurnTaking<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        turn(this.turns.as_ref(), false);
        let polled = this.body.poll_frame(cx);
        if polled.is_ready() {
            turn(this.turns.as_ref(), true);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
