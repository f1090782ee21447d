use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;

use super::body::FirstByteTimeoutBody;
use super::layer::{FirstByteEvent, FirstByteTimeoutLayer};
use crate::body::prefixed::Held;
use crate::body::request::UploadWatch;
use crate::body::response::ResponseBody;
use crate::error::BoxError;
use crate::event::{Emitter, Event};
use crate::policy::verdict::EarlyTrailers;
use crate::proto::event_stream::EventStream;
use crate::proto::sse::Scanner;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::clock;
use crate::rt::timeout::Timeout;

/// What may be withheld while waiting for a first event. A first event is a line or two; a peer that sends more than
/// this before one is not to fill our memory.
const MAX_WITHHELD: usize = 64 * 1024;
/// The same in frames, since a frame costs more than the byte it may carry.
const MAX_WITHHELD_FRAMES: usize = 1024;
/// What tokio's timers count in: an instant nearer than this may be the present one.
const TICK: Duration = Duration::from_millis(1);

pin_project! {
    /// The future of [`FirstByteTimeout`](crate::FirstByteTimeout).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct FirstByteTimeoutFuture<F, B> {
        #[pin]
        stage: Stage<F, B>,
        // `None`: the layer is off.
        wait: Option<Wait>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = StageProj]
    enum Stage<F, B> {
        // Waiting for the head.
        Head { #[pin] call: F },
        // The head is here, and withheld until there is data.
        Data { withheld: BufferedResponse<B> },
        // Refused: the call is dropped.
        Over,
    }
}

/// A response of which nothing is handed on yet.
#[derive(Debug)]
struct BufferedResponse<B> {
    /// Taken when it is handed on.
    response: Option<Response<ResponseBody<B>>>,
    held: Held,
    /// Where only an event counts.
    scanner: Option<Scanner>,
}

/// How long to wait, and for what.
#[derive(Debug)]
pub(super) struct Wait {
    limit: Duration,
    until: FirstByteEvent,
    upload: UploadWatch,
    timeout: Timeout,
    wire: RejectionFormat,
    emitter: Emitter,
}

// === impl FirstByteTimeoutFuture ===

impl<F, B> FirstByteTimeoutFuture<F, B> {
    pub(super) fn passing(call: F) -> Self {
        Self { stage: Stage::Head { call }, wait: None }
    }

    pub(super) fn waiting(call: F, wait: Wait) -> Self {
        Self { stage: Stage::Head { call }, wait: Some(wait) }
    }
}

impl<F, B, E> Future for FirstByteTimeoutFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Output = Result<Response<FirstByteTimeoutBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let StageProj::Head { call } = this.stage.as_mut().project() {
            match call.poll(cx) {
                Poll::Ready(Ok(response)) => match this.wait.as_ref().and_then(|wait| wait.first_of(&response)) {
                    Some(first) => this.stage.set(Stage::Data { withheld: BufferedResponse::new(response, first) }),
                    None => return Poll::Ready(Ok(FirstByteTimeoutBody::pass(response))),
                },
                Poll::Ready(Err(err)) => return Poll::Ready(Err(err)),
                Poll::Pending => {}
            }
        }
        let Some(wait) = this.wait else { return Poll::Pending };
        let mut rejection = Rejection::new(RejectionKind::FirstByteTimeout);
        match this.stage.as_mut().project() {
            StageProj::Data { withheld } => match withheld.poll_first(cx) {
                Poll::Ready(Ok(response)) => return Poll::Ready(Ok(response)),
                Poll::Ready(Err(err)) => rejection = Rejection::new(RejectionKind::BodyFailed).with_source(err),
                // Each side may be waiting for the other: who speaks first on a stream that goes both ways has the head
                // before anything else.
                Poll::Pending if wait.upload.poll_sender(cx).is_ready() => return withheld.hand_on(),
                Poll::Pending => ready!(wait.poll_limit(cx)),
            },
            _ => ready!(wait.poll_limit(cx)),
        }
        this.stage.set(Stage::Over);
        Poll::Ready(Ok(wait.refuse(rejection)))
    }
}

// === impl BufferedResponse ===

impl<B> BufferedResponse<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError> + 'static,
{
    fn new(response: Response<B>, first: FirstByteEvent) -> Self {
        let scanner = (first == FirstByteEvent::SseEvent).then(Scanner::new);
        Self { response: Some(response.map(ResponseBody::inner)), held: Held::default(), scanner }
    }

    /// The response, once what it waits for has come, or its body has ended without; the body's error if it fails.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<FirstByteTimeoutBody<B>>, BoxError>> {
        // Polled again after it was handed on: nothing will come.
        let Some(response) = &mut self.response else { return Poll::Pending };
        while let Some(frame) = ready!(Pin::new(response.body_mut()).poll_frame(cx)).transpose()? {
            // Bytes there are none of are no byte, and must not pile up.
            if frame.data_ref().is_some_and(Bytes::is_empty) {
                continue;
            }
            let enough = is_first(&frame, &mut self.scanner);
            if let Some(trailers) = frame.trailers_ref().filter(|_| self.held.bytes() == 0) {
                response.extensions_mut().insert(EarlyTrailers(trailers.clone()));
            }
            self.held.push(frame);
            if enough || self.held.bytes() >= MAX_WITHHELD || self.held.frames() >= MAX_WITHHELD_FRAMES {
                break;
            }
        }
        self.hand_on()
    }

    fn hand_on<E>(&mut self) -> Poll<Result<Response<FirstByteTimeoutBody<B>>, E>> {
        let held = std::mem::take(&mut self.held);
        let resumed =
            self.response.take().map(|response| response.map(|rest| FirstByteTimeoutBody::resume(held, rest)));
        resumed.map_or(Poll::Pending, |response| Poll::Ready(Ok(response)))
    }
}

/// Whether this frame is what the caller waits for. Trailers are: no data will follow them.
fn is_first(frame: &Frame<Bytes>, scanner: &mut Option<Scanner>) -> bool {
    match (frame.data_ref(), scanner) {
        (Some(data), Some(scanner)) => scanner.scan(data).events > 0,
        _ => true,
    }
}

// === impl Wait ===

impl Wait {
    pub(super) fn new(
        limit: Duration,
        until: FirstByteEvent,
        upload: UploadWatch,
        wire: RejectionFormat,
        emitter: Emitter,
    ) -> Self {
        Self { limit, until, upload, timeout: Timeout::default(), wire, emitter }
    }

    /// What of this response's body is still to be waited for: `None` if its head is all that is waited for.
    fn first_of<B: Body>(&self, response: &Response<B>) -> Option<FirstByteEvent> {
        use StatusCode as Is;
        let bodiless = matches!(
            response.status(),
            Is::SWITCHING_PROTOCOLS | Is::NO_CONTENT | Is::RESET_CONTENT | Is::NOT_MODIFIED
        );
        // A status from 400 on says what is wrong already, and what its headers ask for would be lost with a refusal.
        let failed = response.status().as_u16() >= 400;
        if self.until == FirstByteEvent::Headers || bodiless || failed || response.body().is_end_stream() {
            return None;
        }
        if self.until == FirstByteEvent::Data {
            return Some(FirstByteEvent::Data);
        }
        Some(match EventStream::of(response.headers()) {
            EventStream::Plain => FirstByteEvent::SseEvent,
            EventStream::No => FirstByteEvent::Data,
            EventStream::Encoded => {
                let reason = "a compressed event stream is judged by its data";
                self.emitter.emit(&Event::Bypassed { layer: FirstByteTimeoutLayer::NAME, reason });
                FirstByteEvent::Data
            }
        })
    }

    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(since) = self.upload.waiting_since() else { return self.look_again(cx) };
        since.checked_add(self.limit).map_or(Poll::Pending, |at| self.timeout.poll_until(at, cx))
    }

    /// While the upload has nothing to give, nobody is late; before this long, nobody can be.
    fn look_again(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let soonest = clock::now().checked_add(self.limit.max(TICK));
        soonest.map_or(Poll::Pending, |at| self.timeout.poll_until(at, cx))
    }

    #[cold]
    fn refuse<B>(&self, rejection: Rejection) -> Response<FirstByteTimeoutBody<B>> {
        self.emitter.emit(&Event::Refused { kind: rejection.kind() });
        ResponseBody::refuse(rejection, self.wire).map(|body| FirstByteTimeoutBody::resume(Held::default(), body))
    }
}
