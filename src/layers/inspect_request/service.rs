use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use tower_service::Service;

use super::config::Config;
use super::future::InspectRequestFuture;
use super::reading::Reading;
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::rt::layered::Layered;
use crate::rt::per_thread::PerThread;
use crate::rt::ready::take_ready;

/// Reads requests before they are sent to the service inside. See [`InspectRequestLayer`](crate::InspectRequestLayer).
pub type InspectRequest<S> = Layered<S, Option<PerThread<Config>>>;

impl<S, B> Service<Request<B>> for Layered<S, Option<PerThread<Config>>>
where
    S: Service<Request<CallBody>> + Clone,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = InspectRequestFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(CallBody::new);
        let Some(config) = &self.config else { return InspectRequestFuture::calling(self.inner.call(request)) };
        let (mut head, body) = request.into_parts();
        let shown = config.shows(&head);
        if shown || config.reads(&head) {
            match body.in_memory().filter(|data| data.len() <= config.max_body_bytes) {
                Some(data) if shown => config.look(&mut head, data),
                Some(_) => {}
                None => {
                    // The request for which it is ready has not arrived yet.
                    drop(take_ready(&mut self.inner));
                    let reading = Reading::new(config.hold(), head, body, shown);
                    return InspectRequestFuture::reading(reading, self.inner.clone());
                }
            }
        }
        InspectRequestFuture::calling(self.inner.call(Request::from_parts(head, body)))
    }
}
