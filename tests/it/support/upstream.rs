//! An upstream that follows a script, and remembers what it was asked.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep};
use tower::Service;
use tower_buttress::Attempt;
use tower_buttress::error::BoxError;

use super::{Script, Step};

/// One answer of the script.
#[derive(Debug)]
pub(crate) struct Answer {
    reads: Reads,
    delay: Duration,
    result: Option<io::Result<Response<Script>>>,
}

/// How much of the request the upstream reads before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    Nothing,
    OneFrame,
    All,
}

/// What one call looked like from the upstream.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Duration,
    pub(crate) attempt: Attempt,
    pub(crate) uri: http::Uri,
    pub(crate) headers: HeaderMap,
    /// What the body said of its length before it was read.
    pub(crate) length: Option<u64>,
    pub(crate) data: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) failed: Option<String>,
}

/// The service. As strict as a service may be: it panics when it is called on a clone that was not polled ready.
#[derive(Debug)]
pub(crate) struct Upstream {
    shared: Arc<Mutex<Shared>>,
    readiness: Option<Pin<Box<Sleep>>>,
    ready: bool,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    answers: VecDeque<Answer>,
    seen: Vec<Seen>,
    /// How long each clone takes to be ready; then, how many answer so, and the error it ends in.
    ready_after: Duration,
    ready_error: Option<(usize, io::ErrorKind)>,
}

// === impl Answer ===

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        let response = Response::builder().status(status).body(Script::new([Step::Data("said")])).unwrap();
        Self { reads: Reads::All, delay: Duration::ZERO, result: Some(Ok(response)) }
    }

    pub(crate) fn fails(kind: io::ErrorKind) -> Self {
        Self { reads: Reads::All, delay: Duration::ZERO, result: Some(Err(kind.into())) }
    }

    pub(crate) fn never() -> Self {
        Self { reads: Reads::All, delay: Duration::ZERO, result: None }
    }

    pub(crate) fn header(self, name: &'static str, value: &str) -> Self {
        self.map(|response| {
            response.headers_mut().append(name, value.parse().unwrap());
        })
    }

    pub(crate) fn body(self, body: Script) -> Self {
        self.map(|response| *response.body_mut() = body)
    }

    pub(crate) fn with<T: Clone + Send + Sync + 'static>(self, extension: T) -> Self {
        self.map(|response| {
            response.extensions_mut().insert(extension);
        })
    }

    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Answers without having read anything.
    pub(crate) fn unread(mut self) -> Self {
        self.reads = Reads::Nothing;
        self
    }

    /// Answers in the middle of the request.
    pub(crate) fn early(mut self) -> Self {
        self.reads = Reads::OneFrame;
        self
    }

    fn map(mut self, change: impl FnOnce(&mut Response<Script>)) -> Self {
        if let Some(Ok(response)) = &mut self.result {
            change(response);
        }
        self
    }
}

// === impl Upstream ===

impl Upstream {
    pub(crate) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let shared = Shared {
            start: Instant::now(),
            answers: answers.into_iter().collect(),
            seen: Vec::new(),
            ready_after: Duration::ZERO,
            ready_error: None,
        };
        Self { shared: Arc::new(Mutex::new(shared)), readiness: None, ready: false }
    }

    /// Each clone takes so long to be ready.
    pub(crate) fn ready_after(self, time: Duration) -> Self {
        self.shared.lock().unwrap().ready_after = time;
        self
    }

    /// After so many clones that were ready, one is not.
    pub(crate) fn ready_fails_after(self, ready: usize, kind: io::ErrorKind) -> Self {
        self.shared.lock().unwrap().ready_error = Some((ready, kind));
        self
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.lock().unwrap().seen.clone()
    }

    /// When it was called, in seconds.
    pub(crate) fn times(&self) -> Vec<f64> {
        self.seen().iter().map(|seen| seen.at.as_secs_f64()).collect()
    }

    /// How many clones there are.
    pub(crate) fn clones(&self) -> usize {
        Arc::strong_count(&self.shared)
    }
}

impl Clone for Upstream {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), readiness: None, ready: false }
    }
}

impl<B> Service<Request<B>> for Upstream
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Script>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Response<Script>>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock().unwrap();
        if !self.ready && !shared.ready_after.is_zero() {
            let time = shared.ready_after;
            let readiness = self.readiness.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
            std::task::ready!(readiness.as_mut().poll(cx));
        }
        if !self.ready {
            if let Some((left, kind)) = &mut shared.ready_error {
                if *left == 0 {
                    return Poll::Ready(Err((*kind).into()));
                }
                *left -= 1;
            }
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been ready");
        self.readiness = None;
        let (head, mut body) = request.into_parts();
        let mut shared = self.shared.lock().unwrap();
        let answer = shared.answers.pop_front().expect("no more calls than answers");
        let seen = Seen {
            at: shared.start.elapsed(),
            attempt: head.extensions.get().copied().unwrap_or(Attempt(1)),
            uri: head.uri,
            headers: head.headers,
            length: body.size_hint().exact(),
            data: Bytes::new(),
            trailers: None,
            failed: None,
        };
        shared.seen.push(seen);
        let call = shared.seen.len() - 1;
        let shared = self.shared.clone();
        Box::pin(async move {
            // Held to the end of the call, as a connection holds it.
            let mut data = BytesMut::new();
            let mut frames = 0;
            while answer.reads == Reads::All || (answer.reads == Reads::OneFrame && frames == 0) {
                let Some(frame) = body.frame().await else { break };
                frames += 1;
                match frame.map(http_body::Frame::into_data) {
                    Ok(Ok(part)) => data.extend_from_slice(&part),
                    Ok(Err(frame)) => shared.lock().unwrap().seen[call].trailers = frame.into_trailers().ok(),
                    Err(err) => {
                        shared.lock().unwrap().seen[call].failed = Some(err.into().to_string());
                        return Err(io::ErrorKind::BrokenPipe.into());
                    }
                }
            }
            shared.lock().unwrap().seen[call].data = data.freeze();
            tokio::time::sleep(answer.delay).await;
            match answer.result {
                Some(result) => result,
                None => std::future::pending().await,
            }
        })
    }
}

/// The whole of a response's body.
pub(crate) async fn text<B>(response: Response<B>) -> String
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// A request with this body.
pub(crate) fn request(method: &str, body: impl IntoIterator<Item = Step>) -> Request<Script> {
    Request::builder().method(method).uri("http://upstream/v1/chat").body(Script::new(body)).unwrap()
}

pub(crate) fn is<B>(response: &Response<B>, status: u16) -> bool {
    response.status() == StatusCode::from_u16(status).unwrap()
}
