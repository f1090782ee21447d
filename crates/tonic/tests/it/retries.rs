//! Again, or not, as the status says.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_types::{ErrorDetails, StatusExt};
use tower::{Layer, service_fn};
use tower_buttress::verdict::Grpc;
use tower_buttress::{Event, FallbackLayer, NoRetry, NotRetried};
use tower_buttress_tonic::ChannelService;

use super::upstream::{Upstream, fine};
use super::{channel, check, client, stack};
use crate::support::Log;

fn pushback(ms: &str) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("grpc-retry-pushback-ms", ms.parse().unwrap());
    Status::with_metadata(Code::Unavailable, "busy", metadata)
}

/// Fails two times, and then works.
fn third_time(status: fn() -> Status) -> Upstream {
    Upstream::checks(move |nth| async move { if nth < 2 { Err(status()) } else { fine() } })
}

#[tokio::test]
async fn a_call_that_may_be_repeated_is() {
    let upstream = third_time(|| Status::unavailable("down"));
    let mut caller = client(&stack().retry(|retry| retry.retry_non_idempotent(true)), upstream.serve().await);
    caller.check(check()).await.unwrap();
    let said = |attempts: &str| Some(attempts.to_owned());
    assert_eq!(upstream.asked("grpc-previous-rpc-attempts"), [None, said("1"), said("2")]);
}

#[tokio::test]
async fn a_call_that_may_have_been_done_is_not_repeated_unasked() {
    let upstream = third_time(|| Status::unavailable("down"));
    let server = upstream.serve().await;
    let status = client(&stack(), server).check(check()).await.unwrap_err();
    assert_eq!((status.code(), status.message(), upstream.calls()), (Code::Unavailable, "down", 1));

    // The caller's own word is the last.
    let mut caller = client(&stack().retry(|retry| retry.retry_non_idempotent(true)), server);
    let mut request = Request::new(check());
    request.extensions_mut().insert(NoRetry);
    assert_eq!(caller.check(request).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_pushback_asks_for_a_retry_or_forbids_it() {
    let upstream = third_time(|| pushback("1"));
    client(&stack(), upstream.serve().await).check(check()).await.unwrap();
    assert_eq!(upstream.calls(), 3);

    let upstream = third_time(|| pushback("-1"));
    let mut caller = client(&stack().retry(|retry| retry.retry_non_idempotent(true)), upstream.serve().await);
    assert_eq!(caller.check(check()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn the_delay_in_the_details_of_a_status_is_kept() {
    const DELAY: Duration = Duration::from_millis(20);
    let details = || ErrorDetails::with_retry_info(Some(DELAY));
    let upstream = Upstream::checks(move |nth| async move {
        if nth == 0 { Err(Status::with_error_details(Code::ResourceExhausted, "slowly", details())) } else { fine() }
    });
    let log = Arc::new(Log::default());
    let stack = stack().retry(|retry| retry.retry_non_idempotent(true)).observer(log.clone());
    client(&stack, upstream.serve().await).check(check()).await.unwrap();
    let wait = log.events().iter().find_map(|event| match event {
        Event::RetryScheduled { attempt: 2, wait, .. } => Some(*wait),
        _ => None,
    });
    assert!(wait.is_some_and(|wait| wait >= DELAY), "{:?}", log.events());
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_is_tried_again() {
    // Whatever the connector's error is, tonic says that it was the connector's.
    let log = Arc::new(Log::default());
    let stack = stack().observer(log.clone());
    let nowhere = |_: Uri| async { Err::<hyper_util::rt::TokioIo<tokio::net::TcpStream>, _>(io::Error::other("no")) };
    let channel = Endpoint::from_static("http://[::1]:1").connect_with_connector_lazy(service_fn(nowhere));
    let mut caller = HealthClient::new(stack.layer(ChannelService::new(channel)));
    assert_eq!(caller.check(check()).await.unwrap_err().code(), Code::Unavailable);
    assert!(matches!(log.events().last(), Some(Event::NotRetried { reason: NotRetried::AttemptsSpent, .. })));
}

#[tokio::test]
async fn a_channel_that_takes_one_call_at_a_time_takes_all_attempts() {
    let upstream = third_time(|| pushback("1"));
    let server = upstream.serve().await;
    let endpoint = Endpoint::from_shared(format!("http://{server}")).unwrap();
    let channel = endpoint.buffer_size(Some(1)).concurrency_limit(1).connect_lazy();
    let caller = HealthClient::new(stack().layer(ChannelService::new(channel)));
    let call = || {
        let mut caller = caller.clone();
        tokio::spawn(async move { caller.check(check()).await })
    };
    for call in [call(), call(), call(), call()] {
        call.await.unwrap().unwrap();
    }
    assert_eq!(upstream.calls(), 6);
}

#[tokio::test]
async fn another_server_answers_in_its_place() {
    let down = Upstream::checks(|_| async { Err(Status::unavailable("down")) });
    let backup = Upstream::checks(|_| async { fine() });
    let fallback = FallbackLayer::new(ChannelService::new(channel(backup.serve().await))).classifier(Grpc::new());
    let service = stack().fallback(fallback).layer(ChannelService::new(channel(down.serve().await)));
    HealthClient::new(service).check(check()).await.unwrap();
    assert_eq!((down.calls(), backup.calls()), (1, 1));
}
