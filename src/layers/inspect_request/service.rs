use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use tower_service::Service;

use super::future::{InspectRequestFuture, Reading};
use super::layer::Config;
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::rt::ready::take_ready;

/// Reads requests before they are sent to the service inside. See [`InspectRequestLayer`](crate::InspectRequestLayer).
#[derive(Clone, Debug)]
pub struct InspectRequest<S> {
    inner: S,
    config: Option<Arc<Config>>,
}

// === impl InspectRequest ===

impl<S> InspectRequest<S> {
    pub(super) fn new(inner: S, config: Option<Arc<Config>>) -> Self {
        Self { inner, config }
    }
}

impl<S, B> Service<Request<B>> for InspectRequest<S>
where
    S: Service<Request<CallBody>> + Clone,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = InspectRequestFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.map(CallBody::new).into_parts();
        match &self.config {
            Some(config) if (config.when)(&head) => {
                let reading = Reading::new(take_ready(&mut self.inner), config.clone(), head, body);
                InspectRequestFuture::reading(reading)
            }
            _ => {
                let request = Request::from_parts(head, body);
                InspectRequestFuture::calling(self.inner.call(request))
            }
        }
    }
}
