use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::FallbackBody;
use super::session::Session;
use crate::body::request::CallBody;
use crate::body::request::Resend;

pin_project! {
    /// The future of [`Fallback`](crate::Fallback).
    #[must_use = "futures do nothing unless polled"]
    pub struct FallbackFuture<S, Bk>
    where
        S: Service<Request<CallBody>>,
        Bk: Service<Request<CallBody>>,
    {
        #[pin]
        stage: Stage<S::Future, Bk, Bk::Future>,
        // What the primary said, once it has: returned if the backup does no better.
        first: Option<Result<S::Response, S::Error>>,
        // `None`: there is no other way.
        session: Option<Session<Bk>>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<F, Bk, G> {
        Primary { #[pin] call: F },
        // What nobody has read of the request, for the rewrite.
        Read { body: CallBody },
        // For the backup.
        Ready { backup: Bk },
        Backup { #[pin] call: G },
        Over,
    }
}

// === impl FallbackFuture ===

impl<S, Bk> FallbackFuture<S, Bk>
where
    S: Service<Request<CallBody>>,
    Bk: Service<Request<CallBody>>,
{
    pub(super) fn passing(call: S::Future) -> Self {
        Self { stage: Stage::Primary { call }, first: None, session: None }
    }

    pub(super) fn attempting(call: S::Future, session: Session<Bk>) -> Self {
        Self { stage: Stage::Primary { call }, first: None, session: Some(session) }
    }
}

impl<S, Bk, ResB, BkB> Future for FallbackFuture<S, Bk>
where
    S: Service<Request<CallBody>, Response = Response<ResB>>,
    S::Error: Error + 'static,
    Bk: Service<Request<CallBody>, Response = Response<BkB>> + Clone,
{
    type Output = Result<Response<FallbackBody<ResB, BkB>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let StageProj::Primary { call } = this.stage.as_mut().project() {
            let result = ready!(call.poll(cx));
            let elsewhere = this.session.as_ref().filter(|session| session.needs_backup(&result));
            let Some(session) = elsewhere else { return Poll::Ready(primary(result)) };
            *this.first = Some(result);
            let next = match session.to_rewrite() {
                Some(body) => Stage::Read { body },
                None => Stage::to(session.backup()),
            };
            this.stage.set(next);
        }
        let served = match this.session {
            Some(session) => ready!(poll_elsewhere(session, this.stage.as_mut(), cx)),
            None => None,
        };
        this.stage.set(Stage::Over);
        match (served, this.first.take()) {
            (Some(response), _) => Poll::Ready(Ok(response.map(FallbackBody::backup))),
            (None, Some(first)) => Poll::Ready(primary(first)),
            // Polled again after it was over.
            (None, None) => Poll::Pending,
        }
    }
}

impl<F, Bk, G> Stage<F, Bk, G> {
    fn to(backup: Option<Bk>) -> Self {
        backup.map_or(Self::Over, |backup| Self::Ready { backup })
    }
}

fn primary<A, B, E>(result: Result<Response<A>, E>) -> Result<Response<FallbackBody<A, B>>, E> {
    result.map(|response| response.map(FallbackBody::primary))
}

/// The backup's answer, or `None` where there is none that is better than the first.
fn poll_elsewhere<F, Bk, BkB>(
    session: &Session<Bk>,
    mut stage: Pin<&mut Stage<F, Bk, Bk::Future>>,
    cx: &mut Context<'_>,
) -> Poll<Option<Response<BkB>>>
where
    Bk: Service<Request<CallBody>, Response = Response<BkB>> + Clone,
{
    loop {
        let next = match stage.as_mut().project() {
            StageProj::Read { body } => {
                match ready!(Pin::new(body).poll_frame(cx)) {
                    // It is recorded as it is read.
                    Some(_) if session.can_resend(Resend::state) => continue,
                    None => Stage::to(session.backup()),
                    Some(_) => Stage::Over,
                }
            }
            StageProj::Ready { backup } => {
                if let Err(err) = ready!(backup.poll_ready(cx)) {
                    return Poll::Ready(session.served(Err(err)));
                }
                let call = backup.call(session.request());
                Stage::Backup { call }
            }
            StageProj::Backup { call } => return Poll::Ready(session.served(ready!(call.poll(cx)))),
            StageProj::Primary { .. } | StageProj::Over => return Poll::Ready(None),
        };
        stage.set(next);
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
