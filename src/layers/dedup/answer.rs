//! How a request gets its answer after the decision.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::DedupBody;
use super::come_back::ComeBack;
use super::config::Config;
use super::driver::SharedCall;
use super::failure::SharedFailure;
use super::offer::Offer;
use super::resumed::Resumed;
use super::role::DedupRole;
use crate::body::response::LayerBody;
use crate::call::Stale;
use crate::error::{self, BoxError, LeaderGone};
use crate::event::Event;
use crate::proto::grpc;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::clock;
use crate::store::{Head, LogReader};

/// Why a request with an `Idempotency-Key` passed without dedup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyIgnored {
    StoreFull,
    BodyTooLarge,
    BodyTooSlow,
}

pin_project! {
    /// The request passes, makes a shared call, follows one, or is refused. `C`: a call to the inner service. `R`: the
    /// state for another claim.
    #[project = CallAnswerProj]
    pub(super) enum CallAnswer<C, B, E, L, R> {
        Passing { #[pin] call: C, key_ignored: Option<KeyIgnored>, on_accepted: Option<OnAccepted> },
        Leading {
            reader: Option<LogReader>,
            call: Arc<SharedCall<C, B, E, L>>,
            offer: Option<Box<Offer>>,
            format: RejectionFormat,
            config: Arc<Config>,
        },
        Following { following: Following<R> },
        // At the URL of an answer.
        Returning { back: ComeBack },
        Refused { rejection: Option<Rejection>, format: RejectionFormat },
    }
}

/// Called when the upstream has answered with a 2xx.
pub(super) type OnAccepted = Box<dyn FnOnce() + Send>;

/// A request that joined a call, or gets a stored answer.
pub(super) struct Following<R> {
    pub(super) reader: Option<LogReader>,
    pub(super) role: DedupRole,
    pub(super) format: RejectionFormat,
    pub(super) config: Arc<Config>,
    pub(super) offer: Option<Box<Offer>>,
    /// For a store that hands calls over: the request, until there is a head.
    pub(super) request: Option<Box<R>>,
}

/// The result of a [`CallAnswer`].
pub(super) enum Answered<B, E, R> {
    Response(Result<Response<DedupBody<B>>, E>),
    /// The process of the call is gone, and there was no head: claim again.
    ClaimAgain(Box<R>),
}

const KEY_IGNORED: HeaderName = HeaderName::from_static("idempotency-key-ignored");

// === impl CallAnswer ===

impl<C, B, E, L, R> CallAnswer<C, B, E, L, R>
where
    C: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    pub(super) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered<B, E, R>> {
        Poll::Ready(Answered::Response(match self.project() {
            CallAnswerProj::Passing { call, key_ignored, on_accepted } => ready!(call.poll(cx)).map(|response| {
                if let Some(on_accepted) = on_accepted.take().filter(|_| knows_caller(&response)) {
                    on_accepted();
                }
                let mut response = response.map(DedupBody::inner);
                if let Some(why) = key_ignored {
                    response.headers_mut().insert(KEY_IGNORED, why.header());
                }
                response
            }),
            CallAnswerProj::Leading { reader, call, offer, format, config } => {
                let Some(reading) = reader else { return Poll::Pending };
                let Poll::Ready(head) = reading.poll_head(cx) else {
                    let response = ready!(poll_later(offer, cx));
                    // The last listener leaves the call.
                    *reader = None;
                    return Poll::Ready(Answered::Response(Ok(response)));
                };
                match (head, reader.take()) {
                    (Ok(head), Some(reader)) => {
                        let mut response = live(&head, reader, offer.as_deref());
                        response.extensions_mut().insert(DedupRole::Leader);
                        Ok(response)
                    }
                    // The upstream's own error, or the error that ended the call.
                    (Err(why), _) => {
                        call.take_error().map_or_else(|| Ok(shared_call_failed(why, *format, config)), Err)
                    }
                    (Ok(_), None) => return Poll::Pending,
                }
            }
            CallAnswerProj::Following { following } => return following.poll(cx),
            CallAnswerProj::Returning { back } => Ok(ready!(back.poll(cx))),
            CallAnswerProj::Refused { rejection, format } => {
                let Some(rejection) = rejection.take() else { return Poll::Pending };
                Ok(DedupBody::refuse(rejection, *format))
            }
        }))
    }
}

// === impl Following ===

impl<R> Following<R> {
    fn poll<B, E>(&mut self, cx: &mut Context<'_>) -> Poll<Answered<B, E, R>> {
        let Some(reading) = &mut self.reader else { return Poll::Pending };
        let Poll::Ready(head) = reading.poll_head(cx) else {
            let response = ready!(poll_later(&mut self.offer, cx));
            self.reader = None;
            return Poll::Ready(Answered::Response(Ok(response)));
        };
        let response = match (head, self.reader.take()) {
            (Ok(head), Some(reader)) => {
                let offer = self.offer.as_deref();
                let mut response = match self.role {
                    DedupRole::Replayed => {
                        let now = clock::now();
                        self.config.emitter.emit(&Event::Replayed { age: head.age(now) });
                        with_body(head.to_replay((), now), &head, reader, offer)
                    }
                    _ => live(&head, reader, offer),
                };
                response.extensions_mut().insert(self.role);
                response
            }
            (Err(why), _) => match self.request.take() {
                Some(request) if error::find::<LeaderGone>(&why).is_some() => {
                    return Poll::Ready(Answered::ClaimAgain(request));
                }
                _ => shared_call_failed(why, self.format, &self.config),
            },
            (Ok(_), None) => return Poll::Pending,
        };
        Poll::Ready(Answered::Response(Ok(response)))
    }
}

/// The answer of a call in flight.
fn live<B>(head: &Head, reader: LogReader, offer: Option<&Offer>) -> Response<DedupBody<B>> {
    with_body(head.to_response(()), head, reader, offer)
}

/// Adds the body to `response`, and the answer's URL, if its caller can come back to it.
fn with_body<B>(
    mut response: Response<()>,
    head: &Head,
    reader: LogReader,
    offer: Option<&Offer>,
) -> Response<DedupBody<B>> {
    let ids = offer.and_then(|offer| offer.add_to(response.headers_mut()));
    response.map(|()| DedupBody::other(Resumed::body(reader, head, ids, VecDeque::new(), None)))
}

/// There is no head yet. Ready when the caller should get a URL instead.
fn poll_later<B>(offer: &mut Option<Box<Offer>>, cx: &mut Context<'_>) -> Poll<Response<DedupBody<B>>> {
    let Some(offer) = offer else { return Poll::Pending };
    offer.poll_later(cx).map(|response| response.map(|()| DedupBody::over()))
}

/// Whether the upstream has answered with a success. A gRPC call shows that only at its end.
fn knows_caller<B>(response: &Response<B>) -> bool {
    let is_ours = Rejection::of(response).is_some() || Stale::of(response).is_some();
    response.status().is_success() && !is_ours && grpc::is_success_at_head(response.headers())
}

#[cold]
fn shared_call_failed<B>(why: BoxError, format: RejectionFormat, config: &Config) -> Response<DedupBody<B>> {
    let kind = RejectionKind::SharedCallFailed;
    config.emitter.emit(&Event::Refused { kind });
    let mut answer = DedupBody::refuse(Rejection::new(kind).with_source(why), format);
    SharedFailure::mark(&mut answer);
    answer
}

// === impl KeyIgnored ===

impl KeyIgnored {
    fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::StoreFull => "store-full",
            Self::BodyTooLarge => "body-too-large",
            Self::BodyTooSlow => "body-too-slow",
        })
    }
}
