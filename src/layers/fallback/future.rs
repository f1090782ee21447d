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

use super::backup::BackupCall;
use super::body::FallbackBody;
use super::otherwise::{Otherwise, primary};
use super::session::Session;
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::rejection::RejectionFormat;

pin_project! {
    /// The future of [`Fallback`](crate::fallback::Fallback).
    #[must_use = "futures do nothing unless polled"]
    pub struct FallbackFuture<S, Bk>
    where
        S: Service<Request<CallBody>>,
        Bk: Service<Request<CallBody>>,
    {
        #[pin]
        stage: Stage<S::Future, BackupCall<Bk, Bk::Future>>,
        // `None`: there is nothing yet, or nothing more.
        otherwise: Option<Otherwise<Result<S::Response, S::Error>>>,
        // `None`: the backup is not asked.
        session: Option<Session<Bk>>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<F, C> {
        Primary { #[pin] call: F },
        Backup { #[pin] call: C },
    }
}

// === impl FallbackFuture ===

impl<S, Bk> FallbackFuture<S, Bk>
where
    S: Service<Request<CallBody>>,
    Bk: Service<Request<CallBody>>,
{
    /// `session`: `None` where the backup is not asked.
    pub(super) fn calling(call: S::Future, session: Option<Session<Bk>>) -> Self {
        Self { stage: Stage::Primary { call }, otherwise: None, session }
    }

    /// A call that only the backup may serve; refused where it has no session.
    pub(super) fn pinned(session: Option<Session<Bk>>, format: RejectionFormat) -> Self
    where
        Bk: Clone,
    {
        let call = session.as_ref().map_or(BackupCall::Over, BackupCall::new);
        Self { stage: Stage::Backup { call }, otherwise: Some(Otherwise::Refusal(format)), session }
    }
}

impl<S, Bk, ResB, BkB> Future for FallbackFuture<S, Bk>
where
    S: Service<Request<CallBody>, Response = Response<ResB>, Error: Error + 'static>,
    Bk: Service<Request<CallBody>, Response = Response<BkB>> + Clone,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Output = Result<Response<FallbackBody<ResB, BkB>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let StageProj::Primary { call } = this.stage.as_mut().project() {
            let result = ready!(call.poll(cx));
            if !this.session.as_mut().is_some_and(|session| session.needs_backup(&result)) {
                return Poll::Ready(primary(result));
            }
            let call = this.session.as_ref().map_or(BackupCall::Over, BackupCall::new);
            this.stage.set(Stage::Backup { call });
            *this.otherwise = Some(Otherwise::Primary(result));
        }
        let served = match (this.stage.as_mut().project(), this.session.as_mut()) {
            (StageProj::Backup { call }, Some(session)) => ready!(call.poll(session, cx)),
            _ => None,
        };
        this.stage.set(Stage::Backup { call: BackupCall::Over });
        // Polled again after its end.
        let Some(otherwise) = this.otherwise.take() else { return Poll::Pending };
        #[cfg(feature = "schema")]
        let (otherwise, served) =
            otherwise.carry_usage(this.session.as_ref().and_then(|session| session.spent), served);
        Poll::Ready(otherwise.unless(served))
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
