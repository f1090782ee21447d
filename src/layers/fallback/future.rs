use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::FallbackBody;
use super::session::{Reason, Session};
use crate::body::frame_budget::FrameBudget;
#[cfg(feature = "schema")]
use crate::body::output_usage::OutputUsage;
use crate::body::request::{CallBody, Resend};
use crate::error::BoxError;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::timeout::Timeout;

pin_project! {
    /// The future of [`Fallback`](crate::fallback::Fallback).
    #[must_use = "futures do nothing unless polled"]
    pub struct FallbackFuture<S, Bk>
    where
        S: Service<Request<CallBody>>,
        Bk: Service<Request<CallBody>>,
    {
        #[pin]
        stage: Stage<S::Future, Bk, Bk::Future>,
        otherwise: Option<Otherwise<Result<S::Response, S::Error>>>,
        // `None`: the backup is not asked.
        session: Option<Session<Bk>>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<F, Bk, G> {
        Primary { #[pin] call: F },
        // The part of the request that was not read yet, for the rewrite.
        Read { reading: Box<Reading> },
        // For the backup.
        Ready { backup: Bk },
        Backup { #[pin] call: G },
        Over,
    }
}

struct Reading {
    body: CallBody,
    timeout: Timeout,
}

/// What is returned if the backup does no better.
enum Otherwise<R> {
    /// What the primary came to.
    Primary(R),
    /// A refusal: the primary was not to be asked.
    Refusal(RejectionFormat),
}

// === impl FallbackFuture ===

impl<S, Bk> FallbackFuture<S, Bk>
where
    S: Service<Request<CallBody>>,
    Bk: Service<Request<CallBody>>,
{
    pub(super) fn passing(call: S::Future) -> Self {
        Self { stage: Stage::Primary { call }, otherwise: None, session: None }
    }

    pub(super) fn attempting(call: S::Future, session: Session<Bk>) -> Self {
        Self { stage: Stage::Primary { call }, otherwise: None, session: Some(session) }
    }

    /// A call that only the backup may serve; refused where it has no session.
    pub(super) fn pinned(session: Option<Session<Bk>>, format: RejectionFormat) -> Self
    where
        Bk: Clone,
    {
        let stage = session.as_ref().map_or(Stage::Over, Stage::for_backup);
        Self { stage, otherwise: Some(Otherwise::Refusal(format)), session }
    }
}

impl<S, Bk, ResB, BkB> Future for FallbackFuture<S, Bk>
where
    S: Service<Request<CallBody>, Response = Response<ResB>>,
    S::Error: Error + 'static,
    Bk: Service<Request<CallBody>, Response = Response<BkB>> + Clone,
    ResB: Body<Data = Bytes> + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    type Output = Result<Response<FallbackBody<ResB, BkB>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let StageProj::Primary { call } = this.stage.as_mut().project() {
            let result = ready!(call.poll(cx));
            let matter = this.session.as_ref().and_then(|session| session.needs_backup(&result));
            let (Some(session), Some(matter)) = (this.session.as_mut(), matter) else {
                return Poll::Ready(primary(result));
            };
            session.reason = Reason::Failed(matter);
            this.stage.set(Stage::for_backup(session));
            *this.otherwise = Some(Otherwise::Primary(result));
        }
        let served = match this.session {
            Some(session) => ready!(poll_backup(session, this.stage.as_mut(), cx)),
            None => None,
        };
        this.stage.set(Stage::Over);
        #[cfg(feature = "schema")]
        let served = carry_usage(this.session.as_ref().and_then(|session| session.spent), served, this.otherwise);
        match (served, this.otherwise.take()) {
            (Some(response), _) => Poll::Ready(Ok(response.map(FallbackBody::backup))),
            (None, Some(Otherwise::Primary(result))) => Poll::Ready(primary(result)),
            (None, Some(Otherwise::Refusal(format))) => {
                let rejection = Rejection::new(RejectionKind::UpstreamFailed);
                Poll::Ready(Ok(FallbackBody::refuse(rejection, format)))
            }
            // Polled again after it was over.
            (None, None) => Poll::Pending,
        }
    }
}

fn primary<A, B, E>(result: Result<Response<A>, E>) -> Result<Response<FallbackBody<A, B>>, E> {
    result.map(|response| response.map(FallbackBody::primary))
}

/// Whichever answer is returned says what those of both upstreams have cost.
#[cfg(feature = "schema")]
fn carry_usage<A, B, E>(
    of_backup: Option<OutputUsage>,
    mut served: Option<Response<B>>,
    otherwise: &mut Option<Otherwise<Result<Response<A>, E>>>,
) -> Option<Response<B>> {
    if let Some(Otherwise::Primary(Ok(primary))) = otherwise {
        let (spent, returned) = match &mut served {
            Some(served) => (OutputUsage::of(primary.extensions()), served.extensions_mut()),
            None => (of_backup, primary.extensions_mut()),
        };
        if let Some(spent) = spent {
            spent.carry_to(returned);
        }
    }
    served
}

/// The backup's answer, or `None` where there is none that is better than the primary's.
fn poll_backup<F, Bk, BkB>(
    session: &mut Session<Bk>,
    mut stage: Pin<&mut Stage<F, Bk, Bk::Future>>,
    cx: &mut Context<'_>,
) -> Poll<Option<Response<BkB>>>
where
    Bk: Service<Request<CallBody>, Response = Response<BkB>> + Clone,
{
    loop {
        let next = match stage.as_mut().project() {
            StageProj::Read { reading } => {
                if ready!(poll_whole(reading, session, cx)) {
                    Stage::to(session.backup())
                } else {
                    Stage::Over
                }
            }
            StageProj::Ready { backup } => {
                if let Err(err) = ready!(backup.poll_ready(cx)) {
                    return Poll::Ready(session.served(Err(err)));
                }
                match session.request() {
                    Some(request) => Stage::Backup { call: backup.call(request) },
                    None => Stage::Over,
                }
            }
            StageProj::Backup { call } => return Poll::Ready(session.served(ready!(call.poll(cx)))),
            StageProj::Primary { .. } | StageProj::Over => return Poll::Ready(None),
        };
        stage.set(next);
    }
}

/// Whether the body came to its end within the limits of size and time. It is recorded as it is read.
fn poll_whole<Bk>(reading: &mut Reading, session: &Session<Bk>, cx: &mut Context<'_>) -> Poll<bool> {
    let mut budget = FrameBudget::new();
    while budget.may_read(cx) {
        match Pin::new(&mut reading.body).poll_frame(cx) {
            Poll::Ready(None) => return Poll::Ready(true),
            Poll::Ready(Some(_)) if session.can_resend(Resend::state) => {}
            Poll::Ready(Some(_)) => return Poll::Ready(false),
            Poll::Pending => break,
        }
    }
    // Also where there is always more of it.
    ready!(reading.timeout.poll_after(session.read_timeout(), cx));
    session.bypass("the request body took too long");
    Poll::Ready(false)
}

// === impl Stage ===

impl<F, Bk: Clone, G> Stage<F, Bk, G> {
    fn for_backup(session: &Session<Bk>) -> Self {
        match session.to_rewrite() {
            Some(body) => Self::Read { reading: Box::new(Reading { body, timeout: Timeout::default() }) },
            None => Self::to(session.backup()),
        }
    }

    fn to(backup: Option<Bk>) -> Self {
        backup.map_or(Self::Over, |backup| Self::Ready { backup })
    }
}

impl<S, Bk> fmt::Debug for FallbackFuture<S, Bk>
where
    S: Service<Request<CallBody>>,
    Bk: Service<Request<CallBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackFuture").finish_non_exhaustive()
    }
}
