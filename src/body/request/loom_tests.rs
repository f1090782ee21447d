//! The wake-ups of a request body that crosses threads, in every order that two threads can meet.
//!
//! ```sh
//! cargo test --release -p tower-buttress-loom --lib loom_
//! ```

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame};
use loom::future::block_on;
use loom::thread;

use super::{CallBody, Resend};
use crate::body::boxed::Polled;
use crate::call::Memory;
use crate::error::BoxError;
use crate::rt::sync::{Mutex, lock};

type Shared = Arc<Mutex<State>>;

/// What a sender has sent, and the task that waits for more.
#[derive(Default)]
struct State {
    frames: Vec<&'static str>,
    over: bool,
    waker: Option<Waker>,
}

struct Sent(Shared);

impl Body for Sent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let mut state = lock(&self.0);
        if !state.frames.is_empty() {
            let frame = state.frames.remove(0);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(frame.as_bytes())))));
        }
        if state.over {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn send(to: &Shared, frame: Option<&'static str>) {
    let waker = {
        let mut state = lock(to);
        state.over = frame.is_none();
        state.frames.extend(frame);
        state.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn upload() -> (Shared, CallBody) {
    let shared = Shared::default();
    (shared.clone(), CallBody::new(Sent(shared)))
}

/// A request whose body can be sent again, and the copy of its first attempt.
fn kept() -> (Shared, CallBody, Resend) {
    let (sender, body) = upload();
    let mut request = Request::new(body);
    let resend = Resend::keep(&mut request, 1024, &Memory::default()).unwrap();
    (sender, request.into_body(), resend)
}

async fn next(body: &mut CallBody) -> Option<Result<Bytes, BoxError>> {
    let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
    frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
}

fn read_all(mut body: CallBody) -> Result<Vec<u8>, BoxError> {
    block_on(async {
        let mut all = Vec::new();
        while let Some(data) = next(&mut body).await {
            all.extend_from_slice(&data?);
        }
        Ok(all)
    })
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(check);
}

#[test]
fn loom_a_copy_that_takes_over_reads_everything_and_the_one_before_ends() {
    model(|| {
        let (sender, first, resend) = kept();
        send(&sender, Some("a"));
        let old = thread::spawn(move || read_all(first));
        let second = resend.body();
        let sends = thread::spawn(move || {
            send(&sender, Some("b"));
            send(&sender, None);
        });
        assert_eq!(read_all(second).unwrap(), b"ab");
        // It read all before it was taken over, or was told; it is never left waiting.
        let old = old.join().unwrap();
        assert!(old.is_err() || old.unwrap() == b"ab");
        sends.join().unwrap();
    });
}

#[test]
fn loom_a_body_that_is_kept_no_longer_streams_on() {
    model(|| {
        let (sender, first, resend) = kept();
        let reads = thread::spawn(move || read_all(first));
        send(&sender, Some("a"));
        drop(resend);
        send(&sender, Some("b"));
        send(&sender, None);
        assert_eq!(reads.join().unwrap().unwrap(), b"ab");
    });
}

#[test]
fn loom_a_waiter_learns_that_the_sender_has_nothing_to_give() {
    model(|| {
        let (_sender, mut body) = upload();
        let watch = body.watch();
        let upstream = thread::spawn(move || {
            let polled = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
            body
        });
        block_on(poll_fn(|cx| watch.poll_sender(cx)));
        drop(upstream.join().unwrap());
    });
}
