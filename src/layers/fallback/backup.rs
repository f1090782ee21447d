//! The call to the backup: from the rest of a request that is to be rewritten, to its answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::session::Session;
use crate::body::frame_budget::FrameBudget;
use crate::body::request::{CallBody, Resend};
use crate::rt::timeout::Timeout;

pin_project! {
    #[project = BackupCallProj]
    pub(super) enum BackupCall<Bk, G> {
        // The unread part of the request, for the rewrite.
        Reading { reading: Box<Reading> },
        // For the backup. The request is made when it is ready, so that its deadline is current.
        Ready { backup: Bk },
        Called { #[pin] call: G },
        Over,
    }
}

pub(super) struct Reading {
    body: CallBody,
    timeout: Timeout,
}

// === impl BackupCall ===

impl<Bk: Service<Request<CallBody>> + Clone> BackupCall<Bk, Bk::Future> {
    pub(super) fn new(session: &Session<Bk>) -> Self {
        match session.to_rewrite() {
            Some(body) => Self::Reading { reading: Box::new(Reading { body, timeout: Timeout::default() }) },
            None => Self::to(session.backup()),
        }
    }

    fn to(backup: Option<Bk>) -> Self {
        backup.map_or(Self::Over, |backup| Self::Ready { backup })
    }

    /// Polls for the backup's answer; `None` if it is no better than the primary's.
    pub(super) fn poll<B>(
        mut self: Pin<&mut Self>,
        session: &mut Session<Bk>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Response<B>>>
    where
        Bk: Service<Request<CallBody>, Response = Response<B>>,
    {
        loop {
            let next = match self.as_mut().project() {
                BackupCallProj::Reading { reading } => match ready!(reading.poll(session, cx)) {
                    true => Self::to(session.backup()),
                    false => Self::Over,
                },
                BackupCallProj::Ready { backup } => match ready!(backup.poll_ready(cx)) {
                    Ok(()) => {
                        session.request().map_or(Self::Over, |request| Self::Called { call: backup.call(request) })
                    }
                    Err(err) => return Poll::Ready(session.served(Err(err))),
                },
                BackupCallProj::Called { call } => return Poll::Ready(session.served(ready!(call.poll(cx)))),
                BackupCallProj::Over => return Poll::Ready(None),
            };
            self.set(next);
        }
    }
}

// === impl Reading ===

impl Reading {
    /// Whether the body ended within the limits of size and time. It is recorded while it is read.
    fn poll<Bk>(&mut self, session: &Session<Bk>, cx: &mut Context<'_>) -> Poll<bool> {
        let mut budget = FrameBudget::new();
        while budget.may_read(cx) {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(None) => return Poll::Ready(true),
                Poll::Ready(Some(_)) if session.can_resend(Resend::state) => {}
                Poll::Ready(Some(_)) => return Poll::Ready(false),
                Poll::Pending => break,
            }
        }
        // The time limit also holds if data keeps coming.
        ready!(self.timeout.poll_after(session.read_timeout(), cx));
        session.bypass("the request body took too long");
        Poll::Ready(false)
    }
}
