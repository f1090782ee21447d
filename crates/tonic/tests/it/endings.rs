//! How streams and circuits end, and who hears of it.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming, async_trait};
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_server::{ServerReflection, ServerReflectionServer};
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_types::StatusExt;
use tower::Layer;
use tower_buttress::verdict::Grpc;
use tower_buttress::{CircuitBreakerLayer, CircuitState, TimeoutProfile};
use tower_buttress_tonic::{ChannelLayer, ChannelService};

use super::upstream::{Upstream, fine, listen, message};
use super::{channel, check, client, stack};
use crate::support::secs;

const SOON: Duration = Duration::from_millis(500);

fn breaker() -> CircuitBreakerLayer {
    CircuitBreakerLayer::new().configure(|config| config.min_calls(2)).classifier(Grpc::new())
}

#[tokio::test]
async fn a_breaker_judges_a_stream_by_its_trailers() {
    let ends = |last: Result<(), Code>| {
        Upstream::watches(move |_| {
            let last = last.err().map(|code| Err(Status::new(code, "at last")));
            stream::iter([Ok(message())].into_iter().chain(last))
        })
    };
    let cases = [
        (Ok(()), CircuitState::Closed),
        (Err(Code::NotFound), CircuitState::Closed),
        (Err(Code::Internal), CircuitState::Open),
    ];
    for (last, state) in cases {
        let breaker = breaker();
        let mut caller = client(&stack().breaker(|_| breaker.clone()), ends(last).serve().await);
        for _ in 0..2 {
            let mut answers = caller.watch(check()).await.unwrap().into_inner();
            assert_eq!(answers.message().await.unwrap(), Some(message()));
            assert_eq!(answers.message().await.err().map(|status| status.code()), last.err());
        }
        assert_eq!(breaker.handle().state(), state, "{last:?}");
    }
}

#[tokio::test]
async fn an_open_circuit_says_when_to_come_back() {
    let upstream = Upstream::checks(|_| async { Err(Status::internal("no")) });
    let mut in_client = client(&stack().breaker(|_| breaker()), upstream.serve().await);

    // On a server, the breaker is before the services of the process itself.
    let (listener, address) = listen().await;
    let server = Server::builder().layer(breaker()).layer(ChannelLayer::new()).add_service(upstream.service());
    tokio::spawn(server.serve_with_incoming(listener));
    let mut on_server = HealthClient::new(channel(address));

    for _ in 0..2 {
        assert_eq!(in_client.check(check()).await.unwrap_err().code(), Code::Internal);
        assert_eq!(on_server.check(check()).await.unwrap_err().code(), Code::Internal);
    }
    for refused in [in_client.check(check()).await.unwrap_err(), on_server.check(check()).await.unwrap_err()] {
        assert_eq!(refused.code(), Code::Unavailable);
        let pushback: u64 =
            refused.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap().parse().unwrap();
        let delay = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!(delay > Duration::ZERO && delay <= Duration::from_millis(pushback), "{delay:?}, {pushback} ms");
    }
    assert_eq!(upstream.calls(), 4);
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_given_up() {
    let upstream = Upstream::watches(|_| stream::iter([Ok(message()), Ok(message())]).chain(stream::pending()));
    let mut caller = client(&stack().idle(|_| tower_buttress::IdleBodyTimeoutLayer::new(SOON)), upstream.serve().await);
    let mut answers = caller.watch(check()).await.unwrap().into_inner();
    for _ in 0..2 {
        assert_eq!(answers.message().await.unwrap(), Some(message()));
    }
    let status = answers.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "The upstream sent nothing for too long."));
    upstream.works_on(0).await;
}

#[tokio::test]
async fn a_request_may_bring_its_own_limits() {
    let upstream = Upstream::checks(|_| std::future::pending());
    let mut request = Request::new(check());
    request
        .extensions_mut()
        .insert(TimeoutProfile::UNLIMITED.with_first_byte(SOON).with_idle(secs(60)).with_total(secs(60)));
    let status = client(&stack(), upstream.serve().await).check(request).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::DeadlineExceeded, "The upstream sent no data in time; try again.")
    );
}

#[tokio::test]
async fn a_caller_that_leaves_takes_the_call_along() {
    let upstream = Upstream::checks(|_| std::future::pending());
    let mut caller = client(&stack(), upstream.serve().await);
    let call = tokio::spawn(async move { caller.check(check()).await });
    upstream.works_on(1).await;
    call.abort();
    upstream.works_on(0).await;

    let upstream = Upstream::watches(|_| stream::iter([Ok(message())]).chain(stream::pending()));
    let mut caller = client(&stack(), upstream.serve().await);
    let mut answers = caller.watch(check()).await.unwrap().into_inner();
    answers.message().await.unwrap();
    drop(answers);
    upstream.works_on(0).await;
}

#[tokio::test]
async fn metadata_passes_in_both_directions() {
    let upstream = Upstream::checks(|_| async {
        let mut response = fine()?;
        response.metadata_mut().insert("x-answered", "yes".parse().unwrap());
        Ok(response)
    });
    let mut caller = client(&stack(), upstream.serve().await);
    let mut request = Request::new(check());
    request.metadata_mut().insert_bin("x-asked-bin", tonic::metadata::MetadataValue::from_bytes(b"\x00\xff"));
    let response = caller.check(request).await.unwrap();
    assert_eq!(response.metadata().get("x-answered").unwrap(), "yes");
    // The trailers of a unary answer are among its metadata.
    assert_eq!(response.metadata().get("grpc-status").unwrap(), "0");
    assert!(upstream.asked("grpc-timeout")[0].is_some());
}

struct Echo;

#[async_trait]
impl ServerReflection for Echo {
    type ServerReflectionInfoStream = Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let echoed = request.into_inner().map(|asked| {
            Ok(ServerReflectionResponse { valid_host: asked?.host, original_request: None, message_response: None })
        });
        Ok(Response::new(echoed.boxed()))
    }
}

#[tokio::test]
async fn messages_go_both_ways_at_once() {
    let (listener, address) = listen().await;
    tokio::spawn(Server::builder().add_service(ServerReflectionServer::new(Echo)).serve_with_incoming(listener));
    let mut caller = ServerReflectionClient::new(stack().layer(ChannelService::new(channel(address))));
    let (say, said) = mpsc::channel(1);
    let ask = |host: String| ServerReflectionRequest { host, message_request: None };
    // More than a retry would keep, one by one: each is answered before the next is sent.
    let long = "x".repeat(100_000);
    say.send(ask(format!("{long}0"))).await.unwrap();
    let mut answers = caller.server_reflection_info(ReceiverStream::new(said)).await.unwrap().into_inner();
    for nth in 0..30 {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.valid_host, format!("{long}{nth}"));
        say.send(ask(format!("{long}{}", nth + 1))).await.unwrap();
    }
    drop(say);
    assert!(answers.message().await.unwrap().is_some());
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_caller_may_wait_for_the_head_before_it_says_anything() {
    let (listener, address) = listen().await;
    tokio::spawn(Server::builder().add_service(ServerReflectionServer::new(Echo)).serve_with_incoming(listener));
    let mut caller = ServerReflectionClient::new(stack().layer(ChannelService::new(channel(address))));
    let (say, said) = mpsc::channel(1);
    let answers = tokio::time::timeout(secs(10), caller.server_reflection_info(ReceiverStream::new(said))).await;
    let mut answers = answers.expect("in time").unwrap().into_inner();
    say.send(ServerReflectionRequest { host: "a".to_owned(), message_request: None }).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().valid_host, "a");
}

#[tokio::test]
async fn interceptors_see_each_call_or_each_attempt() {
    let upstream =
        Upstream::checks(|nth| async move { if nth < 2 { Err(Status::unavailable("down")) } else { fine() } });
    let count = |name: &'static str| {
        let seen = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        move |mut request: Request<()>| {
            let nth = seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            request.metadata_mut().insert(name, nth.into());
            Ok(request)
        }
    };
    let inside = InterceptorLayer::new(count("x-attempt"));
    let channel = ChannelService::new(inside.layer(channel(upstream.serve().await)));
    let channel = ChannelService::new(stack().retry(|retry| retry.retry_non_idempotent(true)).layer(channel));
    HealthClient::with_interceptor(channel, count("x-call")).check(check()).await.unwrap();
    let said = |all: [&str; 3]| all.map(|one| Some(one.to_owned()));
    assert_eq!(upstream.asked("x-call"), said(["0", "0", "0"]));
    assert_eq!(upstream.asked("x-attempt"), said(["0", "1", "2"]));
}
