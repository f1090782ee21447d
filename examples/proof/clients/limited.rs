//! The contestants against the provider with a rate limit. All but the first retry; those with a limit of their own
//! are configured with the provider's.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tower::{ServiceBuilder, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{Rate, TimeoutProfile, presets};
use tower_resilience::ratelimiter::RateLimiterLayer;
use tower_resilience::retry::RetryLayer;

use super::super::scale::{BACKOFF, BACKOFF_MAX, FIRST_BYTE, IDLE, LIMIT, LIMIT_PER, TOTAL};
use super::tower_http::Attempts;
use super::{Client, bare, boxed, upstream};

type Ask = Request<Full<Bytes>>;
type Answer = Response<Incoming>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    Bare,
    /// Retries, without a limit of its own.
    Retries,
    Tower,
    Resilience,
    Buttress,
}

// === impl Contestant ===

impl Contestant {
    pub(crate) const ALL: [Self; 5] = [Self::Bare, Self::Retries, Self::Tower, Self::Resilience, Self::Buttress];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare hyper",
            Self::Retries => "tower's retries alone",
            Self::Tower => "tower",
            Self::Resilience => "tower-resilience",
            Self::Buttress => "tower-buttress",
        }
    }

    pub(crate) fn client(self, provider: SocketAddr) -> Result<Client, BoxError> {
        match self {
            Self::Bare => Ok(bare::client(provider)),
            Self::Retries => {
                let service = ServiceBuilder::new().retry(Attempts::new()?).service(upstream(provider));
                Ok(Client::new(service.map_response(boxed).map_err(Into::into)))
            }
            Self::Tower => tower(provider),
            Self::Resilience => resilience(provider),
            Self::Buttress => Ok(buttress(provider)),
        }
    }
}

/// Each attempt counts. The limit is not `Clone`, so a buffer shares it.
fn tower(provider: SocketAddr) -> Result<Client, BoxError> {
    let service = ServiceBuilder::new()
        .retry(Attempts::new()?)
        .buffer(1024)
        .rate_limit(LIMIT.into(), LIMIT_PER)
        .service(upstream(provider).map_err(BoxError::from));
    Ok(Client::new(service.map_response(boxed)))
}

fn resilience(provider: SocketAddr) -> Result<Client, BoxError> {
    let limit = RateLimiterLayer::builder()
        .limit_for_period(LIMIT as usize)
        .refresh_period(LIMIT_PER)
        .timeout_duration(TOTAL)
        .build()?;
    let upstream = upstream(provider).map_err(BoxError::from).and_then(|response: Answer| async move {
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            return Err(BoxError::from("429"));
        }
        Ok(response)
    });
    let attempt = ServiceBuilder::new().map_err(BoxError::from).layer(limit).service(upstream);
    let service = ServiceBuilder::new()
        .layer(RetryLayer::<Ask, Answer, BoxError>::builder().max_attempts(3).exponential_backoff(BACKOFF).build())
        .service(attempt);
    Ok(Client::new(service.map_response(boxed).map_err(Into::into)))
}

/// Without a rate the preset waits as long as the 429 says, and then sends calls one second apart until it has learned
/// a better rate. That second is not compressed here.
fn buttress(provider: SocketAddr) -> Client {
    let limits = TimeoutProfile::UNLIMITED.with_first_byte(FIRST_BYTE).with_idle(IDLE).with_total(TOTAL);
    let stack = presets::llm_client(limits)
        .retry(|retry| retry.backoff_base(BACKOFF).backoff_cap(BACKOFF_MAX))
        .pace(|pace| pace.requests(Rate::new(LIMIT.into(), LIMIT_PER).burst(LIMIT.into())));
    let service = ServiceBuilder::new().map_response(boxed).map_err(Into::into).layer(stack);
    Client::new(service.service(upstream(provider)))
}
