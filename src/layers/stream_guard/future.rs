use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::StreamGuardBody;
use super::config::{Chosen, Config, NAME};
use super::prelude::WithheldPrelude;
use super::refusal;
use super::state::StreamState;
use super::watch::{BodyWatch, ContentLimit, StreamWatch};
use crate::body::ending::Ending;
use crate::body::response::ResponseBody;
use crate::call::Tenant;
use crate::error::BoxError;
use crate::event::Event;
use crate::proto::dialect::{Framing, Kind};
use crate::proto::event_stream::EventStream;
use crate::proto::{bodiless, media_type};
use crate::rejection::Rejection;
use crate::rt::clock;

pin_project! {
    /// The future of [`StreamGuard`](crate::stream_guard::StreamGuard).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct StreamGuardFuture<F, B> {
        #[pin]
        stage: Stage<F, B>,
        // `None`: the layer is off, or has nothing to look for.
        expected: Option<Expected>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = StageProj]
    enum Stage<F, B> {
        // Waiting for the head.
        Head { #[pin] call: F },
        // The head is here, and withheld.
        Body { withheld: WithheldPrelude<B> },
    }
}

/// What is known of an answer before it comes.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) config: Arc<Config>,
    /// Its dialect, where that was set or the path told.
    pub(super) dialect: Option<Chosen>,
    /// Whether the request asks for something to be generated: what an answer to another one says, is its own business.
    pub(super) generates: bool,
    /// Whether it asks for the rest of an answer: its content, and how it ended, may have come before.
    pub(super) asks_for_rest: bool,
    pub(super) host: u64,
    pub(super) tenant: Option<Tenant>,
    /// The longest wait for the first data, where the request has one of its own.
    pub(super) first_byte: Option<Duration>,
}

/// What is done with a response.
enum Plan<B> {
    /// Something of its body is read first.
    Withhold(WithheldPrelude<B>),
    HandOn(Response<StreamGuardBody<B>>),
}

/// What a head promises.
enum Look {
    Pass,
    Bypass(&'static str),
    Error,
    Answer,
    Stream(Framing),
}

// === impl StreamGuardFuture ===

impl<F, B> StreamGuardFuture<F, B> {
    pub(super) fn new(call: F, expected: Option<Expected>) -> Self {
        Self { stage: Stage::Head { call }, expected }
    }
}

impl<F, B, E> Future for StreamGuardFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Output = Result<Response<StreamGuardBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let StageProj::Head { call } = this.stage.as_mut().project() {
            let response = ready!(call.poll(cx))?;
            let Some(expected) = this.expected.take() else { return Poll::Ready(Ok(pass(response))) };
            match expected.plan(response) {
                Plan::Withhold(withheld) => this.stage.set(Stage::Body { withheld }),
                Plan::HandOn(response) => return Poll::Ready(Ok(response)),
            }
        }
        match this.stage.project() {
            StageProj::Body { withheld } => withheld.poll(cx).map(Ok),
            StageProj::Head { .. } => Poll::Pending,
        }
    }
}

fn pass<B>(response: Response<B>) -> Response<StreamGuardBody<B>> {
    response.map(|body| StreamGuardBody::pass(ResponseBody::inner(body)))
}

// === impl Expected ===

impl Expected {
    /// Withholds a response, or hands it on.
    fn plan<B: Body>(self, mut response: Response<B>) -> Plan<B> {
        if Rejection::of(&response).is_none() {
            refusal::note_limits(&mut response, &self.config);
        }
        let framing = match self.look(&response) {
            Look::Pass => return Plan::HandOn(pass(response)),
            Look::Bypass(reason) => {
                self.config.emitter.emit(&Event::Bypassed { layer: NAME, reason });
                return Plan::HandOn(pass(response));
            }
            Look::Error => {
                let held = self.config.memory.reserve(self.tenant.as_ref());
                return Plan::Withhold(WithheldPrelude::error(self.config, held, response));
            }
            Look::Answer => None,
            Look::Stream(framing) => Some(framing),
        };
        let ending = Ending::new().following_ids();
        response.extensions_mut().insert(ending.clone());
        let Self { config, dialect, generates, asks_for_rest, host, tenant, first_byte } = self;
        let held = config.memory.reserve(tenant.as_ref());
        let first_content = config.first_content.map(|limit| limit.max(first_byte.unwrap_or_default()));
        match (framing, dialect) {
            (None, Some(dialect)) => {
                Plan::Withhold(WithheldPrelude::answer(config, held, response, dialect, host, first_content))
            }
            (framing, dialect) => {
                let framing = framing.unwrap_or(Framing::EventStream);
                let dialect = dialect.filter(|dialect| !dialect.is_other_in(framing));
                let reader = Chosen::reader(dialect.as_ref(), framing);
                let state = StreamState::new(Arc::clone(&config), reader, framing, host, ending);
                let limit = ContentLimit::new(first_content, clock::now());
                // The rest of an answer may be nothing but its end.
                if generates && dialect.is_some() && !asks_for_rest {
                    let state = state.withholding_markers();
                    return Plan::Withhold(WithheldPrelude::stream(config, held, response, state, limit));
                }
                let watch = BodyWatch::Stream(Box::new(StreamWatch { state, limit: ContentLimit::none() }));
                response.headers_mut().remove(CONTENT_LENGTH);
                Plan::HandOn(
                    response.map(|body| StreamGuardBody::new(Default::default(), watch, ResponseBody::inner(body))),
                )
            }
        }
    }

    fn look<B: Body>(&self, response: &Response<B>) -> Look {
        let (status, headers) = (response.status(), response.headers());
        // What our own layers say is no answer of the upstream's.
        if Rejection::of(response).is_some() {
            return Look::Pass;
        }
        if status.as_u16() >= 400 {
            let says_why = self.generates && media_type::is_json(headers) && !response.body().is_end_stream();
            return match says_why {
                true if media_type::is_encoded(headers) => Look::Bypass("the answer is compressed"),
                true => Look::Error,
                false => Look::Pass,
            };
        }
        if !status.is_success() || bodiless::with_status(status) {
            return Look::Pass;
        }
        match EventStream::of(headers) {
            EventStream::Plain => return Look::Stream(Framing::EventStream),
            EventStream::Encoded => return Look::Bypass("the event stream is compressed"),
            EventStream::No => {}
        }
        let Some(dialect) = self.dialect.as_ref().filter(|_| self.generates) else { return Look::Pass };
        let essence = media_type::essence(headers);
        let is = |name: &str| essence.eq_ignore_ascii_case(name.as_bytes());
        if is("application/vnd.amazon.eventstream") {
            return Look::Bypass("binary event streams are not read");
        }
        let lines = is("application/x-ndjson") || is("application/jsonl");
        if !(lines || media_type::is_json(headers)) {
            return Look::Pass;
        }
        if media_type::is_encoded(headers) {
            return Look::Bypass("the answer is compressed");
        }
        match dialect.kind() {
            Some(Kind::Ollama) | None if lines => Look::Stream(Framing::Lines),
            _ if lines => Look::Pass,
            _ => Look::Answer,
        }
    }
}
