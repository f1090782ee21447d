//! The layers under generated clients and on tonic's own server, over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod deadlines;
mod endings;
mod retries;
#[allow(dead_code, reason = "shared with the tests of other crates")]
#[path = "../../../../tests/it/support/mod.rs"]
mod support;
mod upstream;

use ::tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::Layer;
use tower_buttress::TimeoutProfile;
use tower_buttress::presets::{self, Resilience, ResilienceLayer};
use tower_buttress_tonic::ChannelService;

use self::upstream::Address;
use crate::support::secs;

fn channel(server: Address) -> Channel {
    Endpoint::from_shared(format!("http://{server}")).unwrap().connect_lazy()
}

/// The whole stack under a generated client.
fn client(stack: &ResilienceLayer, server: Address) -> HealthClient<Resilience<ChannelService<Channel>>> {
    HealthClient::new(stack.layer(ChannelService::new(channel(server))))
}

fn stack() -> ResilienceLayer {
    presets::grpc_client(TimeoutProfile::UNLIMITED.with_first_byte(secs(60)).with_idle(secs(60)).with_total(secs(60)))
        .retry(|retry| retry.backoff_base(std::time::Duration::from_millis(1)))
}

fn check() -> HealthCheckRequest {
    HealthCheckRequest { service: "all".to_owned() }
}
