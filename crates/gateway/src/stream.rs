//! An HTTP/2 stream whose client has to read.
//!
//! hyper runs each stream in a task of its own, and polls its body only when the client has made room for more. A
//! client that makes none, on a connection that is otherwise alive, would hold the upstream for ever. So the body
//! notes whose turn it is, and the task around it ends when the client's turn lasts too long: that resets the stream
//! and drops the upstream.

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

/// Counts the turns of one stream: even while the upstream is waited for, odd while the client is.
type Turns = Arc<AtomicU64>;

tokio::task_local! {
    static TURNS: Turns;
}

/// Spawns hyper's tasks, and bounds those that are streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BoundedStreams {
    pub(crate) limit: Option<Duration>,
}

pin_project! {
    struct Bounded<F> {
        #[pin]
        stream: TaskLocalFuture<Turns, F>,
        turns: Turns,
        limit: Duration,
        timer: Option<Pin<Box<Sleep>>>,
        timed: u64,
        // Its end was found late in this turn, and put off.
        put_off: bool,
    }
}

pin_project! {
    /// Notes in its stream's task whose turn it is. Elsewhere, in HTTP/1.1, it does nothing.
    #[derive(Debug)]
    pub(crate) struct TurnTaking<B> {
        #[pin]
        body: B,
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
        let turns = Turns::default();
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
            tracing::info!("a client took nothing of its stream, which is reset");
        }
        elapsed
    }
}

// === impl TurnTaking ===

impl<B> TurnTaking<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { body }
    }
}

/// It is the client's turn, or the upstream's.
fn turn(client: bool) {
    let _ = TURNS.try_with(|turns| {
        let turn = turns.load(Ordering::Relaxed);
        if (turn % 2 == 1) != client {
            turns.store(turn + 1, Ordering::Relaxed);
        }
    });
}

impl<B: Body<Data = Bytes>> Body for TurnTaking<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        turn(false);
        let polled = self.project().body.poll_frame(cx);
        if polled.is_ready() {
            turn(true);
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
