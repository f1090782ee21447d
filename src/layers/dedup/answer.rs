//! How a request gets its answer, once that is decided.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::DedupBody;
use super::config::Config;
use super::driver::SharedCall;
use crate::error::{self, BoxError, LeaderGone};
use crate::event::Event;
use crate::proto::grpc;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::clock;
use crate::store::Reader;

/// How a response of [`Dedup`](crate::Dedup) came about. In the response's extensions, unless the layer let the request
/// pass or refused it.
///
/// ```
/// use http::Response;
/// use tower_buttress::DedupRole;
///
/// let mut response = Response::new(());
/// response.extensions_mut().insert(DedupRole::Joined);
/// assert_eq!(response.extensions().get(), Some(&DedupRole::Joined));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DedupRole {
    /// By a call to the upstream that this request made, and others may have joined.
    Leader,
    /// By a call that another request had made, and that was in flight.
    Joined,
    /// By an answer that was kept.
    Replayed,
}

/// Why a request with an `Idempotency-Key` passed as if it had none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyIgnored {
    StoreFull,
    BodyTooLarge,
    BodyTooSlow,
}

pin_project! {
    /// The request passes, makes a shared call, follows one, or is refused. `C`: a call to the inner service. `R`: what it takes
    /// to claim again.
    #[project = AnswerProj]
    pub(super) enum Answer<C, B, E, L, R> {
        Passing { #[pin] call: C, key_ignored: Option<KeyIgnored>, on_accepted: Option<OnAccepted> },
        Leading { reader: Option<Reader>, call: Arc<SharedCall<C, B, E, L>>, format: RejectionFormat, config: Arc<Config> },
        Following { following: Following<R> },
        Refused { rejection: Option<Rejection>, format: RejectionFormat },
    }
}

/// Is called when the upstream has answered with a 2xx.
pub(super) type OnAccepted = Box<dyn FnOnce() + Send>;

/// A request that joined a call, or is given an answer that was kept.
pub(super) struct Following<R> {
    pub(super) reader: Option<Reader>,
    pub(super) role: DedupRole,
    pub(super) format: RejectionFormat,
    pub(super) config: Arc<Config>,
    /// For a store that hands calls over: the request, until there is a head.
    pub(super) request: Option<Box<R>>,
}

/// What an [`Answer`] led to.
pub(super) enum Answered<B, E, R> {
    Response(Result<Response<DedupBody<B>>, E>),
    /// The process that made the call is gone, and there was no head: another must make it.
    ClaimAgain(Box<R>),
}

const KEY_IGNORED: HeaderName = HeaderName::from_static("idempotency-key-ignored");

// === impl Answer ===

impl<C, B, E, L, R> Answer<C, B, E, L, R>
where
    C: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    pub(super) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered<B, E, R>> {
        Poll::Ready(Answered::Response(match self.project() {
            AnswerProj::Passing { call, key_ignored, on_accepted } => ready!(call.poll(cx)).map(|response| {
                if let Some(on_accepted) = on_accepted.take().filter(|_| knows_caller(&response)) {
                    on_accepted();
                }
                let mut response = response.map(DedupBody::own);
                if let Some(why) = key_ignored {
                    response.headers_mut().insert(KEY_IGNORED, why.header());
                }
                response
            }),
            AnswerProj::Leading { reader, call, format, config } => {
                let Some(reading) = reader else { return Poll::Pending };
                match (ready!(reading.poll_head(cx)), reader.take()) {
                    (Ok(head), Some(reader)) => {
                        let mut response = head.to_response(DedupBody::shared(reader, &head));
                        response.extensions_mut().insert(DedupRole::Leader);
                        Ok(response)
                    }
                    // The upstream's own error, or, if the call ended otherwise, what took its place.
                    (Err(why), _) => {
                        call.take_error().map_or_else(|| Ok(shared_call_failed(why, *format, config)), Err)
                    }
                    (Ok(_), None) => return Poll::Pending,
                }
            }
            AnswerProj::Following { following } => return following.poll(cx),
            AnswerProj::Refused { rejection, format } => {
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
        let (head, reader) = (ready!(reading.poll_head(cx)), self.reader.take());
        let response = match (head, reader) {
            (Ok(head), Some(reader)) => {
                let body = DedupBody::shared(reader, &head);
                let mut response = match self.role {
                    DedupRole::Replayed => {
                        let now = clock::now();
                        self.config.emitter.emit(&Event::Replayed { age: head.age(now) });
                        head.to_replay(body, now)
                    }
                    _ => head.to_response(body),
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

/// Whether the upstream has answered, and with a success. Of a gRPC call that is known at its end only.
fn knows_caller<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    let is_ours = Rejection::of(response).is_some();
    response.status().is_success() && !is_ours && !grpc::owes_status(headers) && grpc::status(headers).is_none()
}

#[cold]
fn shared_call_failed<B>(why: BoxError, format: RejectionFormat, config: &Config) -> Response<DedupBody<B>> {
    let kind = RejectionKind::SharedCallFailed;
    config.emitter.emit(&Event::Refused { kind });
    DedupBody::refuse(Rejection::new(kind).with_source(why), format)
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
