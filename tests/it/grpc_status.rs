//! The status of gRPC streams that reach a limit.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::error::{self, IdleBodyElapsed};
use tower_buttress::grpc_status::GrpcStatusBody;
use tower_buttress::idle_body_timeout::IdleBodyTimeoutBody;
use tower_buttress::{GrpcStatusLayer, IdleBodyTimeoutLayer};

use crate::support::{Script, Step, secs, trace};

/// An answer that says "hello" and falls silent, of this content type, below `layer` and an idle timeout of 5 s.
async fn silent(layer: GrpcStatusLayer, content_type: &str) -> GrpcStatusBody<IdleBodyTimeoutBody<Script>> {
    through(layer, content_type, Script::new([Step::Data("hello"), Step::Hang])).await
}

async fn through(
    layer: GrpcStatusLayer,
    content_type: &str,
    script: Script,
) -> GrpcStatusBody<IdleBodyTimeoutBody<Script>> {
    let script = Arc::new(Mutex::new(Some(script)));
    let content_type = content_type.to_owned();
    let service =
        ServiceBuilder::new().layer(layer).layer(IdleBodyTimeoutLayer::new(secs(5))).service(service_fn(move |_| {
            let body = script.lock().unwrap().take().unwrap();
            let response = Response::builder().header("content-type", &content_type).body(body).unwrap();
            async move { Ok::<_, Infallible>(response) }
        }));
    service.oneshot(Request::new(Empty::<Bytes>::new())).await.unwrap().into_body()
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_reaches_a_limit_ends_with_trailers() {
    for grpc in ["application/grpc", "application/grpc+proto"] {
        let mut body = silent(GrpcStatusLayer::new(), grpc).await;
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "14");
        assert_eq!(trailers["grpc-message"], "The upstream sent nothing for too long.");
        assert!(http_body::Body::is_end_stream(&body) && body.frame().await.is_none(), "that was all");
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_no_trailers_fails_as_before() {
    // In gRPC-Web, trailers are part of the body: without them at its end, a stream might be taken for whole.
    let enabled = GrpcStatusLayer::new();
    let cases = [
        (enabled, "application/grpc-web+proto"),
        (enabled, "text/html"),
        (GrpcStatusLayer::disabled(), "application/grpc"),
    ];
    for (layer, content_type) in cases {
        let failed = silent(layer, content_type).await.collect().await.unwrap_err();
        assert!(error::find::<IdleBodyElapsed>(&failed).is_some(), "{content_type}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_upstream_says_of_its_end_stands() {
    let script = Script::new([Step::Data("a"), Step::Fail("reset")]);
    let body = through(GrpcStatusLayer::new(), "application/grpc", script).await;
    assert_eq!(trace(body).await, ["+0s a", "+0s error: reset", "+0s end"]);

    let script = Script::new([Step::Data("a"), Step::Trailers]);
    let body = through(GrpcStatusLayer::new(), "application/grpc", script).await;
    let collected = body.collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap(), &crate::support::trailers());
}
