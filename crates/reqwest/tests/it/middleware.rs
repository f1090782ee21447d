//! Layers as middleware: their state is shared by all calls, and what they borrow is borrowed for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Extensions, StatusCode};
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use tower::ServiceBuilder;
use tower_buttress::error::{self, IdleBodyElapsed};
use tower_buttress::{
    CircuitBreakerLayer, CircuitState, DeadlineLayer, IdleBodyTimeoutLayer, Rejection, RejectionKind,
    RetryAfterBackoffLayer, ServiceBuilderExt, TimeoutProfile,
};
use tower_buttress_reqwest::LayerMiddleware;

use super::server;

const MS: Duration = Duration::from_millis(1);

fn client(middleware: impl Middleware) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::new()).with(middleware).build()
}

/// Counts its calls, and fails this number of them.
fn flaky(failures: u32) -> (Router, Arc<AtomicU32>) {
    let calls = Arc::<AtomicU32>::default();
    let counted = calls.clone();
    let answer = move |body: String| {
        let nth = counted.fetch_add(1, SeqCst);
        async move { if nth < failures { Err(StatusCode::SERVICE_UNAVAILABLE) } else { Ok(body) } }
    };
    (Router::new().route("/", post(answer)), calls)
}

#[tokio::test]
async fn a_body_is_sent_again_and_the_answer_knows_where_it_came_from() {
    let (app, calls) = flaky(2);
    let url = server(app).await;
    let client = client(LayerMiddleware::new(RetryAfterBackoffLayer::llm().backoff_base(MS)));
    let response = client.post(&url).body("hello").send().await.unwrap();
    assert_eq!(response.url().as_str(), format!("{url}/"));
    assert_eq!(response.text().await.unwrap(), "hello");
    assert_eq!(calls.load(SeqCst), 3);
}

#[tokio::test]
async fn all_calls_share_one_breaker() {
    let (app, calls) = flaky(u32::MAX);
    let url = server(app).await;
    let breaker = CircuitBreakerLayer::new();
    let client = client(LayerMiddleware::new(breaker.clone()));
    for _ in 0..5 {
        client.clone().post(&url).send().await.unwrap();
    }
    assert_eq!(breaker.handle().state(), CircuitState::Open);
    let refused = client.post(&url).send().await.unwrap();
    assert!(refused.status() == StatusCode::SERVICE_UNAVAILABLE && refused.headers().contains_key("retry-after"));
    assert_eq!(refused.url().as_str(), format!("{url}/"), "what was asked for");
    assert_eq!(calls.load(SeqCst), 5);
}

#[tokio::test]
async fn several_layers_are_one_middleware() {
    let stalls = || async {
        Body::from_stream(stream::iter([Ok::<_, std::convert::Infallible>("data: a\n\n")]).chain(stream::pending()))
    };
    let url = server(Router::new().route("/", get(stalls))).await;
    let layers = ServiceBuilder::new()
        .layer(DeadlineLayer::new(Duration::from_secs(60)))
        .layer(RetryAfterBackoffLayer::new())
        .layer(IdleBodyTimeoutLayer::new(50 * MS))
        .into_inner();
    let response = client(LayerMiddleware::new(layers)).get(url).send().await.unwrap();
    let err = response.text().await.unwrap_err();
    assert!(error::find::<IdleBodyElapsed>(&error::BoxError::from(err)).is_some());
}

#[tokio::test]
async fn a_download_that_is_dropped_closes_the_connection() {
    let (url, alive) = super::endless().await;
    let layers = ServiceBuilder::new()
        .layer(DeadlineLayer::new(60_000 * MS))
        .layer(RetryAfterBackoffLayer::new())
        .layer(CircuitBreakerLayer::new())
        .layer(IdleBodyTimeoutLayer::new(60_000 * MS))
        .into_inner();
    let mut response = client(LayerMiddleware::new(layers)).get(url).send().await.unwrap();
    response.chunk().await.unwrap().unwrap();
    alive.is(1).await;
    drop(response);
    alive.is(0).await;
}

/// Gives each request limits of its own.
struct Quick;

#[async_trait::async_trait]
impl Middleware for Quick {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        extensions.insert(TimeoutProfile::FAST.with_total(50 * MS));
        next.run(request, extensions).await
    }
}

#[tokio::test]
async fn what_other_middleware_says_of_a_request_is_heard() {
    let url = server(Router::new().route("/", get(std::future::pending::<()>))).await;
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(Quick)
        .with(LayerMiddleware::new(DeadlineLayer::new(Duration::from_secs(60))))
        .build();
    assert_eq!(client.get(url).send().await.unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn a_timeout_of_reqwests_own_is_kept() {
    let url = server(Router::new().route("/", get(std::future::pending::<()>))).await;
    let client = client(LayerMiddleware::new(IdleBodyTimeoutLayer::new(Duration::from_secs(60))));
    let call = tokio::time::timeout(Duration::from_secs(10), client.get(url).timeout(50 * MS).send());
    assert!(call.await.expect("in time").unwrap_err().is_timeout());
}

#[tokio::test]
async fn a_refusal_can_be_an_error() {
    let url = server(Router::new().route("/", get(std::future::pending::<()>))).await;
    let layers = ServiceBuilder::new().rejections_as_errors().deadline(50 * MS).into_inner();
    let client = client(LayerMiddleware::new(layers));
    let err = client.get(url).send().await.unwrap_err();
    assert!(err.is_middleware(), "{err:?}");
    let err = error::BoxError::from(err);
    let rejection = error::find::<Rejection>(&err).unwrap();
    assert_eq!((rejection.kind(), err.to_string()), (RejectionKind::DeadlineExceeded, rejection.to_string()));

    // Whatever else went wrong is what it was.
    assert!(client.get("http://127.0.0.1:1/").send().await.unwrap_err().is_connect());
}
