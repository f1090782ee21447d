//! One call to the upstream for all who ask the same.

mod coming_back;
mod deadlines;
mod fairness;
mod flight;
#[cfg(feature = "llm")]
mod guarded;
mod keys;
mod limits;
mod readiness;
mod replay;
mod resumable;
mod resumable_over_sockets;
mod shared;
mod tenants;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tokio::sync::{mpsc, oneshot};
use tower::{Layer, Service, ServiceExt};
use tower_buttress::dedup::{Dedup, DedupBody};
use tower_buttress::error::BoxError;
use tower_buttress::store::Store;
use tower_buttress::{CallBody, DedupLayer, DedupRole};

pub(crate) type RequestBody = CallBody;
pub(crate) type Answer = Response<DedupBody<Live>>;

/// An upstream that the test plays by hand.
#[derive(Clone)]
pub(crate) struct Upstream {
    calls: mpsc::UnboundedSender<Call>,
    /// Calls and bodies that have not been dropped.
    alive: Arc<AtomicUsize>,
}

/// What the test sees of the upstream.
pub(crate) struct Stage {
    calls: mpsc::UnboundedReceiver<Call>,
    alive: Arc<AtomicUsize>,
}

/// One call at the upstream.
pub(crate) struct Call {
    pub(crate) request: Request<RequestBody>,
    answer: oneshot::Sender<Result<Response<Live>, Broken>>,
    alive: Arc<AtomicUsize>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}

struct Living(Arc<AtomicUsize>);

impl Drop for Living {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn living(alive: &Arc<AtomicUsize>) -> Living {
    alive.fetch_add(1, SeqCst);
    Living(alive.clone())
}

/// A response body that is told what to say.
pub(crate) struct Live {
    said: Arc<Mutex<Said>>,
    _living: Living,
}

/// Tells a [`Live`] body what to say.
#[derive(Clone)]
pub(crate) struct Say {
    said: Arc<Mutex<Said>>,
}

#[derive(Default)]
struct Said {
    frames: VecDeque<Result<Frame<Bytes>, BoxError>>,
    over: bool,
    panics: bool,
    polls: usize,
    waker: Option<Waker>,
}

pub(crate) fn upstream() -> (Upstream, Stage) {
    let (tx, rx) = mpsc::unbounded_channel();
    let alive = Arc::<AtomicUsize>::default();
    (Upstream { calls: tx, alive: alive.clone() }, Stage { calls: rx, alive })
}

/// A layer over an upstream that the test plays.
pub(crate) fn dedup<St: Store>(layer: &DedupLayer<St>) -> (Dedup<Upstream, St>, Stage) {
    let (upstream, stage) = upstream();
    (layer.layer(upstream), stage)
}

pub(crate) fn post(body: &'static str) -> Request<Full<Bytes>> {
    Request::post("/v1/chat").header("authorization", "Bearer a").body(Full::from(body)).unwrap()
}

pub(crate) fn post_key(key: &'static str, body: &'static str) -> Request<Full<Bytes>> {
    with_header(post(body), "idempotency-key", key)
}

pub(crate) fn with_header(
    mut request: Request<Full<Bytes>>,
    name: &'static str,
    value: &'static str,
) -> Request<Full<Bytes>> {
    request.headers_mut().append(name, value.parse().unwrap());
    request
}

/// Sends `request` in a task of its own; it has been polled when this returns.
pub(crate) async fn send<St: Store>(
    service: &Dedup<Upstream, St>,
    request: Request<Full<Bytes>>,
) -> tokio::task::JoinHandle<Result<Answer, Broken>> {
    let call = tokio::spawn(service.clone().oneshot(request));
    settle().await;
    call
}

/// Lets every task run until all of them wait.
pub(crate) async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn role<B>(response: &Response<B>) -> Option<DedupRole> {
    response.extensions().get().copied()
}

/// All of a body.
pub(crate) async fn text(answer: Answer) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// That a request reaches the upstream, and shares nothing with an earlier one.
pub(crate) async fn starts_a_new_call<St: Store>(
    service: &Dedup<Upstream, St>,
    stage: &mut Stage,
    request: Request<Full<Bytes>>,
) {
    let call = send(service, request).await;
    stage.call().await.ok_with("new");
    let answer = call.await.unwrap().unwrap();
    assert!(!answer.headers().contains_key("idempotent-replayed"));
    assert_eq!(text(answer).await, "new");
}

/// The next frame.
pub(crate) async fn next(answer: &mut Answer) -> String {
    match answer.body_mut().frame().await {
        None => "end".into(),
        Some(Err(err)) => format!("error: {err}"),
        Some(Ok(frame)) => match frame.into_data() {
            Ok(data) => String::from_utf8_lossy(&data).into_owned(),
            Err(_) => "trailers".into(),
        },
    }
}

/// Whether there is no frame at the moment.
pub(crate) fn waits(answer: &mut Answer) -> bool {
    Pin::new(answer.body_mut()).poll_frame(&mut Context::from_waker(Waker::noop())).is_pending()
}

// === impl Upstream ===

impl Service<Request<RequestBody>> for Upstream {
    type Response = Response<Live>;
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Live>, Broken>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let (answer, answered) = oneshot::channel();
        let living = living(&self.alive);
        let call = Call { request, answer, alive: self.alive.clone() };
        assert!(self.calls.send(call).is_ok(), "the stage is there");
        Box::pin(async move {
            let _living = living;
            answered.await.expect("the upstream panics")
        })
    }
}

// === impl Stage ===

impl Stage {
    /// The next call that came.
    pub(crate) async fn call(&mut self) -> Call {
        self.calls.recv().await.unwrap()
    }

    /// Whether no other call came.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        settle().await;
        self.calls.try_recv().is_err()
    }

    /// Calls and bodies that the layer has not dropped.
    pub(crate) fn alive(&self) -> usize {
        self.alive.load(SeqCst)
    }
}

// === impl Call ===

impl Call {
    /// Answers with a head, and a body to be told.
    pub(crate) fn answer(self, head: Response<()>) -> Say {
        let said = Arc::<Mutex<Said>>::default();
        let body = Live { said: said.clone(), _living: living(&self.alive) };
        self.answer.send(Ok(head.map(|()| body))).ok();
        Say { said }
    }

    pub(crate) fn ok(self) -> Say {
        self.answer(Response::new(()))
    }

    /// Answers with all of a body.
    pub(crate) fn answer_with(self, head: Response<()>, text: &str) {
        let say = self.answer(head);
        say.data(text);
        say.end();
    }

    pub(crate) fn ok_with(self, text: &str) {
        self.answer_with(Response::new(()), text);
    }

    pub(crate) fn fail(self, why: &'static str) {
        self.answer.send(Err(Broken(why))).ok();
    }

    pub(crate) fn panic(self) {
        drop(self.answer);
    }

    pub(crate) async fn read(self) -> (Bytes, Option<HeaderMap>) {
        let body = self.request.into_body().collect().await.unwrap();
        let trailers = body.trailers().cloned();
        (body.to_bytes(), trailers)
    }
}

// === impl Say ===

impl Say {
    fn say(&self, change: impl FnOnce(&mut Said)) {
        let waker = {
            let mut said = self.said.lock().unwrap();
            change(&mut said);
            said.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn data(&self, text: &str) {
        let frame = Frame::data(Bytes::from(text.to_owned()));
        self.say(|said| said.frames.push_back(Ok(frame)));
    }

    pub(crate) fn bytes(&self, data: Bytes) {
        self.say(|said| said.frames.push_back(Ok(Frame::data(data))));
    }

    pub(crate) fn trailers(&self, trailers: HeaderMap) {
        self.say(|said| said.frames.push_back(Ok(Frame::trailers(trailers))));
    }

    pub(crate) fn fail(&self, why: impl Into<BoxError>) {
        let why = why.into();
        self.say(|said| said.frames.push_back(Err(why)));
    }

    pub(crate) fn end(&self) {
        self.say(|said| said.over = true);
    }

    pub(crate) fn panic(&self) {
        self.say(|said| said.panics = true);
    }

    /// Wakes who waits, and says nothing.
    pub(crate) fn nudge(&self) {
        self.say(|_| {});
    }

    /// How often it was asked.
    pub(crate) fn polls(&self) -> usize {
        self.said.lock().unwrap().polls
    }

    /// What was said and not taken.
    pub(crate) fn untaken(&self) -> usize {
        self.said.lock().unwrap().frames.len()
    }
}

// === impl Live ===

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Live")
    }
}

impl Body for Live {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut said = self.said.lock().unwrap();
        said.polls += 1;
        if let Some(frame) = said.frames.pop_front() {
            return Poll::Ready(Some(frame));
        }
        if said.panics {
            drop(said);
            panic!("the upstream panics");
        }
        if said.over {
            return Poll::Ready(None);
        }
        said.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A service that answers at once: for what needs no play.
pub(crate) fn echo() -> impl Service<
    Request<RequestBody>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send,
> + Clone {
    tower::service_fn(|request: Request<RequestBody>| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok(Response::new(Full::new(body)))
    })
}
