//! Limits concurrent calls to two. A caller with many calls does not delay other callers.
//!
//! ```sh
//! cargo run --example queue
//! ```

use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{QueueLayer, Rejection, RejectionKind, Tenant};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let answer = || async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        "done"
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, Router::new().route("/", get(answer))).into_future());

    let queue = QueueLayer::new(2).max_waiting(10);
    let service = queue.layer(Client::builder(TokioExecutor::new()).build_http());
    let call = move |tenant: &'static str| {
        let (service, request) = (service.clone(), Request::get(&url).extension(Tenant::new(tenant)));
        async move {
            let response = service.oneshot(request.body(Empty::<Bytes>::new())?).await?;
            let (status, rejection) = (response.status(), Rejection::of(&response).map(Rejection::kind));
            response.into_body().collect().await?;
            Ok::<_, BoxError>((status, rejection))
        }
    };

    let start = Instant::now();
    let mut busy = JoinSet::new();
    for _ in 0..13 {
        busy.spawn(call("busy"));
    }
    tokio::task::yield_now().await;
    println!("{:?}", queue.stats());
    assert_eq!(call("quiet").await?.0, StatusCode::OK);
    println!("the quiet tenant was served after {:?}", start.elapsed());

    let answers = busy.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let refused = answers.iter().filter(|(_, rejection)| *rejection == Some(RejectionKind::QueueFull)).count();
    println!(
        "of {} calls of the busy one {refused} found the line full; all took {:?}",
        answers.len(),
        start.elapsed()
    );
    assert_eq!(refused, 2);
    Ok(())
}
