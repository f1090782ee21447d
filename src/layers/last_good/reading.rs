//! A request whose body is being read.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use http::request::Parts;

use super::config::Config;
use super::key::PendingKeys;
use super::stand_in::StandIn;
use super::stored::AnswerStore;
use crate::body::request::{CallBody, RequestRead, RequestReading};
use crate::policy::last_good::template::UnansweredRequest;

pub(super) struct Reading {
    /// Taken when the body has been read.
    head: Option<(Parts, PendingKeys)>,
    body: RequestReading,
    store: Arc<AnswerStore>,
    config: Arc<Config>,
}

/// A request that was read, and the state to replace its answer; `None`: it passes.
type ReadWithStandIn = (Request<CallBody>, Option<Box<StandIn>>);

// === impl Reading ===

impl Reading {
    pub(super) fn new(
        keys: PendingKeys,
        request: Request<CallBody>,
        store: Arc<AnswerStore>,
        config: Arc<Config>,
    ) -> Self {
        let (parts, body) = request.into_parts();
        let (bytes, limit) = (config.max_body_bytes, config.read_timeout);
        let body = RequestReading::new(body, bytes, limit, &config.memory, &parts);
        Self { head: Some((parts, keys)), body, store, config }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ReadWithStandIn> {
        let read = ready!(self.body.poll(cx, |_| {}));
        // Polled again after its end.
        let Some((parts, keys)) = self.head.take() else { return Poll::Pending };
        Poll::Ready(self.finish(parts, keys, read))
    }

    fn finish(&self, parts: Parts, keys: PendingKeys, read: RequestRead) -> ReadWithStandIn {
        let body = match read {
            RequestRead::Whole { data, trailers } => {
                let keys = keys.finish(&data, trailers.as_ref(), &self.config);
                let templated = keys.as_ref().filter(|_| self.config.template.is_some());
                let unanswered =
                    templated.map(|keys| Box::new(UnansweredRequest::new(keys.kind, parts.clone(), data.clone())));
                let request = Request::from_parts(parts, CallBody::whole(data, trailers));
                let (store, config) = (Arc::clone(&self.store), Arc::clone(&self.config));
                let stand_in = keys.map(|keys| Box::new(StandIn::new(keys, unanswered, &request, store, config)));
                return (request, stand_in);
            }
            RequestRead::Unread(body, why) => {
                self.config.bypassed(why.reason());
                body
            }
            RequestRead::Failed(body) => body,
        };
        (Request::from_parts(parts, body), None)
    }
}
