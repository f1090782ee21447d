//! The presets where their users put them: on an axum router, and around a client, in a box.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::channel::Channel;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::presets::{self, ResilienceLayer};
use tower_buttress::{DedupLayer, RetryAfterBackoffLayer, TimeoutProfile};

use crate::support::{secs, trailers};

/// Not `Sync`, as axum's bodies are not.
type Body = UnsyncBoxBody<Bytes, BoxError>;
type Boxed = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

const PRESETS: [fn(TimeoutProfile) -> ResilienceLayer; 4] =
    [presets::http_client, presets::llm_client, presets::llm_gateway, presets::grpc_client];

fn stacks() -> [ResilienceLayer; 4] {
    PRESETS.map(|preset| preset(TimeoutProfile::STANDARD))
}

fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    addr
}

fn echo() -> Router {
    Router::new().route("/", any(|request: axum::extract::Request| async { request.into_body() }))
}

fn client(stack: &ResilienceLayer, http2: bool) -> Boxed {
    let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
    let service = ServiceBuilder::new()
        .map_response(|response: Response<_>| response.map(boxed))
        .map_err(Into::into)
        .layer(stack)
        .service(client);
    BoxCloneSyncService::new(service)
}

fn post(addr: SocketAddr, body: Body) -> Request<Body> {
    Request::post(format!("http://{addr}/")).header("authorization", "Bearer a").body(body).unwrap()
}

#[tokio::test]
async fn each_preset_serves_on_a_router_and_around_a_client() {
    for (outer, inner) in stacks().into_iter().zip(stacks()) {
        let addr = serve(echo().layer(inner)).await;
        // Not the same twice, which one of them would answer without asking.
        for (http2, said) in [(false, "hello"), (true, "world")] {
            let body = Full::<Bytes>::from(said).with_trailers(async { Some(Ok(trailers())) });
            let response = client(&outer, http2).oneshot(post(addr, boxed(body))).await.unwrap();
            assert_eq!(response.status(), 200);
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.trailers(), http2.then(trailers).as_ref());
            assert_eq!(body.to_bytes(), said);
        }
    }
}

/// Who sends nothing before there is a head, to a server that says nothing before it was told something.
#[tokio::test]
async fn a_conversation_goes_through_each_preset() {
    for stack in stacks() {
        // What is told apart by its body is read first.
        let stack = stack.dedup(|_| DedupLayer::disabled());
        let addr = serve(echo().layer(RetryAfterBackoffLayer::new())).await;
        let (mut sender, body) = Channel::<Bytes>::new(1);
        let call = client(&stack, true).oneshot(post(addr, boxed(body)));
        let response = tokio::time::timeout(secs(5), call).await.expect("a head").unwrap();
        let mut body = response.into_body();
        for part in ["hello", "world"] {
            sender.send_data(part.into()).await.unwrap();
            let frame = tokio::time::timeout(secs(5), body.frame()).await.expect("an answer").unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), part);
        }
        drop(sender);
        assert!(body.collect().await.unwrap().to_bytes().is_empty());
    }
}
