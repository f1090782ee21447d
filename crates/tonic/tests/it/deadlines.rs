//! From `grpc-timeout`, and to it.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::HeaderMap;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request};
use tonic_health::pb::health_client::HealthClient;
use tower::Layer;
use tower_buttress::{CircuitBreakerLayer, CircuitState, DeadlineHeader, DeadlineLayer, GrpcStatusLayer};
use tower_buttress_tonic::ChannelLayer;

use super::upstream::{Address, Upstream, fine, listen, message};
use super::{channel, check, client, stack};
use crate::support::secs;

const SOON: Duration = Duration::from_millis(500);

fn left(value: &Option<String>) -> Duration {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-timeout", value.as_ref().expect("a deadline was sent").parse().unwrap());
    DeadlineHeader::grpc().read(&headers).unwrap().unwrap()
}

/// A server that keeps the deadlines of its callers, has `total` for a call itself, and tells its handlers what is left.
async fn strict(upstream: &Upstream, total: Duration) -> Address {
    let (listener, address) = listen().await;
    let server = Server::builder()
        .layer(GrpcStatusLayer::new())
        .layer(DeadlineLayer::new(total).accept(DeadlineHeader::grpc()).propagate(DeadlineHeader::grpc()))
        .add_service(upstream.service());
    tokio::spawn(server.serve_with_incoming(listener));
    address
}

#[tokio::test]
async fn what_is_left_of_a_deadline_reaches_the_last_server() {
    let last = Upstream::checks(|_| async { fine() });
    let behind = client(&stack(), last.serve().await);
    // In its handler, the first server asks the last one, and hands nothing over.
    let first = Upstream::checks(move |_| {
        let mut behind = behind.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            behind.check(check()).await
        }
    });
    let mut caller = client(&stack(), strict(&first, secs(30)).await);

    let mut request = Request::new(check());
    request.set_timeout(secs(20));
    caller.check(request).await.unwrap();
    let (before, after) = (left(&first.asked("grpc-timeout")[0]), left(&last.asked("grpc-timeout")[0]));
    assert!(before <= secs(20) && after <= before - Duration::from_millis(5), "{before:?}, then {after:?}");

    // Without a timeout of the caller's: the first server's own 30 s are what the last one hears, and not the client's 60.
    caller.check(check()).await.unwrap();
    let (before, after) = (left(&first.asked("grpc-timeout")[1]), left(&last.asked("grpc-timeout")[1]));
    assert!(before <= secs(30) && after <= before - Duration::from_millis(5), "{before:?}, then {after:?}");
}

#[tokio::test]
async fn a_caller_whose_timeout_passes_gets_deadline_exceeded() {
    let upstream = Upstream::checks(|_| std::future::pending());
    let mut caller = client(&stack(), upstream.serve().await);
    let mut request = Request::new(check());
    request.set_timeout(SOON);
    let status = caller.check(request).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::DeadlineExceeded, "The deadline of this call has passed; allow it more time.")
    );
    upstream.works_on(0).await;
}

#[tokio::test]
async fn a_server_ends_what_takes_too_long() {
    let upstream = Upstream::checks(|_| std::future::pending());
    let mut caller = HealthClient::new(channel(strict(&upstream, SOON).await));
    let status = caller.check(check()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    upstream.works_on(0).await;
}

#[tokio::test]
async fn a_stream_that_takes_too_long_ends_with_a_status() {
    let endless = || Upstream::watches(|_| stream::iter([Ok(message())]).chain(stream::pending()));

    // On the server, for a client that has none of this:
    let upstream = endless();
    let mut caller = HealthClient::new(channel(strict(&upstream, SOON).await));
    let mut answers = caller.watch(check()).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap(), Some(message()));
    assert_eq!(answers.message().await.unwrap_err().code(), Code::DeadlineExceeded);
    upstream.works_on(0).await;

    // And in the client, before a server that has none.
    let upstream = endless();
    let mut request = Request::new(check());
    request.set_timeout(SOON);
    let mut caller = client(&stack(), upstream.serve().await);
    let mut answers = caller.watch(request).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap(), Some(message()));
    assert_eq!(answers.message().await.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(answers.message().await.unwrap(), None);
    upstream.works_on(0).await;
}

#[tokio::test]
async fn a_timer_of_tonics_own_says_the_same_and_blames_no_upstream() {
    let upstream = Upstream::checks(|_| std::future::pending());
    let server = upstream.serve().await;
    let channel = Endpoint::from_shared(format!("http://{server}")).unwrap().timeout(SOON).connect_lazy();
    let breaker = CircuitBreakerLayer::new().configure(|config| config.consecutive_failures(1));
    let mut caller = HealthClient::new(breaker.layer(ChannelLayer::new().layer(channel.clone())));
    assert_eq!(caller.check(check()).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(breaker.handle().state(), CircuitState::Closed);

    // Where its body needs no adapter, the error of the channel is understood as well.
    let breaker = CircuitBreakerLayer::new().configure(|config| config.consecutive_failures(1));
    let mut caller = HealthClient::new(breaker.layer(channel));
    assert_eq!(caller.check(check()).await.unwrap_err().code(), Code::Cancelled, "tonic's own words");
    assert_eq!(breaker.handle().state(), CircuitState::Closed);
}
