//! What reqwest's errors mean, over real sockets.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tower_buttress::ConnectTimeoutLayer;
use tower_buttress::verdict::{Classify, Health, NextStep, Outcome, Standard, Verdict};

const BROKEN: Verdict = Verdict::new(NextStep::retry(None), Health::Failure);

fn judge(err: &reqwest::Error) -> Verdict {
    Standard::new().classify(&Outcome::failure(err))
}

async fn closed_port() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap())
}

#[tokio::test]
async fn reqwest_is_seen_through() {
    assert_eq!(judge(&reqwest::get(closed_port().await).await.unwrap_err()), BROKEN.not_executed());

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut socket = listener.accept().await.unwrap().0;
        socket.read_exact(&mut [0; 8]).await.unwrap();
    });
    assert_eq!(judge(&reqwest::get(url).await.unwrap_err()), BROKEN);

    let client = reqwest::Client::builder().connector_layer(ConnectTimeoutLayer::new(Duration::ZERO)).build().unwrap();
    let verdict = judge(&client.get(closed_port().await).send().await.unwrap_err());
    assert!(
        verdict.not_executed && matches!(verdict.next, NextStep::Retry { .. } | NextStep::TryAnother),
        "{verdict:?}"
    );
}
