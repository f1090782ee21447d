//! tower-resilience: the "full stack (with fallback)" of its composition guide, which expects errors instead of HTTP
//! answers. It has no layer for bodies, so tower-http's body timeout is added.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tower::{ServiceBuilder, ServiceExt};
use tower_buttress::error::BoxError;
use tower_http::timeout::ResponseBodyTimeoutLayer;
use tower_resilience::circuitbreaker::CircuitBreakerLayer;
use tower_resilience::fallback::FallbackLayer;
use tower_resilience::retry::RetryLayer;
use tower_resilience::timelimiter::TimeLimiterLayer;

use super::super::scale::{BACKOFF, FIRST_BYTE, IDLE, OPEN, TOTAL};
use super::{Client, boxed, upstream};

type Ask = Request<Full<Bytes>>;
type Answer = Response<Incoming>;

pub(super) fn client(primary: SocketAddr, backup: SocketAddr) -> Result<Client, BoxError> {
    let breaker = CircuitBreakerLayer::builder().failure_rate_threshold(0.5).wait_duration_in_open(OPEN).build()?;
    let attempt = ServiceBuilder::new()
        .map_err(BoxError::from)
        .layer(TimeLimiterLayer::builder().timeout_duration(FIRST_BYTE).build())
        .service(failing(primary));
    let attempt = ServiceBuilder::new().map_err(BoxError::from).layer(breaker).service(attempt);
    let attempts = ServiceBuilder::new()
        .layer(RetryLayer::<Ask, Answer, BoxError>::builder().max_attempts(3).exponential_backoff(BACKOFF).build())
        .service(attempt);
    let bounded = ServiceBuilder::new()
        .map_err(BoxError::from)
        .layer(TimeLimiterLayer::builder().timeout_duration(TOTAL).build())
        .service(attempts);
    let service = ServiceBuilder::new()
        .layer(ResponseBodyTimeoutLayer::new(IDLE))
        .layer(FallbackLayer::<Ask, Answer, BoxError>::tower_service(failing(backup)))
        .service(bounded);
    Ok(Client::new(service.map_response(boxed).map_err(Into::into)))
}

/// An upstream that returns 429 and 5xx as errors.
fn failing(
    addr: SocketAddr,
) -> impl tower::Service<Ask, Response = Answer, Error = BoxError, Future: Send> + Clone + Send + Sync + 'static {
    upstream(addr).map_err(BoxError::from).and_then(|response: Answer| async move {
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(BoxError::from(status.to_string()));
        }
        Ok(response)
    })
}
