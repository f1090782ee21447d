//! How long a connection may take to come about.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_buttress::ConnectTimeoutLayer;
use tower_buttress::error::{self, BoxError, ConnectElapsed};

use crate::support::{Log, Script, full_backlog, secs};

#[tokio::test]
async fn a_connect_that_hangs_is_given_up_through_a_real_client() {
    let (addr, _full) = full_backlog().await;
    let log = Arc::new(Log::default());
    let layer = ConnectTimeoutLayer::new(Duration::from_millis(100)).observer(log.clone());
    let connector = layer.layer(HttpConnector::new());
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);

    let failed = client.get(format!("http://{addr}/").parse().unwrap()).await.unwrap_err();
    assert!(failed.is_connect());
    let failed: BoxError = failed.into();
    assert_eq!(error::find::<ConnectElapsed>(&failed).unwrap().after, Duration::from_millis(100));
    assert_eq!(log.names(), ["connect_elapsed: connect-timeout"]);
}

#[tokio::test]
async fn a_connect_that_succeeds_or_fails_passes() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connector = ConnectTimeoutLayer::new(secs(5)).layer(HttpConnector::new());
    let uri: Uri = format!("http://{addr}/").parse().unwrap();
    assert!(connector.clone().oneshot(uri.clone()).await.is_ok());

    drop(listener);
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let refused: BoxError = client.request(Request::get(uri).body(Empty::new()).unwrap()).await.unwrap_err().into();
    let cause = error::find::<std::io::Error>(&refused).unwrap();
    assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_there_beats_the_timer() {
    let connector = ConnectTimeoutLayer::new(secs(5)).layer(service_fn(|(): ()| async {
        tokio::time::sleep(secs(5)).await;
        Ok::<_, BoxError>("connected")
    }));
    assert_eq!(connector.oneshot(()).await.unwrap(), "connected");
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_is_given_up_is_dropped_at_once() {
    let connecting = Script::new([]);
    let dropped = connecting.dropped();
    let mut connecting = Some(connecting);
    let mut connector = ConnectTimeoutLayer::new(secs(5)).layer(service_fn(move |(): ()| {
        let connecting = connecting.take();
        async move {
            let _connecting = connecting;
            std::future::pending::<Result<(), BoxError>>().await
        }
    }));
    let mut connect = std::pin::pin!(connector.call(()));
    assert!(connect.as_mut().await.is_err());
    assert!(dropped());
}

#[tokio::test(start_paused = true)]
async fn disabled_waits_for_ever() {
    let connector = ConnectTimeoutLayer::disabled().layer(service_fn(|(): ()| async {
        tokio::time::sleep(secs(3600)).await;
        Ok::<_, BoxError>("connected")
    }));
    assert_eq!(connector.oneshot(()).await.unwrap(), "connected");
}
