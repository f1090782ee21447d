//! tower's retry with its backoff, its timeout, and tower-http's body timeout, each as documented. (tower-http's
//! timeout for the head returns an answer, for which hyper's body type has no variant.)

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::retry::backoff::{Backoff, ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff};
use tower::retry::{Policy, RetryLayer};
use tower::timeout::TimeoutLayer;
use tower::util::rng::HasherRng;
use tower::{ServiceBuilder, ServiceExt};
use tower_buttress::error::BoxError;
use tower_http::timeout::ResponseBodyTimeoutLayer;

use super::super::scale::{BACKOFF, BACKOFF_MAX, FIRST_BYTE, IDLE};
use super::{Client, boxed, upstream};

/// Two more attempts after an error, a 429 or a 5xx.
#[derive(Clone, Debug)]
pub(super) struct Attempts {
    left: u32,
    backoff: ExponentialBackoff,
}

pub(super) fn client(primary: SocketAddr) -> Result<Client, BoxError> {
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(Attempts::new()?))
        .layer(TimeoutLayer::new(FIRST_BYTE))
        .layer(ResponseBodyTimeoutLayer::new(IDLE))
        .service(upstream(primary));
    Ok(Client::new(service.map_response(boxed).map_err(Into::into)))
}

// === impl Attempts ===

impl Attempts {
    pub(super) fn new() -> Result<Self, BoxError> {
        let backoff = ExponentialBackoffMaker::new(BACKOFF, BACKOFF_MAX, 1.0, HasherRng::default())?.make_backoff();
        Ok(Self { left: 2, backoff })
    }
}

impl<B, E> Policy<Request<Full<Bytes>>, Response<B>, E> for Attempts {
    type Future = tokio::time::Sleep;

    fn retry(&mut self, _: &mut Request<Full<Bytes>>, result: &mut Result<Response<B>, E>) -> Option<Self::Future> {
        let failed = result.as_ref().map_or(true, |response| {
            response.status().is_server_error() || response.status() == StatusCode::TOO_MANY_REQUESTS
        });
        if !failed {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        Some(self.backoff.next_backoff())
    }

    fn clone_request(&mut self, request: &Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
        Some(request.clone())
    }
}
