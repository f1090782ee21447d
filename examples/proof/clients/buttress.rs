//! This crate's preset with the common limits, and dedup for double clicks.

use std::net::SocketAddr;

use tower::ServiceBuilder;
use tower_buttress::error::BoxError;
use tower_buttress::{
    CircuitBreakerLayer, DedupLayer, FallbackLayer, LastGoodLayer, PaceLayer, ResumeLayer, TimeoutProfile, presets,
};

use super::super::scale::{BACKOFF, BACKOFF_MAX, FIRST_BYTE, IDLE, OPEN, OPEN_MAX, TOTAL};
use super::{Client, boxed, upstream};

pub(super) fn client(
    primary: SocketAddr,
    backup: SocketAddr,
    dedup: DedupLayer,
    resume: ResumeLayer,
    last_good: LastGoodLayer,
) -> Result<Client, BoxError> {
    let breaker = CircuitBreakerLayer::new().configure(|config| config.open_duration(OPEN, OPEN_MAX));
    let stack =
        presets::llm_client(TimeoutProfile::UNLIMITED.with_first_byte(FIRST_BYTE).with_idle(IDLE).with_total(TOTAL))
            .dedup(|_| dedup)
            .last_good(|_| last_good)
            .resume(|_| resume)
            // A 429 of this provider concerns one call. A pause for all calls would send them to the backup.
            .pace(|_| PaceLayer::disabled())
            // Both upstreams belong to the same party here.
            .fallback(FallbackLayer::new(upstream(backup)).forward_credentials(true))
            .retry(|retry| retry.backoff_base(BACKOFF).backoff_cap(BACKOFF_MAX))
            .breaker(|_| breaker);
    let service = ServiceBuilder::new().map_response(boxed).map_err(Into::into).layer(stack);
    Ok(Client::new(service.service(upstream(primary))))
}
